package sqlite

import (
	"context"
	"time"
)

// checkpointEvery is how often the log is moved into the database in the
// background, so that commits need not (performance.md section 2, "hybrid").
const checkpointEvery = time.Second

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
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)"); err != nil && ctx.Err() == nil {
				s.log.Warn("checkpoint failed, the next one tries again", "path", s.path, "error", err)
			}
		}
	}
}

func (c *checkpointer) stop() {
	c.cancel()
	<-c.done
}
