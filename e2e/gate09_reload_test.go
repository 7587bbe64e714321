package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	reloadClients = 16
	// upstreamTakes makes 500 requests a second of 16 clients.
	upstreamTakes = 30 * time.Millisecond
)

// TestGate09ReloadStorm reloads under load, offers configurations that cannot work, and
// validates (threats.md E4.1 to E4.5).
func TestGate09ReloadStorm(t *testing.T) {
	storms := []storm{
		{name: "the same configuration, forced", databases: []string{"audit.db"}},
		{name: "two databases in turn", databases: []string{"one.db", "two.db"}},
		{name: "two databases in turn, behind forward_auth", databases: []string{"one.db", "two.db"}, gated: true},
	}
	var lines []string
	reloads := 0
	for i := range storms {
		t.Run(storms[i].name, func(t *testing.T) { storms[i].run(t, gates.Figure(40, 200), gates.Figure(60, 300)) })
		reloads += storms[i].reloads
		lines = append(lines, storms[i].String())
	}
	refused, made := 0, 0
	t.Run("refused", func(t *testing.T) { refused = refusedReloads(t, gates.Figure(10, 17)) })
	t.Run("validate", func(t *testing.T) { made = validates(t) })
	gates.Print(t, 9, "%d reloads (%s); %d more refused, each while requests went on; caddy validate made %d files", reloads, strings.Join(lines, "; "), refused, made)
}

// storm is a number of reloads under load, and what they have cost.
type storm struct {
	name      string
	databases []string
	// gated: a forward_auth in front of the log holds requests up, so that some come to
	// it when their configuration has ended.
	gated bool

	reloads, lost, twice int
	took                 time.Duration
	clients              *load
	before, after        leftovers
}

func (s *storm) String() string {
	if s.clients == nil {
		return s.name + ": nothing ran"
	}
	return fmt.Sprintf("%s: %d at %.0f requests/s, %d lost, %d twice, %d answers of 5xx, goroutines %+d, files %+d", s.name, s.reloads,
		float64(s.clients.sent.Load())/s.took.Seconds(), s.lost, s.twice, s.clients.refused.Load(), s.after.goroutines-s.before.goroutines, s.after.files-s.before.files)
}

// slowAuth answers a sign-in with the user whom the request names.
type slowAuth struct {
	seen sync.Map // of users whose sign-in reached it
}

