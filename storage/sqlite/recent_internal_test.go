package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// opened is a store with n entries of users of their own, written in one call.
func opened(t *testing.T, n int) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "audit.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Write(t.Context(), someEntries(n)...); err != nil {
		t.Fatal(err)
	}
	return s
}

// someEntries are n entries of users of their own.
func someEntries(n int) []storage.Entry {
	entries := make([]storage.Entry, n)
	for i := range entries {
		entries[i] = storage.Entry{ID: storage.NewID(), Action: "sign-in", Status: storage.Success, CreatedAt: time.Now(), UserID: fmt.Sprintf("person-%d", i),
			IPAddress: fmt.Sprintf("2001:db8::%x", i), UserAgent: "agent", Metadata: fmt.Appendf(nil, `{"person":%d}`, i)}
	}
	return entries
}

// alone calls f while the writer does nothing else.
func alone(t *testing.T, s *Store, f func(*writer) error) {
	t.Helper()
	err := s.writer.submit(t.Context(), &job{reads: true, do: func(context.Context, *sql.Tx) error { return f(s.writer) }})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheWriterKeepsNobodyInMemory: who was written is not in memory until something else is
// written, nor whose entries were unlinked until they are indexed.
func TestTheWriterKeepsNobodyInMemory(t *testing.T) {
	s := opened(t, 100)
	nobody := func(w *writer) error {
		if v := &w.values; slices.ContainsFunc(v.texts[:cap(v.texts)], func(s string) bool { return s != "" }) ||
			slices.ContainsFunc(v.numbers[:cap(v.numbers)], func(n int64) bool { return n != 0 }) || slices.ContainsFunc(v.bytes[:cap(v.bytes)], func(b byte) bool { return b != 0 }) {
			t.Errorf("values are kept: %q %v", v.texts[:cap(v.texts)], v.numbers[:cap(v.numbers)])
		}
		for i := range w.link.args {
			if v := w.link.args[i].Value; v != nil {
				t.Errorf("argument %d is kept: %v", i, v)
			}
		}
		for _, r := range w.rows[:cap(w.rows)] {
			if r.id != "" || r.args != (row{}).args {
				t.Errorf("a row is kept: %v", r)
			}
		}
		return nil
	}
	alone(t, s, nobody)
	alone(t, s, func(w *writer) error {
		if len(w.index.recent.rows) != 100 {
			t.Errorf("%d entries are remembered until they are indexed", len(w.index.recent.rows))
		}
		return nil
	})
	// A batch that fails while its rows are gathered is not kept either.
	if _, err := s.exec(t.Context(), `CREATE TRIGGER full BEFORE INSERT ON "auditLog_texts" WHEN NEW.text = 'too much' BEGIN SELECT RAISE(ABORT, 'full'); END`); err != nil {
		t.Fatal(err)
	}
	few := someEntries(2)
	few[1].Action = "too much"
	if err := s.Write(t.Context(), few...); err == nil {
		t.Fatal("written all the same")
	}
	alone(t, s, nobody)
	if n, err := s.Unlink(t.Context(), "person-7"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	alone(t, s, func(w *writer) error {
		for _, u := range w.index.recent.rows[:cap(w.index.recent.rows)] {
			if u != (unindexed{}) {
				t.Errorf("hashes of an entry are kept: %+v", u)
			}
		}
		return nil
	})
}

// TestWhatChangesNoEntryForgetsNothing: tending the counts, every ten seconds, would have the
// youngest entries read again.
func TestWhatChangesNoEntryForgetsNothing(t *testing.T) {
	s := opened(t, 4)
	if err := s.tendCounts(t.Context()); err != nil {
		t.Fatal(err)
	}
	alone(t, s, func(w *writer) error {
		if r := &w.index.recent; !r.whole || len(r.rows) != 4 {
			t.Errorf("%d entries are remembered, whole %v", len(r.rows), r.whole)
		}
		return nil
	})
}

// TestABacklogIsReadBitByBit: with more entries to index than are remembered, a step reads those
// that it takes.
func TestABacklogIsReadBitByBit(t *testing.T) {
	s := opened(t, 300)
	alone(t, s, func(w *writer) error {
		w.index.unindexed = maxUnindexed + 1 // so many came while segments could not be made
		w.index.recent.forget()
		err := w.index.recall(100)
		if n := len(w.index.recent.rows); n != 100 || w.index.recent.whole {
			t.Errorf("%d entries read, whole %v", n, w.index.recent.whole)
		}
		w.index.unindexed = 300
		w.index.recent.forget()
		return err
	})
}
