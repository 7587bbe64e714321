package recorder_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

var quiet = slog.New(slog.DiscardHandler)

// flaky is a memory store that can be told to fail.
type flaky struct {
	*memory.Store
	mu   sync.Mutex
	fail bool
}

func (f *flaky) Write(ctx context.Context, entries ...storage.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail {
		return errors.New("disk full")
	}
	return f.Store.Write(ctx, entries...)
}

func (f *flaky) set(fail bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// server is an auth server whose sessions are cookie=user, and which counts
// questions.
type server struct {
	sessions map[string]string
	any      string // everybody is this user
	token    string // the session's own token
	err      error
	asked    int
	headers  http.Header
	until    []time.Time // when each question ends
}

func (s *server) Ask(r *http.Request) (int, []byte, error) {
	s.asked++
	s.headers = r.Header
	until, _ := r.Context().Deadline()
	s.until = append(s.until, until)
	token := ""
	if c, err := r.Cookie("better-auth.session_token"); err == nil {
		token = c.Value
	}
	if b, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		token = b
	}
	user := cmp.Or(s.any, s.sessions[token])
	if s.err != nil {
		return 0, nil, s.err
	}
	if user == "" {
		return 200, []byte("null"), nil
	}
	return 200, fmt.Appendf(nil, `{"session":{"userId":%q,"token":%q,"expiresAt":"2099-01-01T00:00:00Z"},"user":{"id":%q}}`, user, s.token, user), nil
}

// rig is a recorder with everything around it.
type rig struct {
	*testing.T
	rec    *recorder.Recorder
	store  *flaky
	writer *recorder.Writer
	server *server
	ask    recorder.Asker // in place of server, if it is not nil
}

