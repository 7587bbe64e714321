package profile

import (
	"encoding/json"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Profile is one auth server. Fields with a JSON name are the file format.
// It is immutable once parsed, and safe for concurrent use.
type Profile struct {
	// Name as the Caddyfile says it, such as "better_auth".
	Name string `json:"name"`
	// Title for people, such as "Better Auth".
	Title string `json:"title"`
	// Sources says what was read or measured to write the file.
	Sources []string `json:"sources,omitempty"`
	// BasePath is where the server's routes live unless the user says otherwise,
	// such as "/api/auth".
	BasePath string `json:"base_path"`
	// Credentials says where the server's clients carry their session.
	Credentials Credentials `json:"credentials"`
	// Session says how to ask the server who a credential belongs to; nil if it
	// cannot be asked.
	Session *Session `json:"session,omitempty"`
	// Router says how the server itself reads a path: "whatwg" when it takes the path
	// of a WHATWG URL as it is. Then that reading decides wherever it names a route;
	// otherwise, and for all other servers, the most severe reading does.
	Router string `json:"router,omitempty"`
	// Outcomes are named lists of rules. The list "default" is appended to every
	// route's own rules.
	Outcomes map[string][]Rule `json:"outcomes"`
	// Routes are the known endpoints.
	Routes []*Route `json:"routes"`

	basePath   string
	foldedBase string // in lower case, for readings that ignore case
	static     map[string][]*Route
	params     []*Route
	unknown    *Route // for a path that no route names
	reads      *Route // the same for a safe method
}

// Credentials says where a session is carried. Cookie names are patterns in
// which a leading * stands for anything: servers prefix and rename theirs.
type Credentials struct {
	// Cookies are the names of session cookies, such as "*session_token".
	Cookies []string `json:"cookies,omitempty"`
	// Headers of a request that carry a session, such as "Authorization".
	Headers []string `json:"headers,omitempty"`
	// ResponseHeaders of an answer that issue one, such as "Set-Auth-Token".
	ResponseHeaders []string `json:"response_headers,omitempty"`
	// ResponseBody are JSON pointers (RFC 6901) to tokens that an answer issues.
	ResponseBody []string `json:"response_body,omitempty"`
}

// Session is the endpoint that tells who a credential belongs to. It is asked
// with GET and the client's own credentials.
type Session struct {
	// Path under the base path, such as "/get-session".
	Path string `json:"path"`
	// Query to send, without "?".
	Query string `json:"query,omitempty"`
	// User is the JSON pointer to the user's id. An answer without it means that
	// nobody is signed in.
	User string `json:"user"`
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
	// verified to be the user's. If not, it proves nothing about earlier attempts.
	IdentifierVerified string `json:"identifier_verified,omitempty"`
	// ImpersonatedBy points to the administrator behind an impersonated session.
	ImpersonatedBy string `json:"impersonated_by,omitempty"`
	// Expires points to the session's end (RFC 3339); an answer whose session
	// has ended counts as nobody.
	Expires string `json:"expires,omitempty"`
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
)

// Route is one endpoint.
type Route struct {
	// Method in upper case; empty for any.
	Method string `json:"method,omitempty"`
	// Path is a template under the base path; ":name" stands for one segment.
	Path string `json:"path"`
	// Action overrides the entry's action, which is else made from Path.
	Action string `json:"action,omitempty"`
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
	// User are JSON pointers into the answer of a success, to the acting user.
	User []string `json:"user,omitempty"`
	// Administrator points into the answer of a success, to the administrator
	// who acts (impersonation start).
	Administrator string `json:"administrator,omitempty"`
	// Unlink says whose account a success deletes: "actor" or "target". That
	// user's entries then stay without the user (the plugin's ON DELETE SET NULL).
	Unlink string `json:"unlink,omitempty"`
	// Target says whom an administrator acts on.
	Target Target `json:"target,omitzero"`
	// Identifier are names of fields of the request body (JSON or form) with what
	// was typed to sign in.
	Identifier []string `json:"identifier,omitempty"`

	action  string
	rules   []Rule
	segs    []string
	known   bool
	body    bool // some rule or pointer looks at the answer's body
	request bool // something looks at the request's body
}

// Target says where the object of an administrator's act is named.
type Target struct {
	// Request is a JSON pointer into the request body, used whatever the outcome.
	Request string `json:"request,omitempty"`
	// Response is a JSON pointer into the answer of a success.
	Response string `json:"response,omitempty"`
}

// Rule is one line of an outcome list; all conditions given must hold.
type Rule struct {
	// Status is a list of codes and classes: "2xx", "302,303", "4xx,5xx".
	Status string `json:"status,omitempty"`
	// Location names a query or fragment parameter that the Location header has.
	Location string `json:"location,omitempty"`
	// SetsCookie is a cookie name pattern that the answer sets (not clears).
	SetsCookie string `json:"sets_cookie,omitempty"`
	// JSON looks at the answer's body.
	JSON *JSONCondition `json:"json,omitempty"`
	// Outcome if the rule holds.
	Outcome storage.Status `json:"outcome"`

	status statusSet
}

// JSONCondition looks at one value of a JSON body.
type JSONCondition struct {
	// Pointer (RFC 6901) to the value.
	Pointer string `json:"pointer"`
	// Equals is the literal that the value must be; absent if it only has to be
	// there.
	Equals json.RawMessage `json:"equals,omitempty"`
}

// The classes of events.
var classes = map[string]bool{
	"sign-in": true, "sign-up": true, "sign-out": true, "mfa": true, "credential": true, "session": true,
	"account": true, "token": true, "admin": true, "organization": true, "custom": true,
}

// ActionName is the route's action, such as "sign-in:email".
func (r *Route) ActionName() string { return r.action }

// Known is false for the stand-in of a path that no route names.
func (r *Route) Known() bool { return r.known }

// NeedsBody says whether a rule looks at the body of an answer.
func (r *Route) NeedsBody() bool { return r.body }

// NeedsRequestBody says whether something looks at the request's body.
func (r *Route) NeedsRequestBody() bool { return r.request }
