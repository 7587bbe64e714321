package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate11Disk: the disk under a real Caddy fails again and again while clients sign
// in and destroy (threats.md E2.1, E2.2, E5.7). What was acknowledged is in the log; a
// destructive request that was refused did not reach the auth server; an answer that was
// withheld shows none of its cookies; two seconds after the cause is gone all is well.
//
// A disk of their own, which is filled, needs the right to mount one, and calls that fail
// need strace, with the full figures only. That no file may grow any more can be had
// always. The store has this gate, too, where every call fails (storage/spill).
func TestGate11Disk(t *testing.T) {
	rigs := []diskRig{
		{name: "no file may grow", times: gates.Figure(2, 20), sqlite: "spill 8MiB", fail: noGrowth},
		{name: "full, with a journal", times: gates.Figure(1, 20), size: "200m", sqlite: "spill 8MiB", fail: fullDisk},
		{name: "full, without one", times: gates.Figure(1, 20), size: "200m", sqlite: "spill off", fail: fullDisk},
		{name: "nearly full, without one", times: gates.Figure(1, 20), size: "200m", sqlite: "spill off", fail: nearlyFullDisk, flaps: 3},
	}
	if gates.Full() {
		for _, call := range []string{"fdatasync", "fsync", "pwrite64", "ftruncate", "openat"} {
			rigs = append(rigs, diskRig{name: "EIO of " + call, times: 50, sqlite: "spill 8MiB", fail: failingCall(call), rare: true})
		}
	}
	var lines []string
	for i := range rigs {
		t.Run(rigs[i].name, rigs[i].run)
		lines = append(lines, rigs[i].line())
	}
	gates.Print(t, 11, "%s", strings.Join(lines, "; "))
}

// diskRig is a Caddy with a disk that fails.
type diskRig struct {
	name   string
	times  int
	size   string // of a disk of its own; "" for the machine's
	sqlite string // lines of the store
	// fail makes the disk fail for the nth time and returns how to end that.
	fail func(t *testing.T, s *spillSite, n int) (heal func())
	// rare says that Caddy may come through without noticing, because the call did not
	// happen, or did not matter.
	rare bool
	// flaps is how often the store works for a moment before the disk is healed.
	flaps int

	why       string // it was left out
	t         *testing.T
	site      *spillSite
	auth      *cookieAuth
	kills     killRig // its clients' acknowledged users; nobody is killed
	ended     tally
	recovered time.Duration // at most

	// mu protects the fields below.
	mu                         sync.Mutex
	refused, withheld, noticed int
	seen                       map[string]bool // states
	flapped                    int
	dropped                    float64 // entries for which the queue had no place
}

func (r *diskRig) line() string {
	if r.why != "" {
		return r.name + ": left out, " + r.why
	}
	line := fmt.Sprintf("%s, %d times, noticed %d: %d acknowledged, %d lost, %d destructive ones refused, %d answers withheld, well after %v at most",
		r.name, r.times, r.noticed, r.ended.acknowledged, r.ended.lost, r.refused, r.withheld, r.recovered.Round(time.Millisecond))
	if r.flaps > 0 {
		line += fmt.Sprintf(", worked for a moment %d times", r.flapped)
	}
	if r.dropped > 0 {
		line += fmt.Sprintf(", %.0f entries dropped and counted before its end", r.dropped)
	}
	return line
}

