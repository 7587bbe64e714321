package recorder

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// resolveNow asks who the request's credential belongs to, before the request is
// forwarded: a destructive route may end the session.
func (x *Exchange) resolveNow(ctx context.Context) {
	if p := x.rec.Profile; len(p.Credentials.Query) > 0 && x.query != "" {
		if x.elsewhere = p.CarriesCredential(&profile.Exchange{Answer: &profile.Answer{Query: x.query}}); x.elsewhere {
			return
		}
	}
	creds := x.creds
	if x.match.Route.Cookieless {
		creds = x.creds.withoutCookies()
	}
	x.actor = x.ask(ctx, &creds)
	x.resolved = !x.unasked && x.rec.Sessions.askable(x.params)
}

// params are the parameters of the exchange's path.
func (x *Exchange) params(name string) string {
	return x.match.Route.Parameter(x.match.Path, name)
}

// ask returns whose credentials these are. When the auth server cannot be asked, it
// is the owner as far as one is remembered, and the entry says so. It is not asked again for
// the same request.
func (x *Exchange) ask(ctx context.Context, c *credentials) Session {
	if x.unasked || !x.rec.Sessions.askable(x.params) {
		owner, _ := x.rec.Sessions.owner(c)
		return owner
	}
	session, err := x.rec.Sessions.ask(ctx, c, x.facts.Asker, x.params)
	if x.unasked = err != nil; !x.unasked {
		return session
	}
	x.rec.Sessions.warning.Do(func() {
		x.rec.Logger.Warn("the auth server could not be asked who acts; said once a second at most", "action", x.match.Route.ActionName(), "error", err)
	})
	owner, _ := x.rec.Sessions.owner(c)
	return owner
}

// identify finds the acting user of a finished exchange (DESIGN section 4): what
// the answer says, what the intent's look-up said, who owns the credential that
// the answer issued, who owns the request's, whom the flow has proved.
func (x *Exchange) identify(a *profile.Exchange, outcome storage.Status) {
	route, ok := x.match.Route, outcome == storage.Success
	if ok && !route.Administrator.IsZero() && x.believes(&route.Administrator) {
		if id := route.Administrator.Value(a); id != "" {
			x.actor = Session{UserID: storage.CleanUserID(id)}
			return
		}
	}
	flow := x.rec.Sessions.flows.userOf(x.step)
	a.Flow = flow.UserID
	for i := range route.Actor {
		if s := &route.Actor[i]; x.believes(s) {
			if id := s.Value(a); id != "" {
				x.actor = Session{UserID: storage.CleanUserID(id)}
				return
			}
		}
	}
	x.identifyRequest(a, ok)
	if x.actor.UserID == "" && ok && !route.Detached {
		x.actor = flow
	}
}

// identifyRequest finds the actor by the route's places, by credentials and by what the
// request hands over of a flow.
func (x *Exchange) identifyRequest(a *profile.Exchange, ok bool) {
	route := x.match.Route
	if x.elsewhere = x.rec.Profile.CarriesCredential(a); x.elsewhere {
		if x.actor = (Session{}); ok {
			x.fromAnswer(a) // whose cookie or header there is besides says nothing
		}
		return
	}
	if ok && route.Anonymous && x.fromAnswer(a) || x.resolved && (x.actor.UserID != "" || !ok || route.Anonymous) {
		return // what needs a session has succeeded: somebody was there, whatever the look-up said
	}
	if issued := x.issued(a.Answer); ok && issued != "" && (route.Class != "admin" || len(route.User) > 0) { // an administrator may be given somebody's session
		if x.actor = x.askIssued(a.Answer); x.actor.UserID != "" {
			return
		}
		if x.fromAnswer(a) {
			return
		}
		if route.Class == "sign-in" || route.Class == "sign-up" {
			return // whose the session was that the request came with says nothing of who has signed in
		}
	}
	if ok && !route.Anonymous {
		if owner, known := x.rec.Sessions.owner(&x.creds); known {
			x.actor = owner
			return
		}
		if x.fromToken(a) {
			return
		}
	}
	if !ok && route.Record == profile.Checks && (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) {
		return // the server has just said that it knows nobody by this credential
	}
	if ok && route.Anonymous && !route.Detached {
		// The server has taken a code or a token; whether it has looked at a cookie, nobody knows.
		if x.actor = x.rec.Sessions.flows.userOf(x.hashes(a, (*profile.Source).Handed)); x.actor.UserID != "" {
			return
		}
	}
	if x.actor = x.ask(x.ctx, &x.creds); x.actor.UserID == "" && ok {
		x.fromAnswer(a)
	}
}

// fromAnswer takes the user whom a success names.
func (x *Exchange) fromAnswer(a *profile.Exchange) bool {
	return x.take(a, func(s *profile.Source) bool { return !s.OfBearer() || x.alone(a) })
}

