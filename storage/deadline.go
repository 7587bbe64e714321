package storage

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// slack is which part of their time contexts of a Deadlines may end earlier.
const slack = 16

// Deadlines hands out contexts that end after a while, for writes of which there are
// thousands a second: those who ask within a sixteenth of that while get the same one, and
// a timer and a place in the parent's list are paid for once. It is safe for concurrent
// use.
type Deadlines struct {
	parent  context.Context
	most    time.Duration
	current [Commit + 1]atomic.Pointer[moment] // of each Durability
	// making is held while one of current is replaced.
	making sync.Mutex
}

// moment is a context that is handed out for a moment.
type moment struct {
	context.Context
	until time.Time
}

// NewDeadlines returns a Deadlines whose contexts end with parent, or after most, or up to a
// sixteenth of that earlier.
func NewDeadlines(parent context.Context, most time.Duration) *Deadlines {
	return &Deadlines{parent: parent, most: most}
}

// Context returns one that nothing ends but its deadline and the parent, and that asks for a
// durability as WithDurability does.
func (d *Deadlines) Context(of Durability) context.Context {
	current := &d.current[of]
	if m := current.Load(); m.is(time.Now()) {
		return m
	}
	d.making.Lock()
	defer d.making.Unlock()
	now := time.Now()
	if m := current.Load(); m.is(now) {
		return m
	}
	ctx, cancel := context.WithDeadline(WithDurability(d.parent, of), now.Add(d.most))
	context.AfterFunc(ctx, cancel)
	m := &moment{ctx, now.Add(d.most / slack)}
	current.Store(m)
	return m
}

// is says whether it may be handed out; nil may not.
func (m *moment) is(now time.Time) bool { return m != nil && now.Before(m.until) }

// OnlyDeadline says whether a context is one that a Deadlines has handed out: nobody ends it
// for a single call.
func OnlyDeadline(ctx context.Context) bool {
	_, ok := ctx.(*moment)
	return ok
}
