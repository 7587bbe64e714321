package spill_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// written returns a journal with these calls, and where each record ends.
func written(t *testing.T, calls ...[]storage.Entry) (journal []byte, ends []int) {
	t.Helper()
	r := open(t, newPrimary(), t.TempDir(), spill.Options{})
	r.p.set(fails)
	for _, c := range calls {
		r.write(c...)
		ends = append(ends, int(size(t, r.path)))
	}
	r.close()
	journal, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	return journal, ends
}

// replayed starts on a copy of a journal and returns what is in the database then.
func replayed(t *testing.T, journal []byte) ([]storage.Entry, storage.Health, []string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "audit.db.spill"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	r := open(t, newPrimary(), dir, spill.Options{})
	defer r.close()
	return r.p.Entries(), r.health(), r.log.lines()
}

func ids(entries []storage.Entry) string {
	var b strings.Builder
	for i := range entries {
		b.WriteString(entries[i].ID[len(entries[i].ID)-4:] + " ")
	}
	return b.String()
}

func TestATornRecordIsCutOffAtWhateverByte(t *testing.T) {
	all := entries(4)
	journal, ends := written(t, all[:1], all[1:3], all[3:])
	for cut := range journal {
		want, whole := 0, 0
		for i, end := range ends {
			if cut >= end {
				want, whole = []int{1, 3, 4}[i], end
			}
		}
		got, h, log := replayed(t, journal[:cut])
		if len(got) != want || h.State != storage.Healthy || h.Damaged != 0 {
			t.Fatalf("cut at %d: %d entries, want %d; %+v", cut, len(got), want, h)
		}
		if torn := strings.Contains(strings.Join(log, ""), fmt.Sprintf("bytes=%d", cut-whole)); torn != (cut > whole) {
			t.Fatalf("cut at %d, %d bytes torn: log %q", cut, cut-whole, log)
		}
	}
}

// TestADamagedLastRecordIsNotCalledTorn: whether somebody was told that it is written, nobody knows.
func TestADamagedLastRecordIsNotCalledTorn(t *testing.T) {
	all := entries(2)
	journal, ends := written(t, all[:1], all[1:])
	journal[ends[1]-3] ^= 0x41
	got, _, log := replayed(t, journal)
	if lines := strings.Join(log, ""); ids(got) != ids(all[:1]) || !strings.Contains(lines, "damaged record") || strings.Contains(lines, "within a record") {
		t.Errorf("%s, log %q", ids(got), log)
	}
}

func TestADamagedRecordCostsItselfAndNoOther(t *testing.T) {
	all := entries(4)
	journal, ends := written(t, all[:1], all[1:2], all[2:3], all[3:])
	for at := ends[0]; at < ends[1]; at++ {
		damaged := append([]byte(nil), journal...)
		damaged[at] ^= 0x41
		got, h, log := replayed(t, damaged)
		if ids(got) != ids([]storage.Entry{all[0], all[2], all[3]}) || h.State != storage.Healthy || h.Damaged != 1 {
			t.Fatalf("byte %d: %s, %+v", at, ids(got), h)
		}
		if len(log) != 2 || !strings.Contains(log[0], "is damaged and was skipped") || !strings.Contains(log[0], fmt.Sprintf("at=%d bytes=%d", ends[0], ends[1]-ends[0])) {
			t.Fatalf("byte %d: log %q", at, log)
		}
	}
}

func TestAFileThatIsNoJournalIsSetAside(t *testing.T) {
	for name, c := range map[string]struct{ content, log string }{
		"text":    {strings.Repeat("no journal. ", 10_000), "set aside"},
		"zeros":   {string(make([]byte, 100_000)), "cut off"},
		"markers": {strings.Repeat("\xffAL\x01", 50_000), "cut off"},
	} {
		got, h, log := replayed(t, []byte(c.content))
		if len(got) != 0 || h.State != storage.Healthy || len(log) != 1 || !strings.Contains(log[0], c.log) {
			t.Errorf("%s: %d entries, %+v, %q", name, len(got), h, log)
		}
	}
}

// disk is a journal's file that fails when it is told to.
type disk struct {
	*os.File
	faults *faults
}

type faults struct {
	full, fsync, read atomic.Bool
	syncs             atomic.Int32

	// mu protects the field below, which is closed while no fsync ends.
	mu    sync.Mutex
	stall chan struct{}
}

