package caddymodule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
)

// customize applies paths and before to a profile: it returns the profile with the
// timings and further routes that they ask for, and the options of single routes.
func (h *Handler) customize(p *profile.Profile) (*profile.Profile, map[string]recorder.RouteOptions, error) {
	if len(h.Paths) == 0 && len(h.Before) == 0 {
		return p, nil, nil
	}
	add, err := h.ownRoutes(p)
	if err != nil {
		return nil, nil, err
	}
	p, err = p.Customize(h.changeRoute, add...)
	if err != nil {
		return nil, nil, err
	}
	options := make(map[string]recorder.RouteOptions)
	for _, r := range p.Routes {
		for i := range h.Paths {
			if o := &h.Paths[i]; profile.MatchPattern(o.Path, r.Path) {
				options[r.Path] = o.options(capture(recorder.Capture{IPAddress: true, UserAgent: true}, h.Capture))
				break // the first that fits
			}
		}
	}
	return p, options, nil
}

// checkPaths looks for options that would never count.
func (h *Handler) checkPaths() error {
	for i := range h.Paths {
		for j := range h.Paths[:i] {
			if before, path := h.Paths[j].Path, h.Paths[i].Path; profile.MatchPattern(before, path) {
				return fmt.Errorf("path %s would never count, because path %s before it takes it, too: give the options in one block, or the narrower path first", path, before)
			}
		}
	}
	return nil
}

// changeRoute gives a route its timing, and records a read that is asked for by
// name.
func (h *Handler) changeRoute(r *profile.Route) {
	if len(h.Before) > 0 {
		r.Timing = profile.After
		if h.before(r.Path) {
			r.Timing = profile.Before
		}
	}
	if slices.ContainsFunc(h.Paths, func(o PathOptions) bool { return o.Path == r.Path }) {
		r.Record = profile.Always
	}
}

func (h *Handler) before(path string) bool {
	return slices.ContainsFunc(h.Before, func(pattern string) bool { return profile.MatchPattern(pattern, path) })
}

// ownRoutes are the paths that are named here and that the profile does not know.
func (h *Handler) ownRoutes(p *profile.Profile) ([]*profile.Route, error) {
	var named []string
	for i := range h.Paths {
		named = append(named, h.Paths[i].Path)
	}
	for _, path := range h.Before {
		if path != "off" {
			named = append(named, path)
		}
	}
	var add []*profile.Route
	for i, path := range named {
		known := slices.ContainsFunc(p.Routes, func(r *profile.Route) bool { return profile.MatchPattern(path, r.Path) })
		switch {
		case !strings.HasPrefix(path, "/"):
			return nil, fmt.Errorf("bad path %q: it starts with / and lies under the base path, such as /sign-in/email", path)
		case known, slices.Contains(named[:i], path):
		case strings.HasSuffix(path, "*"):
			return nil, fmt.Errorf("no route of profile %s starts with %q", p.Name, strings.TrimSuffix(path, "*"))
		default:
			r := &profile.Route{Path: path, Class: "custom", Anonymous: true}
			if h.before(path) {
				r.Timing = profile.Before
			}
			add = append(add, r)
		}
	}
	return add, nil
}

// check understands the options that are words.
func (o *PathOptions) check() error {
	if o.Severity != "" {
		if _, err := severity.Parse(o.Severity); err != nil {
			return err
		}
	}
	if o.Fail != "" && o.Fail != "open" && o.Fail != "closed" {
		return fmt.Errorf("bad fail %q: use open or closed", o.Fail)
	}
	return nil
}

// options are what the recorder needs; check has passed.
func (o *PathOptions) options(all recorder.Capture) recorder.RouteOptions {
	var out recorder.RouteOptions
	if level, err := severity.Parse(o.Severity); err == nil {
		out.Severity = &level
	}
	if o.Capture != nil {
		c := capture(all, o.Capture)
		out.Capture = &c
	}
	switch o.Fail {
	case "open":
		out.Fail = recorder.FailOpen
	case "closed":
		out.Fail = recorder.FailClosed
	}
	return out
}
