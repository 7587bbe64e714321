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

// What a server repeats of its request, and what files may hold, is no server's own
// name: nothing of it ends the search.
func TestNothingThatAClientCanPutThereIsCertain(t *testing.T) {
	page := []string{"Content-Type", "text/html"}
	reflected := func(path, query, body, page string) *profile.Exchange {
		x := seen("GET", path, 200, "", "Content-Type", "text/html")
		x.Query, x.Sent, x.SentType, x.Page = query, []byte(body), "application/json", []byte(page)
		return x
	}
	echo := seen("POST", "/api/health", 200, `{"message":"API is healthy."}`)
	echo.Method, echo.Sent, echo.SentType = "GET", []byte(`{"message":"API is healthy."}`), "application/json"
	file := seen("GET", "/files/health", 200, `{"message":"API is healthy."}`)
	login := seen("GET", "/files/device", 200, "", page...)
	login.Page = []byte(`<div class="theme-navbar__logo-wrap">`)
	for name, x := range map[string]*profile.Exchange{
		"a page with the address in it":    reflected("/lgn-/ui/login/x", "", "", `<link href="/lgn-/ui/login/x">`),
		"a page with the query in it":      reflected("/ui/login/x", "q=LGN%2D", "", `you looked for lgn-`),
		"a page with the body in it":       reflected("/ui/login/x", "", `{"a":["lg\u006e-"]}`, `you sent lgn-`),
		"an answer that is the request":    echo,
		"a file that is a server's answer": file,
		"a file that is a server's page":   login,
	} {
		if found, ok := recognizer(t).Recognize(x, profile.Nothing); ok && found.Certainty == profile.Certain {
			t.Errorf("%s: it is taken for %s, for certain, by %s", name, found.Profile.Name, found.Why)
		}
	}
	if found, _ := recognizer(t).Recognize(reflected("/ui/login/x", "", "", `<p class="lgn-x">`), profile.Nothing); found.Certainty != profile.Certain {
		t.Error("an honest page is not certain")
	}
}
