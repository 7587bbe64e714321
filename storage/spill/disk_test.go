package spill_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// The tests of this file have a real database on a real disk.

// full says whether figures are the full ones, and times are held against what is
// promised (make acceptance). Otherwise, with the race detector and beside other tests,
// times only guard against what never ends.
var full = os.Getenv("ACCEPTANCE") == "full"

// bound is how long something that is promised within d may take.
func bound(d time.Duration) time.Duration {
	if full {
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

// smallDisk mounts a disk of some MiB.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small disk needs the right to mount one: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill leaves no byte free, and returns how to free them.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for n := 64 << 10; n > 0; {
		if _, err := f.Write(make([]byte, n)); errors.Is(err, syscall.ENOSPC) {
			n /= 16
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := errors.Join(f.Close(), os.Remove(name)); err != nil {
			t.Error(err)
		}
	}
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

// TestADiskThatIsFullNowAndThen: what was acknowledged is there, and a second or two
// after there is room again everything works.
func TestADiskThatIsFullNowAndThen(t *testing.T) {
	cycles := 3
	if full {
		cycles = 20
	}
	dir := smallDisk(t, "32m")
	r := onDisk(t, dir)
	l := startLoad(r.s, 4)
	kept, slowest := 0, time.Duration(0)
	for range cycles {
		free := fill(t, dir)
		for end := time.Now().Add(20 * time.Second); r.health().State == storage.Healthy && time.Now().Before(end); {
			time.Sleep(2 * time.Millisecond)
		}
		if h := r.health(); h.State == storage.Healthy || h.Reason != storage.DiskFull || !strings.Contains(h.Remedy, "free space on the file system of "+dir) {
			t.Errorf("on a full disk: %+v", h)
		}
		time.Sleep(300 * time.Millisecond)
		kept += r.health().Waiting
		free()
		slowest = max(slowest, r.await(storage.Healthy))
	}
	l.end()
	r.await(storage.Healthy)
	r.close()
	lost, total := missing(t, filepath.Join(dir, "audit.db"), l.acked)
	if len(lost) > 0 || kept == 0 || slowest > bound(2*time.Second) || l.longest > bound(3500*time.Millisecond) {
		t.Errorf("%d of %d lost", len(lost), len(l.acked))
	}
	t.Logf("%d times full: %d entries acknowledged, %d of them in the journal when the disk was freed, %d refused, %d in the database, 0 lost; recovery took %v at most, a write %v",
		cycles, len(l.acked), kept, l.failed, total, slowest.Round(time.Millisecond), l.longest.Round(time.Millisecond))
}

func TestADatabaseThatVanishesUnderLoad(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(db string) error
		reason storage.Reason
	}{
		"removed":                {os.Remove, storage.Deleted},
		"removed with all files": {func(db string) error { return errors.Join(os.Remove(db), os.Remove(db+"-wal"), os.Remove(db+"-shm")) }, storage.Deleted},
		"its folder removed":     {func(db string) error { return os.RemoveAll(filepath.Dir(db)) }, storage.Deleted},
		"moved":                  {func(db string) error { return os.Rename(db, db+".old") }, storage.Deleted},
		"its log removed":        {func(db string) error { return os.Remove(db + "-wal") }, storage.Deleted},
		"replaced": {func(db string) error {
			return errors.Join(os.WriteFile(db+".new", nil, 0o600), os.Rename(db+".new", db))
		}, storage.Replaced},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			r := onDisk(t, dir)
			l := startLoad(r.s, 8)
			time.Sleep(200 * time.Millisecond)
			if err := c.do(filepath.Join(dir, "audit.db")); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			l.gone.Store(true)
			for n := 0; n == 0; time.Sleep(time.Millisecond) {
				n = len(r.log.lines())
			}
			noticed := time.Since(began)
			recovered := r.await(storage.Healthy)
			time.Sleep(300 * time.Millisecond)
			l.end()
			r.await(storage.Healthy)
			first := r.log.lines()[0]
			r.close()
			lost, total := missing(t, filepath.Join(dir, "audit.db"), l.late)
			if len(lost) > 0 || len(l.late) == 0 || l.failed > 0 || noticed > bound(time.Second) || recovered > bound(2*time.Second) || !strings.Contains(first, string(c.reason)) {
				t.Errorf("%d lost, %d refused, noticed after %v, recovered after %v, log %q", len(lost), l.failed, noticed, recovered, first)
			}
			t.Logf("noticed after %v, well after %v; %d entries were written from then on, %d lost; %d in the database", noticed.Round(time.Millisecond), recovered.Round(time.Millisecond), len(l.late), len(lost), total)
		})
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
		t.Error(err)
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

// diskProcess is set in a process that a test starts to write to a database.
const diskProcess = "AUDIT_LOG_TEST_DISK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(diskProcess); dir != "" {
		os.Exit(writeMany(dir))
	}
	os.Exit(m.Run())
}

