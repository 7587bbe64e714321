package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// ExplainPage returns SQLite's plan for the keys of the first page of q.
func ExplainPage(t *testing.T, db *sql.DB, q storage.Query) string {
	t.Helper()
	v := &view{table: DefaultTable}
	k := kinds{asked: q.Action != "" || q.Class != ""}
	if k.asked {
		k.codes = []int64{1}
	}
	runs := []run{v.among(&q, k, []int64{1, 2})}
	if len(lookups(&q)) == 0 {
		runs = v.runs(&q, k)
	}
	keys, args := v.keys(runs, 50, 0)
	return planOf(t, db, keys, args...)
}

// ExplainFinding returns SQLite's plans for what finds the entries of a user, an address or an
// identifier.
func ExplainFinding(t *testing.T, db *sql.DB) (plans string) {
	t.Helper()
	f := newFinder(t.Context(), &view{table: DefaultTable, db: explainer{t, db, &plans}}, &storage.Query{}, kinds{})
	user, nobody := "u", ""
	for _, q := range []storage.Query{{UserID: &user, IdentifierHash: "h"}, {IdentifierHash: "h"}, {IPAddress: "a"}, {IPAddress: "a", UserID: &nobody}} {
		f.list = append(f.list, lookups(&q)...)
	}
	if _, err := f.parts(); err != nil {
		t.Fatal(err)
	}
	for i := range f.list {
		if err := f.firsts(&part{lookup: &f.list[i]}, 0); err != nil {
			t.Fatal(err)
		}
	}
	return plans + planOf(t, db, strings.ReplaceAll(blockAt, "%s", DefaultTable), 1, []byte{})
}

// explainer notes the plans of what is asked.
type explainer struct {
	t     *testing.T
	db    *sql.DB
	plans *string
}

func (e explainer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	*e.plans += planOf(e.t, e.db, query, args...) + "\n"
	return e.db.QueryContext(ctx, query, args...)
}

func (e explainer) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return e.db.QueryRowContext(ctx, query, args...)
}

func (e explainer) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	return e.db.PrepareContext(ctx, query)
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

