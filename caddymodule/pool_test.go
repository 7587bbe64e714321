package caddymodule

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// TestOptionsGoBackWithTheConfigurationThatBroughtThem: a database that is open for two
// configurations has the options of the newer one, until that fails to start.
func TestOptionsGoBackWithTheConfigurationThatBroughtThem(t *testing.T) {
	var has string
	open := func(options string) storage.Store {
		t.Helper()
		s, err := OpenSpilled(Spilled{
			Journal: filepath.Join(t.Name(), "journal"), Limit: -1, Logger: slog.New(slog.DiscardHandler),
			Open: func() (storage.Store, error) { has = options; return memory.New(0), nil },
			Join: func(ctx context.Context, _ storage.Store) error { has = options; return ctx.Err() },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	leave := func(s storage.Store, want string) {
		t.Helper()
		if err := s.(storage.Closer).Close(); err != nil || has != want {
			t.Errorf("%v, options of %q, want %q", err, has, want)
		}
	}
	a := open("a")
	b := open("b")
	leave(b, "a") // a reload that failed
	c := open("c")
	leave(a, "c") // one that did not
	leave(c, "c")
}

// TestWhatOutlivesAConfigurationLogsToTheOneThatRuns, whose outputs are open.
func TestWhatOutlivesAConfigurationLogsToTheOneThatRuns(t *testing.T) {
	p := pool(t, memory.New(0))
	var first, second bytes.Buffer
	to := func(b *bytes.Buffer) *App { return &App{log: slog.New(slog.NewTextHandler(b, nil))} }
	old, now := to(&first), to(&second)
	logTo(old)
	kept := p.log.With("store", "x").WithGroup("g")
	kept.Info("one", "n", 1)
	logTo(now)
	notTo(old)
	kept.Info("two", "n", 2)
	if got := first.String(); !strings.Contains(got, "msg=one store=x g.n=1") || strings.Contains(got, "two") {
		t.Errorf("the first: %s", got)
	}
	if got := second.String(); !strings.Contains(got, "msg=two store=x g.n=2") {
		t.Errorf("the second: %s", got)
	}
	failed := to(new(bytes.Buffer))
	logTo(failed)
	notTo(failed)
	kept.Info("three")
	if got := second.String(); !strings.Contains(got, "three") {
		t.Errorf("after a reload that failed: %s", got)
	}
	notTo(now)
	logs.newest.Store(nil)
}

// TestTheEndWaitsForNoStreamWhoseEntryIsWritten.
func TestTheEndWaitsForNoStreamWhoseEntryIsWritten(t *testing.T) {
	p := newPooledStore("test", func(context.Context, *slog.Logger) (storage.Store, error) { return memory.New(0), nil },
		filepath.Join(t.TempDir(), "hash.key"), slog.New(slog.DiscardHandler))
	if _, err := p.lease(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if p.awaitIdle() || time.Since(began) < writtenWait || time.Since(began) > exitWait-time.Second {
		t.Errorf("it waited for %s", time.Since(began))
	}
	p.closeNow()
}
