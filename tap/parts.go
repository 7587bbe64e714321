package tap

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

// target is a request target without secrets.
func (s *Scrubber) target(target string) string {
	path, query, hasQuery := strings.Cut(target, "?")
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		plain, err := url.PathUnescape(segment)
		if err != nil {
			plain = segment
		}
		if out := s.text(plain); out != plain {
			segments[i] = url.PathEscape(out)
		}
	}
	target = strings.Join(segments, "/")
	if hasQuery {
		target += "?" + s.query(query)
	}
	return target
}

// query is a query or a form without secrets, in its order and spelling.
func (s *Scrubber) query(query string) string {
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, v, ok := strings.Cut(part, "=")
		if !ok {
			parts[i] = s.text(part)
			continue
		}
		plain, err := url.QueryUnescape(name)
		if err != nil {
			plain = name
		}
		parts[i] = s.text(name) + "=" + s.escapedQuery(plain, v)
	}
	return strings.Join(parts, "&")
}

// json is a JSON document without secrets, or false if it is none. answer is true for
// what a server says.
func (s *Scrubber) json(body string, answer bool) (string, bool) {
	if !profile.Readable([]byte(body)) {
		return "", false
	}
	b := new(bytes.Buffer)
	s.value(b, gjson.Parse(strings.TrimPrefix(body, "\ufeff")), "", func(name, v string) string {
		if trimmed := strings.TrimSpace(v); (strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[")) && s.kindOf(name) == harmless {
			if out, ok := s.json(trimmed, answer); ok {
				return out
			}
		}
		return s.named(name, v, answer)
	})
	return b.String(), true
}

// value writes a JSON value that stands under a name; each string as text says.
func (s *Scrubber) value(b *bytes.Buffer, v gjson.Result, name string, text func(name, v string) string) {
	s.valueIn(b, v, name, shortestNumber, text)
}

// shortestNumber is how many digits a number has that may be a secret: "code":400 is a word of
// a program. Inside of what is secret every number is, such as the digits of a code.
const shortestNumber = 4

// valueIn is value, and replaces numbers of so many digits and more under secret names.
func (s *Scrubber) valueIn(b *bytes.Buffer, v gjson.Result, name string, shortest int, text func(name, v string) string) {
	switch {
	case v.IsObject():
		s.object(b, v, name, text)
	case v.IsArray():
		b.WriteByte('[')
		first := true
		v.ForEach(func(_, element gjson.Result) bool {
			if !first {
				b.WriteByte(',')
			}
			first = false
			s.valueIn(b, element, name, 1, text)
			return true
		})
		b.WriteByte(']')
	case v.Type == gjson.String:
		writeString(b, text(name, v.Str))
	case v.Type == gjson.Number && len(v.Raw) >= shortest && strings.Trim(v.Raw, "0123456789") == "" && s.kindOf(name) != harmless && !s.again:
		b.WriteString(s.digits(v.Raw))
	default:
		b.WriteString(v.Raw)
	}
}

func (s *Scrubber) object(b *bytes.Buffer, v gjson.Result, under string, text func(name, v string) string) {
	ofPerson := false // it describes somebody: then "name" is a person's
	v.ForEach(func(_, member gjson.Result) bool {
		ofPerson = ofPerson || member.Type == gjson.String && wholeMail.MatchString(member.Str)
		return !ofPerson
	})
	named := s.nameIn(v)
	b.WriteByte('{')
	first := true
	v.ForEach(func(key, member gjson.Result) bool {
		if !first {
			b.WriteByte(',')
		}
		first = false
		writeString(b, s.text(key.Str))
		b.WriteByte(':')
		switch {
		case s.holds(under, key.Str):
			s.valueIn(b, member, under, 1, text)
			return true
		case named != "" && redact.HoldsValue(key.Str):
			s.valueIn(b, member, named, 1, text)
			return true
		}
		if member.Type == gjson.String && ofPerson && key.Str == "name" && !s.keep {
			writeString(b, s.person(member.Str))
		} else {
			s.value(b, member, key.Str, text)
		}
		return true
	})
	b.WriteByte('}')
}

// holds says whether what an object has under key is what the object's own name says:
// {"password":{"old":"..."}}, {"otp":{"value":"493021"}}. An object under the name of another
// secret may be about it, {"token":{"id":17,"token":"..."}}.
func (s *Scrubber) holds(under, key string) bool {
	switch s.kindOf(under) {
	case passwordKind:
		return true
	case secret:
		if spoken[normal(under)] {
			return redact.HoldsValue(key)
		}
		return s.kindOf(key) == harmless && !says(key)
	case harmless, personal:
	}
	return false
}

// says is true for the names of what profiles look at, or what says nothing of a person.
func says(name string) bool { return told[name] || strings.HasSuffix(strings.ToLower(name), "id") }

// nameIn is what an object says that it is the value of, if that is a secret: "password" of
// {"type":"password","value":"..."} or {"loc":["body","password"],"input":"..."}; "" otherwise.
func (s *Scrubber) nameIn(v gjson.Result) (name string) {
	v.ForEach(func(key, member gjson.Result) bool {
		if path := member.Array(); member.IsArray() && len(path) > 0 {
			member = path[len(path)-1]
		}
		if member.Type == gjson.String && (key.Str == "loc" || redact.HoldsName(key.Str)) {
			if kind := s.kindOf(member.Str); kind == secret || kind == passwordKind {
				name = member.Str
			}
		}
		return name == ""
	})
	return name
}

func writeString(b *bytes.Buffer, v string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // a string into a buffer
	b.Truncate(b.Len() - 1)
}

// escapeJSON is a text as it stands in a JSON string.
func escapeJSON(v string) string {
	b := new(bytes.Buffer)
	writeString(b, v)
	return b.String()[1 : b.Len()-1]
}

// told are claims that profiles look at, or that say nothing of a person.
var told = map[string]bool{
	"sub": true, "iss": true, "aud": true, "exp": true, "iat": true, "nbf": true, "typ": true, "sid": true, "auth_time": true,
	"azp": true, "client_id": true, "scope": true, "scp": true, "scopes": true, "role": true, "roles": true, "groups": true,
	"realm_access": true, "resource_access": true, "amr": true, "acr": true, "aal": true, "token_type": true, "session_id": true,
	"id": true, "uid": true, "type": true, "events": true, "owner": true, "organization": true, "tenant": true, "tid": true,
}

// jwt is a token of the same form (RFC 7519) with the claims that profiles look at,
// and a signature that is none.
func (s *Scrubber) jwt(token string) string {
	if s.keep {
		return token
	}
	if out, ok := s.jwts[token]; ok && !s.again {
		return out
	}
	parts := strings.Split(token, ".")
	for i, part := range parts {
		claims := i == 0 || i == 1 && len(parts) == 3 // the other parts of an encrypted one say nothing
		if out, ok := s.jwtPart(part, i == 0, claims); ok {
			parts[i] = out
		} else if !s.again {
			parts[i] = s.noise(part)
		}
	}
	out := strings.Join(parts, ".")
	if !s.again {
		s.jwts[token], s.jwts[out] = out, out
	}
	return out
}

// jwtPart is the head or the claims of a token; false for the other parts. First counts as a
// head only if it is one (RFC 7515, 7516): in a cookie of Flask the claims come first.
func (s *Scrubber) jwtPart(part string, first, claims bool) (string, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil || !claims || !profile.Readable(raw) {
		return "", false
	}
	b, v := new(bytes.Buffer), gjson.ParseBytes(raw)
	head := first && (v.Get("alg").Type == gjson.String || v.Get("enc").Type == gjson.String)
	s.claims(b, v, head)
	return base64.RawURLEncoding.EncodeToString(b.Bytes()), true
}

// claims writes the claims of a token; all says that the names of none of them count.
func (s *Scrubber) claims(b *bytes.Buffer, v gjson.Result, all bool) {
	if !v.IsObject() {
		s.value(b, v, "", func(_, v string) string { return s.veil(v) })
		return
	}
	b.WriteByte('{')
	first := true
	v.ForEach(func(key, member gjson.Result) bool {
		if !first {
			b.WriteByte(',')
		}
		first = false
		writeString(b, key.Str)
		b.WriteByte(':')
		switch {
		case all || says(key.Str):
			s.value(b, member, "", func(_, v string) string { return s.text(v) })
		case member.IsObject():
			s.claims(b, member, false)
		case member.Type == gjson.Number && len(member.Raw) > 3 && strings.Trim(member.Raw, "0123456789") == "" && !s.again:
			b.WriteString(s.digits(member.Raw))
		default:
			s.value(b, member, "", func(_, v string) string { return s.claim(key.Str, v) })
		}
		return true
	})
	b.WriteByte('}')
}

// claim is a claim that no profile looks at.
func (s *Scrubber) claim(name, v string) string {
	switch kind := s.kindOf(name); {
	case kind == passwordKind:
		return s.password(v)
	case kind == secret:
		return s.mask(v)
	case kind == personal || name == "name":
		return s.person(v)
	}
	return s.veil(v)
}

// leftOut stands for a body that is not kept.
func leftOut(size int64, why string) string {
	return "[" + strconv.FormatInt(size, 10) + " bytes are left out: " + why + "]"
}
