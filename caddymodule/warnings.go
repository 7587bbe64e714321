package caddymodule

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule/lint"
)

// warn logs what `caddy audit-log lint` would say of the http app that runs. Caddy keeps
// no JSON of an app that is provisioned, so its routes are read from the modules; its logs
// cannot be.
// A module that cannot be described costs the warnings, never the start.
func (a *App) warn(ctx caddy.Context) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Debug("the configuration cannot be looked through for mistakes", "panic", p)
		}
	}()
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	running, ok := app.(*caddyhttp.App)
	if !ok {
		return
	}
	config, err := describe(running)
	if err != nil {
		a.log.Debug("the configuration cannot be looked through for mistakes", "error", err)
		return
	}
	findings, err := lint.Check(config, lint.Options{Profile: loadProfile, NoLogs: true})
	if err != nil {
		a.log.Debug("the configuration cannot be looked through for mistakes", "error", err)
	}
	for _, f := range findings {
		a.log.Warn(f.Text, "rule", f.Rule, "severity", f.Severity, "at", f.Path, "remedy", f.Remedy)
	}
}

// object is a JSON object.
type object = map[string]any

func describeServers(app *caddyhttp.App) object {
	servers := make(object)
	for name, s := range app.Servers {
		o := object{
			"listen": s.Listen, "routes": describeRoutes(s.Routes), "client_ip_headers": s.ClientIPHeaders,
			"trusted_proxies_strict": s.TrustedProxiesStrict,
		}
		if slices.Equal(s.ClientIPHeaders, []string{"X-Forwarded-For"}) {
			delete(o, "client_ip_headers") // Caddy's default
		}
		if s.Errors != nil {
			o["errors"] = object{"routes": describeRoutes(s.Errors.Routes)}
		}
		named := make(object)
		for name, r := range s.NamedRoutes {
			named[name] = describeRoute(r)
		}
		o["named_routes"] = named
		if ranges := trustedRanges(s); len(ranges) > 0 {
			o["trusted_proxies"] = object{"source": "static", "ranges": ranges}
		}
		servers[name] = o
	}
	return servers
}

func describeRoutes(routes caddyhttp.RouteList) []object {
	out := []object{}
	for i := range routes {
		out = append(out, describeRoute(&routes[i]))
	}
	return out
}

func describeRoute(r *caddyhttp.Route) object {
	var match []object
	for _, set := range r.MatcherSets {
		match = append(match, describeMatchers(set))
	}
	handlers := []object{}
	for _, h := range r.Handlers {
		handlers = append(handlers, describeHandler(h))
	}
	return object{"group": r.Group, "match": match, "handle": handlers, "terminal": r.Terminal}
}

func describeMatchers(set caddyhttp.MatcherSet) object {
	o := make(object)
	for _, m := range set {
		name := moduleName(m)
		if not, ok := m.(*caddyhttp.MatchNot); ok {
			o[name] = describeNot(not)
			continue
		}
		o[name] = m
	}
	return o
}

func describeNot(not *caddyhttp.MatchNot) []object {
	var sets []object
	for _, set := range not.MatcherSets {
		sets = append(sets, describeMatchers(set))
	}
	return sets
}

// describeHandler says of a handler what lint looks at.
func describeHandler(h caddyhttp.MiddlewareHandler) object {
	name := object{"handler": moduleName(h)}
	switch h := h.(type) {
	case *Handler:
		return merge(name, object{"enabled": h.Enabled, "profile": h.Profile, "durability": h.Durability, "before": h.Before, "paths": h.Paths, "admins": h.Admins})
	case *caddyhttp.Subroute:
		o := object{"routes": describeRoutes(h.Routes)}
		if h.Errors != nil {
			o["errors"] = object{"routes": describeRoutes(h.Errors.Routes)}
		}
		return merge(name, o)
	case *caddyhttp.Invoke:
		return merge(name, object{"name": h.Name})
	case *reverseproxy.Handler:
		return merge(name, describeProxy(h))
	case *intercept.Intercept:
		return merge(name, object{"handle_response": describeResponses(h.HandleResponse)})
	}
	return name
}

func describeProxy(h *reverseproxy.Handler) object {
	dials := []object{}
	for _, u := range h.Upstreams {
		dials = append(dials, object{"dial": u.Dial})
	}
	o := object{"upstreams": dials, "handle_response": describeResponses(h.HandleResponse)}
	if h.Rewrite != nil {
		o["rewrite"] = object{"uri": h.Rewrite.URI}
	}
	if h.DynamicUpstreams != nil {
		o["dynamic_upstreams"] = h.DynamicUpstreams
	}
	return o
}

func describeResponses(list []caddyhttp.ResponseHandler) []object {
	out := []object{}
	for i := range list {
		out = append(out, object{"routes": describeRoutes(list[i].Routes)})
	}
	return out
}

func merge(into, from object) object {
	for k, v := range from {
		into[k] = v
	}
	return into
}

func moduleName(m any) string {
	if module, ok := m.(caddy.Module); ok {
		return module.CaddyModule().ID.Name()
	}
	return ""
}

// trustedPeers are peers that a server may trust, each with the range that it stands for.
var trustedPeers = []struct{ peer, means string }{
	{"203.0.113.9", "0.0.0.0/0"}, {"[2001:db8::9]", "::/0"}, {"10.1.2.3", "10.0.0.0/8"}, {"172.16.1.2", "172.16.0.0/12"},
	{"192.168.1.2", "192.168.0.0/16"}, {"127.0.0.1", "127.0.0.1/8"},
}

// trustedRanges asks a server which peers it believes, because the list itself is not
// to be had. Documentation addresses (RFC 5737, RFC 3849) stand for everybody. A list of
// single public addresses looks as if there was none.
func trustedRanges(s *caddyhttp.Server) []string {
	var ranges []string
	for _, p := range trustedPeers {
		r := &http.Request{Method: http.MethodGet, RemoteAddr: p.peer + ":1", Header: http.Header{}, URL: new(url.URL)}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, s)
		if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
			ranges = append(ranges, p.means)
		}
	}
	return ranges
}
