// Package storagetest is the suite that every store passes. A store of your own
// runs it with Run from its own test.
package storagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// Open returns a fresh, empty store; it registers its own clean-up with t.
type Open func(t *testing.T) storage.Store

// Run runs the whole suite against stores that open returns. Parts for optional
// interfaces that the store lacks are skipped, with the interface's name.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(*testing.T, storage.Store)
	}{
		{"what is written comes back the same", testRoundTrip},
		{"writing an id again replaces the entry and keeps its place", testUpsert},
		{"an intent becomes an outcome under the same id", testTwoPhases},
		{"one call is all or nothing and idempotent", testIdempotent},
		{"odd values are kept", testOddValues},
		{"lists are newest first and page by offset and cursor", testPages},
		{"filters select exactly", testFilters},
		{"a user's entries and the attempts on the account", testAttempts},
		{"a text is found in any case and only where it may be", testText},
		{"entries of one millisecond keep their order", testSameMillisecond},
		{"lists agree with the memory store on random logs", testAgainstModel},
		{"roll-ups count as the events that they stand for", testEvents},
		{"totals are exact or capped and say so", testCappedTotal},
		{"pages without a total are the same pages", testNoTotal},
		{"a cancelled context is an error", testCancelled},
		{"an unknown id is ErrNotFound", testNotFound},
		{"a foreign cursor is ErrBadCursor", testBadCursor},
		{"prune deletes the oldest up to its batch", testPrune},
		{"unlink keeps the entries without the user", testUnlink},
		{"many writers at once lose nothing", testConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

// Entry returns a valid entry, i minutes after the suite's epoch. The id of every fourth is
// of another time.
func Entry(i int) storage.Entry {
	e := storage.Entry{
		UserID: fmt.Sprintf("user-%d", i%3), Action: "sign-in:email", Status: storage.Success,
		Severity: severity.Medium, IPAddress: "203.0.113.7", UserAgent: "suite/1.0",
		Metadata: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)), CreatedAt: epoch.Add(time.Duration(i) * time.Minute),
	}
	if e.ID = storage.NewIDAt(e.CreatedAt); i%4 == 3 {
		e.ID = storage.NewID() // of another time than the entry
	}
	e.Sanitize()
	return e
}

func write(t *testing.T, s storage.Store, entries ...storage.Entry) {
	t.Helper()
	if err := s.Write(t.Context(), entries...); err != nil {
		t.Fatalf("Write: %v", err)
	}
}

func lister(t *testing.T, s storage.Store) storage.Lister { return optional[storage.Lister](t, s) }

func optional[T any](t *testing.T, s storage.Store) T {
	t.Helper()
	o, ok := storage.As[T](s)
	if !ok {
		t.Skipf("the store is no %v", reflect.TypeFor[T]())
	}
	return o
}

func list(t *testing.T, s storage.Store, q storage.Query) storage.Page {
	t.Helper()
	page, err := lister(t, s).List(t.Context(), q)
	if err != nil {
		t.Fatalf("List(%+v): %v", q, err)
	}
	return page
}

func get(t *testing.T, s storage.Store, id string) storage.Entry {
	t.Helper()
	e, err := optional[storage.Getter](t, s).Get(t.Context(), id)
	if err != nil {
		t.Fatalf("Get(%s): %v", id, err)
	}
	return e
}

