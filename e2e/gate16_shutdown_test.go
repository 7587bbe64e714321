package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
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

// TestGate16Shutdown ends Caddy while requests are with the auth server, and with a full
// queue (threats.md E1.6, E1.7). Open live tails are part of the gate once there are any.
func TestGate16Shutdown(t *testing.T) {
	t.Run("one request", exits)
	n := gates.Figure(40, 200)
	without, twice := 0, 0
	var slow time.Duration
	t.Run("grace 1s, upstream 4s", func(t *testing.T) { without, twice, slow = exitUnderWay(t, n) })
	queued, lost := 0, 0
	var full time.Duration
	t.Run("full queue, eternal grace", func(t *testing.T) { queued, lost, full = exitWithFullQueue(t, gates.Figure(3000, 20_000)) })
	gates.Print(t, 16, "%d requests with an upstream that needs 4 s, grace 1 s: %d without an entry, %d with two, exit in %.1f s; %d entries in the background and %d idle connections, eternal grace: %d lost, exit in %.1f s",
		n, without, twice, slow.Seconds(), queued, idleConnections, lost, full.Seconds())
}

// exitUnderWay sends n requests, a third of them with an intent, to an auth server that
// needs 4 s, and ends Caddy when all have got there.
func exitUnderWay(t *testing.T, n int) (without, twice int, took time.Duration) {
	dir, port := t.TempDir(), harness.FreePort(t)
	var arrived sync.WaitGroup
	arrived.Add(n)
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		user := userOf(tokenOf(r))
		if !strings.HasSuffix(r.URL.Path, "/get-session") {
			arrived.Done()
			time.Sleep(4 * time.Second)
		}
		_, _ = fmt.Fprintf(w, `{"session":{"userId":%q},"user":{"id":%[1]q},"success":true}`, user)
	}))
	cmd := harness.Start(t, dir, port, strings.Replace(anyHost(database(dir), "", siteOf(port, singly("durability fsync"), upstream)), "grace_period 10s", "grace_period 1s", 1))
	routes := []string{"/api/auth/delete-user", "/api/auth/sign-in/email", "/api/auth/update-user"}
	var clients sync.WaitGroup
	told := make([]int, n) // the statuses that clients got; 0 for no answer
	for i := range n {
		clients.Go(func() {
			name := fmt.Sprint("request-", i)
			told[i], _ = once(port, raw("POST", routes[i%len(routes)], name, bearing(name)+jsonType, fmt.Sprintf(`{"email":%q}`, name)))
		})
	}
	arrived.Wait()
	took = exit(t, cmd)
	clients.Wait()
	of := map[string][]storage.Entry{}
	for _, e := range entriesIn(t, database(dir), time.Time{}) {
		of[e.UserAgent] = append(of[e.UserAgent], e)
	}
	for i := range n {
		switch entries := of[fmt.Sprint("request-", i)]; {
		case len(entries) == 0:
			without++
		case len(entries) > 1:
			twice++
		case told[i] == http.StatusOK && entries[0].Status != storage.Success:
			t.Errorf("request %d was answered with 200, its entry says %s", i, entries[0].Status)
		}
	}
	if without+twice > 0 {
		t.Errorf("%d requests without an entry, %d with more than one", without, twice)
	}
	checkIntegrity(t, database(dir))
	return without, twice, took
}

// idleConnections are open, and ask nothing, when Caddy ends.
const idleConnections = 100

// exitWithFullQueue ends Caddy at the moment when n entries were left to the background.
func exitWithFullQueue(t *testing.T, n int) (queued, lost int, took time.Duration) {
	dir, port := t.TempDir(), harness.FreePort(t)
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, signedIn)
	}))
	cmd := harness.Start(t, dir, port, strings.Replace(anyHost(database(dir), "", siteOf(port, singly("durability async"), upstream)), "grace_period 10s", "", 1))
	for range idleConnections {
		c, err := connect(port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, _, err := c.do(raw("GET", "/elsewhere", "idle", "", "")); err != nil {
			t.Fatal(err)
		}
	}
	release := lockDatabase(t, database(dir)) // nothing is written meanwhile
	var answered atomic.Int64
	const workers = 32
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			c, err := connect(port)
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			for i := worker; i < n; i += workers {
				if res, _, err := c.do(raw("POST", "/api/auth/sign-in/email", "queued", jsonType, typed)); err != nil || res.StatusCode != http.StatusOK {
					return
				}
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	release()
	took = exit(t, cmd)
	queued = int(answered.Load())
	for _, e := range entriesIn(t, database(dir), time.Time{}) {
		switch {
		case e.Action == "audit-log:dropped":
			var gap struct{ Count int }
			if err := json.Unmarshal(e.Metadata, &gap); err != nil {
				t.Fatal(err)
			}
			lost -= gap.Count // they are counted: nobody can have missed them
		case e.UserAgent == "queued":
			lost--
		}
	}
	if lost += queued; lost != 0 || queued != n || took > 5*time.Second {
		t.Errorf("%d of %d requests answered; %d neither in the log nor in a gap; the exit took %v", queued, n, lost, took)
	}
	return queued, lost, took
}

// exit ends a Caddy as a service manager does, and says how long it took.
func exit(t *testing.T, cmd *exec.Cmd) time.Duration {
	t.Helper()
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("Caddy's exit: %v", err)
	}
	return time.Since(began)
}

// exits ends Caddy with SIGTERM while one request is with the auth server: there is an
// entry for it, however short Caddy's patience is.
func exits(t *testing.T) {
	tests := []struct {
		name, options, durability, route string
	}{
		{"default grace, sign-in", "", "fsync", "sign-in/email"},
		{"default grace, deletion", "", "fsync", "delete-user"},
		{"default grace, sign-in, async", "", "async", "sign-in/email"},
		{"grace 200ms, sign-in", "grace_period 200ms", "fsync", "sign-in/email"},
		{"grace 200ms, deletion", "grace_period 200ms", "fsync", "delete-user"},
		{"grace 200ms, sign-in, async", "grace_period 200ms", "async", "sign-in/email"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, port := t.TempDir(), harness.FreePort(t)
			arrived := make(chan struct{}, 1)
			upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if !strings.HasSuffix(r.URL.Path, "/get-session") {
					arrived <- struct{}{}
					time.Sleep(1500 * time.Millisecond)
				}
				_, _ = io.WriteString(w, `{"session":{"userId":"u"},"user":{"id":"u"},"success":true}`)
			}))
			cmd := harness.Start(t, dir, port, site(database(dir), port, upstream, test.options, "durability "+test.durability))
			answer := make(chan error, 1)
			go func() { answer <- destroy(port, test.route, "u") }()
			<-arrived
			took := exit(t, cmd).Round(10 * time.Millisecond)
			clientErr := <-answer

			entries := entriesIn(t, database(dir), time.Time{})
			if len(entries) != 1 {
				t.Fatalf("%d entries, want one", len(entries))
			}
			e := entries[0]
			if clientErr == nil && e.Status != storage.Success {
				t.Errorf("the client was told of a success, the entry says %s", e.Status)
			}
			if took > 8*time.Second {
				t.Errorf("the exit took %v", took)
			}
			checkIntegrity(t, database(dir))
			t.Logf("%s: exit in %v, the client got %v; entry: %s of %q, %s, %s", test.name, took, answered(clientErr), e.Action, e.UserID, e.Status, e.Metadata)
		})
	}
}

func answered(err error) string {
	if err == nil {
		return "its answer"
	}
	return fmt.Sprintf("no answer (%v)", err)
}
