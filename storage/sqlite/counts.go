package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// openHours is how many hours besides the current one stay in memory: entries are
	// completed in them, and each change of an hour in the table costs a page.
	openHours = 1
	// saveHours and saveRows bound what one transaction moves into the table.
	saveHours = 24 * 7
	saveRows  = 200
	// maxGroups bounds the groups in memory. Users may invent actions; beyond it there are
	// no exact totals.
	maxGroups = 1 << 16
	// maxFound bounds the groups of hours that are read before those of hours that are over
	// go into the table.
	maxFound = 4 * maxGroups
	// countEvery is how often the background looks whether there is something to do.
	countEvery = 10 * time.Second
)

const hour = time.Hour / time.Millisecond

// hourOf is the hour of a sort key, since 1970.
func hourOf(key int64) int64 { return storage.KeyTime(key).UnixMilli() / int64(hour) }

// hourKey is the lowest sort key of an hour.
func hourKey(h int64) int64 { return storage.TimeKey(time.UnixMilli(h * int64(hour))) }

// group is what entries are counted by; kind is the code of an action.
type group struct {
	kind             int64
	status, severity int8
}

type hourGroup struct {
	hour int64
	group
}

// counts knows how many entries there are of each group, exactly: all in all, and in each
// hour that is not in the table yet. The table has the hours before upto, and changes in
// the transaction that changes their entries; the writer tells counts of the others when
// it has committed, before it answers. So counting costs a transaction nothing.
//
// After an Open, and after another process has written (which is noticed within countEvery),
// the memory is filled anew in the background. Until then ready is false, and totals are
// counted up to storage.MaxTotal.
type counts struct {
	// tending is held by tendCounts: one at a time.
	tending sync.Mutex
	// mu protects the fields below.
	mu    sync.RWMutex
	ready bool // totals and hours are true
	// whole is true if hours are; overflow if there are too many groups for totals, which stay
	// empty then until the database is opened anew.
	whole, overflow bool
	// epoch changes whenever the memory stops being true.
	epoch int
	// legacy is true if some entries may be of an action whose class is not known.
	legacy bool
	upto   int64
	hours  map[hourGroup]int // from upto on
	totals map[group]int
	days   days   // before upto
	floods floods // before upto, too
	// mostGroups and mostFound are maxGroups and maxFound in tests; 0 otherwise.
	mostGroups, mostFound int
}

// reset begins anew: what is applied from now on is to be added to what is in the database.
// It returns the epoch that begins.
func (c *counts) reset(upto int64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.whole, c.overflow, c.upto = false, false, false, upto
	c.epoch++
	c.days.full = false
	c.days.forgetAll()
	c.floods.forgetAll()
	c.hours, c.totals = map[hourGroup]int{}, map[group]int{}
	return c.epoch
}

// distrust says that the memory is not true any more.
func (c *counts) distrust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.distrusted()
}

// distrusted is distrust; c.mu is held.
func (c *counts) distrusted() {
	c.ready, c.whole = false, false
	c.epoch++
	c.days.forgetAll()
	c.floods.forgetAll()
}

// lasts says whether an epoch does, or ends it if the table turned out to be damaged in it.
func (c *counts) lasts(epoch int, damaged bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch && damaged {
		c.distrusted()
	}
	return c.epoch == epoch
}

// add counts n entries more; c.mu is held.
func (c *counts) add(at hourGroup, n int) {
	if c.totals == nil {
		return // nobody has asked yet
	}
	if at.hour >= c.upto {
		bump(c.hours, at, n)
	}
	if c.overflow {
		return
	}
	if bump(c.totals, at.group, n); len(c.totals) > c.most() {
		c.ready, c.overflow, c.totals = false, true, map[group]int{}
	}
}

// most is how many groups totals may have.
func (c *counts) most() int { return cmp.Or(c.mostGroups, maxGroups) }

func bump[K comparable](m map[K]int, key K, n int) {
	if n += m[key]; n == 0 {
		delete(m, key)
	} else {
		m[key] = n
	}
}

// changes are those of one transaction. Only the writer's goroutine uses them.
type changes struct {
	upto  int64 // of the table; known is false when it has to be read
	known bool
	n     map[hourGroup]int
	// same are the hours of entries that are others now and counted as before.
	same map[int64]bool
}

