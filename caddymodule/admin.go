package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// The admin endpoints.
const (
	adminStatus   = "/audit-log/status"
	adminPrune    = "/audit-log/prune"
	adminCoverage = "/audit-log/coverage"
	adminDoctor   = "/audit-log/doctor"
	adminHealth   = "/audit-log/health"
	// adminEntries is where the operators' surface begins.
	adminEntries = "/audit-log/entries/"
)

// maxAdminBody bounds the body of a request to the admin endpoints.
const maxAdminBody = 64 << 10

// adminAPI shows and prunes the open stores of this process on Caddy's admin
// endpoint:
//
//	GET  /audit-log/status
//	GET  /audit-log/coverage
//	GET  /audit-log/doctor
//	GET  /audit-log/health
//	POST /audit-log/prune   {"olderThan": "90d", "dryRun": true, "store": "..."}
//	GET  /audit-log/entries/...   the operators' surface, see docs/api.md
//
// It holds nothing itself: Caddy never cleans admin modules up.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.audit_log", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminStatus, Handler: only(http.MethodGet, serveStatus)},
		{Pattern: adminPrune, Handler: only(http.MethodPost, servePrune)},
		{Pattern: adminCoverage, Handler: only(http.MethodGet, serveCoverage)},
		{Pattern: adminDoctor, Handler: only(http.MethodGet, serveDoctor)},
		{Pattern: adminHealth, Handler: only(http.MethodGet, serveHealth)},
		{Pattern: adminEntries, Handler: only(http.MethodGet, serveEntries)},
	}
}

// only answers other methods with 405.
func only(method string, f caddy.AdminHandlerFunc) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != method {
			w.Header().Set("Allow", method)
			return apiError(http.StatusMethodNotAllowed, fmt.Errorf("use %s", method))
		}
		return f(w, r)
	}
}

func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

// storeStatus is what GET /audit-log/status says of one store.
type storeStatus struct {
	// Store is its backend, such as sqlite; Path its file, if it has one.
	Store string `json:"store"`
	Path  string `json:"path,omitempty"`
	// Open is false before the store was opened.
	Open bool `json:"open"`
	// Bytes on disk, if the store can say.
	Bytes *int64 `json:"bytes,omitempty"`
	// Written, Dropped and WriteErrors since the store was opened, see
	// recorder.Stats; Queued right now.
	Written     uint64 `json:"written"`
	Queued      int    `json:"queued"`
	Dropped     uint64 `json:"dropped"`
	WriteErrors uint64 `json:"writeErrors"`

	Retention *retentionStatus `json:"retention"` // null: entries are kept for ever
	// Deleted entries since the store was opened, by the retention or by hand.
	Deleted uint64 `json:"deleted"`
}

// retentionStatus is its part about the retention.
type retentionStatus struct {
	Keep        string     `json:"keep"`
	Every       string     `json:"every"`
	LastRun     *time.Time `json:"lastRun"` // null: not yet
	LastDeleted int        `json:"lastDeleted"`
	NextRun     time.Time  `json:"nextRun"`
	Error       string     `json:"error,omitempty"` // of the last run
}

// pooledStores returns the stores that configurations of this process hold, in the
// order of their names.
func pooledStores() []*pooledStore {
	var all []*pooledStore
	stores.Range(func(_, value any) bool {
		if p, ok := value.(*pooledStore); ok {
			all = append(all, p)
		}
		return true
	})
	slices.SortFunc(all, func(a, b *pooledStore) int { return strings.Compare(a.identity, b.identity) })
	return all
}

func serveStatus(w http.ResponseWriter, _ *http.Request) error {
	all := []storeStatus{}
	for _, p := range pooledStores() {
		all = append(all, p.status())
	}
	return writeJSON(w, map[string]any{"stores": all})
}

// status is now in the form of the admin endpoint.
func (p *pooledStore) status() storeStatus {
	c := p.now()
	s := storeStatus{
		Store: p.backend(), Path: c.path, Open: c.open, Deleted: c.retention.Deleted, Written: c.writer.Written,
		Queued: c.writer.Queued, Dropped: c.writer.Dropped, WriteErrors: c.writer.WriteErrors,
	}
	if c.sized {
		s.Bytes = &c.size
	}
	r := c.retention
	if r.Keep == 0 {
		return s
	}
	s.Retention = &retentionStatus{
		Keep: r.Keep.String(), Every: retention.Interval(r.Keep).String(), LastDeleted: r.LastDeleted, NextRun: r.NextRun.UTC(),
	}
	if last := r.LastRun.UTC(); !r.LastRun.IsZero() {
		s.Retention.LastRun = &last
	}
	if r.Err != nil {
		s.Retention.Error = r.Err.Error()
	}
	return s
}

