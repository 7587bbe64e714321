package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// readEntry is what the log says of a reader.
type readEntry struct {
	User, IP  string
	Severity  severity.Level
	Count     int
	Endpoints map[string]int
	Everybody int
	Of        []string
	MoreOf    bool
	Operator  string
}

// readers are the entries of those who have read, oldest first.
func readers(t *testing.T, store *memory.Store) (all []readEntry) {
	t.Helper()
	synctest.Wait()
	entries := store.Entries()
	slices.SortFunc(entries, func(a, b storage.Entry) int { return a.CreatedAt.Compare(b.CreatedAt) })
	for _, e := range entries {
		if e.Action != "audit-log:read" {
			continue
		}
		r := readEntry{User: e.UserID, IP: e.IPAddress, Severity: e.Severity}
		must(t, json.Unmarshal(e.Metadata, &r))
		all = append(all, r)
	}
	return all
}

// TestWhoReadsTheEntriesOfOthersIsNoted: administrators, operators by name; at once, and with
// counts ten minutes later. Who reads nothing but what is their own is not.
func TestWhoReadsTheEntriesOfOthersIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(0)
		api := accessAPI(t, store)
		entries := accessEntries(t, api)
		readings := httpapi.NewReadings(api.writer)
		defer readings.Close()
		surface := httpapi.NewOperator(httpapi.OperatorOptions{Redactor: api.Redactor})
		as := func(name, path string, status int) {
			t.Helper()
			r, w := get(path), httptest.NewRecorder()
			r.Header.Set("Cookie", "better-auth.session_token="+name)
			c := httpapi.Call{Path: r.URL.EscapedPath()[len("/api/auth/audit-log"):], ClientIP: "192.0.2.1", Asker: identities[name], Store: api.store, Writer: api.writer, Readings: readings}
			if api.Serve(w, r, c); w.Code != status {
				t.Fatalf("%s asks for %s: %d %s", name, path, w.Code, w.Body)
			}
		}
		operator := func(d httpapi.Door, path string) {
			t.Helper()
			r, w := httptest.NewRequest(http.MethodGet, "/audit-log"+path, nil), httptest.NewRecorder()
			surface.Serve(w, r, httpapi.Call{Path: r.URL.EscapedPath()[len("/audit-log"):], ClientIP: "192.0.2.2", Store: api.store, Door: d, Readings: readings})
			if w.Code != http.StatusOK {
				t.Fatalf("%s: %d %s", path, w.Code, w.Body)
			}
		}
		as("role", "/list?scope=all", 200)
		if got := readers(t, store); len(got) != 0 {
			t.Errorf("without Enable: %+v", got)
		}
		readings.Enable(true)
		as("user", "/list", 200)
		as("user", "/list?scope=all", 403)
		as("user", "/"+entries["alice's"].ID, 200)
		as("user", "/"+entries["bob's"].ID, 404)
		as("role", "/list", 200)
		as("role", "/"+entries["root's"].ID, 200)
		as("role", "/access", 200)
		time.Sleep(time.Second)
		if got := readers(t, store); len(got) != 0 {
			t.Errorf("who reads what is their own is noted: %+v", got)
		}

		bob, typed := api.Redactor.HashTag("userId", "bob"), api.Redactor.HashTag("identifier", "alice@example.com")
		as("role", "/list?userId=bob", 200)
		time.Sleep(time.Second)
		first := readEntry{User: "root", IP: "192.0.2.1", Severity: severity.Low, Count: 1, Endpoints: map[string]int{"list": 1}, Of: []string{bob}}
		if got := readers(t, store); !reflect.DeepEqual(got, []readEntry{first}) {
			t.Errorf("after one request: %+v", got)
		}
		as("role", "/"+entries["bob's"].ID, 200)
		as("role", "/tally?scope=all", 200)
		as("role", "/list?identifier=alice@example.com", 200)
		as("role", "/export?scope=all&format=jsonl", 200)
		operator(httpapi.Door{User: "olga"}, "/list")
		operator(httpapi.Door{Forwarded: "otto"}, "/histogram?from=2026-01-01&to=2026-01-02&step=3600000")
		operator(httpapi.Door{Decided: true}, "/list")
		time.Sleep(11 * time.Minute)
		first.Count, first.Everybody, first.Severity, first.Of = 5, 2, severity.Medium, []string{bob, typed}
		first.Endpoints = map[string]int{"list": 2, "get": 1, "tally": 1, "export": 1}
		got := readers(t, store)
		slices.SortStableFunc(got, func(a, b readEntry) int { return strings.Compare(a.User+a.Operator, b.User+b.Operator) })
		want := []readEntry{
			{IP: "192.0.2.2", Severity: severity.Low, Count: 1, Everybody: 1, Endpoints: map[string]int{"list": 1}},
			{IP: "192.0.2.2", Severity: severity.Low, Count: 1, Everybody: 1, Endpoints: map[string]int{"list": 1}, Operator: "olga"},
			{IP: "192.0.2.2", Severity: severity.Low, Count: 1, Everybody: 1, Endpoints: map[string]int{"histogram": 1}, Operator: "otto"},
			first,
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("after ten minutes\n%+v, want\n%+v", got, want)
		}
		for range 3 {
			as("role", "/list?scope=all", 200) // a new window, which Close ends
		}
		readings.Close()
		time.Sleep(time.Second)
		if got := readers(t, store); len(got) != len(want)+1 || got[len(want)].Count != 3 {
			t.Errorf("after the end: %+v", got)
		}
	})
}