func (c *changes) add(hour int64, g group, n int) {
	if c.n == nil {
		c.n = map[hourGroup]int{}
	}
	at := hourGroup{hour, g}
	if bump(c.n, at, n); c.n[at] == 0 {
		if c.same == nil {
			c.same = map[int64]bool{}
		}
		c.same[hour] = true
	}
}

// forget forgets them.
func (c *changes) forget() {
	clear(c.n)
	clear(c.same)
}

// save changes the table, in the transaction, where the hours in it are concerned.
func (c *changes) save(l *link) error {
	for at, n := range c.n {
		if at.hour >= c.upto {
			continue
		}
		args := at.args(int64(n))
		if _, err := l.count.exec(args...); err != nil {
			return ofCounts(err)
		}
		if n > 0 {
			continue
		}
		if _, err := l.forget.exec(args[:4]...); err != nil {
			return ofCounts(err)
		}
	}
	return nil
}

func (h hourGroup) args(n int64) []driver.NamedValue {
	return numbered(h.hour, h.kind, int64(h.status), int64(h.severity), n)
}

// tell counts what a transaction has committed.
func (c *changes) tell(to *counts) {
	if len(c.n) == 0 && len(c.same) == 0 {
		return
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	for at, n := range c.n {
		if to.add(at, n); at.hour < to.upto {
			to.days.forget(at.hour)
			to.floods.forget(at.hour)
		}
	}
	for hour := range c.same {
		if hour < to.upto {
			to.floods.forget(hour)
		}
	}
	c.forget()
}

// readLegacy looks whether there may be entries of an earlier version.
func (v *view) readLegacy(ctx context.Context) error {
	return v.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT legacy FROM "%s_counted"`, v.table)).Scan(&v.counts.legacy)
}

// startCounting runs keepCounts in the background.
func (s *Store) startCounting() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.stopCounting = func() { cancel(); <-done }
	go func() {
		defer close(done)
		s.keepCounts(ctx)
	}()
}

// keepCounts fills the memory, and moves its hours into the table when they are over,
// until ctx ends.
func (s *Store) keepCounts(ctx context.Context) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	warning := rate.Sometimes{Interval: time.Hour}
	for {
		if err := s.tendCounts(ctx); err != nil && ctx.Err() == nil && s.writer.guard.err() == nil && !busy(err) {
			warning.Do(func() {
				s.log.Warn("the audit log's entries could not be counted; totals above 10000 are not exact until they are", "path", s.path, "error", err)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Store) tendCounts(ctx context.Context) error {
	s.counts.tending.Lock()
	defer s.counts.tending.Unlock()
	// A transaction that does nothing: the writer notices if another process has written.
	if err := s.writer.submitIdle(ctx, &job{durability: storage.Commit, reads: true, do: func(context.Context, *sql.Tx) error { return nil }}); err != nil {
		return err
	}
	s.counts.mu.RLock()
	whole := s.counts.whole
	s.counts.mu.RUnlock()
	if !whole {
		before := s.writer.recounts.Load()
		err := s.fillCounts(ctx)
		if errors.Is(err, errCounts) {
			if err = s.recount(ctx, before, err); err == nil {
				err = s.fillCounts(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
	for {
		if more, err := s.saveCounts(ctx); err != nil || !more {
			return err
		}
	}
}

// fillCounts reads the database as it is at one moment between two transactions of the
// writer, from which on the writer tells what it changes.
func (s *Store) fillCounts(ctx context.Context) error {
	if s.verify() != nil { // a connection that is opened now could be to another file
		return nil //nolint:nilerr // guard tells of it
	}
	// A transaction whose context ends is rolled back in the background, and its connection
	// could still be open when Close has returned: each step looks at ctx instead.
	whole := context.WithoutCancel(ctx)
	tx, err := s.read.BeginTx(whole, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var upto int64
	var epoch int
	err = s.writer.submitIdle(ctx, &job{durability: storage.Commit, reads: true, do: func(context.Context, *sql.Tx) error {
		if err := tx.QueryRowContext(whole, fmt.Sprintf(`SELECT hour FROM "%s_counted"`, s.table)).Scan(&upto); err != nil {
			return err
		}
		epoch = s.counts.reset(upto)
		return nil
	}})
	if err != nil {
		return err
	}
	found := map[hourGroup]int{}
	part := func(before int64) error {
		if !s.counts.fillPart(epoch, found, before) {
			return errMeanwhile
		}
		for {
			if more, err := s.saveHours(ctx, before, epoch); err != nil || !more {
				return err
			}
		}
	}
	if err := s.readCounts(ctx, tx, upto, found, part); err != nil {
		if errors.Is(err, errMeanwhile) {
			return nil // it is begun anew
		}
		return err
	}
	legacy, err := s.legacy(whole, tx)
	if err != nil {
		return err
	}
	s.counts.fill(epoch, found, legacy)
	return nil
}

// errMeanwhile ends a fill in whose time somebody else has written.
var errMeanwhile = errors.New("another process has written meanwhile")

// fillPart takes what was found of the hours before one out of found, and adds it; false if
// somebody else has written meanwhile. Those hours are whole then.
func (c *counts) fillPart(epoch int, found map[hourGroup]int, before int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return false
	}
	for at, n := range found {
		if at.hour < before {
			c.add(at, n)
			delete(found, at)
		}
	}
	return true
}

// fill adds what was found at the beginning of an epoch.
func (c *counts) fill(epoch int, found map[hourGroup]int, legacy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return // somebody else has written meanwhile
	}
	for at, n := range found {
		c.add(at, n)
	}
	c.legacy, c.whole, c.ready = legacy, true, !c.overflow
}

// legacy says whether entries of an earlier version are still there.
func (v *view) legacy(ctx context.Context, q querier) (found bool, err error) {
	if !v.counts.old() {
		return false, nil
	}
	err = q.QueryRowContext(ctx, fmt.Sprintf(`SELECT EXISTS (SELECT 1 FROM "%[1]s_texts" WHERE class IS NULL AND
		EXISTS (SELECT 1 FROM "%[1]s_entries" WHERE action = code))`, v.table)).Scan(&found)
	return found, err
}

// querier is a connection to read from.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// readCounts adds up what the table has before upto, under hour -1, and counts the entries
// from there on, a part at a time. When into has too many it calls part, which takes those of
// the hours before one out of it, all of which are counted. Of more groups than there may be,
// only so many are read that it shows.
func (v *view) readCounts(ctx context.Context, q querier, upto int64, into map[hourGroup]int, part func(before int64) error) error {
	whole := context.WithoutCancel(ctx) // see fillCounts
	_, err := eachGroup(whole, q, into, fmt.Sprintf(`SELECT -1, kind, status, severity, sum(n), 0 FROM "%s_counts" WHERE hour < ?
		GROUP BY kind, status, severity LIMIT %d`, v.table, v.counts.most()+1), upto)
	if err != nil {
		return ofCounts(err)
	}
	query := fmt.Sprintf(`SELECT (key >> 20) / %d AS hour, action, status, severity, count(*), max(key) FROM
		(SELECT key, action, status, severity FROM "%s_entries" WHERE key > ? ORDER BY key LIMIT %d) GROUP BY 1, 2, 3, 4`, hour, v.table, scanRows)
	for last := hourKey(upto) - 1; ; {
		end, err := eachGroup(whole, q, into, query, last)
		if err = cmp.Or(err, ctx.Err()); err != nil || end <= last {
			return err
		}
		last = end
		before := len(into)
		if before <= cmp.Or(v.counts.mostFound, maxFound) {
			continue
		}
		if err := part(hourOf(last)); err != nil {
			return err
		}
		if len(into) == before {
			return errors.New("one hour has too many actions")
		}
	}
}

// eachGroup adds the rows of a query (hour, kind, status, severity, number, key) to into,
// and returns the highest key.
func eachGroup(ctx context.Context, q querier, into map[hourGroup]int, query string, args ...any) (int64, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	highest := int64(-1)
	for rows.Next() {
		var at hourGroup
		var n int
		var key int64
		if err := rows.Scan(&at.hour, &at.kind, &at.status, &at.severity, &n, &key); err != nil {
			return 0, err
		}
		into[at] += n
		highest = max(highest, key)
	}
	return highest, rows.Err()
}

// saveCounts moves the oldest hours that are over from the memory into the table. more is
// true if there may be others.
func (s *Store) saveCounts(ctx context.Context) (more bool, err error) {
	return s.saveHours(ctx, time.Now().UnixMilli()/int64(hour)-openHours, anyEpoch)
}

// anyEpoch is no epoch.
const anyEpoch = -1

// saveHours moves the oldest hours before end into the table, if hours are whole, or if those
// before end are in an epoch that still lasts.
func (s *Store) saveHours(ctx context.Context, end int64, epoch int) (more bool, err error) {
	if _, next, _ := s.counts.over(end, epoch); next == 0 {
		return false, nil
	}
	var moved int64
	j := &job{durability: storage.Commit, reads: true}
	j.do = func(ctx context.Context, tx *sql.Tx) error {
		rows, next, upto := s.counts.over(end, epoch)
		if next == 0 || upto != s.writer.changes.upto {
			return nil
		}
		for at, n := range rows {
			if _, err := s.writer.link.count.exec(at.args(int64(n))...); err != nil {
				return ofCounts(err)
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE "%s_counted" SET hour = ?`, s.table), next)
		moved = next
		return err
	}
	j.then = func() {
		if moved > 0 {
			s.writer.changes.upto = moved
			s.counts.saved(moved)
		}
	}
	err = s.writer.submitIdle(ctx, j)
	return err == nil && moved > 0, err
}

