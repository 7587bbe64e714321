package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// pruneRows bounds the entries that one transaction deletes, and unlinkRows those
	// that one changes: a few milliseconds.
	pruneRows, unlinkRows = 200, 1000
	// sizeTimeout bounds Size, which a scrape of the metrics waits for.
	sizeTimeout = time.Second
)

// countTimeout bounds the counting of many entries, for which nobody waits. Tests shorten it.
var countTimeout = time.Minute

// Unlink implements storage.Unlinker. Like entries it goes through the writer, so that
// what was written before it is unlinked too; a user with many entries takes several
// transactions.
func (s *Store) Unlink(ctx context.Context, userID string) (int, error) {
	if userID == "" || !askable(userID) {
		return 0, nil
	}
	total := 0
	for {
		part, cancel := context.WithTimeout(ctx, callTimeout)
		n, err := s.unlinkSome(part, userID)
		cancel()
		total += n
		if err != nil || n == 0 { // fewer than a whole part may be left because another node deletes beside
			return total, s.explain(ctx, err)
		}
	}
}

func (s *Store) unlinkSome(ctx context.Context, userID string) (int, error) {
	sql := s.fill(fmt.Sprintf(`UPDATE "{s}"."{t}_entries" SET user_id = NULL, user_hash = NULL WHERE user_hash = $1 AND user_id = $2
		AND key IN (SELECT key FROM "{s}"."{t}_entries" WHERE user_hash = $1 AND user_id = $2 LIMIT %d) RETURNING key`, unlinkRows))
	var n atomic.Int64 // the writer may still be at it when ctx has ended
	err := s.writer.submit(ctx, &job{do: func(ctx context.Context, t *tx) error {
		var key, changed int64
		err := t.each(ctx, sql, []any{storage.TextHash(userID), userID}, []any{&key}, func() error {
			changed++
			return nil
		})
		n.Store(changed)
		return err
	}})
	if err != nil {
		return 0, err // it was rolled back, or will be done again
	}
	return int(n.Load()), nil
}

// CountBefore implements storage.Counter. It may take longer than other calls.
func (s *Store) CountBefore(ctx context.Context, before time.Time) (int, error) {
	n, err := s.count(ctx, s.fill(`SELECT count(*) FROM "{s}"."{t}_entries" WHERE key < $1`), storage.TimeKey(before))
	return n, s.explain(ctx, err)
}

// count runs a query for one number, in its own time.
func (s *Store) count(ctx context.Context, sql string, args ...any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	var n int
	err := s.patient(ctx, func(t *tx) error {
		return t.each(ctx, sql, args, []any{&n}, func() error { return nil })
	})
	return n, err
}

