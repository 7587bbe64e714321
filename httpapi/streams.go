package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/follow"
)

// How many answers that last may be open: for one client address or user, and in all.
const (
	maxTailsEach, maxTails     = 20, 1000
	maxExportsEach, maxExports = 4, 32
	// Of lists and the like that are large.
	maxAnswersEach, maxAnswers = 8, 64
)

// Streams are the answers of one store that last: tails and exports. It is shared by
// all surfaces of the store. Close ends tails, before the store is closed. It is safe
// for concurrent use.
type Streams struct {
	follower                *follow.Follower
	tails, exports, answers gate
}

// NewStreams returns the Streams of a store.
func NewStreams(store storage.Store, log *slog.Logger) *Streams {
	return &Streams{
		follower: follow.New(store, log),
		tails:    gate{each: maxTailsEach, all: maxTails, open: map[string]int{}},
		exports:  gate{each: maxExportsEach, all: maxExports, open: map[string]int{}},
		answers:  gate{each: maxAnswersEach, all: maxAnswers, open: map[string]int{}},
	}
}

// Wake says that this process has just written to the store.
func (s *Streams) Wake() { s.follower.Wake() }

// Close ends all tails, and returns when they use the store no more.
func (s *Streams) Close() { s.follower.Close() }

// gate bounds how much is open at once.
type gate struct {
	each, all int

	// mu protects the fields below.
	mu    sync.Mutex
	open  map[string]int // by key
	count int
}

// enter opens one for all keys. If it may not, status is 429 or 503.
func (g *gate) enter(keys ...string) (leave func(), status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count >= g.all {
		return nil, http.StatusServiceUnavailable
	}
	for _, key := range keys {
		if g.open[key] >= g.each {
			return nil, http.StatusTooManyRequests
		}
	}
	g.count++
	for _, key := range keys {
		g.open[key]++
	}
	return func() { g.leave(keys) }, 0
}

func (g *gate) leave(keys []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count--
	for _, key := range keys {
		if g.open[key]--; g.open[key] == 0 {
			delete(g.open, key)
		}
	}
}

// enter opens an answer that lasts, or answers why it may not be.
func (q *request) enter(g *gate) (leave func(), ok bool) {
	keys := []string{"ip:" + clientKey(q.ClientIP)}
	if q.session.UserID != "" {
		keys = append(keys, "user:"+q.session.UserID)
	}
	leave, status := g.enter(keys...)
	if status == 0 {
		return leave, true
	}
	q.w.Header().Set("Retry-After", "10")
	if status == http.StatusTooManyRequests {
		q.fail(status, "TOO_MANY_STREAMS", "Too many of these are open for this client or user. Close one first.")
	} else {
		q.fail(status, "TOO_MANY_STREAMS", "Too many of these are open. Please try again later.")
	}
	return nil, false
}

const (
	// streamPatience is how long a client may take to read what it was sent, before the
	// connection is cut; lastPatience when the server ends.
	streamPatience = 30 * time.Second
	lastPatience   = time.Second
)

// pace gives a client time to read, so that one that reads nothing holds nothing for
// ever. Writers without deadlines are in the process, or let their server decide.
type pace struct {
	// control is used by the goroutine of the answer only: Caddy's writers note deadlines
	// without a lock.
	control *http.ResponseController
	stop    func() bool

	// mu protects the fields below.
	mu sync.Mutex
	// until is when all ends, zero while nothing hurries.
	until time.Time
	over  bool
}

// newPace returns the pace of an answer that has to hurry when ending is done and last
// says so.
func newPace(w http.ResponseWriter, ending context.Context, last func() bool) *pace {
	p := &pace{control: http.NewResponseController(w)}
	connection := http.NewResponseController(innermost(w))
	p.stop = context.AfterFunc(ending, func() {
		if last() {
			p.hurry(connection)
		}
	})
	return p
}

// innermost is the writer of the server itself, whose deadlines anybody may set at any time
// (net.Conn says so, and HTTP/2 and HTTP/3 do alike).
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// mayLast takes away the deadline by which a request is to be read: a server that has one (Caddy's
// read_body) would end the request then, although it was read long ago, and with it the answer.
func mayLast(w http.ResponseWriter) {
	_ = http.NewResponseController(innermost(w)).SetReadDeadline(time.Time{}) // some have none
}

// hurry ends a write that is under way in time. It goes on saying so: a writer in between may
// set a deadline of its own at the same moment.
func (p *pace) hurry(connection *http.ResponseController) {
	until := time.Now().Add(lastPatience)
	for {
		p.mu.Lock()
		over := p.over
		if !over {
			p.until = until
			_ = connection.SetWriteDeadline(until)
		}
		p.mu.Unlock()
		if over {
			return
		}
		time.Sleep(lastPatience / 4)
	}
}

// next begins the time for what is written next.
func (p *pace) next() {
	p.mu.Lock()
	defer p.mu.Unlock()
	until := p.until
	if until.IsZero() {
		until = time.Now().Add(streamPatience)
	}
	_ = p.control.SetWriteDeadline(until)
}

// end lets the connection be used for other answers.
func (p *pace) end() {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.until.IsZero() {
		_ = p.control.SetWriteDeadline(time.Time{})
	}
}
