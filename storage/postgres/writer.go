package postgres

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// queueLength bounds how many callers may wait in the queue; more wait in
	// submit, until their context ends.
	queueLength = 1024
	// maxBatch bounds the entries of one transaction: performance.md section 2
	// finds no gain beyond 256 to 512.
	maxBatch = 512
)

// What has become of a job.
const (
	queued int32 = iota
	taken
	abandoned
)

// job is one caller's wish: entries to write, or something else to do in a
// transaction of its own. done receives at most one value.
type job struct {
	entries    []storage.Entry
	do         func(context.Context, *tx) error
	durability storage.Durability
	// state is queued until the writer takes the job or the caller gives up: one of
	// them, never both.
	state atomic.Int32
	done  chan error
}

// writer is the goroutine that writes for one store.
//
// Callers put jobs into queue; run takes all that have gathered and commits them in
// one transaction, so that many waiting callers share one commit. What is queued
// first is written first. See the package's documentation for why that, and one
// transaction at a time, is needed.
type writer struct {
	store   *Store
	queue   chan *job
	quit    chan struct{} // closed by close: no more jobs
	stopped chan struct{} // closed by run when the queue is empty and done
	// next was taken from the queue and did not fit into the last batch. Only run
	// uses it.
	next *job
}

func newWriter(s *Store) *writer {
	w := &writer{store: s, queue: make(chan *job, queueLength), quit: make(chan struct{}), stopped: make(chan struct{})}
	go w.run()
	return w
}

// submit queues the job and waits for its transaction. When ctx ends while the job is
// queued it is not done. When ctx ends later it may still be: writing is idempotent,
// so that a retry does no harm.
func (w *writer) submit(ctx context.Context, j *job) error {
	j.done = make(chan error, 1)
	select {
	case <-w.quit:
		return storage.ErrClosed
	default:
	}
	select {
	case w.queue <- j:
		return w.await(ctx, j)
	case <-w.quit:
		return storage.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log's writer: %w", ctx.Err())
	}
}

// await waits for the answer to a job that was queued.
func (w *writer) await(ctx context.Context, j *job) error {
	select {
	case err := <-j.done:
		return err
	case <-w.stopped:
		// run has ended; it answered every job that it saw, so an answer is
		// either there or the job came too late to be seen.
		select {
		case err := <-j.done:
			return err
		default:
			return storage.ErrClosed
		}
	case <-ctx.Done():
		if j.state.CompareAndSwap(queued, abandoned) {
			return fmt.Errorf("waiting for the audit log's writer: %w", ctx.Err())
		}
		return fmt.Errorf("waiting for the audit log's transaction: %w", ctx.Err())
	}
}

// close stops run after the queue is empty.
func (w *writer) close() {
	close(w.quit)
	<-w.stopped
}

func (w *writer) run() {
	defer close(w.stopped)
	for {
		j, ok := w.take()
		if !ok {
			return
		}
		if j.state.CompareAndSwap(queued, taken) {
			w.commit(w.gather(j))
		}
	}
}

// take waits for a job; it returns false when the writer is closed and nothing is
// left.
func (w *writer) take() (*job, bool) {
	if j := w.next; j != nil {
		w.next = nil
		return j, true
	}
	select {
	case j := <-w.queue:
		return j, true
	case <-w.quit:
	}
	select {
	case j := <-w.queue:
		return j, true
	default:
		return nil, false
	}
}

// gather adds to the first job what else is queued right now, up to a job that needs
// a transaction of its own. Whoever can run goes first: they may be callers with more.
func (w *writer) gather(first *job) []*job {
	runtime.Gosched()
	batch, n := []*job{first}, len(first.entries)
	for first.do == nil && n < maxBatch {
		select {
		case j := <-w.queue:
			if j.do != nil {
				w.next = j
				return batch
			}
			if j.state.CompareAndSwap(queued, taken) {
				batch, n = append(batch, j), n+len(j.entries)
			}
		default:
			return batch
		}
	}
	return batch
}

// commit answers every job of the batch. If the server refuses something in it, each
// job gets a transaction of its own, so that a bad one cannot take others with it.
func (w *writer) commit(batch []*job) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := w.attempt(ctx, batch)
	if len(batch) == 1 || !refused(err) {
		for _, j := range batch {
			j.done <- err
		}
		return
	}
	for _, j := range batch {
		j.done <- w.attempt(ctx, []*job{j})
	}
}

// attempt tries until it works, or the server refuses, or ctx ends. A commit in doubt
// is simply tried again: the upsert finds what is there.
func (w *writer) attempt(ctx context.Context, batch []*job) error {
	if batch[0].do != nil {
		return w.store.again(ctx, callTimeout, func() error { return w.transact(ctx, batch[0].durability, batch[0].do) })
	}
	d, entries := merge(batch)
	thorough := false
	err := w.store.again(ctx, callTimeout, func() error {
		rows := newRows(entries)
		w.store.ensure(ctx, monthsOf(rows), shortTimeout)
		err := w.transact(ctx, d, func(ctx context.Context, t *tx) error { return w.store.place(ctx, t, rows, thorough) })
		thorough = thorough || code(err) == uniqueViolation // an id has another place than its entry says
		return err
	})
	if err == nil {
		w.store.wrote(entries)
	}
	return err
}

// merge joins the entries of a batch, in order, under the strongest durability that
// any of them asked for.
func merge(batch []*job) (storage.Durability, []storage.Entry) {
	d, entries := storage.Commit, slices.Clip(batch[0].entries)
	for i, j := range batch {
		d = min(d, j.durability)
		if i > 0 {
			entries = append(entries, j.entries...)
		}
	}
	return d, entries
}

// transact runs f in a transaction. COMMIT is sent only after f has seen the answers
// to all that it sent.
func (w *writer) transact(ctx context.Context, d storage.Durability, f func(context.Context, *tx) error) error {
	return w.store.with(ctx, w.store.write, func(c *pgxpool.Conn) error {
		t := begin(c, settings(d))
		if err := f(ctx, t); err != nil {
			return err
		}
		return t.commit(ctx)
	})
}
