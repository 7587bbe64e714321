package spill_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// mode is how a primary behaves.
type mode int

const (
	works  mode = iota
	fails       // nothing is done
	doubts      // it is done, and the caller hears that it was not
	hangs       // it is done when the mode is another one
)

var errDown = errors.New("the fake database is down")

// primary is a database in memory with the habits of the SQLite store: one worker
// takes jobs in the order in which they came, and does them although their callers
// may have left.
type primary struct {
	*memory.Store
	jobs  chan job
	quit  chan struct{}
	takes atomic.Int64 // how long a job takes

	// mu protects the fields below.
	mu      sync.Mutex
	changed *sync.Cond
	mode    mode
	closed  bool
	reject  string // the id of an entry that is never taken
	refuse  string // metadata that are never taken
	// unlinks, if not nil, are what calls of Unlink return.
	unlinks []result
	// stuck, if not nil, keeps Close from ending.
	stuck chan struct{}
}

type job struct {
	do   func() (int, error)
	done chan result
}

type result struct {
	n   int
	err error
}

// newPrimary returns a primary that Close ends, with what an earlier one kept.
func newPrimary(kept ...storage.Entry) *primary {
	p := &primary{Store: memory.New(1 << 20), jobs: make(chan job, 1024), quit: make(chan struct{})}
	p.changed = sync.NewCond(&p.mu)
	if err := p.Store.Write(context.Background(), kept...); err != nil {
		panic(err)
	}
	go p.work()
	return p
}

func (p *primary) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	p.changed.Broadcast()
}

func (p *primary) work() {
	for {
		select {
		case j := <-p.jobs:
			time.Sleep(time.Duration(p.takes.Load()))
			n, err := p.one(j)
			j.done <- result{n, err}
		case <-p.quit:
			return
		}
	}
}

func (p *primary) one(j job) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == hangs && !p.closed {
		p.changed.Wait()
	}
	if p.closed {
		return 0, storage.ErrClosed
	}
	if p.mode == fails {
		return 0, errDown
	}
	n, err := j.do()
	if p.mode == doubts {
		err = errDown
	}
	return n, err
}

func (p *primary) submit(ctx context.Context, do func() (int, error)) (int, error) {
	j := job{do, make(chan result, 1)}
	select {
	case p.jobs <- j:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case r := <-j.done:
		return r.n, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (p *primary) Write(ctx context.Context, entries ...storage.Entry) error {
	entries = slices.Clone(entries)
	_, err := p.submit(ctx, func() (int, error) {
		if slices.ContainsFunc(entries, func(e storage.Entry) bool {
			return e.ID == p.reject || p.refuse != "" && string(e.Metadata) == p.refuse
		}) {
			return 0, storage.ErrRejected
		}
		return 0, p.Store.Write(context.Background(), entries...)
	})
	return err
}

func (p *primary) Unlink(ctx context.Context, userID string) (int, error) {
	return p.submit(ctx, func() (int, error) {
		if len(p.unlinks) > 0 {
			r := p.unlinks[0]
			p.unlinks = p.unlinks[1:]
			return r.n, r.err
		}
		return p.Store.Unlink(context.Background(), userID)
	})
}

func (p *primary) Close() error {
	if p.stuck != nil {
		<-p.stuck
	}
	p.mu.Lock()
	p.closed = true
	p.changed.Broadcast()
	p.mu.Unlock()
	close(p.quit)
	return p.Store.Close()
}

// tended is a primary that has to be revived.
type tended struct {
	*primary
	mu      sync.Mutex
	why     error // why it is not what it was; nil when it is
	curable bool
	revived []time.Time
}

func (p *tended) fail(why error, curable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why, p.curable = why, curable
}

func (p *tended) Check(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

func (p *tended) Revive(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revived = append(p.revived, time.Now())
	if p.curable {
		p.why = nil
	}
	return p.why
}

// tries are the times at which it was revived.
func (p *tended) tries() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.revived)
}

// writeOnly is a primary that can do nothing else.
type writeOnly struct{ to *memory.Store }

func (w writeOnly) Write(ctx context.Context, entries ...storage.Entry) error {
	return w.to.Write(ctx, entries...)
}
