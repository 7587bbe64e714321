package profile

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// statusClientClosed is what Caddy's reverse_proxy writes when the client left
// before the upstream answered: nobody knows what the upstream did.
const statusClientClosed = 499

// Answer is what the outcome rules look at.
type Answer struct {
	Status int
	Header http.Header
	// Body is the decoded body, nil if it was not seen or not whole.
	Body []byte
	// Unseen is true when there was JSON that could not be read: too long, broken
	// off, or in an unknown encoding.
	Unseen bool
	// Page is the decoded page of an answer in HTML, as far as it was seen, and
	// PageUnseen true when the rest of it was not, or none.
	Page       []byte
	PageUnseen bool
	lower      []byte // Page in lower case, once somebody asked
	// Query of the request, undecoded. A client may put "error=" into the address
	// that it wants to be sent back to; that is no word of the server's.
	Query string

	parsed   bool     // somebody has asked for document
	document document // Body
}

// Reset makes it the zero value, with the room that it has: what was found in it must not be
// looked for any more.
func (a *Answer) Reset() {
	members := a.document.members[:0]
	if cap(members) > maxRoom {
		members = nil
	}
	*a = Answer{}
	a.document.members = members
}

// Outcome applies the route's rules in order; the first that holds decides. An
// answer that no rule fits counts as failed: an audit log must not claim a
// success that nobody saw.
func (r *Route) Outcome(x *Exchange) storage.Status {
	if x.Status == statusClientClosed {
		return storage.Unknown
	}
	switch rule, found := r.decisive(x); found {
	case yes:
		return rule.Outcome
	case nobodyKnows:
		return storage.Unknown
	case no:
	}
	return storage.Failed
}

// Disputed says whether a request may be for another route as well, which makes something else of the
// answer: of a match that is doubtful.
func (r *Route) Disputed(x *Exchange) bool {
	outcome := r.Outcome(x)
	defer func() { x.Route = r }()
	return slices.ContainsFunc(r.siblings, func(other *Route) bool {
		if x.Route = other; other == r || !other.takes(x.Method) || len(r.Words) > 0 {
			return false
		}
		return other.holds(x, true) == nobodyKnows && other.Outcome(x) != outcome
	})
}

// ByPage says whether the outcome was decided by a text in the answer's page. What another rule makes
// of a page may be about one that is not the server's: of an application on the same site.
func (r *Route) ByPage(x *Exchange) bool {
	rule, found := r.decisive(x)
	return found == yes && rule.ofPage()
}

// decisive is the first rule that holds, or may hold.
func (r *Route) decisive(x *Exchange) (*Rule, verdict) {
	for i := range r.rules {
		if found := r.rules[i].holds(x); found != no {
			return &r.rules[i], found
		}
	}
	return nil, no
}

// verdict is whether a rule holds.
type verdict uint8

const (
	no verdict = iota
	yes
	// nobodyKnows: the rule would decide, but what it looks at was not to be seen.
	nobodyKnows
)

func (r *Rule) holds(x *Exchange) verdict {
	a := x.Answer
	switch {
	case !r.status.has(a.Status),
		r.SetsCookie != "" && SetCookie(a.Header, []string{r.SetsCookie}) == "",
		r.ClearsCookie != "" && !clearsCookie(a.Header, r.ClearsCookie),
		r.Header != "" && a.Header.Get(r.Header) == "":
		return no
	}
	found := r.urlHolds(x)
	switch {
	case found == no, r.JSON == nil && !r.ofPage():
		return found
	case r.JSON != nil && a.Unseen:
		return nobodyKnows
	case r.JSON != nil && !r.JSON.holds(a):
		return no
	case r.ofPage() && !r.pageHolds(a):
		if a.PageUnseen {
			return nobodyKnows
		}
		return no
	}
	return found
}

// ofPage says whether the rule looks at the answer's page.
func (r *Rule) ofPage() bool { return len(r.html) > 0 || r.HTMLRepeats != "" }

// pageHolds decides the conditions on what is seen of the page.
func (r *Rule) pageHolds(a *Answer) bool {
	return (len(r.html) == 0 || a.shows(r.html)) && (r.HTMLRepeats == "" || a.showsAgain(r.HTMLRepeats))
}

