package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler records what passes through it to and from an auth server, and answers
// the `/audit-log` API under the auth server's base path.
//
// Put it in front of the whole site, not behind a path matcher: `/api/auth/*` does
// not match every spelling that an auth server executes (`//../`). It decides by
// itself what is an event, and leaves all other requests alone.
type Handler struct {
	// Whether exchanges are recorded. The API answers all the same. Default: true.
	Enabled *bool `json:"enabled,omitempty"`

	// What the auth server behind is: the name of a builtin profile
	// (`caddy audit-log profile list`), the path of a file of your own, or `auto`: it
	// is recognised by its traffic, and until then its paths are read as words
	// (`generic`). What was recognised, and by what, is in the log. Nothing is sent to
	// find out. Default: `auto`.
	Profile string `json:"profile,omitempty"`

	// The path under which the auth server's routes are. Default: the profile's own
	// (`/api/auth` for Better Auth), or what was recognised.
	BasePath string `json:"base_path,omitempty"`

	// How durable an entry is before the client sees the answer: `fsync` (on disk;
	// the default), `commit` (survives a killed process, not a power cut, which takes about
	// the last second; what is of severity high or critical is on disk) or `async` (in a bounded
	// queue of 10,000, written four times a second; the answer waits for nothing; a kill loses
	// what is queued, a power cut about the last second, but of what is written nothing that is
	// of severity high or critical; when the queue is full, destructive account and admin requests
	// are refused unless `fail` is open).
	Durability string `json:"durability,omitempty"`

	// What happens when an entry cannot be written: `open` (the request goes on,
	// the entry is written later) or `closed` (503). The default is closed for
	// destructive account and admin routes and open for all others. Signing out and
	// revoking sessions are never refused.
	Fail string `json:"fail,omitempty"`

	// What of the request goes into entries.
	Capture *Capture `json:"capture,omitempty"`

	// Options for single routes. With any, no other known route is recorded; what
	// the profile does not know, and paths that can be read in more than one way,
	// still are. Default: every route is recorded.
	Paths []PathOptions `json:"paths,omitempty"`

	// The routes whose entries are first written before the request is forwarded,
	// in place of the profile's own choice: templates such as `/sign-out`, or
	// beginnings such as `/revoke-*`. `off` alone means none.
	Before []string `json:"before,omitempty"`

	// How large the metadata of an entry may be.
	MetadataLimits *MetadataLimits `json:"metadata_limits,omitempty"`

	// Whether successful checks of who somebody is (session checks, userinfo, token
	// introspection, forward-auth) are recorded, with low severity. Refused ones
	// always are. Default: true.
	Checks *bool `json:"checks,omitempty"`

	// How many failures of one kind (paths that the profile does not know, checks and
	// token requests, sign-ins) one client has in a minute before further ones are only
	// counted, in one entry `audit-log:rolled-up:<kind>` for the minute; 1 to 10000. While
	// the flood goes on, further minutes have that entry alone. 0 writes every failure
	// singly, and lets anybody fill the disk. What succeeds, what administrators do and
	// what destroys something is always written singly. An IPv6 client is its /64. A
	// crash loses the counts of the minute that runs, an orderly stop none. Default: 20.
	RollUp *int `json:"rollup,omitempty"`

	// Whether a successful deletion of an account takes the user's id out of that
	// user's entries, which stay. Default: true.
	Unlink *bool `json:"unlink,omitempty"`

	// Who may read the entries of others through the API. Default: nobody.
	Admins *Admins `json:"admins,omitempty"`

	// How secrets in captured bodies and inserted metadata are replaced.
	Redact *Redact `json:"redact,omitempty"`

	// The URL to ask who is signed in, instead of the profile's path on the server
	// behind this handler. It must be https, or http to this machine.
	SessionEndpoint string `json:"session_endpoint,omitempty"`

	// Origins (`https://app.example.com`) whose pages may use the API with a user's
	// cookies, besides the site itself: read what that user may read, and insert.
	TrustedOrigins []string `json:"trusted_origins,omitempty"`

	// What happens to a request whose path different servers would read differently:
	// `record` (the default: it is recorded under its most severe reading and goes
	// on) or `reject` (recorded, and answered with 400).
	AmbiguousPath string `json:"ambiguous_path,omitempty"`

	Hooks

	app     *App
	log     *slog.Logger
	ending  *ending
	reading atomic.Pointer[reading]
	// bases are where the API may be before the server is recognised.
	bases      []string
	durability recorder.Durability
	fail       recorder.FailPolicy
	endpoint   *endpointAsker
	options    []byte // a digest of them

	first *reading // what reading was at the start
	// site is by what a recognition is kept over a reload; nil before the configuration starts.
	site atomic.Pointer[string]

	// making is held while one of the fields below is made.
	making sync.Mutex
	// run is made at the first request, because it needs the open store's key, and
	// again when the store was closed and opened since. firstRun is the one of the first
	// reading, which goes on until the server is known for certain.
	run, firstRun atomic.Pointer[running]
}

