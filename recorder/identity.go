package recorder

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"io"
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
	x.actor = x.ask(ctx, &x.creds)
	x.resolved = !x.unasked
}

// ask returns whose credentials these are. When the auth server cannot be asked,
// it is the owner as far as one is remembered, and the entry says so.
func (x *Exchange) ask(ctx context.Context, c *credentials) Session {
	session, err := x.rec.Sessions.ask(ctx, c, x.facts.Asker)
	if x.unasked = err != nil; !x.unasked {
		return session
	}
	x.rec.Logger.Warn("the auth server could not be asked who acts", "action", x.match.Route.ActionName(), "error", err)
	owner, _ := x.rec.Sessions.owner(c)
	return owner
}

// identify finds the acting user of a finished exchange (DESIGN section 4): what
// the answer says, what the intent's look-up said, who owns the credential that
// the answer issued, who owns the request's.
func (x *Exchange) identify(a *profile.Answer, outcome storage.Status) {
	route, ok := x.match.Route, outcome == storage.Success
	if ok && route.Administrator != "" {
		if id := profile.LookupString(a.Body, route.Administrator); id != "" {
			x.actor = Session{UserID: id}
			return
		}
	}
	if ok && route.Anonymous && x.fromAnswer(a) || x.resolved {
		return
	}
	if issued := x.issued(a); ok && issued != "" {
		if x.actor = x.askIssued(a); x.actor.UserID != "" {
			return
		}
		if x.fromAnswer(a) {
			return
		}
	}
	if ok && !route.Anonymous {
		if owner, known := x.rec.Sessions.owner(&x.creds); known {
			x.actor = owner
			return
		}
	}
	if x.actor = x.ask(x.ctx, &x.creds); x.actor.UserID == "" && ok {
		x.fromAnswer(a)
	}
}

// fromAnswer takes the user that the answer of a success names.
func (x *Exchange) fromAnswer(a *profile.Answer) bool {
	for _, pointer := range x.match.Route.User {
		if id := profile.LookupString(a.Body, pointer); id != "" {
			x.actor = Session{UserID: id}
			return true
		}
	}
	return false
}

// askIssued asks with the session cookies that the answer sets.
func (x *Exchange) askIssued(a *profile.Answer) Session {
	var pairs []string
	for _, line := range a.Header["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		name, v, _ := strings.Cut(pair, "=")
		if v != "" && profile.MatchName(x.rec.Profile.Credentials.Cookies, strings.TrimSpace(name)) {
			pairs = append(pairs, strings.TrimSpace(pair))
		}
	}
	if len(pairs) == 0 {
		return Session{}
	}
	last := pairs[len(pairs)-1]
	return x.ask(x.ctx, &credentials{cookie: last, tokens: cookieTokens(last, x.rec.Profile.Credentials.Cookies)})
}

// learn remembers whose the credentials are that the answer issued, and forgets
// what the exchange may have ended.
func (x *Exchange) learn(a *profile.Answer, outcome storage.Status) {
	s := x.rec.Sessions
	if outcome == storage.Success && (x.match.Route.Timing == profile.Before || x.match.Route.Class == "sign-out") {
		s.forget(&x.creds)
	} else if x.match.Route.Record == profile.Always {
		s.doubt(&x.creds)
	}
	if x.actor.UserID != "" && x.match.Route.Record == profile.Always {
		s.doubtUser(x.actor.UserID) // whatever the spelling of the credential
	}
	if target := x.targetOf(a, outcome, x.body.Copied().Bytes); target != "" && outcome == storage.Success {
		s.doubtUser(target)
	}
	if outcome != storage.Success || !x.match.Route.Known() {
		return
	}
	owner := x.sessionOwner(a)
	name, value := profile.SetCookiePair(a.Header, x.rec.Profile.Credentials.Cookies)
	s.learn(token{"cookie " + name, value}, owner)
	for _, name := range x.rec.Profile.Credentials.ResponseHeaders {
		s.learn(token{"authorization", a.Header.Get(name)}, owner)
	}
	if len(x.match.Route.User) > 0 {
		for _, pointer := range x.rec.Profile.Credentials.ResponseBody {
			s.learn(token{"authorization", profile.LookupString(a.Body, pointer)}, owner)
		}
	}
}

// sessionOwner is the user of the session that the answer leaves the client
// with: the actor, but for the start of an impersonation.
func (x *Exchange) sessionOwner(a *profile.Answer) Session {
	if x.match.Route.Administrator == "" {
		return x.actor
	}
	for _, pointer := range x.match.Route.User {
		if id := profile.LookupString(a.Body, pointer); id != "" {
			return Session{UserID: id, ImpersonatedBy: x.actor.UserID}
		}
	}
	return Session{}
}

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
		r = flate.NewReader(bytes.NewReader(body))
	case "br":
		r = brotli.NewReader(bytes.NewReader(body))
	case "zstd":
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20))
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
