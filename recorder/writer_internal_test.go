package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// TestARollUpWhoseMinuteEndsAsTheWriterClosesIsWritten: the sweep has seen that the
// Writer is open, and puts its roll-up when the queue was found empty already.
func TestARollUpWhoseMinuteEndsAsTheWriterClosesIsWritten(t *testing.T) {
	store := memory.New(0)
	w := NewWriter(store, slog.New(slog.DiscardHandler))
	e := storage.Entry{Action: storage.RolledUp + "unknown", Status: storage.Failed}
	e.Sanitize()
	w.rollUps.mu.Lock() // as the sweep does
	closed := make(chan error)
	go func() { closed <- w.Close(context.Background()) }()
	time.Sleep(50 * time.Millisecond) // until the background waits for the lock; if it is slower nothing can go wrong
	w.taken.Add(1)
	w.queue <- item{entry: e}
	w.rollUps.mu.Unlock()
	if err := <-closed; err != nil || len(store.Entries()) != 1 {
		t.Errorf("%v, %d entries, want one", err, len(store.Entries()))
	}
}

// stuck takes no entry until it is let go, and says that somebody waits.
type stuck struct {
	storage.Store
	free    chan struct{}
	waiting chan struct{}
}

func (s stuck) Write(ctx context.Context, entries ...storage.Entry) error {
	select {
	case s.waiting <- struct{}{}:
	case <-s.free:
	}
	<-s.free
	return s.Store.Write(ctx, entries...)
}

// stuckWriter is a Writer on a stuck store, and what adds an entry to its queue.
func stuckWriter() (store stuck, w *Writer, add func(severity.Level) bool) {
	store = stuck{memory.New(0), make(chan struct{}), make(chan struct{})}
	w = NewWriter(store, slog.New(slog.DiscardHandler))
	return store, w, func(level severity.Level) bool {
		e := storage.Entry{Action: "x", Severity: level}
		e.Sanitize()
		return w.Enqueue(storage.Commit, e, nil)
	}
}

// TestWhatIsSevereWaitsForAPlaceInTheQueue: a full queue drops what is harmless at once,
// and what is severe only after a while.
func TestWhatIsSevereWaitsForAPlaceInTheQueue(t *testing.T) {
	store, w, add := stuckWriter()
	queued := 0
	add(severity.Low)
	<-store.waiting                                           // from here on nothing leaves the queue
	for add(severity.Low) || w.taken.Load() < queueCapacity { // until it is full
		queued = len(w.queue)
	}
	if began := time.Now(); add(severity.Critical) || time.Since(began) < severePatience {
		t.Errorf("with %d in the queue a critical entry was given up after %v", queued, time.Since(began))
	}
	dropped := w.Stats().Dropped
	waited := make(chan bool)
	go func() { waited <- add(severity.High) }()
	time.Sleep(20 * time.Millisecond)
	close(store.free)
	if !<-waited || w.Stats().Dropped != dropped {
		t.Error("an entry of severity high was dropped though there was a place in time")
	}
	if err := w.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestWhatIsSevereGoesFirst: when the store takes a batch of a full queue, whoever is severe and waits
// has a place, however many others come at that moment.
func TestWhatIsSevereGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, w, add := stuckWriter()
		add(severity.Low)
		<-store.waiting
		for add(severity.Low) { // until it is full
		}
		const severe = maxBatch - 6
		waited := make(chan bool, severe)
		for range severe {
			go func() { waited <- add(severity.Critical) }()
		}
		synctest.Wait()
		store.free <- struct{}{} // one write
		<-store.waiting
		for range 1000 {
			add(severity.Low)
		}
		for range severe {
			if !<-waited {
				t.Error("a critical entry was dropped, and others had places")
			}
		}
		close(store.free)
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// noting notes how durable each batch was to be. While fail is true it takes none.
type noting struct {
	storage.Store
	asked []storage.Durability
	fail  bool
}

func (s *noting) Write(ctx context.Context, entries ...storage.Entry) error {
	if s.asked = append(s.asked, storage.DurabilityOf(ctx)); s.fail {
		return errors.New("not now")
	}
	return s.Store.Write(ctx, entries...)
}

// TestWhatTheBackgroundWritesIsAsDurableAsItsMostDemandingEntry: async costs no fsync, but
// for what is severe, for who wanted one, and at the end.
func TestWhatTheBackgroundWritesIsAsDurableAsItsMostDemandingEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &noting{Store: memory.New(0)}
		w := NewWriter(store, slog.New(slog.DiscardHandler))
		add := func(d storage.Durability, level severity.Level) {
			e := storage.Entry{Action: "x", Severity: level}
			e.Sanitize()
			w.Enqueue(d, e, nil)
		}
		asked := func() []storage.Durability {
			time.Sleep(2 * linger)
			synctest.Wait()
			defer func() { store.asked = nil }()
			return store.asked
		}
		for _, c := range []struct {
			name string
			d    storage.Durability
			with severity.Level
			want storage.Durability
		}{
			{"async", storage.Commit, severity.Medium, storage.Commit},
			{"async, severe", storage.Commit, severity.High, storage.Fsync},
			{"a store that had failed", storage.Fsync, severity.Low, storage.Fsync},
		} {
			add(storage.Commit, severity.Low)
			add(c.d, c.with)
			add(storage.Commit, severity.Low)
			if got := asked(); len(got) != 1 || got[0] != c.want {
				t.Errorf("%s: %v", c.name, got)
			}
		}
		store.fail = true
		add(storage.Commit, severity.Low)
		tries := asked()
		store.fail = false
		err := w.Close(t.Context())
		if slices.Contains(tries, storage.Fsync) || err != nil || !slices.Equal(store.asked, []storage.Durability{storage.Fsync}) {
			t.Errorf("at the end: %v after %v, %v", store.asked, tries, err)
		}
	})
}

