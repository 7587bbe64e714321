package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate09ReloadStorm reloads while 500 requests come in a second: each has exactly one
// entry, in one of the stores that were configured, none is answered with an error, and
// nothing is left behind (threats.md E4.1 to E4.5). A connection may break, see
// checkLoad. The control closes its log in Cleanup, under the requests that are still
// under way.
func TestGate09ReloadStorm(t *testing.T) {
	var all storm
	var inProcess []leftovers
	part := func(name string, do func(t *testing.T) storm) (s storm) {
		t.Run(name, func(t *testing.T) { // Caddy ends with it
			s = do(t)
			all.add(s)
		})
		return s
	}
	for i := range storms {
		inProcess = append(inProcess, part(storms[i].name, storms[i].run).grown)
	}
	refused := part("refused configurations", refusedReloads)
	alone := part("a Caddy of its own", resident)
	validations, made := validated(t)
	control := part("control", closingStorm)
	all.reloads, all.sent, all.broken, all.lost = all.reloads-control.reloads-refused.reloads, all.sent-control.sent, all.broken-control.broken, all.lost-control.lost
	gates.Print(t, 9, "%d reloads in %d storms of %v at %.0f requests/s: %d requests, %d lost, %d duplicates, %d 5xx, %d broken connections; goroutines and files when stopped %v, after %d refused configurations %v, of a Caddy of its own %v (RSS %+.0f %%); caddy validate, adapt and lint %d times: %d files made or changed; control, closed in Cleanup: %d of %d lost, %d broken connections",
		all.reloads, len(storms)+1, alone.took.Round(time.Second), float64(alone.sent)/alone.took.Seconds(), all.sent, all.lost, all.twice, all.refused, all.broken,
		inProcess, refused.reloads, refused.grown, alone.grown, alone.rss, validations, made, control.lost, control.sent, control.broken)
	if all.lost+all.twice+all.refused+made > 0 || control.lost == 0 {
		t.Error("nothing may be lost, doubled, answered with an error, or made by a validation, and the control must lose something")
	}
	if gates.Full() && alone.rss > 10 {
		t.Error("the bound is 10 % of RSS")
	}
}

// reloads is how often a storm reloads, and reloadEvery how long it waits between.
func reloads() (n int, every time.Duration) {
	return gates.Figure(10, 200), time.Duration(gates.Figure(60, 300)) * time.Millisecond
}

const (
	reloadClients = 64
	upstreamTakes = 30 * time.Millisecond
)

// storm is what came of reloads under load.
type storm struct {
	reloads, sent, broken, refused, reached, lost, twice int
	// took is how long the load lasted.
	took time.Duration
	// grown is what is held after it and was not before.
	grown leftovers
	// rss is by how many percent the resident memory grew.
	rss float64
}

