package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate10Conservation: whatever is thrown at the log, each event is one entry, or is
// counted in exactly one roll-up, or in dropped_total (threats.md I4, A33, E6.1, E6.2).
// The auth server counts what reaches it. Controls: without roll-ups junk fills the
// store, and a queue that is full loses entries, which the sums show.
func TestGate10Conservation(t *testing.T) {
	a := underAttack(t)
	o := overflow(t)
	all := gates.Figure(300, 20_000)
	unrolled := unrolledJunk(t, all)
	gates.Print(t, 10, "%d requests at %.0f/s for %v, %d reloads: %d single + %d in %d roll-ups, %d missing, %d counted twice; %d of %d privileged acts and successes singly; floods of %d addresses, 10,000 of which are counted at a time; %d junk paths of 50 clients: %d rows, %d missing; metrics differ by %d; RSS %.0f MB; store stalled for %v, async: %d missing, dropped_total %d; control, no roll-ups: %d junk paths, %d rows",
		a.flood.requests, a.rate, a.took.Round(time.Second), a.reloads, a.flood.single, a.flood.rolled, a.flood.rollUps, a.flood.missing, a.flood.twice, a.once, a.singles, a.spoofed,
		a.junk.requests, a.junk.single+a.junk.rollUps, a.junk.missing, a.metricsOff, max(a.rss, o.rss), o.stalled.Round(100*time.Millisecond), o.missing, o.dropped, all, unrolled)
	if a.flood.missing+a.flood.twice+a.junk.missing+a.junk.twice+a.metricsOff != 0 || a.once != a.singles || a.flood.rollUps == 0 {
		t.Error("every request must be one entry or counted in one roll-up, and privileged acts and successes are entries")
	}
	if junk := a.junk.single + a.junk.rollUps; junk > 2000 || max(a.rss, o.rss) > 256 {
		t.Error("the bounds are 2,000 rows of junk and 256 MB")
	}
	if o.missing == 0 || o.missing != o.dropped || o.told != o.dropped {
		t.Errorf("what is missing must be counted: %d missing, %d in dropped_total, %d in entries of the log about itself", o.missing, o.dropped, o.told)
	}
	if unrolled != all {
		t.Errorf("the control has %d rows of %d requests", unrolled, all)
	}
}

// The site.

// attackSite is a Caddy of its own, and an auth server that counts what reaches it.
type attackSite struct {
	*sized
	admin string
	up    *bytesUpstream
	stop  func() // ends Caddy as the system does, and waits for it
}

// startAttackSite starts Caddy with the lines of the directive and the lines of the
// store.
func startAttackSite(t *testing.T, directive, sqlite string) *attackSite {
	t.Helper()
	s := &attackSite{sized: &sized{dir: t.TempDir(), port: harness.FreePort(t)}, admin: "127.0.0.1:" + itoa(harness.FreePort(t)), up: newBytesUpstream(t, answerAttack)}
	cmd := startWithAdmin(t, s.dir, s.port, s.config(directive, sqlite))
	s.pid = cmd.Process.Pid
	s.stop = func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("Caddy's exit: %v", err)
		}
	}
	return s
}

func (s *attackSite) config(directive, sqlite string) string {
	c := anyHost(database(s.dir), "admin "+s.admin+"\n\t"+trusting, siteOf(s.port, "audit_log {\n\t\tprofile better_auth\n\t\t"+directive+"\n\t}", s.up.address))
	return strings.Replace(c, "\t\t\tpath ", "\t\t\t"+sqlite+"\n\t\t\tpath ", 1)
}

// blow is a kind of request of the attack; its cases begin with its name. Blows that
// roll up have the names of the kinds of roll-ups.
type blow struct {
	name, method, target, body string
	answer                     string
}

const rollUpPrefix = "audit-log:rolled-up:"