// fromToken takes the user whom the request's own token names. The route needs it,
// so that the success shows that the server has verified it; unless the request has
// another credential: then it may be that one which the server went by, and the token
// is whatever its sender has made up.
func (x *Exchange) fromToken(a *profile.Exchange) bool {
	return x.alone(a) && x.take(a, (*profile.Source).OfBearer)
}

// alone says that the request has one credential only, in a header. RFC 6750 lets a
// token stand in the query or in a form, too, and some servers prefer that one. At OPTIONS
// servers look at none.
func (x *Exchange) alone(a *profile.Exchange) bool {
	return !strings.EqualFold(x.method, http.MethodOptions) && x.creds.alone() && !a.Carries("access_token")
}

// believes says whether a place may name who acts: what stands in the request does so only in a
// profile that is the server's for certain.
func (x *Exchange) believes(s *profile.Source) bool { return !x.rec.Guessed || !s.OfRequest() }

// take takes the user of the first of the route's places that counts and names one
// for certain.
func (x *Exchange) take(a *profile.Exchange, counts func(*profile.Source) bool) bool {
	for i := range x.match.Route.User {
		if s := &x.match.Route.User[i]; counts(s) && x.believes(s) {
			if id := s.Sure(a); id != "" {
				x.actor = Session{UserID: storage.CleanUserID(id)}
				return true
			}
		}
	}
	return false
}

// stepOf are the keyed hashes of the values that join this exchange with others.
func (x *Exchange) stepOf(a *profile.Exchange) []credential {
	return x.hashes(a, func(*profile.Source) bool { return true })
}

// hashes are those of the values of the flow that stand in the places that count.
func (x *Exchange) hashes(a *profile.Exchange, counts func(*profile.Source) bool) []credential {
	var step []credential
	for i := range x.match.Route.Flow {
		s := &x.match.Route.Flow[i]
		if !counts(s) {
			continue
		}
		if v := s.Sure(a); len(v) >= minFlowValue {
			step = append(step, x.rec.Sessions.hash("flow", v))
		}
	}
	return step
}

// follow joins the exchange to its flow, unless the server refused it: guesses must
// not join anything. e is its entry, or nil if it made none. When the flow has a
// user now, the entries of its earlier steps get that user.
func (x *Exchange) follow(a *profile.Exchange, e *storage.Entry) {
	refused := a.Status >= 400 || a.Status < 200 || e != nil && e.Status == storage.Failed && len(x.match.Route.Actor) == 0
	if e != nil && e.Status == storage.Pending {
		refused = false // some servers ask for the second factor with an error status
	}
	if len(x.step) == 0 || refused {
		return
	}
	var user Session
	if e != nil && e.Status != storage.Unknown && !x.match.Route.Detached {
		user = x.actor
	}
	for _, earlier := range x.rec.Sessions.flows.join(x.step, user) {
		earlier.UserID = x.rec.Sessions.flows.userOf(x.step).UserID
		x.rec.enqueue(earlier, nil)
	}
	if e != nil && e.UserID == "" && !x.match.Route.Detached && (e.Status == storage.Success || e.Status == storage.Pending) {
		x.rec.Sessions.flows.wait(x.step, *e)
	}
}

// issuedSession are the tokens of the session that the answer issues, of a cookie in several
// pieces the first one first, as the client will send them.
func (x *Exchange) issuedSession(a *profile.Exchange) (tokens []token) {
	for _, pair := range x.issuedCookies(a.Answer) {
		name, value, _ := strings.Cut(pair, "=")
		tokens = append(tokens, token{"cookie " + name, value})
	}
	return slices.AppendSeq(tokens, x.issuedTokens(a))
}

// issuedCookies are the session cookies that the answer sets, as "name=value".
func (x *Exchange) issuedCookies(a *profile.Answer) (pairs []string) {
	patterns := x.rec.Profile.Credentials.Cookies
	for _, line := range a.Header["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		name, v, _ := strings.Cut(pair, "=")
		if name = strings.TrimSpace(name); !profile.MatchName(patterns, name) {
			continue
		}
		pairs = slices.DeleteFunc(pairs, func(earlier string) bool { return strings.HasPrefix(earlier, name+"=") })
		if v != "" && profile.SetCookie(a.Header, []string{name}) != "" {
			pairs = append(pairs, name+"="+strings.TrimSpace(v))
		}
	}
	return pairs
}

// askIssued asks with the session cookies that the answer sets.
func (x *Exchange) askIssued(a *profile.Answer) Session {
	pairs := x.issuedCookies(a)
	if len(pairs) == 0 {
		return Session{}
	}
	cookie := strings.Join(pairs, "; ") // servers cut long sessions into several
	tokens, odd, veiled := cookieTokens(cookie, x.rec.Profile.Credentials.Cookies)
	return x.ask(x.ctx, &credentials{cookie: cookie, tokens: tokens, odd: odd, veiled: veiled, forward: x.creds.forward})
}

