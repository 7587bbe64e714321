package recorder_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
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

const minute = time.Minute

// rollUp is what the tests look at of a roll-up.
type rollUp struct {
	storage.Entry
	Meta struct {
		Count               int
		From, To            time.Time
		Kind, Class, Client string
		Actions             []struct {
			Action string
			Count  int
		}
		StatusCodes        map[string]int
		Identifiers        int
		IdentifiersAtLeast bool
		Identifier         string
		IdentifierHash     string
		Source             string
	}
}

// rollsUp switches roll-ups on.
func rollsUp(o *recorder.Options) { o.RollUpAfter = recorder.DefaultRollUpAfter }

// split parts roll-ups from other entries, and sums their counts.
func split(t testing.TB, entries []storage.Entry) (single []storage.Entry, rolled []rollUp, sum int) {
	t.Helper()
	for _, e := range entries {
		if !strings.HasPrefix(e.Action, "audit-log:rolled-up:") {
			single = append(single, e)
			continue
		}
		r := rollUp{Entry: e}
		must(t, json.Unmarshal(e.Metadata, &r.Meta))
		rolled, sum = append(rolled, r), sum+r.Meta.Count
	}
	return single, rolled, sum
}

// request is one to the auth server and how that answers.
type request struct {
	method, path, body string
	status             int
	answer             string
	header             http.Header
}

// send makes n exchanges of a client.
func (g *rig) send(n int, client string, q request) {
	g.Helper()
	for range n {
		r := httptest.NewRequest(q.method, "/api/auth"+q.path, strings.NewReader(q.body))
		for name, values := range q.header {
			r.Header[name] = values
		}
		if q.body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		m, ok := g.rec.Profile.Match(q.method, r.URL)
		if !ok {
			g.Fatalf("%s is not under the base path", q.path)
		}
		x, err := g.rec.Begin(httptest.NewRecorder(), r, m, recorder.Facts{ClientIP: client, Asker: g.server})
		must(g, err)
		answers(q.status, q.answer)(x.Writer(), r)
		must(g, x.End(nil, 0, false))
	}
}

var (
	junk   = request{method: "GET", path: "/wp-login.php", status: 404}
	check  = request{method: "GET", path: "/list-sessions", status: 401, answer: `{"code":"UNAUTHORIZED"}`}
	signIn = request{method: "POST", path: "/sign-in/email", body: `{"email":"alice@example.com","password":"x"}`, status: 401, answer: `{"code":"INVALID"}`}
)

// rolling runs a test with roll-ups and a clock of its own.
func rolling(t *testing.T, f func(t *testing.T, g *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newRig(t, rollsUp)) })
}

func TestAFloodRollsUpToOneEntryWithAnExactCount(t *testing.T) {
	for _, c := range []struct {
		name, kind, class, action string
		request                   request
		severity                  severity.Level
	}{
		{"unknown paths", "unknown", "custom", "wp-login.php", junk, severity.Medium},
		{"failed checks", "check", "session", "list-sessions", check, severity.Medium},
		{"failed token requests", "check", "token", "refresh-token", request{method: "POST", path: "/refresh-token", status: 400}, severity.Medium},
		{"failed sign-ins", "sign-in", "sign-in", "sign-in:email", signIn, severity.High},
	} {
		t.Run(c.name, func(t *testing.T) {
			rolling(t, func(t *testing.T, g *rig) {
				g.send(20, "192.0.2.7", c.request)
				time.Sleep(time.Second)
				from := time.Now()
				g.send(79, "192.0.2.7", c.request)
				time.Sleep(30 * time.Second)
				to := time.Now()
				g.send(1, "192.0.2.7", c.request)
				if n := len(g.store.Entries()); n != 20 {
					t.Errorf("%d entries before the minute is over, want 20", n)
				}
				time.Sleep(31 * time.Second)
				single, rolled, sum := split(t, g.store.Entries())
				if len(single) != 20 || len(rolled) != 1 || sum != 80 {
					t.Fatalf("%d single entries, %d roll-ups of %d; want 20, 1 of 80", len(single), len(rolled), sum)
				}
				r := rolled[0]
				if r.Action != "audit-log:rolled-up:"+c.kind || r.Status != storage.Failed || r.Severity != c.severity || r.IPAddress != "192.0.2.7" || r.UserID != "" {
					t.Errorf("%+v", r.Entry)
				}
				m := r.Meta
				if !m.From.Equal(from) || !m.To.Equal(to) || m.Kind != c.kind || m.Class != c.class || m.Client != "" || m.Source != "proxy" {
					t.Errorf("%+v", m)
				}
				if len(m.Actions) != 1 || m.Actions[0].Action != c.action || m.Actions[0].Count != 80 || m.StatusCodes[fmt.Sprint(c.request.status)] != 80 {
					t.Errorf("%+v", m)
				}
			})
		})
	}
}