// over returns some of the hours before end, the hour up to which they are all, 0 if there
// are none, and the hour before which all are in the table.
func (c *counts) over(end int64, epoch int) (found map[hourGroup]int, next, upto int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if epoch == anyEpoch && !c.whole || epoch != anyEpoch && c.epoch != epoch {
		return nil, 0, c.upto
	}
	byHour, first := map[int64]int{}, end
	for at := range c.hours {
		byHour[at.hour]++
		first = min(first, at.hour)
	}
	if first >= end {
		return nil, 0, c.upto
	}
	rows := 0
	for next = first; next < end && next < first+saveHours && (rows == 0 || rows+byHour[next] <= saveRows); next++ {
		rows += byHour[next]
	}
	found = make(map[hourGroup]int, rows)
	for at, n := range c.hours {
		if at.hour < next {
			found[at] = n
		}
	}
	return found, next, c.upto
}

// saved forgets the hours before upto: the table has them.
func (c *counts) saved(upto int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upto = upto
	for at := range c.hours {
		if at.hour < upto {
			delete(c.hours, at)
		}
	}
}

// scope is what is asked of counts: groups in a span of time.
type scope struct {
	kinds            []int64 // sorted; nil for any
	status, severity int8    // -1 for any
	from, to         int64   // hours, to exclusive
}