var (
	junkBlow    = blow{"unknown", "GET", "/api/auth/junk-%d.php", "", answer("404 Not Found", jsonType, `{}`)}
	floodBlows  = []blow{junkBlow, {"check", "GET", "/api/auth/list-sessions?n=%d", "", denial}, {"sign-in", "POST", "/api/auth/sign-in/email?n=%d", typed, denial}}
	singleBlows = []blow{
		{"admin", "POST", "/api/auth/admin/ban-user?n=%d", `{"userId":"u"}`, answer("403 Forbidden", jsonType, `{"code":"NO"}`)},
		{"destroyed", "POST", "/api/auth/sign-out?n=%d", `{}`, answer("200 OK", jsonType, `{"success":true}`)},
		{"success", "POST", "/api/auth/sign-in/email?n=%d", typed, answer("200 OK", jsonType, signedIn)},
		{"credential", "POST", "/api/auth/change-password?n=%d", `{}`, denial},
	}
	// ignoredBlow is no event.
	ignoredBlow = blow{"ignored", "GET", "/api/auth/get-session?n=%d", "", answer("200 OK", jsonType, "null")}

	denial = answer("401 Unauthorized", jsonType, denied)
)

// answerAttack answers a case as its blow says.
func answerAttack(name string) string {
	kind, _, _ := strings.Cut(name, "/")
	for _, b := range append(append([]blow{ignoredBlow}, floodBlows...), singleBlows...) {
		if b.name == kind {
			return b.answer
		}
	}
	return denial
}

// request is the n-th, from an address. Its case is the blow's name with the address,
// or with the number.
func (b *blow) request(n int, address string, numbered bool) string {
	name := b.name + "/" + address
	if numbered {
		name = fmt.Sprintf("%s/%d", b.name, n)
	}
	header := from(address)
	if b.body != "" {
		header += jsonType
	}
	return raw(b.method, fmt.Sprintf(b.target, n), name, header, b.body)
}

// attack sends requests over 64 connections, some at a time on each, until there are no
// more; at most 10,000 a second. A connection that breaks in a reload is made anew, and
// what it still held is not sent: what the auth server has seen counts.
func attack(t *testing.T, port int, next func(i int) (request string, more bool)) (answered int64, took time.Duration) {
	t.Helper()
	const pipelined = 8
	var serial, done atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			var c *conn
			for more := true; more; {
				batch := make([]string, 0, pipelined)
				for more && len(batch) < pipelined {
					var request string
					i := serial.Add(1) - 1
					if request, more = next(int(i)); more {
						batch = append(batch, request)
						time.Sleep(time.Until(began.Add(time.Duration(i) * 100 * time.Microsecond)))
					}
				}
				if c == nil {
					var err error
					if c, err = connect(port); err != nil {
						t.Error(err)
						return
					}
				}
				c = strike(t, c, batch, &done)
			}
			if c != nil {
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	return done.Load(), time.Since(began)
}

// strike sends a batch on a connection and counts the answers. It returns the connection
// if it can be used further.
func strike(t *testing.T, c *conn, batch []string, done *atomic.Int64) *conn {
	_ = c.SetDeadline(time.Now().Add(10 * hang)) // against hanging only
	_, err := io.WriteString(c, strings.Join(batch, ""))
	for range batch {
		var res *http.Response
		if err == nil {
			res, _, err = c.answer()
		}
		if err != nil || res.Close {
			_ = c.Close()
			return nil
		}
		if done.Add(1); res.StatusCode >= 500 {
			t.Errorf("%d for one of %.200q", res.StatusCode, batch)
		}
	}
	return c
}

// The sums.

// sums are what became of requests.
type sums struct {
	requests, single, rolled, rollUps, missing, twice int
}

// ledger is what a log holds, by blow and client.
type ledger struct {
	single, rolled, rows map[string]int
	// cases are how often each case has an entry of its own.
	cases map[string]int
}

// ledgerOf reads a log and looks at each of its roll-ups.
func ledgerOf(t *testing.T, entries []storage.Entry) *ledger {
	t.Helper()
	l := &ledger{map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}}
	for _, e := range entries {
		kind, isRollUp := strings.CutPrefix(e.Action, rollUpPrefix)
		if !isRollUp {
			l.cases[e.UserAgent]++
			kind, _, _ = strings.Cut(e.UserAgent, "/")
			l.single[kind+"/"+e.IPAddress]++
			continue
		}
		var m struct {
			Count, Identifiers int
			From, To           time.Time
		}
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			t.Fatal(err)
		}
		if m.Count == 0 || e.IPAddress == "" || (m.Identifiers > 0) != (kind == "sign-in") || m.From.IsZero() || m.To.Before(m.From) || m.To.Sub(m.From) > 90*time.Second || m.To.After(e.CreatedAt.Add(time.Second)) {
			t.Errorf("a roll-up at %v: %+v %s", e.CreatedAt, e, e.Metadata)
		}
		// Stores count it as so many, and need not read further than this.
		if n := storage.EventsIn(e.Action, e.Metadata); n != m.Count || !strings.HasPrefix(string(e.Metadata), `{"count":`) {
			t.Errorf("a roll-up counts as %d: %s", n, e.Metadata)
		}
		l.rolled[kind+"/"+e.IPAddress] += m.Count
		l.rows[kind+"/"+e.IPAddress]++
	}
	return l
}

