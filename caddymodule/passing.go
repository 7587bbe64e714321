package caddymodule

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// logs are those of the configurations that run or start, the newest last. What outlives a
// configuration, as open stores do, logs to the newest: Caddy closes the outputs of one that has
// ended.
var logs struct {
	// mu protects the field below.
	mu sync.Mutex
	of []*App
	// newest is the last that there was.
	newest atomic.Pointer[slog.Logger]
}

// logTo makes the app's log the newest, until notTo.
func logTo(a *App) {
	logs.mu.Lock()
	defer logs.mu.Unlock()
	logs.of = append(logs.of, a)
	logs.newest.Store(a.log)
}

func notTo(a *App) {
	logs.mu.Lock()
	defer logs.mu.Unlock()
	if i := slices.Index(logs.of, a); i >= 0 {
		logs.of = slices.Delete(logs.of, i, i+1)
	}
	if n := len(logs.of); n > 0 {
		logs.newest.Store(logs.of[n-1].log)
	}
}

// passing is a logger for what may outlive the configuration of log.
func passing(log *slog.Logger) *slog.Logger { return slog.New(&passingHandler{own: log}) }

// passingHandler passes records on to the newest of logs.
type passingHandler struct {
	own *slog.Logger // until there is one
	// with gives a handler the attributes and groups of this one; nil for none.
	with func(slog.Handler) slog.Handler
}

func (h *passingHandler) logger() *slog.Logger { return cmp.Or(logs.newest.Load(), h.own) }

func (h *passingHandler) now() slog.Handler {
	now := h.logger().Handler()
	if h.with != nil {
		now = h.with(now)
	}
	return now
}

// Enabled implements slog.Handler.
func (h *passingHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.logger().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *passingHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.now().Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *passingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *passingHandler) WithGroup(name string) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *passingHandler) and(more func(slog.Handler) slog.Handler) slog.Handler {
	before := h.with
	return &passingHandler{h.own, func(to slog.Handler) slog.Handler {
		if before != nil {
			to = before(to)
		}
		return more(to)
	}}
}

var _ slog.Handler = (*passingHandler)(nil)
