package recorder

import (
	"net/http"
	"slices"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxKept bounds the header fields that a quiet exchange keeps for the case that it
// becomes an event.
const maxKept = 12

// keptAlways are the header fields that an entry needs whatever the profile.
var keptAlways = [...]string{"Cookie", "User-Agent", "Content-Type", "Content-Encoding", "Connection"}

// kept are the fields of a request that its entry would need. The values are those of
// the request: whoever changes a header below sets other ones.
type kept [maxKept][]string

// quietExchange is an Exchange with what it keeps.
type quietExchange struct {
	exchange Exchange
	kept     kept
}

// keptOf are the names of the fields for a profile.
func keptOf(p *profile.Profile) []string {
	names := slices.Concat(keptAlways[:], p.Credentials.Headers)
	for _, endpoint := range p.Session {
		names = append(names, endpoint.Forward...)
	}
	for i, name := range names {
		names[i] = http.CanonicalHeaderKey(name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// quiet says whether a request is most likely no event, and the answer's head alone can
// show that it is one: a session check or a list that succeeds. Such exchanges are the
// most frequent of all; what their entry would need is not found out unless there is one.
func (rec *Recorder) quiet(m profile.Match, r *http.Request) bool {
	route := m.Route
	return route.Record == profile.Failures && route.Timing != profile.Before && route.Known() && m.Method && !m.Ambiguous && !m.Doubtful &&
		rec.Recognize == nil && len(rec.Hooks) == 0 && len(rec.Sessions.kept) <= maxKept && !rec.capture(route).RequestBody &&
		!route.Deferred() && len(route.Flow) == 0 && !route.NeedsBody() && !route.NeedsPage() &&
		(r.ContentLength == 0 || !route.NeedsAddresses()) && !route.NeedsRequestHeader() && !route.NeedsRequestBody()
}

// keep takes what wake needs.
func (x *Exchange) keep(h http.Header) {
	for i, name := range x.rec.Sessions.kept {
		x.whole.kept[i] = h[name]
	}
}

// wake finds out what an entry needs of a quiet exchange.
func (x *Exchange) wake() {
	h := make(http.Header, maxKept)
	for i, name := range x.rec.Sessions.kept {
		if v := x.whole.kept[i]; v != nil {
			h[name] = v
		}
	}
	x.quiet, x.id = false, storage.NewIDAt(x.began)
	x.takeRequest(h)
}

// uneventful says whether the head of the answer shows that a quiet exchange was no
// event: it succeeded, and issued no cookie.
func (x *Exchange) uneventful() bool {
	status, h := x.observer.Status(), x.observer.Header()
	if x.aborted || status < 200 || status >= 300 && status != http.StatusNotModified || len(h["Set-Cookie"]) > 0 {
		return false
	}
	x.seen.Status, x.seen.Header, x.seen.Query = status, h, x.query
	x.asked = profile.Exchange{Answer: &x.seen, Method: x.method, Path: x.match.Path, Route: x.match.Route}
	return x.masked(&x.asked) == 0 && x.match.Route.Outcome(&x.asked) != storage.Failed
}
