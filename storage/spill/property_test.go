package spill_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
)

const (
	clients  = 4
	versions = 3 // an entry is written so often: intent, outcome, the outcome with its user
)

// step is something that happens to a store.
type step struct {
	what string
	// n is what it is about: a mode, how many milliseconds, which client, where to cut.
	n int
	// async goes on without waiting for the end.
	async bool
}

func (s step) String() string { return fmt.Sprintf("%s(%d,%v)", s.what, s.n, s.async) }

func steps(t *rapid.T) []step {
	one := rapid.Custom(func(t *rapid.T) step {
		return step{
			what: rapid.SampledFrom([]string{
				"write", "write", "write", "write all", "write all", "unlink", "primary", "primary", "wait", "wait", "wait",
				"disk full", "fsync fails", "disk works", "remove journal", "crash", "crash", "restart",
			}).Draw(t, "what"),
			n:     rapid.IntRange(0, 2000).Draw(t, "n"),
			async: rapid.Bool().Draw(t, "async"),
		}
	})
	return rapid.SliceOfN(one, 5, 60).Draw(t, "steps")
}

// client writes entries, each in versions, one call after the other.
type client struct {
	turn chan struct{} // held during a call; a mutex would stop the clock
	user string
	// mu protects notes, and is never held while a call waits.
	mu    sync.Mutex
	notes []*note // of its entries
}

// note is what a client knows of an entry.
type note struct {
	id               string
	tried, confirmed int // versions
	// unlinked is true when the user was taken out after the last version, and
	// doubtful when that was tried.
	unlinked, doubtful bool
}

// world is a store with its clients.
type world struct {
	*rig
	f       *faults
	clients [clients]*client
	dirs    func() string
	calls   sync.WaitGroup
	crashes int
	ctx     context.Context
}

// TestNothingIsLostOrDoneTwice plays random schedules of failures, crashes and
// replays. What was confirmed must be there in the end, once, and in its last
// version.
func TestNothingIsLostOrDoneTwice(t *testing.T) {
	total := struct{ runs, entries, confirmed, crashes int }{}
	rapid.Check(t, func(rt *rapid.T) {
		plan := steps(rt)
		var problem string
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			for _, s := range plan {
				w.do(s)
			}
			problem = w.end()
			total.runs, total.crashes = total.runs+1, total.crashes+w.crashes
			for _, c := range w.clients {
				for _, n := range c.notes {
					total.entries, total.confirmed = total.entries+1, total.confirmed+n.confirmed
				}
			}
		})
		if problem != "" {
			rt.Fatalf("%s\nafter %v", problem, plan)
		}
	})
	t.Logf("%+v", total)
}

func newWorld(t *testing.T) *world {
	w := &world{f: new(faults), dirs: t.TempDir, ctx: context.Background()}
	for i := range w.clients {
		w.clients[i] = &client{user: fmt.Sprintf("user-%d", i), turn: make(chan struct{}, 1)}
	}
	w.start(t, t.TempDir())
	return w
}

func (w *world) start(t testing.TB, dir string, kept ...storage.Entry) {
	p := newPrimary(kept...)
	p.takes.Store(int64(time.Millisecond))
	w.rig = open(t, p, dir, w.f.options())
}

func (w *world) do(s step) {
	switch s.what {
	case "write":
		w.call(s.async, func() { w.clients[s.n%clients].write(w.rig) })
	case "write all":
		for _, c := range w.clients {
			w.call(true, func() { c.write(w.rig) })
		}
		w.call(s.async, w.nothing)
	case "unlink":
		w.call(s.async, func() { w.clients[s.n%clients].unlink(w.rig) })
	case "primary":
		w.p.set([]mode{works, works, fails, doubts, hangs}[s.n%5])
	case "wait":
		time.Sleep(time.Duration(s.n) * time.Millisecond)
	case "disk full":
		w.f.full.Store(true)
	case "fsync fails":
		w.f.fsync.Store(true)
	case "disk works":
		w.f.full.Store(false)
		w.f.fsync.Store(false)
	case "remove journal":
		if w.health().State != storage.Healthy && !w.f.full.Load() && !w.f.fsync.Load() {
			_ = os.Remove(w.path) // it may not be there
			time.Sleep(300 * time.Millisecond)
		}
	case "crash":
		w.crash(s.n)
	case "restart":
		w.settle()
		w.close()
		w.start(w.t, filepath.Dir(w.path), w.p.Entries()...)
	}
}

func (w *world) nothing() {}

