package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestGate13StaleSession: a session that has ended reads nothing any more (threats.md
// C4, C5, C7). On the node that saw it end, with the next request; on another node
// within the 5 s for which an answer of the auth server is believed; and whatever a
// cookie cache of the auth server says. Open tails (C25) end by themselves: at once where
// the session ended, within half a minute elsewhere.
func TestGate13StaleSession(t *testing.T) {
	awaitFar := staleTailsFar(t)
	reads, stale, latest := staleNodes(t)
	tails, ended, last := staleTails(t)
	cached, control, fresh, pairs := staleCache(t)
	far, farEnded, farLast := awaitFar()
	gates.Print(t, 13, "%d reads after a sign-out or ban, %d stale; on another node %v at the latest; with a cookie cache %d reads, %d stale, %d of 9 mixtures of credentials judged as the auth server does; control, the cache itself: %d of %d stale; %d open tails, %d ended with their session, the last after %v; %d of sessions that ended without this Caddy, %d ended, the last after %v",
		reads, stale, latest.Round(10*time.Millisecond), cached, fresh, pairs, control, cached, tails, ended, last.Round(10*time.Millisecond), far, farEnded, farLast.Round(10*time.Millisecond))
	slack := 3 * time.Second // others may be at work on the machine
	if gates.Full() {
		slack = time.Second // the time between two reads, and that of a question
	}
	if ended != tails || last > 4*time.Second+slack {
		t.Error("every open tail has to end with its session, at once")
	}
	if farEnded != far || farLast > 30*time.Second+slack {
		t.Error("every open tail has to end within half a minute of its session")
	}
	if stale > 0 || fresh > 0 || control != cached || pairs != 9 || latest > 5*time.Second+slack {
		t.Error("the figures must be 0, about 5 s, 0, 9, and all of them in the control")
	}
}

// list asks for the log with a token, from the n-th client.
func list(port, n int, token string) int {
	status, _ := once(port, raw("GET", "/api/auth/audit-log/list", "reader", from(client(n))+bearing(token), ""))
	return status
}

// staleNodes ends sessions on one of two nodes: two sites that know nothing of each
// other's questions.
func staleNodes(t *testing.T) (reads, stale int, latest time.Duration) {
	t.Helper()
	t.Run("nodes", func(t *testing.T) { // Caddy ends with it
		harness.Use(t)
		dir, here, there := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
		up := harness.Upstream(t, &sessionAuth{})
		harness.Load(t, anyHost(database(dir), trusting, siteOf(here, singly(), up), siteOf(there, singly(), up)))
		reads = gates.Figure(300, 1000)
		var wrong atomic.Int64
		other := make(chan time.Duration, 1)
		go func() { other <- elsewhere(t, here, there) }()
		parallel(reads, 8, func(i int) {
			token := fmt.Sprintf("stale%d.1", i)
			if before := list(here, i, token); before != http.StatusOK {
				t.Errorf("%s reads before: %d", token, before)
			}
			end(here, i, token)
			if after := list(here, i, token); after != http.StatusUnauthorized {
				wrong.Add(1)
				t.Errorf("%s reads after it has ended: %d", token, after)
			}
		})
		stale = int(wrong.Load())
		latest = <-other
	})
	return reads, stale, latest
}

// end signs the token out, or has an administrator ban its user.
func end(port, i int, token string) {
	request := raw("POST", "/api/auth/sign-out", "end", bearing(token)+jsonType, "{}")
	if i%10 == 0 {
		request = raw("POST", "/api/auth/admin/ban-user", "end", bearing("root.1")+jsonType, fmt.Sprintf(`{"userId":%q}`, userOf(token)))
	}
	once(port, request)
}

// elsewhere is how long another node goes on to show the log after a sign-out here.
func elsewhere(t *testing.T, here, there int) time.Duration {
	t.Helper()
	const sessions = 8
	var longest atomic.Int64
	parallel(sessions, sessions, func(i int) {
		n := 10_000 + i
		token := fmt.Sprintf("elsewhere%d.1", i)
		if before := list(there, n, token); before != http.StatusOK {
			t.Errorf("%s reads there before: %d", token, before)
		}
		end(here, 1, token)
		began := time.Now()
		for time.Since(began) < hang {
			if list(there, n, token) == http.StatusUnauthorized {
				break
			}
			time.Sleep(200 * time.Millisecond) // a user has 60 requests a minute
		}
		for took := int64(time.Since(began)); ; {
			if most := longest.Load(); took <= most || longest.CompareAndSwap(most, took) {
				return
			}
		}
	})
	return time.Duration(longest.Load())
}

// staleTails ends the sessions of open tails: by a sign-out, or because an administrator
// bans the user. Each has shown an entry before, of its own user alone.
func staleTails(t *testing.T) (tails, ended int, last time.Duration) {
	t.Helper()
	t.Run("tails", func(t *testing.T) {
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		harness.Load(t, anyHost(database(dir), trusting, siteOf(port, singly(), harness.Upstream(t, &sessionAuth{}))))
		tails = gates.Figure(20, 100)
		var right, longest atomic.Int64
		var foreign atomic.Bool
		parallel(tails, 10, func(i int) {
			token := fmt.Sprintf("tailing%d.1", i)
			o := tail(t, port, "/api/auth/audit-log/tail", from(client(i))+bearing(token))
			once(port, raw("POST", "/api/auth/update-user", "tailed", bearing(token)+jsonType, "{}"))
			own := func(e tailEvent) bool {
				if e.name == "entry" && !strings.Contains(e.data, fmt.Sprintf(`"userId":"tailing%d"`, i)) {
					foreign.Store(true)
				}
				return strings.Contains(e.data, "update-user")
			}
			if _, ok := o.until(t, own); !ok {
				t.Errorf("the tail of %s, answered %d, does not show its entry", token, o.status)
				return
			}
			end(port, i, token)
			began := time.Now()
			if _, ok := o.until(t, isEnd("UNAUTHORIZED")); ok {
				right.Add(1)
			}
			for took := int64(time.Since(began)); ; {
				if most := longest.Load(); took <= most || longest.CompareAndSwap(most, took) {
					return
				}
			}
		})
		if foreign.Load() {
			t.Error("a tail showed an entry of somebody else")
		}
		ended, last = int(right.Load()), time.Duration(longest.Load())
	})
	return tails, ended, last
}

// staleTailsFar ends the sessions of tails that are open at a Caddy which hears nothing of it: at
// the auth server. The others of the gate need not wait meanwhile.
func staleTailsFar(t *testing.T) (wait func() (tails, ended int, last time.Duration)) {
	t.Helper()
	dir, port, auth := t.TempDir(), harness.FreePort(t), harness.Upstream(t, &sessionAuth{})
	_, at, err := net.SplitHostPort(auth)
	if err != nil {
		t.Fatal(err)
	}
	authPort, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	harness.Start(t, dir, port, anyHost(database(dir), trusting, siteOf(port, singly(), auth)))
	tails := gates.Figure(4, 20)
	ends := make(chan time.Duration, tails)
	for i := range tails {
		token := fmt.Sprintf("far%d.1", i)
		o := tail(t, port, "/api/auth/audit-log/tail", from(client(i))+bearing(token))
		if o.status != http.StatusOK {
			t.Fatalf("the tail of %s: %d", token, o.status)
		}
		end(authPort, i, token)
		began := time.Now()
		go func() {
			if _, ok := o.until(t, isEnd("UNAUTHORIZED")); !ok {
				ends <- -1
				return
			}
			ends <- time.Since(began)
		}()
	}
	return func() (_, ended int, last time.Duration) {
		for range tails {
			if took := <-ends; took >= 0 {
				ended++
				last = max(last, took)
			}
		}
		return tails, ended, last
	}
}

// staleCache ends sessions behind the back of a real Better Auth server's cookie cache,
// and asks with mixtures of credentials.
func staleCache(t *testing.T) (reads, control, stale, pairs int) {
	t.Helper()
	t.Run("cookie cache", func(t *testing.T) {
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		base := fmt.Sprintf("http://127.0.0.1:%d", port)
		server := startWitness(t, base, "COOKIE_CACHE=1")
		harness.Load(t, anyHost(database(dir), "", siteOf(port, singly(), server.address())))
		reads = gates.Figure(5, 25) // an address has 60 requests a minute
		for i := range reads {
			email := fmt.Sprintf("stale%d@example.com", i)
			first, second := newVisitor(t, base), newVisitor(t, base)
			first.signUp(email)
			if status, _, _ := first.do("GET", "/audit-log/list", ""); status != http.StatusOK {
				t.Errorf("the session reads %d before it is revoked", status)
			}
			second.must("POST", "/sign-in/email", fmt.Sprintf(`{"email":%q,"password":"correct horse battery"}`, email))
			second.must("POST", "/revoke-other-sessions", "{}")
			if strings.Contains(string(first.must("GET", "/get-session", "")), email) {
				control++
			}
			if status, _, _ := first.do("GET", "/audit-log/list", ""); status != http.StatusUnauthorized {
				stale++
			}
		}
		pairs = mixtures(t, base)
	})
	return reads, control, stale, pairs
}

// mixtures sends cookies of one person and bearer tokens of another, and returns how
// many of the nine are judged as the auth server judges them.
func mixtures(t *testing.T, base string) (right int) {
	t.Helper()
	a, b, nobody := newVisitor(t, base), newVisitor(t, base), newVisitor(t, base)
	a.signUp("ada@example.com")
	bob := b.signUp("bob@example.com")
	cookies := map[string]string{"no cookie": "", "Ada's cookie": a.cookies(), "a bad cookie": "better-auth.session_token=garbage.garbage"}
	bearers := map[string]string{"no bearer": "", "Bob's bearer": "Bearer " + bob.Token, "a bad bearer": "Bearer garbage"}
	for cookieName, cookie := range cookies {
		for bearerName, bearer := range bearers {
			_, _, said := nobody.do("GET", "/get-session?disableCookieCache=true&disableRefresh=true", "", "Cookie", cookie, "Authorization", bearer)
			var session struct{ User struct{ ID string } }
			if err := json.Unmarshal(said, &session); err != nil {
				t.Fatalf("%s: %v", said, err)
			}
			status, _, shown := nobody.do("GET", "/audit-log/list", "", "Cookie", cookie, "Authorization", bearer)
			var page struct{ Entries []struct{ UserID string } }
			if err := json.Unmarshal(shown, &page); err != nil {
				t.Fatalf("%s: %v", shown, err)
			}
			want, got := "401", fmt.Sprint(status)
			if session.User.ID != "" {
				want = "200 of " + session.User.ID
			}
			for _, e := range page.Entries {
				got = fmt.Sprintf("%d of %s", status, e.UserID)
			}
			if got != want {
				t.Errorf("%s and %s: %s, the auth server says %s", cookieName, bearerName, got, want)
				continue
			}
			right++
		}
	}
	return right
}
