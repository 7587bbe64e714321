package retention

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// slack is how far the clock may be off before the guard takes notice.
	slack = 24 * time.Hour
	// startSlack is how old the newest entry may be at a start.
	startSlack = 7 * 24 * time.Hour
	// holdFor is how long nothing is deleted after the clock looked wrong: time for
	// somebody, or NTP, to mend it.
	holdFor = 24 * time.Hour
)

// ErrClock wraps why nothing was deleted: the machine's clock looks wrong.
var ErrClock = errors.New("nothing was deleted, the clock looks wrong")

// guard decides whether the clock can be trusted with deleting. It knows four
// signs of a wrong one:
//
//   - The store's own clock (that of a database server, see storage.Clock) is more than a day
//     away: refused for as long as that is so.
//   - An entry is more than a day in the future: the clock is behind, or was ahead once.
//     Refused for a day. Not for longer: a clock that is behind deletes less than it should,
//     and such an entry stays for as many years as the clock was wrong.
//   - When the store was opened, even its newest entry was more than a week old, or older
//     than what is to be kept: refused for a day. (In a log that nobody has written to for
//     so long, entries go a day later, or with caddy audit-log prune.)
//   - Since the last look the clock moved by a day more or less than time passed:
//     refused for a day.
//
// Time that passes is measured with the monotonic clock, which nobody can set.
type guard struct {
	// newest entry's time when the store was opened, before this process wrote
	// any, zero without entries, of those that are not of the future; and what the clock said
	// then.
	newest, opened time.Time
	// ahead is the latest time of the future that was seen in an entry.
	ahead time.Time
	// looked is false before the first check.
	looked bool
	// wall and passed are the clock and the monotonic clock at the last look.
	wall   time.Time
	passed time.Time
	// until is the end of a hold by the monotonic clock, why its reason.
	until time.Time
	why   string
}

// newGuard returns the guard of a store that is opened now.
func newGuard(now, newest time.Time) guard {
	return guard{newest: newest, opened: now.Round(0), wall: now.Round(0), passed: time.Now()}
}

// check looks at the clock. now is what it says, newest the newest entry
// (the zero one without any), theirs what the store's own clock says (zero without one), keep
// how much is to be kept. An error means that nothing may be deleted.
func (g *guard) check(now time.Time, newest *storage.Entry, theirs time.Time, keep time.Duration) error {
	passed, first := time.Now(), !g.looked
	drift := now.Round(0).Sub(g.wall) - passed.Sub(g.passed)
	g.wall, g.passed, g.looked = now.Round(0), passed, true
	switch {
	case first && !g.newest.IsZero() && g.newest.Before(g.opened.Add(-min(keep, startSlack))):
		g.hold(fmt.Sprintf("at the start even the newest entry, of %s, was older than %s", g.newest.Format(time.RFC3339), min(keep, startSlack)))
	case drift.Abs() > slack:
		g.hold(fmt.Sprintf("it moved by %s since the last look", drift.Round(time.Second)))
	}
	if at := newest.CreatedAt; at.After(now.Add(slack)) && at.After(g.ahead) {
		g.ahead = at
		g.hold(fmt.Sprintf("it says %s, and the newest entry, %s, is of %s", now.UTC().Format(time.RFC3339), newest.ID, at.Format(time.RFC3339)))
	}
	if off := now.Sub(theirs); !theirs.IsZero() && off.Abs() > slack {
		return fmt.Errorf("%w: it says %s, and the database server's %s", ErrClock, now.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339))
	}
	if left := g.until.Sub(passed); left > 0 {
		return fmt.Errorf("%w: %s; unless it is mended, old entries go in %s (caddy audit-log prune does not wait)", ErrClock, g.why, left.Round(time.Minute))
	}
	return nil
}

func (g *guard) hold(why string) {
	g.until, g.why = g.passed.Add(holdFor), why
}
