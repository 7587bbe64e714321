package caddymodule

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// closing is a store that says whether it was closed.
type closing struct {
	*memory.Store
	closed *atomic.Bool
}

func (c closing) Close() error {
	c.closed.Store(true)
	return nil
}

// TestNobodyHasALeaseOfAStoreThatIsClosed: requests come while the last configuration that
// holds the store ends; whoever has a lease has an open store, and in the end it is closed.
func TestNobodyHasALeaseOfAStoreThatIsClosed(t *testing.T) {
	for range 50 {
		var closed atomic.Int64
		p := newPooledStore("test", func(context.Context, *slog.Logger) (storage.Store, error) {
			return closing{memory.New(0), new(atomic.Bool)}, nil
		}, filepath.Join(t.TempDir(), "hash.key"), slog.New(slog.DiscardHandler))
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		var requests sync.WaitGroup
		begin := make(chan struct{})
		for range 8 {
			requests.Go(func() {
				<-begin
				for range 50 {
					open, err := p.lease()
					if err != nil {
						t.Error(err)
						return
					}
					if c := open.store.(closing); c.closed.Load() {
						closed.Add(1)
					}
					p.release()
				}
			})
		}
		close(begin)
		if err := p.Destruct(); err != nil {
			t.Fatal(err)
		}
		requests.Wait()
		closings.Wait()
		if closed.Load() > 0 || p.leases.Load() != 0 || p.open != nil || p.current.Load() != nil {
			t.Fatalf("%d had a closed store, %d leases are left, open %v", closed.Load(), p.leases.Load(), p.open != nil)
		}
		select {
		case <-p.idle:
		default:
			t.Fatal("nobody was told that it is closed")
		}
	}
}

// hanging is a store whose Close hangs until it is let go.
type hanging struct {
	*memory.Store
	free chan struct{}
}

func (h hanging) Close() error {
	<-h.free
	return nil
}

// TestNoRequestWaitsForAStoreThatIsClosed, not the last one of an old configuration either.
func TestNoRequestWaitsForAStoreThatIsClosed(t *testing.T) {
	h := hanging{memory.New(0), make(chan struct{})}
	p := newPooledStore("test", func(context.Context, *slog.Logger) (storage.Store, error) { return h, nil },
		filepath.Join(t.TempDir(), "hash.key"), slog.New(slog.DiscardHandler))
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.lease(); err != nil {
		t.Fatal(err)
	}
	if err := p.Destruct(); err != nil {
		t.Fatal(err)
	}
	p.release() // which would hang
	select {
	case <-p.idle:
		t.Error("it is closed already")
	default:
	}
	close(h.free)
	closings.Wait()
	<-p.idle
}