func TestWhatIsPrivilegedDestructiveOrNoFailureIsAlwaysWrittenSingly(t *testing.T) {
	for _, q := range []request{
		{method: "POST", path: "/sign-in/email", status: 200, answer: signedIn},
		{method: "POST", path: "/sign-in/email", status: 200, answer: `{"twoFactorRedirect":true}`},
		{method: "POST", path: "/no-such-route", status: 200},
		{method: "POST", path: "/admin/set-role", status: 403},
		{method: "POST", path: "/admin/ban-user", status: 403},
		{method: "POST", path: "/organization/create", status: 403},
		{method: "POST", path: "/revoke-session", status: 401},
		{method: "POST", path: "/api-key/delete", status: 401},
		{method: "POST", path: "/sign-out", status: 400},
		{method: "POST", path: "/two-factor/verify-totp", status: 401},
		{method: "POST", path: "/change-password", status: 400},
	} {
		rolling(t, func(t *testing.T, g *rig) {
			g.send(50, "192.0.2.7", q)
			must(t, g.writer.Close(t.Context()))
			if single, rolled, _ := split(t, g.store.Entries()); len(single) != 50 || len(rolled) != 0 {
				t.Errorf("%s %s with %d: %d single entries, %d roll-ups", q.method, q.path, q.status, len(single), len(rolled))
			}
		})
	}
}

func TestNothingIsRolledUpUnlessAsked(t *testing.T) {
	g := newRig(t, nil)
	g.send(50, "192.0.2.7", junk)
	if n := len(g.store.Entries()); n != 50 {
		t.Errorf("%d entries, want 50", n)
	}
}

func TestClientsKindsAndUsersHaveTheirOwnWindows(t *testing.T) {
	admin := junk
	admin.header = cookie("s-admin")
	rolling(t, func(t *testing.T, g *rig) {
		for _, client := range []string{"192.0.2.7", "192.0.2.8", "2001:db8:1:1::1", "2001:db8:1:2::1", "unknown", ""} {
			g.send(20, client, junk)
		}
		g.send(20, "192.0.2.7", signIn)
		g.send(20, "192.0.2.7", check)
		g.send(20, "192.0.2.7", admin)
		if n := len(g.store.Entries()); n != 180 {
			t.Errorf("%d entries, want 180: nobody was over the limit", n)
		}
		g.send(5, "192.0.2.7", admin)
		must(t, g.writer.Close(t.Context()))
		if _, rolled, sum := split(t, g.store.Entries()); len(rolled) != 1 || sum != 5 || rolled[0].UserID != "admin" {
			t.Errorf("%+v", rolled)
		}
	})
}

func TestAnIPv6ClientIsItsNetwork(t *testing.T) {
	rolling(t, func(t *testing.T, g *rig) {
		for i := range 100 {
			g.send(1, fmt.Sprintf("2001:db8:1:1::%x", i), junk)
		}
		must(t, g.writer.Close(t.Context()))
		single, rolled, sum := split(t, g.store.Entries())
		if len(single) != 20 || len(rolled) != 1 || sum != 80 || rolled[0].Meta.Client != "2001:db8:1:1::/64" || rolled[0].IPAddress != "2001:db8:1:1::14" {
			t.Errorf("%d single, %+v", len(single), rolled)
		}
	})
}

func TestAnAddressThatIsNotCapturedIsNotInARollUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(o *recorder.Options) { rollsUp(o); o.Capture.IPAddress = false })
		g.send(30, "2001:db8::1", junk)
		must(t, g.writer.Close(t.Context()))
		for _, e := range g.store.Entries() {
			if e.IPAddress != "" || strings.Contains(string(e.Metadata), "2001") {
				t.Errorf("%+v", e)
			}
		}
	})
}