func (o *scope) holds(g group) bool {
	if o.status >= 0 && g.status != o.status || o.severity >= 0 && g.severity != o.severity {
		return false
	}
	if o.kinds == nil {
		return true
	}
	_, found := slices.BinarySearch(o.kinds, g.kind)
	return found
}

// where is the same for the table, without the time.
func (o *scope) where() (string, []any) {
	terms, args := []string{"1"}, []any(nil)
	if o.kinds != nil {
		list, codes := oneOf(o.kinds)
		terms, args = append(terms, "kind IN "+list), append(args, codes...)
	}
	if o.status >= 0 {
		terms, args = append(terms, "status = ?"), append(args, o.status)
	}
	if o.severity >= 0 {
		terms, args = append(terms, "severity = ?"), append(args, o.severity)
	}
	return strings.Join(terms, " AND "), args
}

// remember returns what the memory has of a scope, the hour from which on it has it, and the epoch.
// Without a span it is everything, under hour -1.
func (c *counts) remember(o *scope, span bool) (found map[hourGroup]int, upto int64, epoch int, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.ready {
		return nil, 0, 0, false
	}
	found = map[hourGroup]int{}
	if !span {
		for g, n := range c.totals {
			if o.holds(g) {
				found[hourGroup{-1, g}] = n
			}
		}
		return found, 0, c.epoch, true
	}
	for at, n := range c.hours {
		if at.hour >= o.from && at.hour < o.to && o.holds(at.group) {
			found[at] = n
		}
	}
	return found, c.upto, c.epoch, true
}
