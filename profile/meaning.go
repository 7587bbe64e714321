package profile

import (
	"net/http"
	"strings"
)

// Words in a path that say what it is for, in the order in which they are looked
// for. They serve to guess at a route that no profile names, never to record one.
var meanings = []struct {
	class string
	words []string
}{
	{"sign-out", []string{"logout", "signout", "signoff", "endsession"}},
	{"mfa", []string{"mfa", "2fa", "twofactor", "totp", "otp", "webauthn", "passkey", "authenticator", "backupcodes", "recoverycodes"}},
	{"admin", []string{"admin", "impersonate", "impersonation"}},
	{"organization", []string{"organization", "organizations", "org", "orgs", "team", "teams", "tenant", "tenants", "invitation", "invitations", "invite", "member", "members", "group", "groups"}},
	{"sign-up", []string{"signup", "register", "registration", "enroll"}},
	{"credential", []string{"password", "passwd", "forgot", "recover", "recovery", "reset", "credentials", "credential"}},
	{"session", []string{"session", "sessions", "device", "devices"}},
	{"token", []string{"token", "tokens", "apikey", "apikeys", "introspect", "refresh", "jwks", "oauth", "oauth2"}},
	{"sign-in", []string{"login", "signin", "logon", "authenticate", "callback", "sso", "magiclink"}},
	{"account", []string{"account", "accounts", "user", "users", "profile", "email", "verify", "me"}},
}

// destructive are words of paths after which something is gone.
var destructive = map[string]bool{
	"delete": true, "remove": true, "revoke": true, "terminate": true, "destroy": true, "erase": true, "purge": true,
	"deactivate": true, "unregister": true, "logout": true, "signout": true, "signoff": true, "endsession": true,
}

// Guess returns a line for an endpoint that no route names, from the words in its
// path: a beginning for whoever knows the server.
func Guess(method, path string) Route {
	r := Route{Method: strings.ToUpper(method), Path: path, Class: "custom"}
	words := pathWords(path)
	for _, m := range meanings {
		if hasWord(words, m.words) {
			r.Class = m.class
			break
		}
	}
	switch {
	case IsSafe(method) && !hasDestructive(words):
		r.Record = Failures
	case r.Method == http.MethodDelete || hasDestructive(words):
		r.Timing = Before
	}
	return r
}

// pathWords are the words of a path in lower case, and with them every two that
// stand side by side in a segment as one: "log-out" is also "logout".
func pathWords(path string) map[string]bool {
	out := make(map[string]bool)
	for segment := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(segment, ":") {
			continue // a parameter
		}
		last := ""
		for _, word := range splitWords(segment) {
			out[word] = true
			if last != "" {
				out[last+word] = true
			}
			last = word
		}
	}
	return out
}

// splitWords cuts at what is no letter or digit, and before capitals.
func splitWords(s string) []string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' && i > 0 && s[i-1] >= 'a' && s[i-1] <= 'z' {
			b.WriteByte('-')
		}
		b.WriteByte(s[i])
	}
	return strings.FieldsFunc(strings.ToLower(b.String()), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

func hasWord(words map[string]bool, list []string) bool {
	for _, word := range list {
		if words[word] {
			return true
		}
	}
	return false
}

func hasDestructive(words map[string]bool) bool {
	for word := range words {
		if destructive[word] {
			return true
		}
	}
	return false
}