// Capture says what of a request goes into entries.
type Capture struct {
	// The client's address. Default: true.
	IPAddress *bool `json:"ip_address,omitempty"`
	// The User-Agent header, which the API never shows. Default: true.
	UserAgent *bool `json:"user_agent,omitempty"`
	// The request's body, up to 64 KiB, redacted. Default: false.
	RequestBody *bool `json:"request_body,omitempty"`
	// The session, as HMAC-SHA256 of its cookie or token with the app's key
	// (`metadata.sessionHash`): that of the request, or the one that a sign-in has issued.
	// It tells which entries came with the same token, and shows when another's was planted
	// or taken. Default: false.
	Session *bool `json:"session,omitempty"`
}

// Redact says how secrets are replaced.
type Redact struct {
	// `mask` (`[REDACTED]`, the default), `hash` (HMAC-SHA256 with the app's key) or
	// `remove`.
	Strategy string `json:"strategy,omitempty"`
	// Names of fields to redact, in place of the builtin list.
	Fields []string `json:"fields,omitempty"`
	// Names of fields to redact besides the builtin list.
	AddFields []string `json:"add_fields,omitempty"`
}

// PathOptions are the options of single routes.
type PathOptions struct {
	// The route's template, such as `/sign-in/email` or `/reset-password/:token`, or
	// the beginning of several, such as `/two-factor/*`. A path that the profile does
	// not know becomes a route of its own.
	Path string `json:"path"`
	// `low`, `medium`, `high` or `critical`. Default: inferred from the action.
	Severity string `json:"severity,omitempty"`
	// What of the request goes into entries. What is not given is as for all routes.
	Capture *Capture `json:"capture,omitempty"`
	// `open` or `closed`. Default: as for all routes.
	Fail string `json:"fail,omitempty"`
}

// MetadataLimits say how large metadata may be. What is captured is cut and marked;
// an insert that is larger is answered with 400.
type MetadataLimits struct {
	// Bytes of JSON, up to 1044480 (1 MiB less 4 KiB for the rest of an entry). Default: 65536.
	MaxBytes int `json:"max_bytes,omitempty"`
	// Levels of objects and arrays, up to 100. Default: 5.
	MaxDepth int `json:"max_depth,omitempty"`
}

