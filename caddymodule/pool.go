package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// stores holds the open stores by identity, across configurations.
var stores = caddy.NewUsagePool()

const (
	openTimeout = 30 * time.Second
	// exitWait bounds how long the end of the process waits for requests that
	// still have a lease; a short grace_period would cost their entries.
	exitWait = 10 * time.Second
)

type openFunc func(context.Context, *slog.Logger) (storage.Store, error)

// pooledStore is an open store and what belongs to it: its writer, its key, and
// the API's rate limits. Configurations hold it through the pool, requests through
// leases. It closes itself when it is doomed (no configuration holds it) and the
// last lease is given back.
type pooledStore struct {
	openStore openFunc
	keyFile   string
	log       *slog.Logger

	// mu protects the fields below.
	mu     sync.Mutex
	opened bool
	leases int
	doomed bool
	closed chan struct{} // closed when the store is

	// Set once by open, before any lease is given; read-only afterwards.
	store   storage.Store
	writer  *recorder.Writer
	limiter *httpapi.Limiter
	key     []byte
}

func newPooledStore(open openFunc, keyFile string, log *slog.Logger) *pooledStore {
	return &pooledStore{openStore: open, keyFile: keyFile, log: log, closed: make(chan struct{})}
}

// open opens the store unless it is open. A failure may be tried again.
func (p *pooledStore) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.openLocked()
}

func (p *pooledStore) openLocked() error {
	if p.opened {
		return nil
	}
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
	store, err := p.openStore(ctx, p.log)
	if err != nil {
		return err
	}
	p.store, p.key, p.limiter = store, key, limiter
	p.writer = recorder.NewWriter(store, p.log)
	p.opened = true
	return nil
}

// lease keeps the store open until release. It opens the store if need be: the
// http app may serve before this app has started.
func (p *pooledStore) lease() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doomed && p.leases == 0 {
		return fmt.Errorf("%w: its configuration has ended", errNoStore)
	}
	if err := p.openLocked(); err != nil {
		return fmt.Errorf("%w: %w", errNoStore, err)
	}
	p.leases++
	return nil
}

func (p *pooledStore) release() {
	p.mu.Lock()
	p.leases--
	last := p.doomed && p.leases == 0
	p.mu.Unlock()
	if last {
		p.close()
	}
}

// Destruct implements caddy.Destructor: no configuration holds the store any more.
// On a reload it returns at once, and the last request closes the store; when the
// process ends it waits for that, within bounds.
func (p *pooledStore) Destruct() error {
	p.mu.Lock()
	p.doomed = true
	idle := p.leases == 0
	p.mu.Unlock()
	if idle {
		p.close()
		return nil
	}
	if !caddy.Exiting() {
		return nil
	}
	select {
	case <-p.closed:
		return nil
	case <-time.After(exitWait):
		return errors.New("requests are still running: their audit log entries may stay without an outcome")
	}
}

// close is called once: by whoever saw that the store is doomed and without
// leases, a state that cannot end.
func (p *pooledStore) close() {
	defer close(p.closed)
	if !p.opened {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), exitWait)
	defer cancel()
	if err := p.writer.Close(ctx); err != nil {
		p.log.Error("closing the audit log", "error", err)
	}
	if c, ok := p.store.(storage.Closer); ok {
		if err := c.Close(); err != nil {
			p.log.Error("closing the audit log's store", "error", err)
		}
	}
}
