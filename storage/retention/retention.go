package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// MinKeep is the shortest time that entries can be kept: a shorter one is a typing
// error.
const MinKeep = time.Hour

const (
	// firstAfter and firstWithin: the first run comes at a random moment between
	// them, so that a start is not slowed down, and several Caddys on one database
	// do not run at once.
	firstAfter  = 2 * time.Second
	firstWithin = 10 * time.Second
	// longestInterval between runs; a tenth of what is kept, if that is less.
	longestInterval = time.Hour
	// compactEvery is how often what no entry uses any more is looked for.
	compactEvery = 24 * time.Hour
)

// ErrCannotDelete says that the store is no storage.Pruner.
var ErrCannotDelete = errors.New("this audit log store cannot delete entries (it does not implement storage.Pruner): use store sqlite, or remove retention")

// Status is what a Runner does. Times are zero for never.
type Status struct {
	// Keep is how long entries are kept; 0 for ever.
	Keep time.Duration
	// LastRun began, deleted LastDeleted entries, and ended with Err.
	LastRun     time.Time
	LastDeleted int
	Err         error
	// NextRun is when the next one is due.
	NextRun time.Time
	// Deleted entries in all, by hand or not, since the store was opened.
	Deleted uint64
}

// Options of a Runner.
type Options struct {
	// Store to delete from.
	Store storage.Store
	// Logger gets one line for each run.
	Logger *slog.Logger
	// Now is the machine's clock; nil means time.Now.
	Now func() time.Time
	// Tell writes an entry that says what was deleted, again with the same id when there is more
	// to say; nil leaves none.
	Tell func(storage.Entry)
}

// Runner deletes old entries of one store. It is safe for concurrent use.
type Runner struct {
	Options
	pruner  storage.Pruner // nil: the store cannot delete
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}
	changed chan struct{} // Keep has a new value
	turn    chan struct{} // held by whoever deletes: one at a time

	// Only the goroutine of loop uses these.
	guard     guard
	compacted time.Time
	told      day

	// mu protects the fields below.
	mu     sync.Mutex
	status Status
	// stopRun ends the run that is under way; nil while none is.
	stopRun context.CancelFunc
}

