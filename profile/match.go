package profile

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell"
)

// Match is what a request is, as far as its method and path tell.
type Match struct {
	// Route that applies; for a path that no route names, a stand-in with
	// Known() false.
	Route *Route
	// Path under the base path, in the reading that was matched; it may contain
	// secrets.
	Path string
	// Ambiguous is true when different servers would read the path differently;
	// Route is then the most severe of the readings (threats.md A0).
	Ambiguous bool
	// Beyond is true when only versions of the server take the path at all; see
	// Profile.BaseAnywhere. What others answer there says nothing of the route.
	Beyond bool
	// Method is true when the route was written for the request's method.
	Method bool
	// Doubtful is true when nobody knows which of several routes it is, because servers
	// may read the request's query or body in more than one way; Route is then the one
	// by which least would be missed.
	Doubtful bool
}

// Match names the route of a request, or says with false that no reading of its
// path lies under the base path. It does not allocate for ordinary paths.
func (p *Profile) Match(method string, u *url.URL) (Match, bool) {
	m, mine := p.match(method, u)
	if len(p.anywhere) == 0 || u.RawQuery == "" || mine && m.Route.known && m.Method && m.Route.Record == Always {
		return m, mine
	}
	for _, r := range p.anywhere {
		if r.takes(method) && r.maybeAsked(u.RawQuery) && r.mayHold(u.Path, u.RawQuery) != no {
			return Match{Route: r, Path: u.Path, Method: true, Ambiguous: m.Ambiguous}, true
		}
	}
	return m, mine
}

// maybeAsked says whether a query may have what the conditions of a route of any path ask for: a
// quick look, for the queries of the whole site.
func (r *Route) maybeAsked(query string) bool {
	if strings.IndexByte(query, '%') >= 0 {
		return true // a name may be escaped
	}
	for i := range r.when {
		if c := &r.when[i]; c.values[0] != "" && !strings.Contains(query, c.source.places[0].name) {
			return false
		}
	}
	return true
}

func (p *Profile) match(method string, u *url.URL) (Match, bool) {
	if u.RawPath != "" || u.Opaque != "" {
		return p.matchAll(method, u)
	}
	if pathspell.Plain(u.Path) {
		rest, ok := p.under(u.Path)
		if !ok {
			return p.beyond(method, u.Path, u.RawQuery)
		}
		return p.mine(p.routeOrStem(method, rest, u.RawQuery))
	}
	if ordinary(u.Path) && !hasPrefixFold(u.Path, p.basePath) {
		return p.beyond(method, u.Path, u.RawQuery)
	}
	return p.matchAll(method, u)
}

// mine says whether a request is to be looked at: one that no route names is not
// where the profile ignores those.
func (p *Profile) mine(m Match) (Match, bool) {
	if !m.Route.known && p.Unknown == "ignore" {
		return Match{}, false
	}
	return m, true
}

// ordinary says that letters in upper case and a trailing slash are all that a
// path may have besides what pathspell.Plain allows: then its readings differ in
// case only, and a path outside the base path is decided without a closer look.
func ordinary(path string) bool {
	for i := range len(path) {
		c := path[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.':
			if i == 0 || path[i-1] == '/' {
				return false
			}
		case c == '/':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		default:
			return false
		}
	}
	return path != ""
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// matchAll looks at every plausible spelling and keeps the most severe.
func (p *Profile) matchAll(method string, u *url.URL) (Match, bool) {
	candidates := pathspell.Of(u)
	if rest, ok := p.under(candidates.At(0)); ok && p.Router == "whatwg" {
		if m := p.routeOrStem(method, rest, u.RawQuery); m.Route.known && m.Method {
			m.Ambiguous = candidates.Ambiguous()
			return m, true
		}
	}
	var best Match
	var highest rank
	for i := range candidates.Len() {
		rest, ok := p.under(candidates.At(i))
		if !ok {
			continue
		}
		m := p.routeOrStem(method, rest, u.RawQuery)
		if r := p.rank(&m); best.Route == nil || r.compare(highest) > 0 {
			best, highest = m, r
		}
	}
	if best.Route == nil {
		for i := range candidates.Len() {
			if m, ok := p.beyond(method, candidates.At(i), u.RawQuery); ok {
				return m, true
			}
		}
		return Match{}, false
	}
	best.Ambiguous = candidates.Ambiguous()
	return p.mine(best)
}

// rank orders readings. Of equal ones the first counts, which is the path as it came.
type rank struct {
	// missed is how much would be, if it were the true one.
	missed int
	// whole is 1 if the route names the whole path: one that takes whatever begins so takes
	// other spellings of what has a route of its own, too.
	whole int
	// held is how many conditions on the path and the query hold: a name in another case is no
	// name of its own for servers that fold it.
	held int
}

func (r rank) compare(other rank) int {
	return cmp.Or(cmp.Compare(r.missed, other.missed), cmp.Compare(r.whole, other.whole), cmp.Compare(r.held, other.held))
}

func (p *Profile) rank(m *Match) rank {
	r := rank{missed: p.missed(m)}
	if !m.Route.known {
		return r
	}
	if !m.Route.rest {
		r.whole = 1
	}
	for i := range m.Route.when {
		if !m.Route.when[i].late {
			r.held++
		}
	}
	return r
}

// missed is rank.missed. What no route names is recorded too, if the method may change
// something, unless the profile ignores it: more than a known read is, and much more than
// what a profile never records.
func (p *Profile) missed(m *Match) int {
	switch known := m.Route.known; {
	case !known && p.Unknown == "ignore":
		return -1
	case known && m.Route.Timing == Before && m.Method:
		return 7
	case known && m.Route.Record == Always && m.Method:
		return 6
	case known && m.Route.Record == Always:
		return 5
	case m.Route.Record == Always:
		return 4
	case m.Route.Record == Checks:
		return 3
	case known && m.Route.Record == Failures:
		return 2
	case m.Route.Record == Failures:
		return 1
	}
	return 0
}

// under returns what follows the base path. The base path ends at a segment
// boundary: /api/authX is not under /api/auth.
func (p *Profile) under(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, p.basePath)
	if !ok {
		if rest, ok = strings.CutPrefix(path, p.foldedBase); !ok {
			return "", false
		}
	}
	if rest == "" {
		return "/", true
	}
	return rest, rest[0] == '/'
}