func (r *diskRig) run(t *testing.T) {
	dir := t.TempDir()
	if r.size != "" {
		small, err := gates.SmallDisk(t, r.size)
		if err != nil {
			r.why = strings.TrimSpace(err.Error())
			t.Log(r.why)
			return
		}
		dir = small
	} else if err := gates.Tracer(); r.rare && err != nil {
		r.why = strings.TrimSpace(err.Error())
		t.Log(r.why)
		return
	}
	r.t, r.seen, r.auth = t, map[string]bool{}, &cookieAuth{}
	r.site = &spillSite{t: t, dir: dir, up: harness.Upstream(t, r.auth), directive: "fail closed\n\t\tunlink off"}
	r.site.start(r.sqlite)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r.exchange()
			}
		})
	}
	for n := range r.times {
		r.cycle(n + 1)
	}
	cancel()
	wg.Wait()
	r.site.await("healthy")
	r.dropped = scrape(t, r.site.admin)["caddy_audit_log_dropped_total"]
	if err := r.site.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.site.cmd.Wait(); err != nil {
		t.Errorf("Caddy's end: %v", err)
	}
	r.ended = r.kills.check(t, database(dir), &r.auth.chunkedAuth)
	if r.ended.lost > 0 {
		r.explain(t, database(dir))
	}
	checkIntegrity(t, database(dir))
	r.verdict(t)
}

// explain says what the log has of what counts as lost.
func (r *diskRig) explain(t *testing.T, file string) {
	t.Helper()
	_, last := byUser(entriesIn(t, file, time.Time{}))
	for _, a := range r.kills.acknowledged {
		if e, ok := last[a.user]; !ok || e.Status != storage.Success {
			t.Logf("%s of %d was acknowledged; it has an entry: %v, %s %s at %v %s", a.user, r.kills.serial.Load(), ok, e.Action, e.Status, e.CreatedAt, e.Metadata)
		}
	}
}

func (r *diskRig) verdict(t *testing.T) {
	t.Helper()
	if r.ended.lost > 0 || r.ended.acknowledged < 4*r.times {
		t.Errorf("%d of %d acknowledged entries lost", r.ended.lost, r.ended.acknowledged)
	}
	if gates.Full() && r.recovered > 2*time.Second {
		t.Errorf("well only after %v, the bound is 2 s", r.recovered)
	}
	if r.rare {
		return
	}
	if want := map[bool]string{true: "degraded", false: "refusing"}[r.name == "full, with a journal"]; !r.seen["healthy"] || !r.seen[want] {
		t.Errorf("GET /audit-log/health said %v, never %s", r.seen, want)
	}
	if r.flapped < r.flaps*r.times {
		t.Errorf("the store worked %d times for a moment, want %d in each of %d: the rig proves nothing", r.flapped, r.flaps, r.times)
	}
	if r.noticed != r.times || !r.seen["degraded"] && (r.refused == 0 || r.withheld == 0) {
		t.Errorf("noticed %d of %d times, %d refused, %d withheld: the rig proves nothing", r.noticed, r.times, r.refused, r.withheld)
	}
}

// cycle is one failure of the disk, and its end.
func (r *diskRig) cycle(n int) {
	r.until(100*time.Millisecond, func(string) bool { return false }) // a while in which all is well
	r.site.await("healthy")
	heal := r.fail(r.t, r.site, n)
	patience := hang
	if r.rare {
		patience = 300 * time.Millisecond
	}
	wrong := r.until(patience, func(state string) bool { return state != "healthy" })
	if wrong {
		r.noticed++
		for range r.flaps {
			if r.until(hang, func(state string) bool { return state == "healthy" }) {
				r.flapped++
			}
			r.until(hang, func(state string) bool { return state != "healthy" })
		}
		r.until(300*time.Millisecond, func(string) bool { return false }) // it stays so for a while
	}
	heal()
	began := time.Now()
	if !r.until(hang, func(state string) bool { return state == "healthy" }) {
		r.t.Fatalf("%d: it does not get well", n)
	}
	r.recovered = max(r.recovered, time.Since(began))
}

// until looks at the health until a state is as wanted, for so long at most.
func (r *diskRig) until(patience time.Duration, wanted func(state string) bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		_, h := r.site.health()
		r.seen[h.State] = true
		if wanted(h.State) {
			return true
		}
	}
	return false
}

