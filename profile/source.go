package profile

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// Source says where in an exchange a value stands. In a file it is a text:
//
//	/user/id            JSON pointer into the answer's body
//	header:NAME         header of the answer
//	cookie:PATTERN      cookie that the answer sets
//	request:/email      JSON pointer into the request's body, or the field of a form
//	query:NAME          parameter of the request's query
//	path:NAME           parameter :NAME of the route's template
//	sent-header:NAME    header of the request
//	sent-cookie:PATTERN cookie of the request
//	bearer              the request's token in Authorization, with "Bearer" or without
//	flow                the user whom the flow has proved (in Route.Actor and Route.User)
//
// "?name" behind it takes a parameter, of the query or the fragment, of the URL that
// stands there ("header:Location?code"). "#/sub" takes a claim, by its pointer, of
// the JWT that stands there ("/id_token#/sub"); nobody verifies its signature here,
// so this is for tokens which the server has issued, or accepted, in this exchange.
// A list of texts is the values of all, joined with "/"; all must be there.
type Source struct {
	places []place
}

// place is one text of a Source.
type place struct {
	kind  placeKind
	name  string // pointer, header, cookie pattern, parameter
	param string // of the URL there; "" for the value itself
	claim string // pointer into the JWT there; "" for the value itself
	text  string // as it was written
}

type placeKind uint8

const (
	inAnswer placeKind = iota
	inHeader
	inCookie
	inRequest
	inQuery
	inPath
	inSentHeader
	inSentCookie
	inBearer
	inFlow
)

var placeKinds = map[string]placeKind{
	"header": inHeader, "cookie": inCookie, "request": inRequest, "query": inQuery, "path": inPath,
	"sent-header": inSentHeader, "sent-cookie": inSentCookie,
}

// maxValue bounds what a Source yields, in bytes.
const maxValue = 16 << 10

// UnmarshalJSON implements json.Unmarshaler.
func (s *Source) UnmarshalJSON(b []byte) error {
	var texts []string
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		texts = []string{one}
	} else if err := json.Unmarshal(b, &texts); err != nil {
		return errors.New("a place is a text such as \"/user/id\", or a list of texts")
	}
	if len(texts) == 0 {
		return errors.New("a list of places is empty")
	}
	s.places = make([]place, len(texts))
	for i, text := range texts {
		var err error
		if s.places[i], err = parsePlace(text); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (s Source) MarshalJSON() ([]byte, error) {
	if len(s.places) == 1 {
		return json.Marshal(s.places[0].text)
	}
	texts := make([]string, len(s.places))
	for i := range s.places {
		texts[i] = s.places[i].text
	}
	return json.Marshal(texts)
}

// IsZero says that it names no place.
func (s Source) IsZero() bool { return len(s.places) == 0 }

// String is the text that it was written as.
func (s Source) String() string {
	texts := make([]string, len(s.places))
	for i := range s.places {
		texts[i] = s.places[i].text
	}
	return strings.Join(texts, " + ")
}

// NewSource parses one text.
func NewSource(text string) (Source, error) {
	p, err := parsePlace(text)
	return Source{[]place{p}}, err
}

func parsePlace(text string) (place, error) {
	p := place{text: text}
	rest, claim, hasClaim := strings.Cut(text, "#")
	if hasClaim {
		if !strings.HasPrefix(claim, "/") {
			return p, fmt.Errorf("bad place %q: a claim is a pointer such as #/sub", text)
		}
		p.claim = claim
	}
	if !strings.HasPrefix(rest, "/") || strings.Contains(rest, "?") {
		rest, p.param, _ = strings.Cut(rest, "?")
	}
	switch rest {
	case "bearer":
		p.kind = inBearer
		return p, nil
	case "flow":
		p.kind = inFlow
		return p, nil
	}
	if strings.HasPrefix(rest, "/") {
		p.kind, p.name = inAnswer, rest
		return p, nil
	}
	kind, name, ok := strings.Cut(rest, ":")
	if p.kind, p.name = placeKinds[kind], name; p.kind == 0 || !ok || name == "" {
		if !ok && isWord(rest) {
			p.kind, p.name = inRequest, "/"+rest // a bare name: a field of the request
			return p, nil
		}
		return p, fmt.Errorf("bad place %q: use a JSON pointer (/user/id), header:NAME, cookie:PATTERN, request:/POINTER, query:NAME, path:NAME, sent-header:NAME, sent-cookie:PATTERN or bearer", text)
	}
	if p.kind == inRequest && !strings.HasPrefix(name, "/") {
		return p, fmt.Errorf("bad place %q: what follows request: is a JSON pointer, such as request:/email", text)
	}
	if p.kind == inHeader || p.kind == inSentHeader {
		p.name = http.CanonicalHeaderKey(name)
	}
	return p, nil
}

func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return s != ""
}

