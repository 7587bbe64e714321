package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/viewer"
)

func init() {
	caddy.RegisterModule(new(OperatorAPI))
}

// viewerPage serves the viewer's page and its files, under the API of each surface.
var viewerPage = viewer.Serve

// OperatorAPI shows the whole audit log at `/audit-log/` of its site, to people whom
// Caddy let in: by `basic_auth` (or whatever sets `{http.auth.user.id}`), a verified TLS
// client certificate, `forward_auth` (see allow_headers), or a server that listens only
// on loopback addresses and unix sockets. Everybody else gets 403. It only reads.
type OperatorAPI struct {
	// The store to show, as in the app. Default: the app's.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=audit_log.stores inline_key=backend"`

	// Headers of the answer of `forward_auth`, such as `Remote-User`: whoever the server
	// that it asked names in one of them is let in. What the client sends does not count.
	AllowHeaders []string `json:"allow_headers,omitempty"`

	pooled  *pooledStore
	poolKey string // of a store of its own
	log     *slog.Logger
	ending  *ending
}

// CaddyModule returns the Caddy module information.
func (*OperatorAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.audit_log_api", New: func() caddy.Module { return new(OperatorAPI) }}
}

// Provision sets up the handler. It opens and creates nothing.
func (o *OperatorAPI) Provision(ctx caddy.Context) error {
	o.log, o.ending = ctx.Slogger(), endingOf(ctx)
	for _, name := range o.AllowHeaders {
		if !isHeaderName(name) {
			return fmt.Errorf("bad allow_headers %q: give the name of a header, such as Remote-User", name)
		}
	}
	module, err := ctx.App("audit_log")
	if err != nil {
		return err
	}
	app := module.(*App)
	app.operators.Store(true)
	if o.pooled = app.pooled; o.StoreRaw == nil {
		return nil
	}
	store, err := ctx.LoadModule(o, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading the audit log's store: %w", err)
	}
	if err := app.keeps(store); err != nil {
		return err
	}
	if o.pooled, o.poolKey, err = acquire(store, app.keyFile, o.log); err == nil {
		app.beside = append(app.beside, o.pooled)
	}
	return err
}

// Cleanup ends what still runs, and gives the store back.
func (o *OperatorAPI) Cleanup() error {
	if o.ending != nil {
		o.ending.end()
	}
	if o.poolKey == "" {
		return nil
	}
	key := o.poolKey
	o.poolKey = ""
	_, err := stores.Delete(key)
	return err
}

func isHeaderName(name string) bool {
	return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (o *OperatorAPI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path, mine := strings.CutPrefix(r.URL.EscapedPath(), httpapi.Prefix)
	if !mine || path != "" && path[0] != '/' {
		return next.ServeHTTP(w, r)
	}
	store, err := o.pooled.lease()
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	defer o.pooled.release()
	store.operator.Serve(w, r, httpapi.Call{Path: path, ClientIP: clientIP(r), Store: store.store, Door: o.door(r), Readings: store.readings, Ending: o.ending, Exiting: caddy.Exiting})
	return nil
}

// door is what Caddy knows of whoever asks.
func (o *OperatorAPI) door(r *http.Request) httpapi.Door {
	d := httpapi.Door{Certificate: r.TLS != nil && len(r.TLS.VerifiedChains) > 0, Local: onlyLocal(r)}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return d
	}
	d.User, _ = repl.GetString("http.auth.user.id")
	// What reverse_proxy, which forward_auth is, got from the server that it asked.
	if status, _ := repl.Get("http.reverse_proxy.status_code"); isSuccess(status) {
		for _, name := range o.AllowHeaders {
			if v, _ := repl.GetString("http.reverse_proxy.header." + http.CanonicalHeaderKey(name)); v != "" {
				d.Forwarded = v
			}
		}
	}
	return d
}

func isSuccess(status any) bool {
	code, ok := status.(int)
	return ok && code >= 200 && code < 300
}