// backend is the first part of the store's identity.
func (p *pooledStore) backend() string {
	name, _, _ := strings.Cut(p.identity, "|")
	return name
}

// pruneRequest is the body of POST /audit-log/prune.
type pruneRequest struct {
	// OlderThan is an age such as 90d, at least 1h.
	OlderThan string `json:"olderThan"`
	// DryRun only counts.
	DryRun bool `json:"dryRun"`
	// Store is the path or the backend of the store; it may be missing if there is only one.
	Store string `json:"store,omitempty"`
}

// pruneResult is what it says of one store.
type pruneResult struct {
	Store string `json:"store"`
	Path  string `json:"path,omitempty"`
	// Before is the time from which on entries stay.
	Before time.Time `json:"before"`
	// Matched entries are older; Deleted of them are gone: none in a dry run.
	Matched int `json:"matched"`
	Deleted int `json:"deleted"`
}

func servePrune(w http.ResponseWriter, r *http.Request) error {
	// Caddy's admin server gives a request ten seconds to be read, and the end of
	// them would end r.Context(); deleting may take minutes.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	var q pruneRequest
	d := json.NewDecoder(io.LimitReader(r.Body, maxAdminBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return apiError(http.StatusBadRequest, fmt.Errorf(`the body must be like {"olderThan": "90d", "dryRun": true}: %w`, err))
	}
	age, err := parseAge(q.OlderThan)
	if err != nil {
		return apiError(http.StatusBadRequest, fmt.Errorf("olderThan: %w", err))
	}
	p, err := chooseStore(q.Store)
	if err != nil {
		return err // with several stores nobody deletes in one that he did not mean
	}
	result, err := p.prune(r.Context(), time.Now().Add(-age), q.DryRun)
	if err != nil {
		return apiError(pruneStatus(err), fmt.Errorf("%s %s: %w (%d of %d entries were deleted)", result.Store, result.Path, err, result.Deleted, result.Matched))
	}
	return writeJSON(w, map[string]any{"stores": []pruneResult{result}})
}

func pruneStatus(err error) int {
	if errors.Is(err, retention.ErrCannotDelete) || errors.Is(err, errCannotCount) {
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// parseAge reads how old entries must be to be deleted by hand.
func parseAge(text string) (time.Duration, error) {
	age, err := caddy.ParseDuration(text)
	if err != nil || age < retention.MinKeep {
		return 0, fmt.Errorf("bad age %q: give at least %s, such as 90d or 720h", text, retention.MinKeep)
	}
	return age, nil
}

// errCannotCount says that a store is no storage.Counter.
var errCannotCount = errors.New("this audit log store cannot count entries (it does not implement storage.Counter)")

// prune deletes what is older from the open store, or counts it.
func (p *pooledStore) prune(ctx context.Context, before time.Time, dryRun bool) (pruneResult, error) {
	result := pruneResult{Store: p.backend(), Before: before.UTC().Truncate(time.Millisecond)}
	open, err := p.lease()
	if err != nil {
		return result, err
	}
	defer p.release()
	if named, ok := storage.As[interface{ Path() string }](open.store); ok {
		result.Path = named.Path()
	}
	err = result.prune(ctx, open.store, open.retention.Prune, dryRun)
	return result, err
}

// prune fills in the counts. A store that cannot count deletes all the same.
func (r *pruneResult) prune(ctx context.Context, s storage.Store, del func(context.Context, time.Time) (int, error), dryRun bool) error {
	counter, ok := storage.As[storage.Counter](s)
	if !ok && dryRun {
		return errCannotCount
	}
	var err error
	if ok {
		if r.Matched, err = counter.CountBefore(ctx, r.Before); err != nil {
			return err
		}
	}
	if dryRun {
		return nil
	}
	r.Deleted, err = del(ctx, r.Before)
	r.Matched = max(r.Matched, r.Deleted)
	return err
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	if err := e.Encode(v); err != nil {
		return apiError(http.StatusInternalServerError, err)
	}
	return nil
}

var _ caddy.AdminRouter = (*adminAPI)(nil)
