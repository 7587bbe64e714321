package storage

import (
	"context"
	"slices"
	"sync"
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
	Watch(ctx context.Context, woken func(late Spans))
}

// LateAfter is how old an entry is that a Watcher calls late, by the clock of who wrote it: it
// comes out of a journal.
const LateAfter = time.Minute

// Span is from the oldest of some entries to the newest.
type Span struct{ From, To time.Time }

// Spans are of entries of several times. The zero value is of none.
type Spans []Span

const (
	// maxSpans bounds them; more become one.
	maxSpans = 8
	// nearSpan is how near two are that become one.
	nearSpan = 10 * time.Second
)

// Add puts a span to the others, which it may change. What lies between those that become one is
// in it.
func (s Spans) Add(more Span) Spans {
	for i := range s {
		if more.From.After(s[i].To.Add(nearSpan)) || more.To.Before(s[i].From.Add(-nearSpan)) {
			continue
		}
		more = s[i].with(more)
		return slices.Delete(s, i, i+1).Add(more) // it may be near another one now
	}
	if s = append(s, more); len(s) <= maxSpans {
		return s
	}
	for _, other := range s {
		more = more.with(other)
	}
	return append(s[:0], more)
}

// with is the span of both and what is between them.
func (s Span) with(other Span) Span {
	if other.From.Before(s.From) {
		s.From = other.From
	}
	if other.To.After(s.To) {
		s.To = other.To
	}
	return s
}

// Late collects spans until somebody takes them. The zero value is ready; it is safe for
// concurrent use.
type Late struct {
	// mu protects the field below.
	mu    sync.Mutex
	spans Spans
}

// Add puts spans to those that wait.
func (l *Late) Add(spans ...Span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range spans {
		l.spans = l.spans.Add(s)
	}
}

// Take returns those that wait, which are the caller's then.
func (l *Late) Take() Spans {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.spans = nil }()
	return l.spans
}