// Admins are who may read the entries of others. Whether somebody is one is what
// the auth server's session endpoint says of the session, never anything that the
// request claims.
type Admins struct {
	// Roles, as the auth server names them: exact, each one enough.
	Roles []string `json:"roles,omitempty"`
	// User ids.
	IDs []string `json:"ids,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.audit_log", New: func() caddy.Module { return new(Handler) }}
}

// Provision sets up the handler. It opens and creates nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log, h.ending = ctx.Slogger(), endingOf(ctx)
	app, err := ctx.App("audit_log")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	if err := h.checkPaths(); err != nil {
		return err
	}
	first, err := h.firstReading()
	if err != nil {
		return err
	}
	h.first = first
	h.reading.Store(first)
	if h.options, err = h.digest(); err != nil {
		return err
	}
	h.app.handlers = append(h.app.handlers, h)
	if h.SessionEndpoint != "" {
		if h.endpoint, err = newEndpointAsker(h.SessionEndpoint); err != nil {
			return err
		}
	}
	if err := h.provisionHooks(ctx); err != nil {
		return err
	}
	return h.parseOptions()
}

// loadProfile finds a builtin profile or reads a file.
func loadProfile(name string) (*profile.Profile, error) {
	if !isFile(name) {
		return profile.Builtin(name)
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(name, true, true)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	p, err := profile.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Serving.

// marker is the variable that keeps a request which passes two handlers from
// being recorded twice: the edge of the one that does. It says when a handler behind has failed: what
// the server's routes for errors make of the request is another exchange, if another server has answered
// there. The variables themselves are written before the request is passed on only: then a goroutine of
// reverse_proxy may read them, while it dials.
const marker = "audit_log.recorded"

// mark marks a request as recorded; passed is the mark that it has already, nil without one.
func (e *edge) mark(passed *edge) *edge {
	if passed == nil {
		caddyhttp.SetVar(e.origin.Context(), marker, e)
		return e
	}
	passed.failed.Store(false)
	return passed
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if dropped := sanitizeForwarded(r.Header); dropped > 0 {
		if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted { // others' are replaced anyway
			h.app.pooled.sanitized.Add(dropped)
		}
	}
	now, match, mine := h.match(r)
	if now.known == profile.Nothing && h.maybeAPI(r.URL.Path) {
		if h.app.operators.Load() && isOperators(r.URL.EscapedPath()) {
			return next.ServeHTTP(w, r) // it may be for audit_log_api
		}
		return unrecognised(w)
	}
	if !mine && !h.isAPI(now, r) {
		return next.ServeHTTP(w, r)
	}
	passed, _ := caddyhttp.GetVar(r.Context(), marker).(*edge)
	if passed != nil && !passed.failed.Load() {
		return next.ServeHTTP(w, r)
	}
	store, err := h.app.pooled.lease()
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	defer h.app.pooled.release()
	run, err := h.running(store, now)
	if err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	e := &edge{nextAsker: nextAsker{origin: r, next: next}}
	e.before = e.placeholder(latency)
	asker := h.asker(e)
	if path, api, ambiguous := httpapi.Path(now.profile, r.URL); api {
		if !h.mayAuthorize(now) {
			return elsewhere(w)
		}
		e.mark(passed)
		return h.serveAPI(run, w, r, path, ambiguous, asker)
	}
	if h.Enabled != nil && !*h.Enabled || !run.recorder.Wants(match) {
		return next.ServeHTTP(w, r)
	}
	mark := e.mark(passed)
	if match.Ambiguous && h.AmbiguousPath == "reject" {
		next = caddyhttp.HandlerFunc(rejectAmbiguous)
	}
	err = run.record(w, r, next, match, e, recorder.Facts{ClientIP: clientIP(r), Asker: asker, Edge: e, Again: passed != nil})
	if err != nil {
		mark.failed.Store(true)
	}
	return err
}

// isAPI says whether a request is for the API although its path is nothing of the auth server's:
// where a profile of a whole site ignores what it does not know.
func (h *Handler) isAPI(now *reading, r *http.Request) bool {
	if !strings.Contains(r.URL.Path, httpapi.Prefix) || len(now.profile.Session) == 0 && h.endpoint == nil {
		return false // almost all; or nobody could be asked who is there
	}
	_, api, _ := httpapi.Path(now.profile, r.URL)
	return api
}

func rejectAmbiguous(w http.ResponseWriter, _ *http.Request) error {
	writeError(w, http.StatusBadRequest, "AMBIGUOUS_PATH", "The path can be read in more than one way. Send it in its plain form.")
	return nil
}

// writeError writes an error of our own. message and code need no escaping.
func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"message":%q,"code":%q}`, message, code) // the client may be gone
}

