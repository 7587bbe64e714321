package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// failpoint is a place in the way of a request, or a system call, at which Caddy is
// killed. Nothing of it is in the product: requests meet handlers that only the program
// of the tests has, and strace kills on entry to a system call.
type failpoint struct {
	name string
	kill func(t *testing.T, g *killGate, kills int)
}

// stagesOfARequest and systemCalls are the stages of threats.md E1.2, and the journal's.
// Nothing is signed, so there is no kill while that is done.
func stagesOfARequest() []failpoint {
	return []failpoint{
		{"before the intent", inHandler("* enter", "")},
		{"intent committed, not forwarded", inHandler("", "/api/auth/sign-out enter")},
		{"answered, outcome not written", inHandler("", "* head")},
		{"outcome committed, head not sent", inHandler("* head", "")},
	}
}

func systemCalls() []failpoint {
	const writes = "pwrite64,fsync,fdatasync"
	return []failpoint{
		{"written, not committed", underLoad(kernelCall{"-wal", writes, 40}, false)},
		{"during a checkpoint", underLoad(kernelCall{"", writes, 12}, false)},
		{"entry appended to the journal, not written", underLoad(kernelCall{".spill", "pwrite64", 1}, true)},
		{"journal written, not durable", underLoad(kernelCall{".spill", "fsync", 1}, true)},
		{"during the replay of the journal", atStart(journalLeft, kernelCall{"-wal", writes, 70})},
		{"journal replayed, not emptied", atStart(journalLeft, kernelCall{".spill", "ftruncate", 1})},
		{"during a migration", atStart(oldSchema, kernelCall{"-wal", writes, 30})},
		{"during a prune", atStart(tooOld, kernelCall{"-wal", writes, 120})},
	}
}

// kernelCall is a system call on one of the database's files.
type kernelCall struct {
	suffix, names string
	upTo          int // it is one of the first so many of its kind
}

// needStrace skips a test that has strace kill at a system call.
func needStrace(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("strace is missing, or may not watch processes here: %v: %s", err, out)
	}
}

// watch has strace run a command and kill it at a random one of the calls. A thread has
// its own count.
func (c kernelCall) watch(t *testing.T, cmd *exec.Cmd, file string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal(err)
	}
	watched := []string{strace, "-f", "-q", "-o", "/dev/null", "-P", file + c.suffix, "-e", "trace=" + c.names,
		"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", c.names, 1+rand.IntN(c.upTo))}
	cmd.Path, cmd.Args = strace, append(watched, cmd.Args...)
}

// inHandler kills in a handler around ours or behind it, at a random passage.
func inHandler(around, behind string) func(t *testing.T, g *killGate, kills int) {
	return func(t *testing.T, g *killGate, kills int) {
		dir := memoryDir(t)
		die := func(where string) string {
			if where == "" {
				return ""
			}
			return fmt.Sprintf("e2e_die %s %d", where, 1+rand.IntN(killClients))
		}
		killAtPoint(t, g, kills, &pointRig{dir: dir, command: func(port int, upstream string) *exec.Cmd {
			route := fmt.Sprintf("route {\n%s\n%s\n%s\nreverse_proxy %s\n}", die(around), singly("durability fsync"), die(behind), upstream)
			return testCommand(t, dir, anyHost(database(dir), "", siteOf(port, route, upstream)))
		}})
	}
}

// underLoad kills at a system call while requests come in. If the database is removed,
// again and again, entries go to the journal.
func underLoad(at kernelCall, remove bool) func(t *testing.T, g *killGate, kills int) {
	return func(t *testing.T, g *killGate, kills int) {
		dir := memoryDir(t)
		killAtPoint(t, g, kills, &pointRig{dir: dir, remove: remove, command: func(port int, upstream string) *exec.Cmd {
			cmd := harness.Command(t, harness.Binary(t), dir, site(database(dir), port, upstream, "grace_period 10s", "durability fsync\n\t\tfail closed"))
			at.watch(t, cmd, database(dir))
			return cmd
		}})
	}
}

// pointRig is a Caddy that dies at a failpoint, over and over on one database.
type pointRig struct {
	dir     string
	command func(port int, upstream string) *exec.Cmd
	remove  bool // the database, while Caddy runs
}

