package lint

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxDepth bounds how deep routes are nested, and maxSteps how many lists of handlers
	// are looked at: named routes may invoke each other.
	maxDepth = 50
	maxSteps = 10000
)

// auditor is one audit_log handler.
type auditor struct {
	handler
	path   string
	server *server
	hosts  []string // nil for all
	scope  string   // the path matcher before it
	// again is true when every request has passed another one, late when a proxy has
	// answered before.
	again, late bool
	// open is true when its upstream can be reached past it.
	open bool
}

// proxy is one reverse_proxy handler.
type proxy struct {
	handler
	path string
	// audited is true when every request has passed audit_log, behind are those that
	// some have passed.
	audited bool
	behind  []*auditor
}

// state is what a request may have passed.
type state struct {
	audited  bool
	answered bool // by a proxy
	// under are the conditions under which a request is audited.
	under  map[string]bool
	behind []*auditor
	// scope and hosts of the routes around.
	scope   string
	hosts   []string
	depth   int
	invoked []string // named routes that it is in
}

func (s state) clone() state {
	s.under, s.behind = maps.Clone(s.under), slices.Clone(s.behind)
	return s
}

// walkServers finds the handlers and proxies, and what requests have passed before.
func (l *linter) walkServers() {
	servers := l.config.Apps.HTTP.Servers
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		w := &walker{linter: l, server: servers[name], path: "apps/http/servers/" + name}
		if w.server == nil {
			continue
		}
		w.routes(w.server.Routes, w.path+"/routes", state{})
		w.routes(w.server.Errors.Routes, w.path+"/errors/routes", state{})
	}
}

// walker goes through the routes of one server.
type walker struct {
	*linter
	server *server
	path   string
	steps  int
}

// routes follows a request through a list, and returns what it has passed after it.
func (w *walker) routes(list []route, path string, s state) state {
	s = s.clone()
	s.depth++
	for i := range list {
		s = w.route(&list[i], path+"/"+strconv.Itoa(i), s)
	}
	s.depth--
	return s
}

func (w *walker) route(r *route, path string, s state) state {
	in, condition := s.clone(), r.condition()
	in.audited = in.audited || s.under[condition]
	if scope := r.scope(); scope != "" {
		in.scope = scope
	}
	if hosts := r.hosts(); hosts != nil {
		in.hosts = hosts
	}
	return s.after(r, condition, w.handlers(r.Handle, path+"/handle", in))
}

// after is the state behind a route whose handlers have left out. Of a route that ends
// the chain, or is one of a group, later ones get no request that has passed it.
func (s state) after(r *route, condition string, out state) state {
	switch {
	case r.Terminal && r.conditional(), r.Group != "":
		return s
	case condition == "":
		s.audited, s.answered, s.under, s.behind = out.audited, out.answered, out.under, out.behind
		return s
	}
	if out.audited && !s.audited {
		if s.under == nil {
			s.under = make(map[string]bool)
		}
		s.under[condition] = true
	}
	s.behind = out.behind
	return s
}

func (w *walker) handlers(list []json.RawMessage, path string, s state) state {
	if w.steps++; s.depth > maxDepth || w.steps > maxSteps {
		return s
	}
	for i, raw := range list {
		var h handler
		if json.Unmarshal(raw, &h) == nil { // other modules may use the same names otherwise
			s = w.handle(h, path+"/"+strconv.Itoa(i), s)
		}
	}
	return s
}

func (w *walker) handle(h handler, path string, s state) state {
	switch h.Handler {
	case "audit_log":
		return w.audit(h, path, s)
	case "subroute":
		out := w.routes(h.Routes, path+"/routes", s)
		w.routes(h.Errors.Routes, path+"/errors/routes", out)
		return out
	case "invoke":
		if named := w.server.NamedRoutes[h.Name]; named != nil && !slices.Contains(s.invoked, h.Name) {
			before := s.invoked
			s.invoked = append(slices.Clone(before), h.Name)
			s = w.route(named, w.path+"/named_routes/"+h.Name, s)
			s.invoked = before
		}
	case "reverse_proxy":
		w.proxies = append(w.proxies, &proxy{handler: h, path: path, audited: s.audited, behind: s.behind})
		for i := range h.HandleResponse {
			w.routes(h.HandleResponse[i].Routes, path+"/handle_response/"+strconv.Itoa(i)+"/routes", s)
		}
		s.answered = s.answered || len(h.HandleResponse) == 0
	}
	return s
}

