package recorder

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Exchange is one request that becomes one entry. It belongs to the goroutine
// that serves the request; the observer's hooks may run in the goroutine that
// writes the answer, never at the same time. After End it is another request's.
type Exchange struct {
	// mu is held while the entry is completed, or written because the process ends, and while
	// the exchange becomes another request's. The fields that this changes belong to whoever
	// holds it.
	mu sync.Mutex
	exchanged
}

// exchanged is what is of one request alone.
type exchanged struct {
	rec      *Recorder
	match    profile.Match
	facts    Facts
	observer *exchange.Observer
	body     *exchange.RequestBody
	// upload sees whether the request's body breaks off; it is body if that is not nil.
	upload *exchange.RequestBody

	// What the request said, taken before anybody below could change it.
	id          string
	began       time.Time
	method      string
	requestURI  string // only when its path was ambiguous
	query       string
	agent       string // the User-Agent as it was sent
	contentType string
	encoded     bool // the request's body has a content encoding
	mistyped    bool // the server may see another Content-Type
	creds       credentials
	capture     Capture
	request     *RequestFacts // what hooks are shown; nil while there are none
	sent        http.Header   // the request's, where a rule looks at it
	host        string
	url         *url.URL // the request's, while the auth server is not recognised
	ctx         context.Context

	// quiet is true while the exchange is most likely no event, see Recorder.quiet; whole is
	// what it is a part of then, also when it has turned out to be an event.
	quiet bool
	whole *quietExchange
	// asked and seen are what the rules look at, final is the entry, or that of the intent.
	asked profile.Exchange
	seen  profile.Answer
	final storage.Entry

	// actor is who acts, once known; resolved says that the auth server (or the
	// intent's look-up) was asked.
	actor    Session
	resolved bool
	// elsewhere is true when the request has a credential where the auth server cannot be asked
	// with it.
	elsewhere bool
	// unasked is true when the auth server could not be asked.
	unasked bool
	// step are the values that join this exchange with others of its flow.
	step []credential
	// intent is true when the entry was written before the request, and doubted when that
	// failed: the store may have it all the same.
	intent, doubted bool
	// promised is the place in the queue that is kept for the outcome, if one is.
	promised place
	// settled is true when the entry is written or queued, or there is to be none.
	settled bool
	// written is true when the entry is complete, or nothing is to be written.
	written bool
	// foreign is true when the request names another user than the one who acts.
	foreign bool
	// copying is true when the answer's body is copied while it passes.
	copying bool
	// list is where Interrupt finds the exchange, nil if nowhere; next and previous are its
	// neighbours there.
	list           *underWayList
	next, previous *Exchange
	// unlinked is whom its own success has taken out of the log.
	unlinked string
	// withheld is true when the client gets 503 instead of the answer.
	withheld bool
	// aborted is true when the handler panicked.
	aborted bool
	// cut is true when an entry says that the exchange was interrupted.
	cut bool
}

func newExchange(rec *Recorder, w http.ResponseWriter, r *http.Request, m profile.Match, f Facts) *Exchange {
	var x *Exchange
	if rec.quiet(m, r) {
		q := quietExchanges.Get().(*quietExchange)
		x, q.exchange.quiet, q.exchange.whole = &q.exchange, true, q
	} else {
		x = exchanges.Get().(*Exchange)
	}
	x.rec, x.match, x.facts, x.began, x.method, x.ctx, x.query = rec, m, f, time.Now(), profile.MethodOf(r), r.Context(), r.URL.RawQuery
	x.observe(exchange.New(w, r, x))
	if x.quiet {
		x.keep(r.Header)
		return x
	}
	x.id = storage.NewIDAt(x.began)
	x.takeRequest(r.Header)
	if m.Route.NeedsRequestHeader() {
		x.sent = sentHeader(r.Header)
		x.match = rec.Profile.Refine(m, &profile.Exchange{Answer: &profile.Answer{Query: x.query}, Method: x.method, Path: m.Path, SentHeader: x.sent})
		x.capture = rec.capture(x.match.Route)
	}
	if rec.Recognize != nil {
		u := *r.URL // handlers below may rewrite it
		x.url, x.host, x.sent = &u, r.Host, sentHeader(r.Header)
	}
	if len(rec.Hooks) > 0 {
		x.request = &RequestFacts{Method: r.Method, Path: m.Path, Host: r.Host, ClientIP: f.ClientIP, Header: r.Header.Clone()}
	}
	if m.Ambiguous {
		x.requestURI = r.RequestURI
	}
	if m.Route.NeedsRequestBody() || m.Route.NeedsAddresses() || x.capture.RequestBody || rec.Recognize != nil {
		x.body = exchange.TeeRequest(r, rec.MaxRequestBody)
		x.upload = x.body
	} else if !profile.IsSafe(x.method) {
		x.upload = exchange.TeeRequest(r, 0)
	}
	return x
}

