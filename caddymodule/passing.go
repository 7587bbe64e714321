package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// passingHandler passes records on to a logger that may change: what outlives a configuration
// logs to the one that runs. Caddy closes the outputs of one that has ended.
type passingHandler struct {
	to *atomic.Pointer[slog.Logger]
	// with gives a handler the attributes and groups of this one; nil for none.
	with func(slog.Handler) slog.Handler
}

func (h *passingHandler) now() slog.Handler {
	now := h.to.Load().Handler()
	if h.with != nil {
		now = h.with(now)
	}
	return now
}

// Enabled implements slog.Handler.
func (h *passingHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.to.Load().Enabled(ctx, level)
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
	return &passingHandler{h.to, func(to slog.Handler) slog.Handler {
		if before != nil {
			to = before(to)
		}
		return more(to)
	}}
}

var _ slog.Handler = (*passingHandler)(nil)