func TestAFloodThatGoesOnHasOneEntryAMinuteUntilItEnds(t *testing.T) {
	rolling(t, func(t *testing.T, g *rig) {
		count := func() (int, int) {
			single, rolled, _ := split(t, g.store.Entries())
			return len(single), len(rolled)
		}
		for range 300 { // five minutes
			g.send(10, "192.0.2.7", junk)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * minute)
		single, rolled, sum := split(t, g.store.Entries())
		if len(single) != 20 || len(rolled) > 6 || len(single)+sum != 3000 {
			t.Errorf("%d single entries and %d roll-ups of %d", len(single), len(rolled), sum)
		}
		g.send(20, "192.0.2.7", junk)
		if again, _ := count(); again != 40 {
			t.Errorf("%d single entries after a calm minute, want 40", again)
		}
	})
}

func TestAFloodThatCalmsDownIsWrittenSinglyAgain(t *testing.T) {
	rolling(t, func(t *testing.T, g *rig) {
		g.send(30, "192.0.2.7", junk)
		time.Sleep(minute + time.Second)
		g.send(15, "192.0.2.7", junk) // under the limit, in the minute after
		time.Sleep(minute + time.Second)
		g.send(15, "192.0.2.7", junk)
		time.Sleep(2 * minute)
		single, rolled, sum := split(t, g.store.Entries())
		if len(single) != 35 || len(rolled) != 2 || sum != 25 {
			t.Errorf("%d single entries and %d roll-ups of %d, want 35 and 2 of 25", len(single), len(rolled), sum)
		}
	})
}

func TestSprayingShowsHowManyAccountsWereTried(t *testing.T) {
	for _, c := range []struct {
		accounts, want int
		atLeast        bool
	}{{1, 1, false}, {2, 2, false}, {128, 128, false}, {129, 128, true}, {500, 128, true}} {
		rolling(t, func(t *testing.T, g *rig) {
			g.send(20, "192.0.2.7", signIn)
			for i := range 600 {
				q := signIn
				q.body = fmt.Sprintf(`{"email":"alice%d@example.com"}`, i%c.accounts)
				g.send(1, "192.0.2.7", q)
			}
			must(t, g.writer.Close(t.Context()))
			_, rolled, sum := split(t, g.store.Entries())
			if len(rolled) != 1 || sum != 600 || rolled[0].Meta.Identifiers != c.want || rolled[0].Meta.IdentifiersAtLeast != c.atLeast {
				t.Fatalf("%d accounts: %+v", c.accounts, rolled)
			}
			r := rolled[0]
			if named := r.IdentifierHash != "" && r.Meta.Identifier == "a***@example.com" && r.IdentifierHash == r.Meta.IdentifierHash; named != (c.accounts == 1) {
				t.Errorf("%d accounts: %+v", c.accounts, r)
			}
		})
	}
}

// TestTheMostFrequentActionsAreShown sends one path often among many others.
func TestTheMostFrequentActionsAreShown(t *testing.T) {
	rolling(t, func(t *testing.T, g *rig) {
		g.send(20, "192.0.2.7", junk)
		for i := range 400 {
			q := junk
			if q.path = "/often"; i%3 == 0 {
				q.path = "/path-" + strings.Repeat("x", i%40)
			}
			q.status = 400 + i%4
			g.send(1, "192.0.2.7", q)
		}
		must(t, g.writer.Close(t.Context()))
		_, rolled, _ := split(t, g.store.Entries())
		m := rolled[0].Meta
		if len(m.Actions) != 5 || m.Actions[0].Action != "often" || m.Actions[0].Count > 266 || m.Actions[0].Count < 200 {
			t.Errorf("%+v", m.Actions)
		}
		if len(m.StatusCodes) != 4 || m.StatusCodes["400"] != 100 {
			t.Errorf("%v", m.StatusCodes)
		}
	})
}

func TestADeletedUserIsNotInARollUp(t *testing.T) {
	q := junk
	q.header = cookie("s-alice")
	rolling(t, func(t *testing.T, g *rig) {
		g.send(40, "192.0.2.7", q)
		g.send(40, "192.0.2.7", junk)
		g.send(1, "192.0.2.7", request{method: "POST", path: "/delete-user", status: 200, answer: `{"success":true,"message":"User deleted"}`, header: cookie("s-alice")})
		time.Sleep(2 * minute)
		_, rolled, sum := split(t, g.store.Entries())
		if len(rolled) != 2 || sum != 40 {
			t.Errorf("%d roll-ups of %d, want 2 of 40", len(rolled), sum)
		}
		for _, e := range g.store.Entries() {
			if e.UserID != "" {
				t.Errorf("%s still names %s", e.Action, e.UserID)
			}
		}
	})
}

