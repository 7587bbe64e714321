package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
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
	entries := func(row pgx.Row) error {
		var at int64
		var status, n int
		if err := row.Scan(&at, &status, &n); err != nil {
			return err
		}
		begin := time.UnixMilli(at).UTC()
		if last := len(buckets); last == 0 || !buckets[last-1].At.Equal(begin) {
			buckets = append(buckets, storage.Bucket{At: begin})
		}
		b := &buckets[len(buckets)-1]
		b.Counts[storage.StatusOf(status).Code()] += n
		b.Events = b.Counts
		return nil
	}
	rollUps := func(at int64, of storage.Tally, more int) {
		i, ok := slices.BinarySearchFunc(buckets, at, func(b storage.Bucket, at int64) int { return b.At.Compare(time.UnixMilli(at)) })
		if !ok {
			return // cannot be: both are of one moment
		}
		n := &buckets[i].Events[of.Status.Code()]
		*n = storage.AddEvents(*n, more)
	}
	at := strings.ReplaceAll(`(key >> 20) / {step} * {step}`, "{step}", milliseconds(step))
	err := s.aggregate(ctx, &q, at+` AS at, status`, "at, status", "at", entries, at, rollUps, func() { buckets = nil })
	return buckets, err
}

// Tally implements storage.Aggregator.
func (s *Store) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	tallies := []storage.Tally{}
	entries := func(row pgx.Row) error {
		var t storage.Tally
		var status, level int
		err := row.Scan(&t.Action, &t.Class, &status, &level, &t.Count)
		t.Status, t.Severity, t.Events = storage.StatusOf(status), severity.Level(level), t.Count //nolint:gosec // a code
		tallies = append(tallies, t)
		return err
	}
	rollUps := func(_ int64, of storage.Tally, more int) {
		for i := range tallies {
			t := &tallies[i]
			if t.Action == of.Action && t.Class == of.Class && t.Status == of.Status && t.Severity == of.Severity {
				t.Events = storage.AddEvents(t.Events, more)
			}
		}
	}
	err := s.aggregate(ctx, &q, `action, coalesce(class, '') AS kind, status, severity`, "action, kind, status, severity", "n", entries,
		"0", rollUps, func() { tallies = tallies[:0] })
	slices.SortFunc(tallies, storage.CompareTallies)
	return tallies, err
}

// aggregate counts what a query selects in groups, and has each read. Then it calls rollUps with
// sums of the roll-ups among them, by at: what they are counted under, and how many events they
// stand for besides one each. again is called before another try.
func (s *Store) aggregate(ctx context.Context, q *storage.Query, columns, groups, order string, each func(pgx.Row) error,
	at string, rollUps func(at int64, of storage.Tally, more int), again func(),
) error {
	var parts []string
	var args []any
	for _, r := range s.runs(q) {
		parts = append(parts, s.fill(`SELECT key, action, class, status, severity FROM "{s}"."{t}_entries" WHERE `)+r.where(&args))
	}
	sql := `SELECT ` + columns + `, count(*) AS n FROM (` + strings.Join(parts, " UNION ALL ") + `) AS found GROUP BY ` + groups + ` ORDER BY ` + order
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.reading(ctx, func(b *pgx.Batch) {
		again()
		queueEach(b, sql, args, each)
		if q.Action != "" && !strings.HasPrefix(q.Action, storage.RolledUp) {
			return
		}
		sql, args := s.rollUpSQL(q, at)
		queueEach(b, sql, args, func(row pgx.Row) error { return scanRollUps(row, rollUps) })
	})
	return s.explain(caller, err)
}

// queueEach has each row of a query read.
func queueEach(b *pgx.Batch, sql string, args []any, each func(pgx.Row) error) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		defer rows.Close()
		for rows.Next() {
			if err := each(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// rollUpSQL adds up the events of the roll-ups that a query selects: few entries, which the index
// on actions finds. A count is read as the recorder writes it, as the first member; what does not
// look like that comes back as it is, so that no text makes the query fail.
func (s *Store) rollUpSQL(q *storage.Query, at string) (string, []any) {
	last := len(storage.RolledUp) - 1
	rolledUp := fmt.Sprintf(`action >= '%s' AND action < '%s%c'`, storage.RolledUp, storage.RolledUp[:last], storage.RolledUp[last]+1)
	var parts []string
	var args []any
	for _, r := range s.runs(q) {
		r.add(rolledUp)
		parts = append(parts, `SELECT key, action, class, status, severity, metadata, CASE WHEN metadata ~ '^[{]"count":[1-9][0-9]{0,14}[,}]' THEN
			substring(metadata from '^[{]"count":([0-9]+)')::bigint END AS n`+s.fill(` FROM "{s}"."{t}_entries" WHERE `)+r.where(&args))
	}
	return `SELECT ` + at + ` AS at, action, coalesce(class, '') AS kind, status, severity, odd, count(*), least(coalesce(sum(n), 0), ` + strconv.Itoa(storage.MaxEvents) + `)::bigint FROM
		(SELECT *, CASE WHEN n IS NULL THEN coalesce(metadata, '{}') END AS odd FROM (` + strings.Join(parts, " UNION ALL ") + `) AS found) AS found GROUP BY 1, 2, 3, 4, 5, 6`, args
}

// scanRollUps reads one row of rollUpSQL.
func scanRollUps(row pgx.Row, do func(at int64, of storage.Tally, more int)) error {
	var at int64
	var of storage.Tally
	var status, level, n, events int
	var odd *string
	if err := row.Scan(&at, &of.Action, &of.Class, &status, &level, &odd, &n, &events); err != nil {
		return err
	}
	of.Status, of.Severity = storage.StatusOf(status), severity.Level(level) //nolint:gosec // a code
	if odd == nil {
		do(at, of, events-n)
		return nil
	}
	for range n {
		do(at, of, storage.EventsIn(of.Action, json.RawMessage(*odd))-1)
	}
	return nil
}

// milliseconds of a step, as a constant of SQL.
func milliseconds(step time.Duration) string {
	return strconv.FormatInt(max(step.Milliseconds(), 1), 10)
}
