package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxEdge bounds the entries that are counted one by one at the ends of a span of time, for
// an exact total.
const maxEdge = 100_000

// old says whether there may be entries whose class stands in their metadata only.
func (c *counts) old() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.legacy
}

// many says whether at least one entry in twenty is of one of the kinds, which are sorted.
func (c *counts) many(kinds []int64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.ready {
		return false
	}
	found, all := 0, 0
	for g, n := range c.totals {
		all += n
		if _, one := slices.BinarySearch(kinds, g.kind); one {
			found += n
		}
	}
	return found > 0 && found >= all/20
}

// countable says whether counts can tell what a query selects: it looks at nothing but
// action, class, status, severity and time.
func countable(q *storage.Query, k kinds) (scope, bool) {
	o := scope{status: -1, severity: -1, kinds: k.codes}
	if k.asked && o.kinds == nil {
		o.kinds = []int64{}
	}
	if q.Status != "" {
		o.status = int8(q.Status.Code()) //nolint:gosec // a code
	}
	if q.Severity != nil {
		o.severity = int8(*q.Severity)
	}
	return o, q.UserID == nil && q.IdentifierHash == "" && q.IPAddress == "" && q.Text == "" && len(k.legacy) == 0
}

// span is a query's time: whole hours, and the keys before and behind them.
type span struct {
	first, end int64 // keys, end exclusive
	from, to   int64 // hours, to exclusive; openEnd without an end
}

const openEnd = math.MaxInt64

func spanOf(q *storage.Query) (sp span, bounded bool) {
	sp.end, sp.to = openEnd, openEnd
	if !q.From.IsZero() {
		sp.first = storage.TimeKey(q.From)
	}
	if !q.To.IsZero() {
		sp.end = storage.EndKey(q.To)
		sp.to = hourOf(sp.end)
	}
	sp.from = hourOf(sp.first)
	if hourKey(sp.from) < sp.first {
		sp.from++
	}
	return sp, !q.From.IsZero() || !q.To.IsZero()
}

// edges are the parts of hours at both ends, as pairs of keys; all of it if there is no
// whole hour.
func (sp *span) edges() [][2]int64 {
	if sp.from >= sp.to {
		return [][2]int64{{sp.first, sp.end}}
	}
	before := [2]int64{sp.first, hourKey(sp.from)}
	if sp.to == openEnd {
		return [][2]int64{before}
	}
	return [][2]int64{before, {hourKey(sp.to), sp.end}}
}

// exactly is the number of entries that a query selects, if counts can tell it soon.
func (v *view) exactly(ctx context.Context, q *storage.Query, k kinds) (n int, ok bool, err error) {
	o, ok := countable(q, k)
	if !ok {
		return 0, false, nil
	}
	sp, bounded := spanOf(q)
	if bounded && sp.from >= sp.to {
		return 0, false, nil
	}
	found, ok, err := v.whole(ctx, &o, sp, bounded, true)
	if err != nil || !ok {
		return 0, false, err
	}
	for _, c := range found {
		n += c
	}
	if !bounded {
		return n, true, nil
	}
	for _, keys := range sp.edges() {
		part, ok, err := v.edge(ctx, &o, keys)
		if err != nil || !ok {
			return 0, false, err
		}
		n += part
	}
	return n, true, nil
}

// whole is what counts has of the whole hours of a span, or of everything; hours that are
// not asked for are -1, and if byDay is true whole days stand under their first hour.
func (v *view) whole(ctx context.Context, o *scope, sp span, bounded, byDay bool) (map[hourGroup]int, bool, error) {
	o.from, o.to = sp.from, sp.to
	found, upto, epoch, ok := v.counts.remember(o, bounded)
	end := min(o.to, upto)
	if !ok || !bounded || o.from >= end {
		return found, ok, nil
	}
	err := v.addTable(ctx, o, epoch, end, byDay, found)
	if !v.counts.lasts(epoch, errors.Is(err, errCounts)) { // the table was begun anew meanwhile, or has to be
		return nil, false, nil
	}
	return found, true, err
}

// addTable adds the hours before end, which are in the table.
func (v *view) addTable(ctx context.Context, o *scope, epoch int, end int64, byDay bool, found map[hourGroup]int) error {
	first, last := (o.from+dayHours-1)/dayHours, end/dayHours
	if !byDay || first >= last {
		return v.addHours(ctx, o, o.from, end, found)
	}
	err := v.addHours(ctx, o, o.from, first*dayHours, found)
	if err == nil {
		err = v.addDays(ctx, o, epoch, first, last, found)
	}
	if err == nil {
		err = v.addHours(ctx, o, last*dayHours, end, found)
	}
	return err
}

