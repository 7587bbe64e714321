package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// identity is one caller, as the auth server describes the session.
type identity struct {
	id, role, email, impersonatedBy string
}

// The callers of the access tests: of each kind one.
var identities = map[string]identity{
	"stranger":      {},
	"user":          {id: "alice", role: "user", email: " Alice@Example.com "},
	"role":          {id: "root", role: "user,admin", email: "root@example.com"},
	"id":            {id: "operator", email: "operator@example.com"},
	"impersonating": {id: "root", role: "admin", email: "root@example.com", impersonatedBy: "mallory"},
}

// Ask implements recorder.Asker.
func (i identity) Ask(*http.Request) (int, []byte, error) {
	if i.id == "" {
		return 200, []byte("null"), nil
	}
	session := map[string]any{"userId": i.id, "expiresAt": "2099-01-01T00:00:00Z"}
	if i.impersonatedBy != "" {
		session["impersonatedBy"] = i.impersonatedBy
	}
	user := map[string]any{"id": i.id, "emailVerified": true, "email": i.email, "role": i.role}
	b, err := json.Marshal(map[string]any{"session": session, "user": user})
	return 200, b, err
}

// as sends a GET to the API as an identity.
func (a *apiUnderTest) as(t *testing.T, name, path string) *httptest.ResponseRecorder {
	t.Helper()
	r, w := get(path), httptest.NewRecorder()
	r.Header.Set("Cookie", "better-auth.session_token="+name)
	a.Serve(w, r, httpapi.Call{Path: r.URL.EscapedPath()[len("/api/auth/audit-log"):], ClientIP: "192.0.2.1", Asker: identities[name], Store: a.store, Writer: a.writer})
	return w
}

func accessAPI(t *testing.T, store storage.Store) *apiUnderTest {
	t.Helper()
	api := newAPI(t, store)
	api.AdminRoles, api.AdminIDs = []string{"admin", ""}, []string{"operator", ""}
	return api
}

// attempt is an entry that the recorder makes of a sign-in, with what was typed.
func attempt(api *apiUnderTest, user, typed string, status storage.Status) storage.Entry {
	tag := api.Redactor.HashTag("identifier", typed)
	e := storage.Entry{UserID: user, Action: "sign-in:email", Status: status, Severity: severity.High, IPAddress: "198.51.100.66", IdentifierHash: tag}
	e.Metadata = fmt.Appendf(nil, `{"identifierHash":%q}`, tag)
	e.Sanitize()
	return e
}

// accessEntries are entries of every class that access is decided on.
func accessEntries(t *testing.T, api *apiUnderTest) map[string]storage.Entry {
	t.Helper()
	forged := attempt(api, "", "alice@example.com", storage.Failed)
	forged.IdentifierHash = "" // inserted by a user who is gone, with the hash in its metadata alone
	entries := map[string]storage.Entry{
		"alice's": entryOf("alice", "sign-out"), "bob's": entryOf("bob", "sign-out"), "root's": entryOf("root", "sign-out"), "operator's": entryOf("operator", "sign-out"),
		"nobody's": entryOf("", "sign-up:email"), "forged": forged,
		"failed at alice's":    attempt(api, "", "alice@example.com", storage.Failed),
		"pending at alice's":   attempt(api, "", "alice@example.com", storage.Pending),
		"unknown at alice's":   attempt(api, "", "alice@example.com", storage.Unknown),
		"succeeded at alice's": attempt(api, "", "alice@example.com", storage.Success),
		"bob at alice's":       attempt(api, "bob", "alice@example.com", storage.Failed),
		"failed at root's":     attempt(api, "", "root@example.com", storage.Failed),
		"failed at bob's":      attempt(api, "", "bob@example.com", storage.Failed),
		"failed at nothing":    attempt(api, "", "", storage.Failed),
	}
	for _, e := range entries {
		must(t, api.store.Write(t.Context(), e))
	}
	return entries
}

// readable says which entries each identity may read; nil is every one.
var readable = map[string][]string{
	"stranger":      {},
	"user":          {"alice's", "failed at alice's", "pending at alice's"},
	"role":          nil,
	"id":            nil,
	"impersonating": {"root's", "failed at root's"},
}