func killAtPoint(t *testing.T, g *killGate, kills int, r *pointRig) {
	t.Helper()
	port, auth := harness.FreePort(t), new(chunkedAuth)
	upstream, rig := harness.Upstream(t, auth), newKillRig(port)
	for killed, tries := 0, 0; killed < kills; tries++ {
		enough(t, tries, kills)
		p := launch(t, r.command(port, upstream))
		if p.listens(rig.address) { // else it was killed while it started: no failpoint of ours
			r.load(t, rig, p)
			g.killedAtPoint()
			killed++
		}
		<-p.dead
		rig.kills.Add(1)
		checkCopy(t, database(r.dir))
		if last := killed == kills; last || r.remove {
			g.add(rig.check(t, database(r.dir), auth))
			rig.from.Store(rig.serial.Load() + 1) // each counts once
		}
	}
}

// enough ends a test that tries in vain.
func enough(t *testing.T, tries, kills int) {
	t.Helper()
	if tries > 20*(kills+1) {
		t.Fatalf("after %d starts the failpoint is not reached %d times", tries, kills)
	}
}

// load sends requests until the failpoint is reached.
func (r *pointRig) load(t *testing.T, rig *killRig, p *doomed) {
	t.Helper()
	hangs := time.AfterFunc(hang, func() {
		t.Error("the failpoint is not reached")
		p.kill()
	})
	defer hangs.Stop()
	rig.load(r.onAnswer(rig))
	<-p.dead
}

// onAnswer removes the database every now and then. What was sent before does not
// count.
func (r *pointRig) onAnswer(rig *killRig) func() {
	var answers atomic.Int64
	return func() {
		if !r.remove || answers.Add(1)%(4*killClients) != 3 {
			return
		}
		_ = os.Remove(database(r.dir)) // Caddy may have been killed before it was made anew
		rig.from.Store(rig.serial.Load() + 1)
	}
}

// scene is what a start finds.
type scene struct {
	// command has no address if it ends by itself.
	command func(t *testing.T, dir string) (cmd *exec.Cmd, address string)
	kept    map[string]bool // ids that must be there after it, once
	others  int             // entries that may be
}

