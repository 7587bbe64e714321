package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	killClients = 16
	// checkEvery is after how many kills the test reads the database itself; in
	// between it is Caddy that recovers it.
	checkEvery = 25
)

// TestKill kills Caddy at the moment in which a client sees the first byte of an
// answer, over and over on one database: every answer of which a client saw a byte
// must have its entry. KILLS sets how often.
func TestKill(t *testing.T) {
	kills := 500
	if testing.Short() {
		kills = 25
	}
	if n, err := strconv.Atoi(os.Getenv("KILLS")); err == nil {
		kills = n
	}
	t.Run("fsync loses nothing", func(t *testing.T) {
		lost := killOften(t, "fsync", kills)
		if lost > 0 {
			t.Errorf("%d acknowledged entries lost", lost)
		}
	})
	t.Run("commit loses nothing to a killed process", func(t *testing.T) {
		lost := killOften(t, "commit", min(kills, 40))
		if lost > 0 {
			t.Errorf("%d acknowledged entries lost", lost)
		}
	})
	t.Run("async loses, so the rig can see losses", func(t *testing.T) {
		lost := killOften(t, "async", min(kills, 40))
		if lost == 0 {
			t.Error("nothing was lost: the rig kills too late to prove anything")
		}
	})
}

// killOften returns how many acknowledged entries were lost.
func killOften(t *testing.T, durability string, kills int) int {
	t.Helper()
	dir, port := t.TempDir(), harness.FreePort(t)
	auth := new(chunkedAuth)
	config := site(database(dir), port, harness.Upstream(t, auth), "grace_period 10s", "durability "+durability)
	began := time.Now()
	rig := &killRig{address: fmt.Sprintf("127.0.0.1:%d", port)}
	var total tally
	for n := 1; n <= kills; n++ {
		cmd := harness.Start(t, dir, port, config)
		rig.run(cmd)
		if n%checkEvery == 0 || n == kills {
			total = rig.check(t, database(dir), auth)
		}
	}
	checkIntegrity(t, database(dir))
	if total.acknowledged < kills {
		t.Errorf("%d kills with %d acknowledged requests: every kill needs at least one", kills, total.acknowledged)
	}
	t.Logf("TestKill %s: %d kills in %v, %d requests sent, %d acknowledged, %d entries, %d lost, %d duplicates, %d false successes",
		durability, kills, time.Since(began).Round(time.Second), rig.sent.Load(), total.acknowledged, total.entries, total.lost, total.duplicates, total.falseSuccesses)
	return total.lost
}

// chunkedAuth is an auth server whose answers are chunked, head first, as Better
// Auth's on Node are: a client can hold the answer before a proxy's handler has
// returned. Every request has a user of its own, named by its cookie or its
// identifier.
type chunkedAuth struct {
	answered sync.Map // of users whom it has begun to answer
}

func (a *chunkedAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a client that was cut off is no matter
	user := string(body)
	if c, err := r.Cookie("better-auth.session_token"); err == nil {
		user = c.Value
	}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/get-session") {
		_, _ = fmt.Fprintf(w, `{"session":{"userId":%q},"user":{"id":%q}}`, user, user)
		return
	}
	a.answered.Store(user, true)
	status := http.StatusOK
	if strings.HasSuffix(r.URL.Path, "/magic-link/verify") { // a redirect signs in: nothing is held back
		user = r.URL.Query().Get("token")
		a.answered.Store(user, true)
		w.Header().Set("Set-Cookie", "better-auth.session_token="+user+"; Path=/; HttpOnly")
		w.Header().Set("Location", "/welcome")
		w.Header().Set("Content-Type", "text/html")
		status = http.StatusFound
	}
	w.WriteHeader(status)
	flush := http.NewResponseController(w)
	for _, piece := range []string{`{"user":{"id":"`, user, `"},"token":null,"success":true}`} {
		_ = flush.Flush()
		_, _ = io.WriteString(w, piece)
	}
}

// killRig sends requests from several clients until one of them kills Caddy.
type killRig struct {
	address string
	serial  atomic.Int64
	sent    atomic.Int64

	// mu protects the field below.
	mu           sync.Mutex
	acknowledged []string // users of answers of which a client saw a byte
}

// run lets the clients loose on a Caddy and returns when it is dead. The kill comes
// with the first byte of an answer, from the client that saw it.
func (k *killRig) run(cmd *exec.Cmd) {
	var answers atomic.Int64
	last := int64(1 + rand.IntN(2*killClients)) // the answer whose first byte kills
	var wg sync.WaitGroup
	for range killClients {
		wg.Go(func() {
			k.client(func() {
				if answers.Add(1) == last {
					_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
				}
			})
		})
	}
	wg.Wait()
	_ = cmd.Wait() // it was killed
}

