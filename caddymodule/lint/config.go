package lint

import (
	"encoding/json"
	"net"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// config is what the rules look at of Caddy's configuration.
type config struct {
	Logging struct {
		Logs map[string]*logger `json:"logs"`
	} `json:"logging"`
	Apps struct {
		HTTP struct {
			Servers map[string]*server `json:"servers"`
		} `json:"http"`
	} `json:"apps"`
}

type server struct {
	Listen []string `json:"listen"`
	Routes []route  `json:"routes"`
	Errors struct {
		Routes []route `json:"routes"`
	} `json:"errors"`
	NamedRoutes    map[string]*route `json:"named_routes"`
	TrustedProxies json.RawMessage   `json:"trusted_proxies"`
	Strict         int               `json:"trusted_proxies_strict"`
	ClientHeaders  []string          `json:"client_ip_headers"`
	Logs           *serverLogs       `json:"logs"`
}

type serverLogs struct {
	DefaultLoggerName    string          `json:"default_logger_name"`
	LoggerNames          map[string]list `json:"logger_names"`
	SkipHosts            []string        `json:"skip_hosts"`
	SkipUnmappedHosts    bool            `json:"skip_unmapped_hosts"`
	ShouldLogCredentials bool            `json:"should_log_credentials"`
}

// list is a list of texts, or one text.
type list []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *list) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = make(list, 1)
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

type route struct {
	Group    string                       `json:"group"`
	Match    []map[string]json.RawMessage `json:"match"`
	Handle   []json.RawMessage            `json:"handle"`
	Terminal bool                         `json:"terminal"`
}

// conditional says whether some requests pass the route by.
func (r *route) conditional() bool {
	return len(r.Match) > 0 && !slices.ContainsFunc(r.Match, matchesAll)
}

// matchesAll says whether a set of matchers lets every request through.
func matchesAll(set map[string]json.RawMessage) bool {
	for name, raw := range set {
		if name != "path" || dependsOnPath(name, raw) {
			return false
		}
	}
	return true
}

// condition is the route's matchers as one text, to compare them.
func (r *route) condition() string {
	b, err := json.Marshal(r.Match)
	if err != nil || !r.conditional() {
		return "" // an error cannot happen: it is JSON
	}
	return string(b)
}

// scope is the path matcher of a route, as people would write it; "" if it has none.
func (r *route) scope() string {
	if !r.conditional() {
		return ""
	}
	for _, set := range r.Match {
		for name, raw := range set {
			if dependsOnPath(name, raw) {
				return strings.Trim(string(raw), `[]"{}`)
			}
		}
	}
	return ""
}

// dependsOnPath says whether a matcher looks at the path: by itself, or in an expression.
func dependsOnPath(name string, raw json.RawMessage) bool {
	switch name {
	case "path":
		var patterns []string
		_ = json.Unmarshal(raw, &patterns) // none: it matches nothing
		return !slices.Contains(patterns, "*") && !slices.Contains(patterns, "/*")
	case "path_regexp", "file":
		return true
	}
	text := string(raw)
	return strings.Contains(text, `"path"`) || strings.Contains(text, `"path_regexp"`) || strings.Contains(text, "path(") ||
		strings.Contains(text, "path_regexp(") || strings.Contains(text, "{path}") || strings.Contains(text, "http.request.uri") || strings.Contains(text, "http.request.orig_uri")
}

// hosts are those that a route is for; nil for all.
func (r *route) hosts() []string {
	var all []string
	for _, set := range r.Match {
		var hosts []string
		if raw, ok := set["host"]; !ok || json.Unmarshal(raw, &hosts) != nil {
			return nil
		}
		all = append(all, hosts...)
	}
	return all
}

// handler is what the rules look at of a handler, whatever its module.
type handler struct {
	Handler string `json:"handler"`
	// Position is where a Caddyfile has it, if this adaptation was for us.
	Position string `json:"@position"`

	// Of subroute, invoke and reverse_proxy.
	Routes []route `json:"routes"`
	Errors struct {
		Routes []route `json:"routes"`
	} `json:"errors"`
	Name             string          `json:"name"`
	Upstreams        []upstream      `json:"upstreams"`
	DynamicUpstreams json.RawMessage `json:"dynamic_upstreams"`
	Rewrite          *struct {
		URI string `json:"uri"`
	} `json:"rewrite"`
	HandleResponse []struct {
		Routes []route `json:"routes"`
	} `json:"handle_response"`

	// Of audit_log.
	Enabled    *bool    `json:"enabled"`
	Profile    string   `json:"profile"`
	Durability string   `json:"durability"`
	Before     []string `json:"before"`
	Paths      []struct {
		Path string `json:"path"`
		Fail string `json:"fail"`
	} `json:"paths"`
	Admins *struct {
		Roles []string `json:"roles"`
		IDs   []string `json:"ids"`
	} `json:"admins"`
}

type upstream struct {
	Dial string `json:"dial"`
}

// fixed says whether a proxy asks a path of its own, as forward_auth does: then clients
// cannot reach another one through it.
func (h *handler) fixed() bool {
	return h.Rewrite != nil && h.Rewrite.URI != "" && !strings.Contains(h.Rewrite.URI, "{")
}

// dials are the proxy's upstreams in a form to compare.
func (h *handler) dials() []string {
	var all []string
	for _, u := range h.Upstreams {
		all = append(all, normalDial(u.Dial))
	}
	if len(h.DynamicUpstreams) > 0 {
		all = append(all, string(h.DynamicUpstreams))
	}
	return all
}

// normalDial writes all names of this machine alike.
func normalDial(dial string) string {
	a, err := caddy.ParseNetworkAddress(dial)
	if err != nil || a.IsUnixNetwork() {
		return dial
	}
	a.Host = strings.ToLower(a.Host)
	if ip := net.ParseIP(a.Host); a.Host == "" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		a.Host = "localhost"
	}
	return a.String()
}