// TestWhoMayReadWhat is the matrix of identities and entries: get by id, and the
// own list, agree on it.
func TestWhoMayReadWhat(t *testing.T) {
	for name, classes := range readable {
		api := accessAPI(t, memory.New(0))
		entries := accessEntries(t, api)
		missing := api.as(t, name, "/"+storage.NewID())
		for class, e := range entries {
			may := classes == nil || slices.Contains(classes, class)
			got := api.as(t, name, "/"+e.ID)
			switch {
			case may && (got.Code != 200 || !strings.Contains(got.Body.String(), e.ID) || strings.Contains(got.Body.String(), "secret-agent")):
				t.Errorf("%s cannot read an entry %s: %d %s", name, class, got.Code, got.Body)
			case !may && (got.Code != missing.Code || got.Body.String() != missing.Body.String() || fmt.Sprint(got.Header()) != fmt.Sprint(missing.Header())):
				t.Errorf("%s can tell an entry %s from a missing one: %d %s", name, class, got.Code, got.Body)
			}
		}
	}
}

// TestWhoseEntriesAListShows: the own list by default, others for administrators.
func TestWhoseEntriesAListShows(t *testing.T) {
	all := []string(nil)
	ofRoot := []string{"root's", "failed at root's"}
	nobody := []string{"nobody's", "forged", "failed at alice's", "pending at alice's", "unknown at alice's", "succeeded at alice's", "failed at root's", "failed at bob's", "failed at nothing"}
	for _, c := range []struct {
		name, query string
		status      int
		want        []string
	}{
		{"stranger", "", 401, nil}, {"stranger", "?scope=all", 401, nil},
		{"user", "", 200, readable["user"]}, {"user", "?scope=own&userId=alice", 200, readable["user"]},
		{"user", "?scope=all", 403, nil}, {"user", "?scope=all&userId=alice", 403, nil}, {"user", "?userId=bob", 403, nil}, {"user", "?userId=", 403, nil}, {"user", "?userId=null", 403, nil},
		{"role", "", 200, ofRoot}, {"role", "?scope=own", 200, ofRoot}, {"role", "?scope=all", 200, all}, {"role", "?userId=bob", 200, []string{"bob's", "bob at alice's"}},
		{"role", "?userId=alice&scope=all", 200, []string{"alice's"}}, {"role", "?userId=", 200, nobody}, {"role", "?userId=null", 200, nobody}, {"role", "?userId=unheard-of", 200, []string{}},
		{"id", "?scope=all", 200, all}, {"id", "?userId=bob&status=failed", 200, []string{"bob at alice's"}},
		{"impersonating", "", 200, ofRoot}, {"impersonating", "?scope=all", 403, nil}, {"impersonating", "?userId=mallory", 403, nil}, {"impersonating", "?userId=", 403, nil},
	} {
		api := accessAPI(t, memory.New(0))
		entries := accessEntries(t, api)
		got := api.as(t, c.name, "/list"+c.query)
		if got.Code != c.status {
			t.Errorf("%s list%s: %d %s", c.name, c.query, got.Code, got.Body)
		}
		if got.Code != 200 {
			continue
		}
		classes, total := shownClasses(t, got, entries)
		want := slices.Sorted(slices.Values(c.want))
		if c.want == nil && len(classes) != len(entries) || c.want != nil && !slices.Equal(classes, want) || total != len(classes) {
			t.Errorf("%s list%s: %d, %q, want %q", c.name, c.query, total, classes, want)
		}
	}
}

// shownClasses are the classes of the entries in a list, sorted, and its total.
func shownClasses(t *testing.T, answer *httptest.ResponseRecorder, entries map[string]storage.Entry) (classes []string, total int) {
	t.Helper()
	var page struct {
		Entries []struct{ ID string }
		Total   int
	}
	must(t, json.Unmarshal(answer.Body.Bytes(), &page))
	for class, e := range entries {
		if slices.ContainsFunc(page.Entries, func(shown struct{ ID string }) bool { return shown.ID == e.ID }) {
			classes = append(classes, class)
		}
	}
	slices.Sort(classes)
	return classes, page.Total
}

func TestNobodyIsAnAdministratorWithoutAnOption(t *testing.T) {
	for name := range identities {
		api := newAPI(t, memory.New(0))
		entries := accessEntries(t, api)
		if got := api.as(t, name, "/list?scope=all"); got.Code != 403 && got.Code != 401 {
			t.Errorf("%s: %d %s", name, got.Code, got.Body)
		}
		if got := api.as(t, name, "/"+entries["bob's"].ID); got.Code == 200 {
			t.Errorf("%s reads %s", name, got.Body)
		}
	}
}

