package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
)

// stores holds the open stores by identity, across configurations.
var stores = caddy.NewUsagePool()

const (
	openTimeout = 30 * time.Second
	// abandonedTimeout bounds the look for what a killed process has left.
	abandonedTimeout = 30 * time.Second
	// exitWait bounds how long the end of the process waits for requests that
	// still have a lease; a short grace_period would cost their entries.
	exitWait = 10 * time.Second
	// writtenWait is for how long of that it waits for requests whose entries are complete, such
	// as open event streams, and interruptWait for the entries of those that have none.
	writtenWait   = 3 * time.Second
	interruptWait = 5 * time.Second
)

type openFunc func(context.Context, *slog.Logger) (storage.Store, error)

// pooledStore is an open store and what belongs to it: its writer, its key, and
// the API's rate limits. Configurations hold it through the pool, requests through
// leases. It closes itself when it is doomed (no configuration holds it) and the
// last lease is given back. A request of the old configuration that comes later
// than that (it was still with forward_auth, say) opens it once more.
type pooledStore struct {
	// identity names the store, see StoreModule.
	identity string
	opener   openFunc
	keyFile  string
	log      *slog.Logger // see passing
	// metrics outlive the open store, so that counters only grow.
	metrics *recorder.Metrics
	// coverage, recognized and sanitized too. That is how many forwarding headers were dropped.
	coverage   *recorder.Coverage
	recognized *recognitions
	sanitized  atomic.Uint64

	// current is open for those who have a lease; nil while there is none to be had at
	// once. leases are how many there are, or less than 0 while the store is closed: each
	// request has one, and must not wait for a lock that all share. doomed is true when no
	// configuration holds the store.
	current atomic.Pointer[openStore]
	leases  atomic.Int64
	doomed  atomic.Bool

	// mu protects the fields below. It is held while the store is opened and
	// closed, so that whoever comes meanwhile waits for the end of it.
	mu sync.Mutex
	// open is what the store is while it is open; nil while it is not.
	open *openStore
	idle chan struct{} // closed when the store is doomed and was closed
	// longest ends the admin endpoint's answers that last, with each configuration.
	longest *ending
	// claims are those of the configurations that run, the newest last.
	claims []claim
	// scope is what the log says to be recorded.
	scope recorder.Scope
}

// openStore is what requests use of a store that is open.
type openStore struct {
	news      *dispatcher
	store     storage.Store
	writer    *recorder.Writer
	retention *retention.Runner
	limiter   *httpapi.Limiter
	operator  *httpapi.Operator
	streams   *httpapi.Streams
	readings  *httpapi.Readings
	coverage  *recorder.Coverage
	// recognized outlives it.
	recognized *recognitions
	key        []byte
	// opened is when; told is true once it was told what the process before has left, which
	// stopTelling ends.
	opened      time.Time
	told        bool
	stopTelling context.CancelFunc
}

func newPooledStore(identity string, open openFunc, keyFile string, log *slog.Logger) *pooledStore {
	return &pooledStore{
		identity: identity, opener: open, keyFile: keyFile, log: passing(log), metrics: new(recorder.Metrics),
		coverage: new(recorder.Coverage), recognized: new(recognitions), idle: make(chan struct{}),
	}
}

// start opens the store unless it is open. A failure may be tried again.
func (p *pooledStore) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.openLocked()
}

func (p *pooledStore) openLocked() error {
	if p.open != nil {
		return nil
	}
	opened := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	key, err := readOrMakeKey(p.keyFile)
	if err != nil {
		return err
	}
	limiter, err := httpapi.NewLimiter()
	if err != nil {
		return err
	}
	redactor, err := redact.New(redact.Options{Key: key})
	if err != nil {
		return err
	}
	store, err := p.opener(ctx, p.log)
	if err != nil {
		return err
	}
	streams, writer := httpapi.NewStreams(store, p.log), recorder.NewWriter(store, p.log)
	p.open = &openStore{
		store: store, writer: writer, limiter: limiter, operator: newOperator(redactor, streams, p.log), streams: streams, key: key, opened: opened, news: newDispatcher(p.log), coverage: p.coverage, recognized: p.recognized,
		retention: retention.New(ctx, retention.Options{Store: store, Logger: p.log, Tell: writer.WriteOwn}),
	}
	p.open.readings = httpapi.NewReadings(p.open.writer)
	p.open.writer.Unlinked = p.open.readings.Unlink
	p.open.writer.Metrics, p.open.writer.Written, p.open.writer.Observer = p.metrics, streams.Wake, p.open.news.observer(nil, nil)
	p.current.Store(p.open)
	return nil
}

// tellAbandoned tells, once, of the requests that a killed process has left without an outcome. The
// caller holds mu.
func (p *pooledStore) tellAbandoned() {
	open := p.open
	if open.told {
		return
	}
	open.told = true
	only := p.backend() == "sqlite" // of one Caddy at a time
	ctx, cancel := context.WithTimeout(context.Background(), abandonedTimeout)
	open.stopTelling = cancel
	p.leases.Add(1) // the store is open, for mu is held
	go func() {
		defer p.release()
		defer cancel()
		n, err := open.writer.TellAbandoned(ctx, open.opened, only)
		switch {
		case errors.Is(ctx.Err(), context.Canceled): // Caddy ends: the next start looks again
		case err != nil:
			p.log.Warn("nobody is told of requests that a process before this one may have left without an outcome; their entries are in the audit log, with status unknown", "error", err)
		case n > 0:
			p.log.Warn("a process before this one was killed while it served requests that can destroy something: nobody knows what became of them, their entries have status unknown", "entries", n)
		}
	}()
}

