package recorder

import (
	"sync/atomic"
	"time"
)

// place is one in the queue of a Writer, which is kept for something that must not be dropped. The
// zero value is none.
type place struct {
	w *Writer
	// owed is true for one of the reserve, false for one of all.
	owed bool
}

// promise keeps a place for the outcome of an intent: of the reserve, or any other while less than
// half of them are taken, so that requests that do not end cannot take all. What fails open may
// have half of the reserve. It is none when so many are taken; otherwise it is to be kept, or freed.
func (w *Writer) promise(closed bool) place {
	most := int64(reserve)
	if !closed {
		most /= 2
	}
	switch {
	case take(&w.owed, most):
		return place{w, true}
	case closed && take(&w.taken, queueCapacity/2):
		return place{w, false}
	}
	return place{}
}

// free gives the place back, if it is one.
func (p place) free() {
	switch {
	case p.w == nil:
	case p.owed:
		p.w.owed.Add(-1)
	default:
		p.w.taken.Add(-1)
		p.w.tellRoom()
	}
}

// keep puts an entry into the place, or into any other, so that the reserve is for who has none. It
// is false when the Writer was closed.
func (p place) keep(i item) bool {
	i.harden()
	switch {
	case p.owed && p.w.put(i):
		p.free()
		return true
	case p.w.closed():
		p.free()
		return false
	}
	i.owed = p.owed
	p.w.queue <- i // it has a place
	return true
}

// put puts an item into the queue, if there is a place that nobody severe waits for.
func (w *Writer) put(i item) bool {
	if w.closed() {
		return false
	}
	if w.waiting.Load() > 0 || !take(&w.taken, queueCapacity) {
		if i.unlink == "" || !take(&w.owed, reserve/2) { // to forget somebody is worth a place of the reserve
			return false
		}
		i.owed = true
	}
	w.send(i)
	return true
}

// putSoon is put for what is severe: it waits a little for its place, before all others.
func (w *Writer) putSoon(i item) bool {
	if w.closed() {
		return false
	}
	if !take(&w.taken, queueCapacity) && !w.wait() {
		return false
	}
	w.send(i)
	return true
}

// wait takes a place as soon as there is one, within severePatience.
func (w *Writer) wait() bool {
	w.waiting.Add(1)
	defer w.waiting.Add(-1)
	timer, tick := time.NewTimer(severePatience), time.NewTicker(severePatience/10)
	defer timer.Stop()
	defer tick.Stop()
	for !take(&w.taken, queueCapacity) {
		select {
		case <-w.room:
		case <-tick.C: // room has one value for all who wait
		case <-w.quit:
			return false
		case <-timer.C:
			return false
		}
	}
	w.tellRoom() // there may be more
	return true
}

// send puts an item with a place into the queue.
func (w *Writer) send(i item) {
	w.queue <- i
	if len(w.queue) >= manyQueued {
		select {
		case w.many <- struct{}{}:
		default:
		}
	}
}

// leave gives back the place of an item that has left the queue.
func (w *Writer) leave(i *item) { place{w, i.owed}.free() }

// tellRoom tells whoever waits that there may be a place.
func (w *Writer) tellRoom() {
	if w.waiting.Load() == 0 {
		return
	}
	select {
	case w.room <- struct{}{}:
	default:
	}
}

// take takes a place, unless so many are taken.
func take(taken *atomic.Int64, most int64) bool {
	if taken.Add(1) > most {
		taken.Add(-1)
		return false
	}
	return true
}