// addHours adds hours that are in the table.
func (v *view) addHours(ctx context.Context, o *scope, from, to int64, into map[hourGroup]int) error {
	if from >= to {
		return nil
	}
	where, args := o.where()
	query := fmt.Sprintf(`SELECT hour, kind, status, severity, n, 0 FROM "%s_counts" WHERE hour >= ? AND hour < ? AND %s`, v.table, where)
	_, err := eachGroup(ctx, v.db, into, query, append([]any{from, to}, args...)...)
	return ofCounts(err)
}

// edge counts the entries between two keys, up to maxEdge.
func (v *view) edge(ctx context.Context, o *scope, keys [2]int64) (int, bool, error) {
	if keys[0] >= keys[1] {
		return 0, true, nil
	}
	where, args := o.where()
	where = strings.NewReplacer("kind", "+action", "status", "+status", "severity", "+severity").Replace(where)
	var n int
	err := v.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM (SELECT 1 FROM "%s_entries" WHERE key >= ? AND key < ? AND %s LIMIT %d)`,
		v.table, where, maxEdge+1), append([]any{keys[0], keys[1]}, args...)...).Scan(&n)
	return n, n <= maxEdge, err
}

// Histogram implements storage.Aggregator.
func (s *Store) Histogram(ctx context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	return ofOneMoment(ctx, s, &q, func(v *view) ([]storage.Bucket, error) { return v.Histogram(ctx, q, step) })
}

// Histogram is Store.Histogram; see ofOneMoment. Steps of whole hours come from the counts.
func (v *view) Histogram(ctx context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	k, err := v.kinds(ctx, &q)
	if err != nil {
		return nil, err
	}
	buckets := histogram{step: max(step.Milliseconds(), 1), counts: map[int64]*storage.Bucket{}}
	if o, ok := countable(&q, k); ok && step%time.Hour == 0 {
		sp, _ := spanOf(&q)
		found, ok, err := v.whole(ctx, &o, sp, true, step%(dayHours*time.Hour) == 0)
		if err != nil {
			return nil, err
		}
		if ok && sp.from < sp.to {
			for at, n := range found {
				buckets.add(at.hour*int64(hour), int64(at.status), n)
			}
			for _, keys := range sp.edges() {
				if err := v.scanHistogram(ctx, between(&q, keys), k, &buckets); err != nil {
					return nil, err
				}
			}
			return v.bucketsWithEvents(ctx, q, k, &buckets)
		}
	}
	if err := v.scanHistogram(ctx, q, k, &buckets); err != nil {
		return nil, err
	}
	return v.bucketsWithEvents(ctx, q, k, &buckets)
}

// between narrows a query to the time between two keys, which begin milliseconds.
func between(q *storage.Query, keys [2]int64) storage.Query {
	part := *q
	part.From, part.To = storage.KeyTime(keys[0]), storage.KeyTime(keys[1]-1)
	return part
}

// scanHistogram counts entries one by one.
func (v *view) scanHistogram(ctx context.Context, q storage.Query, k kinds, into *histogram) error {
	if !q.From.IsZero() && !q.To.IsZero() && q.From.After(q.To) {
		return nil
	}
	ok, err := v.eachFound(ctx, &q, k, func(g group, key int64) { into.add(storage.KeyTime(key).UnixMilli(), int64(g.status), 1) })
	if ok || err != nil {
		return err
	}
	return v.eachRun(ctx, &q, k, func(r run) error {
		rows, err := v.db.QueryContext(ctx, fmt.Sprintf(`SELECT (key >> 20) / %[2]d * %[2]d, status, count(*) FROM "%[1]s_entries" WHERE %[3]s GROUP BY 1, 2`,
			v.table, into.step, &r), r.args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // of rows that were read
		for rows.Next() {
			var at, status int64
			var n int
			if err := rows.Scan(&at, &status, &n); err != nil {
				return err
			}
			into.add(at, status, n)
		}
		return rows.Err()
	})
}

// histogram is one in the making.
type histogram struct {
	step   int64 // ms
	counts map[int64]*storage.Bucket
}

func (h *histogram) add(at, status int64, n int) {
	at -= at % h.step
	b := h.counts[at]
	if b == nil {
		b = &storage.Bucket{At: time.UnixMilli(at).UTC()}
		h.counts[at] = b
	}
	b.Counts[storage.StatusOf(int(status)).Code()] += n
}

func (h *histogram) sorted() []storage.Bucket {
	var list []storage.Bucket
	for _, at := range slices.Sorted(maps.Keys(h.counts)) {
		list = append(list, *h.counts[at])
	}
	return list
}

// Tally implements storage.Aggregator.
func (s *Store) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	return ofOneMoment(ctx, s, &q, func(v *view) ([]storage.Tally, error) { return v.Tally(ctx, q) })
}

// Tally is Store.Tally; see ofOneMoment.
func (v *view) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	k, err := v.kinds(ctx, &q)
	if err != nil {
		return nil, err
	}
	list, err := v.tallyEntries(ctx, q, k)
	if err != nil {
		return nil, err
	}
	return v.talliesWithEvents(ctx, q, k, list)
}

// tallyEntries counts entries, not events, and in no order.
func (v *view) tallyEntries(ctx context.Context, q storage.Query, k kinds) ([]storage.Tally, error) {
	o, ok := countable(&q, k)
	if ok && !v.counts.old() {
		sp, bounded := spanOf(&q)
		if !bounded || sp.from < sp.to {
			groups, ok, err := v.tallyCounts(ctx, &q, k, &o, sp, bounded)
			if err != nil {
				return nil, err
			}
			if ok {
				return v.name(ctx, groups)
			}
		}
	}
	if v.counts.old() {
		return v.tallyEach(ctx, q, k)
	}
	groups := map[hourGroup]int{}
	if err := v.scanTally(ctx, q, k, groups); err != nil {
		return nil, err
	}
	return v.name(ctx, groups)
}

func (v *view) tallyCounts(ctx context.Context, q *storage.Query, k kinds, o *scope, sp span, bounded bool) (map[hourGroup]int, bool, error) {
	groups, ok, err := v.whole(ctx, o, sp, bounded, true)
	if err != nil || !ok || !bounded {
		return groups, ok, err
	}
	for _, keys := range sp.edges() {
		if keys[0] >= keys[1] {
			continue
		}
		if err := v.scanTally(ctx, between(q, keys), k, groups); err != nil {
			return nil, false, err
		}
	}
	return groups, true, nil
}

// scanTally counts entries one by one.
func (v *view) scanTally(ctx context.Context, q storage.Query, k kinds, into map[hourGroup]int) error {
	ok, err := v.eachFound(ctx, &q, k, func(g group, _ int64) { into[hourGroup{-1, g}]++ })
	if ok || err != nil {
		return err
	}
	return v.eachRun(ctx, &q, k, func(r run) error {
		_, err := eachGroup(ctx, v.db, into, fmt.Sprintf(`SELECT -1, action, status, severity, count(*), 0 FROM "%s_entries" WHERE %s
			GROUP BY action, status, severity`, v.table, &r), r.args...)
		return err
	})
}

// name gives groups the names of their actions and classes.
func (v *view) name(ctx context.Context, groups map[hourGroup]int) ([]storage.Tally, error) {
	names := map[int64]storage.Tally{}
	rows, err := v.db.QueryContext(ctx, fmt.Sprintf(`SELECT code, text, class FROM "%s_texts" WHERE class IS NOT NULL`, v.table))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var code int64
		var t storage.Tally
		if err := rows.Scan(&code, &t.Action, &t.Class); err != nil {
			return nil, err
		}
		names[code] = t
	}
	sums := map[storage.Tally]int{}
	for at, n := range groups {
		t, ok := names[at.kind]
		if !ok {
			continue
		}
		t.Status, t.Severity = storage.StatusOf(int(at.status)), severity.Level(at.severity) //nolint:gosec // a code
		sums[t] += n
	}
	return tallies(sums), rows.Err()
}

// tallyEach counts with the classes that metadata says.
func (v *view) tallyEach(ctx context.Context, q storage.Query, k kinds) ([]storage.Tally, error) {
	sums := map[storage.Tally]int{}
	err := v.eachRun(ctx, &q, k, func(r run) error { return v.tallyRun(ctx, r, sums) })
	return tallies(sums), err
}

func (v *view) tallyRun(ctx context.Context, r run, into map[storage.Tally]int) error {
	rows, err := v.db.QueryContext(ctx, fmt.Sprintf(`SELECT t.text, coalesce(t.class, e.class) AS class, e.status, e.severity, count(*) FROM
		(SELECT action, status, severity, %[1]s AS class FROM "%[2]s_entries" WHERE %[3]s) e
		JOIN "%[2]s_texts" t ON t.code = e.action GROUP BY 1, 2, 3, 4`, legacyClass, v.table, &r), r.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var t storage.Tally
		var status, level, n int
		if err := rows.Scan(&t.Action, &t.Class, &status, &level, &n); err != nil {
			return err
		}
		if len(t.Class) > storage.MaxClass {
			t.Class = ""
		}
		t.Status, t.Severity = storage.StatusOf(status), severity.Level(level) //nolint:gosec // a code
		into[t] += n
	}
	return rows.Err()
}

func tallies(sums map[storage.Tally]int) []storage.Tally {
	list := make([]storage.Tally, 0, len(sums))
	for t, n := range sums {
		t.Count = n
		list = append(list, t)
	}
	return list
}
