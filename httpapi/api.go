package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Prefix of the API's paths, under the auth server's base path.
const Prefix = "/audit-log"

// Options of an API. Those of pointers are required.
type Options struct {
	Profile  *profile.Profile
	Sessions *recorder.Sessions
	// Redactor for inserted metadata; its MaxBytes is above MaxMetadataBytes. Its
	// key is the recorder's, so that both hash an identifier alike.
	Redactor *redact.Redactor
	Logger   *slog.Logger
	// Limiter is shared by all APIs of one store, and outlives a reload.
	Limiter *Limiter
	// TrustedOrigins may read and insert with cookies, besides the request's own
	// host; each is a scheme and host such as "https://app.example.com".
	TrustedOrigins []string
	// AdminRoles and AdminIDs are the roles and the users who may read everybody's
	// entries, both exactly as the auth server's session endpoint names them.
	AdminRoles, AdminIDs []string
	// MaxMetadataBytes and MaxMetadataDepth bound inserted metadata; 0 means the
	// plugin's 65536 and 5.
	MaxMetadataBytes, MaxMetadataDepth int
	// WithoutAddress and WithoutAgent leave a client's address and user agent out of what it inserts.
	WithoutAddress, WithoutAgent bool
	// Observer hears of inserted entries; nil for nobody.
	Observer recorder.Observer
	// Page serves the viewer's page, path "/", and its files, path "/viewer/<file>",
	// with headers of its own; nil: there is none. It shows nothing of anybody.
	Page func(w http.ResponseWriter, r *http.Request, path string)
	// Streams are those of the store; nil: nobody can follow it, and exports are not
	// bounded.
	Streams *Streams
}

// API answers the requests of one handler. It is safe for concurrent use.
type API struct {
	Options
	// operator is true for the operators' surface.
	operator bool
}

// New returns an API.
func New(o Options) *API {
	o.MaxMetadataBytes = cmp.Or(o.MaxMetadataBytes, recorder.DefaultMaxMetadata)
	o.MaxMetadataDepth = cmp.Or(o.MaxMetadataDepth, 5)
	return &API{Options: o}
}

// Call is what the HTTP edge adds to one request.
type Call struct {
	// Path under Prefix, still escaped, such as "/list".
	Path string
	// ClientIP as the server trusts it.
	ClientIP string
	// Asker reaches the auth server.
	Asker recorder.Asker
	// Params are the names of the query's parameters that the edge has read itself.
	Params []string
	// Store to read from.
	Store storage.Store
	// Writer to insert through.
	Writer *recorder.Writer
	// Door of the operators' surface; nobody else needs it.
	Door Door
	// Readings hear who reads the entries of others; nil: nobody does.
	Readings *Readings
	// Ending is done when the server begins to shut down, by a new configuration or
	// because the process ends; nil: never.
	Ending context.Context
	// Exiting says whether the process ends; nil: never.
	Exiting func() bool
}

// Path says whether a request is the API's: the path under Prefix, still escaped.
// Under Prefix, a path with dot segments is mine and ambiguous: it must be refused,
// never forwarded (threats.md C19). Any other spelling of Prefix is not mine: it
// goes upstream and is recorded like every path that nobody knows.
func Path(p *profile.Profile, u *url.URL) (path string, mine, ambiguous bool) {
	prefix := p.Base() + Prefix
	escaped := u.EscapedPath()
	rest, ok := strings.CutPrefix(escaped, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false, false
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if isDots(segment) {
			return rest, true, true
		}
	}
	return rest, true, false
}

// isDots recognises a dot segment in any spelling (WHATWG URL standard).
func isDots(segment string) bool {
	s := strings.ReplaceAll(strings.ToLower(segment), "%2e", ".")
	return s == "." || s == ".."
}

// request is one call under way.
type request struct {
	*API
	Call
	w       http.ResponseWriter
	r       *http.Request
	session recorder.Session
	ctx     context.Context
	// entered is true if the answer has its place among the large ones already.
	entered bool
}

// ending is Ending, never nil.
func (q *request) ending() context.Context {
	if q.Ending == nil {
		return context.Background()
	}
	return q.Ending
}

func (q *request) exiting() bool { return q.Exiting != nil && q.Exiting() }

// endpoint is what a method and path lead to.
type endpoint struct {
	serve func(*request)
	// body is true when the endpoint reads a JSON body, and so changes state or
	// is called like one that does.
	body bool
	// stream is true when the answer takes as long as it takes.
	stream bool
}

// route finds the endpoint: the plugin's own paths, and those that the client
// calls in the plugin's README really produce.
func route(method, path string) (endpoint, bool) {
	switch method + " " + path {
	case "GET /list", "GET /list-audit-logs":
		return endpoint{serve: (*request).list}, true
	case "POST /insert", "POST /insert-audit-log":
		return endpoint{serve: (*request).insert, body: true}, true
	case "POST /get-audit-log":
		return endpoint{serve: (*request).getByBody, body: true}, true
	}
	if method != http.MethodGet {
		return endpoint{}, false
	}
	return routeRead(path)
}