// sum compares the ledger with what the auth server has seen of the cases of floods
// that of picks.
func (l *ledger) sum(seen map[string]int, of func(name string) bool) (s sums) {
	for name, n := range seen {
		if !of(name) {
			continue
		}
		s.requests += n
		s.single += l.single[name]
		s.rolled += l.rolled[name]
		s.rollUps += l.rows[name]
		s.missing += max(0, n-l.single[name]-l.rolled[name])
		s.twice += max(0, l.single[name]+l.rolled[name]-n)
	}
	return s
}

// isFlood says whether a case is one of a blow that rolls up.
func isFlood(name string) bool {
	for _, b := range floodBlows {
		if strings.HasPrefix(name, b.name+"/") {
			return true
		}
	}
	return false
}

// The attack.

// attacked is what an attack came to.
type attacked struct {
	flood, junk         sums
	rate                float64
	took                time.Duration
	reloads             int
	once, singles       int
	spoofed, metricsOff int
	rss                 float64
}

// Addresses of the phases begin where those of the others cannot be.
const junkClients, spoofedClients = 1 << 16, 1 << 17

// underAttack sends a flood of everything for a minute, then floods from more clients
// than are counted at a time, then a million junk paths, reloads meanwhile, and stops.
func underAttack(t *testing.T) (a attacked) {
	t.Helper()
	s := startAttackSite(t, "rollup 20", "")
	a.flood.requests, a.took, a.reloads = s.flood(t)
	a.rate = float64(a.flood.requests) / a.took.Seconds()
	a.spoofed = gates.Figure(200, 12_000)
	reload(t, s.admin, s.config("rollup 1", ""))
	attack(t, s.port, func(i int) (string, bool) { // each three times in a row: one single, two rolled up
		return junkBlow.request(i, client(spoofedClients+i/3), false), i < 3*a.spoofed
	})
	reload(t, s.admin, s.config("rollup 20", ""))
	junk := gates.Figure(4000, 1_000_000)
	attack(t, s.port, func(i int) (string, bool) {
		return junkBlow.request(i, client(junkClients+i%50), false), i < junk
	})
	a.rss = s.memory(t, "VmHWM")
	counted, at := s.counters(t)
	s.stop()
	entries := entriesIn(t, database(s.dir), time.Time{})
	checkIntegrity(t, database(s.dir))
	l := ledgerOf(t, entries)
	isJunk := func(name string) bool { return strings.HasPrefix(name, "unknown/10.1.") }
	a.junk = l.sum(s.up.times, isJunk)
	a.flood = l.sum(s.up.times, func(name string) bool { return isFlood(name) && !isJunk(name) })
	a.once, a.singles = s.alone(t, l)
	a.metricsOff = s.compareCounters(t, counted, entries, at)
	s.checkLimits(t, l)
	return a
}