// client sends requests on one connection until it breaks, and calls ack at the
// first byte of each answer.
func (k *killRig) client(ack func()) {
	conn, err := net.Dial("tcp", k.address)
	if err != nil {
		return // Caddy is dead already
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a hang ends as a lost kill
	answers := bufio.NewReader(conn)
	for {
		user, request := k.request()
		k.sent.Add(1)
		if _, err := io.WriteString(conn, request); err != nil {
			return
		}
		if _, err := answers.Peek(1); err != nil {
			return
		}
		ack()
		k.mu.Lock()
		k.acknowledged = append(k.acknowledged, user)
		k.mu.Unlock()
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return
		}
	}
}

// request makes the next request and the user who will be found in its entry. The
// kinds take turns: a body that is held back, a redirect that is not, a request
// whose user must be asked for, an intent with its outcome.
func (k *killRig) request() (user, request string) {
	n := k.serial.Add(1)
	user = fmt.Sprintf("user-%d", n)
	head := " HTTP/1.1\r\nHost: " + k.address + "\r\n"
	cookie := "Cookie: better-auth.session_token=" + user + "\r\nContent-Length: 0\r\n\r\n"
	switch n % 4 {
	case 0:
		return user, "GET /api/auth/magic-link/verify?token=" + user + head + "\r\n"
	case 1:
		return user, "POST /api/auth/change-password" + head + cookie
	case 2:
		return user, "POST /api/auth/sign-out" + head + cookie
	}
	return user, "POST /api/auth/sign-in/email" + head + fmt.Sprintf("Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(user), user)
}

// tally is what a check found.
type tally struct{ acknowledged, entries, lost, duplicates, falseSuccesses int }

// check compares the database, which nobody has open, with what the clients saw
// and what the auth server did.
func (k *killRig) check(t *testing.T, file string, auth *chunkedAuth) tally {
	t.Helper()
	entries := entriesIn(t, file, time.Time{})
	count, last := byUser(entries)
	result := tally{acknowledged: len(k.acknowledged), entries: len(entries)}
	for _, user := range k.acknowledged {
		if e, ok := last[user]; !ok || e.Status != storage.Success {
			result.lost++
		}
	}
	for user, n := range count {
		if user != "" && n > 1 {
			result.duplicates++
			t.Errorf("%d entries for one request of %s", n, user)
		}
		if _, answered := auth.answered.Load(user); last[user].Status == storage.Success && !answered {
			result.falseSuccesses++
			t.Errorf("a success of %q that the auth server never answered: %s", user, last[user].Action)
		}
	}
	return result
}

// TestKillBetweenIntentAndOutcome kills Caddy while a destructive request is with
// the auth server: its entry must be there, and must not claim to know how it
// ended.
func TestKillBetweenIntentAndOutcome(t *testing.T) {
	routes := []string{"delete-user", "sign-out", "revoke-sessions", "admin/ban-user", "two-factor/disable"}
	dir, port := t.TempDir(), harness.FreePort(t)
	arrived, never := make(chan string, 1), make(chan struct{})
	t.Cleanup(func() { close(never) })
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := "nobody"
		if c, err := r.Cookie("better-auth.session_token"); err == nil {
			user = c.Value
		}
		if strings.HasSuffix(r.URL.Path, "/get-session") {
			_, _ = fmt.Fprintf(w, `{"session":{"userId":%q},"user":{"id":%q}}`, user, user)
			return
		}
		arrived <- user
		<-never
	}))
	config := site(database(dir), port, upstream, "grace_period 10s", "durability fsync")
	for i, route := range routes {
		cmd := harness.Start(t, dir, port, config) // from the second on with what the earlier kills left
		answer := make(chan error, 1)
		go func() { answer <- destroy(port, route, fmt.Sprintf("user-%d", i)) }()
		select {
		case <-arrived:
		case err := <-answer:
			t.Fatalf("%s was answered, or failed before it reached the auth server: %v", route, err)
		case <-time.After(20 * time.Second):
			t.Fatalf("%s did not reach the auth server", route)
		}
		if err := syscall.Kill(cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if err := <-answer; err == nil {
			t.Errorf("%s was answered although nobody did", route)
		}
	}
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != len(routes) {
		t.Errorf("%d entries, want %d", len(entries), len(routes))
	}
	for i, e := range entries {
		action := strings.ReplaceAll(routes[i], "/", ":")
		if e.Status != storage.Unknown || e.Action != action || e.UserID != fmt.Sprintf("user-%d", i) {
			t.Errorf("entry %d: %s of %q is %s, want %s of user-%d, unknown", i, e.Action, e.UserID, e.Status, action, i)
		}
	}
	checkIntegrity(t, database(dir))
	t.Logf("TestKillBetweenIntentAndOutcome: %d kills, %d entries, all unknown", len(routes), len(entries))
}

// destroy sends a destructive request and returns nil when it is answered.
func destroy(port int, route, user string) error {
	r, err := http.NewRequest("POST", fmt.Sprintf("http://127.0.0.1:%d/api/auth/%s", port, route), strings.NewReader(`{"userId":"target"}`))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cookie", "better-auth.session_token="+user)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return err
}
