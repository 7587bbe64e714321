package recorder

import (
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Durability says how durable an entry is before the client sees the answer.
type Durability uint8

// The durabilities. The zero value, Fsync, is the default.
const (
	// Fsync: on disk.
	Fsync Durability = iota
	// Commit: survives a killed process, not a power cut.
	Commit
	// Async: in a bounded queue; the answer waits for nothing.
	Async
)

// FailPolicy says what happens to a request whose entry cannot be written.
type FailPolicy uint8

// The policies.
const (
	// FailDefault: closed for destructive account and admin routes, open for all
	// else.
	FailDefault FailPolicy = iota
	// FailOpen: the request goes on; its entry is written later.
	FailOpen
	// FailClosed: the request is refused with 503. Signing out and revoking
	// sessions are never refused: an attacked user must be able to do both.
	FailClosed
)

// Capture says what of the request goes into entries.
type Capture struct {
	// IPAddress and UserAgent of the client.
	IPAddress, UserAgent bool
	// RequestBody, redacted, in the metadata.
	RequestBody bool
	// Session, as a keyed hash in the metadata (metadata.sessionHash).
	Session bool
}

// Options of a Recorder. All pointers are required.
type Options struct {
	Profile  *profile.Profile
	Sessions *Sessions
	Writer   *Writer
	Redactor *redact.Redactor
	Logger   *slog.Logger
	// Capture, Durability and Fail as documented at their types.
	Capture    Capture
	Durability Durability
	Fail       FailPolicy
	// Routes are the exceptions for single routes, by the route's template.
	Routes map[string]RouteOptions
	// OnlyRoutes records no other known route than those of Routes. What no
	// profile names, or can be read in more than one way, is recorded all the
	// same: it is how such a list would be evaded.
	OnlyRoutes bool
	// SkipChecks records no successful checks (profile.Checks).
	SkipChecks bool
	// RollUpAfter is how many failures of one kind (unknown paths, checks, sign-ins) one
	// client has in a minute before further ones are only counted, in one entry for the
	// minute; see rollup.go. 0 writes all singly. A crash loses the counts of a minute, the
	// end of the Writer none.
	RollUpAfter int
	// KeepUsers leaves the user's id in the entries of a deleted user.
	KeepUsers bool
	// Guessed says that the profile was guessed from signs that clients can bring about where a
	// server answers anything: the request's own words name nobody who acts, and nobody is unlinked.
	Guessed bool
	// MaxMetadata bounds an entry's metadata in bytes; 0 means 64 KiB.
	MaxMetadata int
	// Hooks are asked in order before an entry is written.
	Hooks []Hook
	// Observer hears of every entry; nil for nobody.
	Observer Observer
	// Recognize is given every finished exchange, with the whole path of its request,
	// and returns the Recorder that is to complete it, because the auth server was
	// recognised by it; nil for this one. It may be nil.
	Recognize func(x *profile.Exchange) *Recorder
	// Coverage tallies the routes that the profile does not name; nil for nobody.
	Coverage *Coverage
	// MaxRequestBody is how many bytes of a request's body are looked at; 0 means
	// 64 KiB.
	MaxRequestBody int
}

// RouteOptions are a route's own.
type RouteOptions struct {
	// Severity of its entries; nil for the usual one.
	Severity *severity.Level
	// Capture in place of Options.Capture; nil for that.
	Capture *Capture
	// Fail in place of Options.Fail; FailDefault for that.
	Fail FailPolicy
}

// Recorder makes entries of the exchanges of one handler. It is safe for
// concurrent use.
type Recorder struct {
	Options
	hookFailures atomic.Uint64
	agents       agents
	kept         rate.Sometimes // warns of users who stay in the log for that
}

// ErrRefused says that a request must be answered with 503, because its entry
// cannot be written and its route fails closed.
var ErrRefused = errors.New("the audit log cannot record this request")

// New returns a Recorder.
func New(o Options) (*Recorder, error) {
	if o.Profile == nil || o.Sessions == nil || o.Writer == nil || o.Redactor == nil || o.Logger == nil {
		return nil, errors.New("recorder: profile, sessions, writer, redactor and logger are required")
	}
	if o.MaxRequestBody == 0 {
		o.MaxRequestBody = 64 << 10
	}
	if o.MaxMetadata == 0 {
		o.MaxMetadata = DefaultMaxMetadata
	}
	if o.Sessions.Metrics != o.Writer.Metrics { // another Recorder may be using them
		o.Sessions.Metrics = o.Writer.Metrics
	}
	return &Recorder{Options: o, agents: agents{redactor: o.Redactor}, kept: rate.Sometimes{Interval: time.Minute}}, nil
}

// DefaultMaxMetadata is the plugin's limit of an entry's metadata.
const DefaultMaxMetadata = 64 << 10

// Wants says whether a request that matched is to be looked at. While the auth server
// is not recognised all are: the routes that are listed are the server's.
func (rec *Recorder) Wants(m profile.Match) bool {
	if !rec.OnlyRoutes || rec.Recognize != nil || m.Ambiguous || !m.Route.Known() {
		return true
	}
	_, listed := rec.Routes[m.Route.Path]
	return listed
}

// capture is what of a request goes into a route's entries.
func (rec *Recorder) capture(route *profile.Route) Capture {
	if c := rec.Routes[route.Path].Capture; c != nil {
		return *c
	}
	return rec.Capture
}

// HookFailures returns how often a hook failed, panicked or made an invalid entry.
func (rec *Recorder) HookFailures() uint64 { return rec.hookFailures.Load() }

// Facts are what only the HTTP edge knows of a request.
type Facts struct {
	// ClientIP of the client, as the server trusts it; "" if unknown.
	ClientIP string
	// RequestID to find the exchange in other logs.
	RequestID string
	// Asker reaches the auth server.
	Asker Asker
	// Edge is asked for the rest, if it is not nil.
	Edge Edge
	// Again is true of a request that has an entry already, of a try that has failed: it is an event
	// once more only if Edge says that a server has answered now.
	Again bool
}

// Edge tells what the HTTP server knows of a request once somebody asks. It is called by
// the goroutine that serves the request or writes its answer.
type Edge interface {
	// RequestID is asked for once at most, if Facts have none.
	RequestID() string
	// Answered returns the status that the auth server itself has answered, 0 while it
	// is not known: what the client is shown may be another (threats.md A31).
	Answered() int
}

// closed says whether a route fails closed. Only a destructive route can be
// refused before anything happened; see Options.Fail.
func (rec *Recorder) closed(route *profile.Route) bool {
	switch {
	case route.Class == "sign-out", route.Class == "session":
		return false
	case rec.Routes[route.Path].Fail != FailDefault:
		return rec.Routes[route.Path].Fail == FailClosed
	case rec.Fail == FailDefault:
		return route.Timing == profile.Before && (route.Class == "account" || route.Class == "admin")
	}
	return rec.Fail == FailClosed
}

// write stores the entry at once. The error is for those who fail
// closed; everybody else leaves the entry to the background. Observers hear of
// final entries only, not of intents: o is nil for those.
func (rec *Recorder) write(e storage.Entry, o Observer) error {
	err := rec.Writer.Write(rec.stored(&e), e)
	if err != nil {
		o = rec.Observer
	}
	rec.Writer.Tell(o, err, &e)
	return err
}

// errFull is why an intent is not stored: with Async it has no place in the queue, or its outcome
// would have none.
var errFull = errors.New("the audit log's queue is full")

// intend stores an intent. With Async it is in the queue; when that is full, what fails closed is
// refused, and what does not goes on without one (threats.md E6.2).
func (rec *Recorder) intend(e storage.Entry) error {
	if rec.Durability != Async {
		return rec.write(e, nil)
	}
	if !rec.Writer.Offer(rec.stored(&e), e, nil) {
		return errFull
	}
	return nil
}

// enqueue leaves the entry to the background.
func (rec *Recorder) enqueue(e storage.Entry, o Observer) { rec.Writer.Enqueue(rec.stored(&e), e, o) }

// stored is how durable an entry is once it is written: one that should worry somebody is
// on the disk, whatever is asked for.
func (rec *Recorder) stored(e *storage.Entry) storage.Durability {
	if rec.Durability == Fsync || e.Severity >= severity.High {
		return storage.Fsync
	}
	return storage.Commit
}

// Begin starts to record a request that m says is an event. It returns ErrRefused
// when the request must not be forwarded. Otherwise the caller serves the request
// with Writer() and then calls End, once, whatever happens.
func (rec *Recorder) Begin(w http.ResponseWriter, r *http.Request, m profile.Match, f Facts) (*Exchange, error) {
	if !m.Route.Known() {
		rec.Writer.Metrics.UnknownRoute()
	}
	x, err := rec.begin(w, r, m, f)
	if err == nil && !x.quiet {
		rec.Writer.underWay.add(x)
	}
	return x, err
}

func (rec *Recorder) begin(w http.ResponseWriter, r *http.Request, m profile.Match, f Facts) (*Exchange, error) {
	x := newExchange(rec, w, r, m, f)
	m = x.match
	if m.Route.Timing != profile.Before || m.Route.Record == profile.Never {
		return x, nil
	}
	x.resolveNow(r.Context())
	x.final = x.entry(storage.Unknown, 0)
	if !x.hooked(&x.final) {
		return x, nil
	}
	closed := rec.closed(m.Route)
	if err := x.intend(closed); err != nil && closed {
		rec.Writer.Metrics.Refused()
		rec.Writer.Metrics.Entry(m.Route.Class, storage.Failed)
		x.withheld = true
		x.forgo() // nothing has happened
		if e := x.entry(storage.Failed, http.StatusServiceUnavailable); x.hooked(&e) {
			rec.enqueue(e, rec.Observer)
		}
		x.release()
		return nil, ErrRefused
	}
	return x, nil
}

// since is the time since t in milliseconds, to the microsecond.
func since(t time.Time) float64 {
	return float64(time.Since(t).Microseconds()) / 1000
}
