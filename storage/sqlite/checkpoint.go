package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// checkpointEvery is how often the log is moved into the database in the
// background, so that commits need not (performance.md section 2, "hybrid").
const checkpointEvery = 200 * time.Millisecond

// restPages is the length of the log, in pages of 4 KiB, from which on the writer
// moves the rest of it.
const restPages = 1000

// checkpointer runs passive checkpoints; they never block readers or the writer.
type checkpointer struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func startCheckpointer(s *Store) *checkpointer {
	ctx, cancel := context.WithCancel(context.Background())
	c := &checkpointer{cancel: cancel, done: make(chan struct{})}
	go c.run(ctx, s)
	return c
}

func (c *checkpointer) run(ctx context.Context, s *Store) {
	defer close(c.done)
	db, err := openDB(s.path, 1)
	if err != nil {
		s.log.Error("background checkpoints are off, commits make their own", "path", s.path, "error", err)
		return
	}
	defer func() { _ = db.Close() }()
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for seen := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			commits := s.writer.commits.Load()
			if commits == seen {
				continue
			}
			seen = commits
			if err := c.checkpoint(ctx, db, s.writer); err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrClosed) {
				s.log.Warn("checkpoint failed, the next one tries again", "path", s.path, "error", err)
			}
		}
	}
}

// checkpoint moves most of the log in the background. Under steady writing that
// never reaches the log's end, and the log would grow until commits have to move
// all of it; so the writer moves the short rest when nobody waits for it, and
// begins the log anew.
func (c *checkpointer) checkpoint(ctx context.Context, db *sql.DB, w *writer) error {
	var busy, pages, moved int
	if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &moved); err != nil {
		return err
	}
	if pages < restPages {
		return nil
	}
	return w.submitIdle(ctx, &job{checkpoint: true, durability: storage.Commit})
}

func (c *checkpointer) stop() {
	c.cancel()
	<-c.done
}
