package sqlite

import (
	"context"
	"database/sql"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestCheckpointsAreWorthTheirWhile: few transactions share one, many do not wait for long.
func TestCheckpointsAreWorthTheirWhile(t *testing.T) {
	for name, c := range map[string]struct {
		before  int           // transactions during the checkpoint before
		entries int           // of each of those that come then
		every   time.Duration // one of them comes
		want    time.Duration
	}{
		"one":                         {before: 1, want: growthLife},
		"a sign-in now and then":      {entries: 1, every: 67 * time.Millisecond, want: 67*time.Millisecond + growthLife},
		"many":                        {entries: 1, every: time.Millisecond, want: muchGrowth * time.Millisecond},
		"many have come already":      {before: muchGrowth, want: 0},
		"large ones":                  {entries: 31 * fewEntries, every: 10 * time.Millisecond, want: 20 * time.Millisecond},
		"one, and many after a while": {before: 1, entries: 1, every: 5 * time.Millisecond, want: (muchGrowth - 1) * 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{growth: newGrowth()}
				for range c.before {
					w.growth.add(1)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var others sync.WaitGroup
				defer others.Wait()
				defer cancel()
				others.Go(func() {
					for c.every > 0 && ctx.Err() == nil {
						time.Sleep(c.every)
						w.growth.add(c.entries)
					}
				})
				began := time.Now()
				if !(&checkpointer{store: &Store{writer: w}}).await(ctx) {
					t.Fatal("it did not wait to the end")
				}
				if took := time.Since(began); took != c.want {
					t.Errorf("it waited %s, want %s", took, c.want)
				}
			})
		})
	}
}

// TestRetentionIsMuch: a step that is no writing of entries changes many pages, and they must
// not gather.
func TestRetentionIsMuch(t *testing.T) {
	g := newGrowth()
	g.add(sizeOf([]*job{{do: func(context.Context, *sql.Tx) error { return nil }}}))
	if n := g.n.Load(); n < muchGrowth {
		t.Errorf("it counts as %d transactions, want %d", n, muchGrowth)
	}
}

// TestNothingNewIsNoCheckpoint: without transactions nobody wakes up.
func TestNothingNewIsNoCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if (&checkpointer{store: &Store{writer: &writer{growth: newGrowth()}}}).await(ctx) || time.Since(began) < time.Hour {
			t.Errorf("it did not wait for the first transaction: %s", time.Since(began))
		}
	})
}

// TestAReaderKeepsNobodyFromTheDisk: what was committed without an fsync is durable soon,
// although somebody reads an older state, so that no checkpoint can move it.
func TestAReaderKeepsNobodyFromTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	write := func(d storage.Durability) {
		t.Helper()
		e := storage.Entry{Action: "x"}
		e.Sanitize()
		if err := s.Write(storage.WithDurability(t.Context(), d), e); err != nil {
			t.Fatal(err)
		}
	}
	write(storage.Fsync)
	reader, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	tx, err := reader.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM auditLog`).Scan(&n); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	for range 3 {
		write(storage.Commit)
		if !s.writer.unsynced.Load() {
			t.Log("it was quicker than the test")
		}
		for began := time.Now(); s.writer.unsynced.Load(); time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				t.Fatal("it stays in the system's hands")
			}
		}
	}
	if whole, _, err := s.ticker.move(t.Context()); whole || err != nil {
		t.Errorf("a checkpoint moves all (%v, %v): the reader reads no older state", whole, err)
	}
}