// observe gives it the answer that it is about. Whoever still writes to an earlier one finds out.
func (x *Exchange) observe(o *exchange.Observer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.observer = o
}

// takeRequest takes what an entry needs of the request's header.
func (x *Exchange) takeRequest(h http.Header) {
	x.creds = x.rec.Sessions.credentialsOf(h, x.creds.headers)
	x.contentType = h.Get("Content-Type")
	x.encoded, x.mistyped = encoded(h), len(h["Content-Type"]) > 1 || hopByHop(h, "Content-Type")
	x.capture = x.rec.capture(x.match.Route)
	x.agent = h.Get("User-Agent")
	if x.facts.RequestID == "" && x.facts.Edge != nil {
		x.facts.RequestID = x.facts.Edge.RequestID()
	}
}

// encoded says whether a request's body has a content encoding: some servers undo it.
func encoded(h http.Header) bool {
	return slices.ContainsFunc(h["Content-Encoding"], func(coding string) bool { return coding != "" && !strings.EqualFold(coding, "identity") })
}

// sentHeader is the request's header as the server sees it: without what the client
// has named in Connection (threats.md X5).
func sentHeader(h http.Header) http.Header {
	sent := h.Clone()
	for name := range h {
		if hopByHop(h, name) {
			delete(sent, name)
		}
	}
	return sent
}

// Writer is what the next handler writes its answer to.
func (x *Exchange) Writer() http.ResponseWriter { return x.observer }

// BodyMode implements exchange.Hooks: the body of an answer is looked at where a
// rule needs it, and where an error says its code.
func (x *Exchange) BodyMode(o *exchange.Observer, status int, h http.Header) exchange.BodyMode {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.observer != o {
		return exchange.Pass // the handler has left somebody behind who writes
	}
	media := exchange.MediaType(h.Get("Content-Type"))
	switch {
	case exchange.IsJSON(media) && (status >= 400 || x.match.Route.NeedsBody()):
	case media == "text/html" && x.match.Route.NeedsPage():
		if x.rec.Durability != Async {
			return exchange.HoldPage
		}
	default:
		return exchange.Pass
	}
	if x.rec.Durability == Async {
		x.copying = true
		return exchange.Copy
	}
	return exchange.Hold
}

// Commit implements exchange.Hooks: it completes the entry before the client
// sees the answer. When a copy of the body is being made, End does it instead.
func (x *Exchange) Commit(o *exchange.Observer) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.observer != o || x.copying {
		return nil
	}
	return x.complete()
}

// End completes what is left when the handler has returned err, or has panicked.
// failedStatus is the status that the server will answer for err. It returns
// ErrRefused when the answer, none of which was sent yet, must be a 503.
func (x *Exchange) End(err error, failedStatus int, panicked bool) error {
	defer x.release()
	defer x.unlist()
	x.aborted = panicked
	status := http.StatusOK
	if err != nil {
		status = failedStatus
	} else if panicked {
		status = 0
	}
	finishErr := x.observer.Finish(status, panicked)
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.written {
		finishErr = errors.Join(finishErr, x.complete())
	}
	return finishErr
}

// release ends it. Whoever is in one of its methods since before has to wait for mu, and finds
// that it is another request's.
func (x *Exchange) release() {
	x.observer.Release()
	x.body.Release()
	if x.rec.Writer.underWay.watched.Load() {
		return
	}
	if whole := x.whole; whole != nil {
		x.reset()
		whole.kept = kept{}
		quietExchanges.Put(whole)
	} else {
		x.reset()
		exchanges.Put(x)
	}
}

// reset makes it as good as new, with the room that it has.
func (x *Exchange) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	headers, seen := x.creds.headers, x.seen
	clear(headers)
	seen.Reset()
	x.exchanged = exchanged{creds: credentials{headers: headers[:0]}, seen: seen}
}

// exchanges and quietExchanges have ended, and are used again: one has a kilobyte, and the
// collector's work is by what is allocated.
var (
	exchanges      = sync.Pool{New: func() any { return new(Exchange) }}
	quietExchanges = sync.Pool{New: func() any { return new(quietExchange) }}
)

