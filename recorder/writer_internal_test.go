package recorder

import (
	"context"
	"log/slog"
	"testing"
	"time"

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
