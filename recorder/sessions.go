package recorder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// lookupTimeout bounds the questions to the session endpoints that one request makes.
	lookupTimeout = 2 * time.Second
	// maxLookups bounds the questions under way at once (threats.md C12).
	maxLookups = 20
	// maxAuthorisations bounds those of them that are asked for readers of the log: a
	// flood of them must not make people wait who use the auth server itself.
	maxAuthorisations = 10
	// MaxSessionBody bounds the answer of the session endpoint (a user's image may stand in
	// it as a data URL, and users choose theirs).
	MaxSessionBody = 4 << 20
	// maxOwners bounds the memory of whose a credential is.
	maxOwners = 20000
	// verdictLife is how long the API believes an answer (DESIGN section 4).
	verdictLife = 5 * time.Second
	maxVerdicts = 5000
)

// Session is what the auth server says of a credential. The zero value means
// that nobody is signed in with it.
type Session struct {
	// UserID of the session's user.
	UserID string
	// ImpersonatedBy is the administrator who acts as the user, if any.
	ImpersonatedBy string
	// Partial is true of a session that still owes a factor.
	Partial bool
	// Roles of the user, as the server names them.
	Roles []string
	// Identifier is what the user signs in with, if the answer says it and, of an
	// address, that it was verified.
	Identifier string
}

// Asker sends a request to the auth server and returns its answer, the body up
// to MaxSessionBody. The request carries a path and query, the client's
// credentials and nothing else; the Asker adds the client's address.
type Asker interface {
	Ask(r *http.Request) (status int, body []byte, err error)
}

// ErrLookup says that the auth server could not be asked: the answer is neither
// yes nor no.
var ErrLookup = errors.New("the auth server did not say who is signed in")

// Sessions asks the auth server who credentials belong to and remembers what
// exchanges have shown. It never keeps a credential, only a keyed hash of it.
// It is safe for concurrent use.
type Sessions struct {
	// Metrics counts look-ups; New of a Recorder sets it. nil counts nothing.
	Metrics *Metrics

	profile  *profile.Profile
	kept     []string // names of the header fields that an entry may need, see kept
	keyed    *redact.Keyed
	owners   *lru.Cache[credential, Session]
	flows    *flows
	verdicts *lru.Cache[credential, verdict]
	flight   singleflight.Group
	slots    chan struct{}
	readers  chan struct{}  // slots of Authorize
	warning  rate.Sometimes // that the auth server could not be asked
	now      func() time.Time

	// doubts counts the times that verdicts were dropped: a look-up that was under
	// way meanwhile must not bring an old one back.
	doubts  atomic.Uint64
	watches watches
}

// credential is a keyed hash of one credential, or of all that a request has.
type credential [16]byte

type verdict struct {
	session Session
	until   time.Time
}

// NewSessions returns a Sessions for the profile. key is a secret of at least 32
// bytes.
func NewSessions(p *profile.Profile, key []byte) (*Sessions, error) {
	owners, err := lru.New[credential, Session](maxOwners)
	if err != nil {
		return nil, err
	}
	verdicts, err := lru.New[credential, verdict](maxVerdicts)
	if err != nil {
		return nil, err
	}
	flows, err := newFlows()
	if err != nil {
		return nil, err
	}
	return &Sessions{profile: p, kept: keptOf(p), keyed: redact.NewKeyed(key), owners: owners, flows: flows, verdicts: verdicts, slots: make(chan struct{}, maxLookups), readers: make(chan struct{}, maxAuthorisations), warning: rate.Sometimes{Interval: time.Second}, now: time.Now}, nil
}

func (s *Sessions) hash(domain string, values ...string) credential {
	sum := s.keyed.Sum(domain, values...)
	return credential(sum[:len(credential{})])
}

// credentials are those of one request.
type credentials struct {
	cookie  string      // the whole Cookie header, as the upstream will see it
	headers []string    // values of the profile's credential headers, in its order
	tokens  []token     // what looks like a session among them
	forward http.Header // what else a question needs
	odd     bool        // a cookie's name is one that a server may read as another, or a header is there twice
	veiled  bool        // a cookie's name is a session's to whoever reads it so
	doubled bool        // a header is there twice
}

