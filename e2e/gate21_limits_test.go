package e2e

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
)

// TestGate21Limits: who asks too often is turned away, whatever address is claimed, and
// asking the log cannot be made into a flood on the auth server (threats.md C12 to
// C17). The control is a Caddy that trusts whatever a client says of its address.
func TestGate21Limits(t *testing.T) {
	spoofs := gates.Figure(1500, 10_000)
	allowed, believed := spoofed(t, spoofs)
	one, two, forms := networks(t)
	reloads, reset := reloadedLimit(t)
	keys := gates.Figure(300_000, 10_000_000)
	room := limiterRoom(t, keys)
	f := flood(t)
	gates.Print(t, 21, "%d spoofed addresses of one peer: %s x 200; 150 addresses of a /64: %s, of two: %s, one address in many spellings: %s; %s after %d reloads; limiter %.1f MB after %d keys; flood of %.0f requests/s: %d look-ups at once at most, %s for a client with 200 sessions, p99 of an audited request %v; control, trusting: %d x 200 (an allowance comes back at one request a second: the seconds are behind the +)",
		spoofs, allowed, one, two, forms, reset, reloads, room, keys, f.rate, f.most, f.ofOne, f.p99.Round(time.Millisecond), believed.allowed)
	if !allowed.are(1) || !one.are(1) || !two.are(2) || !forms.are(1) || reset.allowed > reset.seconds || believed.allowed != spoofs {
		t.Error("the figures must be 60, 60, 120, 60 and 0, and all in the control")
	}
	if gates.Full() && f.p99 > 250*time.Millisecond {
		t.Errorf("honest requests wait for %v in a flood, at most 250 ms are allowed", f.p99)
	}
	if room > 16 || f.most > 20 || f.ofOne.allowed > 60+f.ofOne.seconds || f.bad > 0 {
		t.Errorf("the bounds are 16 MB, 20 and 60; %d answers were neither 200, 429 nor 503", f.bad)
	}
}

// limitedSites are two sites with one log: one that trusts no proxy, and one in a Caddy
// that trusts everybody. Their ports are returned.
func limitedSites(t *testing.T, auth *sessionAuth) (strict, trust int, config string) {
	t.Helper()
	harness.Use(t)
	dir := t.TempDir()
	strict, trust = harness.FreePort(t), harness.FreePort(t)
	up := harness.Upstream(t, auth)
	options := fmt.Sprintf("servers 127.0.0.1:%d {\n\t\ttrusted_proxies static private_ranges\n\t}", trust)
	config = anyHost(database(dir), options, siteOf(strict, singly("durability commit"), up), siteOf(trust, singly("durability commit"), up))
	harness.Load(t, config)
	return strict, trust, config
}

// spent is how many requests were allowed within so many seconds, rounded up. An
// allowance is a bucket of 60 into which one comes back each second.
type spent struct{ allowed, seconds int }

func spentSince(allowed int64, began time.Time) spent {
	return spent{int(allowed), int(time.Since(began)/time.Second) + 1}
}

// are says whether so many allowances were used up, and no more.
func (s spent) are(allowances int) bool {
	return s.allowed >= 60*allowances && s.allowed <= (60+s.seconds)*allowances
}

func (s spent) String() string {
	if whole := s.allowed / 60 * 60; s.allowed > whole {
		return fmt.Sprintf("%d+%d", whole, s.allowed-whole)
	}
	return strconv.Itoa(s.allowed)
}

// allowedOf sends n requests, the i-th with the head, and returns how many got 200. All
// others have to get 429.
func allowedOf(t *testing.T, port, n int, head func(i int) string) spent {
	t.Helper()
	began := time.Now()
	var allowed, odd atomic.Int64
	parallel(8, 8, func(worker int) {
		c, err := connect(port)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		for i := worker; i < n; i += 8 {
			res, _, err := c.do(raw("GET", "/api/auth/audit-log/list", "reader", head(i), ""))
			switch {
			case err != nil:
				t.Error(err)
				return
			case res.StatusCode == http.StatusOK:
				allowed.Add(1)
			case res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "":
				odd.Add(1)
			}
		}
	})
	if odd.Load() > 0 {
		t.Errorf("%d answers are neither 200 nor 429 with Retry-After", odd.Load())
	}
	return spentSince(allowed.Load(), began)
}