// writeMany writes 200 entries from 4 callers, prints the id of each that was
// acknowledged, and ends when the store is healthy.
func writeMany(dir string) int {
	s, err := diskStore(dir, os.Stderr)
	if err != nil {
		fmt.Println("open:", err)
		return 1
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				e := storagetest.Entry(i)
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				if err := s.Write(ctx, e); err == nil {
					fmt.Println(e.ID)
				}
				cancel()
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	reporter, _ := storage.As[storage.Reporter](s)
	for end := time.Now().Add(20 * time.Second); reporter.Health().State != storage.Healthy && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	state := reporter.Health().State
	closer, _ := storage.As[storage.Closer](s)
	_ = closer.Close() // the disk may fail here too
	fmt.Println("end:", state)
	return 0
}

// TestADiskThatFailsAtAnyCall has the kernel fail the Nth call of a kind: what was
// acknowledged must be in the database, or in the journal that the next start reads.
func TestADiskThatFailsAtAnyCall(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("there is no strace to make system calls fail:", err)
	}
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not watch processes here: %v: %s", err, out)
	}
	plan := map[string][]string{
		"fsync":    {"4", "5", "6", "7", "8", "9", "12", "20", "40", "5..9", "10+7"},
		"pwrite64": {"5", "12", "13", "14", "15", "16", "17", "18", "19", "20", "31", "60", "12..20", "30+60"},
	}
	acked, spilled, runs := 0, 0, 0
	for call, whens := range plan {
		for _, when := range whens {
			if !full && len(when) > 1 {
				continue
			}
			n, degraded := failCall(t, call, when)
			acked, runs = acked+n, runs+1
			if degraded {
				spilled++
			}
		}
	}
	if spilled == 0 {
		t.Error("no failure was noticed: the rig proves nothing")
	}
	t.Logf("%d runs with calls that failed, noticed in %d: %d entries acknowledged, 0 lost", runs, spilled, acked)
}

// failCall returns how many entries were acknowledged, and whether the store noticed.
func failCall(t *testing.T, call, when string) (acked int, noticed bool) {
	t.Helper()
	dir := t.TempDir()
	var errs strings.Builder
	cmd := exec.Command("strace", "-f", "-q", "-o", "/dev/null", "-e", "trace="+call, "-e", "inject="+call+":error=EIO:when="+when, os.Args[0])
	cmd.Env = append(os.Environ(), diskProcess+"="+dir)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", call, when, err, out, errs.String())
	}
	var ids []string
	end := ""
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		if e, ok := strings.CutPrefix(lines.Text(), "end: "); ok {
			end = e
			continue
		}
		ids = append(ids, lines.Text())
	}
	if end != string(storage.Healthy) {
		t.Errorf("%s %s: it ended %q\n%s", call, when, end, errs.String())
	}
	r := onDisk(t, dir) // the next start
	r.close()
	if log := errs.String(); strings.Contains(log, "they are kept in its journal") && strings.Contains(log, "disk I/O error") && !strings.Contains(log, "was opened anew") {
		t.Errorf("%s %s: a connection was used again after an I/O error\n%s", call, when, log)
	}
	lost, total := missing(t, filepath.Join(dir, "audit.db"), ids)
	if len(lost) > 0 || total > 200 {
		t.Errorf("%s %s: %d of %d lost, %d in the database\n%s", call, when, len(lost), len(ids), total, errs.String())
	}
	return len(ids), slices.ContainsFunc(strings.Split(errs.String(), "\n"), func(line string) bool { return strings.Contains(line, string(storage.IOError)) })
}
