package spill_test

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// The tests of this file have a real database on a real disk.

// bound is how long something that is promised within d may take. Only the acceptance
// suite holds times against what is promised: otherwise, with the race detector and
// beside other tests, they guard against what never ends.
func bound(d time.Duration) time.Duration {
	if gates.Full() {
		return d
	}
	return 30 * time.Second
}

// diskStore returns a store on a database in dir.
func diskStore(dir string, log io.Writer) (storage.Store, error) {
	db := filepath.Join(dir, "audit.db")
	logger := slog.New(slog.NewTextHandler(log, nil))
	k, err := sqlite.Keep(context.Background(), sqlite.Options{Path: db, Logger: logger})
	if err != nil {
		return nil, err
	}
	return spill.New(k, db+".spill", spill.Options{Logger: logger})
}

func onDisk(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(dir, "audit.db.spill"), log: new(lockedBuffer)}
	var err error
	if r.s, err = diskStore(dir, r.log); err != nil {
		t.Fatal(err)
	}
	return r
}

// await waits for a state and returns how long it took.
func (r *rig) await(state storage.State) time.Duration {
	r.t.Helper()
	began := time.Now()
	for r.health().State != state {
		if time.Since(began) > 20*time.Second {
			r.t.Fatalf("it is still %+v; log:\n%s", r.health(), strings.Join(r.log.lines(), "\n"))
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}

// load writes entries from several callers until it is stopped.
type load struct {
	wg   sync.WaitGroup
	stop context.CancelFunc

	// gone is true once the database was removed: then began holds what was written
	// from its beginning after that.
	gone atomic.Bool

	// mu protects the fields below.
	mu          sync.Mutex
	acked, late []string
	failed      int
	longest     time.Duration
}

func startLoad(s storage.Store, callers int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	for range callers {
		l.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.write(s, storagetest.Entry(i))
			}
		})
	}
	return l
}

func (l *load) write(s storage.Store, e storage.Entry) {
	gone, began := l.gone.Load(), time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	err := s.Write(ctx, e)
	cancel()
	l.mu.Lock()
	l.longest = max(l.longest, time.Since(began))
	if err != nil {
		l.failed++
		l.mu.Unlock()
		time.Sleep(time.Millisecond)
		return
	}
	l.acked = append(l.acked, e.ID)
	if gone {
		l.late = append(l.late, e.ID)
	}
	l.mu.Unlock()
	time.Sleep(2 * time.Millisecond) // a test has other things to do than to write as fast as it can
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// missing returns which of the ids a database does not have, and how many entries it
// has.
func missing(t *testing.T, db string, ids []string) (lost []string, total int) {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: db})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	there := map[string]int{}
	for q := (storage.Query{Limit: storage.MaxLimit}); ; {
		page, err := s.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page.Entries {
			there[page.Entries[i].ID]++
			total++
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			break
		}
	}
	if len(there) != total {
		t.Errorf("%d entries have %d ids", total, len(there))
	}
	for _, id := range ids {
		if there[id] == 0 {
			lost = append(lost, id)
		}
	}
	sound(t, db)
	return lost, total
}

func sound(t *testing.T, db string) {
	t.Helper()
	conn, err := sql.Open("sqlite", db)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var verdict string
	if err := conn.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity of %s: %q, %v", db, verdict, err)
	}
}

// TestADatabaseThatVanishesWhileNobodyWrites is noticed all the same.
func TestADatabaseThatVanishesWhileNobodyWrites(t *testing.T) {
	dir := t.TempDir()
	r := onDisk(t, dir)
	defer r.close()
	if err := os.Remove(filepath.Join(dir, "audit.db")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for len(r.log.lines()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(began); took > bound(time.Second) {
		t.Errorf("noticed after %v", took)
	}
	r.await(storage.Healthy)
	if _, err := os.Stat(filepath.Join(dir, "audit.db")); err != nil {
		t.Error(err, r.log.lines())
	}
}

func TestEntriesWaitWhileTheDatabaseIsDamaged(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "audit.db")
	r := onDisk(t, dir)
	for i := range 50 {
		r.write(storagetest.Entry(i))
	}
	r.close()
	r = onDisk(t, dir)
	out, err := exec.Command("dd", "if=/dev/zero", "of="+db, "bs=4096", "count=8", "conv=notrunc").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	all := []string{}
	for i := 0; r.health().State == storage.Healthy || i < 20; i++ {
		e := storagetest.Entry(100 + i)
		all = append(all, e.ID)
		r.write(e)
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(3 * time.Second) // a few tries
	if h := r.health(); h.State != storage.Degraded || h.Reason != storage.Corrupt || h.Waiting == 0 || !strings.Contains(h.Remedy, "move "+db+" away") {
		t.Errorf("%+v", h)
	}
	waiting := r.health().Waiting
	if err := os.Rename(db, db+".damaged"); err != nil {
		t.Fatal(err)
	}
	r.await(storage.Healthy)
	r.close()
	lost, total := missing(t, db, all[len(all)-waiting:])
	if len(lost) > 0 || total < waiting {
		t.Errorf("%d of %d that waited are lost", len(lost), waiting)
	}
}
