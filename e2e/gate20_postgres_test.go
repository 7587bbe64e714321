package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// longestCall is what no call may exceed, whatever the database does (threats.md E7.3).
const longestCall = 3 * time.Second

// node is a Caddy of a fleet, as a process of its own, with its journal in a folder of
// its own.
type node struct {
	t      *testing.T
	dir    string
	port   int
	admin  string
	config string
	cmd    *exec.Cmd
}

func newNode(t *testing.T, upstream, dsn string) *node {
	n := &node{t: t, dir: t.TempDir(), port: harness.FreePort(t), admin: fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))}
	n.config = inPostgres(site(database(n.dir), n.port, upstream, "grace_period 10s\n\tadmin "+n.admin, "durability fsync"), n.dir, dsn)
	return n
}

// inPostgres is a configuration of site or anyHost whose log is in PostgreSQL, and whose
// journal is in dir.
func inPostgres(config, dir, dsn string) string {
	return strings.Replace(config, fmt.Sprintf("store sqlite {\n\t\t\tpath %s\n", database(dir)),
		fmt.Sprintf("store postgres {\n\t\t\tdsn \"%s\"\n\t\t\tspill_path %s/journal.spill\n", dsn, dir), 1)
}

func (n *node) address() string { return fmt.Sprintf("127.0.0.1:%d", n.port) }

func (n *node) start() { n.cmd = startWithAdmin(n.t, n.dir, n.port, n.config) }

// stop ends the process in an orderly way.
func (n *node) stop() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("Caddy ended with %v", err)
	}
}

// awaitHealthy waits until the database takes entries and the journal has none.
func (n *node) awaitHealthy() {
	n.t.Helper()
	for end := time.Now().Add(3 * hang); ; time.Sleep(10 * time.Millisecond) {
		_, body := call(n.t, http.MethodGet, "http://"+n.admin+"/audit-log/health", "")
		var h spillHealth
		if err := json.Unmarshal([]byte(body), &h); err != nil || len(h.Stores) != 1 || h.Stores[0].Store != "postgres" {
			n.t.Fatalf("%s: %v", body, err)
		}
		if h.Stores[0].State == string(storage.Healthy) && h.Stores[0].Waiting == 0 {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("it does not recover: %s", body)
		}
	}
}

// openLog opens the log of a server, to read what was recorded.
func openLog(t *testing.T, server *pgtest.Server) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// crowd sends requests of a killRig, over connections that it makes again when they
// break, to the nodes of a fleet by turns.
type crowd struct {
	rig   *killRig
	nodes []string
	// pause between two requests of a client.
	pause time.Duration
	// onAnswer hears of the first byte of an answer of a node; nil for nothing to hear.
	onAnswer func(node int)

	stop     chan struct{}
	wg       sync.WaitGroup
	refused  atomic.Int64 // answers that are no success
	answered atomic.Int64
	slowest  atomic.Int64 // nanoseconds
}

func (c *crowd) begin(clients int) {
	c.stop = make(chan struct{})
	for i := range clients {
		c.wg.Go(func() {
			for turn := i; ; turn++ {
				select {
				case <-c.stop:
					return
				default:
					c.visit(turn % len(c.nodes))
				}
			}
		})
	}
}

func (c *crowd) end() {
	close(c.stop)
	c.wg.Wait()
}

// visit sends requests to a node, over one connection, until it breaks or some are
// answered.
func (c *crowd) visit(node int) {
	conn, err := net.Dial("tcp", c.nodes[node])
	if err != nil {
		time.Sleep(10 * time.Millisecond) // it was killed
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * hang)) // against hanging only
	in := bufio.NewReader(conn)
	for range 20 {
		select {
		case <-c.stop:
			return
		case <-time.After(c.pause):
		}
		if !c.exchange(conn, in, node) {
			return
		}
	}
}