// New returns a Runner that keeps everything until Keep says otherwise. It looks at
// the newest entry, so call it before entries are written. Close ends it.
func New(ctx context.Context, o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Runner{Options: o, done: make(chan struct{}), changed: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	r.pruner, _ = storage.As[storage.Pruner](o.Store)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	now := r.Now()
	newest, _ := r.newestUntil(ctx, now.Add(slack)) // not known: the guard has one sign less
	r.guard = newGuard(now, newest)
	go r.loop()
	return r
}

// Keep sets how long entries are kept; 0 means for ever. A change takes effect
// within seconds: a run that is under way ends, so that a value that was a mistake
// deletes no more.
func (r *Runner) Keep(keep time.Duration) error {
	if keep != 0 && r.pruner == nil {
		return ErrCannotDelete
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if keep == r.status.Keep {
		return nil
	}
	r.status.Keep, r.status.NextRun = keep, time.Time{}
	if r.stopRun != nil {
		r.stopRun()
	}
	if keep > 0 {
		r.status.NextRun = time.Now().Add(firstAfter + rand.N(firstWithin-firstAfter))
	}
	select {
	case r.changed <- struct{}{}:
	default: // loop has not seen the last change yet, and will see this one too
	}
	return nil
}

// Status returns what the Runner does.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Stop makes the Runner stop soon, without waiting for it.
func (r *Runner) Stop() { r.cancel() }

// Close stops the Runner. It must come before the store is closed.
func (r *Runner) Close() {
	r.cancel()
	<-r.done
	r.turn <- struct{}{} // whoever deletes by hand has seen the end of ctx
}

// Interval is the time between two runs.
func Interval(keep time.Duration) time.Duration { return min(longestInterval, keep/10) }

func (r *Runner) loop() {
	defer close(r.done)
	for {
		var due <-chan time.Time
		if s := r.Status(); s.Keep > 0 {
			due = time.After(time.Until(s.NextRun))
		}
		select {
		case <-r.ctx.Done():
			return
		case <-r.changed:
		case <-due:
			r.run()
		}
	}
}

// run is one run of the schedule.
func (r *Runner) run() {
	ctx, keep := r.begin()
	defer r.end()
	if keep == 0 {
		return // it has changed at this moment
	}
	began, before := time.Now(), r.Now().Add(-keep)
	n, own, err := 0, 0, r.check(ctx, keep)
	if err == nil {
		own = r.tellings(ctx, before)
		n, err = r.delete(ctx, before)
	}
	r.tellRun(n, own, before, keep, err)
	if r.ctx.Err() != nil {
		return // the store is about to be closed, the next process goes on
	}
	if ctx.Err() != nil {
		r.Logger.Info("retention: a run ended early, because the configuration keeps entries for another time now", "kept", keep, "deleted", n)
		return
	}
	if n > 0 && err == nil {
		err = r.compact()
	}
	next := r.finished(keep, began, n, err)
	if err != nil {
		r.Logger.Error("retention: not all old audit log entries could be deleted", "keep", keep, "before", before.UTC(), "deleted", n, "next", next, "error", err)
		return
	}
	r.Logger.Info("retention: old audit log entries deleted", "keep", keep, "before", before.UTC(), "deleted", n, "took", time.Since(began), "next", next)
}

// begin begins a run, which Keep ends.
func (r *Runner) begin() (context.Context, time.Duration) {
	ctx, stop := context.WithCancel(r.ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopRun = stop
	return ctx, r.status.Keep
}

// end forgets the run that begin has begun.
func (r *Runner) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopRun()
	r.stopRun = nil
}

// finished notes a run and returns when the next one is due.
func (r *Runner) finished(keep time.Duration, began time.Time, n int, err error) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.LastRun, r.status.LastDeleted, r.status.Err = began, n, err
	if r.status.Keep == keep { // otherwise Keep has said when
		r.status.NextRun = time.Now().Add(Interval(keep))
	}
	return r.status.NextRun
}

func (r *Runner) check(ctx context.Context, keep time.Duration) error {
	newest, err := r.newest(ctx)
	if err != nil {
		return fmt.Errorf("looking for the newest entry: %w", err)
	}
	var theirs time.Time
	if c, ok := storage.As[storage.Clock](r.Store); ok {
		if theirs, err = c.Time(ctx); err != nil {
			return fmt.Errorf("asking for the database's time: %w", err)
		}
	}
	return r.guard.check(r.Now(), &newest, theirs, keep)
}

// newest is the newest entry of all; the zero one without entries, and when the store cannot say.
func (r *Runner) newest(ctx context.Context) (e storage.Entry, err error) {
	lister, ok := storage.As[storage.Lister](r.Store)
	if !ok {
		return e, nil
	}
	page, err := lister.List(ctx, storage.Query{Limit: 1, NoTotal: true})
	if err == nil && len(page.Entries) > 0 {
		e = page.Entries[0]
	}
	return e, err
}

// tellings is how many entries that tell of deletions are older than a time; at most so many as a page
// has, and 0 if the store cannot say.
func (r *Runner) tellings(ctx context.Context, before time.Time) int {
	lister, ok := storage.As[storage.Lister](r.Store)
	if !ok || r.Tell == nil {
		return 0
	}
	q := storage.Query{Action: storage.ActionPruned, To: before.Add(-time.Millisecond), Limit: storage.MaxLimit, NoTotal: true}
	page, err := lister.List(ctx, q)
	if err != nil {
		return 0
	}
	return len(page.Entries)
}

// newestUntil is the time of the newest entry that is not of after a time; zero without entries, and
// when the store cannot say. What the log says of its own starts and stops does not count: the first
// start with a wrong clock must not vouch for it at the second. Of very many in a row the oldest
// seen does.
func (r *Runner) newestUntil(ctx context.Context, last time.Time) (newest time.Time, err error) {
	lister, ok := storage.As[storage.Lister](r.Store)
	if !ok {
		return time.Time{}, nil
	}
	q := storage.Query{Limit: 20, NoTotal: true, To: last}
	for range maxOwnPages {
		page, err := lister.List(ctx, q)
		if err != nil {
			return time.Time{}, err
		}
		for i := range page.Entries {
			newest = page.Entries[i].CreatedAt
			if !page.Entries[i].OwnLife() {
				return newest, nil
			}
		}
		if q.Cursor, q.Limit = page.NextCursor, storage.MaxLimit; q.Cursor == "" {
			break
		}
	}
	return newest, nil
}

// maxOwnPages bounds how many of them are passed over.
const maxOwnPages = 20

// compact lets the store drop what the deleted entries leave behind.
func (r *Runner) compact() error {
	c, ok := storage.As[storage.Compactor](r.Store)
	if !ok || !r.compacted.IsZero() && time.Since(r.compacted) < compactEvery {
		return nil
	}
	r.compacted = time.Now()
	n, err := c.Compact(r.ctx)
	if err != nil {
		return fmt.Errorf("dropping texts that no entry uses: %w", err)
	}
	r.Logger.Debug("retention: unused texts dropped", "texts", n)
	return nil
}

// Prune deletes what is older than the given time by hand, without asking the
// guard, and returns how much that was. It ends early with ctx.
func (r *Runner) Prune(ctx context.Context, before time.Time) (int, error) {
	if r.pruner == nil {
		return 0, ErrCannotDelete
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	n, err := r.delete(ctx, before)
	r.tellHand(n, before, err)
	r.Logger.Info("audit log entries deleted by hand", "before", before.UTC(), "deleted", n, "error", err)
	return n, err
}

// delete deletes in small steps, one caller at a time.
func (r *Runner) delete(ctx context.Context, before time.Time) (int, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return Sweep(ctx, r.pruner, before, func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.status.Deleted += uint64(n)
	})
}
