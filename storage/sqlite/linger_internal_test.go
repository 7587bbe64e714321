package sqlite

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWaitingForMoreStopsWhereNobodyComes: transactions wait only while many callers share
// them. While that brings more callers it goes on; when it does not, ever more transactions do
// not wait, and one tries again.
func TestWaitingForMoreStopsWhereNobodyComes(t *testing.T) {
	var l linger
	for _, callers := range []int{1, lingerUntil, lingerFrom - 1} {
		if l.shared(callers); l.due() {
			t.Fatalf("after a transaction of %d the next one waits", callers)
		}
	}
	l.shared(lingerFrom)
	if l.shared(lingerUntil); !l.due() {
		t.Fatal("transactions are full, and nobody waits")
	}
	l.done(8, 1)
	for _, between := range []int{0, 1, 2, 4, 8, 16, 32, 64, 64, 64} {
		for n := range between {
			if l.due() {
				t.Fatalf("after %d of %d transactions one waits", n, between)
			}
		}
		if !l.due() {
			t.Fatalf("after %d transactions nobody tries again", between)
		}
		l.done(8, 0)
	}
	for !l.due() {
	}
	l.done(1, 1)
	for range 10 {
		if !l.due() {
			t.Fatal("it was worth it, and nobody waits")
		}
		l.done(8, 1)
	}
	if l.shared(lingerUntil - 1); l.due() {
		t.Fatal("transactions are not full any more, and one waits")
	}
}

// TestWhoComesAtOnceIsNotWorthWaitingFor: writers who only wait for their last transaction are
// all there soon after it; the rest of the time would be waited in vain each time.
func TestWhoComesAtOnceIsNotWorthWaitingFor(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration // from one caller to the next
		again bool          // the next transaction waits, too
	}{
		"at once":      {lingerFor / 100, false},
		"all the time": {lingerFor / 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{queue: make(chan *job, queueLength)}
				w.linger.shared(lingerFrom)
				go func() {
					for range lingerFrom {
						time.Sleep(c.after)
						w.queue <- &job{queued: time.Now()}
					}
				}()
				if got := len(w.gather(new(job))); got != 1+lingerFrom {
					t.Fatalf("%d share the transaction, want %d", got, 1+lingerFrom)
				}
				if again := w.linger.due(); again != c.again {
					t.Errorf("the next transaction waits: %t, want %t", again, c.again)
				}
			})
		})
	}
}
