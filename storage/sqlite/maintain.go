package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// scanRows is how many entries Compact reads at a time.
	scanRows = 5000
	// pruneRows and dropTexts bound the entries and texts that one transaction
	// deletes. A text changes a page or two that no other does (its place in an
	// index), an entry half a page, and as many pages must be written twice before the
	// next transaction: so many keep the writer busy for 1 ms, and the disk not much
	// longer.
	pruneRows = 100
	dropTexts = 50
	// dropRest is how many times as long Compact rests after such a transaction.
	dropRest = 10
)

// Prune implements storage.Pruner. It deletes at most pruneRows, see tidy.
func (s *Store) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	// One upper bound only: with two SQLite would walk along the wrong one.
	query := fmt.Sprintf(`DELETE FROM "%[1]s_entries" WHERE key <=
		(SELECT max(key) FROM (SELECT key FROM "%[1]s_entries" WHERE key < ? ORDER BY key LIMIT ?))
		RETURNING key, action, status, severity`, s.table)
	return s.tidy(ctx, func(ctx context.Context, tx *sql.Tx) (int64, error) {
		n, highest, err := s.deleted(tx.QueryContext(ctx, query, storage.TimeKey(before), min(limit, pruneRows)))
		if n == 0 || err != nil {
			return n, err
		}
		return n, s.writer.index.pruned(int(n), highest)
	})
}

// deleted counts the entries that a statement has deleted, in a job, and says the highest
// key of them.
func (s *Store) deleted(rows *sql.Rows, err error) (n, highest int64, _ error) {
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = rows.Close() }()
	for ; rows.Next(); n++ {
		var key int64
		var g group
		if err := rows.Scan(&key, &g.kind, &g.status, &g.severity); err != nil {
			return n, highest, err
		}
		s.writer.changes.add(hourOf(key), g, -1)
		highest = max(highest, key)
	}
	return n, highest, rows.Err()
}

// tidy deletes something and returns how many rows that was. Its transaction runs
// when nobody waits for the writer, and without an fsync of its own: what a power
// cut brings back, the next call deletes again. Then it moves the transaction's
// pages into the database, before they are so many that the disk is busy with them
// while somebody waits for it. Callers rest between calls, in proportion to how
// long one took.
func (s *Store) tidy(ctx context.Context, run func(context.Context, *sql.Tx) (int64, error)) (int, error) {
	n, err := s.changed(ctx, s.writer.submitIdle, storage.Commit, run)
	if err == nil && n > 0 {
		_, _, failed := s.ticker.move(ctx)
		s.ticker.warn(ctx, failed)
	}
	return n, err
}

// CountBefore implements storage.Counter.
func (v *view) CountBefore(ctx context.Context, before time.Time) (int, error) {
	var n int
	query := fmt.Sprintf(`SELECT count(*) FROM "%s_entries" WHERE key < ?`, v.table)
	err := v.db.QueryRowContext(ctx, query, storage.TimeKey(before)).Scan(&n)
	return n, err
}

// Size implements storage.Sizer: the database and its write-ahead log. The files
// are only looked at, never opened (see inUse).
func (s *Store) Size(context.Context) (int64, error) {
	var size int64
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(s.path + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

// Compact implements storage.Compactor: it deletes the texts (actions and user
// agents) that no entry uses.
//
// Nothing that is used is deleted: the writer notes every text that it uses while
// the entries are read, those are kept, and if another process has written
// meanwhile nothing is deleted at all. There is no index on user agents, so all
// entries are read, in small steps on a reading connection.
func (s *Store) Compact(ctx context.Context) (int, error) {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	version, err := s.writer.watchTexts(ctx)
	if err != nil {
		return 0, err
	}
	defer s.writer.unwatchTexts()
	unused, err := s.unusedTexts(ctx)
	if err != nil {
		return 0, err
	}
	total := 0
	for len(unused) > 0 {
		batch := unused[:min(dropTexts, len(unused))]
		unused = unused[len(batch):]
		began := time.Now()
		n, err := s.dropTexts(ctx, version, batch)
		total += n
		if err != nil {
			return total, err
		}
		if err := rest(ctx, dropRest*time.Since(began)); err != nil {
			return total, err
		}
	}
	return total, nil
}

// unusedTexts returns the codes that no entry had when it was read.
func (s *Store) unusedTexts(ctx context.Context) ([]int64, error) {
	unused := map[int64]struct{}{}
	if _, err := s.eachCode(ctx, fmt.Sprintf(`SELECT code, NULL FROM "%s_texts"`, s.table), func(code int64) { unused[code] = struct{}{} }); err != nil {
		return nil, err
	}
	query := fmt.Sprintf(`SELECT action, agent, max(key) FROM (SELECT key, action, agent FROM "%s_entries" WHERE key > ? ORDER BY key LIMIT %d)
		GROUP BY action, agent`, s.table, scanRows)
	for last, more := int64(-1), true; more; {
		began := time.Now()
		end, err := s.eachCode(ctx, query, func(code int64) { delete(unused, code) }, last)
		if err != nil {
			return nil, err
		}
		more, last = end > last, max(end, last)
		if err := rest(ctx, time.Since(began)); err != nil {
			return nil, err
		}
	}
	codes := make([]int64, 0, len(unused))
	for code := range unused {
		codes = append(codes, code)
	}
	return codes, nil
}

// eachCode calls f with the codes in the first two columns, and returns the
// highest number of the third.
func (s *Store) eachCode(ctx context.Context, query string, f func(code int64), args ...any) (int64, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	values := make([]sql.NullInt64, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	highest := int64(-1)
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return 0, err
		}
		for _, code := range values[:2] {
			if code.Valid {
				f(code.Int64)
			}
		}
		if len(values) > 2 {
			highest = max(highest, values[2].Int64)
		}
	}
	return highest, rows.Err()
}

// dropTexts deletes those of the codes that the writer has not used since version.
func (s *Store) dropTexts(ctx context.Context, version int64, codes []int64) (int, error) {
	return s.tidy(ctx, func(ctx context.Context, tx *sql.Tx) (int64, error) {
		idle := s.writer.idleCodes(version, codes)
		if len(idle) == 0 {
			return 0, nil
		}
		return affected(tx.ExecContext(ctx, fmt.Sprintf(`DELETE FROM "%s_texts" WHERE code IN (?%s)`, s.table, strings.Repeat(",?", len(idle)-1)), idle...))
	})
}

// rest waits for d, so that background work takes a part of the time only.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// OpenForeign opens a SQLite file of another program, to read from it and nothing
// else.
func OpenForeign(ctx context.Context, path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is a %s, not a database file", path, kind(info.Mode()))
	}
	db, err := openReadOnly(path)
	if err != nil {
		return nil, err
	}
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, explain(err)), db.Close())
	}
	return db, nil
}