// spoofed sends requests of as many users as there are, from one peer that claims
// another address each time, to a Caddy that knows better and to one that does not.
func spoofed(t *testing.T, n int) (allowed, believed spent) {
	t.Helper()
	t.Run("spoofed", func(t *testing.T) { // Caddy ends with it
		strict, trust, _ := limitedSites(t, &sessionAuth{})
		claims := []string{"X-Forwarded-For: %s\r\n", "X-Forwarded-For: 198.51.100.1, %s\r\n", "X-Real-IP: %s\r\n", "Forwarded: for=%s\r\n", "True-Client-IP: %s\r\n", "CF-Connecting-IP: %s\r\n", "X-Client-IP: %s\r\n"}
		allowed = allowedOf(t, strict, n, func(i int) string {
			return fmt.Sprintf(claims[i%len(claims)], client(i)) + bearing(fmt.Sprint("strict-", i))
		})
		believed = allowedOf(t, trust, n, func(i int) string { return from(client(i)) + bearing(fmt.Sprint("trust-", i)) })
	})
	return allowed, believed
}

// networks sends requests from addresses of one and of two IPv6 networks, and from one
// IPv4 address in many spellings.
func networks(t *testing.T) (one, two, forms spent) {
	t.Helper()
	t.Run("networks", func(t *testing.T) {
		_, trust, _ := limitedSites(t, &sessionAuth{})
		one = allowedOf(t, trust, 150, func(i int) string { return from(fmt.Sprintf("2001:db8:1:1::%x", i+1)) + bearing(fmt.Sprint("one-", i)) })
		two = allowedOf(t, trust, 300, func(i int) string {
			return from(fmt.Sprintf("2001:db8:2:%d::%x", i%2, i+1)) + bearing(fmt.Sprint("two-", i))
		})
		spellings := []string{"203.0.113.9", "::ffff:203.0.113.9", "::FFFF:203.0.113.9", "::ffff:cb00:7109", "0:0:0:0:0:ffff:cb00:7109"}
		forms = allowedOf(t, trust, 150, func(i int) string { return from(spellings[i%len(spellings)]) + bearing(fmt.Sprint("form-", i)) })
	})
	return one, two, forms
}

// reloadedLimit uses an allowance up, reloads, and returns how many requests are
// answered then.
func reloadedLimit(t *testing.T) (reloads int, allowed spent) {
	t.Helper()
	t.Run("reloads", func(t *testing.T) {
		strict, _, config := limitedSites(t, &sessionAuth{})
		head := func(int) string { return bearing("reader") }
		if before := allowedOf(t, strict, 70, head); !before.are(1) {
			t.Errorf("%s of 70 requests were allowed", before)
		}
		for reloads = range gates.Figure(5, 50) {
			harness.Load(t, config)
		}
		reloads++
		allowed = allowedOf(t, strict, 20, head)
	})
	return reloads, allowed
}

// limiterRoom is how many megabytes a limiter takes after so many different keys.
func limiterRoom(t *testing.T, keys int) float64 {
	t.Helper()
	heap := func() float64 {
		runtime.GC()
		runtime.GC() // what finalisers freed
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	before := heap()
	l, err := httpapi.NewLimiter()
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		l.Allow(fmt.Sprintf("ip:2001:db8:%x:%x::/64", i>>16, i&0xffff))
	}
	room := heap() - before
	runtime.KeepAlive(l)
	return room
}

// floodRate is how many requests a second a flood has at most (threats.md C12).
const floodRate = 10_000

// flooded is what a flood on the API did.
type flooded struct {
	rate  float64
	most  int64
	ofOne spent
	bad   int64
	p99   time.Duration
}

// flood asks for the log with random sessions from thousands of addresses, floodRate times
// a second, while honest people use the auth server.
func flood(t *testing.T) (f flooded) {
	t.Helper()
	t.Run("flood", func(t *testing.T) {
		auth := &sessionAuth{delay: 20 * time.Millisecond}
		_, trust, _ := limitedSites(t, auth)
		f.ofOne = lookupsOfOne(t, trust, auth)
		checkRefusals(t, trust, auth)

		quit := make(chan struct{})
		var sent, bad atomic.Int64
		var wg sync.WaitGroup
		workers := gates.Figure(200, 2000)
		pause := time.Second * time.Duration(workers) / floodRate
		for worker := range workers {
			wg.Go(func() { floodFrom(trust, worker, pause, quit, &sent, &bad) })
		}
		began := time.Now()
		honest := honestTimes(t, trust, time.Duration(gates.Figure(2, 30))*time.Second)
		close(quit)
		wg.Wait()
		f.rate = float64(sent.Load()) / time.Since(began).Seconds()
		f.most, f.bad = auth.most.Load(), bad.Load()
		slices.Sort(honest)
		f.p99 = honest[len(honest)*99/100]
		if f.most < 5 {
			t.Errorf("%d look-ups at once: that was no flood", f.most)
		}
	})
	return f
}

