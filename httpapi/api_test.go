package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

const base = "http://auth.example.com/api/auth/audit-log"

func entryOf(user, action string) storage.Entry {
	e := storage.Entry{UserID: user, Action: action, Status: storage.Success, Severity: severity.Medium, UserAgent: "secret-agent", IPAddress: "203.0.113.9"}
	e.Sanitize()
	return e
}

// writeLarge writes n entries of alice with so many bytes of metadata.
func writeLarge(t *testing.T, store storage.Store, action string, n, size int) {
	t.Helper()
	for range n {
		e := entryOf("alice", action)
		e.Metadata = fmt.Appendf(nil, `{"p":%q}`, strings.Repeat("x", size))
		must(t, store.Write(t.Context(), e))
	}
}

func get(path string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, base+path, nil)
	r.Header.Set("Cookie", "better-auth.session_token=x")
	return r
}

func insert(body string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, base+"/insert", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cookie", "better-auth.session_token=x")
	r.Header.Set("Origin", "https://auth.example.com")
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	return r
}

func TestForeignAndMissingEntriesAreTheSame(t *testing.T) {
	store := memory.New(0)
	own, foreign, nobody := entryOf("alice", "sign-out"), entryOf("bob", "sign-out"), entryOf("", "sign-in:email")
	must(t, store.Write(t.Context(), own, foreign, nobody))
	api := newAPI(t, store)
	missing := api.do(t, get("/"+storage.NewID()), "alice", "192.0.2.1")
	for _, e := range []storage.Entry{foreign, nobody} {
		got := api.do(t, get("/"+e.ID), "alice", "192.0.2.1")
		if got.Code != 404 || got.Body.String() != missing.Body.String() || fmt.Sprint(got.Header()) != fmt.Sprint(missing.Header()) {
			t.Errorf("an entry of %q: %d %s, a missing one %d %s", e.UserID, got.Code, got.Body, missing.Code, missing.Body)
		}
	}
	if got := api.do(t, get("/"+own.ID), "alice", "192.0.2.1"); got.Code != 200 || strings.Contains(got.Body.String(), "secret-agent") {
		t.Errorf("the own entry: %d %s", got.Code, got.Body)
	}
	for _, q := range []string{"?userId=bob", "?userId=", "?userId=ALICE", "?userId=alice&userId=bob"} {
		if got := api.do(t, get("/list"+q), "alice", "192.0.2.1"); got.Code != 403 && got.Code != 400 || strings.Contains(got.Body.String(), foreign.ID) {
			t.Errorf("list%s: %d %s", q, got.Code, got.Body)
		}
	}
	got := api.do(t, get("/list"), "alice", "192.0.2.1")
	if strings.Contains(got.Body.String(), foreign.ID) || strings.Contains(got.Body.String(), nobody.ID) || !strings.Contains(got.Body.String(), own.ID) {
		t.Errorf("the list shows %s", got.Body)
	}
	if h := got.Header(); h.Get("Cache-Control") != "no-store, private" || h.Get("Vary") != "Cookie, Authorization" {
		t.Errorf("headers %v", h)
	}
}

func TestInsertsFromOtherSitesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		header []string
		want   int
	}{
		{"same origin", nil, 200},
		{"same origin over http behind a TLS terminator", []string{"Origin", "http://auth.example.com"}, 200},
		{"no origin", []string{"Origin", ""}, 403},
		{"null origin", []string{"Origin", "null"}, 403},
		{"foreign origin", []string{"Origin", "https://evil.example"}, 403},
		{"sibling subdomain", []string{"Origin", "https://x.auth.example.com"}, 403},
		{"origin with the host as user", []string{"Origin", "https://auth.example.com@evil.example"}, 403},
		{"bearer without cookie or origin", []string{"Cookie", "", "Origin", "", "Authorization", "Bearer t"}, 200},
		{"text/plain", []string{"Content-Type", "text/plain"}, 415},
		{"form", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"no media type", []string{"Content-Type", ""}, 415},
		{"JSON with charset", []string{"Content-Type", "Application/JSON; charset=utf-8"}, 200},
	} {
		store := memory.New(0)
		got := newAPI(t, store).do(t, insert(`{"action":"custom:x"}`, c.header...), "alice", "192.0.2.1")
		if got.Code != c.want || (len(store.Entries()) == 1) != (c.want == 200) {
			t.Errorf("%s: %d %s, %d entries", c.name, got.Code, got.Body, len(store.Entries()))
		}
	}
}