func (d disk) WriteAt(b []byte, at int64) (int, error) {
	if d.faults.full.Load() {
		n, _ := d.File.WriteAt(b[:len(b)/2], at)
		return n, syscall.ENOSPC
	}
	return d.File.WriteAt(b, at)
}

func (d disk) ReadAt(b []byte, at int64) (int, error) {
	if d.faults.read.Load() {
		return 0, syscall.EIO
	}
	return d.File.ReadAt(b, at)
}

func (d disk) Sync() error {
	d.faults.syncs.Add(1)
	d.faults.mu.Lock()
	stall := d.faults.stall
	d.faults.mu.Unlock()
	if stall != nil {
		<-stall
	}
	if d.faults.fsync.Load() {
		return syscall.EIO
	}
	return d.File.Sync()
}

func (f *faults) options() spill.Options {
	return spill.Options{}.WithFile(func(opened *os.File) spill.File { return disk{opened, f} })
}

func TestADiskThatFailsUnderTheJournalIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(*faults) *atomic.Bool
		reason storage.Reason
	}{
		"full":  {func(f *faults) *atomic.Bool { return &f.full }, storage.DiskFull},
		"fsync": {func(f *faults) *atomic.Bool { return &f.fsync }, storage.IOError},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := new(faults)
				r := open(t, newPrimary(), t.TempDir(), f.options())
				all, kept := entries(9), []storage.Entry{}
				r.p.set(fails)
				for i, e := range all {
					broken := i%3 == 1
					c.fault(f).Store(broken)
					err := r.s.Write(t.Context(), e)
					if (err != nil) != broken || broken && storage.FaultOf("", err).Reason != c.reason {
						t.Errorf("entry %d, broken %v: %v", i, broken, err)
					}
					if err == nil {
						kept = append(kept, e)
					}
				}
				r.is(storage.Refusing, storage.Unspecified, 6)
				r.close()
				r = open(t, newPrimary(), filepath.Dir(r.path), spill.Options{})
				defer r.close()
				r.holds(kept...)
			})
		})
	}
}

func TestManyWaitForOneFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(faults)
		r := open(t, newPrimary(), t.TempDir(), f.options())
		defer r.close()
		r.p.set(fails)
		r.write(storagetest.Entry(0))
		f.stall, f.syncs = make(chan struct{}), atomic.Int32{}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { r.write(storagetest.Entry(i)) })
		}
		synctest.Wait() // the first is in its fsync, alone or with some of the others; the rest are queued
		f.mu.Lock()
		close(f.stall)
		f.stall = nil
		f.mu.Unlock()
		wg.Wait()
		if n := f.syncs.Load(); n < 1 || n > 2 {
			t.Errorf("%d fsyncs for 100 entries, want 1 or 2", n)
		}
	})
}

func TestAnEntryThatAsksForNoFsyncGetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(faults)
		r := open(t, newPrimary(), t.TempDir(), f.options())
		r.p.set(fails)
		r.write(storagetest.Entry(0))
		before := f.syncs.Load()
		if err := r.s.Write(storage.WithDurability(t.Context(), storage.Commit), storagetest.Entry(1)); err != nil {
			t.Fatal(err)
		}
		if n := f.syncs.Load() - before; n != 0 {
			t.Errorf("%d fsyncs", n)
		}
		f.fsync.Store(true) // what it wrote is in doubt now
		if err := r.s.Write(t.Context(), storagetest.Entry(2)); err == nil {
			t.Error("an fsync that failed was no error")
		}
		f.fsync.Store(false)
		r.write(storagetest.Entry(3))
		r.close()
		r = open(t, newPrimary(), filepath.Dir(r.path), spill.Options{})
		defer r.close()
		if n := len(r.p.Entries()); n != 3 {
			t.Errorf("%d entries, want 3", n)
		}
	})
}