// routeRead finds the endpoints that both surfaces have.
func routeRead(path string) (endpoint, bool) {
	switch path {
	case "/list":
		return endpoint{serve: (*request).list}, true
	case "/access":
		return endpoint{serve: (*request).access}, true
	case "/histogram":
		return endpoint{serve: (*request).histogram}, true
	case "/tally":
		return endpoint{serve: (*request).tally}, true
	case "/tail":
		return endpoint{serve: (*request).tail, stream: true}, true
	case "/export":
		return endpoint{serve: (*request).export, stream: true}, true
	}
	id, ok := strings.CutPrefix(path, "/")
	if !ok || id == "" || strings.Contains(id, "/") {
		return endpoint{}, false
	}
	id, err := url.PathUnescape(id)
	if err != nil {
		return endpoint{}, false
	}
	return endpoint{serve: func(q *request) { q.get(id) }}, true
}

// Serve answers one request. The order of the checks: rate limit, route, media
// type, origin, session, validation (the plugin validates before it asks who is
// there; we do not tell strangers what a valid query is).
func (a *API) Serve(w http.ResponseWriter, r *http.Request, c Call) {
	q := &request{API: a, Call: c, w: w, r: r, ctx: r.Context()}
	q.head()
	if q.page() || q.preflight() || !q.allow("ip:"+clientKey(c.ClientIP)) {
		return
	}
	e, ok := route(r.Method, c.Path)
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if e.body && !(q.checkMediaType() && q.checkOrigin()) {
		return
	}
	if e.stream && !q.checkSite() {
		return
	}
	if q.authenticate() {
		e.serve(q)
	}
}

// head sets the headers of every answer.
func (q *request) head() {
	h := q.w.Header()
	h.Set("Cache-Control", "no-store, private")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'") // it is data, whoever looks at it
	h.Add("Vary", "Cookie, Authorization")
}

// page serves the viewer, which is the same for everybody: it asks for what it shows.
func (q *request) page() (served bool) {
	if q.Page == nil || q.r.Method != http.MethodGet && q.r.Method != http.MethodHead {
		return false
	}
	switch {
	case q.Path == "":
		q.w.Header().Set("Location", lastSegment(q.r.URL.EscapedPath())+"/")
		q.w.WriteHeader(http.StatusPermanentRedirect)
	case q.Path == "/", strings.HasPrefix(q.Path, "/viewer/"):
		q.Page(q.w, q.r, q.Path)
	default:
		return false
	}
	return true
}