func newRig(t *testing.T, change func(*recorder.Options)) *rig {
	t.Helper()
	p, err := profile.Builtin("better_auth")
	must(t, err)
	key := make([]byte, 32)
	sessions, err := recorder.NewSessions(p, key)
	must(t, err)
	redactor, err := redact.New(redact.Options{Key: key})
	must(t, err)
	store := &flaky{Store: memory.New(0)}
	o := recorder.Options{Profile: p, Sessions: sessions, Writer: recorder.NewWriter(store, quiet), Redactor: redactor, Logger: quiet, Capture: recorder.Capture{IPAddress: true, UserAgent: true}}
	if change != nil {
		change(&o)
	}
	rec, err := recorder.New(o)
	must(t, err)
	t.Cleanup(func() { _ = o.Writer.Close(context.Background()) })
	return &rig{T: t, rec: rec, store: store, writer: o.Writer, server: &server{sessions: map[string]string{"s-alice": "alice", "s-admin": "admin"}}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do sends one request through the recorder to upstream.
func (g *rig) do(method, path, body string, header http.Header, upstream http.HandlerFunc) *httptest.ResponseRecorder {
	g.Helper()
	return g.doAt(method, "/api/auth"+path, body, header, upstream)
}

// doAt is do for a whole path.
func (g *rig) doAt(method, path, body string, header http.Header, upstream http.HandlerFunc) *httptest.ResponseRecorder {
	g.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if header != nil {
		r.Header = header
	}
	if body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("User-Agent", "rig/1")
	m, ok := g.rec.Profile.Match(method, r.URL)
	if !ok {
		g.Fatalf("%s is not under the base path", path)
	}
	w := httptest.NewRecorder()
	facts := recorder.Facts{ClientIP: "192.0.2.7", RequestID: "req", Asker: g.server}
	if g.ask != nil {
		facts.Asker = g.ask
	}
	x, err := g.rec.Begin(w, r, m, facts)
	if err != nil {
		w.WriteHeader(503)
		return w
	}
	upstream(x.Writer(), r)
	if err := x.End(nil, 0, false); err != nil && w.Body.Len() == 0 {
		w.WriteHeader(503)
	}
	return w
}

// one returns the only entry.
func (g *rig) one() (storage.Entry, map[string]any) {
	g.Helper()
	entries := g.store.Entries()
	if len(entries) != 1 {
		g.Fatalf("%d entries, want 1: %+v", len(entries), entries)
	}
	var m map[string]any
	must(g, json.Unmarshal(entries[0].Metadata, &m))
	return entries[0], m
}

func answers(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func cookie(v string) http.Header {
	return http.Header{"Cookie": {"better-auth.session_token=" + v}}
}

const signedIn = `{"token":"tok-1-of-alice","user":{"id":"alice","email":"alice@example.com"}}`

func TestAFailedSignInNamesTheAccountWithoutTellingIt(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/sign-in/email", `{"email":"Alice@example.com","password":"hunter2"}`, nil, answers(401, `{"message":"Invalid email or password","code":"INVALID"}`))
	e, m := g.one()
	if e.UserID != "" || e.Status != storage.Failed || e.Severity != severity.High || e.IPAddress != "192.0.2.7" || e.UserAgent != "rig/1" {
		t.Errorf("%+v", e)
	}
	want := map[string]any{"status": "UNAUTHORIZED", "code": "INVALID", "message": "Invalid email or password"}
	if fmt.Sprint(m["error"]) != fmt.Sprint(want) || m["identifier"] != "A***@example.com" || m["class"] != "sign-in" || m["source"] != "proxy" || m["requestId"] != "req" {
		t.Errorf("%v", m)
	}
	first := m["identifierHash"]
	g2 := newRig(t, nil)
	g2.do("POST", "/sign-in/email", "email=alice%40EXAMPLE.com&password=x", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, answers(401, `{}`))
	if _, m := g2.one(); m["identifierHash"] != first || first == nil {
		t.Errorf("the same account has two hashes: %v, %v", first, m["identifierHash"])
	}
}

func TestASignInIsTheUserOfTheAnswerAndItsTokensAreRemembered(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/sign-in/email", `{"email":"a@b.c"}`, nil, answers(200, signedIn, "Set-Cookie", "better-auth.session_token=new-cookie-1; Path=/", "Set-Auth-Token", "new-bearer-1"))
	e, m := g.one()
	if e.UserID != "alice" || e.Status != storage.Success || m["identifier"] != nil || g.server.asked != 0 {
		t.Errorf("%+v %v, asked %d times", e, m, g.server.asked)
	}
	for _, h := range []http.Header{cookie("new-cookie-1"), {"Authorization": {"Bearer new-bearer-1"}}, {"Authorization": {"Bearer tok-1-of-alice"}}} {
		g.do("POST", "/update-user", `{}`, h, answers(200, `{"status":true}`))
	}
	for _, e := range g.store.Entries() {
		if e.UserID != "alice" {
			t.Errorf("%s has user %q", e.Action, e.UserID)
		}
	}
	if g.server.asked != 0 {
		t.Errorf("the auth server was asked %d times for what was known", g.server.asked)
	}
}

func TestAFailureAsksInsteadOfRemembering(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/sign-in/email", `{}`, nil, answers(200, signedIn, "Set-Cookie", "better-auth.session_token=gone; Path=/"))
	g.do("POST", "/update-user", `{}`, cookie("gone"), answers(401, `{"code":"UNAUTHORIZED"}`))
	if e := g.store.Entries()[1]; e.UserID != "" || g.server.asked != 1 {
		t.Errorf("user %q, asked %d times: a dead session was believed", e.UserID, g.server.asked)
	}
}

func TestTwoCredentialsAreTheServersToJudge(t *testing.T) {
	g := newRig(t, nil)
	h := cookie("s-alice")
	h.Set("Authorization", "Bearer s-admin")
	g.do("POST", "/update-user", `{}`, h, answers(200, `{"status":true}`))
	if e, _ := g.one(); e.UserID != "admin" || g.server.asked != 1 {
		t.Errorf("user %q, asked %d", e.UserID, g.server.asked)
	}
}

func TestHeadersThatTheUpstreamNeverSeesProveNothing(t *testing.T) {
	g := newRig(t, nil)
	h := cookie("s-alice")
	h.Set("Connection", "keep-alive, Cookie")
	g.do("POST", "/update-user", `{}`, h, answers(401, `{}`))
	if e, _ := g.one(); e.UserID != "" {
		t.Errorf("user %q", e.UserID)
	}
}

func TestALookUpCarriesOnlyCredentials(t *testing.T) {
	g := newRig(t, nil)
	h := cookie("s-alice")
	h.Set("X-Evil", "1")
	h.Set("X-Api-Key", "k")
	g.do("POST", "/sign-out", "", h, answers(200, `{"success":true}`))
	for name := range g.server.headers {
		if name != "Cookie" && name != "X-Api-Key" && name != "Accept" {
			t.Errorf("the look-up has header %s", name)
		}
	}
}

func TestADestructiveRequestIsAnIntentFirst(t *testing.T) {
	g := newRig(t, func(o *recorder.Options) { o.KeepUsers = true })
	g.do("POST", "/delete-user", `{"password":"x"}`, cookie("s-alice"), func(w http.ResponseWriter, r *http.Request) {
		e, m := g.one()
		if e.Status != storage.Unknown || e.UserID != "alice" || m["statusCode"] != nil {
			t.Errorf("the intent is %+v", e)
		}
		delete(g.server.sessions, "s-alice")
		answers(200, `{"success":true,"message":"User deleted"}`)(w, r)
	})
	if e, m := g.one(); e.Status != storage.Success || e.UserID != "alice" || m["statusCode"] != 200.0 || e.Severity != severity.High {
		t.Errorf("the outcome is %+v %v", e, m)
	}
}

func TestAnAdministratorAndTheTargetAreKeptApart(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/admin/ban-user", `{"userId":"bob"}`, cookie("s-admin"), answers(200, `{"user":{"id":"bob"}}`))
	if e, m := g.one(); e.UserID != "admin" || m["targetUserId"] != "bob" || e.Severity != severity.Critical {
		t.Errorf("%+v %v", e, m)
	}
}

func TestAnImpersonationKeepsBoth(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/admin/impersonate-user", `{"userId":"bob"}`, cookie("s-admin"),
		answers(200, `{"session":{"token":"imp","userId":"bob","impersonatedBy":"admin"},"user":{"id":"bob"}}`,
			"Set-Cookie", "better-auth.session_token=; Max-Age=0", "Set-Cookie", "better-auth.session_token=imp-cookie-1; Path=/"))
	if e, m := g.one(); e.UserID != "admin" || m["targetUserId"] != "bob" {
		t.Errorf("%+v %v", e, m)
	}
	g.do("POST", "/update-user", `{}`, cookie("imp-cookie-1"), answers(200, `{"status":true}`))
	e := g.store.Entries()[1]
	if e.UserID != "bob" || !strings.Contains(string(e.Metadata), `"impersonatedBy":"admin"`) {
		t.Errorf("%+v %s", e, e.Metadata)
	}
}

func TestReadsAreRecordedOnlyWhenRefused(t *testing.T) {
	g := newRig(t, nil)
	g.do("GET", "/get-session", "", cookie("s-alice"), answers(200, `{}`))
	g.do("GET", "/nobody/knows/this", "", nil, answers(200, `{}`))
	if n := len(g.store.Entries()); n != 0 {
		t.Errorf("%d entries for reads", n)
	}
	g.do("GET", "/admin/list-users", "", cookie("s-alice"), answers(403, `{"code":"NO"}`))
	if e, _ := g.one(); e.Action != "admin:list-users" || e.UserID != "alice" || e.Severity != severity.High {
		t.Errorf("%+v", e)
	}
}

func TestUnknownPathsAreNamedWithoutTheirSecrets(t *testing.T) {
	for path, want := range map[string]string{
		"/new/route": "new:route", "": "base-path", "/": "base-path", "/verify/AbC123dEf456GhI789jKl": "verify::redacted",
		"/x/" + strings.Repeat("y", 400): "x:" + strings.Repeat("y", 123) + "…",
	} {
		g := newRig(t, nil)
		g.do("POST", path, "", nil, answers(404, ``))
		if e, _ := g.one(); e.Action != want {
			t.Errorf("%s: %q, want %q", path, e.Action, want)
		}
	}
}

func TestAmbiguousPathsAreKeptScrubbed(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/x/../sign-out?token=AbC123dEf456GhI789jKl", "", nil, answers(200, `{}`))
	if e, m := g.one(); e.Action != "sign-out" || !strings.HasPrefix(fmt.Sprint(m["path"]), "/api/auth/x/../sign-out") || strings.Contains(fmt.Sprint(m["path"]), "AbC123") {
		t.Errorf("%+v %v", e, m)
	}
}

// TestAnAmbiguousPathShowsNoMoreThanAnAction: the spelling is what is to be seen.
func TestAnAmbiguousPathShowsNoMoreThanAnAction(t *testing.T) {
	for path, want := range map[string]string{
		"//verify-otp/493021":              "/api/auth//verify-otp/:redacted",
		"//verify/alice%40example.com/123": "/api/auth//verify/:redacted/123",
		"//reset-password/Ab3dEf?x=1":      "/api/auth//reset-password/:token?x=1",
		"//invite/x7Kp2QzR/accept":         "/api/auth//invite/:redacted/accept",
		"//sign-out/%2e%2E/sign-out":       "/api/auth//sign-out/%2e%2E/sign-out",
		"//verify-email?email=alice@example.com&login_hint=bob%40example.org&t=Ab12Cd34": "/api/auth//verify-email?email=[REDACTED]&login_hint=[REDACTED]&t=[REDACTED]",
		"//callback/github?error=access_denied&provider=github&a[b]=c;d=e":               "/api/auth//callback/:id?error=access_denied&provider=github&a[b]=[REDACTED];d=[REDACTED]",
		"//sign-out?alice@example.com&alice%40example.com=&page=2&=&":                    "/api/auth//sign-out?[REDACTED]&[REDACTED]=&page=2&=&",
		"//sign-out;t=Ab12Cd34;x=1?error=Ab12Cd34Ef56Gh78&provider=a%40b.de":             "/api/auth//sign-out;t=[REDACTED];x=1?error=[REDACTED]&provider=[REDACTED]",
	} {
		g := newRig(t, nil)
		g.do("POST", path, "", nil, answers(404, ``))
		if e, m := g.one(); m["path"] != want {
			t.Errorf("%s: %s shows %v, want %s", path, e.Action, m["path"], want)
		}
	}
}

func TestCapturedBodiesAreRedactedOrExplained(t *testing.T) {
	for _, c := range []struct{ media, body, want string }{
		{"application/json", `{"email":"a@b.c","nested":{"password":"hunter2"}}`, `{"email":"a@b.c","nested":{"password":"[REDACTED]"}}`},
		{"application/x-www-form-urlencoded", `email=a%40b.c&password=hunter2`, `{"email":"a@b.c","password":"[REDACTED]"}`},
		{"application/json", `{"password":"hunter2`, `"unparsed"`},
		{"text/plain", `hunter2`, `"unparsed"`},
		{"application/json", `{"x":"` + strings.Repeat("y", 70000) + `"}`, `{"unparsed":"longer than the limit","bytes":70008}`},
	} {
		g := newRig(t, func(o *recorder.Options) { o.Capture.RequestBody = true })
		g.do("POST", "/update-user", c.body, http.Header{"Content-Type": {c.media}}, answers(200, `{}`))
		e, _ := g.one()
		if !strings.Contains(string(e.Metadata), c.want) || strings.Contains(string(e.Metadata), "hunter2") {
			t.Errorf("%s %.40s: %s", c.media, c.body, e.Metadata)
		}
	}
}

func TestAStoreThatFailsRefusesOnlyWhatMustNotHappenUnrecorded(t *testing.T) {
	for _, c := range []struct {
		fail   recorder.FailPolicy
		path   string
		served bool
		status int
	}{
		{recorder.FailDefault, "/delete-user", false, 503},
		{recorder.FailDefault, "/admin/remove-user", false, 503},
		{recorder.FailDefault, "/sign-out", true, 200},
		{recorder.FailDefault, "/revoke-sessions", true, 200},
		{recorder.FailDefault, "/sign-in/email", true, 200},
		{recorder.FailOpen, "/delete-user", true, 200},
		{recorder.FailClosed, "/sign-out", true, 200},
		{recorder.FailClosed, "/sign-in/email", true, 503},
	} {
		g := newRig(t, func(o *recorder.Options) { o.Fail = c.fail })
		g.store.set(true)
		served := false
		w := g.do("POST", c.path, `{}`, cookie("s-alice"), func(w http.ResponseWriter, r *http.Request) {
			served = true
			answers(200, signedIn, "Set-Cookie", "better-auth.session_token=secret; Path=/", "Set-Auth-Token", "secret")(w, r)
		})
		if served != c.served || w.Code != c.status {
			t.Errorf("%d %s: served %v, status %d, want %v, %d", c.fail, c.path, served, w.Code, c.served, c.status)
		}
		if w.Code == 503 && strings.Contains(fmt.Sprint(w.Result().Header, w.Body), "secret") {
			t.Errorf("%s: a refused answer carries %v %s", c.path, w.Result().Header, w.Body)
		}
		g.store.set(false)
		must(t, g.writer.Close(t.Context()))
		if w.Code == 503 && served && !strings.Contains(string(g.store.Entries()[0].Metadata), `"withheld":true`) {
			t.Errorf("%s: the entry does not say that the answer was withheld: %s", c.path, g.store.Entries()[0].Metadata)
		}
		if served && len(g.store.Entries()) != 1 {
			t.Errorf("%s: %d entries after the store came back", c.path, len(g.store.Entries()))
		}
	}
}

func TestAsyncWritesInTheBackgroundInOrder(t *testing.T) {
	g := newRig(t, func(o *recorder.Options) { o.Durability = recorder.Async })
	g.do("POST", "/delete-user", `{}`, cookie("s-alice"), answers(200, `{"message":"User deleted"}`))
	g.do("POST", "/sign-in/email", `{}`, nil, answers(200, signedIn))
	must(t, g.writer.Close(t.Context()))
	entries := g.store.Entries()
	if len(entries) != 2 || entries[0].Status != storage.Success || entries[1].UserID != "alice" {
		t.Errorf("%+v", entries)
	}
}

// TestAFullQueueSaysHowMuchIsMissing fills the queue while the store fails, with
// a clock that the test owns.
func TestAFullQueueSaysHowMuchIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &flaky{Store: memory.New(100000), fail: true}
		w := recorder.NewWriter(store, quiet)
		const sent = 12000
		accepted := 0
		for range sent {
			e := storage.Entry{Action: "x"}
			e.Sanitize()
			if w.Enqueue(storage.Commit, e, nil) {
				accepted++
			}
		}
		time.Sleep(time.Minute) // many tries later
		store.set(false)
		time.Sleep(10 * time.Second)
		must(t, w.Close(t.Context()))
		var stored, missing int
		for _, e := range store.Entries() {
			if e.Action != "audit-log:dropped" {
				stored++
				continue
			}
			var m struct{ Count int }
			must(t, json.Unmarshal(e.Metadata, &m))
			missing += m.Count
		}
		if stored != accepted || stored+missing != sent || missing == 0 || int(w.Stats().Dropped) != missing {
			t.Errorf("sent %d, accepted %d, stored %d, said missing %d, counted %d", sent, accepted, stored, missing, w.Stats().Dropped)
		}
	})
}