// exchange sends the next request, and judges its answer.
func (r *diskRig) exchange() {
	user, request, destructive := r.next()
	c, err := connect(r.site.port)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	res, body, err := c.do(request)
	if err != nil {
		r.t.Errorf("%q has no answer: %v", request, err)
		return
	}
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusFound {
		r.kills.note(0, user)
		return
	}
	_, reached := r.auth.answered.Load(user)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch shown := fmt.Sprint(res.Header, string(body)); {
	case res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "AUDIT_UNAVAILABLE"):
		r.t.Errorf("%d %s", res.StatusCode, body)
	case destructive && reached:
		r.t.Errorf("a destructive request was refused, and reached the auth server: %q", request)
	case destructive:
		r.refused++
	case strings.Contains(shown, "Set-Cookie") || strings.Contains(shown, "s3cret") || strings.Contains(shown, "Location"):
		r.t.Errorf("an answer that is withheld shows %s", shown)
	default:
		r.withheld++
	}
	time.Sleep(time.Millisecond)
}

// next makes the next request: a sign-in that is held back, a redirect that signs in,
// a deletion, an administrator's ban.
func (r *diskRig) next() (user, request string, destructive bool) {
	n := r.kills.serial.Add(1)
	user = fmt.Sprintf("user-%d", n)
	host := fmt.Sprintf("Host: 127.0.0.1:%d\r\n", r.site.port)
	switch n % 4 {
	case 0:
		return user, raw("POST", "/api/auth/sign-in/email", "disk", host+"Content-Type: text/plain\r\n", user), false
	case 1:
		return user, raw("GET", "/api/auth/magic-link/verify?token="+user, "disk", host, ""), false
	case 2:
		return user, raw("POST", "/api/auth/delete-user", "disk", host+bearing(user)+jsonType, "{}"), true
	}
	return user, raw("POST", "/api/auth/admin/ban-user", "disk", host+bearing(user)+jsonType, `{"userId":"victim"}`), true
}

// cookieAuth is a chunkedAuth each of whose answers has secrets in its head.
type cookieAuth struct{ chunkedAuth }

// ServeHTTP implements http.Handler.
func (a *cookieAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/get-session") {
		w.Header().Add("Set-Cookie", "better-auth.session_token=s3cret.sig; Path=/")
		w.Header().Set("Set-Auth-Token", "s3cret")
	}
	a.chunkedAuth.ServeHTTP(w, r)
}

// Ways to fail.

func fullDisk(t *testing.T, s *spillSite, _ int) func() { return gates.Fill(t, s.dir) }

// nearlyFullDisk has room for a few entries again and again.
func nearlyFullDisk(t *testing.T, s *spillSite, _ int) func() {
	free := gates.Flicker(t, s.dir, 24<<10, 40*time.Millisecond)
	return func() {
		if free() == 0 {
			t.Error("the disk never had room")
		}
	}
}

// noGrowth lets no file of Caddy's process be written any further (RLIMIT_FSIZE), which
// needs no rights.
func noGrowth(t *testing.T, s *spillSite, _ int) func() {
	var old syscall.Rlimit
	limitSize(t, s, nil, &old)
	limitSize(t, s, &syscall.Rlimit{Cur: 0, Max: old.Max}, nil)
	return func() { limitSize(t, s, &old, nil) }
}

// limitSize is prlimit(2).
func limitSize(t *testing.T, s *spillSite, limit, old *syscall.Rlimit) {
	t.Helper()
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(s.cmd.Process.Pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(limit)), uintptr(unsafe.Pointer(old)), 0, 0); errno != 0 {
		t.Fatal("prlimit:", errno)
	}
}

// failingCall has the kernel fail the nth call of a kind in each thread of Caddy with
// EIO, until it is healed.
func failingCall(call string) func(*testing.T, *spillSite, int) func() {
	return func(t *testing.T, s *spillSite, n int) func() {
		trace := filepath.Join(s.dir, "trace")
		cmd := exec.Command("strace", "-f", "-q", "-o", trace, "-p", itoa(s.cmd.Process.Pid), "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:error=EIO:when=%d", call, n)) //nolint:gosec // all is ours
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // until it has every thread
		return func() {
			_ = cmd.Process.Signal(os.Interrupt) // it lets go of Caddy
			_ = cmd.Wait()
		}
	}
}
