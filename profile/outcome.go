package profile

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

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
}

// Outcome applies the route's rules in order; the first that holds decides. An
// answer that no rule fits counts as failed: an audit log must not claim a
// success that nobody saw.
func (r *Route) Outcome(a *Answer) storage.Status {
	if a.Status == statusClientClosed {
		return storage.Unknown
	}
	for i := range r.rules {
		if r.rules[i].holds(a) {
			return r.rules[i].Outcome
		}
	}
	return storage.Failed
}

func (r *Rule) holds(a *Answer) bool {
	if !r.status.has(a.Status) {
		return false
	}
	if r.Location != "" && !locationHas(a.Header.Get("Location"), r.Location) {
		return false
	}
	if r.SetsCookie != "" && SetCookie(a.Header, []string{r.SetsCookie}) == "" {
		return false
	}
	return r.JSON == nil || r.JSON.holds(a.Body)
}

func (c *JSONCondition) holds(body []byte) bool {
	v := Lookup(body, c.Pointer)
	if !v.Exists() {
		return false
	}
	return c.Equals == nil || v.Raw == string(c.Equals)
}

// locationHas says whether the URL has the parameter in its query or fragment.
func locationHas(location, name string) bool {
	u, err := url.Parse(location)
	if err != nil {
		return strings.Contains(location, name+"=")
	}
	if _, ok := u.Query()[name]; ok {
		return true
	}
	fragment, err := url.ParseQuery(u.Fragment)
	if err != nil {
		return false
	}
	_, ok := fragment[name]
	return ok
}

// SetCookie returns the value of the last cookie that the answer sets under one
// of the name patterns; "" if the last one clears it or there is none. The last
// counts because servers clear and set in one answer (Better Auth does, on
// impersonation).
func SetCookie(h http.Header, patterns []string) string {
	value := ""
	for _, line := range h["Set-Cookie"] {
		pair, attributes, _ := strings.Cut(line, ";")
		name, v, ok := strings.Cut(pair, "=")
		if !ok || !MatchName(patterns, strings.TrimSpace(name)) {
			continue
		}
		value = strings.TrimSpace(v)
		if clears(attributes) {
			value = ""
		}
	}
	return value
}

func clears(attributes string) bool {
	for a := range strings.SplitSeq(attributes, ";") {
		name, v, _ := strings.Cut(strings.TrimSpace(a), "=")
		if strings.EqualFold(name, "Max-Age") {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			return err == nil && n <= 0
		}
	}
	return false
}

// MatchName says whether a name fits one of the patterns; a leading * stands for
// anything.
func MatchName(patterns []string, name string) bool {
	for _, p := range patterns {
		if suffix, any := strings.CutPrefix(p, "*"); any && strings.HasSuffix(name, suffix) || p == name {
			return true
		}
	}
	return false
}

// Lookup finds the value at a JSON pointer (RFC 6901). Of members with the same
// name the last counts, as in JavaScript; names are compared exactly. A body that
// is no valid JSON has no values.
func Lookup(body []byte, pointer string) gjson.Result {
	body = trimBOM(body)
	if len(body) == 0 || len(body) > maxLookup || tooDeep(body) || !gjson.ValidBytes(body) {
		return gjson.Result{}
	}
	v := gjson.ParseBytes(body)
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		if v = child(v, token); !v.Exists() {
			break
		}
	}
	return v
}

// LookupString is Lookup for a string value; "" for anything else.
func LookupString(body []byte, pointer string) string {
	if v := Lookup(body, pointer); v.Type == gjson.String {
		return v.Str
	}
	return ""
}

const (
	maxLookup = 256 << 10
	maxDepth  = 200
)

// tooDeep guards the recursion of the JSON parser.
func tooDeep(b []byte) bool {
	depth := 0
	for _, c := range b {
		switch c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

func trimBOM(b []byte) []byte {
	if len(b) >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF {
		return b[3:]
	}
	return b
}

func child(v gjson.Result, token string) gjson.Result {
	var found gjson.Result
	switch {
	case v.IsObject():
		v.ForEach(func(key, value gjson.Result) bool {
			if key.Str == token {
				found = value
			}
			return true
		})
	case v.IsArray():
		if n, err := strconv.Atoi(token); err == nil && n >= 0 {
			i := 0
			v.ForEach(func(_, value gjson.Result) bool {
				if i == n {
					found = value
				}
				i++
				return i <= n
			})
		}
	}
	return found
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