// running is what a handler has once its store is open.
type running struct {
	recorder *recorder.Recorder
	api      *httpapi.API
	store    *openStore
	reading  *reading
	sessions *recorder.Sessions
}

// running returns what the handler has for the store of the caller's lease and a
// reading.
func (h *Handler) running(store *openStore, now *reading) (*running, error) {
	place := &h.run
	if now == h.first {
		place = &h.firstRun
	}
	if run := place.Load(); run.is(store, now) {
		return run, nil
	}
	h.making.Lock()
	defer h.making.Unlock()
	before := place.Load()
	if before.is(store, now) {
		return before, nil
	}
	run, err := h.newRunning(store, now, before)
	if err == nil {
		place.Store(run)
	}
	return run, err
}

// is says whether it was made for the store and the reading; nil was for none.
func (run *running) is(store *openStore, now *reading) bool {
	return run != nil && run.store == store && run.reading == now
}

// sessionsOf returns what is known of the server's sessions. It stays when a server is
// only recognised with more certainty: what was learned before is as true as ever.
func sessionsOf(store *openStore, now *reading, before *running) (*recorder.Sessions, error) {
	if before != nil && before.store == store && before.reading.profile.Name == now.profile.Name && before.reading.profile.Base() == now.profile.Base() {
		return before.sessions, nil
	}
	return recorder.NewSessions(now.profile, store.key)
}

// newRunning makes what the handler has for a reading, in the place of before, which
// may be nil.
func (h *Handler) newRunning(store *openStore, now *reading, before *running) (*running, error) {
	sessions, err := sessionsOf(store, now, before)
	if err != nil {
		return nil, err
	}
	redactor, err := h.redactor(store.key, now.profile.Secrets)
	if err != nil {
		return nil, err
	}
	captured, observer := capture(recorder.Capture{IPAddress: true, UserAgent: true}, h.Capture), store.news.observer(h.app.out, h.afterLog)
	options := recorder.Options{
		Profile: now.profile, Sessions: sessions, Writer: store.writer, Redactor: redactor, Logger: h.log,
		Capture: captured, Durability: h.durability, Fail: h.fail,
		Routes: now.routes, OnlyRoutes: len(h.Paths) > 0, KeepUsers: h.Unlink != nil && !*h.Unlink, Guessed: now.guessed(), MaxMetadata: h.limits().MaxBytes,
		Hooks: h.beforeLog, Observer: observer, Coverage: store.coverage, SkipChecks: h.Checks != nil && !*h.Checks,
		RollUpAfter: h.rollUpAfter(),
	}
	if now.recognizer != nil {
		options.Recognize = func(x *profile.Exchange) *recorder.Recorder { return h.recognize(store, x) }
	}
	rec, err := recorder.New(options)
	if err != nil {
		return nil, err
	}
	admins := h.Admins
	if admins == nil {
		admins = new(Admins)
	}
	api := httpapi.New(httpapi.Options{
		AdminRoles: admins.Roles, AdminIDs: admins.IDs,
		Profile: now.profile, Sessions: sessions, Redactor: redactor, Logger: h.log, Limiter: store.limiter, TrustedOrigins: h.TrustedOrigins,
		MaxMetadataBytes: h.limits().MaxBytes, MaxMetadataDepth: h.limits().MaxDepth, Page: viewerPage, Streams: store.streams,
		WithoutAddress: !captured.IPAddress, WithoutAgent: !captured.UserAgent, Observer: observer,
	})
	return &running{recorder: rec, api: api, store: store, reading: now, sessions: sessions}, nil
}

