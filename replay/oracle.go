package replay

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/sjson"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// Oracle answers for the auth server's session endpoint as far as a recording
// proves who had a session. What the exchange under way was meant to show plays no
// part. It belongs to one goroutine at a time.
type Oracle struct {
	profile *profile.Profile
	file    *File
	owners  map[string]owner
	// asked are the recorded answers of the session endpoint, see question.
	asked []question

	// current is the exchange under way, and answered says that its request has
	// arrived: from then on its answer's session exists.
	current  *Exchange
	answered bool
}

// question is an exchange of the recording with a session endpoint that gave an answer. A
// profile may name an endpoint several times, with one place of the user each.
type question struct {
	exchange  *Exchange
	endpoints []*profile.Session
}

// user is whom the answer names by the profile, or "".
func (q *question) user() string {
	r := &q.exchange.Response
	answer := &profile.Answer{Status: r.Status, Header: http.Header(r.Headers), Body: []byte(r.Body)}
	for _, s := range q.endpoints {
		if user := s.User.Value(&profile.Exchange{Answer: answer}); user != "" {
			return user
		}
	}
	return ""
}

// body is the answer. The session was good when it was recorded.
func (q *question) body() []byte {
	body := []byte(q.exchange.Response.Body)
	for _, s := range q.endpoints {
		if s.Expires == "" {
			continue
		}
		path := strings.ReplaceAll(strings.TrimPrefix(s.Expires, "/"), "/", ".")
		if b, err := sjson.SetBytes(body, path, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)); err == nil {
			body = b
		}
	}
	return body
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
		if s := o.endpointsOf(x); len(s) > 0 && x.Response.Status == http.StatusOK {
			o.asked = append(o.asked, question{x, s})
		}
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
		if body := o.recorded(r, user); body != nil {
			return http.StatusOK, body, problem
		}
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

// endpointsOf are the session endpoints that an exchange is with.
func (o *Oracle) endpointsOf(x *Exchange) []*profile.Session {
	target, err := url.ParseRequestURI(x.Request.Path)
	if err != nil {
		return nil
	}
	var out []*profile.Session
	for _, s := range o.profile.Session {
		if cmp.Or(s.Method, http.MethodGet) == x.Request.Method && asks(&http.Request{URL: target}, o.profile.Base(), s) {
			out = append(out, s)
		}
	}
	return out
}

// recorded is what the server itself said to the same question of a user, or nil: what is made
// up from the profile proves nothing about the profile.
func (o *Oracle) recorded(r *http.Request, user string) []byte {
	sent := o.sent(r.Header)
	for _, q := range o.asked {
		x := q.exchange
		if x.Request.Path != r.URL.RequestURI() || !mentions(x, user) {
			continue
		}
		if slices.ContainsFunc(o.sent(http.Header(x.Request.Headers)), func(token string) bool { return slices.Contains(sent, token) }) {
			return q.body()
		}
	}
	return nil
}

// mentions says whether an answer names a user.
func mentions(x *Exchange, user string) bool {
	for part := range strings.SplitSeq(user, "/") {
		if !strings.Contains(x.Response.Body, `"`+part+`"`) {
			return false
		}
	}
	return true
}

// userOf is whose credentials a question carries, by what other exchanges prove.
func (o *Oracle) userOf(r *http.Request) string { return o.ownerOf(o.current, o.sent(r.Header)) }

// ownerOf is whose the credentials are at the time of an exchange.
func (o *Oracle) ownerOf(at *Exchange, tokens []string) string {
	now := slices.Index(o.file.Exchanges, at)
	for _, token := range tokens {
		own, ok := o.owners[token]
		if !ok || own.ended != nil && slices.Index(o.file.Exchanges, own.ended) < now {
			continue
		}
		if slices.ContainsFunc(own.proved, func(x *Exchange) bool { return x != at }) || o.answered && at == o.current && slices.Contains(o.issued(at), token) {
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
