package recorder

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// underWay are the exchanges of one Writer that have begun and not ended, in lists, so
// that not all requests wait for one lock. The zero value is ready.
type underWay struct {
	lists [8]underWayList
	// watched is true once somebody has looked at them: an exchange may be looked at after its
	// end from then on, and is not used again.
	watched atomic.Bool
}

type underWayList struct {
	// mu protects the field below, and next and previous of the exchanges.
	mu    sync.Mutex
	first *Exchange
	_     [48]byte // the next list is in another line of the processor's cache
}

// of is the list that an exchange belongs to: ids end at random.
func (u *underWay) of(x *Exchange) *underWayList { return &u.lists[x.id[len(x.id)-1]%8] }

func (u *underWay) add(x *Exchange) {
	l := u.of(x)
	l.mu.Lock()
	defer l.mu.Unlock()
	x.list, x.next = l, l.first
	if x.next != nil {
		x.next.previous = x
	}
	l.first = x
}

// unlist takes the exchange out of its list, if it is in one.
func (x *Exchange) unlist() {
	l := x.list
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.next != nil {
		x.next.previous = x.previous
	}
	if x.previous != nil {
		x.previous.next = x.next
	} else {
		l.first = x.next
	}
	x.next, x.previous = nil, nil
}

func (u *underWay) list() []*Exchange {
	u.watched.Store(true) // first: what has left its list by now is not in ours
	var list []*Exchange
	for i := range u.lists {
		list = u.lists[i].appendTo(list)
	}
	return list
}

func (l *underWayList) appendTo(list []*Exchange) []*Exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	for x := l.first; x != nil; x = x.next {
		list = append(list, x)
	}
	return list
}

// Interrupt writes an entry for each exchange that is under way, for a process that is
// about to end: unknown, and interrupted (threats.md E1.7). An exchange that ends all
// the same writes its outcome under the same id. It also leaves to the background what was
// counted of floods so far. Interrupt may be called again, for what has begun meanwhile.
func (w *Writer) Interrupt() error {
	w.rollUps.deliver()
	for some := range slices.Chunk(w.underWay.list(), maxBatch) {
		if err := w.interrupt(some); err != nil {
			return fmt.Errorf("requests that are under way have no entry: %w", err)
		}
	}
	return nil
}

// UnderWay says whether an exchange has begun that has no complete entry yet.
func (w *Writer) UnderWay() bool {
	return slices.ContainsFunc(w.underWay.list(), func(x *Exchange) bool {
		if !x.mu.TryLock() {
			return true // it is being written
		}
		defer x.mu.Unlock()
		return !x.written
	})
}

// interrupt holds the exchanges up while their entries are written, so that no outcome
// comes between. What is completed at this moment needs no entry.
func (w *Writer) interrupt(some []*Exchange) error {
	var entries []storage.Entry
	var observers []Observer // of the entries
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
		if x.rec.Durability == Async { // its intent may be in the queue, and must not be written after it
			queued := w.queueNext(x, e)
			x.intent, x.cut = x.intent || queued, x.cut || queued
			if queued || x.begun() {
				continue
			}
		}
		cut, entries, observers = append(cut, x), append(entries, e), append(observers, x.rec.Observer)
	}
	if len(entries) > 0 {
		if err := w.Write(storage.Fsync, entries...); err != nil {
			return err
		}
		for i, o := range observers {
			w.tell(o, &entries[i])
		}
	}
	for _, x := range cut {
		x.intent, x.cut = true, true
	}
	return nil
}

// queueNext puts an entry behind the intent of an exchange; false if there is no place but that of
// its outcome, which is worth more. x.mu is held.
func (w *Writer) queueNext(x *Exchange, e storage.Entry) bool {
	i := item{entry: e, observer: x.rec.Observer}
	if w.put(i) {
		return true
	}
	p := w.promise(true)
	return p.w != nil && p.keep(i)
}

// interrupted is the entry of an exchange that may not come to its end; false if it
// needs none. x.mu is held.
func (x *Exchange) interrupted() (storage.Entry, bool) {
	switch record := x.match.Route.Record; {
	case x.written, x.cut:
		return storage.Entry{}, false
	case x.begun():
	case record == profile.Never, record == profile.Failures, record == profile.Checks && x.rec.SkipChecks:
		return storage.Entry{}, false
	}
	e := x.build(storage.Unknown, metadata{DurationMs: since(x.began), Interrupted: true})
	return e, x.hooked(&e)
}