// complete writes the finished entry, once. A bug of ours must not cost the
// client its answer, nor the log the fact that something happened. x.mu is held.
func (x *Exchange) complete() (err error) {
	if x.written {
		return nil
	}
	x.written = true
	defer x.forgo()
	defer func() {
		if p := recover(); p != nil {
			x.rec.Logger.Error("an entry could not be completed; this is a bug, please report it", "action", x.match.Route.ActionName(), "panic", p, "stack", string(debug.Stack()))
			if err = nil; x.withheld {
				err = ErrRefused
			}
			if !x.settled { // what happened is not to be overwritten
				x.rec.Writer.Metrics.Entry(x.match.Route.Class, storage.Unknown)
				x.enqueue(x.entry(storage.Unknown, x.observer.Status()))
			}
		}
	}()
	err = x.completeNow()
	x.forget()
	return err
}

// forget takes the user out again whom the entry names, and who was unlinked while the exchange was
// under way.
func (x *Exchange) forget() {
	if w := x.rec.Writer; x.final.UserID != x.unlinked && w.forgotten.since(x.final.UserID, x.began) {
		w.Unlink(x.final.UserID, x.rec.Durability != Async)
	}
}

func (x *Exchange) completeNow() error {
	if x.quiet {
		if x.uneventful() {
			return nil
		}
		x.wake()
	}
	answer := x.observed()
	if x.rec.Recognize != nil && !x.recognize(answer) {
		return nil
	}
	if x.match.Route.Deferred() {
		x.match = x.rec.Profile.Refine(x.match, answer)
	}
	answer.Route = x.match.Route
	if x.match.Route.Cookieless {
		x.creds = x.creds.withoutCookies()
	}
	if answer.Status == http.StatusUnsupportedMediaType {
		answer.Unread() // the server has not read it (RFC 9110 15.5.16): what stands there is no fact
	}
	outcome := x.outcome(answer)
	x.cover(answer, outcome)
	x.step = x.stepOf(answer)
	if !x.isEvent(answer, outcome) {
		x.settled = true
		x.follow(answer, nil)
		return nil
	}
	x.identify(answer, outcome)
	x.final = x.finished(answer, outcome)
	e := &x.final
	defer x.learn(answer, outcome)
	defer x.unlink(answer, outcome)
	kept := e
	defer func() { x.follow(answer, kept) }()
	if !x.hooked(e) {
		x.rec.Writer.Metrics.Suppressed()
		kept, x.settled = nil, true
		return nil
	}
	x.rec.Writer.Metrics.Entry(x.match.Route.Class, e.Status)
	if x.rolledUp(e, answer.Status) {
		x.settled = true
		return nil
	}
	return x.store(answer, outcome)
}

// store writes x.final, or leaves it to the background. The error is ErrRefused if the answer is to
// be withheld because it could not be written.
func (x *Exchange) store(answer *profile.Exchange, outcome storage.Status) error {
	e := &x.final
	if x.rec.Durability == Async {
		x.enqueue(*e)
		return nil
	}
	if x.rec.write(*e, x.rec.Observer) == nil {
		x.settled = true
		return nil
	}
	if x.rec.closed(x.match.Route) && !x.intent && !x.observer.Committed() {
		x.rec.Writer.Metrics.Refused()
		x.withheld = true
		*e = x.finished(answer, outcome)
		x.hooked(e)
		x.enqueue(*e) // what the upstream did is worth keeping all the same
		return ErrRefused
	}
	x.enqueue(*e)
	return nil
}

// intend writes the intent, with a place in the queue for the outcome first: once the request is
// sent, that must not be dropped. What fails closed is not written without one.
func (x *Exchange) intend(closed bool) error {
	x.promised = x.rec.Writer.promise(closed)
	if closed && x.promised.w == nil {
		return errFull
	}
	defer func() {
		if !x.begun() {
			x.forgo()
		}
	}()
	err := x.rec.intend(x.final)
	x.intent = err == nil
	x.doubted = err != nil && !errors.Is(err, errFull) && !errors.Is(err, storage.ErrRejected)
	return err
}

// begun says whether the store has the intent, or may have it: then it gets its outcome.
func (x *Exchange) begun() bool { return x.intent || x.doubted }

// forgo gives back a place that was promised and is not needed.
func (x *Exchange) forgo() {
	x.promised.free()
	x.promised = place{}
}

