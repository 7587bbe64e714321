package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// checkpointEvery is how often the log is moved into the database in the
	// background, so that commits need not (performance.md section 2, "hybrid").
	checkpointEvery = 200 * time.Millisecond
	// longLog is the length of the log, in pages of 4 KiB, from which on the
	// background tries to reach its end, up to tries times in a row: each time less
	// is left to move, and when nobody commits meanwhile the log begins anew.
	longLog = 1000
	tries   = 5
	// tooLongLog is the length, in pages, from which on the writer itself moves the
	// rest: two fsyncs, for which others wait, so it is seldom.
	tooLongLog = 8 * longLog
)

// checkpointer runs passive checkpoints; they never block readers or the writer.
// But the disk is shared: a commit's fsync stands behind the pages of a checkpoint,
// so that only small ones go unnoticed.
type checkpointer struct {
	store  *Store
	db     *sql.DB // one connection: one checkpoint at a time
	cancel context.CancelFunc
	done   chan struct{}
}

func startCheckpointer(s *Store) (*checkpointer, error) {
	db, err := openDB(s.path, 1)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &checkpointer{store: s, db: db, cancel: cancel, done: make(chan struct{})}
	go c.run(ctx)
	return c, nil
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.done)
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for seen := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if commits := c.store.writer.commits.Load(); commits != seen {
				seen = commits
				c.warn(ctx, c.shorten(ctx))
			}
		}
	}
}

// shorten moves the log into the database, and has it begin anew if it is long.
// Under steady writing a checkpoint in the background seldom reaches the log's
// end; if none does for long, the writer moves the short rest when nobody waits.
func (c *checkpointer) shorten(ctx context.Context) error {
	pages := 0
	for range tries {
		var err error
		if pages, err = c.move(ctx); err != nil || pages < longLog {
			return err
		}
	}
	if pages < tooLongLog {
		return nil
	}
	return c.store.writer.submitIdle(ctx, &job{checkpoint: true, durability: storage.Commit})
}

// move moves what the log holds now, and returns the log's length in pages.
func (c *checkpointer) move(ctx context.Context) (int, error) {
	var busy, pages, moved int
	err := c.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &moved)
	return pages, err
}

// warn logs a failure that does not come from the end of ctx or of the store.
func (c *checkpointer) warn(ctx context.Context, err error) {
	c.store.writer.guard.distrust(err)
	if err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrClosed) {
		c.store.log.Warn("checkpoint failed, the next one tries again", "path", c.store.path, "error", err)
	}
}

func (c *checkpointer) stop() error {
	c.cancel()
	<-c.done
	return c.db.Close()
}