// flood sends of everything, mostly what rolls up, and reloads three times.
func (s *attackSite) flood(t *testing.T) (sent int, took time.Duration, reloads int) {
	t.Helper()
	clients, lasts := gates.Figure(10, 50), time.Duration(gates.Figure(2000, 65_000))*time.Millisecond
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range 3 {
			time.Sleep(lasts / 4)
			reload(t, s.admin, s.config(fmt.Sprintf("rollup 20\n\t\tdurability %s", []string{"commit", "fsync", "commit"}[n]), ""))
			reloads++
		}
	})
	end := time.Now().Add(lasts)
	n, took := attack(t, s.port, func(i int) (string, bool) {
		address := client(i % clients)
		switch more := time.Now().Before(end); {
		case i%100 == 7:
			return ignoredBlow.request(i, address, true), more
		case i%25 == 3:
			return singleBlows[i/25%len(singleBlows)].request(i, address, true), more
		default:
			return floodBlows[i/clients%len(floodBlows)].request(i, address, false), more
		}
	})
	wg.Wait()
	return int(n), took, reloads
}

// alone counts the privileged acts and successes that the auth server has seen, and
// those that have exactly one entry.
func (s *attackSite) alone(t *testing.T, l *ledger) (once, all int) {
	t.Helper()
	for name, n := range s.up.times {
		kind, _, _ := strings.Cut(name, "/")
		switch {
		case isFlood(name) || name == "":
		case kind == ignoredBlow.name:
			if l.cases[name] > 0 {
				t.Errorf("%s is no event, and has an entry", name)
			}
		default:
			all++
			if n == 1 && l.cases[name] == 1 {
				once++
			}
		}
	}
	return once, all
}

// checkLimits: in a flood no client has more than 20 entries of a kind, however long it
// goes on. The other phases begin after it.
func (s *attackSite) checkLimits(t *testing.T, l *ledger) {
	t.Helper()
	for name, n := range l.single {
		if isFlood(name) && n > 20 {
			t.Errorf("%s: %d single entries, at most 20 are allowed", name, n)
		}
	}
}

// counters scrapes the metrics at a moment in which nothing is written.
func (s *attackSite) counters(t *testing.T) (counted map[string]float64, at time.Time) {
	t.Helper()
	eventually(t, "the store does not come to rest", func() bool {
		before := scrape(t, s.admin)
		at = time.Now()
		time.Sleep(100 * time.Millisecond)
		counted = scrape(t, s.admin)
		const written, queued = "caddy_audit_log_written_total", "caddy_audit_log_queue_length"
		return before[written] == counted[written] && counted[queued] == 0
	})
	return counted, at
}

// compareCounters returns by how much the metrics differ from what the log holds and
// the auth server has seen. at is when they were taken: later roll-ups are the stop's.
func (s *attackSite) compareCounters(t *testing.T, counted map[string]float64, entries []storage.Entry, at time.Time) (off int) {
	t.Helper()
	const prefix = "caddy_audit_log_"
	want := map[string]int{"refused_total": 0, "dropped_total": 0, "write_errors_total": 0, "entries_total": 0, "unknown_routes_total": 0, "written_total": 0}
	got := map[string]int{}
	for name, v := range counted {
		name = strings.TrimPrefix(name, prefix)
		base, _, _ := strings.Cut(name, "{")
		if base == "entries_total" {
			name = base
		}
		got[name] += int(v)
	}
	for name, n := range s.up.times {
		kind, _, _ := strings.Cut(name, "/")
		switch kind {
		case "", "ignored":
			continue
		case "unknown":
			want["unknown_routes_total"] += n
		case "admin", "destroyed":
			want["written_total"] += n // the intent
		}
		want["entries_total"] += n
	}
	for _, e := range entries {
		kind, isRollUp := strings.CutPrefix(e.Action, rollUpPrefix)
		if isRollUp {
			want[fmt.Sprintf("rolled_up_total{kind=%q}", kind)] += countOf(t, &e)
		}
		if !isRollUp || e.CreatedAt.Before(at) {
			want["written_total"]++
		}
	}
	want["written_total"] += ownOf(t, harness.OpenStore(t, s.dir)) - 1 // the stop came after them
	for name, n := range want {
		if got[name] != n {
			off += max(got[name]-n, n-got[name])
			t.Errorf("%s is %d, and the log says %d", name, got[name], n)
		}
	}
	return off
}