// Exchange is what a Source reads from.
type Exchange struct {
	// Answer of the server.
	*Answer
	// Method and Host of the request.
	Method, Host string
	// Path under the base path, and the template of the route that it fits.
	Path  string
	Route *Route
	// SentHeader are the request's headers as far as the server sees them.
	SentHeader http.Header
	// Sent is the body of the request, as far as it was seen, and SentType its
	// Content-Type. SentUnseen is true when the server may have read something else:
	// more than was seen, or what is behind a content encoding.
	Sent       []byte
	SentType   string
	SentUnseen bool
	// Flow is the user whom the flow has proved.
	Flow string

	sent *sentBody // Sent, once somebody looked into it
}

// Value is what stands there; "" if nothing does.
func (s Source) Value(x *Exchange) string {
	switch len(s.places) {
	case 0:
		return ""
	case 1:
		return s.places[0].value(x)
	}
	parts := make([]string, len(s.places))
	for i := range s.places {
		if parts[i] = s.places[i].value(x); parts[i] == "" {
			return ""
		}
	}
	return strings.Join(parts, "/")
}

// Sure is Value where no server could read another value there: "" when the request
// gives the same name twice with different values, also in another case, or when its
// body cannot be read here as the server may have read it. Decide by Sure, show Value.
func (s Source) Sure(x *Exchange) string {
	parts := make([]string, len(s.places))
	for i := range s.places {
		if parts[i] = s.places[i].sure(x); parts[i] == "" {
			return ""
		}
	}
	return strings.Join(parts, "/")
}

// FirstSure is the value of the first Source that has a sure one.
func FirstSure(sources []Source, x *Exchange) string {
	for i := range sources {
		if v := sources[i].Sure(x); v != "" {
			return v
		}
	}
	return ""
}

// First is the value of the first Source that has one.
func First(sources []Source, x *Exchange) string {
	for i := range sources {
		if v := sources[i].Value(x); v != "" {
			return v
		}
	}
	return ""
}

// there says whether a field of the request has exactly that name, whatever its value; true for
// other places.
func (p *place) there(x *Exchange) bool {
	if p.kind != inRequest {
		return true
	}
	body := x.sentBody()
	name := strings.TrimPrefix(p.name, "/")
	return body.json.find(p.name).Exists() || slices.ContainsFunc(body.fields, func(f sentField) bool { return f.name == name })
}

// Similar is the one value that stands in such places of the request, under names of another case
// or other joints: servers in Go, and others, read those alike. several is true when there are more.
func Similar(sources []Source, x *Exchange) (value string, several bool) {
	for i := range sources {
		if len(sources[i].places) != 1 || sources[i].places[0].there(x) {
			continue
		}
		for _, v := range sources[i].places[0].readings(x).values {
			switch {
			case v == "" || v == value:
			case value == "":
				value = v
			default:
				several = true
			}
		}
	}
	return value, several
}

// OfRequest says whether all of it stands in the request.
func (s Source) OfRequest() bool {
	for i := range s.places {
		switch s.places[i].kind {
		case inRequest, inQuery, inPath, inSentHeader, inSentCookie, inBearer:
		default:
			return false
		}
	}
	return len(s.places) > 0
}

// OfBearer says whether it reads the request's own token.
func (s Source) OfBearer() bool { return s.has(inBearer) || s.has(inSentHeader) }

// Handed says whether all of it stands in the request's target or body: what a client
// hands over for this one act, unlike a cookie or a header that it sends with all.
func (s Source) Handed() bool { return s.OfRequest() && !s.ofHead() }

// ofHead says whether it reads the request's header.
func (s Source) ofHead() bool { return s.has(inBearer) || s.has(inSentHeader) || s.has(inSentCookie) }

func (s Source) has(kind placeKind) bool {
	for i := range s.places {
		if s.places[i].kind == kind {
			return true
		}
	}
	return false
}

func (p *place) value(x *Exchange) string { return p.within(p.raw(x)) }

// within is what of a value is meant: itself, a parameter, or a claim.
func (p *place) within(v string) string {
	if p.param != "" && v != "" {
		v = parameter(v, p.param)
	}
	if p.claim != "" && v != "" {
		v = Claim(v, p.claim)
	}
	if len(v) > maxValue {
		return ""
	}
	return v
}

