package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// killsOfADatabase is how many kills a database lives through before a new one
	// begins.
	killsOfADatabase = 100
	// longestRestart is what a start on what a kill has left may take, until something
	// is recorded (full suite only).
	longestRestart = 2 * time.Second
)

// TestGate04Kill kills Caddy at random moments, and at failpoints: each time the next
// start must find what was acknowledged, once, in a database that is sound. The gate in
// threats.md also verifies a hash chain; the product has none.
func TestGate04Kill(t *testing.T) {
	g := new(killGate)
	random, each := gates.Figure(12, 2000), gates.Figure(1, 200)
	t.Run("at random", func(t *testing.T) {
		const lanes = 4 // at once, as far as the machine has cores
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				for left := (random + lanes - 1) / lanes; left > 0; left -= killsOfADatabase {
					g.atRandom(t, min(left, killsOfADatabase))
				}
			})
		}
	})
	t.Run("stages of a request", func(t *testing.T) { g.atPoints(t, stagesOfARequest(), each) })
	t.Run("system calls", func(t *testing.T) {
		needStrace(t)
		g.atPoints(t, systemCalls(), each)
	})
	t.Run("between intent and outcome", killBetweenIntentAndOutcome)
	gates.Print(t, 4, "%d random kills, %d at %d failpoints: %d acknowledged entries looked for, %d lost, %d duplicates, %d successes that were none, %d destructive requests without an intent; integrity_check after each; slowest restart %v",
		g.randomKills, g.pointKills, g.points, g.acknowledged, g.lost, g.duplicates, g.falseSuccesses, g.unintended, g.slowest.Round(time.Millisecond))
	if g.lost+g.duplicates+g.falseSuccesses+g.unintended > 0 {
		t.Error("entries are lost, or say what is not so")
	}
	if g.acknowledged < g.randomKills {
		t.Error("too little was acknowledged: the kills prove nothing")
	}
	if gates.Full() && g.slowest > longestRestart {
		t.Errorf("a start took %v, want at most %v", g.slowest, longestRestart)
	}
}

// killGate adds up what the kills have left.
type killGate struct {
	mu sync.Mutex // protects the fields below
	tally
	randomKills        int
	points, pointKills int           // failpoints, and kills at them
	slowest            time.Duration // start on what a kill has left, until something is recorded
}

// atPoints kills so often at each of the failpoints.
func (g *killGate) atPoints(t *testing.T, points []failpoint, each int) {
	g.points += len(points) // before any of them runs
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for left := each; left > 0; left -= killsOfADatabase {
				p.kill(t, g, min(left, killsOfADatabase))
			}
		})
	}
}

func (g *killGate) add(found tally) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tally.add(found)
}

func (g *killGate) killedAtRandom(times int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.randomKills += times
}

func (g *killGate) killedAtPoint() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pointKills++
}

func (g *killGate) started(in time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.slowest = max(g.slowest, in)
}

// atRandom kills a Caddy under load, or while it starts, over and over on one database.
func (g *killGate) atRandom(t *testing.T, kills int) {
	t.Helper()
	dir, port := memoryDir(t), harness.FreePort(t)
	auth := new(chunkedAuth)
	config := site(database(dir), port, harness.Upstream(t, auth), "grace_period 10s", "durability fsync")
	rig := newKillRig(port)
	took := 100 * time.Millisecond // for a start
	for n := 1; n <= kills; n++ {
		p := launch(t, harness.Command(t, harness.Binary(t), dir, config))
		early := n%8 == 0
		if early {
			time.AfterFunc(rand.N(took), p.kill)
		}
		if p.listens(rig.address) {
			var first sync.Once
			rig.load(func() {
				first.Do(func() {
					took = time.Since(p.began)
					g.started(took)
					time.AfterFunc(rand.N(200*time.Millisecond), p.kill)
				})
			})
			first.Do(func() { // the clients have given up
				if !early {
					t.Error("a Caddy that listens has answered nobody")
				}
				p.kill()
			})
		} else if !early {
			t.Error("a start failed on what a kill has left")
		}
		<-p.dead
		rig.kills.Add(1)
		checkCopy(t, database(dir))
	}
	g.add(rig.check(t, database(dir), auth))
	g.killedAtRandom(kills)
}

// doomed is a Caddy that is going to be killed.
type doomed struct {
	t     *testing.T
	cmd   *exec.Cmd
	began time.Time
	dead  chan struct{} // closed when it is
}

// launch starts a command as a process group: what watches it ends with it.
func launch(t *testing.T, cmd *exec.Cmd) *doomed {
	t.Helper()
	p := &doomed{t: t, cmd: cmd, began: time.Now(), dead: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	harness.Launch(t, cmd)
	go func() {
		defer close(p.dead)
		_ = cmd.Wait() // it was killed
	}()
	return p
}

func (p *doomed) kill() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// listens waits until Caddy listens on the address; false if it is dead before.
func (p *doomed) listens(address string) bool {
	for end := time.Now().Add(2 * hang); time.Now().Before(end); {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = c.Close()
			return true
		}
		select {
		case <-p.dead:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
	p.t.Errorf("nothing listens on %s", address)
	p.kill()
	return false
}

// killBetweenIntentAndOutcome kills Caddy while a destructive request is with
// the auth server: its entry must be there, and must not claim to know how it
// ended.
func killBetweenIntentAndOutcome(t *testing.T) {
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
}