func TestFiltersAndTheirMistakes(t *testing.T) {
	for query, want := range map[string]string{
		"severity=high": "3", "severity=medium": "1", "severity=low": "0", "severity=HIGH": `[query.severity] Invalid option: expected one of "low"|"medium"|"high"|"critical"`,
		"severity=": "[query.severity] Invalid option", "severity=low&severity=high": "[query.severity] Invalid option", "scope=everything": `[query.scope] Invalid option: expected one of "own"|"all"`,
		"scope=all": "5", "scope=all&severity=high&status=pending": "1", "scope=all&q=SIGN-IN": "3", "scope=all&q=sign-in&limit=1": "3", "scope=all&q=100%25": "0",
		"scope=all&q=secret-AGENT": "2", "scope=all&q=198.51": "3", "scope=all&q=": "5", "scope=all&q=hmac": "0",
		"q=" + strings.Repeat("x", 100): "0", "q=" + strings.Repeat("x", 101): "[query.q] Too big: expected string to have <=100 bytes", "q=a&q=b": "[query.q] Invalid input: expected string, received array",
		"status=no&severity=no&limit=0": `[query.severity] Invalid option: expected one of "low"|"medium"|"high"|"critical"; [query.limit]`,
	} {
		api := accessAPI(t, memory.New(0))
		for _, e := range []storage.Entry{
			entryOf("root", "sign-out"), entryOf("bob", "sign-out"), attempt(api, "root", "x", storage.Failed), attempt(api, "", "root@example.com", storage.Failed), attempt(api, "", "root@example.com", storage.Pending),
		} {
			must(t, api.store.Write(t.Context(), e))
		}
		got := api.as(t, "role", "/list?"+query)
		var page struct {
			Message string
			Total   int
		}
		must(t, json.Unmarshal(got.Body.Bytes(), &page))
		if strings.HasPrefix(want, "[") {
			if got.Code != 400 || !strings.Contains(page.Message, want) {
				t.Errorf("%s: %d %s, want %s", query, got.Code, got.Body, want)
			}
		} else if got.Code != 200 || fmt.Sprint(page.Total) != want {
			t.Errorf("%s: %d, %d entries, want %s", query, got.Code, page.Total, want)
		}
	}
}

func TestUsersCannotSearchWhatIsNotShown(t *testing.T) {
	api := accessAPI(t, memory.New(0))
	must(t, api.store.Write(t.Context(), entryOf("alice", "sign-out")))
	for q, want := range map[string]string{"secret-agent": `"total":0`, "sign-OUT": `"total":1`, "203.0.113": `"total":1`} {
		if got := api.as(t, "user", "/list?q="+url.QueryEscape(q)); got.Code != 200 || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%q: %d %s", q, got.Code, got.Body)
		}
	}
}

// slow is a store that looks until its context ends.
type slow struct{ storage.Store }

func (slow) List(ctx context.Context, _ storage.Query) (storage.Page, error) {
	<-ctx.Done()
	return storage.Page{}, fmt.Errorf("interrupted (9)")
}

func TestASearchThatTakesTooLongIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := accessAPI(t, slow{memory.New(0)})
		got := api.as(t, "role", "/list?scope=all&q=x")
		if got.Code != 503 || !strings.Contains(got.Body.String(), "QUERY_TOO_SLOW") || got.Header().Get("Retry-After") == "" {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	})
}

// away is a store whose database is.
type away struct{ storage.Store }

func (away) List(context.Context, storage.Query) (storage.Page, error) {
	return storage.Page{}, &storage.Fault{Reason: storage.Unspecified, Err: errors.New("no route to db.internal")}
}

func TestADatabaseThatIsAwayIsNoFaultOfTheServer(t *testing.T) {
	got := accessAPI(t, away{memory.New(0)}).as(t, "role", "/list?scope=all")
	if got.Code != 503 || !strings.Contains(got.Body.String(), "STORE_UNAVAILABLE") || got.Header().Get("Retry-After") == "" || strings.Contains(got.Body.String(), "db.internal") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}