// countOf is metadata.count.
func countOf(t *testing.T, e *storage.Entry) int {
	t.Helper()
	var m struct{ Count int }
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	return m.Count
}

// A store that stalls.

// overflowed is what a queue that was full came to: what is missing, what dropped_total
// says, and what the log's entries about itself say.
type overflowed struct {
	stalled                time.Duration
	missing, dropped, told int
	rss                    float64
}

// overflow locks the database while more comes than the queue of durability async
// holds, and counts when it is free again (threats.md E6.2).
func overflow(t *testing.T) (o overflowed) {
	t.Helper()
	s := startAttackSite(t, "rollup off\n\t\tdurability async", "spill off")
	attack(t, s.port, func(i int) (string, bool) { return junkBlow.request(i, client(0), false), i < 1 }) // Caddy listens before it has opened the database
	release := lockDatabase(t, database(s.dir))
	began := time.Now()
	least := time.Duration(gates.Figure(0, 10)) * time.Second
	const queue = 10_000
	attack(t, s.port, func(i int) (string, bool) {
		b := floodBlows[i%len(floodBlows)]
		return b.request(i, client(i%50), false), i < queue+1500 || time.Since(began) < least
	})
	o.stalled = time.Since(began)
	release()
	counted, _ := s.counters(t)
	o.dropped = int(counted["caddy_audit_log_dropped_total"])
	o.rss = s.memory(t, "VmHWM")
	s.stop()
	for _, n := range s.up.times {
		o.missing += n
	}
	for _, e := range entriesIn(t, database(s.dir), time.Time{}) {
		if e.Action == "audit-log:dropped" {
			o.told += countOf(t, &e)
			continue
		}
		o.missing--
	}
	return o
}

// unrolledJunk sends junk without roll-ups and returns how many rows it makes.
func unrolledJunk(t *testing.T, n int) (rows int) {
	t.Helper()
	s := startAttackSite(t, "rollup off", "")
	attack(t, s.port, func(i int) (string, bool) {
		return junkBlow.request(i, client(junkClients+i%50), false), i < n
	})
	s.stop()
	return len(entriesIn(t, database(s.dir), time.Time{}))
}

// TestGate10ConservationInThisProcess is a small flood under the race detector, which a
// Caddy of its own does not have. A minute may end within it.
func TestGate10ConservationInThisProcess(t *testing.T) {
	const clients, each = 4, 240
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	up := newBytesUpstream(t, answerAttack)
	for round := range 2 { // what is counted outlives a reload
		harness.Load(t, anyHost(database(dir), trusting, siteOf(port, fmt.Sprintf("audit_log {\n\t\tprofile better_auth\n\t\trollup %d\n\t}", 10+round), up.address)))
		attack(t, port, func(i int) (string, bool) {
			b, numbered := singleBlows[0], true
			if kind := i / clients % 4; kind < len(floodBlows) {
				b, numbered = floodBlows[kind], false
			}
			return b.request(round*each*clients+i, client(i%clients), numbered), i < each*clients
		})
	}
	stop(t)
	var s sums
	var once, singles int
	eventually(t, "not every request is an entry or counted in one", func() bool { // the last handler to return closes the store
		l := ledgerOf(t, entriesIn(t, database(dir), time.Time{}))
		s = l.sum(up.times, isFlood)
		once, singles = (&attackSite{up: up}).alone(t, l)
		return s.missing == 0
	})
	if s.twice > 0 || s.rolled == 0 || once != singles || singles == 0 {
		t.Errorf("%+v; %d of %d acts of administrators", s, once, singles)
	}
}