// heard are the entries that an observer heard of.
type heard struct{ written, failed []storage.Entry }

func (h *heard) EntryWritten(e storage.Entry) { h.written = append(h.written, e) }
func (h *heard) WriteFailed(_ error, entries []storage.Entry) {
	h.failed = append(h.failed, entries...)
}

// TestAnInsertIsAnEntryLikeOthers: who hears of entries hears of it, and what is not captured is not
// taken from whoever inserts either.
func TestAnInsertIsAnEntryLikeOthers(t *testing.T) {
	store := memory.New(0)
	api, observer := newAPI(t, store), new(heard)
	api.Options.WithoutAddress, api.Options.WithoutAgent, api.Options.Observer = true, true, observer
	if got := api.do(t, insert(`{"action":"custom:x"}`, "User-Agent", "agent/1"), "alice", "192.0.2.1"); got.Code != 200 {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	if e := store.Entries()[0]; e.IPAddress != "" || e.UserAgent != "" {
		t.Errorf("kept %+v", e)
	}
	if len(observer.written) != 1 || observer.written[0].ID != store.Entries()[0].ID || len(observer.failed) != 0 {
		t.Errorf("heard of %+v", observer)
	}
}

func TestAnInsertIsMarkedAndRedacted(t *testing.T) {
	store := memory.New(0)
	api := newAPI(t, store)
	body := `{"action":"custom:export","userId":"bob","ipAddress":"1.2.3.4","createdAt":"2001-01-01T00:00:00Z","id":"x","metadata":{"password":"hunter2","source":"proxy","n":9007199254740993,"nul":"a\u0000b"}}`
	if got := api.do(t, insert(body), "alice", "192.0.2.1"); got.Code != 200 || got.Body.String() != `{"success":true}` {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	e := store.Entries()[0]
	if e.UserID != "alice" || e.IPAddress != "192.0.2.1" || e.ID == "x" || e.CreatedAt.Year() < 2020 {
		t.Errorf("spoofed: %+v", e)
	}
	m := string(e.Metadata)
	var v map[string]any
	must(t, json.Unmarshal(e.Metadata, &v))
	if strings.Contains(m, "hunter2") || v["source"] != "api" || !strings.Contains(m, "9007199254740993") || strings.Contains(m, `\u0000`) {
		t.Errorf("metadata %s", m)
	}
}

// TestAnInsertPosesAsNoCapturedEntry: who lists deleted accounts finds those alone.
func TestAnInsertPosesAsNoCapturedEntry(t *testing.T) {
	for metadata, want := range map[string]string{
		`{"class":"account","n":1}`:               `{"source":"api","n":1}`,
		`{"class":"x","cl\u0061ss":"sign-in"}`:    `{"source":"api","class":"x"}`,
		`{"class":"custom","targetUserId":"bob"}`: `{"source":"api","class":"custom","targetUserId":"bob"}`,
		`{"class":["account"]}`:                   `{"source":"api","class":["account"]}`,
	} {
		store := memory.New(0)
		if got := newAPI(t, store).do(t, insert(`{"action":"deleted","metadata":`+metadata+`}`), "alice", "192.0.2.1"); got.Code != 200 {
			t.Fatalf("%d %s", got.Code, got.Body)
		}
		if got := string(store.Entries()[0].Metadata); got != want {
			t.Errorf("%s is stored as %s, want %s", metadata, got, want)
		}
	}
}

// TestAnInsertNamesTheAdministratorWhoImpersonates: and nobody else does.
func TestAnInsertNamesTheAdministratorWhoImpersonates(t *testing.T) {
	for _, c := range []struct{ who, metadata, want string }{
		{"impersonating", `null`, `{"source":"api","impersonatedBy":"mallory"}`},
		{"impersonating", `{"n":1}`, `{"source":"api","impersonatedBy":"mallory","n":1}`},
		{"impersonating", `{"impersonatedBy":"bob","impersonated\u0042y":null}`, `{"source":"api","impersonatedBy":"mallory"}`},
		{"impersonating", `{}`, `{"source":"api","impersonatedBy":"mallory"}`},
		{"user", `{"impersonatedBy":"bob","n":1}`, `{"source":"api","n":1}`},
	} {
		store := memory.New(0)
		api, w := newAPI(t, store), httptest.NewRecorder()
		body := strings.Replace(`{"action":"x","metadata":`+c.metadata+`}`, `,"metadata":null`, "", 1)
		api.Serve(w, insert(body), httpapi.Call{Path: "/insert", ClientIP: "192.0.2.1", Asker: identities[c.who], Store: api.store, Writer: api.writer})
		if w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if got := string(store.Entries()[0].Metadata); got != c.want {
			t.Errorf("%s of %s is stored as %s, want %s", c.metadata, c.who, got, c.want)
		}
	}
}

// TestAClientThatLeavesIsNoFailureOfTheStore.
func TestAClientThatLeavesIsNoFailureOfTheStore(t *testing.T) {
	var said bytes.Buffer
	api := httpapi.NewOperator(httpapi.OperatorOptions{Logger: slog.New(slog.NewTextHandler(&said, nil))})
	ctx, leave := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, leave)
	w := httptest.NewRecorder()
	api.Handler(slow{}).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/list", nil))
	if ctx.Err() == nil || said.Len() > 0 || w.Code != http.StatusServiceUnavailable {
		t.Errorf("it answers %d and says: %s", w.Code, said.String())
	}
}

// TestMetadataOfTheWholeLimitIsStoredWhole: what is accepted must not be cut
// afterwards.
func TestMetadataOfTheWholeLimitIsStoredWhole(t *testing.T) {
	store := memory.New(0)
	value := strings.Repeat("x y ", (64<<10)/4-2)
	body := fmt.Sprintf(`{"action":"custom:big","metadata":{"p":%q}}`, value)
	if got := newAPI(t, store).do(t, insert(body), "alice", "192.0.2.1"); got.Code != 200 {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	var m struct{ P string }
	must(t, json.Unmarshal(store.Entries()[0].Metadata, &m))
	if m.P != value {
		t.Errorf("%d bytes came in, %d were stored: %.100s", len(value), len(m.P), store.Entries()[0].Metadata)
	}
}

func TestCapturedActionsCannotBeForged(t *testing.T) {
	for _, action := range []string{"admin:ban-user", "sign-in:email", "/sign-in/email", " Sign-In:Email ", "sign-in/email/", "audit-log:dropped", "/Audit-Log/stopped", "reset-password::token"} {
		store := memory.New(0)
		b, _ := json.Marshal(map[string]string{"action": action})
		if got := newAPI(t, store).do(t, insert(string(b)), "alice", "192.0.2.1"); got.Code != 400 || len(store.Entries()) != 0 {
			t.Errorf("%q: %d %s", action, got.Code, got.Body)
		}
	}
}

func TestSixtyRequestsAMinuteForOneClientAndOneUser(t *testing.T) {
	api := newAPI(t, memory.New(0))
	allowed := func(ip func(int) string, user func(int) string) (n int) {
		for i := range 130 {
			r := get("/list")
			r.Header.Set("Cookie", "better-auth.session_token="+user(i))
			if api.do(t, r, user(i), ip(i)).Code == 200 {
				n++
			}
		}
		return n
	}
	one := func(s string) func(int) string { return func(int) string { return s } }
	many := func(format string) func(int) string { return func(i int) string { return fmt.Sprintf(format, i) } }
	for _, c := range []struct {
		name     string
		ip, user func(int) string
	}{
		{"one address, many users", one("198.51.100.1"), many("u%d")},
		{"one IPv6 network, many addresses", many("2001:db8:1:2::%x"), many("v%d")},
		{"one user, many addresses", many("203.0.113.%d"), one("y")},
		{"one address in two spellings", func(i int) string { return []string{"198.51.100.2", "::ffff:198.51.100.2"}[i%2] }, many("w%d")},
	} {
		if n := allowed(c.ip, c.user); n < 60 || n > 63 { // a second or two may pass
			t.Errorf("%s: %d of 130 were allowed", c.name, n)
		}
	}
	r := api.do(t, get("/list"), "x", "198.51.100.1")
	if r.Code != 429 || r.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", r.Code, r.Header())
	}
}

// onlyWrites is a store without optional abilities; broken fails.
type onlyWrites struct{}

func (onlyWrites) Write(context.Context, ...storage.Entry) error { return nil }

type broken struct{ storage.Store }

func (broken) Write(context.Context, ...storage.Entry) error { return fmt.Errorf("disk on fire") }
func (broken) List(context.Context, storage.Query) (storage.Page, error) {
	return storage.Page{}, fmt.Errorf("disk on fire")
}
func (broken) Get(context.Context, string) (storage.Entry, error) {
	return storage.Entry{}, fmt.Errorf("disk on fire")
}

func TestWhatAStoreCannotDoIsSaid(t *testing.T) {
	for _, c := range []struct {
		store storage.Store
		r     *http.Request
		want  int
	}{
		{onlyWrites{}, get("/list"), 501}, {onlyWrites{}, get("/some-id"), 501}, {onlyWrites{}, insert(`{"action":"x"}`), 200},
		{broken{}, get("/list"), 500}, {broken{}, get("/some-id"), 500}, {broken{}, insert(`{"action":"x"}`), 500},
		{memory.New(0), get("/list?cursor=nonsense"), 400},
	} {
		got := newAPI(t, c.store).do(t, c.r, "alice", "192.0.2.1")
		var e struct{ Message, Code string }
		if got.Code != c.want || got.Code != 200 && (json.Unmarshal(got.Body.Bytes(), &e) != nil || e.Message == "" || e.Code == "") || strings.Contains(got.Body.String(), "fire") {
			t.Errorf("%T %s: %d %s", c.store, c.r.URL.Path, got.Code, got.Body)
		}
	}
}

// answers is an auth server that says one thing.
type answers struct {
	status int
	body   string
	err    error
}

func (a answers) Ask(*http.Request) (int, []byte, error) { return a.status, []byte(a.body), a.err }

func TestOnlyAClearYesIsASession(t *testing.T) {
	good := `{"session":{"userId":"u","expiresAt":"2099-01-01T00:00:00Z"},"user":{"id":"u"}}`
	for _, c := range []struct {
		asker answers
		want  int
	}{
		{answers{200, good, nil}, 200},
		{answers{200, "null", nil}, 401},
		{answers{200, "{}", nil}, 401},
		{answers{200, "<html>", nil}, 503},
		{answers{200, "", nil}, 503},
		{answers{200, strings.Replace(good, `"id":"u"`, `"id":7`, 1), nil}, 401},
		{answers{200, strings.Replace(good, `"id":"u"`, `"id":{"u":1}`, 1), nil}, 401},
		{answers{200, strings.Replace(good, `"userId":"u"`, `"userId":"v"`, 1), nil}, 401},
		{answers{200, strings.Replace(good, `2099`, `2001`, 1), nil}, 401},
		{answers{204, good, nil}, 401},
		{answers{302, good, nil}, 401},
		{answers{401, good, nil}, 401},
		{answers{403, good, nil}, 401},
		{answers{429, good, nil}, 503},
		{answers{500, good, nil}, 503},
		{answers{0, "", fmt.Errorf("connection refused")}, 503},
	} {
		api := newAPI(t, memory.New(0))
		w := httptest.NewRecorder()
		api.Serve(w, get("/list"), httpapi.Call{Path: "/list", Asker: c.asker, Store: api.store, Writer: api.writer})
		if w.Code != c.want {
			t.Errorf("%+v: %d %s, want %d", c.asker, w.Code, w.Body, c.want)
		}
	}
}

func TestNoCredentialsMeansNoQuestion(t *testing.T) {
	api := newAPI(t, memory.New(0))
	r := get("/list")
	r.Header = http.Header{"Connection": {"Cookie"}, "Cookie": {"better-auth.session_token=x"}}
	w := httptest.NewRecorder()
	api.Serve(w, r, httpapi.Call{Path: "/list", Asker: answers{err: fmt.Errorf("asked")}, Store: api.store, Writer: api.writer})
	if w.Code != 401 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestOnlyOneSpellingIsTheAPI(t *testing.T) {
	p, err := profile.Builtin("better_auth")
	must(t, err)
	for target, want := range map[string]string{
		"/api/auth/audit-log/list": "mine /list", "/api/auth/audit-log": "mine ", "/api/auth/audit-log/a%2Fb": "mine /a%2Fb",
		"/api/auth/audit-log/../sign-out": "ambiguous", "/api/auth/audit-log/%2e%2E/sign-out": "ambiguous", "/api/auth/audit-log/.": "ambiguous",
		"/api/auth/audit-logs": "no", "/api/auth/AUDIT-LOG/list": "no", "/api/auth//audit-log/list": "no", "/audit-log/list": "no",
	} {
		u, err := url.ParseRequestURI(target)
		must(t, err)
		path, mine, ambiguous := httpapi.Path(p, u)
		got := "no"
		if mine {
			got = "mine " + path
		}
		if ambiguous {
			got = "ambiguous"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, q := range []string{"limit=1e2&offset=0x10", "from=2026&to=garbage", "status=failed&status=x", "limit=%zz", "cursor=AQ", "userId=a;b"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, problems := httpapi.ParseQuery(raw)
		if len(problems) == 0 && (q.Limit < 1 || q.Limit > storage.MaxLimit || q.Offset < 0) {
			t.Errorf("%q: limit %d, offset %d", raw, q.Limit, q.Offset)
		}
	})
}

func TestOnlyTrustedOriginsGetCORS(t *testing.T) {
	api := newAPI(t, memory.New(0))
	api.TrustedOrigins = []string{"https://app.example.com"}
	for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.example": "", "https://app.example.com.evil.example": "", "null": "", "": ""} {
		pre := httptest.NewRequest(http.MethodOptions, base+"/insert", nil)
		pre.Header.Set("Access-Control-Request-Method", "POST")
		for _, r := range []*http.Request{pre, get("/list"), insert(`{"action":"custom:x"}`)} {
			r.Header.Set("Origin", origin)
			got := api.do(t, r, "alice", "192.0.2.1")
			if allowed := got.Header().Get("Access-Control-Allow-Origin"); allowed != want {
				t.Errorf("%s from %q: allowed %q", r.Method, origin, allowed)
			}
			if r == pre && (got.Code == 204) != (want != "") {
				t.Errorf("preflight from %q: %d", origin, got.Code)
			}
			if r.Method == http.MethodPost && (got.Code == 200) != (want != "") {
				t.Errorf("insert from %q: %d", origin, got.Code)
			}
		}
	}
}

// TestAPageIsBoundedInBytes: the next one begins where it ends.
func TestAPageIsBoundedInBytes(t *testing.T) {
	store := memory.New(0)
	const n = 100
	writeLarge(t, store, "big", n, 60<<10)
	api := newAPI(t, store)
	seen, pages := map[string]bool{}, 0
	for cursor := ""; ; pages++ {
		got := api.do(t, get("/list?limit=500&cursor="+cursor), "alice", "192.0.2.1")
		var page struct {
			Entries    []struct{ ID string }
			Total      int
			NextCursor string
		}
		if err := json.Unmarshal(got.Body.Bytes(), &page); err != nil || got.Code != 200 {
			t.Fatal(got.Code, err)
		}
		if got.Body.Len() > 5<<20 || page.Total != n {
			t.Errorf("a page of %d bytes, of %d entries", got.Body.Len(), page.Total)
		}
		for _, e := range page.Entries {
			seen[e.ID] = true
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(seen) != n || pages != 1 {
		t.Errorf("%d entries in %d pages", len(seen), pages+1)
	}
}

// weighed is a store that notes how much metadata one answer had.
type weighed struct {
	*memory.Store
	most, asked int
}

func (w *weighed) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	page, err := w.Store.List(ctx, q)
	size := 0
	for i := range page.Entries {
		size += len(page.Entries[i].Metadata)
	}
	w.most, w.asked = max(w.most, size), w.asked+1
	return page, err
}

// TestALargePageIsReadInParts: what does not fit into a page is not in memory either.
func TestALargePageIsReadInParts(t *testing.T) {
	store := &weighed{Store: memory.New(0)}
	for i := range 300 {
		e := storage.Entry{ID: storage.NewID(), UserID: "alice", Action: "custom:x", CreatedAt: time.Now().Add(-time.Duration(i) * time.Second), Metadata: json.RawMessage(`{"class":"custom","text":"` + strings.Repeat("x", 64<<10) + `"}`)}
		e.Sanitize()
		must(t, store.Write(t.Context(), e))
	}
	api, seen, cursor := newAPI(t, store), map[string]bool{}, ""
	for pages := 0; ; pages++ {
		r := httptest.NewRequest(http.MethodGet, "https://auth.example.com/api/auth/audit-log/list?limit=500"+cursor, nil)
		r.Header.Set("Cookie", "better-auth.session_token=s")
		got := api.do(t, r, "alice", fmt.Sprintf("192.0.2.%d", pages))
		var page struct {
			Entries    []struct{ ID string }
			Total      int
			NextCursor string
		}
		if err := json.Unmarshal(got.Body.Bytes(), &page); err != nil || got.Code != 200 || page.Total != 300 || got.Body.Len() > 5<<20 {
			t.Fatalf("%d, %d bytes, total %d, %v", got.Code, got.Body.Len(), page.Total, err)
		}
		for _, e := range page.Entries {
			if seen[e.ID] {
				t.Errorf("%s comes twice", e.ID)
			}
			seen[e.ID] = true
		}
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + page.NextCursor
	}
	if len(seen) != 300 || store.most > 5<<20 {
		t.Errorf("%d entries came, and %d bytes of them at once", len(seen), store.most)
	}
}
