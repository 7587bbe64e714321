package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// ExplainPage returns SQLite's plan for the keys of the first page of q; apart says that the
// user has many entries.
func ExplainPage(t *testing.T, db *sql.DB, q storage.Query, apart bool) string {
	t.Helper()
	s := &view{table: DefaultTable}
	k := kinds{asked: q.Action != "" || q.Class != ""}
	if k.asked {
		k.codes = []int64{1}
	}
	if apart && q.UserID != nil && *q.UserID != "" {
		k.apart, k.own = true, []group{{kind: 1, status: 0}, {kind: 1, status: 1}, {kind: 2, status: 1}}
	}
	keys, args := s.keys(s.runs(&q, k), 50, 0)
	return planOf(t, db, keys, args...)
}

// ExplainIDs returns SQLite's plans for all statements that look for an entry by its id.
func ExplainIDs(t *testing.T, db *sql.DB) string {
	t.Helper()
	var l link
	plans := planOf(t, db, fmt.Sprintf(byID, DefaultTable), "x", 1)
	for to, query := range l.statements() {
		if query = strings.ReplaceAll(query, "%s", DefaultTable); to == &l.find || to == &l.update || to == &l.findStray || to == &l.elsewhere {
			plans += "\n" + planOf(t, db, query, make([]any, strings.Count(query, "?"))...)
		}
	}
	return plans
}

func planOf(t *testing.T, db *sql.DB, query string, args ...any) string {
	t.Helper()
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "\n")
}

// During runs f within a transaction of a Keeper, and returns how it ended.
func During(t *testing.T, k *Keeper, f func(tx *sql.Tx)) error {
	t.Helper()
	s, err := k.now()
	if err != nil {
		t.Fatal(err)
	}
	return s.writer.submit(t.Context(), &job{do: func(_ context.Context, tx *sql.Tx) error {
		f(tx)
		return nil
	}})
}

// OnWait has f told how long each write stood behind work that can wait. f is
// called by one goroutine, none after OnWait with nil.
func OnWait(t *testing.T, s *Store, f func(time.Duration)) {
	t.Helper()
	err := s.writer.submit(t.Context(), &job{do: func(context.Context, *sql.Tx) error {
		s.writer.waited = f
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// TendCounts does what the background does now and then.
func TendCounts(t *testing.T, s *Store) {
	t.Helper()
	for range 100 { // the background of another Store may write in between
		if err := s.tendCounts(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.counts.mu.RLock()
		ready := s.counts.ready
		s.counts.mu.RUnlock()
		if ready {
			return
		}
	}
	t.Fatal("the entries were not counted")
}

// SaveCounts moves all hours that are over into the table.
func SaveCounts(t *testing.T, s *Store) {
	t.Helper()
	for {
		if more, err := s.saveCounts(t.Context()); err != nil {
			t.Fatal(err)
		} else if !more {
			return
		}
	}
}

// Distrust has the counts forgotten.
func Distrust(s *Store) { s.counts.distrust() }

// Confuse gives all entries the hash of one user, as if somebody had found ids that have it.
func Confuse(t *testing.T, s *Store, userID string) {
	t.Helper()
	if _, err := s.exec(t.Context(), `UPDATE "auditLog_entries" SET user_hash = ? WHERE user_hash IS NOT NULL`, storage.TextHash(userID)); err != nil {
		t.Fatal(err)
	}
}

// Strays is how many entries are not where their ids lead.
func Strays(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.read.QueryRowContext(t.Context(), `SELECT count(*) FROM "auditLog_entries" WHERE stray IS NOT NULL`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// SortAtMost has s look through each group of a user's entries by itself when there are more.
func SortAtMost(s *Store, n int) { s.sorted = n }

// Bounds of how a user's entries are found.
const (
	MaxSorted = maxSorted
	MaxOwn    = maxOwn
)
