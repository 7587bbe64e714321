package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// fuzzed are two APIs with the same entries, in memory and in SQLite.
type fuzzed struct {
	apis  []*apiUnderTest
	calls int
}

func newFuzzed(f *testing.F) *fuzzed {
	f.Helper()
	file, err := sqlite.Open(f.Context(), sqlite.Options{Path: filepath.Join(f.TempDir(), "audit.db")})
	must(f, err)
	f.Cleanup(func() { must(f, file.Close()) })
	stores := []storage.Store{memory.New(0), file}
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 60 {
		user := []string{"alice", "bob", "", "root"}[i%4]
		status := []storage.Status{storage.Success, storage.Failed, storage.Pending, storage.Unknown}[i%3]
		e := storage.Entry{
			UserID: user, Action: []string{"sign-in:email", "Weird_%:ACTION", "sign-out"}[i%3], Status: status, Severity: severity.Level(i % 4),
			IPAddress: "203.0.113.9", UserAgent: "agent \xff%_", CreatedAt: began.Add(time.Duration(i) * time.Hour),
			Metadata: json.RawMessage(fmt.Sprintf(`{"identifier":"a***@example.com","n":%d,"error":{"code":"NO_%%"}}`, i)),
		}
		e.Sanitize()
		for _, s := range stores {
			must(f, s.Write(f.Context(), e))
		}
	}
	out := new(fuzzed)
	for _, s := range stores {
		api := newAPI(f, s)
		api.AdminRoles = []string{"admin"}
		out.apis = append(out.apis, api)
	}
	return out
}

// ask sends one GET to both APIs and returns what both answer.
func (f *fuzzed) ask(t *testing.T, name, path, rawQuery string) *httptest.ResponseRecorder {
	t.Helper()
	if f.calls++; f.calls%20 == 1 {
		for _, api := range f.apis { // the allowance is for another test
			var err error
			api.Limiter, err = httpapi.NewLimiter()
			must(t, err)
		}
	}
	var first *httptest.ResponseRecorder
	for _, api := range f.apis {
		r := get("/list")
		r.URL.RawQuery = rawQuery
		r.Header.Set("Cookie", "better-auth.session_token="+name)
		w := httptest.NewRecorder()
		api.Serve(w, r, httpapi.Call{Path: path, ClientIP: "192.0.2.1", Asker: identities[name], Store: api.store, Writer: api.writer})
		if w.Code >= 500 || w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s?%s: %d %s", name, path, rawQuery, w.Code, w.Body)
		}
		if first == nil {
			first = w
		} else if w.Code != first.Code || w.Body.String() != first.Body.String() {
			t.Fatalf("%s %s?%s: in memory %d %s\nin SQLite %d %s", name, path, rawQuery, first.Code, first.Body, w.Code, w.Body)
		}
	}
	return first
}

// FuzzList: any query gets an answer that is no failure of ours, within the limits,
// the same from both stores, and nobody but an administrator sees others' entries.
func FuzzList(f *testing.F) {
	both := newFuzzed(f)
	for _, q := range []string{
		"", "limit=1e2&offset=0x10", "from=2026&to=garbage", "status=failed&status=x", "limit=%zz", "cursor=AQ", "userId=a;b", "userId=null", "userId=bob",
		"scope=all", "scope=all&userId=", "q=%25_", "q=NO_%25", "q=a%2A%2A%2A%40", "action=sign-in%3Aemail&severity=high", "offset=9007199254740992", "from=-1", "to=253402300799999",
		"from=2026-01-03T00:00:00%2B01:00&limit=3", "severity=critical&status=unknown", "q=%00", "userId=%ff", "limit=3&cursor=", "limit=.5", "offset=-0",
	} {
		f.Add(q, uint8(0))
		f.Add(q, uint8(1))
	}
	names := []string{"user", "role", "stranger", "impersonating"}
	f.Fuzz(func(t *testing.T, raw string, who uint8) {
		name := names[int(who)%len(names)]
		w := both.ask(t, name, "/list", raw)
		if w.Code != http.StatusOK {
			return
		}
		var page struct {
			Entries []struct {
				UserID *string `json:"userId"`
			}
			Total      int
			NextCursor string
		}
		must(t, json.Unmarshal(w.Body.Bytes(), &page))
		if n := len(page.Entries); n > storage.MaxLimit || n > page.Total || page.Total > 60 {
			t.Errorf("%s: %d entries of %d", raw, n, page.Total)
		}
		for _, e := range page.Entries {
			if name != "role" && (e.UserID == nil || *e.UserID != identities[name].id) {
				t.Errorf("%s: %s sees an entry of %v", raw, name, e.UserID)
			}
		}
		if strings.Contains(w.Body.String(), "agent ") {
			t.Errorf("%s: a user agent is shown", raw)
		}
		if page.NextCursor != "" && both.ask(t, name, "/list", "limit=2&cursor="+url.QueryEscape(page.NextCursor)).Code != http.StatusOK {
			t.Errorf("%s: its own cursor is refused", raw)
		}
	})
}

// FuzzEntry: whatever stands in the place of an id is found or not, and no more.
func FuzzEntry(f *testing.F) {
	both := newFuzzed(f)
	for _, p := range []string{"/x", "/list/", "/%00", "/a%2Fb", "/%ff", "//", "/01a208c5-7938-73e0-963d-c09078db4b28", "/'; DROP TABLE auditLog", "/%", "", "/insert"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if path == "/list" || path == "/list-audit-logs" {
			return
		}
		if w := both.ask(t, "role", path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		}
	})
}

// FuzzInsert: a body is stored as one entry of its sender's, or refused.
func FuzzInsert(f *testing.F) {
	const kept = 16
	store := memory.New(kept)
	api := newAPI(f, store)
	for _, b := range []string{
		`{"action":"custom:x"}`, `{"action":"Admin:Ban-User "}`, `{"action":"x","metadata":{"password":"hunter2","a":[[[[{}]]]]}}`, "\ufeff{}", `{"action":"\u0000"}`,
		`{"action":"x","action":7}`, `{"action":"x","severity":"low","status":"pending"}`, `[]`, `{"action":"x","metadata":{"source":"proxy","identifierHash":"hmac-sha256:x"}}`, `{"action":"\ud800"}`,
	} {
		f.Add([]byte(b))
	}
	calls, stored := 0, 0
	f.Fuzz(func(t *testing.T, body []byte) {
		if calls++; calls%20 == 1 {
			var err error
			api.Limiter, err = httpapi.NewLimiter()
			must(t, err)
		}
		w := api.do(t, insert(string(body)), "alice", "192.0.2.1")
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%q: %d %s", body, w.Code, w.Body)
		}
		if w.Code == http.StatusOK {
			stored++
		}
		entries := store.Entries()
		if len(entries) != min(stored, kept) {
			t.Fatalf("%q: %d entries, want %d", body, len(entries), stored)
		}
		if w.Code != http.StatusOK {
			return
		}
		e := entries[len(entries)-1]
		if e.UserID != "alice" || !strings.HasPrefix(string(e.Metadata), `{"source":"api"`) || api.profile.IsAction(e.Action) || e.IdentifierHash != "" || !json.Valid(e.Metadata) {
			t.Errorf("%q became %+v %s", body, e, e.Metadata)
		}
	})
}
