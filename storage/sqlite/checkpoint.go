package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// A checkpoint moves the log into the database in the background, so that commits need
	// not (performance.md section 2, "hybrid"): once the log has grown by muchGrowth, but not
	// more often than checkpointEvery, and in any case growthLife after it began to grow, since
	// what was committed without an fsync is lost in a power cut until then. Few transactions
	// share one: with 15 sign-ins a second, a checkpoint for every third of them was 7 % of all
	// CPU of Caddy (measured with perf).
	checkpointEvery = 200 * time.Millisecond
	muchGrowth      = 64
	growthLife      = time.Second
	// fewEntries of a transaction count as one more.
	fewEntries = 16
	// longLog is the length of the log, in pages of 4 KiB, from which on the
	// background tries to reach its end, up to tries times in a row: each time less
	// is left to move, and when nobody commits meanwhile the log begins anew.
	longLog = 1000
	tries   = 5
	// tooLongLog is the length, in pages, from which on the writer itself moves the
	// rest: two fsyncs, for which others wait, so it is seldom.
	tooLongLog = 8 * longLog
	// lastSync bounds the last fsync, when the store is closed.
	lastSync = 5 * time.Second
	// cutAfter is how long after the last deletion the log's file is cut, so that what was deleted
	// is not in its older pages any more (threats.md D19), and cutAtLast how long after the first:
	// deletions may go on for hours. A log that begins with an empty file costs commits more for a
	// while, so it is not cut for each.
	cutAfter, cutAtLast = 3 * time.Second, time.Minute
)

// checkpointer runs passive checkpoints; they never block readers or the writer.
// But the disk is shared: a commit's fsync stands behind the pages of a checkpoint,
// so that only small ones go unnoticed.
type checkpointer struct {
	store     *Store
	db        *sql.DB // one connection: one checkpoint at a time
	cancel    context.CancelFunc
	done      chan struct{}
	deletions deletions
}

// deletions are those whose pages may still be in the log.
type deletions struct {
	mu sync.Mutex
	// first and last are when there were some; zero for none.
	first, last time.Time
}

// deleted hears of a deletion that was committed.
func (c *checkpointer) deleted() {
	now := time.Now()
	c.deletions.mu.Lock()
	if c.deletions.last = now; c.deletions.first.IsZero() {
		c.deletions.first = now
	}
	c.deletions.mu.Unlock()
	c.store.writer.growth.add(1) // it may have nothing else to wake up for
}

// cut cuts the log's file if something was deleted a while ago; it is tried again while somebody
// reads an older state.
func (c *checkpointer) cut(ctx context.Context) error {
	d := &c.deletions
	d.mu.Lock()
	first, last := d.first, d.last
	d.mu.Unlock()
	if first.IsZero() {
		return nil
	}
	var err error
	if time.Since(last) >= cutAfter || time.Since(first) >= cutAtLast {
		j := &job{cut: true, durability: storage.Fsync}
		if err = c.store.writer.submitIdle(ctx, j); err == nil && j.wasCut {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.last.Equal(last) {
				d.first, d.last = time.Time{}, time.Time{}
				return nil
			}
			d.first = d.last // some came meanwhile
		}
	}
	c.store.writer.growth.add(1) // it is looked at again in growthLife
	return err
}

// startCheckpointer says by left whether there was a log already, as a crash leaves one.
func startCheckpointer(s *Store, left bool) (*checkpointer, error) {
	db, err := openDB(s.path, 1)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &checkpointer{store: s, db: db, cancel: cancel, done: make(chan struct{})}
	if left { // deletions may be in it
		c.deleted()
	}
	go c.run(ctx)
	return c, nil
}

// growth is how much the log has grown since the last checkpoint began, in transactions of
// a few entries.
type growth struct {
	n    atomic.Int64
	wake chan struct{} // has a value when it begins to grow, and when it has grown much
}

func newGrowth() growth { return growth{wake: make(chan struct{}, 1)} }

// add hears of a transaction.
func (g *growth) add(entries int) {
	n := int64(1 + entries/fewEntries)
	now := g.n.Add(n)
	if before := now - n; before > 0 && (before >= muchGrowth || now < muchGrowth) {
		return
	}
	select {
	case g.wake <- struct{}{}:
	default: // it is to be woken already
	}
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.done)
	for c.await(ctx) {
		c.store.writer.growth.n.Store(0)
		c.warn(ctx, c.settle(ctx))
		c.warn(ctx, c.cut(ctx))
		if !pause(ctx, nil, checkpointEvery) {
			return
		}
	}
}

// await waits until a checkpoint is worth its while; false at the end of ctx.
func (c *checkpointer) await(ctx context.Context) bool {
	g := &c.store.writer.growth
	for g.n.Load() == 0 {
		select {
		case <-g.wake:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case <-g.wake: // that it began to grow, while nobody waited for that
	default:
	}
	return g.n.Load() >= muchGrowth || pause(ctx, g.wake, growthLife)
}

// pause waits for so long, or until wake; false at the end of ctx.
func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
		return false
	}
	return true
}

// settle runs a checkpoint, and makes durable what was committed without an fsync before it.
// A checkpoint does that on its way, unless somebody who reads an older state (a long query, a
// backup, a shell) keeps it from moving anything: then a commit with an fsync does.
func (c *checkpointer) settle(ctx context.Context) error {
	w := c.store.writer
	unsynced := w.unsynced.Swap(false)
	whole, err := c.shorten(ctx)
	if whole || !unsynced {
		return err
	}
	if err = cmp.Or(err, c.store.probe(ctx)); err != nil {
		w.unsynced.Store(true)
		w.growth.add(1) // it is tried again soon
	}
	return err
}

// shorten moves the log into the database, and has it begin anew if it is long.
// Under steady writing a checkpoint in the background seldom reaches the log's
// end; if none does for long, the writer moves the short rest when nobody waits.
// It says whether all was moved that the log held at a moment.
func (c *checkpointer) shorten(ctx context.Context) (whole bool, err error) {
	pages := 0
	for range tries {
		var moved bool
		moved, pages, err = c.move(ctx)
		if whole = whole || moved; err != nil || pages < longLog {
			return whole, err
		}
	}
	if pages < tooLongLog {
		return whole, nil
	}
	return whole, c.store.writer.submitIdle(ctx, &job{checkpoint: true, durability: storage.Commit})
}

// move moves what the log holds now, and returns whether that was all, and the log's length in
// pages.
func (c *checkpointer) move(ctx context.Context) (whole bool, pages int, err error) {
	var busy, moved int
	err = c.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &moved)
	return err == nil && busy == 0 && moved == pages, pages, err
}

// warn logs a failure that does not come from the end of ctx or of the store.
func (c *checkpointer) warn(ctx context.Context, err error) {
	c.store.writer.guard.distrust(err)
	if err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrClosed) {
		c.store.log.Warn("checkpoint failed, the next one tries again", "path", c.store.path, "error", err)
	}
}

// stop ends the checkpoints. What was committed without an fsync has one then.
func (c *checkpointer) stop() error {
	c.cancel()
	<-c.done
	var err error
	if c.store.writer.unsynced.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSync)
		defer cancel()
		err = c.store.probe(ctx)
	}
	return errors.Join(err, c.db.Close())
}
