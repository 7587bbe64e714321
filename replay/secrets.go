package replay

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// A value must be shortest bytes long to be looked for, or else be a code of at
// least shortestCode digits, which is looked for as a JSON string: anything less
// stands in a database by chance.
const (
	shortest     = 8
	shortestCode = 4
)

// secretFields are names of fields and parameters, in lower case, that carry
// passwords and tokens.
var secretFields = map[string]bool{
	"password": true, "newpassword": true, "currentpassword": true, "token": true, "sessiontoken": true, "accesstoken": true, "access_token": true,
	"refreshtoken": true, "refresh_token": true, "idtoken": true, "id_token": true, "client_secret": true, "otp": true, "totpuri": true,
	"backupcodes": true, "code": true, "state": true, "code_verifier": true,
}

// Secrets lists the passwords, tokens and cookie values of the exchange, as they
// were sent, decoded, and without a signature; each with where it stood.
func (x *Exchange) Secrets() map[string]string {
	s := secrets{}
	s.headers(x.Request.Headers)
	s.headers(x.Response.Headers)
	s.body(x.Request.Body)
	answer := secrets{}
	answer.body(x.Response.Body)
	for v, where := range answer {
		if where != "field code" { // in an answer that is the name of an error
			s[v] = where
		}
	}
	path, query, _ := strings.Cut(x.Request.Path, "?")
	s.query("query", query)
	if _, token, ok := strings.Cut(path, "/reset-password/"); ok {
		s.add("path", token)
	}
	return s
}

type secrets map[string]string

func (s secrets) add(where, v string) {
	v = strings.Trim(strings.TrimSpace(v), `"`)
	s.keep(where, v)
	if plain, err := url.QueryUnescape(v); err == nil {
		s.keep(where, plain)
	}
	if token, _, signed := strings.Cut(v, "."); signed && !strings.HasPrefix(v, "eyJ") { // the head of a JWT is no secret
		s.keep(where, token)
	}
}

func (s secrets) keep(where, v string) {
	switch {
	case len(v) >= shortest:
		s[v] = where
	case len(v) >= shortestCode && strings.Trim(v, "0123456789") == "":
		s[`"`+v+`"`] = where
	}
}

func (s secrets) headers(h map[string][]string) {
	for name, values := range h {
		for _, v := range values {
			switch http.CanonicalHeaderKey(name) {
			case "Cookie":
				for pair := range strings.SplitSeq(v, ";") {
					s.cookie(pair)
				}
			case "Set-Cookie":
				pair, _, _ := strings.Cut(v, ";")
				s.cookie(pair)
			case "Authorization":
				_, token, _ := strings.Cut(v, " ")
				s.add(name, token)
			case "X-Api-Key", "Set-Auth-Token", "Set-Auth-Jwt":
				s.add(name, v)
			case "Location":
				if u, err := url.Parse(v); err == nil {
					s.query(name, u.RawQuery)
				}
			}
		}
	}
}

func (s secrets) cookie(pair string) {
	name, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
	s.add("cookie "+name, v)
}

func (s secrets) query(where, query string) {
	q, _ := url.ParseQuery(query) // what can be read of it
	for name, values := range q {
		if secretFields[strings.ToLower(name)] {
			for _, v := range values {
				s.add(where+" "+name, v)
			}
		}
	}
}

// body looks into JSON and forms.
func (s secrets) body(text string) {
	var v any
	if json.Unmarshal([]byte(text), &v) == nil {
		s.json("", v)
	} else if len(text) < 1<<16 && !strings.HasPrefix(text, "<") {
		s.query("form", text)
	}
}

func (s secrets) json(name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			s.json(k, child)
		}
	case []any:
		for _, child := range v {
			s.json(name, child)
		}
	case string:
		if name != "state" && secretFields[strings.ToLower(name)] { // in a body it is the state of an account
			s.add("field "+name, v)
		}
	}
}