// atStart kills while Caddy, or a command of its, deals with what it finds.
func atStart(prepare func(t *testing.T, dir string) scene, at kernelCall) func(t *testing.T, g *killGate, kills int) {
	return func(t *testing.T, g *killGate, kills int) {
		template := memoryDir(t)
		s := prepare(t, template)
		for killed, tries := 0, 0; killed < kills; tries++ {
			enough(t, tries, kills)
			dir := filepath.Join(template, "copy")
			copyDatabase(t, template, dir)
			cmd, address := s.command(t, dir)
			at.watch(t, cmd, database(dir))
			if reached(t, cmd, address) {
				killed++
				g.killedAtPoint()
				checkCopy(t, database(dir))
				g.add(s.check(t, dir))
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// reached says whether the command was killed on its way. One that was not has made
// fewer calls than it was to be killed after.
func reached(t *testing.T, cmd *exec.Cmd, address string) bool {
	t.Helper()
	p := launch(t, cmd)
	if address != "" && p.listens(address) {
		p.kill()
		<-p.dead
		return false
	}
	<-p.dead
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// check opens what a kill has left as the next start does.
func (s *scene) check(t *testing.T, dir string) tally {
	t.Helper()
	found := tally{acknowledged: len(s.kept)}
	seen := map[string]int{}
	for _, e := range recovered(t, database(dir)) {
		seen[e.ID]++
		found.entries++
	}
	for id := range s.kept {
		if seen[id] == 0 {
			found.lost++
		}
	}
	if over := found.entries - len(s.kept) - s.others; over > 0 {
		found.duplicates = over
	}
	return found
}

// starts is a command that starts Caddy on a folder.
func starts(t *testing.T, dir string) (cmd *exec.Cmd, address string) {
	t.Helper()
	port := harness.FreePort(t)
	config := site(database(dir), port, "127.0.0.1:1", "grace_period 10s", "durability fsync")
	return harness.Command(t, harness.Binary(t), dir, config), fmt.Sprintf("127.0.0.1:%d", port)
}

// fillDatabase writes n entries of an age and returns their ids.
func fillDatabase(t *testing.T, dir string, n int, age time.Duration) map[string]bool {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: database(dir)})
	if err != nil {
		t.Fatal(err)
	}
	ids := writeMany(t, s, n, age)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return ids
}

// writeMany writes n entries in batches.
func writeMany(t *testing.T, s storage.Store, n int, age time.Duration) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for len(ids) < n {
		var batch []storage.Entry
		for i := range min(50, n-len(ids)) {
			e := storage.Entry{ID: storage.NewID(), UserID: fmt.Sprint("user-", i), Action: "sign-out", Status: storage.Success, CreatedAt: time.Now().Add(-age)}
			e.Sanitize()
			batch, ids[e.ID] = append(batch, e), true
		}
		if err := s.Write(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// noStore takes nothing, so that all goes to the journal.
type noStore struct{}

func (noStore) Write(context.Context, ...storage.Entry) error { return errors.New("it takes nothing") }

// journalLeft is a database with entries, and more of them in its journal.
func journalLeft(t *testing.T, dir string) scene {
	t.Helper()
	ids := fillDatabase(t, dir, 200, time.Hour)
	s, err := spill.New(noStore{}, database(dir)+".spill", spill.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for id := range writeMany(t, s, 600, 0) {
		ids[id] = true
	}
	closer, _ := storage.As[storage.Closer](s)
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	return scene{command: starts, kept: ids}
}

// oldSchema is a database as an earlier version made it.
func oldSchema(t *testing.T, dir string) scene {
	t.Helper()
	ids := fillDatabase(t, dir, 300, time.Hour)
	db, err := sql.Open("sqlite", database(dir))
	if err == nil {
		_, err = db.Exec(`DROP TABLE "auditLog_unindexed"; DROP TABLE "auditLog_late"; DROP TABLE "auditLog_segments"; DROP TABLE "auditLog_postings";
			ALTER TABLE "auditLog_entries" DROP COLUMN identifier_hash; PRAGMA user_version=1;
			CREATE INDEX "auditLog_address" ON "auditLog_entries" (ip) WHERE ip IS NOT NULL;
			DROP INDEX "auditLog_stray"; DROP INDEX "auditLog_elsewhere"; ALTER TABLE "auditLog_entries" DROP COLUMN stray;
			CREATE UNIQUE INDEX "auditLog_id" ON "auditLog_entries" (id)`)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return scene{command: starts, kept: ids}
}

// tooOld is a database of which most is to be deleted.
func tooOld(t *testing.T, dir string) scene {
	t.Helper()
	fillDatabase(t, dir, 1500, 200*day)
	return scene{kept: fillDatabase(t, dir, 300, time.Hour), others: 1500, command: func(t *testing.T, dir string) (*exec.Cmd, string) {
		t.Helper()
		return exec.Command(harness.Binary(t), "audit-log", "prune", "--older-than", "90d", "--db", database(dir)), ""
	}}
}

func init() {
	caddy.RegisterModule(new(dieHandler))
	httpcaddyfile.RegisterHandlerDirective("e2e_die", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		d, nth := new(dieHandler), ""
		h.Next()
		h.Args(&d.At, &nth)
		var err error
		d.Nth, err = strconv.ParseInt(nth, 10, 64)
		return d, err
	})
	httpcaddyfile.RegisterDirectiveOrder("e2e_die", httpcaddyfile.Before, "reverse_proxy")
}

// dieHandler kills its own process.
type dieHandler struct {
	// At is "enter", when a request comes, or "head", before its answer's head goes on.
	At string `json:"at"`
	// Nth time that this happens.
	Nth  int64 `json:"nth"`
	seen atomic.Int64
}

func (*dieHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_die", New: func() caddy.Module { return new(dieHandler) }}
}

func (d *dieHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if d.At == "enter" {
		d.pass()
		return next.ServeHTTP(w, r)
	}
	return next.ServeHTTP(&dyingWriter{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, d}, r)
}

// pass kills at the right time, and does not come back from it.
func (d *dieHandler) pass() {
	if d.seen.Add(1) == d.Nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type dyingWriter struct {
	*caddyhttp.ResponseWriterWrapper
	die *dieHandler
}

// WriteHeader implements http.ResponseWriter.
func (d *dyingWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		d.die.pass()
	}
	d.ResponseWriterWrapper.WriteHeader(status)
}