// TestAHookMaySkipWhatWouldBeCounted shows that rules come first.
func TestAHookMaySkipWhatWouldBeCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(o *recorder.Options) {
			rollsUp(o)
			o.Hooks = []recorder.Hook{hookFunc(func(d *recorder.Draft) error { d.Skip = d.Entry.Action == "wp-login.php"; return nil })}
		})
		g.send(50, "192.0.2.7", junk)
		must(t, g.writer.Close(t.Context()))
		if n := len(g.store.Entries()); n != 0 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestAnObserverHearsOfARollUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := new(ears)
		g := newRig(t, func(o *recorder.Options) { rollsUp(o); o.Observer = heard })
		g.send(50, "192.0.2.7", junk)
		must(t, g.writer.Close(t.Context()))
		if n := len(heard.written); n != 21 || heard.written[20] != "audit-log:rolled-up:unknown" {
			t.Errorf("%v", heard.written)
		}
	})
}

// TestRollUpsWaitForAStoreThatFails stalls the store with a full queue: nothing that
// was counted is lost.
func TestRollUpsWaitForAStoreThatFails(t *testing.T) {
	rolling(t, func(t *testing.T, g *rig) {
		g.send(100, "192.0.2.7", junk)
		g.store.set(true)
		fill := storage.Entry{Action: "filler"}
		fill.Sanitize()
		for range 2 { // the first batch leaves the queue
			for g.writer.Enqueue(storage.Commit, fill, nil) {
			}
			time.Sleep(time.Second)
		}
		time.Sleep(3 * minute)
		g.send(100, "192.0.2.7", junk)
		g.store.set(false)
		time.Sleep(minute)
		must(t, g.writer.Close(t.Context()))
		_, rolled, sum := split(t, g.store.Entries())
		if sum != 180 || g.writer.Stats().Dropped != 2 { // those that did not fit into the queue
			t.Errorf("%d roll-ups of %d, %d dropped", len(rolled), sum, g.writer.Stats().Dropped)
		}
	})
}

// TestWhatIsRolledUpIsCountedAsDroppedIfItIs closes a Writer whose store fails to the
// end: every event is in the sum all the same.
func TestWhatIsRolledUpIsCountedAsDroppedIfItIs(t *testing.T) {
	rolling(t, func(t *testing.T, g *rig) {
		g.send(100, "192.0.2.7", junk)
		g.send(100, "192.0.2.8", junk)
		g.store.set(true)
		err, dropped := g.writer.Close(t.Context()), g.writer.Stats().Dropped
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(dropped, " audit log entries")) {
			t.Errorf("it ends with %v, and %d are dropped", err, dropped)
		}
		if n := len(g.store.Entries()) + int(g.writer.Stats().Dropped); n != 200 {
			t.Errorf("%d written, %d dropped, want 200 together", len(g.store.Entries()), g.writer.Stats().Dropped)
		}
	})
}

// TestWindowsAreBounded has more clients than there is room for: the flood of the first
// is written early and not lost.
func TestWindowsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rollsUp)
		g.store.Store = memory.New(30000)
		g.send(100, "198.51.100.1", junk)
		for i := range 10000 {
			g.junk(i, fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
		}
		time.Sleep(time.Second) // less than a minute
		single, rolled, sum := split(t, g.store.Entries())
		if len(single) != 10020 || len(rolled) != 1 || sum != 80 {
			t.Errorf("%d single entries and %d roll-ups of %d, want 10020 and 1 of 80", len(single), len(rolled), sum)
		}
	})
}