// token is one thing that may carry a session. Its source is part of it: a bearer
// token that stands in a cookie is not what the server has issued as a cookie.
type token struct {
	source string // "cookie" and its name, or inHeader
	value  string
}

// inHeader is the source of tokens that clients send in a header, whichever.
const inHeader = "header"

// none says that nobody can be signed in. It does not depend on what looks like a
// session: a server may call its cookie as it likes, and a client may spell it so
// that only the server reads it.
func (c *credentials) none() bool {
	return c.cookie == "" && !slices.ContainsFunc(c.headers, func(v string) bool { return v != "" })
}

// alone says that there is one credential, in a header: a server that let the request
// through has looked at that one. Any cookie may be another, whatever its name.
func (c *credentials) alone() bool {
	headers := 0
	for _, v := range c.headers {
		if v != "" {
			headers++
		}
	}
	return c.cookie == "" && headers <= 1
}

// withoutCookies are those that count where the server looks at headers alone: a cookie that its
// sender has made up must not hide who acts.
func (c *credentials) withoutCookies() credentials {
	own := *c
	own.cookie, own.odd, own.veiled, own.tokens = "", c.doubled, c.doubled, nil
	for _, t := range c.tokens {
		if t.source == inHeader {
			own.tokens = append(own.tokens, t)
		}
	}
	return own
}

// credentialsOf reads them from a request. Headers that the request names in
// Connection are hop-by-hop: the upstream never sees them, so they prove nothing
// (threats.md X5, A13). room is for headers; it may be nil.
func (s *Sessions) credentialsOf(h http.Header, room []string) credentials {
	var c credentials
	if cookies := h["Cookie"]; len(cookies) > 0 && !hopByHop(h, "Cookie") {
		c.cookie = strings.Join(cookies, "; ")
		c.tokens, c.odd, c.veiled = cookieTokens(c.cookie, s.profile.Credentials.Cookies)
	}
	c.headers = slices.Grow(room[:0], len(s.profile.Credentials.Headers))
	for _, name := range s.profile.Credentials.Headers {
		v := ""
		if !hopByHop(h, name) {
			v = h.Get(name)
			if len(h[http.CanonicalHeaderKey(name)]) > 1 {
				c.odd, c.veiled, c.doubled = true, true, true
			}
		}
		c.headers = append(c.headers, v)
		if v != "" {
			c.tokens = append(c.tokens, token{inHeader, bearer(v)})
		}
	}
	for _, endpoint := range s.profile.Session {
		for _, name := range endpoint.Forward {
			if v := h.Get(name); v != "" && !hopByHop(h, name) {
				if c.forward == nil {
					c.forward = make(http.Header)
				}
				c.forward.Set(name, v)
			}
		}
	}
	return c
}

// cookieTokens are all cookies whose name fits. Names are trimmed as servers trim
// them; odd is true when one has a character that no cookie's name may have (RFC 6265 4.1.1),
// and that some servers trim or decode: JavaScript trims a byte A0. veiled is true when a name
// without such characters fits.
func cookieTokens(header string, patterns []string) (out []token, odd, veiled bool) {
	for pair := range strings.SplitSeq(header, ";") {
		name, v, ok := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		if !plainName(name) || ok && name == "" {
			odd, veiled = true, veiled || profile.MatchName(patterns, unveiled(name)) || name == ""
		}
		if ok && profile.MatchName(patterns, name) {
			out = append(out, token{"cookie " + name, strings.TrimSpace(v)})
		}
	}
	return out, odd, veiled
}

// unveiled is a cookie's name with percent escapes decoded, and without what is in no name.
func unveiled(name string) string {
	if decoded, err := url.PathUnescape(name); err == nil {
		name = decoded
	}
	return strings.Map(func(c rune) rune {
		if c >= utf8.RuneSelf || !plainName(string(c)) {
			return -1
		}
		return c
	}, name)
}

// plainName says whether a cookie's name is one that all servers read alike. What follows the
// last semicolon may be nothing.
func plainName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("-_.!#$&'*+^`|~[]:@/", c) >= 0: // brackets and the like are no token's, and nobody trims them
		default:
			return false
		}
	}
	return true
}