// routeOrStem finds the route of a path, or that of the path without a suffix that the server
// takes off.
func (p *Profile) routeOrStem(method, path, query string) Match {
	m := p.route(method, path, query)
	if m.Route.known && m.Method && !m.Route.rest {
		return m
	}
	for _, suffix := range p.Suffixes {
		if stem, ok := strings.CutSuffix(path, suffix); ok && stem != "" {
			if s := p.route(method, stem, query); s.Route.known && s.Method {
				return s
			}
		}
	}
	return m
}

// beyond finds the route that a path outside the base path has: one that is meant for there, or
// that of a server that looks for its base path anywhere.
func (p *Profile) beyond(method, path, query string) (Match, bool) {
	if len(p.outer.static) > 0 {
		if m := p.outer.find(p, method, path, query); m.Route != nil {
			return m, true
		}
	}
	if !p.BaseAnywhere || p.basePath == "" {
		return Match{}, false
	}
	at := strings.Index(path, p.basePath)
	if at < 0 {
		return Match{}, false
	}
	_, rest, more := strings.Cut(path[at+len(p.basePath):], "/")
	if !more {
		return Match{}, false
	}
	m := p.route(method, "/"+rest, query)
	m.Ambiguous, m.Beyond = true, true
	return m, m.Route.known && m.Method
}

// route finds the route of a path under the base path.
func (p *Profile) route(method, path, query string) Match {
	if m := p.table.find(p, method, path, query); m.Route != nil {
		return m
	}
	if p.words != nil {
		if m, ok := p.byWords(method, path, query); ok {
			return m
		}
	}
	if IsSafe(method) {
		return Match{Route: p.reads, Path: path}
	}
	return Match{Route: p.unknown, Path: path}
}

// find finds the route of a path, by preference one of the method; none if no path fits.
func (t *table) find(p *Profile, method, path, query string) Match {
	var other Match // a path that fits, of another method
	routes := t.static[path]
	if routes == nil && len(path) > 1 && path[len(path)-1] == '/' {
		routes = t.static[path[:len(path)-1]]
	}
	if routes != nil && routes[0].segs == nil {
		if other = p.choose(method, path, query, routes); other.Method {
			return other
		}
	}
	for _, r := range t.params {
		if r.fits(path) {
			m := p.choose(method, path, query, t.static[r.Path])
			if m.Method {
				return m
			}
			if other.Route == nil {
				other = m
			}
		}
	}
	return other
}

// byWords finds the first route that has a word in the path. Words stand in names that
// clients choose, too: what is never recorded is so for reads only.
func (p *Profile) byWords(method, path, query string) (Match, bool) {
	set, any := p.words.find(path)
	if !any {
		return Match{}, false
	}
	r, sure := pick(p.words.routes, func(i int, r *Route) verdict {
		if !set.has(i) || !r.takes(method) || r.Record == Never && !IsSafe(method) {
			return no
		}
		return r.mayHold(path, query)
	})
	return Match{Route: r, Path: path, Method: true, Doubtful: !sure}, r != nil
}

func (r *Route) takes(method string) bool {
	return r.Method == "" || strings.EqualFold(r.Method, method) || r.Method == http.MethodGet && strings.EqualFold(method, http.MethodHead) // RFC 9110 9.3.2
}

// mayHold says whether the conditions hold that method and target decide.
func (r *Route) mayHold(path, query string) verdict {
	if len(r.when) == 0 {
		return yes
	}
	return r.holds(&Exchange{Answer: &Answer{Query: query}, Path: path, Route: r}, false)
}

