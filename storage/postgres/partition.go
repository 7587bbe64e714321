package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// monthsAhead is how many partitions are made ahead of time.
	monthsAhead = 2
	// oldestMonths bounds the partitions that an import makes: entries that are older
	// go to the default partition.
	oldestMonths = 240
	// aheadEvery is how often the store looks whether a partition is to be made.
	aheadEvery = time.Hour
	// ddlTimeout bounds how long a change of partitions waits for a lock: while it
	// waits, everybody else waits behind it. shortTimeout is that for a partition that
	// entries wait for.
	ddlTimeout   = time.Second
	shortTimeout = 500 * time.Millisecond
	// makeTimeout bounds the making of one: it may scan the default partition, to which nobody
	// can write meanwhile, and entries may wait for it.
	makeTimeout = time.Second
	// hopelessFor is how long nobody tries again to make a partition, or to drop another role's.
	hopelessFor = time.Hour
	// dropAgainAfter is how long a partition that is in use is left alone.
	dropAgainAfter = time.Minute
)

// month counts months since the year 0.
type month int

func monthOf(t time.Time) month {
	t = t.UTC()
	return month(t.Year()*12 + int(t.Month()) - 1)
}

// begins is the first moment of the month.
func (m month) begins() time.Time {
	return time.Date(int(m)/12, time.Month(int(m)%12+1), 1, 0, 0, 0, 0, time.UTC)
}

// keys are the sort keys of the month: from the first, up to and without the second.
func (m month) keys() (from, to int64) {
	return storage.TimeKey(m.begins()), storage.TimeKey((m + 1).begins())
}

func (m month) String() string { return m.begins().Format("200601") }

// partition is the SQL that makes a month's partition, unless it is there, or rows of
// the month are in the default partition: then they stay there, and so do later ones.
//
// ATTACH, unlike CREATE TABLE ... PARTITION OF, lets others read and write meanwhile.
func (n namer) partition(m month) string {
	from, to := m.keys()
	return n.fill(fmt.Sprintf(`DO $audit$ BEGIN
IF to_regclass('"{s}"."{t}_p%[1]s"') IS NULL THEN
	CREATE TABLE "{s}"."{t}_p%[1]s" (LIKE "{s}"."{t}_entries" INCLUDING DEFAULTS INCLUDING STORAGE);
	CREATE UNIQUE INDEX ON "{s}"."{t}_p%[1]s" (id);
	ALTER TABLE "{s}"."{t}_entries" ATTACH PARTITION "{s}"."{t}_p%[1]s" FOR VALUES FROM (%[2]d) TO (%[3]d);
END IF;
EXCEPTION WHEN check_violation THEN
	RAISE NOTICE 'entries of month %[1]s are in {t}_default and stay there';
END $audit$;
`, m, from, to))
}

// partitions is what a store knows about the partitions. It is safe for concurrent
// use.
type partitions struct {
	// mu protects the fields below.
	mu sync.Mutex
	// there are the months that have a partition, as of the last look.
	there map[month]bool
	// hopeless are months that could not get one, until then.
	hopeless map[month]time.Time
	// powerless: the role may not make partitions.
	powerless bool
	// foreign are months whose partition belongs to another role, until when it is left alone.
	foreign map[month]time.Time
	// noDropUntil is set when a partition could not be dropped because of a lock.
	noDropUntil time.Time
}

// missing returns those of the months that have no partition and may get one.
func (p *partitions) missing(months []month, now time.Time) []month {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.powerless {
		return nil
	}
	var found []month
	for _, m := range months {
		if near := m >= monthOf(now)-oldestMonths && m <= monthOf(now)+monthsAhead; near && !p.there[m] && now.After(p.hopeless[m]) {
			found = append(found, m)
		}
	}
	return found
}

func (p *partitions) set(there map[month]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.there = there
}

// giveUp notes what became of an attempt. It returns true if that is news.
func (p *partitions) giveUp(months []month, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if code(err) == noPrivilege {
		p.powerless = true
		return true
	}
	if err != nil && code(err) == "" {
		return true // no connection: the next try may have one
	}
	if p.hopeless == nil {
		p.hopeless = map[month]time.Time{}
	}
	for _, m := range months {
		if err != nil || !p.there[m] {
			p.hopeless[m] = time.Now().Add(hopelessFor)
		}
	}
	return err != nil
}

// ensure makes the partitions of those months, as far as it can. What it cannot make
// is a matter for the log: the default partition takes the entries.
func (s *Store) ensure(ctx context.Context, months []month, wait time.Duration) {
	if months = s.parts.missing(months, time.Now()); len(months) == 0 {
		return
	}
	var failed error
	for _, m := range months { // each has its own time, and what is made stays
		if end, ok := ctx.Deadline(); ok && time.Until(end) < 2*makeTimeout && m != months[0] {
			break // the rest has to wait: so do entries
		}
		err := s.makePartition(ctx, m, wait)
		if err == nil {
			err = s.lookForPartitions(ctx)
		}
		if ctx.Err() == nil && s.parts.giveUp([]month{m}, err) {
			failed = errors.Join(failed, err)
		}
	}
	if failed == nil {
		return
	}
	err := failed
	if code(err) == noPrivilege {
		s.log.Warn("the role of the DSN may not make partitions: entries of months without one go to the default partition, and retention deletes them row by row; let somebody who may run this once a month",
			"command", fmt.Sprintf("%s --schema %s --table %s | psql -v ON_ERROR_STOP=1", SchemaCommand, s.schema, s.table))
		return
	}
	s.log.Warn("a partition could not be made, entries go to the default partition until the next try", "months", fmt.Sprint(months), "error", err)
}

func (s *Store) makePartition(ctx context.Context, m month, wait time.Duration) error {
	script := fmt.Sprintf("SET LOCAL lock_timeout = %d; SELECT pg_advisory_xact_lock(%d);", wait.Milliseconds(), s.lock())
	return s.change(ctx, script+s.partition(m), makeTimeout)
}

// lookForPartitions asks the database which months have a partition.
func (s *Store) lookForPartitions(ctx context.Context) error {
	there, err := s.months(ctx)
	if err == nil {
		s.parts.set(there)
	}
	return err
}

// months lists the months that have a partition.
func (s *Store) months(ctx context.Context) (map[month]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rows, err := s.read.Query(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)`,
		s.fill(`"{s}"."{t}_entries"`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	there := map[month]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		if m, ok := s.monthNamed(name); ok {
			there[m] = true
		}
	}
	return there, rows.Err()
}

// monthNamed is the month of a partition's name.
func (n namer) monthNamed(name string) (month, bool) {
	digits, ok := strings.CutPrefix(name, n.table+"_p")
	if !ok || len(digits) != 6 {
		return 0, false
	}
	year, yearErr := strconv.Atoi(digits[:4])
	of, ofErr := strconv.Atoi(digits[4:])
	if yearErr != nil || ofErr != nil || of < 1 || of > 12 {
		return 0, false
	}
	return month(year*12 + of - 1), true
}

// monthsOfNow are those whose partitions are to be there.
func monthsOfNow() []month {
	var all []month
	for m := monthOf(time.Now()); m <= monthOf(time.Now())+monthsAhead; m++ {
		all = append(all, m)
	}
	return all
}

// keepAhead makes partitions ahead of time until ctx ends.
func (s *Store) keepAhead(ctx context.Context) {
	defer close(s.aheadDone)
	tick := time.NewTicker(aheadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.ensure(ctx, monthsOfNow(), ddlTimeout)
		}
	}
}