func bearer(v string) string {
	if scheme, token, ok := strings.Cut(v, " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return v
}

// hopByHop says whether the request names a header in Connection, exactly as the proxy
// reads it: what looks alike in Unicode only ("Coo\u212Aie", a space that is no space)
// names nothing, and the server gets the header.
func hopByHop(h http.Header, name string) bool {
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			token = textproto.TrimString(token)
			if len(token) == len(name) && http.CanonicalHeaderKey(token) == http.CanonicalHeaderKey(name) {
				return true
			}
		}
	}
	return false
}

// owner returns whose a request's credential was shown to be, without asking.
// Only for requests with exactly one: of two, nobody but the server knows which
// counts. A server's session may have another name than its profile knows, so that any cookie
// beside a header is a second one, where the server can be asked.
func (s *Sessions) owner(c *credentials) (Session, bool) {
	doubtful := c.odd || c.tokens != nil && c.tokens[0].source == inHeader && c.cookie != ""
	if len(c.tokens) != 1 || c.veiled || doubtful && len(s.profile.Session) > 0 {
		return Session{}, false
	}
	owner, known := s.owners.Get(s.tokenKey(c.tokens[0]))
	return owner, known && owner.UserID != shared.UserID
}

// probable is the one user to whom those of a request's credentials belong whose owner is remembered,
// whichever of them the server goes by; "" if there are two, or none.
func (s *Sessions) probable(c *credentials) string {
	user := ""
	for _, t := range c.tokens {
		owner, known := s.owners.Peek(s.tokenKey(t))
		switch {
		case !known || owner.UserID == shared.UserID || owner.UserID == user:
		case user != "":
			return ""
		default:
			user = owner.UserID
		}
	}
	return user
}

// anothers says whether one of a request's credentials is known to be somebody else's.
func (s *Sessions) anothers(c *credentials, user string) bool {
	return slices.ContainsFunc(c.tokens, func(t token) bool {
		owner, known := s.owners.Get(s.tokenKey(t))
		return known && owner.UserID != shared.UserID && owner.UserID != user
	})
}

func (s *Sessions) tokenKey(t token) credential { return s.hash("token", t.source, t.value) }

// minToken is the shortest value that is remembered as somebody's credential, in
// bytes. Cookies whose name looks like a session's may hold a language or a theme, which
// many users have alike; a credential of 64 random bits has 11 characters in base64.
const minToken = 11

// shared is what owners has of a token that was shown to be two people's: where a load balancer
// sends a client, say, in a cookie whose name looks like a session's. It is nobody's then.
var shared = Session{}

// unguessable says whether a cookie's value has a part that nobody else has by chance: random
// characters or a UUID, which signatures, encodings and prefixes may surround.
func unguessable(value string) bool {
	for len(value) >= minToken {
		i := strings.IndexAny(value, ".%:|/+=")
		part, rest := value, ""
		if i >= 0 {
			part, rest = value[:i], value[i+1:]
			if value[i] == '%' && len(rest) >= 2 {
				rest = rest[2:] // of an encoded character
			}
		}
		if redact.Random(part) || uuid.Validate(part) == nil {
			return true
		}
		value = rest
	}
	return false
}

// secret says whether a token can be a session's. Which cookie is, some profiles guess.
func (s *Sessions) secret(t token) bool {
	return len(t.value) >= minToken && (t.source == inHeader || !s.profile.GuessesCookies() || unguessable(t.value))
}

// learn remembers whose a token is. Only for tokens that the server has issued, or
// shown to be the session's own.
func (s *Sessions) learn(t token, owner Session) {
	if owner.UserID == "" || !s.secret(t) {
		return
	}
	key := s.tokenKey(t)
	if before, known := s.owners.Get(key); known && before.UserID != owner.UserID {
		s.owners.Add(key, shared)
		return
	}
	s.owners.Add(key, Session{UserID: owner.UserID, ImpersonatedBy: owner.ImpersonatedBy})
}

// share notes that a request's credentials, which are somebody's, are another's as well.
func (s *Sessions) share(c *credentials) {
	for _, t := range c.tokens {
		s.owners.Add(s.tokenKey(t), shared)
	}
}

// forget drops what is believed of a request's credentials.
func (s *Sessions) forget(c *credentials) {
	for _, t := range c.tokens {
		if key := s.tokenKey(t); !s.isShared(key) {
			s.owners.Remove(key)
		}
	}
	s.doubt(c)
}

