package storage

import (
	"context"
	"time"
)

// Sizer is a Store that knows how much room it takes.
type Sizer interface {
	// Size returns the bytes on disk, the write-ahead log included. It is cheap
	// enough to be asked at every scrape of the metrics.
	Size(ctx context.Context) (int64, error)
}

// Counter is a Store that can say what Prune would delete.
type Counter interface {
	// CountBefore returns how many entries were created before the given time.
	CountBefore(ctx context.Context, before time.Time) (int, error)
}

// Compactor is a Store that keeps more than its entries need, such as texts that
// many entries share.
type Compactor interface {
	// Compact drops what no entry uses any more and returns how much that was. It
	// may read the whole store and take minutes, and must not make writers wait.
	Compact(ctx context.Context) (int, error)
}

// Clock is a Store with a clock that is not this machine's, such as a database server's.
type Clock interface {
	// Time returns what it says.
	Time(ctx context.Context) (time.Time, error)
}

// Watcher is a Store that other processes write to, and that hears of it.
type Watcher interface {
	// Watch calls woken soon after anybody has written to the log, until ctx ends. It is a
	// hint: a call may be missing, and may come for nothing. late is of which time entries
	// were written that are more than LateAfter old. woken must not block.
	Watch(ctx context.Context, woken func(late Span))
}

// LateAfter is how old an entry is that a Watcher calls late: it comes out of a journal, or from
// a clock that is behind.
const LateAfter = time.Minute

// Span is from the oldest of some entries to the newest. The zero value is of none.
type Span struct{ From, To time.Time }

// Empty says whether it is of no entry.
func (s Span) Empty() bool { return s.From.IsZero() }

// With is the span of what is in one of two, and what is between them.
func (s Span) With(other Span) Span {
	switch {
	case s.Empty():
		return other
	case other.Empty():
		return s
	}
	if other.From.Before(s.From) {
		s.From = other.From
	}
	if other.To.After(s.To) {
		s.To = other.To
	}
	return s
}
