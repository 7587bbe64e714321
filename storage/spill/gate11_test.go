package spill_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestGate11DiskFull: what was acknowledged is there, and a second or two
// after there is room again everything works.
func TestGate11DiskFull(t *testing.T) {
	cycles := gates.Figure(2, 20)
	dir, err := gates.SmallDisk(t, "128m")
	if err != nil {
		t.Skip(err)
	}
	r := onDisk(t, dir)
	l := startLoad(r.s, 4)
	kept, slowest := 0, time.Duration(0)
	for range cycles {
		free := gates.Fill(t, dir)
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
	gates.Print(t, 11, "%d times a disk was full under the store: %d entries acknowledged, %d of them in the journal when there was room again, %d refused, %d in the database, %d lost; well after %v at most, a write took %v at most",
		cycles, len(l.acked), kept, l.failed, total, len(lost), slowest.Round(time.Millisecond), l.longest.Round(time.Millisecond))
}

// diskProcess is set in a process that a test starts to write to a database, to its
// folder; diskEntries to how many entries each of the callers writes.
const (
	diskProcess = "AUDIT_LOG_TEST_DISK"
	diskEntries = "AUDIT_LOG_TEST_DISK_ENTRIES"
	diskCallers = 4
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(diskProcess); dir != "" {
		n, _ := strconv.Atoi(os.Getenv(diskEntries))
		os.Exit(writeMany(dir, n))
	}
	os.Exit(m.Run())
}

// writeMany writes n entries from each of the callers, prints the id of each that was
// acknowledged, and ends when the store is healthy.
func writeMany(dir string, n int) int {
	s, err := diskStore(dir, os.Stderr)
	if err != nil {
		fmt.Println("refused to start:", err)
		return 1
	}
	var wg sync.WaitGroup
	for range diskCallers {
		wg.Go(func() {
			for i := range n {
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

// TestGate11DiskCalls has the kernel fail the Nth call of a kind with EIO, of each
// thread: what was acknowledged must be in the database, or in the journal that the
// next start reads.
func TestGate11DiskCalls(t *testing.T) {
	if err := gates.Tracer(); err != nil {
		t.Skip(err)
	}
	f := &callFaults{hit: map[string]int{}}
	limit := make(chan struct{}, 4) // most of a run is waiting
	var wg sync.WaitGroup
	for _, call := range []string{"fdatasync", "fsync", "pwrite64", "ftruncate", "openat"} {
		for _, when := range whens(call) {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				f.run(t, call, when)
			})
		}
	}
	wg.Wait()
	gates.Print(t, 11, "%d processes whose Nth fdatasync, fsync, pwrite64, ftruncate or openat failed with EIO%s: %d calls failed, in %d processes an fdatasync, in %d an fsync, in %d a pwrite64, in %d an ftruncate, in %d an openat; noticed by the store in %d, %d refused to start; %d entries acknowledged, %d lost",
		f.runs, map[bool]string{true: ", N = 1 to 200"}[gates.Full()], f.calls, f.hit["fdatasync"], f.hit["fsync"], f.hit["pwrite64"], f.hit["ftruncate"], f.hit["openat"], f.noticed, f.refused, f.acked, f.lost)
	if f.noticed == 0 || f.hit["fdatasync"] == 0 || f.hit["pwrite64"] == 0 {
		t.Error("no failure was noticed: the rig proves nothing")
	}
}

// whens are which calls fail: one of each thread, or several.
func whens(call string) []string {
	if !gates.Full() {
		return map[string][]string{"fdatasync": {"5", "8"}, "pwrite64": {"5", "14"}}[call]
	}
	list := map[string][]string{"fdatasync": {"5..9", "10+7"}, "pwrite64": {"12..20", "30+60"}}[call]
	most := 200
	if call == "fsync" {
		most = 20 // the journal's; SQLite's is fdatasync
	}
	for n := range most {
		list = append(list, strconv.Itoa(n+1))
	}
	return list
}

// callFaults is what came of calls that fail.
type callFaults struct {
	// mu protects the fields below.
	mu                                   sync.Mutex
	runs, calls, noticed, refused, acked int
	lost                                 int
	hit                                  map[string]int // runs, by the call that failed in them
}

func (f *callFaults) run(t *testing.T, call, when string) {
	dir, trace := t.TempDir(), filepath.Join(t.TempDir(), "trace")
	n, _, _ := strings.Cut(strings.ReplaceAll(when, "+", "."), ".")
	nth, _ := strconv.Atoi(n)
	if call == "ftruncate" || call == "openat" {
		nth = 0 // more entries make no more of these calls
	}
	var errs strings.Builder
	cmd := exec.Command("strace", "-f", "-q", "-o", trace, "-e", "trace="+call, "-e", "inject="+call+":error=EIO:when="+when, os.Args[0])
	cmd.Env = append(os.Environ(), diskProcess+"="+dir, fmt.Sprintf("%s=%d", diskEntries, 50+3*nth)) // so many that a thread has N calls
	cmd.Stderr = &errs
	out, err := cmd.Output()
	ids, end := said(string(out))
	refused := strings.HasPrefix(end, "refused to start") && len(ids) == 0
	if err != nil && !refused || err == nil && end != "end: "+string(storage.Healthy) {
		t.Errorf("%s %s: %v, it ended %q\n%s", call, when, err, end, errs.String())
	}
	r := onDisk(t, dir) // the next start
	r.close()
	if log := errs.String(); strings.Contains(log, "they are kept in its journal") && strings.Contains(log, "disk I/O error") && !strings.Contains(log, "was opened anew") {
		t.Errorf("%s %s: a connection was used again after an I/O error\n%s", call, when, log)
	}
	lost, total := missing(t, filepath.Join(dir, "audit.db"), ids)
	if len(lost) > 0 || total > diskCallers*(50+3*nth) {
		t.Errorf("%s %s: %d of %d lost, %d in the database\n%s", call, when, len(lost), len(ids), total, errs.String())
	}
	f.count(t, call, trace, errs.String(), len(ids), len(lost), refused)
}

// said is what a process printed: ids, and how it ended.
func said(out string) (ids []string, end string) {
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		if strings.Contains(lines.Text(), ": ") {
			end = lines.Text()
			continue
		}
		ids = append(ids, lines.Text())
	}
	return ids, end
}

func (f *callFaults) count(t *testing.T, call, trace, log string, acked, lost int, refused bool) {
	t.Helper()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs++
	f.acked += acked
	f.lost += lost
	if n := strings.Count(string(b), "(INJECTED)"); n > 0 {
		f.calls += n
		f.hit[call]++
	}
	if strings.Contains(log, string(storage.IOError)) {
		f.noticed++
	}
	if refused {
		f.refused++
	}
}
