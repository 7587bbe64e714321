package wire

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// Server stands for the auth server. It gives each request the recorded answer,
// and says who is signed in as far as the recording proves it. It is safe for
// concurrent use; the exchanges come one after the other.
type Server struct {
	profile *profile.Profile

	// mu protects the fields below.
	mu     sync.Mutex
	oracle *replay.Oracle
	// current is the exchange under way, and answered says that its request has
	// arrived: from then on its answer's session exists.
	current  *replay.Exchange
	answered bool
	// problems are requests that a real auth server should not have got.
	problems []string
	lookups  int
}

// NewServer returns a Server for recordings of the profile's auth server.
func NewServer(p *profile.Profile, f *replay.File) *Server {
	return &Server{profile: p, oracle: replay.NewOracle(p, f)}
}

// Expect announces the next exchange.
func (s *Server) Expect(x *replay.Exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.answered = x, false
	s.oracle.Expect(x)
}

// Problems are what was wrong with the requests so far, and Lookups how often the
// session endpoint was asked.
func (s *Server) Problems() (problems []string, lookups int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems), s.lookups
}

func (s *Server) problem(format string, args ...any) {
	where := "before the first exchange"
	if s.current != nil {
		where = s.current.ID()
	}
	s.problems = append(s.problems, where+": "+fmt.Sprintf(format, args...))
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.Header.Get(exchangeHeader)
	switch {
	case err != nil:
		s.problem("reading the request's body: %v", err)
	case id == "":
		s.lookup(w, r)
		return
	case s.current == nil || id != strconv.Itoa(s.current.Seq) || s.answered:
		s.problem("%s %s came for %q", r.Method, r.RequestURI, id)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	s.answered = true
	s.oracle.Answered()
	s.inspect(r, body)
	answer(&s.current.Response, w)
}

// inspect compares what arrived with what the client sent.
func (s *Server) inspect(r *http.Request, body []byte) {
	want := &s.current.Request
	if r.Method != want.Method || r.RequestURI != want.Path {
		s.problem("%s %s arrived as %s %s", want.Method, want.Path, r.Method, r.RequestURI)
	}
	if !bytes.Equal(body, want.Wire()) {
		s.problem("a body of %d bytes arrived as another one of %d bytes", len(want.Wire()), len(body))
	}
	for name, values := range want.Headers {
		if ofConnection(name) || strings.HasPrefix(name, "X-Forwarded-") || namesHeaders(strings.Join(want.Headers["Connection"], ",")) {
			continue // a proxy's own
		}
		if got := r.Header[http.CanonicalHeaderKey(name)]; !slices.Equal(values, got) {
			s.problem("header %s %q arrived as %q", name, values, got)
		}
	}
}

// answer writes the recorded answer, chunked if it was.
func answer(r *replay.Response, w http.ResponseWriter) {
	h, body := w.Header(), r.Wire()
	h["Content-Type"], h["Date"] = nil, nil // not to be made up if the recording has none
	for name, values := range r.Headers {
		if !ofConnection(name) {
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	w.WriteHeader(r.Status)
	if slices.Contains(r.Headers["Transfer-Encoding"], "chunked") {
		_ = http.NewResponseController(w).Flush() // without a length net/http now sends chunks
	}
	_, _ = w.Write(body) // statuses and methods without a body refuse it; the client compares what it got
}

// lookup answers a question of the audit log: who has this session?
func (s *Server) lookup(w http.ResponseWriter, r *http.Request) {
	s.lookups++
	for name := range r.Header {
		if !s.mayAsk(name) {
			s.problem("the question has a header %s", name)
		}
	}
	status, body, problem := s.oracle.Answer(r)
	if problem != "" {
		s.problem("%s", problem)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the asker may be gone
}

// mayAsk says whether a look-up may have the header: credentials, and what every
// request through a proxy has.
func (s *Server) mayAsk(name string) bool {
	switch name {
	case "Cookie", "Accept", "Accept-Encoding", "User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host":
		return true
	}
	if name == "Content-Length" || slices.ContainsFunc(s.profile.Session, func(e *profile.Session) bool {
		return slices.ContainsFunc(e.Forward, func(h string) bool { return http.CanonicalHeaderKey(h) == name })
	}) {
		return true
	}
	return slices.ContainsFunc(s.profile.Credentials.Headers, func(h string) bool { return http.CanonicalHeaderKey(h) == name })
}