// TestAFullQueueRefusesWhatDestroys: with Async, what fails closed is not done without a place for
// its entry; everything else goes on.
func TestAFullQueueRefusesWhatDestroys(t *testing.T) {
	for _, c := range []struct {
		path    string
		fail    recorder.FailPolicy
		refused bool
	}{
		{"/delete-user", recorder.FailDefault, true},
		{"/admin/remove-user", recorder.FailDefault, true},
		{"/delete-user", recorder.FailOpen, false},
		{"/sign-out", recorder.FailDefault, false},
		{"/sign-in/email", recorder.FailDefault, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, func(o *recorder.Options) { o.Durability, o.Fail = recorder.Async, c.fail })
			g.store.set(true)
			filler := storage.Entry{Action: "x"}
			filler.Sanitize()
			for g.writer.Offer(storage.Commit, filler, nil) {
				time.Sleep(time.Microsecond)
			}
			served := false
			answer := g.do("POST", c.path, `{}`, cookie("s-admin"), func(w http.ResponseWriter, r *http.Request) {
				served = true
				answers(200, `{}`)(w, r)
			})
			if served == c.refused || (answer.Code == http.StatusServiceUnavailable) != c.refused {
				t.Errorf("%s: served %v, answered %d", c.path, served, answer.Code)
			}
			g.store.set(false)
			must(t, g.writer.Close(t.Context()))
			events, intents := 0, 0
			for _, e := range g.store.Entries() {
				switch {
				case e.Action == "x" || e.Action == "audit-log:dropped":
				case e.Status == storage.Unknown:
					intents++
				default:
					events++
				}
			}
			if dropped := g.writer.Stats().Dropped; uint64(events)+dropped != 1 || intents > 0 {
				t.Errorf("%s: %d entries, %d dropped, %d intents; want one event", c.path, events, dropped, intents)
			}
		})
	}
}

func target(path string) *url.URL {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		panic(err)
	}
	return u
}