// lease keeps the store open until release. It opens the store if need be: the
// http app may serve before this app has started, and after it has ended.
func (p *pooledStore) lease() (*openStore, error) {
	if p.leases.Add(1) > 0 {
		if open := p.current.Load(); open != nil {
			return open, nil
		}
	}
	p.leases.Add(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.openLocked(); err != nil {
		p.closeIfDone() // the lease that was none may have kept somebody from it
		return nil, fmt.Errorf("%w: %w", errNoStore, err)
	}
	p.leases.Add(1)
	return p.open, nil
}

// release gives a lease back. The last one of a doomed store has it closed, which may take
// seconds if its disk fails: no request waits for that.
func (p *pooledStore) release() {
	if p.leases.Add(-1) > 0 || !p.doomed.Load() {
		return
	}
	closeNow := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.closeIfDone()
	}
	if caddy.Exiting() { // somebody may wait for closings already
		closeNow()
		return
	}
	closings.Go(closeNow)
}

// closings are under way. The process waits for them when it ends.
var closings sync.WaitGroup

func init() {
	caddy.OnExit(func(ctx context.Context) {
		done := make(chan struct{})
		go func() { defer close(done); closings.Wait() }()
		select {
		case <-done:
		case <-ctx.Done():
		case <-time.After(exitWait):
		}
	})
}

// Destruct implements caddy.Destructor: no configuration holds the store any more.
// On a reload it waits for no request, and the last one has the store closed; when the
// process ends it waits for that, within bounds.
func (p *pooledStore) Destruct() error {
	p.mu.Lock()
	p.doomed.Store(true)
	p.endLongest()
	if p.open != nil {
		p.open.retention.Stop() // deleting by hand holds a lease
		if p.open.stopTelling != nil {
			p.open.stopTelling()
		}
	}
	p.closeIfDone()
	p.mu.Unlock()
	if !caddy.Exiting() {
		return nil
	}
	p.interrupt() // at once: who started Caddy may be less patient than we are
	if p.awaitIdle() {
		return nil
	}
	unfinished := p.underWay()
	p.interrupt()
	p.closeNow()
	if unfinished {
		return errors.New("requests are still running: their audit log entries say that they were interrupted")
	}
	return nil
}

// awaitIdle waits until nobody uses the store, but not for long if all who do have their entries.
func (p *pooledStore) awaitIdle() bool {
	look := time.NewTicker(exitWait / 100)
	defer look.Stop()
	for began := time.Now(); ; {
		select {
		case <-p.idle:
			return true
		case <-look.C:
		}
		if took := time.Since(began); took >= exitWait || took >= writtenWait && !p.underWay() {
			return false
		}
	}
}

// underWay says whether a request has no complete entry yet.
func (p *pooledStore) underWay() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open != nil && p.open.writer.UnderWay()
}

// ending is done when the configuration that runs ends.
func (p *pooledStore) ending() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.longest == nil {
		p.longest = newEnding()
	}
	return p.longest
}

// endLongest ends the answers that last; p.mu is held.
func (p *pooledStore) endLongest() {
	if p.longest != nil {
		p.longest.end()
		p.longest = nil
	}
}

// interrupt gives an entry to each request that is under way.
func (p *pooledStore) interrupt() {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	if open == nil {
		return
	}
	done := make(chan error, 1)
	go func() { done <- open.writer.Interrupt() }() // hooks of guests are asked, and may hang
	select {
	case err := <-done:
		if err != nil {
			p.log.Error("closing the audit log", "error", err)
		}
	case <-time.After(interruptWait):
		p.log.Error("closing the audit log: not all requests that are under way have an entry yet", "after", interruptWait)
	}
}

// closeNow closes the store under the requests that hold it: the process ends, and what
// waits to be written would end with it.
func (p *pooledStore) closeNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != nil {
		p.closeLocked()
	}
}

// shut is what is added to leases while a store is closed.
const shut = math.MinInt32

// closeIfDone closes a doomed store that nobody uses. The caller holds mu.
func (p *pooledStore) closeIfDone() {
	if !p.doomed.Load() || !p.leases.CompareAndSwap(0, shut) {
		return
	}
	defer p.leases.Add(-shut)
	select {
	case <-p.idle: // it was opened once more
	default:
		defer close(p.idle)
	}
	if p.open == nil {
		return
	}
	p.closeLocked()
}

func (p *pooledStore) closeLocked() {
	p.current.Store(nil)
	p.open.close(p.log)
	p.open = nil
}

func (o *openStore) close(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), exitWait)
	defer cancel()
	o.streams.Close()
	o.readings.Close()
	o.retention.Close()
	if err := o.writer.Close(ctx); err != nil {
		log.Error("closing the audit log", "error", err)
	}
	o.news.close() // after the writer, which still has news
	if c, ok := storage.As[storage.Closer](o.store); ok {
		if err := c.Close(); err != nil {
			log.Error("closing the audit log's store", "error", err)
		}
	}
}

// newsTo makes out the newest configuration.
func (p *pooledStore) newsTo(out *outputs) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != nil {
		p.open.news.last.Store(out)
	}
}

// newsToNewest makes out those of the app if its configuration is the newest that has started: one
// that came later may have failed.
func (p *pooledStore) newsToNewest(a *App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.claims); p.open != nil && n > 0 && p.claims[n-1].app == a {
		p.open.news.last.Store(a.out)
	}
}

// flushNews tells what is left of the news while the modules that hear of it still
// work.
func (p *pooledStore) flushNews(out *outputs) {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	if open != nil {
		open.news.flush(out)
	}
}
