package recorder

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Caps of what an answer may contribute, in bytes.
const (
	maxCode    = 64
	maxMessage = 256
	maxPath    = 512
)

// entry returns the entry of this exchange with its metadata so far.
func (x *Exchange) entry(outcome storage.Status, status int) storage.Entry {
	return x.build(outcome, metadata{StatusCode: status, Withheld: x.withheld})
}

// finished is the complete entry.
func (x *Exchange) finished(a *profile.Exchange, outcome storage.Status) storage.Entry {
	m := metadata{StatusCode: a.Status, DurationMs: since(x.began), Aborted: x.aborted, Withheld: x.withheld}
	if outcome == storage.Failed {
		m.UpstreamStatus = x.masked(a)
	}
	body, typed := x.body.Copied(), ""
	// Also when somebody is signed in: trying another's account is what to see.
	if x.actor.UserID == "" || outcome == storage.Failed {
		if typed = profile.First(x.match.Route.Identifier, a); typed == "" {
			typed, _ = profile.Similar(x.match.Route.Identifier, a)
		}
		if typed != "" {
			m.Identifier = redact.Identifier(typed)
			m.IdentifierHash = x.rec.Redactor.HashTag("identifier", strings.ToLower(strings.TrimSpace(typed)))
		}
	}
	if outcome == storage.Failed {
		m.Error = x.failure(a, cmp.Or(m.UpstreamStatus, a.Status), typed)
	}
	if target := x.targetOf(a, outcome); target != x.actor.UserID || x.match.Route.Class == "admin" {
		m.TargetUserID = target
		x.foreign = x.actor.UserID != "" && len(x.match.Route.Target) > 0 && profile.First(x.match.Route.Target, x.onlyRequest(a)) != ""
	}
	x.explain(&m, a, body)
	if x.capture.Session && outcome == storage.Success && (x.opensSession() || len(x.creds.tokens) == 0) {
		m.SessionHash = cmp.Or(x.sessionHash(x.issuedSession(a)...), m.SessionHash)
	}
	if x.capture.RequestBody {
		m.RequestBody = x.capturedBody(body)
	}
	return x.build(outcome, m)
}

func (x *Exchange) build(outcome storage.Status, m metadata) storage.Entry {
	m.RequestID, m.Method, m.Class, m.Source = x.facts.RequestID, storage.Clean(x.method, 16), x.class(), "proxy"
	m.ImpersonatedBy = x.actor.ImpersonatedBy
	if x.capture.Session && m.SessionHash == "" {
		m.SessionHash = x.sessionHash(x.creds.tokens...)
	}
	if x.requestURI != "" {
		m.Path = storage.Clean(x.rec.Redactor.URL(x.shown(x.requestURI)), maxPath)
	}
	raw, err := m.json()
	if err != nil || len(raw) > x.rec.MaxMetadata {
		m.RequestBody = explained("longer than the limit of metadata", int64(len(m.RequestBody)))
		raw, _ = m.json() // strings and numbers
	}
	e := storage.Entry{
		ID: x.id, UserID: x.actor.UserID, Action: x.action(), Status: outcome, UserAgent: x.userAgent(), Metadata: raw, CreatedAt: x.began,
		IdentifierHash: m.IdentifierHash,
	}
	if x.capture.IPAddress {
		e.IPAddress = x.facts.ClientIP
	}
	e.Severity = x.severity(e.Action, outcome)
	e.SanitizeOwn()
	return e
}

// shown is a target of the request, as it was written or as it was read. Who looks wants to see how:
// but codes and addresses in its path are no spelling, and are not shown, as they are not in an action. Nor are
// values of its query, of which no more is known than what they are called.
func (x *Exchange) shown(target string) string {
	path, query, asked := strings.Cut(target, "?")
	segments := strings.Split(path, "/")
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil {
			plain = s
		}
		if name := cmp.Or(x.match.Route.ParameterOf(x.match.Path, plain), x.match.Route.ParameterOf(x.match.Path, s)); name != "" {
			segments[i] = ":" + name
		} else if hidden(plain) || !x.match.Route.Known() && personal(plain) {
			segments[i] = ":redacted"
		} else if before, params, has := strings.Cut(s, ";"); has && strings.Contains(params, "=") {
			segments[i] = before + ";" + shownQuery(params)
		}
	}
	if path = strings.Join(segments, "/"); asked {
		return path + "?" + shownQuery(query)
	}
	return path
}

// shownValues are the names in a query whose values say what was asked for, not of or for whom.
var shownValues = map[string]bool{
	"provider": true, "providerId": true, "provider_id": true, "error": true, "response_type": true, "response_mode": true,
	"grant_type": true, "prompt": true, "locale": true, "lang": true,
}