// Reading begins to read a Keeper's database, until the function that it returns is called.
func Reading(t *testing.T, k *Keeper) (end func()) {
	t.Helper()
	s, err := k.now()
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.read.BeginTx(context.Background(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRowContext(context.Background(), `SELECT count(*) FROM "auditLog_entries"`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return func() { _ = tx.Rollback() }
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

// BoundCounts has s remember so few groups, and find so few of hours before it moves them; 0 for
// as many as usually.
func BoundCounts(s *Store, groups, found int) {
	s.counts.tending.Lock() // somebody may be counting since the database was opened
	defer s.counts.tending.Unlock()
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	s.counts.mostGroups, s.counts.mostFound = groups, found
}

// Counted is what the counts know: whether hours are whole, whether there are too many groups, how
// many are in memory, and the hour before which all are in the table.
func Counted(s *Store) (whole, overflow bool, totals, hours int, upto int64) {
	s.counts.mu.RLock()
	defer s.counts.mu.RUnlock()
	return s.counts.whole, s.counts.overflow, len(s.counts.totals), len(s.counts.hours), s.counts.upto
}

// FillCounts is a step of what the background does.
func FillCounts(t *testing.T, s *Store) {
	t.Helper()
	if err := s.tendCounts(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Distrust has the counts forgotten.
func Distrust(s *Store) { s.counts.distrust() }

// Confuse gives all entries the hash of one user, as if somebody had found ids that have it.
func Confuse(t *testing.T, s *Store, userID string) {
	t.Helper()
	err := s.writer.submit(t.Context(), &job{do: func(ctx context.Context, tx *sql.Tx) error {
		for _, query := range []string{
			`UPDATE "auditLog_entries" SET user_hash = ?1 WHERE user_hash IS NOT NULL`, `UPDATE "auditLog_unindexed" SET upto = ?1 * 0`,
			`DELETE FROM "auditLog_segments" WHERE ?1 <> 0`, `DELETE FROM "auditLog_postings" WHERE ?1 <> 0`, `DELETE FROM "auditLog_late" WHERE ?1 <> 0`,
		} {
			if _, err := tx.ExecContext(ctx, query, storage.TextHash(userID)); err != nil {
				return err
			}
		}
		return s.writer.index.load()
	}})
	if err != nil {
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

// Segment has s make segments of so few entries, and of them so many, that all that can
// happen to them happens soon.
func Segment(t *testing.T, s *Store) {
	t.Helper()
	err := s.writer.submit(t.Context(), &job{do: func(context.Context, *sql.Tx) error {
		s.writer.index.shape = shape{base: 3, slack: 1, most: 5, fanOut: 2, block: 40, budget: 40, drop: 3}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// Remembered counts the entries that Segments has compared with what the writer remembers.
var Remembered atomic.Int64

// Segments counts the segments of each level that are read, and checks that each entry's
// postings are there once, unless it is unindexed, and no others; and that the writer remembers
// those that are not.
func Segments(t *testing.T, s *Store) (levels [maxLevel + 1]int) {
	t.Helper()
	err := s.writer.submit(context.Background(), &job{do: func(context.Context, *sql.Tx) error {
		x := &s.writer.index
		all, err := x.segments()
		if err != nil {
			return err
		}
		found := map[postings.Posting]int{}
		for _, seg := range all {
			if seg.state != live {
				continue
			}
			levels[seg.level]++
			src, before := &source{segment: seg}, postings.Posting{}
			for n := 0; ; n++ {
				more, err := src.advance(x)
				if err != nil {
					return err
				}
				if !more {
					break
				}
				if found[src.next]++; src.next.Key < seg.first || src.next.Key > seg.last || n > 0 && before.Compare(&src.next) >= 0 {
					t.Errorf("segment %+v has %+v after %+v", seg, src.next, before)
				}
				before = src.next
			}
		}
		var row [7]driver.Value
		var young []unindexed
		err = x.link.nextRows.each(row[:], func() error {
			key := row[0].(int64)
			indexed, err := x.indexed(key)
			u := unindexedOf(row[:])
			if key >= x.upto {
				young = append(young, u)
			}
			for _, p := range u.appendPostings(nil) {
				want := 0
				if indexed {
					want = 1
				}
				if found[p] != want {
					t.Errorf("%+v is there %d times, want %d", p, found[p], want)
				}
				delete(found, p)
			}
			return err
		}, numbered(int64(0), int64(1<<40))...)
		for p := range found {
			t.Errorf("%+v is there without an entry", p)
		}
		if x.recent.arrange(); x.recent.whole {
			Remembered.Add(int64(len(young)))
			if !slices.Equal(x.recent.rows, young) {
				t.Errorf("remembered are\n%+v, there are\n%+v", x.recent.rows, young)
			}
		}
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return levels
}

// Damage makes another block, an SQL expression, of each that is in the segments.
func Damage(t *testing.T, s *Store, block string) {
	t.Helper()
	n, err := s.exec(t.Context(), `UPDATE "auditLog_postings" SET block = `+block+` WHERE ?`, 1)
	if n == 0 || err != nil {
		t.Fatal(n, err)
	}
}

// RootOf is the number of the page that a table begins with.
func RootOf(t *testing.T, s *Store, table string) (page int64) {
	t.Helper()
	if err := s.read.QueryRowContext(t.Context(), `SELECT rootpage FROM sqlite_schema WHERE name = ?`, table).Scan(&page); err != nil {
		t.Fatal(err)
	}
	return page
}

// Postings counts those of a user, or all, in segments of whatever state.
func Postings(t *testing.T, s *Store, userID string) (n int) {
	t.Helper()
	rows, err := s.read.QueryContext(t.Context(), `SELECT place, block FROM "auditLog_postings"`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var place, block []byte
		if err := rows.Scan(&place, &block); err != nil {
			t.Fatal(err)
		}
		if p, err := postings.At(place); err != nil || p.Term == (postings.Term{Kind: postings.User, Hash: storage.TextHash(userID)}) {
			t.Errorf("a block's place is that of %+v: %v", p, err)
		}
		var p postings.Posting
		r := postings.Read(block)
		for r.Next(&p) {
			if userID == "" || p.Term == (postings.Term{Kind: postings.User, Hash: storage.TextHash(userID)}) {
				n++
			}
		}
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// FailToUnlink is Unlink, the first part of it, in a transaction that is rolled back.
func FailToUnlink(s *Store, userID string) error {
	return s.writer.submit(context.Background(), &job{do: func(ctx context.Context, tx *sql.Tx) error {
		now := s.view
		now.db = tx
		if _, _, err := s.writer.unlink(ctx, &now, userID, math.MaxInt64); err != nil {
			return err
		}
		return ErrOnPurpose
	}})
}

// ErrOnPurpose is how FailToUnlink ends.
var ErrOnPurpose = errors.New("on purpose")

// Unindexed is how many entries have no postings.
func Unindexed(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.read.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM "auditLog_late") + (SELECT count(*) FROM "auditLog_entries" WHERE key >= upto) FROM "auditLog_unindexed"`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// DropCaches has all connections of s read pages from the file again.
func DropCaches(t *testing.T, s *Store) {
	t.Helper()
	err := s.writer.submit(t.Context(), &job{do: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "PRAGMA shrink_memory")
		return err
	}})
	var conns []*sql.Conn
	for range s.read.Stats().MaxOpenConnections {
		conn, failed := s.read.Conn(t.Context())
		if failed == nil {
			conns = append(conns, conn)
			_, failed = conn.ExecContext(t.Context(), "PRAGMA shrink_memory")
		}
		err = errors.Join(err, failed)
	}
	for _, conn := range conns {
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// FloodHours is how many hours are remembered of which it is known what roll-ups stand for there.
func FloodHours(s *Store) int {
	s.counts.mu.RLock()
	defer s.counts.mu.RUnlock()
	return len(s.counts.floods.hours)
}