// enqueue leaves the outcome to the background, at the place that it was promised, if it was.
func (x *Exchange) enqueue(e storage.Entry) {
	x.settled = true
	p := x.promised
	if p.w != x.rec.Writer {
		x.rec.enqueue(e, x.rec.Observer)
		return
	}
	x.promised = place{}
	if i := (item{entry: e, durability: x.rec.stored(&e), observer: x.rec.Observer}); !p.keep(i) {
		p.w.miss(i)
	}
}

// unlink takes the user out of the log whose account was deleted. Not after a
// request that another server would have read as something else, nor after an answer
// that another server on the same site may have given: nobody may talk us into unlinking.
func (x *Exchange) unlink(a *profile.Exchange, outcome storage.Status) {
	if outcome != storage.Success || x.match.Route.Unlink == "" || x.rec.KeepUsers || x.match.Ambiguous || x.match.Doubtful || !x.carriedOut(a) {
		return
	}
	user := ""
	switch x.match.Route.Unlink {
	case "actor":
		user = x.actor.UserID
	case "target":
		user = x.target(a, outcome, profile.Source.Sure)
	}
	switch {
	case user == "":
	case x.rec.Guessed:
		x.rec.kept.Do(func() {
			x.rec.Logger.Warn("an account was deleted, as it seems, and its user stays in the audit log: the auth server is not known for certain. Name its profile in the configuration, and this does not happen; said once a minute at most", "profile", x.rec.Profile.Name)
		})
	default:
		x.unlinked = storage.CleanUserID(user)
		x.rec.Writer.Unlink(user, x.rec.Durability != Async)
	}
}

// carriedOut says whether the answer can mean that the server has done what only somebody with a
// credential may ask for. Some redirects ask for it again at another address, which makes nothing of it
// here; and applications answer whatever they are asked with a page.
func (x *Exchange) carriedOut(a *profile.Exchange) bool {
	switch status := a.Status; {
	case (status < 200 || status > 299) && status != http.StatusFound && status != http.StatusSeeOther:
		return false
	case status < 300 && exchange.MediaType(a.Header.Get("Content-Type")) == "text/html" && !x.match.Route.ByPage(a):
		return false
	}
	return x.match.Route.Anonymous || x.elsewhere || !x.creds.none()
}

// answer is what the profile's rules look at.
func (x *Exchange) answer() *profile.Answer {
	a := &x.seen
	a.Reset()
	a.Status, a.Header, a.Query = x.observer.Status(), x.observer.Header(), x.query
	body, complete := x.observer.Body()
	if complete {
		a.Body = decoded(body, a.Header.Get("Content-Encoding"))
	}
	media := exchange.MediaType(a.Header.Get("Content-Type"))
	a.Unseen = exchange.IsJSON(media) && (!complete || len(body) > 0 && !a.Readable())
	if x.method == http.MethodHead && exchange.IsJSON(media) && a.Header.Get("Content-Length") != "0" {
		a.Unseen = true // the document that would say how it ended stays with the server
	}
	if media == "text/html" {
		a.Page, a.Body = decoded(body, a.Header.Get("Content-Encoding")), nil
		a.PageUnseen = !complete || len(body) > 0 && a.Page == nil
	}
	return a
}

// recognize hands the exchange over to the Recorder of the server that it shows, if
// it does. It returns false when the exchange is nothing to that one.
func (x *Exchange) recognize(a *profile.Exchange) bool {
	under := a.Path
	a.Path, a.Host = x.url.Path, x.host
	rec := x.rec.Recognize(a)
	a.Path = under
	if rec == nil {
		return true
	}
	match, mine := rec.Profile.Match(x.method, x.url)
	if !mine || !rec.Wants(match) {
		return x.begun() // what is written gets its outcome
	}
	x.rec, x.match = rec, match
	x.creds = rec.Sessions.credentialsOf(x.sent, nil)
	a.Path, a.Route = match.Path, match.Route
	return true
}

// observed is the whole exchange as the profile's rules look at it.
func (x *Exchange) observed() *profile.Exchange {
	sent, body := x.sent, x.body.Copied()
	if sent == nil && x.creds.cookie != "" {
		sent = http.Header{"Cookie": {x.creds.cookie}} // addresses to be sent back to may stand there
	}
	x.asked = profile.Exchange{
		Answer: x.answer(), Method: x.method, Path: x.match.Path, Route: x.match.Route, SentHeader: sent,
		Sent: body.Bytes, SentType: x.contentType, SentUnseen: body.Truncated || (x.encoded || x.mistyped) && body.Seen > 0,
	}
	return &x.asked
}

