package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sessionAuth is an auth server for the gates that need sessions by the thousand. A
// token is a user's name, perhaps with a number behind a dot; it is valid in the cookie
// and as a bearer token, which counts more, until somebody signs out with it or an
// administrator bans its user. Like Better Auth's cookie cache it goes on to call an
// ended session valid, unless it is asked not to (threats.md X11).
type sessionAuth struct {
	// delay of an answer to get-session.
	delay time.Duration
	// roles are the JSON of a user's role; "user" for all others, and "user,admin" for
	// those whose name begins with "root".
	roles map[string]string
	// refuse is the status with which get-session answers; 0 to answer.
	refuse atomic.Int32

	ended, banned sync.Map // by token, by user
	// lookups counts questions to get-session, those under way, and the most at once.
	lookups, now, most atomic.Int64
}

// tokenOf is the token that counts.
func tokenOf(r *http.Request) string {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	if c, err := r.Cookie("better-auth.session_token"); err == nil {
		return c.Value
	}
	return ""
}

func userOf(token string) string {
	user, _, _ := strings.Cut(token, ".")
	return user
}

// ServeHTTP implements http.Handler.
func (a *sessionAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	route, token := strings.TrimPrefix(r.URL.Path, "/api/auth"), tokenOf(r)
	switch route {
	case "/get-session":
		a.session(w, r, token)
		return
	case "/sign-out":
		a.ended.Store(token, true)
	case "/admin/ban-user":
		var body struct{ UserID string }
		if json.NewDecoder(r.Body).Decode(&body) == nil {
			a.banned.Store(body.UserID, true)
		}
	case "/sign-in/email":
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, denied)
		return
	}
	_, _ = fmt.Fprintf(w, `{"success":true,"seen":%q}`, userOf(token))
}

func (a *sessionAuth) session(w http.ResponseWriter, r *http.Request, token string) {
	a.lookups.Add(1)
	now := a.now.Add(1)
	defer a.now.Add(-1)
	for most := a.most.Load(); now > most && !a.most.CompareAndSwap(most, now); most = a.most.Load() {
	}
	time.Sleep(a.delay)
	if status := a.refuse.Load(); status != 0 {
		w.WriteHeader(int(status))
		return
	}
	user := userOf(token)
	_, ended := a.ended.Load(token)
	_, banned := a.banned.Load(user)
	if user == "" || strings.HasPrefix(user, "nobody") || (ended || banned) && r.URL.Query().Get("disableCookieCache") == "true" {
		_, _ = io.WriteString(w, "null")
		return
	}
	role, ok := a.roles[user]
	if !ok {
		role = `"user"`
		if strings.HasPrefix(user, "root") {
			role = `"user,admin"`
		}
	}
	member := ""
	if role != "" {
		member = `,"role":` + role
	}
	impersonated := ""
	if strings.HasPrefix(user, "root-as-") {
		impersonated = `,"impersonatedBy":"root"`
	}
	_, _ = fmt.Fprintf(w, `{"session":{"userId":%[1]q,"expiresAt":"2099-01-01T00:00:00Z"%[2]s},"user":{"id":%[1]q,"email":"%[1]s@example.com","emailVerified":true%[3]s}}`, user, impersonated, member)
}

// bearing is the head's line for a token in the cookie.
func bearing(token string) string {
	if token == "" {
		return ""
	}
	return "Cookie: better-auth.session_token=" + token + "\r\n"
}

// from is the head's line with which a trusted peer says who the client is.
func from(address string) string { return "X-Forwarded-For: " + address + "\r\n" }

// client is the n-th of many addresses.
func client(n int) string { return fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255) }

// visitor is a browser of one person: it keeps cookies, says its origin, and follows no
// redirects.
type visitor struct {
	t      *testing.T
	base   string // of the site, such as http://127.0.0.1:8080
	client *http.Client
	jar    http.CookieJar
}

func newVisitor(t *testing.T, base string) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	v := &visitor{t: t, base: base, jar: jar, client: &http.Client{
		Jar: jar, Timeout: hang, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(v.client.CloseIdleConnections)
	return v
}

// do sends a request to a path under /api/auth. A body is JSON; header are names and
// values, an empty value takes the header away.
func (v *visitor) do(method, path, body string, header ...string) (int, http.Header, []byte) {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.base+"/api/auth"+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("Origin", v.base)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	res, err := v.client.Do(r)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, res.Header, b
}

// must is do for a request that has to be answered with 200.
func (v *visitor) must(method, path, body string) []byte {
	v.t.Helper()
	status, _, answer := v.do(method, path, body)
	if status != http.StatusOK {
		v.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

// signedUp is what a sign-up or sign-in answers.
type signedUp struct {
	Token string `json:"token"`
	User  struct{ ID, Email string }
}

// signUp makes an account and is signed in with it.
func (v *visitor) signUp(email string) signedUp {
	v.t.Helper()
	var s signedUp
	answer := v.must("POST", "/sign-up/email", fmt.Sprintf(`{"name":"Somebody","email":%q,"password":"correct horse battery"}`, email))
	if err := json.Unmarshal(answer, &s); err != nil || s.User.ID == "" {
		v.t.Fatalf("%v: %s", err, answer)
	}
	return s
}

// cookies are the visitor's, as a header.
func (v *visitor) cookies() string {
	v.t.Helper()
	u, err := url.Parse(v.base)
	if err != nil {
		v.t.Fatal(err)
	}
	var pairs []string
	for _, c := range v.jar.Cookies(u) {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}
