package httpapi_test

import (
	"bufio"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// recorded is one exchange with the plugin's own API.
type recorded struct {
	Config, Flow string
	Seq          int
	Request      struct {
		Method, Path, Body string
		Headers            http.Header
	}
	Response struct {
		Status int
		Body   string
	}
	Truth struct {
		RequestSessionUserID string `json:"requestSessionUserId"`
	}
}

// deliberate lists the flows that we answer differently on purpose; each is in
// docs/plugin-differences.md.
var deliberate = map[string]string{
	"401/insert-no-session-invalid-body": "401 before 400",
	"401/list-no-session-invalid-query":  "401 before 400",
	"list/limit=1.5":                     "not a whole number is 400 (the plugin: 200 or 500)",
	"list/offset=1.5":                    "not a whole number is 400 (the plugin: 200 or 500)",
	"list/from-garbage":                  "an invalid date is 400 (the plugin: ignored, or 500)",
	"list/to-garbage":                    "an invalid date is 400 (the plugin: ignored, or 500)",
	"list/from-plus-unescaped":           "an invalid date is 400 (the plugin: ignored, or 500)",
	"list/from-epoch-ms-string":          "milliseconds are a date (the plugin: ignored, or 500)",
	"list/action-empty":                  "an empty filter filters nothing (the plugin: depends on the store)",
	"list/status-bad":                    "the message names pending and unknown too",
	"list/status-empty":                  "the message names pending and unknown too",
	"list/status-SUCCESS":                "the message names pending and unknown too",
	"list/status-failure":                "the message names pending and unknown too",
	"list/status-repeated":               "the message names pending and unknown too",
	"list/severity-param-ignored":        "severity is a filter",
	"list/multiple-errors":               "the message names pending and unknown too",
	"insert/long-action":                 "an action has at most 128 bytes",
	"insert/slash-action":                "a captured action cannot be inserted",
	"client/readme-listAuditLogs":        "the README's client call works",
	"client/readme-getAuditLog":          "the README's client call works",
	"client/readme-insertAuditLog":       "the README's client call works, but a captured action cannot be inserted",
}

// asker answers for the auth server: the session's user as the recording proves.
type asker struct{ user string }

func (a asker) Ask(*http.Request) (int, []byte, error) {
	if a.user == "" {
		return 200, []byte("null"), nil
	}
	b, err := json.Marshal(map[string]any{
		"session": map[string]any{"userId": a.user, "expiresAt": time.Now().Add(time.Hour)},
		"user":    map[string]any{"id": a.user, "role": "user"},
	})
	return 200, b, err
}

type apiUnderTest struct {
	*httpapi.API
	profile  *profile.Profile
	store    storage.Store
	writer   *recorder.Writer
	sessions *recorder.Sessions
}

func newAPI(t testing.TB, store storage.Store) *apiUnderTest {
	t.Helper()
	p, err := profile.Builtin("better_auth")
	must(t, err)
	key := make([]byte, 32)
	sessions, err := recorder.NewSessions(p, key)
	must(t, err)
	redactor, err := redact.New(redact.Options{Key: key, MaxBytes: 80 << 10})
	must(t, err)
	limiter, err := httpapi.NewLimiter()
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	w := recorder.NewWriter(store, log)
	t.Cleanup(func() { must(t, w.Close(t.Context())) })
	return &apiUnderTest{httpapi.New(httpapi.Options{Profile: p, Sessions: sessions, Redactor: redactor, Logger: log, Limiter: limiter}), p, store, w, sessions}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do sends a request as user to the API, from the given address.
func (a *apiUnderTest) do(t *testing.T, r *http.Request, user, ip string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	path, mine, ambiguous := httpapi.Path(a.profile, r.URL)
	if !mine || ambiguous {
		t.Fatalf("%s: mine %v, ambiguous %v", r.URL, mine, ambiguous)
	}
	a.Serve(w, r, httpapi.Call{Path: path, ClientIP: ip, Asker: asker{user}, Store: a.store, Writer: a.writer})
	return w
}

func load(t *testing.T) []recorded {
	t.Helper()
	f, err := os.Open("../testdata/traffic/better-auth/audit-log-api.jsonl")
	must(t, err)
	defer func() { _ = f.Close() }()
	var out []recorded
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var r recorded
		must(t, json.Unmarshal(lines.Bytes(), &r))
		if strings.Contains(r.Request.Path, "/audit-log") {
			out = append(out, r)
		}
	}
	must(t, lines.Err())
	return out
}

// fixtures are the entries that the recording's lists show before 2026-01-02.
func fixtures(t *testing.T, all []recorded, config string) []storage.Entry {
	t.Helper()
	for _, r := range all {
		var page struct{ Entries []storage.Entry }
		if r.Config == config && r.Flow == "client/working-get" {
			var e storage.Entry
			must(t, json.Unmarshal([]byte(r.Response.Body), &e))
			return []storage.Entry{e}
		}
		if r.Config == config && r.Flow == "list/fixture-only" {
			must(t, json.Unmarshal([]byte(r.Response.Body), &page))
			for i := range page.Entries {
				page.Entries[i].Sanitize()
			}
			return page.Entries
		}
	}
	t.Fatalf("no fixtures in %s", config)
	return nil
}

func (r *recorded) request(t *testing.T) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(r.Request.Path)
	must(t, err)
	req := httptest.NewRequest(r.Request.Method, "/", strings.NewReader(r.Request.Body))
	req.URL, req.Header, req.Host = u, r.Request.Headers, r.Request.Headers.Get("Host")
	return req
}

