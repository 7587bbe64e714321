package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Counts know how many entries there are, not how many events roll-ups stand for. These are
// few, and their own actions find them: who counts events reads them besides.

// rollUps are the actions of roll-ups that a query may select, by their codes. A class that
// the entries themselves have to say is missing in them.
type rollUps struct {
	names map[int64]storage.Tally
	kinds kinds
}

// rollUps looks up which there are: as a rule none, or a few. The texts of user agents are not
// looked at, so that nobody outside makes it slow, but in a log of an earlier version.
func (v *view) rollUps(ctx context.Context, k kinds) (found rollUps, err error) {
	found = rollUps{map[int64]storage.Tally{}, kinds{asked: true, class: k.class}}
	where := "class IS NOT NULL"
	if v.counts.old() {
		where = fmt.Sprintf(`(class IS NOT NULL OR EXISTS (SELECT 1 FROM "%s_entries" WHERE action = code))`, v.table)
	}
	after := storage.RolledUp[:len(storage.RolledUp)-1] + string(storage.RolledUp[len(storage.RolledUp)-1]+1)
	rows, err := v.db.QueryContext(ctx, fmt.Sprintf(`SELECT code, text, class FROM "%s_texts" WHERE text >= ? AND text < ? AND %s ORDER BY code`, v.table, where),
		storage.RolledUp, after)
	if err != nil {
		return found, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var code int64
		var t storage.Tally
		var class sql.NullString
		if err := rows.Scan(&code, &t.Action, &class); err != nil {
			return found, err
		}
		t.Class = class.String
		switch {
		case !k.asked || slices.Contains(k.codes, code):
			found.kinds.codes = append(found.kinds.codes, code)
		case slices.Contains(k.legacy, code):
			found.kinds.legacy = append(found.kinds.legacy, code)
		default:
			continue
		}
		found.names[code] = t
	}
	return found, rows.Err()
}

// eachRollUp calls do with the roll-ups that a query selects: when they are of, in milliseconds
// since 1970, what they are counted under, and how many events they stand for besides one.
func (v *view) eachRollUp(ctx context.Context, q storage.Query, k kinds, do func(at int64, of storage.Tally, more int)) error {
	found, err := v.rollUps(ctx, k)
	if err != nil || len(found.names) == 0 {
		return err
	}
	each := func(r run) error { return v.readRollUps(ctx, r, &found, do) }
	if len(lookups(&q)) > 0 {
		return v.eachRun(ctx, &q, found.kinds, each)
	}
	return each(v.rolledUp(&q, &found.kinds))
}

// rolledUp is the run of the roll-ups that a query selects, for the index on action and status.
func (v *view) rolledUp(q *storage.Query, k *kinds) run {
	r := run{}
	in, args := oneOf(slices.Concat(k.codes, k.legacy))
	r.add("action IN "+in, args...)
	if q.Status != "" {
		r.add("status = ?", q.Status.Code())
	} else {
		r.add("status IN (0, 1, 2, 3)")
	}
	if !q.From.IsZero() {
		r.add("key >= ?", storage.TimeKey(q.From))
	}
	if !q.To.IsZero() {
		r.add("key < ?", storage.EndKey(q.To))
	}
	if q.Severity != nil {
		r.add("+severity = ?", *q.Severity)
	}
	if q.UserID != nil { // nobody: all others are looked up
		r.add("+user_hash IS NULL")
	}
	if q.Text != "" {
		v.addText(&r, q)
	}
	return k.filter(r)
}

// readRollUps calls do with each roll-up of a run. The recorder writes the count as the first
// member: then no more than the beginning of the metadata is read.
func (v *view) readRollUps(ctx context.Context, r run, found *rollUps, do func(at int64, of storage.Tally, more int)) error {
	class := "''"
	if v.counts.old() {
		class = legacyClass
	}
	rows, err := v.db.QueryContext(ctx, fmt.Sprintf(`SELECT key, action, status, severity, %s, CASE substr(metadata, 1, 9) WHEN '{"count":' THEN substr(metadata, 1, 64) ELSE metadata END
		FROM "%s_entries" WHERE %s`, class, v.table, &r), r.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var key, code int64
		var status, level int
		var class string
		var metadata sql.RawBytes
		if err := rows.Scan(&key, &code, &status, &level, &class, &metadata); err != nil {
			return err
		}
		of := found.names[code]
		more := storage.EventsIn(of.Action, json.RawMessage(metadata)) - 1
		if more == 0 {
			continue
		}
		if of.Class == "" && len(class) <= storage.MaxClass {
			of.Class = class
		}
		of.Status, of.Severity = storage.StatusOf(status), severity.Level(level) //nolint:gosec // a code
		do(storage.KeyTime(key).UnixMilli(), of, more)
	}
	return rows.Err()
}

// talliesWithEvents says in tallies how many events there are, and sorts them.
func (v *view) talliesWithEvents(ctx context.Context, q storage.Query, k kinds, list []storage.Tally) ([]storage.Tally, error) {
	rolledUp := map[storage.Tally]*storage.Tally{}
	for i := range list {
		t := &list[i]
		if strings.HasPrefix(t.Action, storage.RolledUp) {
			rolledUp[storage.Tally{Action: t.Action, Class: t.Class, Status: t.Status, Severity: t.Severity}] = t
		}
		t.Events = t.Count
	}
	if len(rolledUp) > 0 {
		err := v.eachRollUp(ctx, q, k, func(_ int64, of storage.Tally, more int) {
			if t := rolledUp[of]; t != nil { // else it was written meanwhile
				t.Events = storage.AddEvents(t.Events, more)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, storage.CompareTallies)
	return list, nil
}

// bucketsWithEvents says in a histogram how many events there are, and sorts it.
func (v *view) bucketsWithEvents(ctx context.Context, q storage.Query, k kinds, h *histogram) ([]storage.Bucket, error) {
	for _, b := range h.counts {
		b.Events = b.Counts
	}
	err := v.eachRollUp(ctx, q, k, func(at int64, of storage.Tally, more int) {
		code := of.Status.Code()
		if b := h.counts[at-at%h.step]; b != nil && b.Counts[code] > 0 { // else it was written meanwhile
			b.Events[code] = storage.AddEvents(b.Events[code], more)
		}
	})
	return h.sorted(), err
}