func (s *Sessions) isShared(key credential) bool {
	before, known := s.owners.Peek(key)
	return known && before.UserID == shared.UserID
}

// doubt makes the next authorisation ask the server again.
func (s *Sessions) doubt(c *credentials) {
	s.doubts.Add(1)
	if !c.none() {
		key := s.wholeKey(c)
		s.verdicts.Remove(key)
		if s.watches.open.Load() > 0 {
			s.watches.doubtKey(key)
		}
	}
}

// doubtUser does the same for every credential of a user.
func (s *Sessions) doubtUser(id string) {
	s.doubts.Add(1)
	defer s.watches.doubtUser(id)
	if s.verdicts.Len() == 0 {
		return // the usual case, on every exchange: nobody reads the log right now
	}
	now := s.now()
	for _, k := range s.verdicts.Keys() { // and those that are too old, so that this stays rare
		if v, ok := s.verdicts.Peek(k); ok && (v.session.UserID == id || !now.Before(v.until)) {
			s.verdicts.Remove(k)
		}
	}
}

func (s *Sessions) wholeKey(c *credentials) credential {
	return s.hash("request", append([]string{c.cookie}, c.headers...)...)
}

// Authorize says who sent a request, for the API: always the auth server's word,
// at most a few seconds old.
func (s *Sessions) Authorize(ctx context.Context, h http.Header, ask Asker) (Session, error) {
	c := s.credentialsOf(h, nil)
	if c.none() {
		return Session{}, nil
	}
	key := s.wholeKey(&c)
	if v, ok := s.verdicts.Get(key); ok && s.now().Before(v.until) {
		return v.session, nil
	}
	select {
	case s.readers <- struct{}{}:
		defer func() { <-s.readers }()
	case <-ctx.Done():
		return Session{}, fmt.Errorf("%w: the client did not wait", ErrLookup)
	case <-time.After(lookupTimeout):
		return Session{}, fmt.Errorf("%w: too many questions at once", ErrLookup)
	}
	before := s.doubts.Load()
	session, err := s.ask(ctx, &c, ask, nil)
	if err == nil && s.doubts.Load() == before {
		s.verdicts.Add(key, verdict{session, s.now().Add(verdictLife)})
	}
	return session, err
}

// askable says whether there is an endpoint to ask on behalf of a route's exchange.
func (s *Sessions) askable(params func(string) string) bool {
	return slices.ContainsFunc(s.profile.Session, func(e *profile.Session) bool { return e.HasTarget(params) })
}

// ask asks the auth server, one question at a time for the same credentials. params
// are the path parameters of the exchange that it is about; nil if there is none.
func (s *Sessions) ask(ctx context.Context, c *credentials, ask Asker, params func(string) string) (Session, error) {
	if ask == nil || c.none() {
		return Session{}, nil
	}
	var last error
	until := time.Now().Add(lookupTimeout) // for all of them: a request waits for it
	for _, endpoint := range s.profile.Session {
		target := endpoint.Target(s.profile.Base(), params)
		if target == "" {
			continue
		}
		if last != nil && !time.Now().Before(until) {
			break
		}
		session, err := s.askOne(ctx, c, ask, endpoint, target, until)
		if err == nil && session.UserID != "" {
			return session, nil
		}
		last = errors.Join(last, err)
	}
	return Session{}, last
}

func (s *Sessions) askOne(ctx context.Context, c *credentials, ask Asker, endpoint *profile.Session, target string, until time.Time) (Session, error) {
	key := s.wholeKey(c)
	after := strconv.FormatUint(s.doubts.Load(), 36) // the answer to a question of before may not be true any more
	v, err, _ := s.flight.Do(string(key[:])+after+target, func() (any, error) {
		session, err := s.askNow(ctx, c, ask, endpoint, target, until)
		s.Metrics.Lookup(lookupResult(session, err))
		return session, err
	})
	session, _ := v.(Session)
	return session, err
}

func (s *Sessions) askNow(ctx context.Context, c *credentials, ask Asker, endpoint *profile.Session, target string, until time.Time) (Session, error) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return Session{}, fmt.Errorf("%w: too many questions at once", ErrLookup)
	}
	r, err := s.request(ctx, c, endpoint, target)
	if err != nil {
		return Session{}, err
	}
	status, body, err := ask.Ask(r)
	if err != nil {
		return Session{}, fmt.Errorf("%w: %w", ErrLookup, err)
	}
	answer := &profile.Answer{Status: status, Body: body}
	session, err := s.read(endpoint, answer)
	if err != nil {
		return Session{}, err
	}
	s.learnProven(c, endpoint, answer, session)
	return session, nil
}

