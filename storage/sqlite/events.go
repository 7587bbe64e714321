package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

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

// eachRollUp calls do with the roll-ups that a query selects, or with sums of them: when they are
// of, in milliseconds since 1970, to the step; what they are counted under, and how many events
// they stand for besides one each.
func (v *view) eachRollUp(ctx context.Context, q storage.Query, k kinds, step time.Duration, do func(at int64, of storage.Tally, more int)) error {
	found, err := v.rollUps(ctx, k)
	if err != nil || len(found.names) == 0 {
		return err
	}
	if len(lookups(&q)) > 0 {
		return v.eachRun(ctx, &q, found.kinds, func(r run) error { return v.readRollUps(ctx, r, &found, do) })
	}
	sp, _ := spanOf(&q)
	read := func(first, end int64) error {
		if first >= end {
			return nil
		}
		return v.readRollUps(ctx, v.rolledUp(&q, &found.kinds, first, end), &found, do)
	}
	if _, ok := countable(&q, found.kinds); !ok || step%time.Hour != 0 || v.counts.old() {
		return read(sp.first, sp.end)
	}
	first, some, err := v.firstRollUp(ctx, &found)
	if err != nil || !some {
		return err
	}
	to := min(sp.to, v.counts.tabled())
	from := max(sp.from, hourOf(first), to-maxFloods/2) // what is older may be an entry of a clock that was wrong
	if from >= to {
		return read(sp.first, sp.end)
	}
	if err := read(sp.first, hourKey(from)); err != nil {
		return err
	}
	if err := read(hourKey(to), sp.end); err != nil {
		return err
	}
	for end := to; end > from; end -= dayHours {
		err := v.floods(ctx, max(from, end-dayHours), end, func(h int64, of storage.Tally, more int) {
			if (q.Action == "" || of.Action == q.Action) && (q.Class == "" || of.Class == q.Class) && (q.Status == "" || of.Status == q.Status) && (q.Severity == nil || of.Severity == *q.Severity) {
				do(h*int64(hour), of, more)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	// maxFloods bounds the hours that floods remembers, and the groups in them.
	maxFloods = 1 << 17
	// maxRollUps bounds the roll-ups that are read together before any hour of them is
	// remembered: who has to wait for too many asks again, and gets further.
	maxRollUps = 20_000
)

// floods remembers how many events there were in hours of the table, besides the entries: an
// attack that goes on leaves a million roll-ups, and reading them takes seconds. It is protected by
// counts.mu. What changes in these hours is forgotten, as in days.
type floods struct {
	hours map[int64]map[storage.Tally]int // nil of an hour that had none
	rows  int
	// stamp changes with whatever is forgotten.
	stamp int
}

func (f *floods) forget(hour int64) {
	f.stamp++
	if groups, ok := f.hours[hour]; ok {
		f.rows -= 1 + len(groups)
		delete(f.hours, hour)
	}
}

func (f *floods) forgetAll() { *f = floods{stamp: f.stamp + 1} }

// learn remembers what was found in hours, from one to another, when the stamp was this one.
func (f *floods) learn(stamp int, from, to int64, found map[int64]map[storage.Tally]int) {
	if stamp != f.stamp {
		return
	}
	for h := from; h < to; h++ {
		f.forget(h)
		if f.rows += 1 + len(found[h]); f.rows > maxFloods {
			f.forgetAll()
			return
		}
		if f.hours == nil {
			f.hours = map[int64]map[storage.Tally]int{}
		}
		f.hours[h] = found[h]
	}
	f.stamp = stamp
}

// tabled is the hour before which all are in the table; 0 if that is not known.
func (c *counts) tabled() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.ready {
		return 0
	}
	return c.upto
}

// floods calls do with what roll-ups stand for in hours that are in the table.
func (v *view) floods(ctx context.Context, from, to int64, do func(hour int64, of storage.Tally, more int)) error {
	type missing struct{ from, to int64 }
	var list []missing
	c := v.counts
	c.mu.RLock()
	stamp := c.floods.stamp
	for h := from; h < to; h++ {
		groups, ok := c.floods.hours[h]
		for of, more := range groups {
			do(h, of, more)
		}
		switch last := len(list) - 1; {
		case ok:
		case last >= 0 && list[last].to == h:
			list[last].to++
		default:
			list = append(list, missing{h, h + 1})
		}
	}
	c.mu.RUnlock()
	if len(list) == 0 {
		return nil
	}
	all, err := v.rollUps(ctx, kinds{})
	for i := 0; i < len(list) && err == nil; i++ {
		m := list[i]
		var n int
		if n, err = v.countRollUps(ctx, &all, m.from, m.to); err != nil {
			return err
		}
		at := m.to - m.from
		if n > maxRollUps {
			at = 1
		}
		for h := m.from; h < m.to && err == nil; h += at {
			stamp, err = v.learnFloods(ctx, &all, stamp, h, h+at, do)
		}
	}
	return err
}

// learnFloods reads the roll-ups of some hours, calls do with their sums, and remembers these.
func (v *view) learnFloods(ctx context.Context, all *rollUps, stamp int, from, to int64, do func(hour int64, of storage.Tally, more int)) (int, error) {
	found := map[int64]map[storage.Tally]int{}
	err := v.readRollUps(ctx, v.rolledUp(&storage.Query{}, &all.kinds, hourKey(from), hourKey(to)), all, func(at int64, of storage.Tally, more int) {
		h := at / int64(hour)
		if found[h] == nil {
			found[h] = map[storage.Tally]int{}
		}
		found[h][of] = storage.AddEvents(found[h][of], more)
	})
	if err != nil {
		return stamp, err
	}
	for h, groups := range found {
		for of, more := range groups {
			do(h, of, more)
		}
	}
	v.counts.mu.Lock()
	defer v.counts.mu.Unlock()
	v.counts.floods.learn(stamp, from, to, found)
	return stamp, nil
}

// countRollUps counts those of some hours, in the index alone.
func (v *view) countRollUps(ctx context.Context, all *rollUps, from, to int64) (n int, err error) {
	r := v.rolledUp(&storage.Query{}, &all.kinds, hourKey(from), hourKey(to))
	err = v.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM "%s_entries" WHERE %s`, v.table, &r), r.args...).Scan(&n)
	return n, err
}

// firstRollUp is the lowest key of a roll-up; false if there is none.
func (v *view) firstRollUp(ctx context.Context, found *rollUps) (int64, bool, error) {
	in, args := oneOf(found.kinds.codes)
	var key sql.NullInt64
	err := v.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT min((SELECT key FROM "%[1]s_entries" WHERE action = code AND status = value ORDER BY key LIMIT 1))
		FROM "%[1]s_texts", json_each('[0,1,2,3]') WHERE code IN %[2]s`, v.table, in), args...).Scan(&key)
	return key.Int64, key.Valid, err
}

// rolledUp is the run of the roll-ups that a query selects between two keys, for the index on
// action and status.
func (v *view) rolledUp(q *storage.Query, k *kinds, first, end int64) run {
	r := run{}
	in, args := oneOf(slices.Concat(k.codes, k.legacy))
	r.add("action IN "+in, args...)
	if q.Status != "" {
		r.add("status = ?", q.Status.Code())
	} else {
		r.add("status IN (0, 1, 2, 3)")
	}
	if first > 0 {
		r.add("key >= ?", first)
	}
	if end != openEnd {
		r.add("key < ?", end)
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
	if len(k.legacy) > 0 {
		return k.filter(r)
	}
	return r
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
		err := v.eachRollUp(ctx, q, k, time.Hour, func(_ int64, of storage.Tally, more int) {
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
	err := v.eachRollUp(ctx, q, k, time.Duration(h.step)*time.Millisecond, func(at int64, of storage.Tally, more int) {
		code := of.Status.Code()
		if b := h.counts[at-at%h.step]; b != nil && b.Counts[code] > 0 { // else it was written meanwhile
			b.Events[code] = storage.AddEvents(b.Events[code], more)
		}
	})
	return h.sorted(), err
}
