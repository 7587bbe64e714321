package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestAnIndexThatRefusesAnEntryIsNamed: somebody has added one that lets no two entries have the
// same request. The writer says so, and is there for others.
func TestAnIndexThatRefusesAnEntryIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	first, second := storagetest.Entry(1), storagetest.Entry(2)
	must(t, s.Write(t.Context(), first))
	other, err := sql.Open("sqlite", path)
	must(t, err)
	defer func() { _ = other.Close() }()
	_, err = other.ExecContext(t.Context(), `CREATE UNIQUE INDEX mine ON auditLog_entries (user_hash)`)
	must(t, err)
	second.UserID = first.UserID
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Write(ctx, second); err == nil || !strings.Contains(err.Error(), "UNIQUE") {
		t.Fatalf("the error is %v", err)
	}
	first.Status = storage.Failed
	must(t, s.Write(ctx, first)) // it is there: it is changed
	_, err = other.ExecContext(ctx, `DROP INDEX mine`)
	must(t, err, s.Write(ctx, second))
}

// TestWhatWasRolledBackIsNotCounted as deleted.
func TestWhatWasRolledBackIsNotCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	e := storagetest.Entry(1)
	must(t, s.Write(t.Context(), e))
	other, err := sql.Open("sqlite", path)
	must(t, err)
	defer func() { _ = other.Close() }()
	_, err = other.ExecContext(t.Context(), `CREATE TRIGGER no BEFORE UPDATE ON auditLog_counts BEGIN SELECT RAISE(ABORT, 'no'); END`)
	must(t, err)
	if n, err := s.Prune(t.Context(), e.CreatedAt.Add(time.Hour), 10); err == nil || n != 0 {
		t.Errorf("%d are pruned, and the error is %v", n, err)
	}
}

// TestTheLogOfADatabaseThatWasMovedAwayIsKept: after a crash it has entries that are nowhere else.
// A new database does not take it for its own.
func TestTheLogOfADatabaseThatWasMovedAwayIsKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.db")
	s := open(t, filepath.Join(dir, "old.db"))
	e := storagetest.Entry(1)
	must(t, s.Write(t.Context(), e))
	log, err := os.ReadFile(filepath.Join(dir, "old.db-wal")) // as a kill leaves it
	must(t, err, os.WriteFile(path+"-wal", log, 0o600))
	fresh := open(t, path)
	must(t, fresh.Write(t.Context(), storagetest.Entry(2)))
	if _, err := fresh.Get(t.Context(), e.ID); err == nil {
		t.Error("the new database has an entry of the old one's log")
	}
	kept, err := filepath.Glob(path + "-wal.left-*")
	must(t, err)
	if len(kept) != 1 {
		t.Fatalf("the log is kept as %v", kept)
	}
	if got, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(got, log) {
		t.Errorf("it is another one: %v", err)
	}
}
