package recorder

import (
	"context"
	"log/slog"
	"testing"
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
	e := storage.Entry{Action: rolledUpAction + "unknown", Status: storage.Failed}
	e.Sanitize()
	w.rollUps.mu.Lock() // as the sweep does
	closed := make(chan error)
	go func() { closed <- w.Close(context.Background()) }()
	time.Sleep(50 * time.Millisecond) // until the background waits for the lock; if it is slower nothing can go wrong
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

// TestWhatIsSevereWaitsForAPlaceInTheQueue: a full queue drops what is harmless at once,
// and what is severe only after a while.
func TestWhatIsSevereWaitsForAPlaceInTheQueue(t *testing.T) {
	store := stuck{memory.New(0), make(chan struct{}), make(chan struct{})}
	w := NewWriter(store, slog.New(slog.DiscardHandler))
	add := func(level severity.Level) bool {
		e := storage.Entry{Action: "x", Severity: level}
		e.Sanitize()
		return w.Enqueue(e, nil)
	}
	queued := 0
	add(severity.Low)
	<-store.waiting                                        // from here on nothing leaves the queue
	for add(severity.Low) || len(w.queue) < cap(w.queue) { // until it is full
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