// urlHolds decides the conditions on a URL.
func (r *Rule) urlHolds(x *Exchange) verdict {
	if r.Location == "" && r.LocationPath == "" && r.LocationRepeats == "" {
		return yes
	}
	if !r.In.IsZero() && r.In.has(inAnswer) && x.Unseen {
		return nobodyKnows
	}
	target := x.Header.Get("Location")
	if !r.In.IsZero() {
		target = r.In.Value(x)
	}
	if target == "" || r.LocationPath != "" && !pathEnds(target, r.LocationPath) {
		return no
	}
	if r.LocationRepeats != "" {
		v := parameter(target, r.LocationRepeats)
		if v == "" || v != queryValue(x.Query, r.LocationRepeats) {
			return no
		}
		if own, _ := x.own(r.LocationRepeats); slices.Contains(own, v) {
			return nobodyKnows // the client may have asked to be sent there
		}
	}
	if r.Location == "" {
		return yes
	}
	return x.locationHas(target, r.Location)
}

// pathEnds says whether a URL's path ends with whole segments.
func pathEnds(target, end string) bool {
	path, _, _ := strings.Cut(target, "#")
	path, _, _ = strings.Cut(path, "?")
	return strings.HasSuffix(strings.TrimRight(path, "/"), end)
}

// shows says whether a page contains a text, which is in lower case.
func (a *Answer) shows(text []byte) bool { return bytes.Contains(a.lowerPage(), text) }

func (a *Answer) lowerPage() []byte {
	if a.lower == nil {
		a.lower = bytes.ToLower(a.Page)
	}
	return a.lower
}

// showsAgain says whether an address in the page has the parameter with a value that it has in the
// request's query. Of several nobody knows which one the server takes.
func (a *Answer) showsAgain(name string) bool {
	for f := range eachField(a.Query) {
		if f.name == name && f.value != "" && hasPair(a.lowerPage(), strings.ToLower(name+"="+url.QueryEscape(f.value))) {
			return true
		}
	}
	return false
}

// hasPair says whether a text has the pair of a query, not as a part of another.
func hasPair(text []byte, pair string) bool {
	for {
		i := bytes.Index(text, []byte(pair))
		if i < 0 {
			return false
		}
		before, after := text[max(0, i-1):i], text[i+len(pair):]
		next := after[:min(1, len(after))]
		if (i == 0 || !isWord(string(before))) && (len(next) == 0 || next[0] != '%' && !isWord(string(next))) {
			return true
		}
		text = after
	}
}

func (c *JSONCondition) holds(a *Answer) bool {
	v := a.Lookup(c.Pointer)
	switch {
	case c.Empty:
		return a.Readable() && !filled(v)
	case c.Filled:
		return filled(v)
	case !v.Exists():
		return false
	}
	return c.Equals == nil || v.Raw == string(c.Equals)
}

// filled says whether a value is there and says something.
func filled(v gjson.Result) bool {
	switch v.Type {
	case gjson.Null, gjson.False:
		return false
	case gjson.True:
		return true
	case gjson.Number:
		return v.Num != 0
	case gjson.String:
		return v.Str != ""
	default:
		some := false
		v.ForEach(func(_, _ gjson.Result) bool { some = true; return false })
		return some
	}
}

// locationHas says whether a URL has the parameter in its query or fragment. If
// all its values are those that addresses in the request carry, nobody knows who put
// them there: clients name the address that they want to be sent back to.
func (x *Exchange) locationHas(location, name string) verdict {
	found := values(location, name)
	if len(found) == 0 {
		return no
	}
	own, whole := x.own(name)
	if !whole {
		return nobodyKnows
	}
	for _, v := range found {
		if !slices.Contains(own, v) {
			return yes
		}
	}
	return nobodyKnows
}

// own are the parameter's values in the addresses that stand in the request, and
// whether that is all of them.
func (x *Exchange) own(name string) (found []string, whole bool) {
	look := func(text string) {
		if strings.Contains(text, name) {
			found = append(found, values(text, name)...)
		}
	}
	for f := range eachField(x.Query) {
		look(f.value)
	}
	for _, line := range x.SentHeader["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			_, v, _ := strings.Cut(pair, "=")
			look(unescapeForm(v))
		}
	}
	body := x.sentBody()
	for _, f := range body.fields {
		look(f.value)
	}
	eachText(body.json.root(), look)
	return found, body.whole
}