// exchange is one request and its answer; false when the connection is over.
func (c *crowd) exchange(conn net.Conn, in *bufio.Reader, node int) bool {
	n, user, request := c.rig.request()
	c.rig.sent.Add(1)
	began := time.Now()
	if _, err := io.WriteString(conn, request); err != nil {
		return false
	}
	head, err := in.Peek(len("HTTP/1.1 200"))
	if err != nil {
		return false
	}
	took := int64(time.Since(began))
	for slowest := c.slowest.Load(); took > slowest && !c.slowest.CompareAndSwap(slowest, took); slowest = c.slowest.Load() {
	}
	if c.onAnswer != nil {
		c.onAnswer(node)
	}
	c.answered.Add(1)
	if status := string(head[9:]); status == "200" || status == "302" {
		c.rig.note(n, user)
	} else {
		c.refused.Add(1)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err == nil
}

// within waits a random time of at most that.
func within(most time.Duration) { time.Sleep(rand.N(most)) }

// chaos is what the gate measures.
type chaos struct {
	kills  int
	frozen time.Duration
}

// TestGate20PostgresChaos: the postmaster is killed over and over, and the server frozen,
// under load; every request is answered in time, and has exactly one entry in the end.
func TestGate20PostgresChaos(t *testing.T) {
	server := pgtest.Start(t)
	do := chaos{kills: gates.Figure(3, 100), frozen: time.Duration(gates.Figure(2, 30)) * time.Second}
	auth := new(chunkedAuth)
	n := newNode(t, harness.Upstream(t, auth), server.DSN())
	if err := server.Kill(); err != nil { // Caddy starts without its database
		t.Fatal(err)
	}
	n.start()
	c := &crowd{rig: &killRig{address: n.address()}, nodes: []string{n.address()}, pause: 30 * time.Millisecond}
	began := time.Now()
	c.begin(killClients)
	within(time.Second)
	do.run(t, server, n)
	c.end()
	rate := float64(c.answered.Load()) / time.Since(began).Seconds()
	n.stop()
	total := c.rig.compare(t, everyOf(t, openLog(t, server), time.Time{}), auth)
	slowest := time.Duration(c.slowest.Load()).Round(time.Millisecond)
	gates.Print(t, 20, "%d kills of the postmaster and %s of SIGSTOP at %.0f requests/s: %d acknowledged, %d refused, %d lost, %d duplicates, slowest request %s",
		do.kills, do.frozen, rate, total.acknowledged, c.refused.Load(), total.lost, total.duplicates, slowest)
	if total.lost > 0 || total.duplicates > 0 || c.refused.Load() > 0 || slowest > longestCall || total.acknowledged < 10*do.kills {
		t.Error("an entry was lost or doubled, a request was refused or waited too long, or there was no load")
	}
}

// run does it all to a server that is down, under a node.
func (do *chaos) run(t *testing.T, server *pgtest.Server, n *node) {
	t.Helper()
	step := func(f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	for range do.kills {
		step(server.Start)
		within(time.Second)
		step(server.Kill)
		within(300 * time.Millisecond)
	}
	step(server.Start)
	n.awaitHealthy()
	step(server.Freeze)
	time.Sleep(do.frozen)
	step(server.Thaw)
	n.awaitHealthy()
}

// TestGate20PostgresCommitInDoubt: the connection is cut at every byte of a COMMIT and of
// its answer. Whoever wrote hears that it is written, it is there once, and an intent
// never stands over its outcome. The control tries again as one would without ids.
func TestGate20PostgresCommitInDoubt(t *testing.T) {
	server := pgtest.Start(t)
	proxy := newCommitProxy(t, server.Address())
	s, keeper := spilledThrough(t, server.DSNAt(proxy.address))
	every := gates.Figure(5, 1)
	var written []storage.Entry
	positions, slowest := 0, time.Duration(0)
	write := func(e storage.Entry, cutAfter int64) {
		proxy.armed.Store(cutAfter)
		began := time.Now()
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatalf("cut after %d bytes: %v", cutAfter, err)
		}
		slowest = max(slowest, time.Since(began))
	}
	for n := 0; n <= commitBytes; n += every {
		for _, intentIsCut := range []bool{true, false} {
			intent := storagetest.Entry(len(written))
			intent.Status = storage.Unknown
			outcome := intent
			outcome.Status = storage.Success
			cuts := map[bool]int64{true: int64(n), false: -1}
			write(intent, cuts[intentIsCut])
			write(outcome, cuts[!intentIsCut])
			written, positions = append(written, outcome), positions+1
		}
	}
	awaitHealthy(t, s)
	lost, doubled := compareLog(t, keeper, written)
	naiveLost, naiveDoubled := naiveCommits(t, proxy, server, every)
	gates.Print(t, 20, "cut at %d places in the %d bytes of COMMIT and its answer, %d cuts: %d of %d entries lost or not as written last, %d duplicates, slowest write %s; control, a plain INSERT: not tried again %d lost, tried again %d doubled",
		positions/2, commitBytes, proxy.cuts.Load(), lost, len(written), doubled, slowest.Round(time.Millisecond), naiveLost, naiveDoubled)
	if lost > 0 || doubled > 0 || slowest > longestCall || naiveLost == 0 || naiveDoubled == 0 || int(proxy.cuts.Load()) < positions {
		t.Error("an entry was lost or doubled, a write waited too long, the cuts did not happen, or the control says nothing")
	}
}

// spilledThrough is a store with its journal, as Caddy has it.
func spilledThrough(t *testing.T, dsn string) (storage.Store, *postgres.Keeper) {
	t.Helper()
	k, err := postgres.Keep(t.Context(), postgres.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	s, err := spill.New(k, filepath.Join(t.TempDir(), "journal.spill"), spill.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c, ok := storage.As[storage.Closer](s); ok {
			_ = c.Close()
		}
	})
	return s, k
}

func awaitHealthy(t *testing.T, s storage.Store) {
	t.Helper()
	r, ok := storage.As[storage.Reporter](s)
	if !ok {
		t.Fatalf("%T says nothing of its health", s)
	}
	eventually(t, "the journal is not written to the database", func() bool { return r.Health().State == storage.Healthy && r.Health().Waiting == 0 })
}

// compareLog counts the entries that are not in the log as they were written, and those
// that are there more than once.
func compareLog(t *testing.T, log storage.Lister, written []storage.Entry) (lost, doubled int) {
	t.Helper()
	found := map[string][]storage.Entry{}
	for _, e := range everyOf(t, log, time.Time{}) {
		found[e.ID] = append(found[e.ID], e)
	}
	for i := range written {
		switch there := found[written[i].ID]; {
		case len(there) > 1:
			doubled++
		case len(there) == 0 || there[0].Status != written[i].Status:
			lost++
		}
	}
	return lost, doubled
}

// naiveInsert writes a row as one would first.
func naiveInsert(t *testing.T, dsn string, n int, again bool) error {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	tx, err := c.Begin(t.Context())
	if err != nil {
		return err
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO naive VALUES ($1, $2)", n, again); err != nil {
		return err
	}
	return tx.Commit(t.Context())
}

// naiveCommits writes through the cuts without ids: once, and then again when there was
// an error.
func naiveCommits(t *testing.T, proxy *commitProxy, server *pgtest.Server, every int) (lost, doubled int) {
	t.Helper()
	if err := server.Exec("CREATE TABLE naive (n int, again bool)"); err != nil {
		t.Fatal(err)
	}
	places, dsn := 0, server.DSNAt(proxy.address)
	for n := 0; n <= commitBytes; n += every {
		places++
		for _, again := range []bool{false, true} {
			proxy.armed.Store(int64(n))
			if err := naiveInsert(t, dsn, n, again); err != nil && again {
				_ = naiveInsert(t, dsn, n, again) // nothing cuts this one
			}
			proxy.armed.Store(-1)
		}
	}
	c, err := pgx.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	err = c.QueryRow(t.Context(), "SELECT $1::int - count(*) FILTER (WHERE NOT again), count(*) FILTER (WHERE again) - count(DISTINCT n) FILTER (WHERE again) FROM naive", places).
		Scan(&lost, &doubled)
	if err != nil {
		t.Fatal(err)
	}
	return lost, doubled
}

// TestGate20PostgresFleet: of two Caddys with one log, one is killed at the first byte of
// an answer and started again, by turns, while clients use both.
func TestGate20PostgresFleet(t *testing.T) {
	server := pgtest.Start(t)
	kills, auth := gates.Figure(4, 100), new(chunkedAuth)
	upstream := harness.Upstream(t, auth)
	nodes := []*node{newNode(t, upstream, server.DSN()), newNode(t, upstream, server.DSN())}
	var victim, pid atomic.Int64
	victim.Store(-1)
	c := &crowd{rig: &killRig{address: nodes[0].address()}, nodes: []string{nodes[0].address(), nodes[1].address()}, pause: 5 * time.Millisecond}
	c.onAnswer = func(node int) {
		if victim.CompareAndSwap(int64(node), -1) {
			_ = syscall.Kill(int(pid.Load()), syscall.SIGKILL)
		}
	}
	for _, n := range nodes {
		n.start()
	}
	c.begin(killClients)
	for i := range kills {
		within(300 * time.Millisecond)
		n := nodes[i%2]
		pid.Store(int64(n.cmd.Process.Pid))
		victim.Store(int64(i % 2))
		_ = n.cmd.Wait() // the next answer kills it
		n.start()
	}
	c.end()
	for _, n := range nodes {
		n.awaitHealthy()
		n.stop()
	}
	total := c.rig.compare(t, everyOf(t, openLog(t, server), time.Time{}), auth)
	slowest := time.Duration(c.slowest.Load()).Round(time.Millisecond)
	gates.Print(t, 20, "two Caddys of one fleet, %d kills by turns under load: %d acknowledged, %d refused, %d lost, %d duplicates, slowest request %s",
		kills, total.acknowledged, c.refused.Load(), total.lost, total.duplicates, slowest)
	if total.lost > 0 || total.duplicates > 0 || total.acknowledged < 10*kills {
		t.Error("an entry was lost or doubled, or there was no load")
	}
}
