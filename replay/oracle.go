package replay

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// Oracle answers for the auth server's session endpoint as far as a recording
// proves who had a session. What the exchange under way was meant to show plays no
// part. It belongs to one goroutine at a time.
type Oracle struct {
	profile *profile.Profile
	file    *File
	owners  map[string]owner

	// current is the exchange under way, and answered says that its request has
	// arrived: from then on its answer's session exists.
	current  *Exchange
	answered bool
}

// owner is whose a credential is, and from which exchange on it is nobody's.
type owner struct {
	user string
	// proved are the exchanges that show it.
	proved []*Exchange
	ended  *Exchange
}

// NewOracle returns an Oracle for one recording of the profile's auth server.
func NewOracle(p *profile.Profile, f *File) *Oracle {
	o := &Oracle{profile: p, file: f, owners: make(map[string]owner)}
	for _, x := range f.Exchanges {
		t := &x.Truth
		if t.Event == "" || t.User == "" || t.Outcome != "success" {
			continue
		}
		tokens := o.sent(http.Header(x.Request.Headers))
		if strings.HasPrefix(t.Event, "sign") && t.Event != "signout" || strings.HasPrefix(t.Event, "mfa") || slices.Contains(t.Also, "signin") {
			tokens = o.issued(x)
		}
		for _, token := range tokens {
			own := o.owners[token]
			if own.user == "" || own.user == t.User {
				own.user, own.proved = t.User, append(own.proved, x)
			}
			if t.Event == "signout" {
				own.ended = x
			}
			o.owners[token] = own
		}
	}
	return o
}

// Expect announces the next exchange, and Answered that its request has arrived.
func (o *Oracle) Expect(x *Exchange) { o.current, o.answered = x, false }

// Answered says that the current exchange's request has arrived.
func (o *Oracle) Answered() { o.answered = true }

// sent are the credentials of a request.
func (o *Oracle) sent(h http.Header) []string {
	var out []string
	for pair := range strings.SplitSeq(strings.Join(h["Cookie"], ";"), ";") {
		name, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if ok && v != "" && profile.MatchName(o.profile.Credentials.Cookies, name) {
			out = append(out, name+"="+v)
		}
	}
	for _, name := range o.profile.Credentials.Headers {
		if v := profile.Bearer(h.Get(name)); v != "" {
			out = append(out, v)
		}
	}
	return out
}

// issued are the credentials that an answer sets.
func (o *Oracle) issued(x *Exchange) []string {
	var out []string
	h := http.Header(x.Response.Headers)
	if name, v := profile.SetCookiePair(h, o.profile.Credentials.Cookies); v != "" {
		out = append(out, name+"="+v)
	}
	for _, name := range o.profile.Credentials.ResponseHeaders {
		if v := h.Get(name); v != "" {
			out = append(out, v)
		}
	}
	for _, pointer := range o.profile.Credentials.ResponseBody {
		if v := profile.LookupString([]byte(x.Response.Body), pointer); v != "" {
			out = append(out, v)
		}
	}
	return out
}

// Answer is what the session endpoint says. The problem is what was wrong with the
// question, or "".
func (o *Oracle) Answer(r *http.Request) (status int, body []byte, problem string) {
	if o.current == nil {
		return http.StatusNotFound, nil, "a question before the first exchange"
	}
	if !slices.ContainsFunc(o.profile.Session, func(s *profile.Session) bool { return asks(r, o.profile.Base(), s) }) {
		problem = "the question was " + r.Method + " " + r.URL.RequestURI()
	}
	endpoint := o.profile.Session
	if len(endpoint) == 0 {
		return http.StatusNotFound, nil, "the profile has no session endpoint"
	}
	if o.current.Truth.Event == "" {
		answer, p := o.betterAuth(r)
		body, _ = json.Marshal(answer)
		return http.StatusOK, body, problem + p
	}
	if user := o.userOf(r); user != "" {
		return http.StatusOK, endpoint[0].Sample(user), problem
	}
	return http.StatusUnauthorized, []byte(`{"error":"nobody"}`), problem
}

// asks says whether a request is that for a session endpoint.
func asks(r *http.Request, base string, s *profile.Session) bool {
	path := strings.Split(base+s.Path, "/")
	got := strings.Split(r.URL.Path, "/")
	return r.URL.RawQuery == s.Query && slices.EqualFunc(path, got, func(want, got string) bool {
		return want == got || strings.HasPrefix(want, ":") && got != ""
	})
}

// userOf is whose credentials a question carries, by what other exchanges prove.
func (o *Oracle) userOf(r *http.Request) string {
	at := slices.Index(o.file.Exchanges, o.current)
	for _, token := range o.sent(r.Header) {
		own, ok := o.owners[token]
		if !ok || own.ended != nil && slices.Index(o.file.Exchanges, own.ended) < at {
			continue
		}
		if slices.ContainsFunc(own.proved, func(x *Exchange) bool { return x != o.current }) || o.answered && slices.Contains(o.issued(o.current), token) {
			return own.user
		}
	}
	return ""
}

// betterAuth answers in the shape of Better Auth's get-session, from what its
// database said; nil, JSON null, means that nobody is signed in.
func (o *Oracle) betterAuth(r *http.Request) (answer any, problem string) {
	t := &o.current.Truth
	user, role, admin := "", "", ""
	switch {
	case o.answered && o.carriesIssued(r):
		user = t.ResponseSessionUserID
	case !o.sameCredentials(r):
		problem = "the question has credentials that neither the request nor its answer has"
	case o.answered && t.RequestSessionStillValid != nil && !*t.RequestSessionStillValid:
	default:
		user, role, admin = t.RequestSessionUserID, t.RequestSessionRole, t.RequestSessionImpersonatedBy
	}
	if user == "" {
		return nil, problem
	}
	return map[string]any{
		"session": map[string]any{
			"id": "replayed", "userId": user, "impersonatedBy": orNull(admin),
			"expiresAt": time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"),
		},
		"user": map[string]any{"id": user, "role": orNull(role), "email": "somebody@example.com"},
	}, problem
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// carriesIssued says whether a question's credentials are those that the recorded
// answer sets.
func (o *Oracle) carriesIssued(r *http.Request) bool {
	c, h := o.profile.Credentials, http.Header(o.current.Response.Headers)
	if cookie := profile.SetCookie(h, c.Cookies); cookie != "" {
		for pair := range strings.SplitSeq(r.Header.Get("Cookie"), ";") {
			name, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if profile.MatchName(c.Cookies, name) {
				return v == cookie // of two with one name the first counts
			}
		}
	}
	for _, name := range c.ResponseHeaders {
		token := h.Get(name)
		if token != "" && slices.ContainsFunc(c.Headers, func(n string) bool { return strings.HasSuffix(r.Header.Get(n), token) }) {
			return true
		}
	}
	return false
}

// sameCredentials says whether a question carries the request's credentials, all of
// them and as they were.
func (o *Oracle) sameCredentials(r *http.Request) bool {
	sent := http.Header(o.current.Request.Headers)
	if strings.Join(r.Header["Cookie"], "; ") != strings.Join(sent["Cookie"], "; ") {
		return false
	}
	return !slices.ContainsFunc(o.profile.Credentials.Headers, func(n string) bool { return r.Header.Get(n) != sent.Get(n) })
}