// TestAnEntryThatAsksForNoFsyncGetsOneSoon: a power cut takes no more than the last second.
func TestAnEntryThatAsksForNoFsyncGetsOneSoon(t *testing.T) {
	for _, end := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := new(faults)
			r := open(t, newPrimary(), t.TempDir(), f.options())
			r.p.set(fails)
			r.write(storagetest.Entry(0))
			syncs := func() int32 {
				synctest.Wait()
				return f.syncs.Swap(0)
			}
			syncs()
			if err := r.s.Write(storage.WithDurability(t.Context(), storage.Commit), storagetest.Entry(1)); err != nil {
				t.Fatal(err)
			}
			if end {
				r.close()
				if n := syncs(); n != 1 {
					t.Errorf("%d fsyncs at the end", n)
				}
				return
			}
			f.fsync.Store(true)
			time.Sleep(2500 * time.Millisecond)
			if n := syncs(); n != 2 {
				t.Errorf("%d tries on a disk that fails", n)
			}
			f.fsync.Store(false)
			time.Sleep(time.Minute)
			if n := syncs(); n != 1 {
				t.Errorf("%d fsyncs in a minute", n)
			}
			r.p.set(works)
			time.Sleep(time.Minute)
			if n := len(r.p.Entries()); n != 2 {
				t.Errorf("%d entries, want 2", n)
			}
			r.close()
		})
	}
}

func TestNobodyWaitsForADiskThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(faults)
		r := open(t, newPrimary(), t.TempDir(), f.options())
		r.p.set(fails)
		r.write(storagetest.Entry(0))
		stall := make(chan struct{})
		f.mu.Lock()
		f.stall = stall
		f.mu.Unlock()
		for i, want := range []time.Duration{3 * time.Second, 0, 0} {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			err := r.s.Write(ctx, storagetest.Entry(i))
			cancel()
			if took := time.Since(began); err == nil || took != want {
				t.Errorf("write %d: %v after %v, want %v", i, err, took, want)
			}
		}
		r.is(storage.Refusing, storage.Unspecified, 1)
		f.mu.Lock()
		f.stall = nil
		f.mu.Unlock()
		close(stall)
		r.p.set(works)
		time.Sleep(5 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.close()
	})
}

func TestAJournalThatCannotBeReadIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(faults)
		r := open(t, newPrimary(), t.TempDir(), f.options())
		all := entries(3)
		r.p.set(fails)
		r.write(all[0], all[1])
		f.read.Store(true)
		r.p.set(works)
		time.Sleep(20 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.write(all[2])
		r.holds(all[2])
		if h := r.health(); h.Damaged != 1 {
			t.Errorf("%+v", h)
		}
		r.close()
		aside, err := filepath.Glob(r.path + ".unreadable-*")
		if err != nil || len(aside) != 1 || !strings.Contains(strings.Join(r.log.lines(), ""), aside[0]) {
			t.Fatalf("%v, %v, log %q", aside, err, r.log.lines())
		}
		if err := os.Rename(aside[0], r.path); err != nil {
			t.Fatal(err)
		}
		r = open(t, newPrimary(r.p.Entries()...), filepath.Dir(r.path), f.options()) // and at the start
		r.is(storage.Healthy, "", 0)
		r.close()
		if aside, err = filepath.Glob(r.path + ".unreadable-*"); err != nil || len(aside) != 1 {
			t.Fatal(aside, err)
		}
		if err := os.Rename(aside[0], r.path); err != nil {
			t.Fatal(err)
		}
		r = open(t, newPrimary(all[2]), filepath.Dir(r.path), spill.Options{}) // the disk works again
		defer r.close()
		r.holds(all...)
	})
}

// TestAStoreStartsOnAFullDisk: the journal is made when there is room.
func TestAStoreStartsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := true
		o := spill.Options{}.WithOpen(func() error {
			if full {
				return &os.PathError{Op: "open", Path: "audit.db.spill", Err: syscall.ENOSPC}
			}
			return nil
		})
		r := open(t, newPrimary(), t.TempDir(), o)
		defer r.close()
		r.is(storage.Healthy, "", 0)
		r.p.set(fails)
		err := r.s.Write(t.Context(), storagetest.Entry(0))
		if f := storage.FaultOf("", err); f.Reason != storage.DiskFull || !strings.Contains(f.Remedy, "free space on the file system of "+filepath.Dir(r.path)) {
			t.Errorf("Write says %v", err)
		}
		full = false
		r.write(storagetest.Entry(1))
	})
}

func TestTheReserveIsThereBeforeItIsNeeded(t *testing.T) {
	r := open(t, memory.New(1), t.TempDir(), spill.Options{})
	defer r.close()
	info, err := os.Stat(r.path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := info.Sys().(*syscall.Stat_t).Blocks * 512
	if info.Size() != 0 || blocks != 0 && blocks < 1<<20 {
		t.Errorf("size %d, %d bytes allotted", info.Size(), blocks)
	}
	t.Logf("%d bytes are set aside", blocks)
}
