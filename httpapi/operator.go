package httpapi

import (
	"log/slog"
	"net/http"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// OperatorOptions are those of an Operator. All may be zero.
type OperatorOptions struct {
	// Redactor hashes the parameter identifier as the recorder does; nil: the answer
	// is 400, and identifierHash is there instead.
	Redactor *redact.Redactor
	// Logger of what fails; nil logs nothing.
	Logger *slog.Logger
	// Page is as in Options.
	Page func(w http.ResponseWriter, r *http.Request, path string)
	// Streams are as in Options.
	Streams *Streams
}

// Operator shows the whole log to whom the Door of the call lets in. It reads and never
// writes, counts no requests, and lets no page of another site in. It is safe for
// concurrent use.
type Operator struct{ api *API }

// NewOperator returns an Operator.
func NewOperator(o OperatorOptions) *Operator {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	api := New(Options{Redactor: o.Redactor, Logger: o.Logger, Page: o.Page, Streams: o.Streams})
	api.operator = true
	return &Operator{api}
}

// Serve answers one request. Of the Call only Path, Store and Door need to be there.
func (o *Operator) Serve(w http.ResponseWriter, r *http.Request, c Call) {
	q := &request{API: o.api, Call: c, w: w, r: r, ctx: r.Context()}
	q.head()
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	w.Header().Set("Referrer-Policy", "no-referrer")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		q.fail(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "This audit log can only be read here: use GET")
		return
	}
	if !c.Door.lets(r) {
		q.fail(http.StatusForbidden, "NOT_LET_IN", howToOpen)
		return
	}
	if !q.sameSite() {
		q.fail(http.StatusForbidden, "CROSS_SITE", "Pages of other sites may not ask for this")
		return
	}
	if q.page() {
		return
	}
	e, ok := routeRead(c.Path)
	switch {
	case !ok:
		q.fail(http.StatusNotFound, "NOT_FOUND", "There is nothing at this path")
	case e.stream && r.Method == http.MethodHead:
		w.Header().Set("Allow", "GET")
		q.fail(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "Use GET")
	default:
		e.serve(q)
	}
}

// howToOpen says what makes a Door open.
const howToOpen = "The audit log is shown only to people whom Caddy let in. In front of audit_log_api use basic_auth, forward_auth with allow_header, " +
	"or TLS client certificates; or let its site listen on a loopback address or a unix socket only, and ask for localhost"

// Handler serves a store, at paths that begin below Prefix ("/list", "/tally"), to
// everybody: for a process that reads its own database.
func (o *Operator) Handler(store storage.Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.Serve(w, r, Call{Path: r.URL.EscapedPath(), Store: store, Door: Door{Decided: true}})
	})
}

// sameSite says whether no page of another site is behind the request, by what
// browsers say of it (Fetch metadata). A link from anywhere may lead to the page.
func (q *request) sameSite() bool {
	switch q.r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return true
	}
	toPage := q.Path == "" || q.Path == "/"
	return toPage && q.r.Header.Get("Sec-Fetch-Mode") == "navigate" && q.r.Header.Get("Sec-Fetch-Dest") == "document"
}
