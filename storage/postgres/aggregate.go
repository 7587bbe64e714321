package postgres

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Histogram implements storage.Aggregator.
func (s *Store) Histogram(ctx context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	var buckets []storage.Bucket
	err := s.aggregate(ctx, &q, `(key >> 20) / {step} * {step} AS at, status`, "at, status", "at", step, func(row pgx.Row) error {
		var at int64
		var status, n int
		if err := row.Scan(&at, &status, &n); err != nil {
			return err
		}
		begin := time.UnixMilli(at).UTC()
		if last := len(buckets); last == 0 || !buckets[last-1].At.Equal(begin) {
			buckets = append(buckets, storage.Bucket{At: begin})
		}
		buckets[len(buckets)-1].Counts[storage.StatusOf(status).Code()] += n
		return nil
	}, func() { buckets = nil })
	return buckets, err
}

// Tally implements storage.Aggregator.
func (s *Store) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	tallies := []storage.Tally{}
	err := s.aggregate(ctx, &q, `action, coalesce(class, '') AS kind, status, severity`, "action, kind, status, severity",
		"n DESC, action, kind, status, severity", 0, func(row pgx.Row) error {
			var t storage.Tally
			var status, level int
			err := row.Scan(&t.Action, &t.Class, &status, &level, &t.Count)
			t.Status, t.Severity = storage.StatusOf(status), severity.Level(level) //nolint:gosec // a code
			tallies = append(tallies, t)
			return err
		}, func() { tallies = tallies[:0] })
	return tallies, err
}

// aggregate counts what a query selects in groups, and has each read. again is called
// before another try.
func (s *Store) aggregate(ctx context.Context, q *storage.Query, columns, groups, order string, step time.Duration, each func(pgx.Row) error, again func()) error {
	var parts []string
	var args []any
	for _, r := range s.runs(q) {
		parts = append(parts, s.fill(`SELECT key, action, class, status, severity FROM "{s}"."{t}_entries" WHERE `)+r.where(&args))
	}
	sql := `SELECT ` + columns + `, count(*) AS n FROM (` + strings.Join(parts, " UNION ALL ") + `) AS found GROUP BY ` + groups + ` ORDER BY ` + order
	sql = strings.ReplaceAll(sql, "{step}", milliseconds(step))
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.reading(ctx, func(b *pgx.Batch) {
		again()
		b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
			defer rows.Close()
			for rows.Next() {
				if err := each(rows); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	})
	return s.explain(caller, err)
}

// milliseconds of a step, as a constant of SQL.
func milliseconds(step time.Duration) string {
	return strconv.FormatInt(max(step.Milliseconds(), 1), 10)
}