// eachText calls f with every text of a document.
func eachText(v gjson.Result, f func(string)) {
	switch {
	case v.Type == gjson.String:
		f(v.Str)
	case v.Type == gjson.JSON:
		v.ForEach(func(_, value gjson.Result) bool { eachText(value, f); return true })
	}
}

// values are the parameter's values in the query and in the fragment of a URL; a
// fragment may have a query of its own ("#/login?error=x").
func values(location, name string) []string {
	query, fragment, _ := strings.Cut(location, "#")
	var out []string
	for _, part := range []string{afterQuestion(query), fragment, afterQuestion(fragment)} {
		for f := range eachField(part) {
			if f.name == name {
				out = append(out, f.value)
			}
		}
	}
	return out
}

func afterQuestion(s string) string {
	_, after, _ := strings.Cut(s, "?")
	return after
}

// SetCookie returns the value of the last cookie that the answer sets under one
// of the name patterns; "" if the last one clears it or there is none. The last
// counts because servers clear and set in one answer (Better Auth does, on
// impersonation).
func SetCookie(h http.Header, patterns []string) string {
	_, value := SetCookiePair(h, patterns)
	return value
}

// SetCookiePair is SetCookie with the cookie's name.
func SetCookiePair(h http.Header, patterns []string) (name, value string) {
	for _, line := range h["Set-Cookie"] {
		pair, attributes, _ := strings.Cut(line, ";")
		n, v, ok := strings.Cut(pair, "=")
		if n = strings.TrimSpace(n); !ok || !MatchName(patterns, n) {
			continue
		}
		name, value = n, strings.TrimSpace(v)
		if clears(attributes) {
			value = ""
		}
	}
	return name, value
}

func clears(attributes string) bool {
	expired := false
	for a := range strings.SplitSeq(attributes, ";") {
		name, v, _ := strings.Cut(strings.TrimSpace(a), "=")
		switch {
		case strings.EqualFold(name, "Max-Age"): // it wins over Expires (RFC 6265 5.3)
			n, err := strconv.Atoi(strings.TrimSpace(v))
			return err == nil && n <= 0
		case strings.EqualFold(name, "Expires"):
			at, err := http.ParseTime(strings.TrimSpace(v))
			expired = err == nil && at.Before(time.Unix(1e9, 0)) // servers write 1970; what has merely run out is a matter of clocks
		}
	}
	return expired
}

// clearsCookie says whether the answer takes such a cookie away.
func clearsCookie(h http.Header, pattern string) bool {
	for _, line := range h["Set-Cookie"] {
		pair, attributes, _ := strings.Cut(line, ";")
		name, v, ok := strings.Cut(pair, "=")
		if ok && fitsPattern(pattern, strings.TrimSpace(name)) && (clears(attributes) || strings.Trim(v, ` "`) == "") {
			return true
		}
	}
	return false
}

func fitsPattern(pattern, name string) bool {
	suffix, leading := strings.CutPrefix(pattern, "*")
	prefix, trailing := strings.CutSuffix(suffix, "*")
	switch {
	case leading && trailing:
		return strings.Contains(name, prefix)
	case leading:
		return strings.HasSuffix(name, suffix)
	case trailing:
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// MatchName says whether a name fits one of the patterns; a leading or trailing *
// stands for anything.
func MatchName(patterns []string, name string) bool {
	for _, p := range patterns {
		if fitsPattern(p, name) {
			return true
		}
	}
	return false
}

// statusSet is a set of status codes: classes as bits, single codes as a list.
// Empty means any.
type statusSet struct {
	any     bool
	classes [6]bool
	codes   []int
}

func parseStatusSet(s string) (statusSet, error) {
	set := statusSet{any: s == ""}
	if set.any {
		return set, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if class, ok := strings.CutSuffix(part, "xx"); ok && len(class) == 1 && class[0] >= '1' && class[0] <= '5' {
			set.classes[class[0]-'0'] = true
			continue
		}
		code, err := strconv.Atoi(part)
		if err != nil || code < 100 || code > 999 {
			return set, fmt.Errorf("bad status %q: use codes and classes such as 302 or 4xx", part)
		}
		set.codes = append(set.codes, code)
	}
	return set, nil
}

func (s *statusSet) has(code int) bool {
	if s.any || code >= 100 && code < 600 && s.classes[code/100] {
		return true
	}
	for _, c := range s.codes {
		if c == code {
			return true
		}
	}
	return false
}