// lookupsOfOne sends 200 sessions from one address and returns how many the auth
// server was asked about.
func lookupsOfOne(t *testing.T, port int, auth *sessionAuth) spent {
	t.Helper()
	began, before := time.Now(), auth.lookups.Load()
	allowedOrNobody(t, port, 200, func(i int) string { return from("192.0.2.1") + bearing(fmt.Sprint("nobody-", i)) })
	if all := auth.lookups.Load(); all == before {
		t.Error("the auth server was never asked")
	}
	asked := auth.lookups.Load() - before
	taken := spentSince(asked, began)
	allowedOrNobody(t, port, 50, func(int) string { return from("192.0.2.2") })
	if more := auth.lookups.Load() - before - asked; more > 0 {
		t.Errorf("%d look-ups for requests without credentials", more)
	}
	return taken
}

// allowedOrNobody sends requests that have to be answered with 401 or 429.
func allowedOrNobody(t *testing.T, port, n int, head func(i int) string) {
	t.Helper()
	for i := range n {
		if status, body := once(port, raw("GET", "/api/auth/audit-log/list", "reader", head(i), "")); status != http.StatusUnauthorized && status != http.StatusTooManyRequests {
			t.Errorf("%d %s", status, body)
		}
	}
}

// checkRefusals asks while the auth server has no answer: that is neither yes nor no,
// and is not remembered (C13).
func checkRefusals(t *testing.T, port int, auth *sessionAuth) {
	t.Helper()
	for _, status := range []int{429, 500, 503} {
		auth.refuse.Store(int32(status))
		request := raw("GET", "/api/auth/audit-log/list", "reader", from("192.0.2.3")+bearing(fmt.Sprint("patient-", status))+"Connection: close\r\n", "")
		if got, body := once(port, request); got != http.StatusServiceUnavailable || !strings.Contains(string(body), "SESSION_UNAVAILABLE") {
			t.Errorf("the auth server says %d: %d %s", status, got, body)
		}
		auth.refuse.Store(0)
		if got, body := once(port, request); got != http.StatusOK {
			t.Errorf("and after that: %d %s", got, body)
		}
	}
}

// floodFrom sends requests of a new session each, until told to end. Of the workers one
// in two comes from another address each time, so that the auth server is asked; the
// others from a few addresses, which are turned away at once. Pause is the time from one
// request to the next.
func floodFrom(port, worker int, pause time.Duration, quit chan struct{}, sent, bad *atomic.Int64) {
	c, err := connect(port)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	next := time.NewTicker(pause)
	defer next.Stop()
	for i := 0; ; i++ {
		select {
		case <-quit:
			return
		case <-next.C:
		}
		n := worker*10_000 + i
		address := client(1<<20 + n)
		if worker%2 == 1 {
			address = client(worker % 16)
		}
		res, _, err := c.do(raw("GET", "/api/auth/audit-log/list", "flood", from(address)+bearing(fmt.Sprint("nobody-", n)), ""))
		if err != nil {
			return
		}
		sent.Add(1)
		switch res.StatusCode {
		case http.StatusUnauthorized, http.StatusTooManyRequests:
		case http.StatusServiceUnavailable:
			if res.Header.Get("Retry-After") == "" {
				bad.Add(1)
			}
		default:
			bad.Add(1)
		}
	}
}

// honestTimes sends requests that are recorded, each of a session that nobody has seen
// yet, one after another, and returns how long each took.
func honestTimes(t *testing.T, port int, d time.Duration) []time.Duration {
	t.Helper()
	var times []time.Duration
	for end, i := time.Now().Add(d), 0; time.Now().Before(end); i++ {
		began := time.Now()
		if status, body := once(port, raw("POST", "/api/auth/update-user", "honest", from(client(i))+bearing(fmt.Sprint("honest-", i))+jsonType, "{}")); status != http.StatusOK {
			t.Errorf("an honest request: %d %s", status, body)
		}
		times = append(times, time.Since(began))
	}
	return times
}