// patient runs f in a transaction whose statements may take countTimeout, and whose commit waits
// for no disk.
func (s *Store) patient(ctx context.Context, f func(*tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, countTimeout+callTimeout) // the network may swallow what the server says
	defer cancel()
	return s.with(ctx, s.read, func(c *pgxpool.Conn) error {
		t := begin(c, fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true), set_config('synchronous_commit', 'off', true)`,
			countTimeout.Milliseconds(), ddlTimeout.Milliseconds()))
		if err := f(t); err != nil {
			return err
		}
		return t.commit(ctx)
	})
}

// Time implements storage.Clock: the server's.
func (s *Store) Time(ctx context.Context) (now time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = s.read.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, s.explain(ctx, err)
}

// Size implements storage.Sizer: the tables and their indexes.
func (s *Store) Size(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, sizeTimeout)
	defer cancel()
	var size int64
	err := s.read.QueryRow(ctx, `SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree($1::text::regclass)`, s.fill(`"{s}"."{t}_entries"`)).Scan(&size)
	return size, s.explain(ctx, err)
}

// Prune implements storage.Pruner. A partition whose month is over before the given
// time is dropped as a whole: then the number returned may exceed max. The rest is
// deleted row by row, at most pruneRows at a time. What a crash of the server brings
// back, the next call deletes again.
func (s *Store) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	n, err := s.dropMonths(ctx, before)
	if n == 0 && err == nil {
		n, err = s.deleteOldest(ctx, before, min(limit, pruneRows))
	}
	return n, s.explain(ctx, err)
}

// dropMonths drops the oldest partition that has entries and is old as a whole, and
// empty ones on the way. Where it may not, or cannot get at the table for now, rows are
// deleted one by one instead.
func (s *Store) dropMonths(ctx context.Context, before time.Time) (int, error) {
	if s.parts.mayNotDrop() {
		return 0, nil
	}
	there, err := s.months(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range s.parts.own(sorted(there)) {
		if (m + 1).begins().After(before) {
			return 0, nil
		}
		n, err := s.dropMonth(ctx, m)
		switch c := code(err); {
		case c == noPrivilege:
			if !s.parts.isForeign(m) {
				continue
			}
			s.log.Warn("the role of the DSN may not drop a partition, whose entries are deleted row by row: make the role that the others belong to its owner", "month", m.begins().Format("2006-01"), "error", err)
		case c == lockNotAvailable:
			s.parts.leaveAlone()
			return 0, nil
		case err != nil || n > 0:
			return n, err
		}
	}
	return 0, nil
}

// dropMonth returns how many entries were in the partition. They are counted before,
// because nobody can use the table while it waits for the drop.
func (s *Store) dropMonth(ctx context.Context, m month) (int, error) {
	table := s.fill(fmt.Sprintf(`"{s}"."{t}_p%s"`, m))
	n, err := s.count(ctx, `SELECT count(*) FROM `+table)
	if ctx.Err() == nil && (code(err) == queryCanceled || errors.Is(err, context.DeadlineExceeded)) {
		// It is too large to be counted in time, and goes all the same: VACUUM's estimate is told.
		n, err = s.count(ctx, `SELECT greatest(reltuples, 1)::bigint FROM pg_class WHERE oid = $1::text::regclass`, table)
	}
	if err == nil {
		err = s.patient(ctx, func(t *tx) error {
			if err := t.each(ctx, `DROP TABLE `+table, nil, nil, func() error { return nil }); err != nil {
				return err
			}
			from, to := m.keys()
			return s.forgetStrays(ctx, t, from, to-1)
		})
	}
	if code(err) == undefinedTable {
		return 0, nil // another Caddy was faster
	}
	if err != nil {
		return 0, err
	}
	s.parts.forget(m)
	s.log.Info("dropped a partition whose entries are all too old", "table", s.table, "month", m.begins().Format("2006-01"), "entries", n)
	return n, nil
}

func sorted(there map[month]bool) []month {
	all := make([]month, 0, len(there))
	for m := range there {
		all = append(all, m)
	}
	slices.Sort(all)
	return all
}

// deleteOldest finds the keys first: with their bounds at hand only the partitions
// that have them are looked at.
func (s *Store) deleteOldest(ctx context.Context, before time.Time, limit int) (int, error) {
	n := 0
	err := s.patient(ctx, func(t *tx) error {
		tried := int64(0)
		for n = 0; n == 0; { // another node may delete the same ones, and these are not all
			var first, last *int64
			err := t.each(ctx, s.fill(`SELECT min(key), max(key) FROM (SELECT key FROM "{s}"."{t}_entries" WHERE key < $1 ORDER BY key LIMIT $2) AS oldest`),
				[]any{storage.TimeKey(before), limit}, []any{&first, &last}, func() error { return nil })
			if err != nil || first == nil || *first == tried {
				return err // nothing is left, or it cannot be deleted
			}
			tried = *first
			if n, err = s.deleteBetween(ctx, t, *first, *last); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// deleteBetween deletes the entries from the first key to the last, and returns how many there were.
func (s *Store) deleteBetween(ctx context.Context, t *tx, first, last int64) (n int, err error) {
	var key int64
	err = t.each(ctx, s.fill(`DELETE FROM "{s}"."{t}_entries" WHERE key BETWEEN $1 AND $2 RETURNING key`), []any{first, last}, []any{&key}, func() error {
		n++
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, s.forgetStrays(ctx, t, first, last)
}

// forgetStrays forgets those whose entries are gone, from the first key to the last.
func (s *Store) forgetStrays(ctx context.Context, t *tx, first, last int64) error {
	return t.each(ctx, s.fill(staleStrays+` AND s.key BETWEEN $1 AND $2`), []any{first, last}, nil, func() error { return nil })
}

// mayNotDrop says whether the role may not drop partitions, or somebody uses them.
func (p *partitions) mayNotDrop() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.powerless || time.Now().Before(p.noDropUntil)
}

func (p *partitions) leaveAlone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noDropUntil = time.Now().Add(dropAgainAfter)
}

// isForeign notes that a month's partition belongs to another role. It returns true if that is
// news.
func (p *partitions) isForeign(m month) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.foreign == nil {
		p.foreign = map[month]time.Time{}
	}
	_, known := p.foreign[m]
	p.foreign[m] = time.Now().Add(hopelessFor)
	return !known
}

// own are the months without those.
func (p *partitions) own(months []month) []month {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(months, func(m month) bool { return time.Now().Before(p.foreign[m]) })
}

// forget notes that a month has no partition any more.
func (p *partitions) forget(m month) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.there, m)
}
