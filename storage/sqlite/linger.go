package sqlite

import "time"

// After a transaction of lingerFrom callers the next ones wait for more, for lingerFor each,
// until one has fewer than lingerUntil: 64 connections through the proxy share 10 without it
// and 20 with it, 8 connections never wait (docs/performance.md). When the second half of the
// time does not bring an eighth more, the next transactions do not wait: one, and each time
// that it goes on like this twice as many, up to longestPause. The first half is no sign:
// writers who only wait for their last transaction come at once, and then nobody.
const (
	lingerFrom   = 16
	lingerUntil  = 8
	lingerFor    = time.Millisecond
	longestPause = 64
)

// linger decides which transactions wait to be fuller. The zero value is ready; only the
// writer's goroutine uses it.
type linger struct {
	full  bool // many callers share each transaction
	pause int  // so many do not wait after one that has waited in vain
	left  int  // of those
}

// shared hears how many callers share a transaction.
func (l *linger) shared(callers int) {
	switch {
	case callers >= lingerFrom:
		l.full = true
	case callers < lingerUntil:
		l.full = false
	}
}

// due says whether a transaction waits.
func (l *linger) due() bool {
	if l.full && l.left > 0 {
		l.left--
		return false
	}
	return l.full
}

// done hears how many callers a transaction had before it waited, and how many came in the
// second half of the time.
func (l *linger) done(before, late int) {
	if 8*late >= before {
		l.pause = 0
	} else {
		l.pause = min(max(1, 2*l.pause), longestPause)
	}
	l.left = l.pause
}