func (s *storm) add(o storm) {
	s.reloads += o.reloads
	s.sent += o.sent
	s.broken += o.broken
	s.refused += o.refused
	s.lost += o.lost
	s.twice += o.twice
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

// stormKind is how the configurations of a storm differ.
type stormKind struct {
	name      string
	databases []string
	// gated: a forward_auth in front of the log holds requests up, so that some come to it
	// when their configuration has ended.
	gated bool
}

var storms = []stormKind{
	{"the same configuration, forced", []string{"audit.db"}, false},
	{"two databases in turn", []string{"one.db", "two.db"}, false},
	{"two databases in turn, behind forward_auth", []string{"one.db", "two.db"}, true},
}

// run reloads in this process, so that it can be seen exactly what is left when Caddy
// has stopped.
func (k *stormKind) run(t *testing.T) storm {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	auth := new(slowAuth)
	upstream := harness.Upstream(t, auth)
	config := func(n int) string {
		c := site(filepath.Join(dir, k.databases[n%len(k.databases)]), port, upstream, "grace_period 10s", "durability fsync")
		if k.gated {
			c = strings.Replace(c, "\treverse_proxy", fmt.Sprintf("\tforward_auth %s {\n\t\turi /gate\n\t}\n\treverse_proxy", upstream), 1)
		}
		return c
	}
	for n := range 2 { // what Caddy and SQLite start once for the process is there before the count
		harness.Load(t, config(0))
		new(load).send(port, fmt.Sprintf("warm-up-%d", n))
		stop(t)
	}
	before := settle(leftovers{goroutines: 0, files: 0})
	harness.Load(t, config(0))
	clients := reloadUnderLoad(port, func(n int) { harness.Load(t, config(n)) })
	stop(t)
	s := checkLoad(t, clients, auth, dir, k.databases)
	s.grown = checkLeftovers(t, before, dir).less(before)
	return s
}

// reloadUnderLoad calls reload for each reload while clients send requests.
func reloadUnderLoad(port int, reload func(n int)) *load {
	clients := startLoad(port)
	n, every := reloads()
	for i := 1; i <= n; i++ {
		time.Sleep(every)
		reload(i)
	}
	time.Sleep(every)
	clients.stop()
	clients.reloads = n
	return clients
}

// resident reloads a Caddy of its own through its admin endpoint, and compares what it
// holds while it runs.
func resident(t *testing.T) storm {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	auth := new(slowAuth)
	upstream := harness.Upstream(t, auth)
	config := func(n int) string {
		return site(database(dir), port, upstream, "grace_period 10s\n\tadmin "+admin, "durability "+[]string{"fsync", "commit"}[n%2])
	}
	cmd := startWithAdmin(t, dir, port, config(0))
	parallel(gates.Figure(200, 5000), reloadClients, func(i int) { // what is there once, and a heap as large as load and reloads need it
		new(load).send(port, fmt.Sprintf("warm-up-%d", i))
		if i%100 == 99 {
			reload(t, admin, config(i/100+1))
		}
	})
	process := &sized{pid: cmd.Process.Pid}
	holds := func() leftovers { return holdingsOf(t, admin, process.pid) }
	before := settled(leftovers{}, holds)
	memory := process.memory(t, "VmRSS")
	clients := reloadUnderLoad(port, func(n int) { reload(t, admin, config(n)) })
	after := settled(before, holds)
	grown := 100 * (process.memory(t, "VmRSS")/memory - 1)
	if after.goroutines > before.goroutines+5 || after.files > before.files+2 {
		t.Errorf("reloads leave something: before %+v, after %+v", before, after)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("Caddy's exit: %v", err)
	}
	s := checkLoad(t, clients, auth, dir, []string{"audit.db"})
	s.grown, s.rss = after.less(before), grown
	return s
}

// holdingsOf is what a Caddy of its own holds, when its garbage is collected.
func holdingsOf(t *testing.T, admin string, pid int) (l leftovers) {
	t.Helper()
	_, heap := call(t, "GET", "http://"+admin+"/debug/pprof/heap?gc=1&debug=1", "")
	_, profile := call(t, "GET", "http://"+admin+"/debug/pprof/goroutine?debug=1", "")
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &l.goroutines); err != nil || heap == "" {
		t.Fatalf("%v: %.100s", err, profile)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	l.files = len(fds)
	return l
}

// refusable are configurations that Caddy must refuse, at every stage at which one can
// fail. taken is a port in use.
func refusable(t *testing.T, dir string, port, taken int, upstream string) map[string]string {
	t.Helper()
	for _, name := range []string{"folder.db", "open"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	foreign, openKey := filepath.Join(dir, "foreign.db"), filepath.Join(dir, "open", "hash.key")
	err := errors.Join(
		os.WriteFile(foreign, []byte(strings.Repeat("not a database\n", 100)), 0o600),
		os.WriteFile(openKey, []byte(strings.Repeat("ab", 32)), 0o644), //nolint:gosec // that is the point
	)
	if err != nil {
		t.Fatal(err)
	}
	config := func(file string, port int) string {
		return site(file, port, upstream, "grace_period 10s", "durability fsync")
	}
	return map[string]string{
		"unknown profile (handler's Provision)":          strings.Replace(config(database(dir), port), "profile better_auth", "profile no_such_profile", 1),
		"a folder as database (Validate)":                config(filepath.Join(dir, "folder.db"), port),
		"no database (Validate)":                         config(foreign, port),
		"a key that others can read (Validate)":          config(filepath.Join(dir, "open", "audit.db"), port),
		"port in use, same store (another app's Start)":  config(database(dir), taken),
		"port in use, other store (another app's Start)": config(filepath.Join(dir, "other.db"), taken),
	}
}

// refusedReloads offers Caddy what it must refuse: the configuration that is loaded goes
// on working (E4.2).
func refusedReloads(t *testing.T) storm {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	auth := new(slowAuth)
	upstream := harness.Upstream(t, auth)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	bad := refusable(t, dir, port, taken.Addr().(*net.TCPAddr).Port, upstream)
	good := site(database(dir), port, upstream, "grace_period 10s", "durability fsync")
	harness.Load(t, good)
	new(load).send(port, "warm-up")
	before := settle(leftovers{})
	clients := startLoad(port)
	refused := 0
	for round := range gates.Figure(1, 17) {
		for name, config := range bad {
			if err := harness.TryLoad(t, config); err == nil {
				t.Fatalf("round %d: a configuration with %s was accepted", round, name)
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
	clients.reloads = refused
	s := checkLoad(t, clients, auth, dir, []string{"audit.db"})
	s.grown = after.less(before)
	return s
}

// validated runs commands that only look at a configuration, as somebody may on a
// machine in production, while a Caddy works with it, and counts what they make or
// change where the log is (E4.4).
func validated(t *testing.T) (runs, changed int) {
	t.Helper()
	dir, port := t.TempDir(), harness.FreePort(t)
	running := site(database(dir), port, harness.Upstream(t, new(slowAuth)), "", "durability fsync")
	harness.Start(t, dir, port, running)
	new(load).send(port, "somebody")
	home := t.TempDir() // Caddy itself keeps things there
	t.Setenv("XDG_DATA_HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	names := writeConfigs(t, dir, port, running)
	var before map[string]string
	eventually(t, "the running Caddy does not come to rest", func() bool {
		before = looksLike(t, dir)
		time.Sleep(2500 * time.Millisecond) // the store tidies up when nobody has written for a second
		return maps.Equal(before, looksLike(t, dir))
	})
	for _, name := range names {
		for _, command := range [][]string{{"validate", "--adapter", "caddyfile", "--config"}, {"adapt", "--config"}, {"fmt"}, {"audit-log", "lint"}} {
			cmd := exec.Command(harness.Binary(t), append(command, filepath.Join(dir, name))...)
			out, err := cmd.CombinedOutput()
			if runs++; err != nil && (command[0] == "validate" || command[0] == "adapt") {
				t.Errorf("caddy %v %s: %v\n%s", command, name, err, out)
			}
		}
	}
	for path, now := range looksLike(t, dir) {
		if before[path] != now {
			changed++
			t.Errorf("%s was %q, and is %q", path, before[path], now)
		}
	}
	for _, path := range files(t, home) {
		if strings.Contains(path, "audit") {
			changed++
			t.Errorf("validating made %s", path)
		}
	}
	return runs, changed
}

// writeConfigs writes Caddyfiles into dir: the one that runs, one of a database that is
// not there, and one of the defaults.
func writeConfigs(t *testing.T, dir string, port int, running string) (names []string) {
	t.Helper()
	for name, text := range map[string]string{
		"running.Caddyfile":  running,
		"missing.Caddyfile":  site(filepath.Join(dir, "a", "b", "audit.db"), port, "127.0.0.1:9", "", "durability fsync"),
		"defaults.Caddyfile": fmt.Sprintf("http://127.0.0.1:%d {\n\taudit_log\n\treverse_proxy 127.0.0.1:9\n}\n", port),
	} {
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// looksLike says of everything below dir when it was changed, and how large it is.
func looksLike(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, path := range files(t, dir) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		seen[path] = fmt.Sprint(info.ModTime(), info.Size(), info.Mode())
	}
	return seen
}

// The control.

// closingStorm reloads with the log of closingHandler.
func closingStorm(t *testing.T) storm {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	closingFile = filepath.Join(dir, "audit.log")
	auth := new(slowAuth)
	upstream := harness.Upstream(t, auth)
	config := func(n int) string {
		return anyHost(filepath.Join(dir, itoa(n%2)+".db"), "", siteOf(port, "e2e_closing", upstream))
	}
	harness.Load(t, config(0))
	clients := reloadUnderLoad(port, func(n int) { harness.Load(t, config(n)) })
	stop(t)
	reached := 0
	auth.seen.Range(func(_, _ any) bool { reached++; return true })
	log, err := os.ReadFile(closingFile)
	if err != nil {
		t.Fatal(err)
	}
	return storm{reloads: clients.reloads, sent: int(clients.sent.Load()), broken: int(clients.broken.Load()), reached: reached, lost: reached - strings.Count(string(log), "\n"), took: clients.took}
}

// closingFile is the log of closingHandler.
var closingFile string

// closingHandler opens its log with its configuration and closes it with it.
type closingHandler struct{ log *os.File }

func (closingHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_closing", New: func() caddy.Module { return new(closingHandler) }}
}

// Provision implements caddy.Provisioner.
func (h *closingHandler) Provision(caddy.Context) (err error) {
	h.log, err = os.OpenFile(closingFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}

// Cleanup implements caddy.CleanerUpper.
func (h *closingHandler) Cleanup() error { return h.log.Close() }

func (h *closingHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := next.ServeHTTP(w, r)
	_, _ = io.WriteString(h.log, "one\n") // the file may be closed: that is the point
	return err
}

// The load.

// load is a number of clients that send requests, each with a user of its own.
type load struct {
	sent, refused, broken atomic.Int64

	quit  chan struct{}
	wg    sync.WaitGroup
	began time.Time

	// took and reloads are known when it has stopped.
	took    time.Duration
	reloads int

	// mu protects the fields below.
	mu       sync.Mutex
	answered []string // users of requests that got 200
	failed   []string // other answers, for the report
}

// startLoad sends 500 requests a second, or as many as go.
func startLoad(port int) *load {
	l := &load{quit: make(chan struct{}), began: time.Now()}
	for c := range reloadClients {
		l.wg.Go(func() {
			for n := c; ; n += reloadClients {
				select {
				case <-l.quit:
					return
				case <-time.After(time.Until(l.began.Add(time.Duration(n) * 2 * time.Millisecond))):
					l.send(port, fmt.Sprintf("user-%d", n))
				}
			}
		})
	}
	return l
}

func (l *load) stop() {
	close(l.quit)
	l.wg.Wait()
	l.took = time.Since(l.began)
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

// checkLoad looks for each request's entry in the databases together, and counts.
//
// A connection may break: each configuration listens on a socket of its own
// (SO_REUSEPORT), and Linux resets what is in the queue of one that is closed.
// That is Caddy's, with and without an audit log, and such a request never gets as
// far as the auth server.
func checkLoad(t *testing.T, l *load, auth *slowAuth, dir string, databases []string) storm {
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
	lost, twice := 0, 0
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
	return storm{
		reloads: l.reloads, sent: int(l.sent.Load()), broken: int(l.broken.Load()), refused: int(l.refused.Load()),
		reached: reached, lost: lost, twice: twice, took: l.took,
	}
}

// leftovers are what a process holds.
type leftovers struct{ goroutines, files int }

// less is how much l is more than o.
func (l leftovers) less(o leftovers) leftovers {
	return leftovers{l.goroutines - o.goroutines, l.files - o.files}
}

func (l leftovers) String() string { return fmt.Sprintf("%+d/%+d", l.goroutines, l.files) }

// settle waits until the process holds no more than wanted, or nothing has changed
// for half a second, and returns what it holds.
func settle(wanted leftovers) leftovers {
	http.DefaultClient.CloseIdleConnections()
	return settled(wanted, func() leftovers {
		runtime.GC() // files and timers that only a finaliser frees are none of ours
		return holdings()
	})
}

// settled is settle for what holds says.
func settled(wanted leftovers, holds func() leftovers) leftovers {
	now, since := holds(), time.Now()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		next := holds()
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
