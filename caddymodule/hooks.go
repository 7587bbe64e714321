package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/recorder/rule"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// hookNamespace is where guest modules are registered.
	hookNamespace = "audit_log.hooks"
	// slowHook is how long a hook may take before a warning.
	slowHook = 50 * time.Millisecond
	// stuckHook is how long before somebody is told of one that has not returned at all.
	stuckHook = 5 * time.Second
)

// HookModule is what a module in the namespace audit_log.hooks implements to see
// entries before they are written. It runs in the request's goroutine, before the
// client sees the answer, so it must be quick: what takes longer than 50 ms is
// logged.
//
// The entry is a copy that the hook may change and return, but for id and
// createdAt. Nil suppresses the entry. When it returns an error, panics, or
// returns an entry that is invalid (no action, an unknown status or severity,
// metadata that is no JSON object), the entry stays as it was. What it adds to the
// metadata is redacted.
//
// Requests that are under way when the configuration is replaced still come to the
// old configuration's hooks, also after their Cleanup.
type HookModule interface {
	BeforeLog(ctx context.Context, e *storage.Entry) (*storage.Entry, error)
}

// AfterLogModule is what a module in the namespace audit_log.hooks implements,
// also besides HookModule, to hear of entries that were written. It runs one
// entry at a time outside of any request; while it is busy up to 1,024 entries
// wait, and further ones pass it by and are counted. ctx ends when the store
// closes. What HookModule says of Cleanup holds here too.
type AfterLogModule interface {
	AfterLog(ctx context.Context, e storage.Entry)
}

// isHook says whether a module can be a hook.
func isHook(module any) bool {
	_, before := module.(HookModule)
	_, after := module.(AfterLogModule)
	return before || after
}

// Assignment gives a field of an entry the value of an expression.
type Assignment struct {
	// The field: `severity`, `status`, `action`, `ipAddress`, `userAgent` or
	// `metadata.<name>`.
	Field string `json:"field,omitempty"`
	// A CEL expression: a string for the fields of an entry, any JSON value for
	// metadata, where `null` removes the member.
	To string `json:"to,omitempty"`
}

// Hooks are what is asked about an entry before it is written, in this order: skip,
// set, guest modules.
type Hooks struct {
	// CEL expressions over `entry`, `request` and `identity`. An entry for which one
	// of them is true is not written.
	Skip []string `json:"skip,omitempty"`

	// What entries are changed to, in order.
	Set []Assignment `json:"set,omitempty"`

	// Guest modules, in order.
	HooksRaw []json.RawMessage `json:"hooks,omitempty" caddy:"namespace=audit_log.hooks inline_key=hook"`

	rules *rule.Rules
	// beforeLog are the recorder's hooks, guests the guest modules among them, afterLog
	// the guest modules that hear of written entries.
	beforeLog []recorder.Hook
	guests    []*guestHook
	afterLog  []*guestListener
}

// HookStats counts what became of calls of guest modules.
type HookStats struct {
	// Calls of BeforeLog and AfterLog.
	Calls uint64
	// Suppressed entries.
	Suppressed uint64
	// Failed calls: errors, panics and invalid entries. Panics of AfterLog count.
	Failed uint64
	// Slow calls: longer than 50 ms.
	Slow uint64
}

// provisionHooks compiles the rules and loads the guest modules.
func (h *Hooks) provisionHooks(ctx caddy.Context) error {
	log := ctx.Slogger()
	spec := rule.Spec{Logger: log}
	for _, text := range h.Skip {
		spec.Skip = append(spec.Skip, rule.Expr{Text: text})
	}
	for _, a := range h.Set {
		if a.Field == "" {
			return errors.New("set needs a field")
		}
		spec.Set = append(spec.Set, rule.SetExpr{Field: a.Field, Expr: rule.Expr{Text: a.To}})
	}
	var err error
	if h.rules, err = rule.Compile(spec); err != nil {
		return err
	}
	if !h.rules.Empty() {
		h.beforeLog = append(h.beforeLog, h.rules)
	}
	if h.HooksRaw == nil {
		return nil
	}
	modules, err := ctx.LoadModule(h, "HooksRaw")
	if err != nil {
		return fmt.Errorf("loading the hooks: %w", err)
	}
	for _, module := range modules.([]any) {
		if err := h.add(module, log); err != nil {
			return err
		}
	}
	return nil
}