// learn remembers whose the credentials are that the answer issued, and forgets
// what the exchange may have ended.
func (x *Exchange) learn(a *profile.Exchange, outcome storage.Status) {
	s := x.rec.Sessions
	starts := outcome == storage.Success && x.startsSession()
	if starts && x.actor.UserID != "" {
		s.share(&x.creds)
	}
	if starts || outcome == storage.Success && x.endsSession(a) || outcome != storage.Failed && x.match.Route.SwitchesUser {
		s.forget(&x.creds)
	} else if x.match.Route.Record == profile.Always {
		s.doubt(&x.creds)
	}
	if x.actor.UserID != "" && x.match.Route.Record == profile.Always {
		s.doubtUser(x.actor.UserID) // whatever the spelling of the credential
	}
	if target := x.targetOf(a, outcome); target != "" && outcome == storage.Success {
		s.doubtUser(target)
	}
	if outcome != storage.Success || !x.match.Route.Known() || x.match.Route.Class == "admin" && x.match.Route.Administrator.IsZero() {
		return // a session that an administrator's act issues may be anybody's
	}
	owner := x.sessionOwner(a)
	for t := range x.issuedTokens(a) {
		s.learn(t, owner)
	}
}

// issuedTokens are what the answer says in the places where the server issues sessions: the
// cookie, then headers, then its body. Any of them may be empty.
func (x *Exchange) issuedTokens(a *profile.Exchange) iter.Seq[token] {
	return func(yield func(token) bool) {
		issuing := &x.rec.Profile.Credentials
		name, value := profile.SetCookiePair(a.Header, issuing.Cookies)
		if !yield(token{"cookie " + name, value}) {
			return
		}
		for _, name := range issuing.ResponseHeaders {
			if !yield(token{inHeader, a.Header.Get(name)}) {
				return
			}
		}
		if len(x.match.Route.User)+len(x.match.Route.Actor)+len(x.match.Route.Flow) == 0 {
			return
		}
		for _, pointer := range issuing.ResponseBody {
			if !yield(token{inHeader, a.LookupString(pointer)}) {
				return
			}
		}
	}
}

// endsSession says whether a success may have ended the session that asked for it.
// What an administrator does to others does not.
func (x *Exchange) endsSession(a *profile.Exchange) bool {
	route := x.match.Route
	if route.Class == "admin" && x.targetOf(a, storage.Success) != x.actor.UserID {
		return false
	}
	return route.Timing == profile.Before || route.Class == "sign-out"
}

// startsSession says whether a success may have made the session somebody else's:
// some servers go on with the cookie that another user had. Or the cookie is no session's,
// and many people have it.
func (x *Exchange) startsSession() bool {
	return x.opensSession() && x.rec.Sessions.anothers(&x.creds, x.actor.UserID)
}

// opensSession says whether a success of the route may issue a session.
func (x *Exchange) opensSession() bool {
	switch x.match.Route.Class {
	case "sign-in", "sign-up", "mfa":
		return true
	}
	return false
}

// sessionOwner is the user of the session that the answer leaves the client
// with: the actor, but for the start of an impersonation.
func (x *Exchange) sessionOwner(a *profile.Exchange) Session {
	if x.match.Route.Administrator.IsZero() {
		return x.actor
	}
	if id := profile.FirstSure(x.match.Route.User, a); id != "" {
		return Session{UserID: storage.CleanUserID(id), ImpersonatedBy: x.actor.UserID}
	}
	return Session{}
}

// zstdWindow is the largest window that a server may use (RFC 9659).
const zstdWindow = 8 << 20

// decoded undoes a content encoding, up to the cap of a held body, so that a
// compressed answer can be read and a bomb cannot hurt. Encodings that it does
// not know give nil: not seen.
func decoded(body []byte, encoding string) []byte {
	var r io.Reader
	switch strings.ToLower(encoding) {
	case "", "identity":
		return body
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		r = z
	case "deflate":
		r = inflate(body)
	case "br":
		r = brotli.NewReader(bytes.NewReader(body))
	case "zstd":
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(zstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil
		}
		defer z.Close()
		r = z
	default:
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(r, exchange.MaxBody+1))
	if err != nil || len(out) > exchange.MaxBody {
		return nil
	}
	return out
}

// inflate undoes "deflate", which is zlib (RFC 9110 8.4.1.2), or without its head, as
// some servers write it.
func inflate(body []byte) io.Reader {
	if z, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
		return z
	}
	return flate.NewReader(bytes.NewReader(body))
}
