package sqlite

import (
	"context"
	"fmt"
)

const (
	dayHours = 24
	// maxDays bounds the groups of days that are remembered: thirty years with three
	// groups each, or three with thirty.
	maxDays = 1 << 15
	// maxHoles bounds the days that are read anew by themselves.
	maxHoles = 8
)

// days remembers sums of whole days of the table, so that a total of a year does not add up
// 200,000 hours each time. It is protected by counts.mu.
//
// What changes in the table is not added here, but forgotten: a reader may have seen it
// before the writer tells.
type days struct {
	from, to int64 // days since 1970 that are known, to exclusive, but for holes
	groups   map[int64]map[group]int
	rows     int // in groups
	holes    map[int64]bool
	// full is true when somebody has asked for more than is remembered: then hours are
	// added up.
	full bool
	// stamp changes with everything else.
	stamp int
}

// forget forgets the day of an hour in the table.
func (d *days) forget(hour int64) {
	day := hour / dayHours
	if d.stamp++; day < d.from || day >= d.to {
		return
	}
	if len(d.holes) >= maxHoles {
		d.forgetAll()
		return
	}
	d.rows -= len(d.groups[day])
	delete(d.groups, day)
	d.holes[day] = true
}

func (d *days) forgetAll() { *d = days{stamp: d.stamp + 1, full: d.full} }

// missing are the days of a span that are not known, as spans. They are such that what is
// known is one span afterwards.
func (d *days) missing(from, to int64) (spans [][2]int64) {
	if d.from == d.to {
		return [][2]int64{{from, to}}
	}
	if from < d.from {
		spans = append(spans, [2]int64{from, d.from})
	}
	if to > d.to {
		spans = append(spans, [2]int64{d.to, to})
	}
	for day := range d.holes {
		if day >= from && day < to {
			spans = append(spans, [2]int64{day, day + 1})
		}
	}
	return spans
}

// learn remembers what was found in spans that were missing when the stamp was this one.
func (d *days) learn(stamp int, spans [][2]int64, found map[hourGroup]int) {
	if stamp != d.stamp {
		return
	}
	if d.rows+len(found) > maxDays {
		d.full = true
		d.forgetAll()
		return
	}
	if d.groups == nil {
		d.groups, d.holes, d.from, d.to = map[int64]map[group]int{}, map[int64]bool{}, spans[0][0], spans[0][0]
	}
	for _, span := range spans {
		if d.from, d.to = min(d.from, span[0]), max(d.to, span[1]); span[1] == span[0]+1 {
			delete(d.holes, span[0])
		}
	}
	for at, n := range found {
		if d.groups[at.hour] == nil {
			d.groups[at.hour] = map[group]int{}
		}
		d.groups[at.hour][at.group] = n
		d.rows++
	}
	d.stamp++ // what others have found meanwhile may not be next to this
}

// addDays adds the sums of days, which are all in the table, each under its first hour.
func (v *view) addDays(ctx context.Context, o *scope, epoch int, from, to int64, into map[hourGroup]int) error {
	spans, stamp, ok := v.counts.knownDays(o, epoch, from, to, into)
	if !ok {
		return v.addHours(ctx, o, from*dayHours, to*dayHours, into)
	}
	found := map[hourGroup]int{} // by day
	for _, span := range spans {
		_, err := eachGroup(ctx, v.db, found, fmt.Sprintf(`SELECT hour / %d, kind, status, severity, sum(n), 0 FROM "%s_counts" WHERE hour >= ? AND hour < ? GROUP BY 1, 2, 3, 4`, dayHours, v.table),
			span[0]*dayHours, span[1]*dayHours)
		if err != nil {
			return ofCounts(err)
		}
	}
	for at, n := range found {
		if at.hour >= from && at.hour < to && o.holds(at.group) {
			into[hourGroup{at.hour * dayHours, at.group}] = n
		}
	}
	if len(spans) > 0 {
		v.counts.mu.Lock()
		defer v.counts.mu.Unlock()
		v.counts.days.learn(stamp, spans, found)
	}
	return nil
}

// knownDays adds the days that are known, and returns the others; ok is false if there are too
// many to be known, or the table is not that of an epoch any more.
func (c *counts) knownDays(o *scope, epoch int, from, to int64, into map[hourGroup]int) (spans [][2]int64, stamp int, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.days.full || c.epoch != epoch {
		return nil, 0, false
	}
	spans = c.days.missing(from, to)
	for day := max(from, c.days.from); day < min(to, c.days.to); day++ {
		for g, n := range c.days.groups[day] {
			if o.holds(g) {
				into[hourGroup{day * dayHours, g}] = n
			}
		}
	}
	return spans, c.days.stamp, true
}
