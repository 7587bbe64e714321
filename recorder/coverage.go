package recorder

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Bounds of a Coverage.
const (
	// MaxCoverage is how many routes a Coverage tells apart.
	MaxCoverage = 1000
	// maxSegments of a path are told apart, the rest is "*".
	maxSegments = 10
	// longestSegment that is shown, in bytes.
	longestSegment = 64
)

// Coverage tallies what no line of a profile names, so that somebody can add the
// line: the routes by method and path, without the secrets and ids in them, and how
// they ended. It lives in memory, is bounded, and safe for concurrent use. Its zero
// value is ready; a nil pointer counts nothing.
type Coverage struct {
	// mu protects the fields below.
	mu     sync.Mutex
	routes map[coverageKey]*routeCounts
	others uint64
}

type coverageKey struct{ profile, base, method, path string }

// routeCounts counts the exchanges of one route.
type routeCounts struct {
	count, succeeded, failed, missing uint64
	first, last                       time.Time
}

// CoveredRoute is one route that no profile names.
type CoveredRoute struct {
	// Profile that does not name it, and its base path.
	Profile  string `json:"profile"`
	BasePath string `json:"basePath"`
	Method   string `json:"method"`
	// Path under the base path as a template: what looked like an id is ":id", like a
	// secret ":token", like an address ":email", and ":value" is what else is no word.
	Path string `json:"path"`
	// Count of all exchanges. Succeeded and Failed by the profile's default rules,
	// NotFound those that were answered with 404 or 405.
	Count     uint64 `json:"count"`
	Succeeded uint64 `json:"succeeded"`
	Failed    uint64 `json:"failed"`
	NotFound  uint64 `json:"notFound"`
	// First and Last time that it was seen.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Served says whether the server seems to have the route: not every answer was 404
// or 405.
func (r *CoveredRoute) Served() bool { return r.NotFound < r.Count }

// uncovered says whether no line of the profile is for the request: none for its
// path, or none for its method.
func uncovered(m profile.Match, method string) bool {
	if !m.Route.Known() {
		return true
	}
	return !m.Method && method != http.MethodHead && method != http.MethodOptions
}

// cover counts an exchange that has ended.
func (x *Exchange) cover(a *profile.Exchange, outcome storage.Status) {
	if x.rec.Coverage == nil || !uncovered(x.match, x.method) {
		return
	}
	key := coverageKey{x.rec.Profile.Name, x.rec.Profile.Base(), storage.Clean(strings.ToUpper(x.method), 16), templateOf(x.match.Path)}
	x.rec.Coverage.add(key, a.Status, outcome, x.began)
}

// add counts one exchange. When there is no room left, a route that was never found
// makes room for one that was: floods of made-up paths hide nothing.
func (c *Coverage) add(key coverageKey, status int, outcome storage.Status, at time.Time) {
	missing := status == http.StatusNotFound || status == http.StatusMethodNotAllowed
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.routes[key]
	if t == nil {
		if len(c.routes) >= MaxCoverage && (missing || !c.makeRoom()) {
			c.others++
			return
		}
		if c.routes == nil {
			c.routes = make(map[coverageKey]*routeCounts)
		}
		t = &routeCounts{first: at}
		c.routes[key] = t
	}
	t.count++
	t.last = at
	switch {
	case missing:
		t.missing++
	case outcome == storage.Success, outcome == storage.Pending:
		t.succeeded++
	case outcome == storage.Failed:
		t.failed++
	}
}

// makeRoom moves the route that was never found, and was not asked for for the
// longest time, to the others. The caller holds mu.
func (c *Coverage) makeRoom() bool {
	var oldest coverageKey
	var found *routeCounts
	for key, t := range c.routes {
		if t.missing == t.count && (found == nil || t.last.Before(found.last)) {
			oldest, found = key, t
		}
	}
	if found == nil {
		return false
	}
	c.others += found.count
	delete(c.routes, oldest)
	return true
}

// Snapshot returns the routes, the most frequent first, and how many exchanges of
// other routes there were for which there was no room.
func (c *Coverage) Snapshot() (routes []CoveredRoute, others uint64) {
	routes = []CoveredRoute{}
	if c == nil {
		return routes, 0
	}
	c.mu.Lock()
	others = c.others
	for key, t := range c.routes {
		routes = append(routes, CoveredRoute{
			Profile: key.profile, BasePath: cmp.Or(key.base, "/"), Method: key.method, Path: key.path, Count: t.count,
			Succeeded: t.succeeded, Failed: t.failed, NotFound: t.missing, First: t.first.UTC(), Last: t.last.UTC(),
		})
	}
	c.mu.Unlock()
	slices.SortFunc(routes, func(a, b CoveredRoute) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method),
			cmp.Compare(a.BasePath, b.BasePath), cmp.Compare(a.Profile, b.Profile))
	})
	return routes, others
}

// templateOf is a path with parameters in place of what is no plain word: anything
// may stand there, codes, addresses, control characters.
func templateOf(path string) string {
	var b strings.Builder
	seen := make(map[string]int)
	n := 0
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" {
			continue
		}
		if n++; n > maxSegments {
			b.WriteString("/*")
			break
		}
		b.WriteByte('/')
		kind := parameterOf(segment)
		if kind == "" {
			b.WriteString(segment)
			continue
		}
		b.WriteString(":" + kind)
		if seen[kind]++; seen[kind] > 1 {
			b.WriteString(strconv.Itoa(seen[kind]))
		}
	}
	return cmp.Or(b.String(), "/")
}

// parameterOf is what stands for a segment: a parameter's name, or "" if the segment
// may be shown.
func parameterOf(s string) string {
	letters, digits := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			letters++
		case c == '-', c == '_', c == '.':
		case c == '@' && i > 0:
			return "email"
		default:
			return "value"
		}
	}
	switch {
	case len(s) > longestSegment:
		return "token"
	case digits == len(s), uuid.Validate(s) == nil:
		return "id"
	case redact.Segment(s) != s:
		return "token"
	case letters == 0, digits > 2 && len(s) >= 8, personal(s):
		return "id"
	}
	return ""
}