// TestNothingIsLostWhenAWriterClosesUnderAFlood has clients run while it closes: what
// comes too late to be counted is written singly.
func TestNothingIsLostWhenAWriterClosesUnderAFlood(t *testing.T) {
	g := newRig(t, rollsUp)
	const clients, each = 8, 500
	var wg sync.WaitGroup
	half := make(chan struct{}, clients)
	for i := range clients {
		wg.Go(func() {
			for n := range each {
				if n == each/2 {
					half <- struct{}{}
				}
				g.send(1, fmt.Sprintf("192.0.2.%d", i), junk)
			}
		})
	}
	for range clients {
		<-half
	}
	must(t, g.writer.Close(t.Context()))
	wg.Wait()
	single, _, sum := split(t, g.store.Entries())
	if len(single)+sum != clients*each {
		t.Errorf("%d single entries and %d rolled up, want %d together", len(single), sum, clients*each)
	}
}

// TestAMillionJunkRequests is case A33 of threats.md.
func TestAMillionJunkRequests(t *testing.T) {
	total, clients := 1_000_000, 50
	if testing.Short() || raceEnabled {
		total = 50_000
	}
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rollsUp)
		g.writer.Metrics = new(recorder.Metrics)
		for n := range total {
			g.junk(n, fmt.Sprintf("192.0.2.%d", n%clients))
			if n%3000 == 0 {
				time.Sleep(time.Second)
			}
		}
		must(t, g.writer.Close(t.Context()))
		single, rolled, sum := split(t, g.store.Entries())
		if rows := len(single) + len(rolled); rows > 2000 || len(single)+sum+int(g.writer.Stats().Dropped) != total || g.writer.Stats().Dropped > 0 {
			t.Errorf("%d rows; %d single + %d rolled up + %d dropped of %d", rows, len(single), sum, g.writer.Stats().Dropped, total)
		}
		counted := g.writer.Metrics.Snapshot()
		if int(counted.Entries["custom"][storage.Failed]) != total || int(counted.RolledUp["unknown"]) != sum {
			t.Errorf("the metrics say %d and %d", counted.Entries["custom"][storage.Failed], counted.RolledUp["unknown"])
		}
		t.Logf("%d requests of %d clients: %d single entries, %d roll-ups of %d", total, clients, len(single), len(rolled), sum)
	})
}

// junk sends the n-th junk request with as little around it as possible.
func (g *rig) junk(n int, client string) {
	r := &http.Request{Method: "GET", URL: target(fmt.Sprintf("/api/auth/junk-%d.php", n%977)), Header: http.Header{}, Body: http.NoBody}
	m, _ := g.rec.Profile.Match(r.Method, r.URL)
	x, err := g.rec.Begin(&sink{}, r, m, recorder.Facts{ClientIP: client, Asker: g.server})
	must(g, err)
	x.Writer().WriteHeader(404)
	must(g, x.End(nil, 0, false))
}

// BenchmarkRollUp shows what an ordinary exchange costs with roll-ups and without, and
// what one of a flood does: `go test ./recorder -run xxx -bench RollUp`.
func BenchmarkRollUp(b *testing.B) {
	for _, c := range []struct {
		name   string
		after  int
		status int
	}{{"success, off", 0, 200}, {"success, on", 20, 200}, {"flood, off", 0, 404}, {"flood, on", 20, 404}} {
		b.Run(c.name, func(b *testing.B) {
			p, err := profile.Builtin("better_auth")
			must(b, err)
			key := make([]byte, 32)
			sessions, err := recorder.NewSessions(p, key)
			must(b, err)
			redactor, err := redact.New(redact.Options{Key: key})
			must(b, err)
			w := recorder.NewWriter(nowhere{}, quiet)
			rec, err := recorder.New(recorder.Options{Profile: p, Sessions: sessions, Writer: w, Redactor: redactor, Logger: quiet, RollUpAfter: c.after})
			must(b, err)
			r := &http.Request{Method: "POST", URL: target("/api/auth/no-such-route"), Header: http.Header{}, Body: http.NoBody}
			m, _ := p.Match(r.Method, r.URL)
			b.ReportAllocs()
			for b.Loop() {
				x, err := rec.Begin(&sink{}, r, m, recorder.Facts{ClientIP: "192.0.2.7"})
				must(b, err)
				x.Writer().WriteHeader(c.status)
				must(b, x.End(nil, 0, false))
			}
			must(b, w.Close(b.Context()))
		})
	}
}

// nowhere is a store that keeps nothing.
type nowhere struct{}

func (nowhere) Write(context.Context, ...storage.Entry) error { return nil }

// sink is a ResponseWriter that keeps nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header {
	if s.header == nil {
		s.header = http.Header{}
	}
	return s.header
}
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(int)             {}
