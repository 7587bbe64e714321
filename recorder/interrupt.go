package recorder

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// underWay are the exchanges of one Writer that have begun and not ended. The zero value
// is ready.
type underWay struct {
	// mu protects the field below.
	mu        sync.Mutex
	exchanges map[*Exchange]struct{}
}

func (u *underWay) add(x *Exchange) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.exchanges == nil {
		u.exchanges = make(map[*Exchange]struct{})
	}
	u.exchanges[x] = struct{}{}
}

func (u *underWay) remove(x *Exchange) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.exchanges, x)
}

func (u *underWay) list() []*Exchange {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]*Exchange, 0, len(u.exchanges))
	for x := range u.exchanges {
		list = append(list, x)
	}
	return list
}

// Interrupt writes an entry for each exchange that is under way, for a process that is
// about to end: unknown, and interrupted (threats.md E1.7). An exchange that ends all
// the same writes its outcome under the same id. Interrupt may be called again, for what
// has begun meanwhile.
func (w *Writer) Interrupt(ctx context.Context) error {
	for some := range slices.Chunk(w.underWay.list(), maxBatch) {
		if err := w.interrupt(ctx, some); err != nil {
			return fmt.Errorf("requests that are under way have no entry: %w", err)
		}
	}
	return nil
}

// interrupt holds the exchanges up while their entries are written, so that no outcome
// comes between. What is completed at this moment needs no entry.
func (w *Writer) interrupt(ctx context.Context, some []*Exchange) error {
	var entries []storage.Entry
	var cut []*Exchange
	for _, x := range some {
		if !x.mu.TryLock() {
			continue
		}
		defer x.mu.Unlock()
		e, ok := x.interrupted()
		if !ok {
			continue
		}
		cut = append(cut, x)
		if x.rec.Durability != Async || !w.put(item{entry: e}) { // its intent may be in the queue
			entries = append(entries, e)
		}
	}
	if len(entries) > 0 {
		if err := w.Write(ctx, storage.Fsync, entries...); err != nil {
			return err
		}
	}
	for _, x := range cut {
		x.intent, x.cut = true, true
	}
	return nil
}

// interrupted is the entry of an exchange that may not come to its end; false if it
// needs none. x.mu is held.
func (x *Exchange) interrupted() (storage.Entry, bool) {
	switch record := x.match.Route.Record; {
	case x.written, x.cut:
		return storage.Entry{}, false
	case x.intent:
	case record == profile.Never, record == profile.Failures, record == profile.Checks && x.rec.SkipChecks:
		return storage.Entry{}, false
	}
	e := x.build(storage.Unknown, metadata{DurationMs: since(x.began), Interrupted: true})
	return e, x.hooked(&e) || x.intent
}