// TestManyEntriesEndTheLinger: a burst is written before the queue is full.
func TestManyEntriesEndTheLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(0)
		w := NewWriter(store, slog.New(slog.DiscardHandler))
		began := time.Now()
		for i := range manyQueued + 1 {
			e := storage.Entry{Action: "x"}
			e.Sanitize()
			w.Enqueue(storage.Commit, e, nil)
			if i <= manyQueued/2 { // it is awake with each
				synctest.Wait()
			}
			if i == manyQueued/2 && len(store.Entries()) != 0 {
				t.Error("it did not linger")
			}
		}
		synctest.Wait()
		if written := len(store.Entries()); time.Since(began) != 0 || written < manyQueued-maxBatch {
			t.Errorf("%d of %d written after %v", written, manyQueued+1, time.Since(began))
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// choosy takes every entry but those with an action, and nothing while it is down.
type choosy struct {
	*memory.Store
	never string
	down  bool
	calls int
}

func (s *choosy) Write(ctx context.Context, entries ...storage.Entry) error {
	s.calls++
	switch {
	case s.down:
		return errors.New("not now")
	case slices.ContainsFunc(entries, func(e storage.Entry) bool { return e.Action == s.never }):
		return fmt.Errorf("%w: never", storage.ErrRejected)
	}
	return s.Store.Write(ctx, entries...)
}

// listener counts what it hears of.
type listener struct {
	Observer
	written, failed int
}

func (l *listener) EntryWritten(storage.Entry)             { l.written++ }
func (l *listener) WriteFailed(_ error, e []storage.Entry) { l.failed += len(e) }

func entryOf(action string) storage.Entry {
	e := storage.Entry{Action: action}
	e.Sanitize()
	return e
}

// TestAnEntryThatIsNeverTakenCostsNoOther: not the batch that it is in, and nothing after it.
func TestAnEntryThatIsNeverTakenCostsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, hears := &choosy{Store: memory.New(0), never: "bad"}, new(listener)
		w := NewWriter(store, slog.New(slog.DiscardHandler))
		for i := range 100 {
			action := "good"
			if i == 50 {
				action = "bad"
			}
			w.Enqueue(storage.Commit, entryOf(action), hears)
		}
		time.Sleep(2 * linger)
		synctest.Wait()
		w.Enqueue(storage.Commit, entryOf("later"), hears)
		time.Sleep(2 * linger)
		synctest.Wait()
		// The later one comes with what says that one is missing.
		if s := w.Stats(); len(store.Entries()) != 101 || hears.written != 100 || hears.failed != 1 || s.Dropped != 1 || s.Queued != 0 {
			t.Errorf("%d entries, heard of %+v, %+v", len(store.Entries()), hears, s)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestACloseOnAStoreThatFailsSaysWhatIsLost, all of it, and leaves nothing that goes on.
func TestACloseOnAStoreThatFailsSaysWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		store, hears := &choosy{Store: memory.New(0), down: true}, new(listener)
		w := NewWriter(store, slog.New(slog.DiscardHandler))
		const n = maxBatch + 100
		for range n {
			w.Enqueue(storage.Commit, entryOf("x"), hears)
		}
		err := w.Close(t.Context())
		if s := w.Stats(); err == nil || !strings.Contains(err.Error(), fmt.Sprint(n, " audit log entries")) || s.Dropped != n || hears.failed != n || s.Queued != 0 {
			t.Errorf("%v, %+v, heard of %+v", err, s, hears)
		}
		calls := store.calls
		time.Sleep(time.Hour)
		if store.calls != calls {
			t.Error("it goes on trying")
		}
		if w.rollUps.closed != true {
			t.Error("what is counted is still swept")
		}
	})
}