func (h *Handler) serveAPI(run *running, w http.ResponseWriter, r *http.Request, path string, ambiguous bool, asker recorder.Asker) error {
	if ambiguous {
		return rejectAmbiguous(w, r)
	}
	run.api.Serve(w, r, httpapi.Call{Path: path, ClientIP: clientIP(r), Asker: asker, Store: run.store.store, Writer: run.store.writer, Readings: run.store.readings, Ending: h.ending, Exiting: caddy.Exiting})
	return nil
}

// record serves the request through the next handlers and makes its entry. Their
// panics are not caught: net/http and reverse_proxy use them to cut connections,
// and the entry is made while they pass.
func (run *running) record(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, m profile.Match, e *edge, f recorder.Facts) (err error) {
	x, err := run.recorder.Begin(w, r, m, f)
	if err != nil {
		exchange.WriteRefusal(w)
		return nil
	}
	returned := false
	defer func() {
		if endErr := x.End(err, statusOf(err), !returned); endErr != nil && returned {
			exchange.WriteRefusal(w)
			err = nil
		}
	}()
	e.passedOn = true
	err = next.ServeHTTP(x.Writer(), r)
	returned = true
	return err
}

// statusOf is the status that Caddy will answer for a handler's error; 200 for none.
func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	var handlerErr caddyhttp.HandlerError
	if errors.As(err, &handlerErr) && handlerErr.StatusCode != 0 {
		return handlerErr.StatusCode
	}
	return http.StatusInternalServerError
}

// clientIP is the client's address as Caddy trusts it, as entries have it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return storage.CleanAddress(ip)
}

// edge is what a recorder may ask of one request. The request is that of nextAsker.
type edge struct {
	nextAsker
	passedOn bool // to the next handler
	// before is the latency of a server that was asked before this handler, as forward_auth
	// does, which is a reverse_proxy too; nil if none was.
	before any
	// failed is true once a handler behind has failed; see marker.
	failed atomic.Bool
}

// The placeholders that a reverse_proxy sets when its server has answered.
const (
	latency    = "http.reverse_proxy.upstream.latency"
	statusCode = "http.reverse_proxy.status_code"
)

// placeholder is the value of one; nil if there is none.
func (e *edge) placeholder(name string) any {
	repl, ok := e.origin.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil
	}
	v, _ := repl.Get(name)
	return v
}

// Answered is the status that reverse_proxy has got, which handle_response and intercept
// may hide from the client.
func (e *edge) Answered() int {
	status, _ := e.placeholder(statusCode).(int)
	if status != 0 && e.before != nil && e.before == e.placeholder(latency) {
		return 0 // it is still what the other one has said
	}
	return status
}

// sanitizeForwarded drops forwarding headers that could move a request to another
// path: a Node adapter joins them into the URL that it routes by (threats.md X6).
// They get to the server only from a trusted proxy; Caddy replaces all others.
// A list, as proxies in a chain make it, moves nothing, and stays. It says how many it dropped.
func sanitizeForwarded(h http.Header) (dropped uint64) {
	if v, ok := h["X-Forwarded-Proto"]; ok && !eachListed(v, isScheme) {
		h.Del("X-Forwarded-Proto")
		dropped++
	}
	if v, ok := h["X-Forwarded-Host"]; ok && !eachListed(v, func(host string) bool { return !strings.ContainsAny(host, "/?#@\\ \t") }) {
		h.Del("X-Forwarded-Host")
		dropped++
	}
	return dropped
}

// eachListed says whether all elements of a header that is a list (RFC 9110 5.6.1) are as they
// should be.
func eachListed(lines []string, is func(string) bool) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			if !is(textproto.TrimString(element)) {
				return false
			}
		}
	}
	return true
}

func isScheme(s string) bool {
	switch strings.ToLower(s) {
	case "http", "https", "ws", "wss":
		return true
	}
	return false
}

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
