package recorder

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// writeTimeout bounds how long a request waits for its entry (threats.md
	// E2.3).
	writeTimeout = 3 * time.Second
	// queueCapacity bounds the entries that wait to be written in the background.
	queueCapacity = 10000
	// maxBatch and linger: what the background collects before it commits
	// (performance.md section 1: lingering 5 ms saves a third of the cost).
	maxBatch = 256
	linger   = 5 * time.Millisecond
	// firstBackoff and maxBackoff space the tries on a store that fails.
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// Stats counts what became of entries since a Writer was made.
type Stats struct {
	// Written entries, and WriteErrors: writes that failed, tries included.
	Written, WriteErrors uint64
	// Dropped entries: lost because the queue was full or the process ended.
	Dropped uint64
	// Queued entries wait in the background right now.
	Queued int
}

// Writer writes entries to one store. It is safe for concurrent use.
type Writer struct {
	store storage.Store
	log   *slog.Logger
	queue chan storage.Entry
	quit  chan struct{}
	done  chan struct{}

	closing sync.Once

	written, writeErrors atomic.Uint64

	// mu protects the fields below: what the next gap entry must say.
	mu          sync.Mutex
	dropped     uint64
	gapCount    uint64
	gapFrom     time.Time
	gapTo       time.Time
	lastWarning time.Time
}

// NewWriter starts a Writer on the store. Close ends it; the store stays open.
func NewWriter(store storage.Store, log *slog.Logger) *Writer {
	w := &Writer{
		store: store, log: log, queue: make(chan storage.Entry, queueCapacity),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	go w.run()
	return w
}

// Store returns the store beneath.
func (w *Writer) Store() storage.Store { return w.store }

// Write writes the entries and returns when they are as durable as asked, within
// a few seconds. It does not end early when ctx is cancelled: a client that left
// must not cost the entry.
func (w *Writer) Write(ctx context.Context, d storage.Durability, entries ...storage.Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if d != storage.Fsync {
		ctx = storage.WithDurability(ctx, d)
	}
	return w.write(ctx, entries)
}

func (w *Writer) write(ctx context.Context, entries []storage.Entry) error {
	if err := w.store.Write(ctx, entries...); err != nil {
		w.writeErrors.Add(1)
		w.warn(err)
		return err
	}
	w.written.Add(uint64(len(entries)))
	return nil
}

// warn logs a failing store, at most once a second.
func (w *Writer) warn(err error) {
	w.mu.Lock()
	now := time.Now()
	quiet := now.Sub(w.lastWarning) < time.Second
	if !quiet {
		w.lastWarning = now
	}
	w.mu.Unlock()
	if !quiet {
		w.log.Error("the audit log's store does not take entries", "error", err, "queued", len(w.queue))
	}
}

// Enqueue leaves an entry to the background, which writes entries in order and
// tries again until the store takes them. When the queue is full the entry is
// dropped and counted, and the next entry that is written says how many are
// missing; Enqueue then returns false.
func (w *Writer) Enqueue(e storage.Entry) bool {
	select {
	case <-w.quit:
		w.drop(e.CreatedAt)
		return false
	default:
	}
	select {
	case w.queue <- e:
		return true
	default:
		w.drop(e.CreatedAt)
		return false
	}
}

func (w *Writer) drop(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gapCount == 0 {
		w.gapFrom = at
	}
	w.dropped++
	w.gapCount++
	w.gapTo = at
}

// takeGap returns the entry for what was dropped since the last one, if anything.
func (w *Writer) takeGap() (storage.Entry, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gapCount == 0 {
		return storage.Entry{}, false
	}
	metadata, err := json.Marshal(map[string]any{"count": w.gapCount, "from": w.gapFrom.UTC(), "to": w.gapTo.UTC(), "class": "custom", "source": "recorder"})
	if err != nil {
		metadata = nil // cannot happen: numbers and times
	}
	e := storage.Entry{Action: "audit-log:dropped", Status: storage.Failed, Severity: severity.Critical, Metadata: metadata}
	e.Sanitize()
	w.gapCount = 0
	return e, true
}

// Stats returns the current counts.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Stats{Written: w.written.Load(), WriteErrors: w.writeErrors.Load(), Dropped: w.dropped, Queued: len(w.queue)}
}

// Close writes what is queued, until ctx ends, and stops the background. Entries
// that could not be written are counted, logged and part of the error. It may be
// called again.
func (w *Writer) Close(ctx context.Context) error {
	w.closing.Do(func() { close(w.quit) })
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	if left := len(w.queue); left > 0 {
		return fmt.Errorf("%d audit log entries could not be written before the end", left)
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	for {
		select {
		case e := <-w.queue:
			if !w.deliver(w.gather(e)) {
				return
			}
		case <-w.quit:
			for {
				select {
				case e := <-w.queue:
					if !w.deliver(w.gather(e)) {
						return
					}
				default:
					w.deliver(nil) // a gap, if there is one
					return
				}
			}
		}
	}
}

// gather collects a batch: what is there, and what comes within the linger.
func (w *Writer) gather(first storage.Entry) []storage.Entry {
	batch := append(make([]storage.Entry, 0, 16), first)
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for len(batch) < maxBatch {
		select {
		case e := <-w.queue:
			batch = append(batch, e)
		case <-timer.C:
			return batch
		case <-w.quit:
			return batch
		}
	}
	return batch
}

// deliver writes a batch, however often it takes; false when the Writer was
// closed and the store still fails.
func (w *Writer) deliver(batch []storage.Entry) bool {
	if gap, ok := w.takeGap(); ok {
		batch = append(batch, gap)
	}
	if len(batch) == 0 {
		return true
	}
	for wait := firstBackoff; ; wait = min(2*wait, maxBackoff) {
		ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
		err := w.write(ctx, batch)
		cancel()
		if err == nil {
			return true
		}
		select {
		case <-time.After(wait):
		case <-w.quit:
			if wait > time.Second { // the caller of Close has waited long enough
				for _, e := range batch {
					w.drop(e.CreatedAt)
				}
				w.log.Error("audit log entries are lost: the store failed until the end", "entries", len(batch), "error", err)
				return false
			}
			time.Sleep(wait)
		}
	}
}
