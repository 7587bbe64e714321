package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// storeHealth is what GET /audit-log/health says of one store.
type storeHealth struct {
	Store string `json:"store"`
	Path  string `json:"path,omitempty"`
	// State is healthy, degraded (the database fails, entries are kept in its journal)
	// or refusing (they are not taken).
	State storage.State `json:"state"`
	// Reason and Remedy say why and what to do, unless it is healthy.
	Reason storage.Reason `json:"reason,omitempty"`
	Remedy string         `json:"remedy,omitempty"`
	// Since is when the state began; null if nobody knows.
	Since *time.Time `json:"since"`
	// Waiting entries are in the journal, which has WaitingBytes of at most LimitBytes.
	Waiting      int   `json:"waiting"`
	WaitingBytes int64 `json:"waitingBytes"`
	LimitBytes   int64 `json:"limitBytes"`
	// Damaged parts of the journal were skipped since the start.
	Damaged uint64 `json:"damaged"`
	// Refused entries are in the database without their metadata, and whole in a file beside the
	// journal, since the start.
	Refused uint64 `json:"refused"`
	// LastError stays when the store is healthy again.
	LastError string `json:"lastError,omitempty"`
}

// serveHealth answers 503 when a store takes no entries, else 200: a degraded store
// loses nothing.
func serveHealth(w http.ResponseWriter, _ *http.Request) error {
	all, worst, known := []storeHealth{}, storage.Healthy, false
	for _, p := range pooledStores() {
		h, open := p.healthStatus()
		all = append(all, h)
		known = known || open
		if !open {
			continue // a configuration that starts opens it, if it can
		}
		if slices.Index(storage.States(), h.State) > slices.Index(storage.States(), worst) {
			worst = h.State
		}
	}
	if len(all) == 0 {
		return apiError(http.StatusNotFound, errors.New("the running configuration has no audit_log"))
	}
	if !known {
		worst = storage.Refusing
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if worst == storage.Refusing {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	_ = e.Encode(map[string]any{"state": worst, "stores": all}) // the client may be gone
	return nil
}

// healthStatus is the health in the form of the admin endpoint, and whether the store is open.
func (p *pooledStore) healthStatus() (storeHealth, bool) {
	c := p.now()
	h := c.health
	s := storeHealth{
		Store: p.backend(), Path: c.path, State: h.State, Reason: h.Reason, Remedy: h.Remedy,
		Waiting: h.Waiting, WaitingBytes: h.WaitingBytes, LimitBytes: h.LimitBytes, Damaged: h.Damaged, Refused: h.Refused,
	}
	if since := h.Since.UTC(); !h.Since.IsZero() {
		s.Since = &since
	}
	if h.Err != nil {
		s.LastError = h.Err.Error()
	}
	return s, c.open
}

// healthOf asks a store how it is. One that does not know is judged by its last write.
func healthOf(s storage.Store, stats recorder.Stats) storage.Health {
	if r, ok := storage.As[storage.Reporter](s); ok {
		return r.Health()
	}
	if stats.Failing == nil {
		return storage.Health{State: storage.Healthy}
	}
	f := storage.FaultOf("", stats.Failing)
	return storage.Health{State: storage.Refusing, Reason: f.Reason, Remedy: f.Remedy, Err: stats.Failing}
}