func (p *place) raw(x *Exchange) string {
	switch p.kind {
	case inAnswer:
		if x.Answer == nil {
			return ""
		}
		return text(x.Lookup(p.name))
	case inHeader:
		if x.Answer == nil {
			return ""
		}
		return x.Header.Get(p.name)
	case inCookie:
		if x.Answer == nil {
			return ""
		}
		return SetCookie(x.Header, []string{p.name})
	case inRequest:
		return x.sentBody().value(p.name)
	case inQuery:
		if x.Answer == nil {
			return ""
		}
		return queryValue(x.Query, p.name)
	case inPath:
		return x.Route.parameter(x.Path, p.name)
	case inSentHeader:
		return x.SentHeader.Get(p.name)
	case inSentCookie:
		return sentCookie(x.SentHeader, p.name)
	case inBearer:
		return Bearer(x.SentHeader.Get("Authorization"))
	case inFlow:
		return x.Flow
	}
	return ""
}

// Bearer is the token of an Authorization header: what follows "Bearer", or all of
// a value without a scheme.
func Bearer(v string) string {
	scheme, token, ok := strings.Cut(v, " ")
	switch {
	case !ok:
		return v
	case strings.EqualFold(scheme, "Bearer"):
		return strings.TrimSpace(token)
	}
	return ""
}

// queryValue is the last value of a parameter in a query.
func queryValue(query, name string) string {
	if !strings.Contains(query, name) && !strings.ContainsAny(query, "%+") {
		return ""
	}
	last := ""
	for f := range eachField(query) {
		if f.name == name {
			last = f.value
		}
	}
	return last
}

// text is a string value, or the literal of a number or a boolean.
func text(v gjson.Result) string {
	switch v.Type {
	case gjson.String:
		return v.Str
	case gjson.Number, gjson.True, gjson.False:
		return v.Raw
	default:
		return ""
	}
}

// parameter is a value of a URL's query or fragment.
func parameter(rawURL, name string) string {
	if v := values(rawURL, name); len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// Claim is a claim of a JWT (RFC 7519), whose signature is not verified; "" if it is
// none.
func Claim(token, pointer string) string {
	_, rest, ok := strings.Cut(token, ".")
	payload, _, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(token) > maxValue {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return ""
	}
	return text(Lookup(b, pointer))
}

// sentCookie is the value of the request's first cookie whose name fits.
func sentCookie(h http.Header, pattern string) string {
	patterns := []string{pattern}
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			name, v, ok := strings.Cut(pair, "=")
			if ok && MatchName(patterns, strings.TrimSpace(name)) {
				return strings.TrimSpace(v)
			}
		}
	}
	return ""
}

// Target is the request target to ask at under a base path, with the parameters of
// its path filled in; "" when one is not to be had.
func (s *Session) Target(base string, params func(name string) string) string {
	path, ok := s.path(params)
	switch {
	case !ok:
		return ""
	case s.Query != "":
		return base + path + "?" + s.Query
	}
	return base + path
}

// HasTarget says whether Target has one.
func (s *Session) HasTarget(params func(name string) string) bool {
	_, ok := s.path(params)
	return ok
}

// path is the endpoint's, with its parameters filled in.
func (s *Session) path(params func(name string) string) (path string, ok bool) {
	if !strings.Contains(s.Path, "/:") {
		return s.Path, true
	}
	segs := strings.Split(s.Path, "/")
	for i, seg := range segs {
		if !strings.HasPrefix(seg, ":") {
			continue
		}
		if params == nil {
			return "", false
		}
		if segs[i] = params(seg[1:]); !isWord(segs[i]) || strings.Trim(segs[i], ".") == "" {
			return "", false // it goes into a path of ours: plain names only
		}
	}
	return strings.Join(segs, "/"), true
}

// Parameter is the value of the template's parameter in a path under the base path.
func (r *Route) Parameter(path, name string) string { return r.parameter(path, name) }

// Sample is an answer of the endpoint that says that the user is signed in, for
// tests and replays.
func (s *Session) Sample(user string) []byte {
	out := []byte("{}")
	parts := []string{user}
	if len(s.User.places) > 1 {
		parts = strings.SplitN(user, "/", len(s.User.places))
	}
	for i := range s.User.places {
		if p := &s.User.places[i]; p.kind == inAnswer && i < len(parts) {
			path := strings.ReplaceAll(strings.TrimPrefix(p.name, "/"), "/", ".")
			if b, err := sjson.SetBytes(out, path, parts[i]); err == nil {
				out = b
			}
		}
	}
	return out
}
