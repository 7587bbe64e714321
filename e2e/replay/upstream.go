package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// Server stands for the auth server. It gives each request the recorded answer,
// and says who is signed in as far as the recording proves it. It is safe for
// concurrent use; the exchanges come one after the other.
type Server struct {
	profile *profile.Profile

	// mu protects the fields below.
	mu sync.Mutex
	// current is the exchange under way, and answered says that its request has
	// arrived: from then on its answer's session exists.
	current  *Exchange
	answered bool
	// problems are requests that a real auth server should not have got.
	problems []string
	lookups  int
}

// NewServer returns a Server for recordings of the profile's auth server.
func NewServer(p *profile.Profile) *Server { return &Server{profile: p} }

// Expect announces the next exchange.
func (s *Server) Expect(x *Exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.answered = x, false
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
	s.inspect(r, body)
	s.current.Response.replay(w)
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

// replay writes the recorded answer, chunked if it was.
func (r *Response) replay(w http.ResponseWriter) {
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

// lookup answers a question of the audit log: who has this session? It knows no
// more than the auth server's database did, before and after the exchange; what
// the exchange was meant to show (truth.user, truth.outcome) plays no part.
func (s *Server) lookup(w http.ResponseWriter, r *http.Request) {
	s.lookups++
	ask := s.profile.Session
	if ask == nil || s.current == nil {
		s.problem("nobody may ask %s %s", r.Method, r.RequestURI)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	target := s.profile.Base() + ask.Path
	if ask.Query != "" {
		target += "?" + ask.Query
	}
	if r.Method != http.MethodGet || r.RequestURI != target {
		s.problem("the question was %s %s, not GET %s", r.Method, r.RequestURI, target)
	}
	for name := range r.Header {
		if !s.mayAsk(name) {
			s.problem("the question has a header %s", name)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.session(r)) // the asker may be gone
}

// mayAsk says whether a look-up may have the header: credentials, and what every
// request through a proxy has.
func (s *Server) mayAsk(name string) bool {
	switch name {
	case "Cookie", "Accept", "Accept-Encoding", "User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host":
		return true
	}
	return slices.ContainsFunc(s.profile.Credentials.Headers, func(h string) bool { return http.CanonicalHeaderKey(h) == name })
}

// session is the answer to a look-up in the shape of Better Auth's get-session;
// nil, JSON null, means that nobody is signed in.
func (s *Server) session(r *http.Request) any {
	t := &s.current.Truth
	user, role, admin := "", "", ""
	switch {
	case s.answered && s.issued(r):
		user = t.ResponseSessionUserID
	case !s.sameCredentials(r):
		s.problem("the question has credentials that neither the request nor its answer has")
	case s.answered && t.RequestSessionStillValid != nil && !*t.RequestSessionStillValid:
	default:
		user, role, admin = t.RequestSessionUserID, t.RequestSessionRole, t.RequestSessionImpersonatedBy
	}
	if user == "" {
		return nil
	}
	return map[string]any{
		"session": map[string]any{
			"id": "replayed", "userId": user, "impersonatedBy": orNull(admin),
			"expiresAt": time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"),
		},
		"user": map[string]any{"id": user, "role": orNull(role), "email": "somebody@example.com"},
	}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// issued says whether a look-up's credentials are those that the recorded answer
// sets.
func (s *Server) issued(r *http.Request) bool {
	c, h := s.profile.Credentials, http.Header(s.current.Response.Headers)
	if cookie := profile.SetCookie(h, c.Cookies); cookie != "" {
		for pair := range strings.SplitSeq(r.Header.Get("Cookie"), ";") {
			name, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if profile.MatchName(c.Cookies, name) {
				return v == cookie // of two with one name the first counts
			}
		}
	}
	for _, name := range c.ResponseHeaders {
		token := h.Get(name)
		if token != "" && slices.ContainsFunc(c.Headers, func(n string) bool { return strings.HasSuffix(r.Header.Get(n), token) }) {
			return true
		}
	}
	return false
}

// sameCredentials says whether a look-up carries the request's credentials, all
// of them and as they were.
func (s *Server) sameCredentials(r *http.Request) bool {
	sent := http.Header(s.current.Request.Headers)
	if strings.Join(r.Header["Cookie"], "; ") != strings.Join(sent["Cookie"], "; ") {
		return false
	}
	return !slices.ContainsFunc(s.profile.Credentials.Headers, func(n string) bool { return r.Header.Get(n) != sent.Get(n) })
}
