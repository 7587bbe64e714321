package profile

import (
	"encoding/json"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Profile is one auth server. Fields with a JSON name are the file format, which
// schema.json describes too. It is immutable once parsed, and safe for concurrent
// use.
type Profile struct {
	// Schema may name schema.json for editors; it is not looked at.
	Schema string `json:"$schema,omitempty"`
	// Name as the Caddyfile says it, such as "better_auth".
	Name string `json:"name"`
	// Title for people, such as "Better Auth".
	Title string `json:"title"`
	// Sources says what was read or measured to write the file.
	Sources []string `json:"sources,omitempty"`
	// Extends names a builtin profile whose content this one inherits: what is given
	// here replaces what is there, named lists of outcomes by their name, and routes
	// that match the same requests.
	Extends string `json:"extends,omitempty"`
	// BasePath is where the server's routes live unless the user says otherwise,
	// such as "/api/auth". "/" is the whole site.
	BasePath string `json:"base_path"`
	// Recognize are signs in an exchange that the server behind is this one, for
	// profile auto. One sign that holds is enough.
	Recognize []Sign `json:"recognize,omitempty"`
	// Credentials says where the server's clients carry their session.
	Credentials Credentials `json:"credentials"`
	// Session says how to ask the server who a credential belongs to: one endpoint,
	// or several that are asked in turn until one knows. Empty if it cannot be asked.
	Session Sessions `json:"session,omitempty"`
	// Router says how the server itself reads a path: "whatwg" when it takes the path
	// of a WHATWG URL as it is. Then that reading decides wherever it names a route;
	// otherwise, and for all other servers, the most severe reading does.
	Router string `json:"router,omitempty"`
	// BaseAnywhere is true when versions of the server take what follows the base path
	// wherever in a path it stands, and a first segment that begins like it:
	// "/x/api/authy/sign-out" is "/sign-out" to them. What such a path names is recorded as
	// ambiguous; what it does not name is nothing of the server's.
	BaseAnywhere bool `json:"base_anywhere,omitempty"`
	// Suffixes are what the server takes off the end of a path before it looks for its route,
	// such as ".json".
	Suffixes []string `json:"suffixes,omitempty"`
	// FormJSON is the field of a form that has further fields in it, as JSON.
	FormJSON string `json:"form_json,omitempty"`
	// Unknown says what becomes of paths under the base path that no route names:
	// "record" (default) or "ignore", for profiles of a whole site that serves other
	// things too.
	Unknown string `json:"unknown,omitempty"`
	// Secrets are names of fields, besides those that every server has, whose values
	// are redacted wherever they stand.
	Secrets []string `json:"secrets,omitempty"`
	// Outcomes are named lists of rules. The list "default" is appended to every
	// route's own rules.
	Outcomes map[string][]Rule `json:"outcomes"`
	// Routes are the known endpoints. Of several that match, the first one counts.
	Routes []*Route `json:"routes"`

	basePath string
	// guessesCookies is true if the patterns of cookies are those of a profile that guesses.
	guessesCookies bool
	foldedBase     string // in lower case, for readings that ignore case
	table
	outer    table    // routes of paths outside the base path
	anywhere []*Route // routes of no path in particular
	words    *words   // routes that are found by words in the path; nil if there are none
	unknown  *Route   // for a path that no route names
	reads    *Route   // the same for a safe method
	actions  map[string]bool
}

// table finds routes by their path.
type table struct {
	static map[string][]*Route
	params []*Route // one of each template
}

// Credentials says where a session is carried. Cookie names are patterns in
// which a leading or trailing * stands for anything: servers prefix, number and
// rename theirs.
type Credentials struct {
	// Cookies are the names of session cookies, such as "*session_token".
	Cookies []string `json:"cookies,omitempty"`
	// Cookieless is true when the server looks at no cookie, on any route.
	Cookieless bool `json:"cookieless,omitempty"`
	// Headers of a request that carry a session, such as "Authorization".
	Headers []string `json:"headers,omitempty"`
	// Query are parameters, of the query or a form, that carry a credential of their own, and
	// that the server may go by instead of cookies and headers: "access_token". Of several,
	// with spaces between, all must be there: "username password".
	Query []string `json:"query,omitempty"`
	// ResponseHeaders of an answer that issue one, such as "Set-Auth-Token".
	ResponseHeaders []string `json:"response_headers,omitempty"`
	// ResponseBody are JSON pointers (RFC 6901) to tokens that an answer issues and
	// that its client sends in a header from then on.
	ResponseBody []string `json:"response_body,omitempty"`
}

// Session is an endpoint that tells who a credential belongs to. It is asked with
// the client's own credentials and without a body.
type Session struct {
	// Method, GET if not given. Anything else must change nothing.
	Method string `json:"method,omitempty"`
	// Path under the base path, such as "/get-session". ":name" is replaced by that
	// parameter of the route whose exchange is looked at; if that has none, this
	// endpoint is not asked.
	Path string `json:"path"`
	// Query to send, without "?".
	Query string `json:"query,omitempty"`
	// Forward are headers of the client's request that the question needs besides the
	// credentials, such as "Apikey".
	Forward []string `json:"forward,omitempty"`
	// User is the JSON pointer to the user's id, or several whose values are joined
	// with "/". An answer without it means that nobody is signed in.
	User Source `json:"user"`
	// SessionUser, if given, points to a second copy of the id in the session
	// itself; both must agree.
	SessionUser string `json:"session_user,omitempty"`
	// Token, if given, points to the session's own token. A cookie is remembered as
	// this user's only if it begins with it.
	Token string `json:"token,omitempty"`
	// Role points to the user's role: a string, possibly of several roles
	// separated by commas, or an array.
	Role string `json:"role,omitempty"`
	// Identifier points to what the user signs in with, such as the e-mail.
	Identifier string `json:"identifier,omitempty"`
	// IdentifierVerified, if given, points to a boolean: whether the identifier was
	// verified to be the user's. If not, it proves nothing about earlier attempts; nor does
	// one with "@" in it where this is not given.
	IdentifierVerified string `json:"identifier_verified,omitempty"`
	// ImpersonatedBy points to the administrator behind an impersonated session.
	ImpersonatedBy string `json:"impersonated_by,omitempty"`
	// Complete, if given, must hold of an answer whose session has all its factors.
	// With one that still owes a factor nobody is an administrator.
	Complete *JSONCondition `json:"complete,omitempty"`
	// Expires points to the session's end (RFC 3339); an answer whose session
	// has ended counts as nobody.
	Expires string `json:"expires,omitempty"`
}

// IsComplete says whether an answer is of a session that has all its factors.
func (s *Session) IsComplete(a *Answer) bool { return s.Complete == nil || s.Complete.holds(a) }

// Sign is something in an exchange by which a server is recognised. All conditions
// that are given must hold, and at least one of them must be the server's own doing:
// paths alone are what clients say. An answer of 404, 405 or 5xx never counts.
type Sign struct {
	// Method and Path of the request. Path is a template as in Route; what stands
	// before it in the request's path is taken for the base path.
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	// Status, SetsCookie, Header, JSON and HTML are conditions on the answer, as in
	// Rule. Header is the name of a header.
	Status     string         `json:"status,omitempty"`
	SetsCookie string         `json:"sets_cookie,omitempty"`
	Header     string         `json:"header,omitempty"`
	JSON       *JSONCondition `json:"json,omitempty"`
	HTML       string         `json:"html,omitempty"`
	// Weak signs are those of a standard that several servers keep: the search goes
	// on after them.
	Weak bool `json:"weak,omitempty"`

	rule Rule
	segs []string
}

// Timing says when a route's entry is first written.
type Timing string

// The timings.
const (
	// After: when the outcome is known.
	After Timing = "after"
	// Before: as an intent, before the request is forwarded. For destructive
	// routes, after which the session is gone.
	Before Timing = "before"
)

// Record says which exchanges of a route become entries.
type Record string

// The record values.
const (
	// Always: every exchange.
	Always Record = "always"
	// Failures: only what failed; for routes that change nothing, where a
	// refusal is still worth knowing.
	Failures Record = "failures"
	// Checks: every exchange that asks who somebody is (session checks, userinfo,
	// introspection), of low severity; users can switch the successful ones off.
	Checks Record = "checks"
	// Never: none.
	Never Record = "never"
)

// Route is one endpoint, or what one endpoint means under some conditions.
type Route struct {
	// Method in upper case; empty for any.
	Method string `json:"method,omitempty"`
	// Path is a template under the base path; ":name" stands for one segment, and
	// "*" at the end for any rest, also an empty one.
	Path string `json:"path,omitempty"`
	// Words stand for Path in profiles that know no paths: the route is for every
	// path with one of them in it. Letters, digits and "/" only; case, "-", "_" and "."
	// in paths do not count. "/word" must begin a segment, "word/" end one, "word/$" end the path.
	Words []string `json:"words,omitempty"`
	// When are conditions on the request: a Source of the request and the value that
	// it must have, "*" for any that is not empty, "" for none, or a list of values.
	// All must hold. They tell several events at one endpoint apart. Bodies are known
	// at the end only; until then that one counts of those whose other conditions hold which
	// records most, and of several the last.
	When map[string]Values `json:"when,omitempty"`
	// Action overrides the entry's action, which is else made from Path.
	Action string `json:"action,omitempty"`
	// Outside is true when Path is one of the whole site, not under the base path.
	Outside bool `json:"outside,omitempty"`
	// Anywhere is true when the route is that of any path, with Path "/*", if its conditions,
	// which are on the query, hold: servers that take credentials there do so before they
	// look at the path. What is recorded anyhow keeps its own route.
	Anywhere bool `json:"anywhere,omitempty"`
	// Class of the event (DESIGN section 1).
	Class string `json:"class"`
	// Timing, default After.
	Timing Timing `json:"timing,omitempty"`
	// Record, default Always.
	Record Record `json:"record,omitempty"`
	// Severity, default inferred from action and class.
	Severity *severity.Level `json:"severity,omitempty"`
	// Rules names a list of Profile.Outcomes to try before "default".
	Rules string `json:"outcome,omitempty"`
	// Anonymous is true when the route works without a session: then a success
	// does not prove that the request's credential is alive, and its owner is
	// asked for instead of remembered.
	Anonymous bool `json:"anonymous,omitempty"`
	// Cookieless is true when the server goes by headers alone there, whatever cookies a
	// request has: then they say nothing of who acts.
	Cookieless bool `json:"cookieless,omitempty"`
	// User are places where a success names the acting user; the first that has a
	// value counts.
	User []Source `json:"user,omitempty"`
	// Actor are places in the answer where the server names the acting user whatever
	// the outcome; "flow" stands for the user whom the flow has proved.
	Actor []Source `json:"actor,omitempty"`
	// Administrator is where a success names the administrator who acts
	// (impersonation start).
	Administrator Source `json:"administrator,omitzero"`
	// SwitchesUser is true when a success makes the session that asks for it somebody else's,
	// with the same credential: what was known of it before is not true any more.
	SwitchesUser bool `json:"switches_user,omitempty"`
	// Unlink says whose account a success deletes: "actor" or "target". That
	// user's entries then stay without the user (the plugin's ON DELETE SET NULL).
	Unlink string `json:"unlink,omitempty"`
	// Target are places that name the user who is acted on. A place of the request
	// counts whatever the outcome, one of the answer for a success.
	Target []Source `json:"target,omitempty"`
	// Identifier are places of the request with what was typed to sign in. A bare
	// name is a field of its body (JSON or form).
	Identifier []Source `json:"identifier,omitempty"`
	// Flow are places with values that join the steps of one flow: challenges,
	// states, codes, refresh tokens. Values must be secret enough that only the
	// flow's own client knows them. Who is proved in one step has acted in all.
	Flow []Source `json:"flow,omitempty"`
	// Detached exchanges join their flow, but are not its user's doing: whoever starts
	// a device flow may be somebody else than who approves it.
	Detached bool `json:"detached,omitempty"`

	action   string
	rules    []Rule
	segs     []string
	when     []condition
	siblings []*Route // routes for the same requests but for their conditions on bodies
	known    bool
	formJSON string // see Profile.FormJSON
	rest     bool   // the template ends in *
	body     bool   // some rule or place looks at the answer's body
	html     bool   // some rule looks at the answer's page
	request  bool   // something looks at the request's body
	headers  bool   // something looks at the request's headers
	// addresses is true when some rule looks at what the client is sent to, which the
	// request may have chosen.
	addresses bool
}

// Rule is one line of an outcome list; all conditions given must hold.
type Rule struct {
	// Status is a list of codes and classes: "2xx", "302,303", "4xx,5xx".
	Status string `json:"status,omitempty"`
	// Location names a query or fragment parameter that the Location header has.
	Location string `json:"location,omitempty"`
	// In is where that URL is instead of in the Location header.
	In Source `json:"in,omitzero"`
	// LocationPath is the end of that URL's path, whole segments, such as "/login".
	LocationPath string `json:"location_path,omitempty"`
	// LocationRepeats names a parameter that the URL has with the value that the
	// request's query has: the client is sent back to the step that it came from.
	LocationRepeats string `json:"location_repeats,omitempty"`
	// SetsCookie is a cookie name pattern that the answer sets (not clears).
	SetsCookie string `json:"sets_cookie,omitempty"`
	// ClearsCookie is a cookie name pattern that the answer clears.
	ClearsCookie string `json:"clears_cookie,omitempty"`
	// Header is the name of a header that the answer has.
	Header string `json:"header,omitempty"`
	// JSON looks at the answer's body.
	JSON *JSONCondition `json:"json,omitempty"`
	// HTML is a text that the answer's page contains, in any case.
	HTML string `json:"html,omitempty"`
	// HTMLRepeats names a parameter that an address in the page has with the value that the
	// request's query has: it is the same form again.
	HTMLRepeats string `json:"html_repeats,omitempty"`
	// Outcome if the rule holds; "none" when the exchange is no event, "unknown" when
	// the answer is the same either way.
	Outcome storage.Status `json:"outcome"`

	status statusSet
	html   []byte
}

// None is the outcome of an exchange that is no event.
const None storage.Status = "none"

// JSONCondition looks at one value of a JSON body.
type JSONCondition struct {
	// Pointer (RFC 6901) to the value; "" is the whole document.
	Pointer string `json:"pointer"`
	// Equals is the literal that the value must be; absent if it only has to be
	// there.
	Equals json.RawMessage `json:"equals,omitempty"`
	// Filled: the value must be there and neither null, false, 0, "", [] nor {}.
	Filled bool `json:"filled,omitempty"`
	// Empty: the value must be missing or one of those.
	Empty bool `json:"empty,omitempty"`
}

// The classes of events.
var classes = map[string]bool{
	"sign-in": true, "sign-up": true, "sign-out": true, "mfa": true, "credential": true, "session": true,
	"account": true, "token": true, "admin": true, "organization": true, "custom": true,
}

// IsClass says whether a name is that of a class of events, custom included.
func IsClass(name string) bool { return classes[name] }

// ActionName is the route's action, such as "sign-in:email".
func (r *Route) ActionName() string { return r.action }

// Known is false for the stand-in of a path that no route names.
func (r *Route) Known() bool { return r.known }

// NeedsBody says whether a rule looks at the body of an answer.
func (r *Route) NeedsBody() bool { return r.body }

// NeedsPage says whether a rule looks at the page of an answer.
func (r *Route) NeedsPage() bool { return r.html }

// NeedsRequestHeader says whether something looks at the request's header besides
// its credentials.
func (r *Route) NeedsRequestHeader() bool { return r.headers }

// Deferred says whether bodies may show that another route applies.
func (r *Route) Deferred() bool { return len(r.siblings) > 0 }

// NeedsRequestBody says whether something looks at the request's body.
func (r *Route) NeedsRequestBody() bool { return r.request }

// NeedsAddresses says whether the addresses in the request's body count, to which its
// client wants to be sent back.
func (r *Route) NeedsAddresses() bool { return r.addresses }
