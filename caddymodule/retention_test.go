package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
)

const day = 24 * time.Hour

// writeOnly is a store that can do nothing else.
type writeOnly struct{}

func (writeOnly) Write(context.Context, ...storage.Entry) error { return nil }

// pool returns the pooled store of s; it closes with the test.
func pool(t *testing.T, s storage.Store) *pooledStore {
	t.Helper()
	p := newPooledStore("test|x", func(context.Context, *slog.Logger) (storage.Store, error) { return s, nil },
		filepath.Join(t.TempDir(), "hash.key"), slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := p.Destruct(); err != nil {
			t.Error(err)
		}
	})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheNewestRunningConfigurationSaysHowLongEntriesAreKept(t *testing.T) {
	p := pool(t, memory.New(0))
	keeps := func(when string, want time.Duration) {
		t.Helper()
		if got := p.now().retention.Keep; got != want {
			t.Errorf("%s: retention %v, want %v", when, got, want)
		}
	}
	a, b, c := new(App), new(App), new(App)
	claim := func(app *App, keep time.Duration) {
		t.Helper()
		if err := p.claim(app, keep, scope{}); err != nil {
			t.Fatal(err)
		}
	}
	claim(a, 90*day)
	keeps("after the start", 90*day)
	claim(b, 30*day)
	keeps("in a reload", 30*day)
	p.withdraw(b)
	keeps("after a reload that failed", 90*day)
	claim(c, 10*day)
	p.withdraw(a)
	keeps("after a reload", 10*day)
	p.withdraw(a)
	keeps("after a Stop without Start", 10*day)
	p.withdraw(c)
	keeps("after the end", 0)
}

func TestARetentionThatAStoreCannotKeepIsAnError(t *testing.T) {
	p := pool(t, writeOnly{})
	if err := p.claim(new(App), day, scope{}); !errors.Is(err, retention.ErrCannotDelete) || !strings.Contains(err.Error(), "use store sqlite, or remove retention") {
		t.Errorf("claim says %v", err)
	}
	if err := p.claim(new(App), 0, scope{}); err != nil {
		t.Errorf("without retention: %v", err)
	}
	if err := checkRetention(day, writeOnly{}); !errors.Is(err, retention.ErrCannotDelete) {
		t.Errorf("before it is open: %v", err)
	}
	for _, module := range []any{memory.New(0), new(SQLiteStore), nil} {
		if err := checkRetention(day, module); err != nil {
			t.Errorf("%T: %v", module, err)
		}
	}
	if err := checkRetention(time.Minute, nil); err == nil {
		t.Error("a retention of a minute was accepted")
	}
}

func TestPruneByHand(t *testing.T) {
	s := memory.New(0)
	for _, age := range []time.Duration{40 * day, 20 * day, 0} {
		e := storage.Entry{Action: "sign-out", CreatedAt: time.Now().Add(-age)}
		e.Sanitize()
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	p := pool(t, s)
	if _, err := p.prune(t.Context(), time.Now().Add(-30*day), true); !errors.Is(err, errCannotCount) || pruneStatus(err) != 501 {
		t.Errorf("a dry run on a store that cannot count: %v", err)
	}
	r, err := p.prune(t.Context(), time.Now().Add(-30*day), false)
	if err != nil || r.Deleted != 1 || r.Matched != 1 || r.Store != "test" || len(s.Entries()) != 3 { // the two that stay, and what says that one is gone
		t.Errorf("%+v, %v, %d entries left", r, err, len(s.Entries()))
	}
	if st := p.status(); st.Deleted != 1 || st.Retention != nil || !st.Open {
		t.Errorf("status %+v", st)
	}
	if n := p.leases.Load(); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

func TestAgesAreRead(t *testing.T) {
	for text, want := range map[string]time.Duration{"90d": 90 * day, "720h": 720 * time.Hour, "1h": time.Hour} {
		if got, err := parseAge(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "90", "-90d", "0", "59m", "x"} {
		if got, err := parseAge(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}
