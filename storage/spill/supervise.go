package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// primaryEvery is how often the primary is looked at while it works: within the second in
	// which a database that was moved away is to be noticed (threats.md E2.5). To wake up a
	// machine that is idle costs most of a millisecond. checkEvery is how often the journal is
	// looked at while the primary does not work.
	primaryEvery = 900 * time.Millisecond
	checkEvery   = 250 * time.Millisecond
	checkWait    = time.Second
	// firstBackoff and maxBackoff space the tries of a primary that fails. One that
	// fails soon after it has recovered is tried as if it had not.
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Second
	soon         = 5 * time.Second
	// reviveWait and replayWait bound one try, and one write of a replay.
	reviveWait = 3 * time.Second
	replayWait = 5 * time.Second
	// lastWait bounds the last writes of a replay, for which appends wait.
	lastWait = time.Second
	// maxBatch and maxBatchBytes bound what a replay writes at once.
	maxBatch      = 256
	maxBatchBytes = 1 << 20
	// lastBatches is how many batches the end of a replay may consist of.
	lastBatches = 2
	// maxUnreadable is how often the journal is tried before it is set aside.
	maxUnreadable = 5
)

// errMore says that too much was appended for the end of a replay.
var errMore = errors.New("more was appended")

// errUnreadable wraps why the journal cannot be read.
var errUnreadable = errors.New("the audit log's journal cannot be read")

// supervise looks after the primary until Close.
func (s *Store) supervise() {
	defer close(s.done)
	watched := make(chan struct{})
	go s.watchJournal(watched)
	defer func() { <-watched }()
	tick := time.NewTicker(primaryEvery)
	defer tick.Stop()
	wait, recovered := firstBackoff, time.Time{}
	for s.ctx.Err() == nil {
		e := s.era.Load()
		if e == nil {
			if time.Since(recovered) > soon {
				wait = firstBackoff
			}
			wait = s.recover(wait)
			recovered = time.Now()
			continue
		}
		select {
		case <-s.ctx.Done():
		case <-s.wake:
		case <-tick.C:
			if err := s.check(s.ctx); err != nil && s.ctx.Err() == nil {
				s.down(e, err)
			}
		}
	}
}

// check looks at the primary.
func (s *Store) check(ctx context.Context) error {
	if s.tended == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	return s.tended.Check(ctx)
}

// recover tries the primary until it works, and returns how long the next such wait
// should begin with.
func (s *Store) recover(wait time.Duration) time.Duration {
	for unreadable := 0; ; {
		select {
		case <-s.ctx.Done():
			return wait
		case <-time.After(wait):
		}
		wait = min(2*wait, maxBackoff)
		err := s.attempt()
		if err == nil || s.ctx.Err() != nil {
			return wait
		}
		s.down(nil, err)
		if !errors.Is(err, errUnreadable) {
			unreadable = 0
		} else if unreadable++; unreadable == maxUnreadable {
			unreadable = 0
			_ = s.journal.do(func() error { return s.journal.drop(err) }) // it says what it did
		}
	}
}

// watchJournal sees to it, until Close, that what waits in the journal stays where
// the next start finds it. While the primary works nothing waits, and it sleeps.
func (s *Store) watchJournal(done chan<- struct{}) {
	defer close(done)
	for s.ctx.Err() == nil {
		if e := s.era.Load(); e != nil {
			<-e.ctx.Done() // its end, or that of the Store
			continue
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(checkEvery):
		}
		if s.era.Load() != nil {
			continue
		}
		if err := s.journal.verify(); err != nil && s.ctx.Err() == nil {
			s.journaled(err)
		}
	}
}

// attempt is one try of the primary. One that is not Tended is tried with what is in
// the journal or, when that is empty, with the next entry.
func (s *Store) attempt() error {
	if s.tended != nil {
		ctx, cancel := context.WithTimeout(s.ctx, reviveWait)
		defer cancel()
		if err := s.tended.Revive(ctx); err != nil {
			return err
		}
	}
	return s.replay(s.ctx)
}

// replay writes what is in the journal to the primary and closes the circuit.
func (s *Store) replay(ctx context.Context) error {
	s.replaying.Store(true)
	defer s.replaying.Store(false)
	for {
		for more := true; more; {
			var err error
			if more, err = s.step(ctx, replayWait); err != nil {
				return err
			}
		}
		if err := s.journal.do(func() error { return s.last(ctx) }); !errors.Is(err, errMore) {
			return err
		}
	}
}