func same(t *testing.T, got, want storage.Entry) {
	t.Helper()
	g, w := mustJSON(t, got), mustJSON(t, want)
	if g != w || got.IdentifierHash != want.IdentifierHash {
		t.Errorf("got  %s (identifier hash %q)\nwant %s (%q)", g, got.IdentifierHash, w, want.IdentifierHash)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func testRoundTrip(t *testing.T, s storage.Store) {
	e := Entry(1)
	bare := storage.Entry{Action: "x", CreatedAt: epoch}
	bare.Sanitize()
	write(t, s, e, bare)
	same(t, get(t, s, e.ID), e)
	same(t, get(t, s, bare.ID), bare)
	for _, got := range list(t, s, storage.Query{}).Entries {
		if got.ID == e.ID {
			same(t, got, e)
		}
	}
}

func testUpsert(t *testing.T, s storage.Store) {
	a, b, c := Entry(1), Entry(2), Entry(3)
	write(t, s, a, b, c)
	changed := b
	changed.UserID, changed.Action, changed.Status, changed.Severity = "other", "sign-out", storage.Failed, severity.High
	changed.IPAddress, changed.UserAgent, changed.Metadata = "", "", json.RawMessage(`{"later":true}`)
	write(t, s, changed)
	page := list(t, s, storage.Query{})
	if page.Total != 3 || len(page.Entries) != 3 {
		t.Fatalf("total %d, %d entries, want 3", page.Total, len(page.Entries))
	}
	same(t, page.Entries[1], changed)
	for _, q := range []storage.Query{{Action: "sign-out"}, {Status: storage.Failed}, {UserID: &changed.UserID}} {
		if got := list(t, s, q); got.Total != 1 || len(got.Entries) != 1 {
			t.Errorf("%+v finds %d of %d, want the changed entry only", q, len(got.Entries), got.Total)
		}
	}
	if got := list(t, s, storage.Query{UserID: &b.UserID}); got.Total != 0 {
		t.Errorf("the old user still has %d entries", got.Total)
	}
}

func testTwoPhases(t *testing.T, s storage.Store) {
	intent := Entry(1)
	intent.Status, intent.UserID = storage.Unknown, ""
	write(t, s, intent)
	if got := list(t, s, storage.Query{Status: storage.Unknown}); got.Total != 1 {
		t.Fatalf("the intent is not listed as unknown: %d", got.Total)
	}
	outcome := intent
	outcome.Status, outcome.UserID = storage.Success, "u"
	write(t, s, outcome)
	if got := list(t, s, storage.Query{Status: storage.Unknown}); got.Total != 0 {
		t.Errorf("%d intents are left", got.Total)
	}
	same(t, get(t, s, intent.ID), outcome)
}

func testIdempotent(t *testing.T, s storage.Store) {
	entries := []storage.Entry{Entry(1), Entry(2), Entry(2)}
	again := entries[0]
	again.Action = "second-in-the-same-call"
	for range 3 {
		write(t, s, append(entries, again)...)
	}
	write(t, s)
	if got := list(t, s, storage.Query{}); got.Total != 3 {
		t.Errorf("total %d, want 3", got.Total)
	}
	same(t, get(t, s, again.ID), again)
}

func testOddValues(t *testing.T, s storage.Store) {
	odd := []string{"\xff\xfe", "nul\x00nul", "é☃🎈", "'; DROP TABLE x; --", "%_\\", "\r\n\x1b[31m", "\u202e", strings.Repeat("é", 2000)}
	for i, v := range odd {
		e := Entry(i)
		e.UserID, e.Action, e.IPAddress, e.UserAgent = v, v, v, v
		e.Metadata = json.RawMessage(mustJSON(t, map[string]any{v: v, "big": json.Number("1e400"), "n": json.Number("9007199254740993")}))
		e.Sanitize()
		write(t, s, e)
		same(t, get(t, s, e.ID), e)
		if got := list(t, s, storage.Query{Action: e.Action}); got.Total != 1 {
			t.Errorf("%q: found %d times by action", v, got.Total)
		}
		if got := list(t, s, storage.Query{UserID: &e.UserID}); got.Total != 1 {
			t.Errorf("%q: found %d times by user", v, got.Total)
		}
	}
	custom := Entry(99)
	custom.ID = "not-a-uuid"
	write(t, s, custom)
	same(t, get(t, s, "not-a-uuid"), custom)
}

func testPages(t *testing.T, s storage.Store) {
	const n = 57
	var want []string
	for i := range n {
		e := Entry(i)
		write(t, s, e)
		want = append([]string{e.ID}, want...)
	}
	if got := walkCursor(t, s, storage.Query{Limit: 10}); !reflect.DeepEqual(got, want) {
		t.Errorf("by cursor:\n got %v\nwant %v", got, want)
	}
	var byOffset []string
	for off := 0; off < n+10; off += 10 {
		page := list(t, s, storage.Query{Limit: 10, Offset: off})
		if page.Total != n {
			t.Fatalf("total %d at offset %d, want %d", page.Total, off, n)
		}
		byOffset = append(byOffset, ids(page)...)
	}
	if !reflect.DeepEqual(byOffset, want) {
		t.Errorf("by offset:\n got %v\nwant %v", byOffset, want)
	}
	if got := len(list(t, s, storage.Query{}).Entries); got != storage.DefaultLimit {
		t.Errorf("the default page has %d entries, want %d", got, storage.DefaultLimit)
	}
	if page := list(t, s, storage.Query{Limit: n}); page.NextCursor != "" {
		t.Error("the last page has a cursor")
	}
}

func walkCursor(t *testing.T, s storage.Store, q storage.Query) []string {
	t.Helper()
	var got []string
	for range 1000 {
		page := list(t, s, q)
		got = append(got, ids(page)...)
		if page.NextCursor == "" {
			return got
		}
		q.Cursor = page.NextCursor
	}
	t.Fatal("the cursor never ends")
	return nil
}

func ids(p storage.Page) []string {
	out := make([]string, len(p.Entries))
	for i, e := range p.Entries {
		out[i] = e.ID
	}
	return out
}

func testFilters(t *testing.T, s storage.Store) {
	a, b, c := Entry(0), Entry(1), Entry(2)
	b.Action, b.Status, b.Severity = "sign-out", storage.Failed, severity.High
	b.IPAddress, b.Metadata = "2001:db8::1", json.RawMessage(`{"class":"sign-out"}`)
	c.UserID = ""
	c.Metadata, c.IdentifierHash = json.RawMessage(`{"class":"sign-in","identifierHash":"tag"}`), "tag"
	write(t, s, a, b, c)
	empty, high := "", severity.High
	for _, f := range []struct {
		q    storage.Query
		want []string
	}{
		{storage.Query{}, []string{c.ID, b.ID, a.ID}},
		{storage.Query{UserID: &a.UserID}, []string{a.ID}},
		{storage.Query{UserID: &empty}, []string{c.ID}},
		{storage.Query{Action: "sign-in:email"}, []string{c.ID, a.ID}},
		{storage.Query{Action: "SIGN-IN:EMAIL"}, nil},
		{storage.Query{Action: "sign-in"}, nil},
		{storage.Query{Class: "sign-out"}, []string{b.ID}},
		{storage.Query{Class: "sign-out", Action: "sign-in:email"}, nil},
		{storage.Query{IPAddress: "2001:db8::1"}, []string{b.ID}},
		{storage.Query{IPAddress: "203.0.113.7", Class: "sign-in"}, []string{c.ID}},
		{storage.Query{IPAddress: "2001:db8::"}, nil},
		{storage.Query{IdentifierHash: "tag"}, []string{c.ID}},
		{storage.Query{IdentifierHash: "tag", UserID: &empty}, []string{c.ID}},
		{storage.Query{IdentifierHash: "tag", IPAddress: "2001:db8::1"}, nil},
		{storage.Query{Status: storage.Failed}, []string{b.ID}},
		{storage.Query{Severity: &high}, []string{b.ID}},
		{storage.Query{UserID: &b.UserID, Status: storage.Success}, nil},
		{storage.Query{UserID: &b.UserID, Action: "sign-out", Status: storage.Failed, Severity: &high}, []string{b.ID}},
		{storage.Query{From: b.CreatedAt}, []string{c.ID, b.ID}},
		{storage.Query{To: b.CreatedAt}, []string{b.ID, a.ID}},
		{storage.Query{From: b.CreatedAt, To: b.CreatedAt}, []string{b.ID}},
		{storage.Query{From: c.CreatedAt, To: a.CreatedAt}, nil},
		{storage.Query{Offset: 3}, nil},
	} {
		page := list(t, s, f.q)
		if got := ids(page); len(got)+len(f.want) > 0 && !reflect.DeepEqual(got, f.want) {
			t.Errorf("%+v:\n got %v\nwant %v", f.q, got, f.want)
		}
		if f.q.Offset == 0 && page.Total != len(f.want) {
			t.Errorf("%+v: total %d, want %d", f.q, page.Total, len(f.want))
		}
	}
}

// Attempt returns a sign-in that nobody was identified in: an entry without user,
// with the hash of what was typed.
func Attempt(i int, hash string, status storage.Status) storage.Entry {
	e := Entry(i)
	e.UserID, e.Status, e.IdentifierHash = "", status, hash
	e.Metadata = json.RawMessage(fmt.Sprintf(`{"n":%d,"identifier":"a***@example.com","identifierHash":%q}`, i, hash))
	e.Sanitize()
	return e
}

func testAttempts(t *testing.T, s storage.Store) {
	user, nobody := "user-1", ""
	own, failed, pending := Entry(1), Attempt(2, "tag-1", storage.Failed), Attempt(3, "tag-1", storage.Pending)
	succeeded, unknown, others := Attempt(4, "tag-1", storage.Success), Attempt(5, "tag-1", storage.Unknown), Attempt(6, "tag-2", storage.Failed)
	byAnother := Attempt(7, "tag-1", storage.Failed)
	byAnother.UserID = "user-2"
	inserted := Attempt(8, "tag-1", storage.Failed) // says it in its metadata alone
	inserted.IdentifierHash = ""
	write(t, s, own, failed, pending, succeeded, unknown, others, byAnother, inserted)
	for _, f := range []struct {
		q    storage.Query
		want []string
	}{
		{storage.Query{UserID: &user, IdentifierHash: "tag-1"}, []string{pending.ID, failed.ID, own.ID}},
		{storage.Query{UserID: &user, IdentifierHash: "tag-3"}, []string{own.ID}},
		{storage.Query{UserID: &user, IdentifierHash: "tag-1", Status: storage.Failed}, []string{failed.ID}},
		{storage.Query{UserID: &user, IdentifierHash: "tag-1", Status: storage.Unknown}, nil},
		{storage.Query{UserID: &user, IdentifierHash: "tag-1", Action: "sign-in:email", From: pending.CreatedAt}, []string{pending.ID}},
		{storage.Query{UserID: &nobody, IdentifierHash: "tag-2"}, []string{inserted.ID, others.ID, unknown.ID, succeeded.ID, pending.ID, failed.ID}},
	} {
		page := list(t, s, f.q)
		if got := ids(page); !slices.Equal(got, f.want) || page.Total != len(f.want) {
			t.Errorf("%+v:\n got %d %v\nwant %v", f.q, page.Total, got, f.want)
		}
	}
	if got := walkCursor(t, s, storage.Query{UserID: &user, IdentifierHash: "tag-1", Limit: 1}); !slices.Equal(got, []string{pending.ID, failed.ID, own.ID}) {
		t.Errorf("page by page: %v", got)
	}
	same(t, get(t, s, failed.ID), failed)
	same(t, get(t, s, inserted.ID), inserted)
	failed.UserID, failed.IdentifierHash, failed.Metadata = "user-3", "", nil // the outcome of an intent
	failed.Sanitize()
	write(t, s, failed)
	same(t, get(t, s, failed.ID), failed)
	if got := list(t, s, storage.Query{UserID: &user, IdentifierHash: "tag-1"}); got.Total != 2 {
		t.Errorf("%d entries after one has become another user's, want 2", got.Total)
	}
}

func testText(t *testing.T, s storage.Store) {
	e := Entry(1)
	e.UserID, e.Action, e.IPAddress, e.UserAgent = "User-É", "custom:50%_off\\now", "2001:db8::7", "Agent/9"
	e.Metadata = json.RawMessage(`{"identifier":"a***@Example.com","targetUserId":"victim","error":{"code":"TOO_MANY","message":"hidden"},"sessionHash":"tag:5e55","other":"hidden"}`)
	odd := Entry(2)
	odd.UserID, odd.Metadata = "u", json.RawMessage(`{"identifier":77123,"targetUserId":["listed"],"error":"flat"}`)
	write(t, s, e, odd)
	for text, found := range map[string]bool{
		"user-": true, "USER-É": true, "user-é": false, "50%_OFF": true, "50%": true, "50_": false, "5%f": false, `off\now`: true, `\`: true, "'": false,
		"DB8::": true, "example.COM": true, "VICTIM": true, "too_many": true, "TAG:5E": true, "too-many": false, "hidden": false, "agent/9": false,
		"77123": false, "listed": false, "flat": false, "identifier": false,
	} {
		if page := list(t, s, storage.Query{Text: text}); page.Total != len(page.Entries) || (page.Total == 1) != found || page.Total > 1 {
			t.Errorf("%q finds %v, want the one entry: %v", text, ids(page), found)
		}
	}
	if page := list(t, s, storage.Query{Text: "AGENT/9", TextInAgent: true}); !slices.Equal(ids(page), []string{e.ID}) {
		t.Errorf("in user agents: %v", ids(page))
	}
	if page := list(t, s, storage.Query{Text: "sign-in", UserID: &e.UserID}); page.Total != 0 {
		t.Errorf("a text of other users' entries: %v", ids(page))
	}
}

func testSameMillisecond(t *testing.T, s storage.Store) {
	var want []string
	for len(want) < 40 {
		e := Entry(0)
		e.ID = storage.NewIDAt(epoch.Add(time.Duration(1+len(want)) * time.Microsecond)) // as the recorder makes them
		want = append([]string{e.ID}, want...)
		write(t, s, e)
	}
	if got := ids(list(t, s, storage.Query{Limit: 100})); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	clash := Entry(0)
	clash.ID = "a"
	other := clash
	other.ID = "b"
	for other.SortKey() != clash.SortKey() { // find two ids with one key
		other.ID = fmt.Sprintf("b%d", rand.IntN(1<<30))
	}
	write(t, s, clash, other)
	if got := list(t, s, storage.Query{Limit: 100}); got.Total != 42 || len(walkCursor(t, s, storage.Query{Limit: 7})) != 42 {
		t.Errorf("two entries with one sort key: %d entries, want 42", got.Total)
	}
}

// testAgainstModel compares random logs and queries with the memory store.
func testAgainstModel(t *testing.T, s storage.Store) {
	rng := rand.New(rand.NewPCG(1, 2))
	model := memory.New(0)
	actions, statuses := []string{"a", "b", "c", storage.RolledUp + "sign-in", storage.RolledUp + "check"}, []storage.Status{storage.Success, storage.Failed, storage.Pending, storage.Unknown}
	var written []storage.Entry
	for range 300 {
		e := Entry(rng.IntN(200))
		if rng.IntN(3) == 0 {
			e = Attempt(rng.IntN(200), fmt.Sprintf("tag-%d", rng.IntN(3)), storage.Failed)
			if rng.IntN(3) == 0 {
				e.UserID = "user-2"
			}
		}
		e.Action, e.Status, e.Severity = actions[rng.IntN(len(actions))], statuses[rng.IntN(4)], severity.Level(rng.IntN(4))
		if strings.HasPrefix(e.Action, storage.RolledUp) {
			e.Metadata = json.RawMessage(strings.Replace(string(e.Metadata), "{", `{"count":`+oddCounts[rng.IntN(len(oddCounts))]+`,`, 1))
		}
		classify(rng, &e)
		if rng.IntN(5) == 0 && len(written) > 0 {
			e.ID = written[rng.IntN(len(written))].ID
		}
		written = append(written, e)
		write(t, s, e)
		write(t, model, e)
	}
	for i := range 400 {
		q := randomQuery(rng, actions, statuses)
		got, want := list(t, s, q), list(t, model, q)
		if !reflect.DeepEqual(ids(got), ids(want)) || got.Total != want.Total || got.NextCursor != want.NextCursor {
			t.Fatalf("%+v:\n got %d %v\nwant %d %v", q, got.Total, ids(got), want.Total, ids(want))
		}
		if i%5 == 0 {
			SameCounts(t, s, model, q)
		}
	}
}

// oddCounts are what metadata.count may be, in JSON.
var oddCounts = []string{"1", "21", "480", "999999999999999", "1000000000000000", "9007199254740991", "99999999999999999999", "0", "-3", "2.5", "1e3", `"480"`, "null", "{}"}

// testEvents writes a flood, and roll-ups whose count nobody should have written.
func testEvents(t *testing.T, s storage.Store) {
	a := optional[storage.Aggregator](t, s)
	entry := func(i int, action, user, metadata string) storage.Entry {
		e := Entry(i)
		e.Action, e.UserID, e.Status, e.Severity, e.Metadata = action, user, storage.Failed, severity.High, json.RawMessage(metadata)
		e.Sanitize()
		return e
	}
	const signIn, check = storage.RolledUp + "sign-in", storage.RolledUp + "check"
	for i := range 3 {
		write(t, s, entry(i, "sign-in:email", "", `{"class":"sign-in","count":77}`)) // no roll-up
	}
	write(t, s, entry(1, signIn, "", `{"count":480,"class":"sign-in","kind":"sign-in"}`), entry(2, signIn, "", `{"class":"sign-in", "count" : 20 }`),
		entry(90, signIn, "ada", `{"count":7,"class":"account"}`), entry(100, check, "ada", `{"count":"99"}`))
	tally := func(q storage.Query, want ...storage.Tally) {
		t.Helper()
		got, err := a.Tally(t.Context(), q)
		for i := range want {
			want[i].Status, want[i].Severity = storage.Failed, severity.High
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("tally of %+v:\n got %v %v\nwant %v", q, got, err, want)
		}
	}
	flood := storage.Tally{Action: signIn, Class: "sign-in", Count: 2, Events: 500}
	single := storage.Tally{Action: "sign-in:email", Class: "sign-in", Count: 3, Events: 3}
	account, odd := storage.Tally{Action: signIn, Class: "account", Count: 1, Events: 7}, storage.Tally{Action: check, Count: 1, Events: 1}
	ada, nobody := "ada", ""
	first := epoch.Add(time.Minute)
	tally(storage.Query{}, flood, account, single, odd)
	tally(storage.Query{Class: "sign-in"}, flood, single)
	tally(storage.Query{Action: signIn}, flood, account)
	tally(storage.Query{Action: check}, odd)
	tally(storage.Query{Action: "sign-in:email"}, single)
	tally(storage.Query{UserID: &ada}, account, odd)
	tally(storage.Query{UserID: &nobody}, flood, single)
	tally(storage.Query{IPAddress: "203.0.113.7", Class: "account"}, account)
	tally(storage.Query{Text: "rolled-up:sign"}, flood, account)
	tally(storage.Query{Status: storage.Success})
	tally(storage.Query{From: first, To: first}, storage.Tally{Action: signIn, Class: "sign-in", Count: 1, Events: 480}, storage.Tally{Action: "sign-in:email", Class: "sign-in", Count: 1, Events: 1})
	tally(storage.Query{From: epoch.Add(24 * time.Hour)})

	got, err := a.Histogram(t.Context(), storage.Query{}, time.Hour)
	bucket := func(hour, count, events int) storage.Bucket {
		b := storage.Bucket{At: epoch.Truncate(time.Hour).Add(time.Duration(hour) * time.Hour)}
		b.Counts[storage.Failed.Code()], b.Events[storage.Failed.Code()] = count, events
		return b
	}
	if want := []storage.Bucket{bucket(0, 5, 503), bucket(1, 2, 8)}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("histogram:\n got %v %v\nwant %v", got, err, want)
	}
	for i := range 3 {
		write(t, s, entry(200, check, "", fmt.Sprintf(`{"count":99999999999999999999,"n":%d}`, i)))
	}
	tally(storage.Query{Action: check, UserID: &nobody}, storage.Tally{Action: check, Count: 3, Events: storage.MaxEvents})
	again := entry(91, signIn, "ada", `{"class":"account"}`) // stands for what the earlier one said until it is replaced
	write(t, s, again)
	again.Metadata = json.RawMessage(`{"count":40,"class":"account"}`)
	write(t, s, again)
	account.Count, account.Events = 2, 47
	tally(storage.Query{Class: "account"}, account)
}

// classify gives an entry one of a few classes, or none, and one of a few addresses.
func classify(rng *rand.Rand, e *storage.Entry) {
	classes := []string{`"sign-in"`, `"account"`, `""`, `7`, `"` + strings.Repeat("x", storage.MaxClass+1) + `"`}
	if i := rng.IntN(len(classes) + 1); i < len(classes) {
		e.Metadata = json.RawMessage(strings.Replace(string(e.Metadata), "{", `{"class":`+classes[i]+`,`, 1))
	}
	e.IPAddress = []string{"", "203.0.113.7", "203.0.113.8"}[rng.IntN(3)]
	e.Sanitize()
}

// SameCounts compares what two stores count of a query, if the first can: their entries
// are the same.
func SameCounts(t *testing.T, got, want storage.Store, q storage.Query) {
	t.Helper()
	g, ok := storage.As[storage.Aggregator](got)
	w := optional[storage.Aggregator](t, want)
	if !ok {
		return
	}
	for _, step := range []time.Duration{time.Minute, 7 * time.Minute, time.Hour, 24 * time.Hour} {
		a, err := g.Histogram(t.Context(), q, step)
		b, wantErr := w.Histogram(t.Context(), q, step)
		if err != nil || wantErr != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("histogram of %+v by %v:\n got %v %v\nwant %v %v", q, step, a, err, b, wantErr)
		}
	}
	a, err := g.Tally(t.Context(), q)
	b, wantErr := w.Tally(t.Context(), q)
	if err != nil || wantErr != nil || !reflect.DeepEqual(a, b) {
		t.Fatalf("tally of %+v:\n got %v %v\nwant %v %v", q, a, err, b, wantErr)
	}
}

func randomQuery(rng *rand.Rand, actions []string, statuses []storage.Status) storage.Query {
	q := storage.Query{Limit: 1 + rng.IntN(60), Offset: rng.IntN(50)}
	if rng.IntN(2) == 0 {
		u := fmt.Sprintf("user-%d", rng.IntN(4))
		if rng.IntN(5) == 0 {
			u = ""
		}
		q.UserID = &u
	}
	if rng.IntN(2) == 0 {
		q.IdentifierHash = fmt.Sprintf("tag-%d", rng.IntN(4))
	}
	if rng.IntN(4) == 0 {
		q.Text = []string{"USER-1", "a", "***@", "suite", "203."}[rng.IntN(5)]
		q.TextInAgent = rng.IntN(2) == 0
	}
	if rng.IntN(2) == 0 {
		q.Action = actions[rng.IntN(len(actions))]
	}
	if rng.IntN(3) == 0 {
		q.Class = []string{"sign-in", "account", "none"}[rng.IntN(3)]
	}
	if rng.IntN(4) == 0 {
		q.IPAddress = []string{"203.0.113.7", "203.0.113.8", "203"}[rng.IntN(3)]
	}
	if rng.IntN(2) == 0 {
		q.Status = statuses[rng.IntN(len(statuses))]
	}
	if rng.IntN(3) == 0 {
		l := severity.Level(rng.IntN(4))
		q.Severity = &l
	}
	if rng.IntN(3) == 0 {
		q.From = epoch.Add(time.Duration(rng.IntN(200)) * time.Minute)
	}
	if rng.IntN(3) == 0 {
		q.To = epoch.Add(time.Duration(rng.IntN(200)) * time.Minute)
	}
	return q
}

func testCappedTotal(t *testing.T, s storage.Store) {
	const batch = 500
	for n := 0; n <= storage.MaxTotal; n += batch {
		entries := make([]storage.Entry, batch)
		for i := range entries {
			entries[i] = Entry(n + i)
		}
		write(t, s, entries...)
	}
	page := list(t, s, storage.Query{Limit: 1})
	if _, bounded := s.(*memory.Store); bounded {
		return // it keeps no more than the cap
	}
	exact := page.Total == storage.MaxTotal+batch && !page.TotalIsCapped
	if capped := page.Total == storage.MaxTotal && page.TotalIsCapped; !exact && !capped {
		t.Errorf("total %d, capped %v", page.Total, page.TotalIsCapped)
	}
	user := "user-1"
	if page = list(t, s, storage.Query{UserID: &user}); page.TotalIsCapped || page.Total != 3500 {
		t.Errorf("a user's total %d, capped %v, want 3500", page.Total, page.TotalIsCapped)
	}
}

func testNoTotal(t *testing.T, s storage.Store) {
	for i := range 30 {
		write(t, s, Entry(i))
	}
	user := "user-1"
	for _, q := range []storage.Query{{Limit: 7}, {Limit: 7, UserID: &user}, {Limit: 7, Text: "user"}, {Limit: 7, Status: storage.Success}} {
		for {
			without := q
			without.NoTotal = true
			want, got := list(t, s, q), list(t, s, without)
			if mustJSON(t, got.Entries) != mustJSON(t, want.Entries) || got.NextCursor != want.NextCursor || got.Total != 0 && got.Total != want.Total {
				t.Fatalf("%+v: %d entries, then %q, want %d, %q", q, len(got.Entries), got.NextCursor, len(want.Entries), want.NextCursor)
			}
			if q.Cursor = want.NextCursor; q.Cursor == "" {
				break
			}
		}
	}
}

func testCancelled(t *testing.T, s storage.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Write(ctx, Entry(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	write(t, s, Entry(2))
}

func testNotFound(t *testing.T, s storage.Store) {
	g := optional[storage.Getter](t, s)
	for _, id := range []string{"", "nope", storage.NewID(), strings.Repeat("x", 5000), "\x00"} {
		if _, err := g.Get(t.Context(), id); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Get(%.20q) = %v, want ErrNotFound", id, err)
		}
	}
	// It is an answer, not a fault of the moment for which a store tries again.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 100 {
		if _, err := g.Get(ctx, storage.NewID()); !errors.Is(err, storage.ErrNotFound) {
			t.Fatalf("%v, want ErrNotFound", err)
		}
	}
}

func testBadCursor(t *testing.T, s storage.Store) {
	for _, c := range []string{"x", "AAAA", strings.Repeat("A", 12), storage.EncodeCursor(-1), strings.Repeat("A", 5000)} {
		if _, err := lister(t, s).List(t.Context(), storage.Query{Cursor: c}); !errors.Is(err, storage.ErrBadCursor) {
			t.Errorf("cursor %.20q: %v, want ErrBadCursor", c, err)
		}
	}
}

func testPrune(t *testing.T, s storage.Store) {
	p := optional[storage.Pruner](t, s)
	for i := range 10 {
		write(t, s, Entry(i))
	}
	cutoff := epoch.Add(6 * time.Minute)
	for _, want := range []int{4, 2, 0} {
		got, err := p.Prune(t.Context(), cutoff, 4)
		if err != nil || got != want {
			t.Fatalf("Prune = %d, %v, want %d", got, err, want)
		}
	}
	page := list(t, s, storage.Query{})
	if page.Total != 4 || page.Entries[3].CreatedAt.Before(cutoff) {
		t.Errorf("%d entries are left, the oldest of %v", page.Total, page.Entries[len(page.Entries)-1].CreatedAt)
	}
}

func testUnlink(t *testing.T, s storage.Store) {
	u := optional[storage.Unlinker](t, s)
	a, b := Entry(0), Entry(1)
	write(t, s, a, b, Entry(3))
	if n, err := u.Unlink(t.Context(), "user-0"); err != nil || n != 2 {
		t.Fatalf("Unlink = %d, %v, want 2", n, err)
	}
	a.UserID = ""
	same(t, get(t, s, a.ID), a)
	same(t, get(t, s, b.ID), b)
	if n, _ := u.Unlink(t.Context(), ""); n != 0 {
		t.Errorf("unlinking nobody touched %d entries", n)
	}
}

func testConcurrent(t *testing.T, s storage.Store) {
	const writers, each = 16, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				d := storage.Durability(i % 2)
				if err := s.Write(storage.WithDurability(context.Background(), d), Entry(w*each+i)); err != nil {
					t.Errorf("Write: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, s, storage.Query{}).Total; got != writers*each {
		t.Errorf("%d entries, want %d", got, writers*each)
	}
}