// call makes a call, and waits for it and all others unless it is async.
func (w *world) call(async bool, f func()) {
	w.calls.Add(1)
	go func() {
		defer w.calls.Done()
		f()
	}()
	if !async {
		w.settle()
	}
}

// settle waits for all calls.
func (w *world) settle() { w.calls.Wait() }

// crash ends the process at a moment at which nobody computes: what is on the disk
// stays, and of what was not acknowledged as much as n says.
func (w *world) crash(n int) {
	synctest.Wait()
	journal, err := os.ReadFile(w.path)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	if acked := int(spill.Acknowledged(w.s)); len(journal) > acked {
		cut := []int{0, len(journal) - acked, n % (len(journal) - acked + 1)}[n%3]
		journal = journal[:acked+cut]
		journal = append(journal, make([]byte, n%3*100)...) // a longer file, whose bytes never came
	}
	kept := w.p.Entries()
	before := w.confirmed()
	old := w.rig
	w.p.set(works)
	w.settle()
	old.close()
	w.restore(before)
	dir := w.dirs()
	if err := os.WriteFile(filepath.Join(dir, "audit.db.spill"), journal, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.start(w.t, dir, kept...)
	w.crashes++
}

// confirmed copies what the clients know: what they hear after the crash does not
// count.
func (w *world) confirmed() [clients][]note {
	var all [clients][]note
	for i, c := range w.clients {
		c.mu.Lock()
		for _, n := range c.notes {
			all[i] = append(all[i], *n)
		}
		c.mu.Unlock()
	}
	return all
}

func (w *world) restore(all [clients][]note) {
	for i, c := range w.clients {
		c.mu.Lock()
		for k, n := range c.notes {
			*n = note{id: n.id, tried: versions} // it came later: nobody has it
			if k < len(all[i]) {
				*n = all[i][k]
			}
		}
		c.mu.Unlock()
	}
}

// write writes the next version of the client's entry, or a new entry.
func (c *client) write(r *rig) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.mu.Lock()
	var n *note
	if len(c.notes) > 0 {
		n = c.notes[len(c.notes)-1]
	}
	if n == nil || n.tried == versions || n.unlinked || n.doubtful {
		n = &note{id: storage.NewID()}
		c.notes = append(c.notes, n)
	}
	n.tried++
	version := n.tried
	c.mu.Unlock()
	e := storage.Entry{ID: n.id, UserID: c.user, Action: fmt.Sprintf("version %d", version), Status: storage.Success, CreatedAt: time.Now()}
	e.Sanitize()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if r.s.Write(ctx, e) == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		n.confirmed = version
	}
}

// unlink takes the client's user out of its entries.
func (c *client) unlink(r *rig) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.mu.Lock()
	for _, n := range c.notes {
		n.doubtful = true
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	u, _ := storage.As[storage.Unlinker](r.s)
	if _, err := u.Unlink(ctx, c.user); err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, n := range c.notes {
			n.unlinked = true
		}
	}
}

// end lets everything work and says what is wrong with what is there then.
func (w *world) end() string {
	w.f.full.Store(false)
	w.f.fsync.Store(false)
	w.p.set(works)
	w.settle()
	time.Sleep(20 * time.Second)
	defer w.close()
	if h := w.health(); h.State != storage.Healthy || h.Waiting != 0 || h.Damaged != 0 {
		return fmt.Sprintf("%+v", h)
	}
	there := map[string]storage.Entry{}
	for _, e := range w.p.Entries() {
		if _, twice := there[e.ID]; twice {
			return "entry " + e.ID + " is there twice"
		}
		there[e.ID] = e
	}
	for _, c := range w.clients {
		for _, n := range c.notes {
			if problem := n.check(there[n.id]); problem != "" {
				return problem
			}
			delete(there, n.id)
		}
	}
	if len(there) > 0 {
		return fmt.Sprintf("%d entries that nobody wrote", len(there))
	}
	return ""
}

// check compares what the client knows with the entry that is there, if one is.
func (n *note) check(e storage.Entry) string {
	version := 0
	if _, err := fmt.Sscanf(e.Action, "version %d", &version); err != nil && e.ID != "" {
		return err.Error()
	}
	switch {
	case version < n.confirmed:
		return fmt.Sprintf("version %d of %s was confirmed, version %d is there", n.confirmed, n.id, version)
	case version > n.tried:
		return fmt.Sprintf("version %d of %s is there, %d were written", version, n.id, n.tried)
	case e.ID != "" && n.unlinked && e.UserID != "":
		return n.id + " still has its user"
	case e.ID != "" && !n.doubtful && !strings.HasPrefix(e.UserID, "user-"):
		return n.id + " has lost its user"
	}
	return ""
}