// lastSegment is what a relative redirect to the same path begins with.
func lastSegment(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// checkSite keeps pages of other sites from starting, with a visitor's cookies, what
// keeps the server busy (Fetch metadata, Sec-Fetch-Site). They could not read it.
func (q *request) checkSite() bool {
	if q.r.Header.Get("Sec-Fetch-Site") != "cross-site" || slices.Contains(q.TrustedOrigins, q.r.Header.Get("Origin")) {
		return true
	}
	q.fail(http.StatusForbidden, "CROSS_SITE", "Pages of other sites may not ask for this")
	return false
}

// preflight lets the pages of trusted origins read the answers (Fetch standard,
// CORS protocol), and answers their preflight requests. Other origins get no CORS
// header at all.
func (q *request) preflight() (answered bool) {
	origin := q.r.Header.Get("Origin")
	if origin == "" || !slices.Contains(q.TrustedOrigins, origin) {
		return false
	}
	h := q.w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Add("Vary", "Origin")
	if q.r.Method != http.MethodOptions || q.r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", "Content-Type, Authorization")
	h.Set("Access-Control-Max-Age", "600")
	q.w.WriteHeader(http.StatusNoContent)
	return true
}

// allow takes one request from a key's allowance, or answers 429.
func (q *request) allow(key string) bool {
	if q.Limiter.Allow(key) {
		return true
	}
	q.w.Header().Set("Retry-After", "60")
	q.w.Header().Set("X-Retry-After", "60") // what the plugin's server sends
	q.fail(http.StatusTooManyRequests, "TOO_MANY_REQUESTS", "Too many requests. Please try again later.")
	return false
}

func (q *request) checkMediaType() bool {
	got := q.r.Header.Get("Content-Type")
	media, _, _ := strings.Cut(strings.ToLower(got), ";")
	if strings.TrimSpace(media) == "application/json" {
		return true
	}
	if got == "" && q.r.ContentLength == 0 {
		return true // no body at all: the validation says what is missing
	}
	q.fail(http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE",
		`Content-Type "`+storage.Clean(got, 100)+`" is not allowed. Allowed types: application/json`)
	return false
}

// checkOrigin keeps other sites from inserting with a visitor's cookies: with a
// cookie, a request must say that it comes from this host or a trusted origin.
func (q *request) checkOrigin() bool {
	if q.r.Header.Get("Cookie") == "" {
		return true
	}
	origin := q.r.Header.Get("Origin")
	if origin == "" || origin == "null" {
		q.fail(http.StatusForbidden, "MISSING_OR_NULL_ORIGIN", "Missing or null Origin")
		return false
	}
	u, err := url.Parse(origin)
	if err == nil && u.Host != "" && strings.EqualFold(u.Host, q.r.Host) || slices.Contains(q.TrustedOrigins, origin) {
		return true
	}
	q.fail(http.StatusForbidden, "INVALID_ORIGIN", "Invalid origin")
	return false
}

// authenticate asks the auth server who is there; nobody gets 401.
func (q *request) authenticate() bool {
	session, err := q.Sessions.Authorize(q.ctx, q.r.Header, q.Asker)
	switch {
	case err != nil:
		q.Logger.Warn("an audit log request was turned away", "error", err)
		q.w.Header().Set("Retry-After", "5")
		q.fail(http.StatusServiceUnavailable, "SESSION_UNAVAILABLE", "The auth server could not be asked who is signed in. Please try again later.")
		return false
	case session.UserID == "":
		q.fail(http.StatusUnauthorized, "UNAUTHORIZED", "Unauthorized")
		return false
	}
	q.session = session
	return q.allow("user:" + session.UserID)
}

// answer writes v as JSON.
func (q *request) answer(status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		q.Logger.Error("an audit log answer could not be written", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"message":"The answer could not be written","code":"INTERNAL_SERVER_ERROR"}`)
	}
	if len(b) > largeAnswer && q.Streams != nil && !q.entered {
		leave, ok := q.enter(&q.Streams.answers)
		if !ok {
			return
		}
		defer leave()
	}
	q.w.Header().Set("Content-Type", "application/json")
	q.w.WriteHeader(status)
	q.paced(b)
}

// largeAnswer is the size from which on an answer may stand in its client's way, and
// answerPart how much of it a client has streamPatience for.
const largeAnswer, answerPart = 64 << 10, 1 << 20

// paced writes an answer. A client that does not read a large one keeps it for a while only.
func (q *request) paced(b []byte) {
	if len(b) <= largeAnswer {
		_, _ = q.w.Write(b) // the client may be gone
		return
	}
	p := newPace(q.w, q.ending(), q.exiting)
	defer p.end()
	for part := range slices.Chunk(b, answerPart) {
		p.next()
		if _, err := q.w.Write(part); err != nil {
			return
		}
	}
}

// failure is the body of every error.
type failure struct {
	Message string `json:"message"`
	Code    string `json:"code"`
}

func (q *request) fail(status int, code, message string) {
	q.answer(status, failure{message, code})
}

// invalid answers 400 for a query or body that does not fit.
func (q *request) invalid(problems ...string) {
	q.fail(http.StatusBadRequest, "VALIDATION_ERROR", strings.Join(problems, "; "))
}

// storeFailed answers for a store that could not do it. If the client has left meanwhile it is
// not the store's failure; should it wait all the same, it may come again.
func (q *request) storeFailed(err error, message string) {
	if q.ctx.Err() != nil {
		q.w.Header().Set("Retry-After", "5")
		q.fail(http.StatusServiceUnavailable, "STORE_UNAVAILABLE", "The request ended before the audit log's database had answered. Please try again later.")
		return
	}
	if errors.Is(err, storage.ErrBadCursor) {
		q.invalid("[query.cursor] " + err.Error())
		return
	}
	if errors.Is(err, context.DeadlineExceeded) {
		q.w.Header().Set("Retry-After", "5")
		q.fail(http.StatusServiceUnavailable, "QUERY_TOO_SLOW", "The search took too long. Narrow it, for example with from and to")
		return
	}
	q.Logger.Error("the audit log's store failed", "error", err)
	if fault := (*storage.Fault)(nil); errors.As(err, &fault) { // it may work in a moment, and its words are the operator's
		q.w.Header().Set("Retry-After", "5")
		q.fail(http.StatusServiceUnavailable, "STORE_UNAVAILABLE", "The audit log's database cannot be asked. Please try again later.")
		return
	}
	q.fail(http.StatusInternalServerError, "INTERNAL_SERVER_ERROR", message)
}

// lacks answers 501 for an ability that the store does not have.
func (q *request) lacks(what string) {
	q.fail(http.StatusNotImplemented, "NOT_IMPLEMENTED", "This audit log's store cannot "+what+" entries")
}