// shownQuery is a query with its names; of values those only that are of shownValues and plain words,
// numbers of up to three digits, and what is empty.
func shownQuery(query string) string {
	var out strings.Builder
	for query != "" {
		part, end := query, ""
		if i := strings.IndexAny(query, "&;"); i >= 0 {
			part, end = query[:i], query[i:i+1]
		}
		query = query[len(part)+len(end):]
		name, value, has := strings.Cut(part, "=")
		if !has && name != "" { // a name, or the rest of a value
			out.WriteString(redact.Placeholder)
		} else if has {
			if namesOnly(name) {
				out.WriteString(name)
			} else {
				out.WriteString(redact.Placeholder)
			}
			out.WriteByte('=')
			if number := len(value) <= 3 && strings.Trim(value, "0123456789") == ""; number || shownValues[name] && plainSegment(value) == value {
				out.WriteString(value)
			} else {
				out.WriteString(redact.Placeholder)
			}
		}
		out.WriteString(end)
	}
	return out.String()
}

// namesOnly says whether the name of a parameter can be no more than that.
func namesOnly(name string) bool {
	plain := strings.NewReplacer("[", "", "]", "", "%5B", "", "%5D", "").Replace(name)
	return len(plain) <= 40 && plainSegment(plain) == plain
}

// hidden says whether a segment of a path is one of those that are for one person: a code of
// digits, a mail address.
func hidden(segment string) bool {
	digits := strings.Trim(segment, "0123456789") == ""
	return digits && len(segment) > 3 || strings.Contains(segment, "@")
}

// userAgent is what the client says that it is, if it is captured.
func (x *Exchange) userAgent() string {
	if !x.capture.UserAgent || x.agent == "" {
		return ""
	}
	return x.rec.agents.text(x.agent)
}

// class of the entry: what somebody does to another's account is an administrator's
// doing.
func (x *Exchange) class() string {
	class := x.match.Route.Class
	if x.foreign && (class == "account" || class == "credential") {
		return "admin"
	}
	return class
}

func (x *Exchange) severity(action string, outcome storage.Status) severity.Level {
	if own := x.rec.Routes[x.match.Route.Path].Severity; own != nil {
		return *own
	}
	if x.match.Route.Severity != nil {
		return *x.match.Route.Severity
	}
	return severity.Infer(severity.Event{Action: action, Class: x.class(), Failed: outcome == storage.Failed})
}

// action is the route's, or for a path that no route names its own segments, with
// what looks like a secret or somebody's name taken out.
func (x *Exchange) action() string {
	if x.match.Route.Known() {
		return x.match.Route.ActionName()
	}
	path := strings.Trim(x.match.Path, "/")
	if path == "" {
		return "base-path"
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if segments[i] = plainSegment(s); personal(s) {
			segments[i] = ":redacted"
		}
	}
	action := strings.Join(segments, ":")
	if x.rec.Profile.IsAction(action) || storage.IsOwnAction(action) {
		return "unknown:" + action
	}
	return action
}

// plainSegment shows a segment of an unknown path only if it is a plain word:
// anything may stand there, codes, addresses, control characters.
func plainSegment(s string) string {
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return ":redacted"
		}
	}
	if digits == len(s) && digits > 3 {
		return ":redacted"
	}
	return redact.Segment(s)
}

// failure reads why an exchange failed: from the body's code and message, or from
// the error parameter of a redirect. What was typed to sign in is masked there as it is beside.
func (x *Exchange) failure(a *profile.Exchange, status int, typed string) *failure {
	f := &failure{Status: statusName(status)}
	code, message := a.LookupString("/code"), a.LookupString("/message")
	if u, err := url.Parse(a.Header.Get("Location")); err == nil && a.Status >= 300 && a.Status < 400 {
		q := u.Query()
		if q.Get("error") == "" {
			q, _ = url.ParseQuery(u.Fragment)
		}
		code, message = q.Get("error"), q.Get("error_description")
	}
	f.Code, f.Message = x.told(code, typed, maxCode), x.told(message, typed, maxMessage)
	return f
}

// told is what a server says of a failure, without secrets, what was typed, and mail addresses.
func (x *Exchange) told(text, typed string, limit int) string {
	// Masked before it is cut, so that no part of what is masked is left at the end.
	text = redact.Addresses(redact.Typed(storage.Clean(text, 16*limit), typed))
	return storage.Clean(x.rec.Redactor.Text(storage.Clean(text, 4*limit)), limit)
}

// statusName writes a status as the plugin does: "UNAUTHORIZED", "FOUND".
func statusName(code int) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToUpper(http.StatusText(code)), " ", "_"), "-", "_")
}