// onlyLocal says whether all addresses that the request's server listens on are this
// machine's own.
func onlyLocal(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || len(server.Listen) == 0 {
		return false
	}
	for _, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil || !addr.IsUnixNetwork() && !isLoopback(addr.Host) {
			return false
		}
	}
	return true
}

// newOperator is the operators' surface of a store.
func newOperator(redactor *redact.Redactor, streams *httpapi.Streams, log *slog.Logger) *httpapi.Operator {
	return httpapi.NewOperator(httpapi.OperatorOptions{Redactor: redactor, Logger: log, Page: viewerPage, Streams: streams})
}

// ending says when the answers of one handler that last have to end: its server begins
// to shut down, by a reload or at the end of the process.
type ending struct {
	context.Context
	end context.CancelFunc
}

// endingOf is the ending of the handler that is provisioned. Cleanup comes too late: it
// waits for all requests.
func endingOf(ctx caddy.Context) *ending {
	e := newEnding()
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(e.end)
	}
	return e
}

func newEnding() *ending {
	e := new(ending)
	e.Context, e.end = context.WithCancel(context.Background())
	return e
}

// errSeveralStores says that a request has to choose.
var errSeveralStores = errors.New("this process has several audit log stores: choose one (--store, ?store=, or \"store\" when pruning) by")

// serveEntries is the operators' surface on the admin endpoint.
func serveEntries(w http.ResponseWriter, r *http.Request) error {
	// Caddy's admin server gives a request ten seconds to be read, and the end of
	// them would end r.Context().
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	p, err := chooseStore(r.URL.Query().Get("store"))
	if err != nil {
		return err
	}
	store, err := p.lease()
	if err != nil {
		return apiError(http.StatusServiceUnavailable, err)
	}
	defer p.release()
	path := strings.TrimPrefix(r.URL.EscapedPath(), strings.TrimSuffix(adminEntries, "/"))
	if path == "/" || strings.HasPrefix(path, "/viewer/") {
		return apiError(http.StatusNotFound, errors.New("the page is not on the admin endpoint: use audit_log_api"))
	}
	store.operator.Serve(w, r, httpapi.Call{Path: path, Params: []string{"store"}, Store: store.store, Door: httpapi.Door{Decided: true}, Readings: store.readings, Ending: p.ending(), Exiting: caddy.Exiting})
	return nil
}

// path is the store's file while it is open, and log the name of the log in it; "" if it has none.
func (p *pooledStore) path() (path, log string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return "", ""
	}
	if named, ok := storage.As[interface{ Table() string }](p.open.store); ok {
		log = named.Table()
	}
	if named, ok := storage.As[interface{ Path() string }](p.open.store); ok {
		path = named.Path()
	}
	return path, log
}

// chooseStore finds an open store by its path, backend or table; the only one by "".
func chooseStore(name string) (*pooledStore, error) {
	var found []*pooledStore
	var names []string
	for _, p := range pooledStores() {
		path, log := p.path()
		names = append(names, strings.TrimSpace(p.backend()+" "+path+" "+log))
		if name == "" || name == p.backend() || name == path || name == log || name == path+" "+log {
			found = append(found, p)
		}
	}
	switch {
	case len(names) == 0:
		return nil, apiError(http.StatusNotFound, errors.New("the running configuration has no audit_log"))
	case len(found) == 0:
		return nil, apiError(http.StatusNotFound, fmt.Errorf("no audit log store %q here; there is: %s", name, strings.Join(names, ", ")))
	case len(found) > 1:
		return nil, apiError(http.StatusConflict, fmt.Errorf("%w a path, a table, both, or a backend of: %s", errSeveralStores, strings.Join(names, ", ")))
	}
	return found[0], nil
}

var (
	_ caddy.Provisioner           = (*OperatorAPI)(nil)
	_ caddy.CleanerUpper          = (*OperatorAPI)(nil)
	_ caddyhttp.MiddlewareHandler = (*OperatorAPI)(nil)
)