// add takes a guest module in.
func (h *Hooks) add(module any, log *slog.Logger) error {
	if !isHook(module) {
		return fmt.Errorf("%T is no hook: it must implement caddymodule.HookModule or caddymodule.AfterLogModule", module)
	}
	name := fmt.Sprintf("%T", module)
	if m, ok := module.(caddy.Module); ok {
		name = string(m.CaddyModule().ID)
	}
	if m, ok := module.(HookModule); ok {
		g := &guestHook{module: m, guest: guest{name: name, log: log}}
		h.guests, h.beforeLog = append(h.guests, g), append(h.beforeLog, g)
	}
	if m, ok := module.(AfterLogModule); ok {
		h.afterLog = append(h.afterLog, &guestListener{module: m, guest: guest{name: name, log: log}})
	}
	return nil
}

// hookStats returns the counts of all guest modules together.
func (h *Hooks) hookStats() HookStats {
	var sum HookStats
	for _, g := range h.guests {
		g.addTo(&sum)
	}
	for _, g := range h.afterLog {
		g.addTo(&sum)
	}
	return sum
}

// guest is what is the same for both kinds of guest module.
type guest struct {
	name string
	log  *slog.Logger

	calls, suppressed, failed, slow atomic.Uint64
	warnings                        throttle
}

func (g *guest) addTo(s *HookStats) {
	s.Calls += g.calls.Load()
	s.Suppressed += g.suppressed.Load()
	s.Failed += g.failed.Load()
	s.Slow += g.slow.Load()
}

// guard calls f, counts and times it, and turns a panic into an error.
func (g *guest) guard(f func() error) (err error) {
	g.calls.Add(1)
	began := time.Now()
	stuck := time.AfterFunc(stuckHook, func() {
		g.log.Error("a hook has not returned: the request and its entry wait for it", "hook", g.name, "after", stuckHook)
	})
	defer stuck.Stop()
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("a hook panicked", "hook", g.name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s panicked", g.name)
		}
		if err != nil {
			g.failed.Add(1)
		}
		took := time.Since(began)
		if took <= slowHook {
			return
		}
		if g.slow.Add(1); g.warnings.allow() {
			g.log.Warn("a hook is slow", "hook", g.name, "took", took, "slow", g.slow.Load())
		}
	}()
	return f()
}

// guestHook is a guest module as a hook of the recorder.
type guestHook struct {
	module HookModule
	guest
}

// BeforeLog implements recorder.Hook. When it returns an error the draft is as it
// was.
func (g *guestHook) BeforeLog(ctx context.Context, d *recorder.Draft) error {
	return g.guard(func() error {
		try := *d.Entry
		try.Metadata = bytes.Clone(try.Metadata)
		result, err := g.module.BeforeLog(ctx, &try)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		if result == nil {
			g.suppressed.Add(1)
			d.Skip = true
			return nil
		}
		if err := checkResult(result); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		made := *result // the module may keep its own
		made.ID, made.CreatedAt, made.Metadata = d.Entry.ID, d.Entry.CreatedAt, bytes.Clone(made.Metadata)
		*d.Entry = made
		return nil
	})
}

// checkResult says whether an entry that a hook made can be stored.
func checkResult(e *storage.Entry) error {
	switch {
	case e.Action == "":
		return errors.New("the entry is invalid: it has no action")
	case !e.Status.Valid():
		return errors.New("the entry is invalid: its status must be success, failed, pending or unknown")
	case e.Severity > severity.Critical:
		return errors.New("the entry is invalid: its severity is unknown")
	case len(e.Metadata) > storage.MaxMetadata:
		return fmt.Errorf("the entry is invalid: its metadata has more than %d bytes", storage.MaxMetadata)
	case len(e.Metadata) > 0 && (e.Metadata[0] != '{' || !json.Valid(e.Metadata)):
		return errors.New("the entry is invalid: its metadata is no JSON object")
	}
	return nil
}

// guestListener is a guest module that hears of written entries.
type guestListener struct {
	module AfterLogModule
	guest
}

// afterLog tells the module of an entry.
func (g *guestListener) afterLog(ctx context.Context, e storage.Entry) {
	e.Metadata = bytes.Clone(e.Metadata)
	_ = g.guard(func() error { // a panic, which is logged and counted
		g.module.AfterLog(ctx, e)
		return nil
	})
}

// throttle lets one warning a second through. The zero value is ready.
type throttle struct{ last atomic.Int64 }

func (t *throttle) allow() bool {
	now, last := time.Now().UnixNano(), t.last.Load()
	return now-last >= int64(time.Second) && t.last.CompareAndSwap(last, now)
}

var _ recorder.Hook = (*guestHook)(nil)