// last writes what was appended meanwhile and closes the circuit, while nothing can
// be appended.
func (s *Store) last(ctx context.Context) error {
	n, more := 0, true
	for ; more && n <= lastBatches; n++ {
		var err error
		if more, err = s.step(ctx, lastWait); err != nil {
			return err
		}
	}
	if more {
		return errMore
	}
	if err := s.journal.empty(); err != nil {
		return err
	}
	s.up()
	return nil
}

// step writes one batch to the primary; false when there is none.
func (s *Store) step(ctx context.Context, wait time.Duration) (more bool, err error) {
	b, err := s.batch()
	if err != nil {
		return false, err
	}
	if len(b.changes) == 0 {
		s.journal.advance(b.next, b.weight)
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	advanced := 0
	n, err := b.merged().apply(ctx, s.primary)
	if errors.Is(err, storage.ErrRejected) {
		advanced, err = s.oneByOne(ctx, b)
	}
	if err != nil && n > 0 {
		return true, nil // so many entries have lost their user, and the next step goes on
	}
	if err != nil {
		return false, err
	}
	s.journal.advance(b.next, b.weight-advanced)
	return true, nil
}

// oneByOne writes the changes of a batch that holds one which the primary will never
// take. It must not keep all that is behind it. What is written before ctx ends is not
// written again: it returns by how much of the weight the journal has advanced.
func (s *Store) oneByOne(ctx context.Context, b batch) (advanced int, err error) {
	for i, c := range b.changes {
		_, err := s.apply(ctx, c)
		if err != nil && !errors.Is(err, storage.ErrRejected) {
			return advanced, err
		}
		if err != nil {
			s.journal.damaged.Add(1)
			s.log.Error("the audit log's database rejects what was kept in the journal: it is lost", "entries", len(c.entries), "first", firstID(c), "error", err)
		}
		s.journal.advance(b.ends[i].next, b.ends[i].weight-advanced)
		advanced = b.ends[i].weight
	}
	return advanced, nil
}

func firstID(c change) string {
	if len(c.entries) == 0 {
		return ""
	}
	return c.entries[0].ID
}

// batch is what a replay writes at once: one user to unlink, or entries of several
// changes.
type batch struct {
	changes []change
	ends    []ending // of each change
	weight  int
	next    int64
	size    int
	ids     map[string]struct{}
}

// ending is where a change of a batch ends, and the batch's weight up to there.
type ending struct {
	next   int64
	weight int
}

// batch reads the next batch.
func (s *Store) batch() (batch, error) {
	b := batch{next: s.journal.position(), ids: map[string]struct{}{}}
	for {
		r, err := s.journal.next(b.next)
		if errors.Is(err, io.EOF) {
			b.next = r.next
			return b, nil
		}
		if err != nil {
			return b, fmt.Errorf("%w: %w", errUnreadable, storage.FaultOf(s.path, err))
		}
		c, err := decode(r.record)
		switch {
		case err != nil:
			s.journal.report(r.next-int64(len(r.record)), r.next)
		case !b.fits(c, len(r.record)):
			return b, nil
		default:
			b.add(c, len(r.record))
		}
		b.next, b.weight = r.next, b.weight+r.weight
		if err == nil {
			b.ends = append(b.ends, ending{b.next, b.weight})
		}
	}
}

// fits says whether the change may go with those that the batch has: entries, not too
// many.
func (b *batch) fits(c change, size int) bool {
	if len(b.changes) == 0 {
		return true
	}
	return c.unlink == "" && b.changes[0].unlink == "" && len(b.ids)+len(c.entries) <= maxBatch && b.size+size <= maxBatchBytes
}

func (b *batch) add(c change, size int) {
	b.changes, b.size = append(b.changes, c), b.size+size
	for i := range c.entries {
		b.ids[c.entries[i].ID] = struct{}{}
	}
}

// merged is the batch as one change, in which each id is once: in its first place, with
// its first time, as it was written last. Intents and their outcomes are mostly close to
// each other, and batches that ended between them would never catch up with a load.
func (b *batch) merged() change {
	if len(b.changes) == 1 {
		return b.changes[0]
	}
	var c change
	places := make(map[string]int, len(b.ids))
	for i := range b.changes {
		for _, e := range b.changes[i].entries {
			place, again := places[e.ID]
			if !again {
				places[e.ID], c.entries = len(c.entries), append(c.entries, e)
				continue
			}
			e.CreatedAt = c.entries[place].CreatedAt
			c.entries[place] = e
		}
	}
	return c
}