// onlyRequest is the exchange without its answer.
func (x *Exchange) onlyRequest(a *profile.Exchange) *profile.Exchange {
	request := *a
	request.Answer = &profile.Answer{Query: a.Query}
	return &request
}

// explain says what could not be found out, and why.
func (x *Exchange) explain(m *metadata, a *profile.Exchange, body exchange.Copied) {
	if x.match.Route.NeedsRequestBody() && body.Seen > 0 {
		switch {
		case body.Truncated:
			m.BodyUnparsed = "it is longer than the limit"
		case x.encoded:
			m.BodyUnparsed = "it has a content encoding"
		case x.mistyped:
			m.BodyUnparsed = "the auth server may see another content type"
		case a.Status == http.StatusUnsupportedMediaType:
			m.BodyUnparsed = "the auth server takes no " + storage.Clean(exchange.MediaType(x.contentType), 40)
		case !a.SentReadable():
			m.BodyUnparsed = "it cannot be read as " + storage.Clean(exchange.MediaType(x.contentType), 40)
		case x.match.Doubtful || x.twofold(x.match.Route.Identifier, a) || x.twofold(x.match.Route.Target, a):
			m.BodyUnparsed = "it can be read in more than one way"
		}
	}
	if x.unasked || x.elsewhere && x.actor.UserID == "" {
		m.Identity = "unavailable"
		x.hint(m)
	}
}

// hint says what is known of who acted where nobody could be asked. It is easy to bring that about: with
// a flood of questions, or a cookie with an odd name. The user is a hash, as nothing takes it out of
// metadata when the account is deleted.
func (x *Exchange) hint(m *metadata) {
	if len(x.creds.tokens) == 0 {
		return
	}
	m.SessionHash = cmp.Or(x.sessionHash(x.creds.tokens...), x.rec.Redactor.HashTag("session", x.creds.tokens[0].value))
	if probable := x.rec.Sessions.probable(&x.creds); probable != "" && x.actor.UserID == "" {
		m.ProbableUser = x.rec.Redactor.HashTag("user", probable)
	}
}

// sessionHash is that of the first of the tokens that can be a session's: whoever plants a
// session of their own in somebody's browser, or takes one away, is seen by it beside the user
// (threats.md C9). What a client authenticates itself with ("Basic ...") is nobody's session.
func (x *Exchange) sessionHash(tokens ...token) string {
	for _, t := range tokens {
		if x.rec.Sessions.secret(t) && (t.source != inHeader || !strings.Contains(t.value, " ")) {
			return x.rec.Redactor.HashTag("session", t.value)
		}
	}
	return ""
}

// twofold says whether servers may read another value than the one that is shown.
func (x *Exchange) twofold(sources []profile.Source, a *profile.Exchange) bool {
	if profile.First(sources, a) == "" {
		v, _ := profile.Similar(sources, a)
		return v != ""
	}
	for _, s := range sources {
		if v := s.Value(a); v != "" {
			return s.OfRequest() && s.Sure(a) != v
		}
	}
	return false
}

// targetOf is whom an administrator acts on: the request says it whatever the
// outcome, the answer of a success only.
func (x *Exchange) targetOf(a *profile.Exchange, outcome storage.Status) string {
	return x.target(a, outcome, profile.Source.Value)
}

// target is targetOf with another way to read the places.
func (x *Exchange) target(a *profile.Exchange, outcome storage.Status, read func(profile.Source, *profile.Exchange) string) string {
	for _, s := range x.match.Route.Target {
		if !s.OfRequest() && outcome != storage.Success {
			continue
		}
		if id := read(s, a); id != "" {
			return storage.CleanUserID(id)
		}
	}
	return ""
}

// unparsed stands for a body that was not stored.
type unparsed struct {
	Unparsed string `json:"unparsed"`
	Bytes    int64  `json:"bytes"`
}

// capturedBody is the request's body, redacted; or why it is not there.
func (x *Exchange) capturedBody(c exchange.Copied) json.RawMessage {
	if c.Seen == 0 {
		return nil
	}
	reason := "longer than the limit"
	if !c.Truncated {
		out, err := x.rec.Redactor.Body(x.contentType, c.Bytes)
		if err == nil {
			return out
		}
		reason = err.Error() // a reason, never the content
	}
	return explained(reason, c.Seen)
}

// explained stands for a body, and says why it is not there.
func explained(reason string, size int64) json.RawMessage {
	out, err := json.Marshal(unparsed{Unparsed: reason, Bytes: size})
	if err != nil {
		return nil // cannot happen: a string and a number
	}
	return out
}