// isEvent says whether the exchange is to be recorded at all.
func (x *Exchange) isEvent(a *profile.Exchange, outcome storage.Status) bool {
	if x.begun() {
		return true // it is written: it gets its outcome
	}
	switch x.match.Route.Record {
	case profile.Never:
		return false
	case profile.Failures:
		return outcome == storage.Failed || x.changesSession(a)
	case profile.Checks:
		return outcome == storage.Failed || outcome != profile.None && !x.rec.SkipChecks
	}
	return outcome != profile.None
}

// masked is the auth server's own status where it refused and the client is shown
// something else; 0 where it is not so.
func (x *Exchange) masked(a *profile.Exchange) int {
	if x.facts.Edge == nil || a.Status >= 400 {
		return 0
	}
	if status := x.facts.Edge.Answered(); status >= 400 {
		return status
	}
	return 0
}

// answered says whether a server is known to have answered.
func (x *Exchange) answered() bool { return x.facts.Edge != nil && x.facts.Edge.Answered() != 0 }

// answeredBy says whether a status may be the auth server's own. Another one is Caddy's word, also
// where somebody else was asked on the way (forward_auth) and what that has answered stands there.
func (x *Exchange) answeredBy(status int) bool {
	return x.facts.Edge == nil || x.facts.Edge.Answered() == status
}

// isPreflight says whether the answer is one to a browser that asks what pages of another origin may
// do (CORS, Fetch standard 3.2): no act, whatever it asks about. One that sets a cookie is more.
func (x *Exchange) isPreflight(a *profile.Exchange) bool {
	if !strings.EqualFold(x.method, http.MethodOptions) || a.Status < 200 || a.Status > 299 || len(a.Header["Set-Cookie"]) > 0 {
		return false
	}
	return a.Header.Get("Access-Control-Allow-Origin") != ""
}

func (x *Exchange) outcome(a *profile.Exchange) storage.Status {
	if x.facts.Again && !x.answered() {
		if x.begun() {
			return storage.Unknown
		}
		return profile.None
	}
	if x.masked(a) != 0 {
		return storage.Failed
	}
	if a.Status >= 500 && x.upload.Broken() && !x.answeredBy(a.Status) {
		return storage.Unknown // a server that acts before it has read all may have acted
	}
	if x.aborted && (x.copying || !x.observer.Committed()) && a.Status < 400 {
		return storage.Unknown // it died before anything, or the body that says how it ended, was to be seen
	}
	outcome := x.match.Route.Outcome(a)
	if outcome == storage.Failed && x.match.Doubtful && a.Status < 400 && x.match.Route.Disputed(a) {
		outcome = storage.Unknown // it may be the answer to what was done
	}
	if x.isPreflight(a) {
		outcome = profile.None
	}
	if x.match.Beyond && !x.speaksAsServer(a) {
		outcome = profile.None // an application has answered, or a file: the path is none of the server's
		if x.begun() {
			return storage.Unknown
		}
		return outcome
	}
	switch {
	case outcome != profile.None:
	case x.begun():
		return storage.Pending // the entry is written: it was a step that something else completes
	case !profile.IsSafe(x.method) && x.issued(a.Answer) != "":
		return storage.Success // whatever was asked for: somebody has a session now
	case x.match.Doubtful:
		return storage.Unknown // it may have been one of the routes for which it is an event
	}
	return outcome
}

// speaksAsServer says whether an answer looks like an auth server's own: JSON, a redirect, or a
// session.
func (x *Exchange) speaksAsServer(a *profile.Exchange) bool {
	return a.Status >= 300 && a.Status < 400 || exchange.IsJSON(a.Header.Get("Content-Type")) || x.issued(a.Answer) != ""
}

// changesSession says whether a route that should only read, or be a step, issued a
// credential or sent the client on: then it was more than that.
func (x *Exchange) changesSession(a *profile.Exchange) bool {
	if x.match.Route.Known() && x.match.Method {
		return !profile.IsSafe(x.method) && x.issued(a.Answer) != "" // pages begin sessions of nobody
	}
	redirected := a.Status >= 300 && a.Status < 400 && a.Status != http.StatusNotModified
	return redirected && !x.match.Route.Known() || x.issued(a.Answer) != ""
}

// issued is the session credential that the answer sets in a cookie and that the
// request did not carry; "" if there is none.
func (x *Exchange) issued(a *profile.Answer) string {
	v := profile.SetCookie(a.Header, x.rec.Profile.Credentials.Cookies)
	for _, t := range x.creds.tokens {
		if t.value == v {
			return ""
		}
	}
	return v
}
