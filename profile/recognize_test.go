package profile_test

import (
	"net/http"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// seen is an exchange as a Recognizer sees it.
func seen(method, path string, status int, body string, header ...string) *profile.Exchange {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &profile.Exchange{Method: method, Path: path, Answer: &profile.Answer{Status: status, Header: h, Body: []byte(body)}}
}

func recognizer(t *testing.T) *profile.Recognizer {
	t.Helper()
	all, err := profile.Builtins()
	if err != nil {
		t.Fatal(err)
	}
	return profile.NewRecognizer(all)
}

func TestServersAreRecognisedUnderAnyPrefix(t *testing.T) {
	for _, c := range []struct {
		x          *profile.Exchange
		name, base string
	}{
		{seen("POST", "/api/auth/sign-in/email", 200, `{"token":"t","user":{"id":"u"}}`, "Set-Cookie", "better-auth.session_token=t; Path=/"), "better_auth", "/api/auth"},
		{seen("GET", "/a/b/get-session", 200, `{"session":{"userId":"u"}}`), "better_auth", "/a/b"},
		{seen("GET", "/realms/acme/protocol/openid-connect/userinfo", 200, `{"sub":"u"}`), "keycloak", ""},
		{seen("GET", "/auth/realms/acme/protocol/openid-connect/userinfo", 401, `{}`), "keycloak", "/auth"},
	} {
		found, ok := recognizer(t).Recognize(c.x, profile.Nothing)
		if !ok || found.Profile.Name != c.name || found.Profile.Base() != c.base {
			t.Errorf("%s %s: recognised %v %+v, want %s at %q", c.x.Method, c.x.Path, ok, found, c.name, c.base)
		}
	}
}

// Clients choose what they ask for: a server that answers anything must not be taken
// for another one for good.
func TestAMoreCertainSignWins(t *testing.T) {
	r := recognizer(t)
	steered, ok := r.Recognize(seen("GET", "/admin/realms/x", 200, "<html>", "Content-Type", "text/html"), profile.Nothing)
	if ok && steered.Certainty >= profile.Certain {
		t.Fatalf("a page for any path is taken for %s, for certain", steered.Profile.Name)
	}
	found, ok := r.Recognize(seen("POST", "/api/auth/sign-in/email", 200, `{}`, "Set-Cookie", "better-auth.session_token=t"), steered.Certainty)
	if !ok || found.Profile.Name != "better_auth" || found.Certainty != profile.Certain {
		t.Errorf("afterwards its own cookie is not recognised: %v %+v", ok, found)
	}
	if again, ok := r.Recognize(seen("GET", "/admin/realms/x", 200, `{"realm":"x"}`), found.Certainty); ok {
		t.Errorf("a certain profile is given up for %s", again.Profile.Name)
	}
}

func TestAnAnswerThatRefusesThePathIsNoSign(t *testing.T) {
	for _, status := range []int{100, 404, 405, 500, 502} {
		if found, ok := recognizer(t).Recognize(seen("GET", "/api/auth/get-session", status, `null`, "Set-Cookie", "better-auth.session_token=t"), profile.Nothing); ok {
			t.Errorf("%d: recognised %s", status, found.Profile.Name)
		}
	}
}
