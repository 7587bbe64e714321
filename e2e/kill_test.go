package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// What the gates that kill Caddy share: an auth server, clients that note what was
// acknowledged, and the comparison with the database.

const (
	killClients = 16
	// checkEvery is after how many kills a test reads the database itself; in
	// between it is Caddy that recovers it.
	checkEvery = 25
)

// testCaddy is set in processes in which the program of the tests is a Caddy: one that
// has their modules, too.
const testCaddy = "AUDIT_LOG_TEST_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(testCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// testCommand is harness.Command with the program of the tests.
func testCommand(t *testing.T, dir, config string) *exec.Cmd {
	t.Helper()
	cmd := harness.Command(t, os.Args[0], dir, config)
	cmd.Env = append(cmd.Env, testCaddy+"=1")
	return cmd
}

// memoryDir is a folder whose disk is quick: a process that is killed leaves to the
// system what it has written, on any disk. What only the disk has is gate 6.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "audit-log-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// chunkedAuth is an auth server whose answers are chunked, head first, as Better
// Auth's on Node are: a client can hold the answer before a proxy's handler has
// returned. Every request has a user of its own, named by its cookie or its
// identifier.
type chunkedAuth struct {
	answered sync.Map // of the paths that it has begun to answer, by their users
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
	a.answered.Store(user, r.URL.Path)
	status := http.StatusOK
	if strings.HasSuffix(r.URL.Path, "/magic-link/verify") { // a redirect signs in: nothing is held back
		user = r.URL.Query().Get("token")
		a.answered.Store(user, r.URL.Path)
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

// killRig has clients that send requests to a Caddy until it is dead.
type killRig struct {
	address string
	serial  atomic.Int64
	sent    atomic.Int64
	kills   atomic.Int64 // so far
	stopped atomic.Bool  // the clients send nothing more
	// from is the first request whose entry counts: those before it were destroyed by
	// the test.
	from atomic.Int64

	// mu protects the field below.
	mu           sync.Mutex
	acknowledged []acknowledged
}

// acknowledged is an answer of which a client saw a byte.
type acknowledged struct {
	request int64
	user    string
	kill    int64 // the last one before it
}

func newKillRig(port int) *killRig { return &killRig{address: fmt.Sprintf("127.0.0.1:%d", port)} }

// load lets the clients loose on a Caddy and returns when it is dead, or when they are
// to stop. They call ack at the first byte of each answer.
func (k *killRig) load(ack func()) {
	var wg sync.WaitGroup
	for range killClients {
		wg.Go(func() { k.client(ack) })
	}
	wg.Wait()
}

// client sends requests on one connection until it breaks.
func (k *killRig) client(ack func()) {
	conn, err := net.Dial("tcp", k.address)
	if err != nil {
		return // Caddy is dead already
	}
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	for !k.stopped.Load() {
		_ = conn.SetDeadline(time.Now().Add(hang)) // a hang ends as a lost kill
		n, user, request := k.request()
		k.sent.Add(1)
		if _, err := io.WriteString(conn, request); err != nil {
			return
		}
		if _, err := answers.Peek(1); err != nil {
			return
		}
		k.note(n, user)
		ack()
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return
		}
	}
}

func (k *killRig) note(request int64, user string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.acknowledged = append(k.acknowledged, acknowledged{request, user, k.kills.Load()})
}

// request makes the next request and the user who will be found in its entry. The
// kinds take turns: a body that is held back, a redirect that is not, a request
// whose user must be asked for, an intent with its outcome.
func (k *killRig) request() (n int64, user, request string) {
	n = k.serial.Add(1)
	user = fmt.Sprintf("user-%d", n)
	head := " HTTP/1.1\r\nHost: " + k.address + "\r\n"
	cookie := "Cookie: better-auth.session_token=" + user + "\r\nContent-Length: 0\r\n\r\n"
	switch n % 4 {
	case 0:
		return n, user, "GET /api/auth/magic-link/verify?token=" + user + head + "\r\n"
	case 1:
		return n, user, "POST /api/auth/change-password" + head + cookie
	case 2:
		return n, user, "POST /api/auth/sign-out" + head + cookie
	}
	return n, user, "POST /api/auth/sign-in/email" + head + fmt.Sprintf("Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(user), user)
}

// tally is what a check found.
type tally struct {
	acknowledged, entries, lost, duplicates, falseSuccesses int
	// losing is how many kills lost something, unintended how many destructive requests
	// the auth server got that have no entry.
	losing, unintended int
}

func (t *tally) add(found tally) {
	t.acknowledged += found.acknowledged
	t.entries += found.entries
	t.lost += found.lost
	t.duplicates += found.duplicates
	t.falseSuccesses += found.falseSuccesses
	t.losing += found.losing
	t.unintended += found.unintended
}

// check compares the database, which nobody has open, with what the clients saw
// and what the auth server did.
func (k *killRig) check(t testing.TB, file string, auth *chunkedAuth) tally {
	t.Helper()
	return k.compare(t, recovered(t, file), auth)
}

// compare compares a log with what the clients saw and what the auth server did.
func (k *killRig) compare(t testing.TB, entries []storage.Entry, auth *chunkedAuth) tally {
	t.Helper()
	count, last := byUser(entries)
	result := tally{entries: len(entries)}
	losing, from := map[int64]bool{}, k.from.Load()
	for _, a := range k.acknowledged {
		if a.request < from {
			continue
		}
		result.acknowledged++
		if e, ok := last[a.user]; !ok || e.Status != storage.Success {
			result.lost++
			losing[a.kill] = true
		}
	}
	result.losing = len(losing)
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
	auth.answered.Range(func(user, path any) bool {
		n, _ := strconv.ParseInt(strings.TrimPrefix(user.(string), "user-"), 10, 64)
		if strings.HasSuffix(path.(string), "/sign-out") && n >= from && count[user.(string)] == 0 {
			result.unintended++
		}
		return true
	})
	return result
}

// recovered is every entry that the next Caddy would find: it opens the database as
// that does, with what waits in the journal.
func recovered(t testing.TB, file string) []storage.Entry {
	t.Helper()
	keeper, err := sqlite.Keep(context.Background(), sqlite.Options{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	s, err := spill.New(keeper, file+".spill", spill.Options{})
	if err != nil {
		t.Fatal(err)
	}
	reporter, _ := storage.As[storage.Reporter](s)
	eventually(t, fmt.Sprintf("what waits for %s is never written", file), func() bool { return reporter.Health().State == storage.Healthy })
	closer, _ := storage.As[storage.Closer](s)
	if err := closer.Close(); err != nil {
		t.Errorf("closing %s: %v", file, err)
	}
	return entriesIn(t, file, time.Time{})
}

// checkCopy asks SQLite whether what a kill has left is sound. It asks about a copy: the
// next Caddy is to find all as it was.
func checkCopy(t testing.TB, file string) {
	t.Helper()
	dir := memoryDir(t)
	copyDatabase(t, filepath.Dir(file), dir)
	checkIntegrity(t, database(dir))
	_ = os.RemoveAll(dir) // there are thousands
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

// copyDatabase copies the files that a database consists of, and its journal, to a new
// folder.
func copyDatabase(t testing.TB, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", ".spill"} {
		b, err := os.ReadFile(database(from) + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(database(to)+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