// TestTheAPIAnswersAsThePlugin replays what was recorded from the plugin's API
// and compares status and body.
func TestTheAPIAnswersAsThePlugin(t *testing.T) {
	all := load(t)
	compared, differ := 0, map[string]bool{}
	for _, config := range []string{"storage=MemoryStorage", "storage=none (database adapter: SQLite via kysely)", "storage=MemoryStorage; better-auth/client + auditLogClient()"} {
		store := memory.New(0)
		must(t, store.Write(t.Context(), fixtures(t, all, config)...))
		for i := range all {
			r := &all[i]
			if r.Config != config {
				continue
			}
			api := newAPI(t, store) // a fresh rate limit for each
			got := api.do(t, r.request(t), r.Truth.RequestSessionUserID, "203.0.113.7")
			compared++
			problem := r.compare(t, got)
			_, expected := deliberate[r.Flow]
			if problem != "" {
				differ[r.Flow] = true
			}
			if problem != "" && !expected {
				t.Errorf("%s %s (%s %s): %s", config, r.Flow, r.Request.Method, r.Request.Path, problem)
			}
		}
	}
	for flow, reason := range deliberate {
		if !differ[flow] {
			t.Errorf("%s is listed as a deliberate difference (%s) but is the same", flow, reason)
		}
	}
	t.Logf("%d recorded calls compared, %d flows differ on purpose", compared, len(differ))
	if compared < 200 {
		t.Errorf("only %d calls were compared", compared)
	}
}

// compare returns how an answer differs from the recorded one, "" if it does not.
func (r *recorded) compare(t *testing.T, got *httptest.ResponseRecorder) string {
	t.Helper()
	if got.Code != r.Response.Status {
		return http.StatusText(got.Code) + " instead of " + http.StatusText(r.Response.Status) + ": " + got.Body.String()
	}
	if strings.Contains(got.Body.String(), "userAgent") {
		return "the answer has the user agent"
	}
	var have, want map[string]any
	if r.Response.Body == "" || strings.HasPrefix(r.Flow, "list/after") {
		return ""
	}
	if json.Unmarshal(got.Body.Bytes(), &have) != nil || json.Unmarshal([]byte(r.Response.Body), &want) != nil {
		return "not JSON: " + got.Body.String()
	}
	if want["message"] != nil {
		if have["message"] != want["message"] || want["code"] != nil && have["code"] != want["code"] {
			return got.Body.String() + " instead of " + r.Response.Body
		}
		return ""
	}
	return r.compareList(have, want)
}

// compareList compares the lists that show the fixtures alone: others depend on
// what the plugin logged of its own reads.
func (r *recorded) compareList(have, want map[string]any) string {
	entries, ok := want["entries"].([]any)
	if !ok || !strings.Contains(r.Request.Path, "to=2026-01-0") {
		return ""
	}
	for _, e := range entries {
		delete(e.(map[string]any), "userAgent")
	}
	if !reflect.DeepEqual(have["entries"], want["entries"]) || have["total"] != want["total"] {
		a, _ := json.Marshal(have)
		b, _ := json.Marshal(want)
		return string(a) + "\ninstead of " + string(b)
	}
	return ""
}