// learnProven remembers a request's only cookie as its session's, if the answer
// shows that it is: the cookie begins with the session's own token. Otherwise a
// cookie that only looks like a session could be passed off as somebody's.
func (s *Sessions) learnProven(c *credentials, endpoint *profile.Session, answer *profile.Answer, session Session) {
	if endpoint.Token == "" || len(c.tokens) != 1 || !strings.HasPrefix(c.tokens[0].source, "cookie ") {
		return
	}
	own := answer.LookupString(endpoint.Token)
	if rest, ok := strings.CutPrefix(c.tokens[0].value, own); own != "" && ok && strings.HasPrefix(rest, ".") {
		s.learn(c.tokens[0], session)
	}
}

func (s *Sessions) request(ctx context.Context, c *credentials, endpoint *profile.Session, target string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, cmp.Or(endpoint.Method, http.MethodGet), target, nil)
	if err != nil {
		return nil, err
	}
	for name, v := range c.forward {
		r.Header[name] = v
	}
	if c.cookie != "" {
		r.Header.Set("Cookie", c.cookie)
	}
	for i, name := range s.profile.Credentials.Headers {
		if i < len(c.headers) && c.headers[i] != "" {
			r.Header.Set(name, c.headers[i])
		}
	}
	r.Header.Set("Accept", "application/json")
	return r, nil
}

// read understands a session endpoint's answer. A refusal (4xx) means nobody; what
// is no clear answer is an error, never a session: 404 and 405 say that the endpoint
// is not there, 429 that there was no time.
func (s *Sessions) read(p *profile.Session, a *profile.Answer) (Session, error) {
	switch status := a.Status; {
	case status == http.StatusOK:
	case status == http.StatusTooManyRequests, status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status >= 500, status < 200:
		return Session{}, fmt.Errorf("%w: it answered %d", ErrLookup, a.Status)
	default:
		return Session{}, nil
	}
	if !a.Readable() {
		return Session{}, fmt.Errorf("%w: its answer is no JSON", ErrLookup)
	}
	id := p.User.Value(&profile.Exchange{Answer: a})
	if id == "" {
		return Session{}, nil
	}
	if p.SessionUser != "" && a.LookupString(p.SessionUser) != id {
		return Session{}, nil
	}
	if p.Expires != "" {
		if end, err := time.Parse(time.RFC3339, a.LookupString(p.Expires)); err == nil && s.now().After(end.Add(time.Minute)) {
			return Session{}, nil
		}
	}
	return Session{
		UserID: storage.CleanUserID(id), ImpersonatedBy: storage.CleanUserID(lookupOptional(a, p.ImpersonatedBy)),
		Roles: rolesOf(a, p.Role), Identifier: identifierOf(p, a), Partial: !p.IsComplete(a),
	}, nil
}

// identifierOf is what proves that failed sign-ins with it were tries on the user's account. Users
// choose their name, also one that is somebody else's address: an address is theirs only if the
// server says that it was verified.
func identifierOf(p *profile.Session, a *profile.Answer) string {
	identifier := lookupOptional(a, p.Identifier)
	switch {
	case p.IdentifierVerified != "" && !a.Lookup(p.IdentifierVerified).Bool(),
		p.IdentifierVerified == "" && strings.Contains(identifier, "@"):
		return ""
	}
	return identifier
}

func lookupOptional(a *profile.Answer, pointer string) string {
	if pointer == "" {
		return ""
	}
	return a.LookupString(pointer)
}

// rolesOf reads one role, several separated by commas, or an array of them.
func rolesOf(a *profile.Answer, pointer string) []string {
	if pointer == "" {
		return nil
	}
	v := a.Lookup(pointer)
	var roles []string
	if v.IsArray() {
		for _, r := range v.Array() {
			roles = append(roles, r.Str)
		}
		return roles
	}
	for r := range strings.SplitSeq(v.Str, ",") {
		if r = strings.TrimSpace(r); r != "" {
			roles = append(roles, r)
		}
	}
	return roles
}