func (a *slowAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, _ := io.ReadAll(r.Body) // a client that was cut off is no matter
	time.Sleep(upstreamTakes)
	if r.URL.Path == "/gate" {
		time.Sleep(2 * upstreamTakes)
	} else {
		a.seen.Store(string(user), true)
	}
	// reverse_proxy keeps connections that were busy at a reload for two minutes;
	// without keep-alive what is left over is ours.
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"user":{"id":%q},"token":null}`, user)
}

// run reloads the configuration while requests are under way. Every one of them has
// exactly one entry, in one of the stores that were configured, and nothing is left when
// Caddy has stopped.
func (s *storm) run(t *testing.T, reloads, everyMillis int) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	auth := new(slowAuth)
	upstream := harness.Upstream(t, auth)
	config := func(n int) string {
		c := site(filepath.Join(dir, s.databases[n%len(s.databases)]), port, upstream, "grace_period 10s", "durability fsync")
		if s.gated {
			c = strings.Replace(c, "\treverse_proxy", fmt.Sprintf("\tforward_auth %s {\n\t\turi /gate\n\t}\n\treverse_proxy", upstream), 1)
		}
		return c
	}
	for n := range 2 { // what Caddy and SQLite start once for the process is there before the count
		harness.Load(t, config(0))
		new(load).send(port, fmt.Sprintf("warm-up-%d", n))
		stop(t)
	}
	s.before = settle(leftovers{goroutines: 0, files: 0})

	harness.Load(t, config(0))
	began := time.Now()
	every := time.Duration(everyMillis) * time.Millisecond
	s.clients = startLoad(port)
	for n := 1; n <= reloads; n++ {
		time.Sleep(time.Until(began.Add(time.Duration(n) * every)))
		harness.Load(t, config(n))
		s.reloads++
	}
	time.Sleep(every)
	s.clients.stop()
	s.took = time.Since(began)
	stop(t)

	s.lost, s.twice = checkLoad(t, s.clients, auth, dir, s.databases)
	s.after = checkLeftovers(t, s.before, dir)
	t.Logf("%s; %d connections broken", s, s.clients.broken.Load())
}

// refusedReloads offers Caddy configurations that it must refuse, at every stage at which
// one can fail: the one that is loaded goes on working. It returns how many it were.
func refusedReloads(t *testing.T, rounds int) (refused int) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	auth := new(slowAuth)
	upstream := harness.Upstream(t, auth)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if err := os.Mkdir(filepath.Join(dir, "folder.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	if err := os.WriteFile(foreign, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	openKey := filepath.Join(dir, "open", "audit.db")
	if err := os.Mkdir(filepath.Dir(openKey), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(openKey), "hash.key"), []byte(strings.Repeat("ab", 32)), 0o644); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	good := site(database(dir), port, upstream, "grace_period 10s", "durability fsync")
	takenPort := taken.Addr().(*net.TCPAddr).Port
	bad := []struct{ name, config string }{
		{"unknown profile (handler's Provision)", strings.Replace(good, "profile better_auth", "profile no_such_profile", 1)},
		{"a folder as database (Validate)", site(filepath.Join(dir, "folder.db"), port, upstream, "grace_period 10s", "durability fsync")},
		{"no database (Validate)", site(foreign, port, upstream, "grace_period 10s", "durability fsync")},
		{"a key that others can read (Validate)", site(openKey, port, upstream, "grace_period 10s", "durability fsync")},
		{"port in use, same store (another app's Start)", site(database(dir), takenPort, upstream, "grace_period 10s", "durability fsync")},
		{"port in use, other store (another app's Start)", site(filepath.Join(dir, "other.db"), takenPort, upstream, "grace_period 10s", "durability fsync")},
	}
	harness.Load(t, good)
	new(load).send(port, "warm-up")
	before := settle(leftovers{})
	clients := startLoad(port)
	for round := range rounds {
		for _, b := range bad {
			if err := harness.TryLoad(t, b.config); err == nil {
				t.Fatalf("round %d: a configuration with %s was accepted", round, b.name)
			}
			refused++
			new(load).send(port, fmt.Sprintf("probe-%d", refused))
		}
	}
	clients.stop()
	after := settle(before)
	if after.goroutines > before.goroutines+5 || after.files > before.files+2 {
		t.Errorf("refused configurations leave something: before %+v, after %+v\n%s", before, after, openFiles())
	}
	stop(t)
	checkLoad(t, clients, auth, dir, []string{"audit.db"})
	t.Logf("%d configurations refused, %d requests, %d answers other than 200, %d broken connections; goroutines %d -> %d, files %d -> %d",
		refused, clients.sent.Load(), clients.refused.Load(), clients.broken.Load(), before.goroutines, after.goroutines, before.files, after.files)
	return refused
}

// validates adapts and validates configurations, as caddy validate does, perhaps as
// another user, on a machine in production. It returns how many files were made.
func validates(t *testing.T) (made int) {
	harness.Use(t)
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "xdg"))
	port := harness.FreePort(t)
	configs := map[string]string{
		"a database in folders that do not exist": site(filepath.Join(dir, "a", "b", "audit.db"), port, "127.0.0.1:9", "", "durability fsync"),
		"the defaults": fmt.Sprintf("{\n\tpersist_config off\n\tlog {\n\t\toutput discard\n\t}\n}\nhttp://127.0.0.1:%d {\n\taudit_log\n\treverse_proxy 127.0.0.1:9\n}\n", port),
	}
	for name, text := range configs {
		config := new(caddy.Config)
		if err := json.Unmarshal(harness.Adapt(t, text), config); err != nil {
			t.Fatal(err)
		}
		config.Admin = &caddy.AdminConfig{Disabled: true}
		if err := caddy.Validate(config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, path := range files(t, dir) {
			if strings.Contains(path, "audit") || strings.Contains(path, "hash") || strings.HasPrefix(path, filepath.Join(dir, "a")) {
				t.Errorf("%s: validating made %s", name, path)
				made++
			}
		}
	}
	return made
}

// load is a number of clients that send requests, each with a user of its own.
type load struct {
	sent, refused, broken atomic.Int64

	quit chan struct{}
	wg   sync.WaitGroup

	// mu protects the fields below.
	mu       sync.Mutex
	answered []string // users of requests that got 200
	failed   []string // other answers, for the report
}

func startLoad(port int) *load {
	l := &load{quit: make(chan struct{})}
	for c := range reloadClients {
		l.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.quit:
					return
				default:
					l.send(port, fmt.Sprintf("user-%d-%d", c, n))
				}
			}
		})
	}
	return l
}

func (l *load) stop() {
	close(l.quit)
	l.wg.Wait()
}

// send makes one request on a connection of its own: a kept one may be closed by
// the old server at the very moment in which it is used again.
func (l *load) send(port int, user string) {
	l.sent.Add(1)
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Timeout: 20 * time.Second, Transport: transport}
	defer transport.CloseIdleConnections()
	res, err := client.Post(fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), "text/plain", strings.NewReader(user))
	if err != nil {
		l.broken.Add(1)
		return
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		l.refused.Add(1)
		l.note(user + ": " + res.Status)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answered = append(l.answered, user)
}

func (l *load) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, what)
}

// checkLoad looks for each request's entry in the databases together.
//
// A connection may break: each configuration listens on a socket of its own
// (SO_REUSEPORT), and Linux resets what is in the queue of one that is closed.
// That is Caddy's, with and without an audit log, and such a request never gets as
// far as the auth server.
func checkLoad(t *testing.T, l *load, auth *slowAuth, dir string, databases []string) (lost, twice int) {
	t.Helper()
	if l.refused.Load() > 0 {
		t.Errorf("%d requests were not answered with 200, the first: %s", l.refused.Load(), l.failed[0])
	}
	if len(l.answered) < reloadClients {
		t.Errorf("%d requests were answered: too few to mean anything", len(l.answered))
	}
	var all []storage.Entry
	for _, name := range databases {
		file := filepath.Join(dir, name)
		entries := entriesIn(t, file, time.Time{})
		if len(entries) == 0 {
			t.Errorf("%s holds nothing", name)
		}
		all = append(all, entries...)
		checkIntegrity(t, file)
	}
	count, last := byUser(all)
	reached := 0
	auth.seen.Range(func(user, _ any) bool {
		reached++
		if last[user.(string)].Status != storage.Success {
			lost++
		}
		return true
	})
	if reached < len(l.answered) {
		t.Errorf("%d requests were answered, but only %d reached the auth server", len(l.answered), reached)
	}
	for _, n := range count {
		if n > 1 {
			twice++
		}
	}
	if lost > 0 || twice > 0 {
		t.Errorf("of %d requests that reached the auth server %d have no entry, and %d have more than one", reached, lost, twice)
	}
	return lost, twice
}

// leftovers are what a process holds.
type leftovers struct{ goroutines, files int }

// settle waits until the process holds no more than wanted, or nothing has changed
// for half a second, and returns what it holds.
func settle(wanted leftovers) leftovers {
	http.DefaultClient.CloseIdleConnections()
	now, since := holdings(), time.Now()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		runtime.GC() // files and timers that only a finaliser frees are none of ours
		next := holdings()
		if next != now {
			now, since = next, time.Now()
		}
		quiet := 500 * time.Millisecond
		if now.goroutines > wanted.goroutines && wanted.goroutines > 0 || now.files > wanted.files && wanted.files > 0 {
			quiet = 5 * time.Second // servers need a moment to see that a client has gone
		}
		if time.Since(since) > quiet {
			break
		}
	}
	return now
}

func holdings() leftovers {
	fds, _ := os.ReadDir("/proc/self/fd") // 0 where there is no /proc
	return leftovers{runtime.NumGoroutine(), len(fds)}
}

// checkLeftovers compares what the process holds now that Caddy has stopped with
// what it held before.
func checkLeftovers(t *testing.T, before leftovers, dir string) leftovers {
	t.Helper()
	after := settle(before)
	if after.goroutines > before.goroutines {
		stacks := make([]byte, 1<<20)
		t.Errorf("goroutines: %d before, %d after\n%s", before.goroutines, after.goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	open := openFiles()
	if after.files > before.files || strings.Contains(open, dir) {
		t.Errorf("open files: %d before, %d after:\n%s", before.files, after.files, open)
	}
	return after
}

// openFiles lists what the process has open, a line each.
func openFiles() string {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return ""
	}
	var lines strings.Builder
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil {
			fmt.Fprintf(&lines, "%s %s\n", fd.Name(), target)
		}
	}
	return lines.String()
}