func (w *walker) audit(h handler, path string, s state) state {
	if h.Enabled != nil && !*h.Enabled {
		return s
	}
	a := &auditor{handler: h, path: path, server: w.server, hosts: s.hosts, scope: s.scope, again: s.audited, late: s.answered}
	w.linter.handlers = append(w.linter.handlers, a)
	s.audited, s.behind = true, append(slices.Clone(s.behind), a)
	return s
}

// checkRoutes reports ways past the handlers.
func (l *linter) checkRoutes() {
	audited := make(map[string]bool)
	for _, p := range l.proxies {
		for _, dial := range p.dials() {
			audited[dial] = audited[dial] || p.audited || len(p.behind) > 0
		}
	}
	open := make(map[string]bool)
	for _, p := range l.proxies {
		if !p.audited && !p.fixed() {
			l.checkProxy(p, audited, open)
		}
	}
	l.checkScopes(open)
}

// checkProxy reports a proxy that a request reaches past audit_log, unless its handler is
// reported for that.
func (l *linter) checkProxy(p *proxy, audited, open map[string]bool) {
	var dials []string
	for i, dial := range p.dials() {
		open[dial] = true
		if audited[dial] {
			dials = append(dials, p.dialText(i))
		}
	}
	scoped := slices.ContainsFunc(p.behind, func(a *auditor) bool { return a.scope != "" })
	if len(dials) == 0 || scoped || slices.ContainsFunc(p.behind, func(a *auditor) bool { return a.late }) {
		return
	}
	text := fmt.Sprintf("this reverse_proxy reaches %s, which another route audits, without passing audit_log", strings.Join(dials, ", "))
	if len(p.behind) > 0 {
		text = fmt.Sprintf("requests that the matcher of audit_log leaves out reach %s all the same", strings.Join(dials, ", "))
	}
	l.add(Finding{
		Rule: UnauditedRoute, Severity: High, Path: p.path, where: where{proxy: p.path}, Text: text,
		Remedy: "put audit_log, without a matcher, in front of this reverse_proxy too, or remove this route",
	})
}

// dialText is an upstream as the configuration has it.
func (p *proxy) dialText(i int) string {
	if i < len(p.Upstreams) {
		return p.Upstreams[i].Dial
	}
	return "its dynamic upstreams"
}

func (l *linter) checkScopes(open map[string]bool) {
	for _, p := range l.proxies {
		for _, a := range p.behind {
			if slices.ContainsFunc(p.dials(), func(dial string) bool { return open[dial] }) {
				a.open = true
			}
		}
	}
	for _, a := range l.handlers {
		if a.scope == "" {
			continue
		}
		f := Finding{
			Rule: ScopedHandler, Severity: Medium, Path: a.path, where: where{handler: a.Position},
			Text:   fmt.Sprintf("audit_log stands behind the path matcher %s. Caddy and an auth server do not read every path alike: the log is complete only as long as no other route reaches the auth server", a.scope),
			Remedy: "put audit_log in front of the whole site: no matcher, and outside of handle, handle_path and route blocks that have one. It decides by itself what is an event",
		}
		if a.open {
			f.Severity = High
			f.Text = fmt.Sprintf("audit_log stands behind the path matcher %s, and the auth server can be reached past it: a path such as %s is signed out by Better Auth, and not recorded", a.scope, bypass(a.scope))
		}
		l.add(f)
	}
}

// bypass is a spelling that the matcher does not see as what the server executes
// (threats.md X2).
func bypass(scope string) string {
	base := strings.TrimRight(strings.TrimSuffix(scope, "*"), "/")
	if !strings.HasPrefix(base, "/") || strings.ContainsAny(base, `*,"`) {
		base = "/api/auth"
	}
	return base + "//../sign-out"
}