// told is what an Observer has heard.
type told struct {
	mu      sync.Mutex
	entries []storage.Entry
}

func (o *told) EntryWritten(e storage.Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries = append(o.entries, e)
}

func (*told) WriteFailed(error, []storage.Entry) {}

// TestTheWorsePartOfAReadingIsToldAtOnce: a harmless first request must not stand for what follows,
// in no copy of the log.
func TestTheWorsePartOfAReadingIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(0)
		api := accessAPI(t, store)
		heard := new(told)
		api.writer.Observer = heard
		readings := httpapi.NewReadings(api.writer)
		defer readings.Close()
		readings.Enable(true)
		var counts []int
		for _, path := range []string{"/list?userId=bob", "/list?userId=bob", "/list?scope=all", "/list?scope=all", "/export?scope=all&format=jsonl", "/export?scope=all&format=jsonl", "/list?userId=null"} {
			r, w := get(path), httptest.NewRecorder()
			r.Header.Set("Cookie", "better-auth.session_token=role")
			api.Serve(w, r, httpapi.Call{Path: r.URL.EscapedPath()[len("/api/auth/audit-log"):], ClientIP: "192.0.2.1", Asker: identities["role"], Store: api.store, Writer: api.writer, Readings: readings})
			time.Sleep(time.Second)
			heard.mu.Lock()
			counts = append(counts, len(heard.entries))
			heard.mu.Unlock()
		}
		if want := []int{1, 1, 2, 2, 3, 3, 3}; !slices.Equal(counts, want) {
			t.Errorf("after each request %v were told, want %v", counts, want)
		}
		if last := heard.entries[2]; last.Severity != severity.Medium || last.ID != heard.entries[0].ID {
			t.Errorf("the export is told as %+v", last)
		}
		time.Sleep(11 * time.Minute)
		if got := readers(t, store); len(got) != 1 || got[0].Count != 7 || got[0].Everybody != 4 || !slices.Contains(got[0].Of, "nobody") {
			t.Errorf("%+v", got)
		}
	})
}

// TestADeletedReaderStaysAway: what is written at the end of a window does not bring the id back.
func TestADeletedReaderStaysAway(t *testing.T) {
	for _, unlink := range []string{"here", "by another node"} {
		t.Run(unlink, func(t *testing.T) { aDeletedReaderStaysAway(t, unlink == "here") })
	}
}

func aDeletedReaderStaysAway(t *testing.T, here bool) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(0)
		api := accessAPI(t, store)
		readings := httpapi.NewReadings(api.writer)
		defer readings.Close()
		readings.Enable(true)
		api.writer.Unlinked = readings.Unlink
		for range 2 {
			r, w := get("/list?scope=all"), httptest.NewRecorder()
			r.Header.Set("Cookie", "better-auth.session_token=role")
			api.Serve(w, r, httpapi.Call{Path: "/list", ClientIP: "192.0.2.1", Asker: identities["role"], Store: api.store, Writer: api.writer, Readings: readings})
			if w.Code != http.StatusOK {
				t.Fatal(w.Code, w.Body)
			}
		}
		time.Sleep(time.Second)
		if got := readers(t, store); len(got) != 1 || got[0].User != "root" {
			t.Errorf("before: %+v", got)
		}
		if here {
			api.writer.Unlink("root", true)
		} else if _, err := store.Unlink(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Minute)
		if got := readers(t, store); len(got) != 1 || got[0].User != "" || got[0].Count != 2 {
			t.Errorf("after: %+v", got)
		}
	})
}

// TestManyReadersAreBounded: whoever comes when there are too many has an entry all the same.
func TestManyReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(0)
		api := newAPI(t, store)
		readings := httpapi.NewReadings(api.writer)
		readings.Enable(true)
		surface := httpapi.NewOperator(httpapi.OperatorOptions{})
		const all = 1100
		for i := range all {
			for range 2 {
				surface.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/audit-log/list", nil),
					httpapi.Call{Path: "/list", ClientIP: "192.0.2.2", Store: store, Door: httpapi.Door{User: fmt.Sprint("operator-", i)}, Readings: readings})
			}
		}
		readings.Close()
		time.Sleep(time.Second)
		if n := len(readers(t, store)); n != 1000+2*100 {
			t.Errorf("%d entries, want 1,000 with two requests and 200 with one", n)
		}
	})
}