// choose picks the route of the method. A path decides even when the method does
// not fit: GET on a POST route is recorded under its action.
func (p *Profile) choose(method, path, query string, routes []*Route) Match {
	found, sure := pick(routes, func(_ int, r *Route) verdict {
		if !r.takes(method) {
			return no
		}
		return r.mayHold(path, query)
	})
	if found != nil {
		if sure {
			found = provisional(routes, found, method, path, query)
		}
		return Match{Route: found, Path: path, Method: true, Doubtful: !sure}
	}
	r := *routes[0] // rare: the method does not fit
	r.rules, r.body, r.html, r.addresses = p.unknown.rules, p.unknown.body, p.unknown.html, p.unknown.addresses
	r.siblings, r.Timing = nil, After
	r.User, r.Actor, r.Administrator, r.Flow = nil, nil, Source{}, nil
	switch {
	case !IsSafe(method):
		r.Record = Always // that reading it is harmless says nothing of writing
	case strings.EqualFold(method, "OPTIONS") && r.Record != Never:
		r.Record = Failures
	}
	return Match{Route: &r, Path: path}
}

// provisional is the route that counts until Refine has seen the body, if that decides: the
// one that records most, and of several the last, which claims least: an intent must not be
// called a ban because it could be one. found is the first that may be it.
func provisional(routes []*Route, found *Route, method, path, query string) *Route {
	if found.siblings == nil {
		return found
	}
	for _, r := range routes {
		if !r.takes(method) || r.mayHold(path, query) == no {
			continue
		}
		if r.weight() >= found.weight() {
			found = r
		}
		if !slices.ContainsFunc(r.when, func(c condition) bool { return c.late }) {
			break // what comes behind it does not count any more
		}
	}
	return found
}

// Refine names the route again now that more of the exchange is known: its headers
// at the beginning, with body its bodies too at the end.
func (p *Profile) Refine(m Match, x *Exchange) Match {
	if m.Route.siblings == nil || !m.Method {
		return m
	}
	set, worded := routeSet{}, len(m.Route.Words) > 0
	if worded {
		set, _ = p.words.find(m.Path)
	}
	found, sure := pick(m.Route.siblings, func(i int, r *Route) verdict {
		if !r.takes(x.Method) || worded && (!set.has(i) || r.Record == Never && !IsSafe(x.Method)) {
			return no
		}
		x.Route = r
		return r.holds(x, true)
	})
	if found != nil {
		m.Route, m.Doubtful = found, !sure
	}
	return m
}

// IsSafe says whether a method is defined to change nothing (RFC 9110 9.2.1), in any
// case: some servers fold it. "trace" is the exception, because none does.
func IsSafe(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return strings.EqualFold(method, "GET") || strings.EqualFold(method, "HEAD") || strings.EqualFold(method, "OPTIONS")
}

// MethodOf is the method by which the server behind is asked: of an extended CONNECT for a
// WebSocket (RFC 8441, RFC 9220) Caddy's reverse_proxy makes a GET.
func MethodOf(r *http.Request) string {
	if r.Method == http.MethodConnect && (r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket") {
		return http.MethodGet
	}
	return r.Method
}

// fits compares a path with a template that has parameters. A parameter may be
// empty: some routers run its route all the same.
func (r *Route) fits(path string) bool {
	if len(r.segs) == 0 {
		return r.rest
	}
	rest, more := path[1:], true
	for i, seg := range r.segs {
		var part string
		if !more {
			return false
		}
		part, rest, more = strings.Cut(rest, "/")
		if seg != part && (seg == "" || seg[0] != ':') {
			return false
		}
		if i == len(r.segs)-1 {
			return r.rest || !more || rest == "" && part != ""
		}
	}
	return false
}

// parameter is the value of the template's parameter in the path.
func (r *Route) parameter(path, name string) string {
	if r == nil || path == "" {
		return ""
	}
	rest := path[1:]
	for _, seg := range r.segs {
		part, tail, _ := strings.Cut(rest, "/")
		if len(seg) > 1 && seg[0] == ':' && seg[1:] == name {
			return part
		}
		rest = tail
	}
	return ""
}

// ParameterOf is the name of the template's parameter that has a value in the path, in any case; ""
// if none has.
func (r *Route) ParameterOf(path, value string) string {
	if r == nil || path == "" || value == "" {
		return ""
	}
	rest := path[1:]
	for _, seg := range r.segs {
		part, tail, _ := strings.Cut(rest, "/")
		if len(seg) > 1 && seg[0] == ':' && strings.EqualFold(part, value) {
			return seg[1:]
		}
		rest = tail
	}
	return ""
}

// IsAction says whether a name is that of a captured action, in any spelling a
// reader could take for it: case, surrounding space, slashes for colons.
func (p *Profile) IsAction(name string) bool {
	return p.actions[strings.ToLower(strings.Trim(strings.ReplaceAll(strings.TrimSpace(name), "/", ":"), ":"))]
}
