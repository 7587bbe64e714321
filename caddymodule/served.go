package caddymodule

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// checkServed refuses a configuration whose file_server has one of the audit log's
// files below its root: anybody could fetch it and, by closing SQLite's file in this
// process, each request would drop the locks on it (threats.md D15, X13). Roots that
// depend on the request are not known, and not looked at.
func (a *App) checkServed() error {
	running := a.http()
	if running == nil {
		return nil
	}
	var found served
	for _, s := range running.Servers {
		found.walk(s.Routes)
		if s.Errors != nil {
			found.walk(s.Errors.Routes)
		}
		for _, r := range s.NamedRoutes {
			found.walk(caddyhttp.RouteList{*r})
		}
	}
	for _, root := range found.all() {
		for _, file := range a.files {
			if below(file, root) {
				return fmt.Errorf("file_server serves %s, and %s of the audit log is in it: keep it outside of what is served", root, file)
			}
		}
	}
	return nil
}

// served are the folders that a configuration serves.
type served struct {
	// roots of file servers, and those that root sets, which count if a file server
	// takes its root from there.
	roots, set []string
	takesSet   bool
}

func (s *served) walk(routes caddyhttp.RouteList) {
	for i := range routes {
		for _, h := range routes[i].Handlers {
			s.handler(h)
		}
	}
}

func (s *served) handler(h caddyhttp.MiddlewareHandler) {
	switch h := h.(type) {
	case *fileserver.FileServer:
		s.fileServer(h)
	case caddyhttp.VarsMiddleware:
		s.vars(h)
	case *caddyhttp.VarsMiddleware:
		s.vars(*h)
	case *caddyhttp.Subroute:
		s.walk(h.Routes)
		if h.Errors != nil {
			s.walk(h.Errors.Routes)
		}
	case *reverseproxy.Handler:
		s.responses(h.HandleResponse)
	case *intercept.Intercept:
		s.responses(h.HandleResponse)
	}
}

func (s *served) responses(list []caddyhttp.ResponseHandler) {
	for i := range list {
		s.walk(list[i].Routes)
	}
}

// What Caddy gives file servers without options of their own.
const (
	rootVariable = "{http.vars.root}"
	fsVariable   = "{http.vars.fs}"
)

func (s *served) fileServer(h *fileserver.FileServer) {
	switch {
	case h.FileSystem != "" && h.FileSystem != fsVariable && h.FileSystem != "default":
	case h.Root == "" || h.Root == rootVariable:
		s.takesSet = true
	default:
		s.roots = append(s.roots, h.Root)
	}
}

func (s *served) vars(h caddyhttp.VarsMiddleware) {
	if root, ok := h["root"].(string); ok {
		s.set = append(s.set, root)
	}
}

// all returns the folders, in order, without those that only a request makes known.
// Without a root Caddy serves its working directory.
func (s *served) all() []string {
	roots := s.roots
	if s.takesSet {
		roots = append(slices.Clip(roots), s.set...)
		if len(s.set) == 0 {
			roots = append(roots, ".")
		}
	}
	var known []string
	for _, root := range roots {
		root, err := caddy.NewReplacer().ReplaceOrErr(root, true, true)
		if err != nil {
			continue
		}
		if root, err = filepath.Abs(root); err == nil {
			known = append(known, root)
		}
	}
	slices.Sort(known)
	return slices.Compact(known)
}

// below says whether a file is in a folder, links resolved where there are any.
func below(file, folder string) bool {
	rel, err := filepath.Rel(resolved(folder), resolved(file))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// resolved resolves the links of the part of a path that exists.
func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(resolved(parent), filepath.Base(path))
}
