package e2e

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

func init() {
	caddy.RegisterModule(panicHandler{})
	caddy.RegisterModule(new(failingStore))
	httpcaddyfile.RegisterHandlerDirective("e2e_panic", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := new(panicHandler)
		h.Next()
		h.Args(&p.When)
		return p, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("e2e_panic", httpcaddyfile.Before, "reverse_proxy")
}

// panicHandler is a handler that misbehaves.
type panicHandler struct {
	// When: "before" or "after" the head, in the middle of "held" JSON, "twice" (a
	// second WriteHeader, no panic), or "silent" (sets headers, writes nothing).
	When string `json:"when,omitempty"`
}

func (panicHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_panic", New: func() caddy.Module { return new(panicHandler) }}
}

func (p panicHandler) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	w.Header().Set("Set-Cookie", "better-auth.session_token=secret")
	w.Header().Set("Content-Type", "application/json")
	switch p.When {
	case "silent":
		return nil
	case "twice":
		w.WriteHeader(http.StatusOK)
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"twice":true}`))
		return nil
	case "after":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	case "held":
		_, _ = w.Write([]byte(`{"half":`))
		_ = http.NewResponseController(w).Flush()
	}
	panic("on purpose")
}

// errStoreDown is what a failing store says.
var errStoreDown = errors.New("the store is down on purpose")

// failingStores are the switches of the failing failingStores by name.
var failingStores sync.Map

// failingStore is a store that fails while its switch is on.
type failingStore struct {
	Name string `json:"name,omitempty"`
	sw   *storeSwitch
}

// storeSwitch is a test's hold on a failing store.
type storeSwitch struct {
	*memory.Store
	// down makes Write fail, after ok more calls; failures counts those that did.
	down     atomic.Bool
	ok       atomic.Int32
	failures atomic.Int32
}

func newFailingStore(t *testing.T) *storeSwitch {
	t.Helper()
	s := &storeSwitch{Store: memory.New(0)}
	failingStores.Store(t.Name(), s)
	t.Cleanup(func() { failingStores.Delete(t.Name()) })
	return s
}

func (*failingStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.stores.e2e_failing", New: func() caddy.Module { return new(failingStore) }}
}

func (f *failingStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&f.Name)
	return nil
}

func (f *failingStore) Provision(caddy.Context) error {
	sw, ok := failingStores.Load(f.Name)
	if !ok {
		return errors.New("no test has made this store")
	}
	f.sw = sw.(*storeSwitch)
	return nil
}

// Write implements storage.Store.
func (f *failingStore) Write(ctx context.Context, entries ...storage.Entry) error {
	if f.sw.down.Load() && f.sw.ok.Add(-1) < 0 {
		f.sw.failures.Add(1)
		return errStoreDown
	}
	return f.sw.Store.Write(ctx, entries...)
}
