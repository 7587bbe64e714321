package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// TestWhatIsDeletedIsInNoFile: neither a deleted user's id nor what retention deletes is in the
// database's files a few seconds later (threats.md D19), or after somebody has read an older state; but
// for a few entries of those that shared a page with others that stay: SQLite overwrites a row that
// it deletes, and not the copies that it left in the gap of the page when it moved rows.
func TestWhatIsDeletedIsInNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const user, typed, agent = "needle-of-a-user", "needle-that-was-typed", "needle-of-a-browser"
	write := func(e storage.Entry) {
		t.Helper()
		e.Status = storage.Success
		e.Sanitize()
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-48 * time.Hour)
	for range 300 {
		write(storage.Entry{Action: "sign-in:email", UserID: user})
		write(storage.Entry{Action: "sign-in:email", UserID: "somebody", CreatedAt: old, UserAgent: agent, Metadata: json.RawMessage(`{"identifier":"` + typed + `"}`)})
	}
	// Somebody reads an older state: as long as that lasts nothing can be cut.
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM auditLog`).Scan(&n); err != nil || n != 600 {
		t.Fatalf("%d entries: %v", n, err)
	}
	if n, err := s.Unlink(t.Context(), user); err != nil || n != 300 {
		t.Fatalf("%d entries without their user: %v", n, err)
	}
	t.Run("after a crash", func(t *testing.T) { nothingIsLeftAfterACrash(t, path, user) })
	for {
		n, err := s.Prune(t.Context(), time.Now().Add(-24*time.Hour), 100)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	for {
		n, err := s.Compact(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	time.Sleep(5 * time.Second) // it is tried meanwhile
	if b, err := os.ReadFile(path + "-wal"); err != nil || !bytes.Contains(b, []byte(user)) {
		t.Errorf("the log of the one who reads is gone, or never had the id: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	const inAGap = 4096 / 100 // of 300: a page's worth
	left := map[string]int{}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		clear(left)
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			for _, needle := range []string{user, typed, agent} {
				n := bytes.Count(b, []byte(needle))
				if needle == typed && suffix == "" && n <= inAGap {
					n = 0
				}
				if n > 0 {
					left[needle+" in audit.db"+suffix] = n
				}
			}
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("there is still %v", left)
}

// nothingIsLeftAfterACrash opens the files as they are now, as a kill leaves them.
func nothingIsLeftAfterACrash(t *testing.T, path, needle string) {
	crashed := filepath.Join(t.TempDir(), "audit.db")
	had := false
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		had = had || bytes.Contains(b, []byte(needle))
		if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !had {
		t.Fatal("the id is in none of the files that a crash leaves: the test looks for nothing")
	}
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: crashed})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for end := time.Now().Add(30 * time.Second); had && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		had = false
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(crashed + suffix)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			had = had || bytes.Contains(b, []byte(needle))
		}
	}
	if had {
		t.Error("the id of a deleted user is in the files again")
	}
}
