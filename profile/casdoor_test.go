package profile_test

import (
	"net/http"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// TestCasdoorTakesCredentialsAnywhere: its filter signs in by the query of any path, it has routes outside
// its base path, and takes suffixes off.
func TestCasdoorTakesCredentialsAnywhere(t *testing.T) {
	p := builtin(t, "casdoor")
	const document = "application/json"
	for _, c := range []struct{ method, path, body, action, identifier string }{
		{"GET", "/api/health?username=built-in/admin&password=guess", "", "sign-in:query", "built-in/admin"},
		{"GET", "/api/get-account?username=built-in/admin&password=guess", "", "sign-in:query", "built-in/admin"},
		{"GET", "/.well-known/jwks?username=built-in/admin&password=guess", "", "sign-in:query", "built-in/admin"},
		{"POST", "/api/delete-user?username=built-in/admin&password=guess", "", "delete-user", ""}, // the act says more
		{"GET", "/api/health?username=built-in/admin", "", "health", ""},
		{"DELETE", "/scim/Users/7f2a", "", "admin:delete-user", ""},
		{"POST", "/scim/Bulk", "{}", "admin:scim", ""},
		{"GET", "/login/oauth/authorize?client_id=x", "", "oauth:authorize", ""},
		{"GET", "/cas/o/a/p3/serviceValidate?ticket=x", "", "cas:validate", ""},
		{"GET", "/login", "", "", ""},
		{"POST", "/api/delete-user.json", "{}", "delete-user", ""},
		{"POST", "/api//delete-user.xml", "{}", "delete-user", ""},
		{"POST", "/api/login", `{"username":"admin","password":"guess","type":"login","mfaType":"app","recoveryCode":"1","provider":"x"}`, "sign-in", "admin"},
		{"POST", "/api/login", `{"USERNAME":"admin","password":"guess","type":"login"}`, "sign-in", ""},
		{"POST", "/api/login", `{"provider":"github","method":"link","type":"login"}`, "account:link", ""},
		{"POST", "/api/login", `{"provider":"github","method":"signup","type":"login"}`, "sign-in:external", ""},
	} {
		u := target(t, c.path)
		m, ok := p.Match(c.method, u)
		if !ok || !m.Route.Known() {
			if c.action != "" {
				t.Errorf("%s %s is nothing of it", c.method, c.path)
			}
			continue
		}
		x := &profile.Exchange{Answer: &profile.Answer{Status: 200, Query: u.RawQuery, Header: http.Header{}}, Method: c.method, Path: m.Path, Route: m.Route, Sent: []byte(c.body), SentType: document}
		m = p.Refine(m, x)
		x.Route = m.Route
		if got := profile.First(m.Route.Identifier, x); m.Route.ActionName() != c.action || got != c.identifier {
			t.Errorf("%s %s is %q of %q, want %q of %q", c.method, c.path, m.Route.ActionName(), got, c.action, c.identifier)
		}
	}
	for query, want := range map[string]bool{"accessToken=x": true, "access_token=x": true, "username=a&password=b": true, "username=a": false, "clientId=x": false, "clientId=x&clientSecret=y": true, "": false} {
		if got := p.CarriesCredential(&profile.Exchange{Answer: &profile.Answer{Query: query}}); got != want {
			t.Errorf("%q carries a credential: %v", query, got)
		}
	}
}

// TestAnIdentifierInAnotherCaseIsOne: servers in Go read names in any case.
func TestAnIdentifierInAnotherCaseIsOne(t *testing.T) {
	s, err := profile.NewSource("email")
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{
		`{"EMAIL":"a@b.c"}`: "a@b.c", `{"email":"a@b.c"}`: "", `{"e_mail":"a@b.c"}`: "a@b.c", `{"EMAIL":"a@b.c","Email":"d@e.f"}`: "a@b.c", `{}`: "",
		`{"email":"a@b.c","email":null}`: "", `{"email":null,"EMAIL":"a@b.c"}`: "",
	} {
		x := &profile.Exchange{Answer: new(profile.Answer), Sent: []byte(body), SentType: "application/json"}
		got, several := profile.Similar([]profile.Source{s}, x)
		if got != want || several != (body == `{"EMAIL":"a@b.c","Email":"d@e.f"}`) {
			t.Errorf("%s: %q, several %v", body, got, several)
		}
	}
}

// TestFieldsInAFieldOfAFormCount: PocketBase takes them out of @jsonPayload.
func TestFieldsInAFieldOfAFormCount(t *testing.T) {
	p := builtin(t, "pocketbase")
	for _, c := range []struct{ method, path, body, action, identifier string }{
		{"PATCH", "/api/collections/customers/records/7", `@jsonPayload={"password":"n","oldPassword":"o"}`, "user:change-password", ""},
		{"PATCH", "/api/collections/users/records/7", `name=x&@jsonPayload={"password":"n","oldPassword":"o"}`, "user:change-password", ""},
		{"POST", "/api/collections/customers/records", `@jsonPayload={"password":"n","passwordConfirm":"n","email":"a@b.c"}`, "sign-up", "a@b.c"},
		{"POST", "/api/collections/users/auth-with-password", `identity=decoy&@jsonPayload={"identity":"victim","password":"x"}`, "sign-in:password", "victim"},
		{"POST", "/api/collections/users/auth-with-password", `identity=alice&password=x`, "sign-in:password", "alice"},
		{"PATCH", "/api/collections/users/records/7", `password=n&@jsonPayload={}`, "user:set-password", ""},
	} {
		m, ok := p.Match(c.method, target(t, c.path))
		if !ok {
			t.Fatal(c.path)
		}
		x := &profile.Exchange{Answer: &profile.Answer{Status: 200, Header: http.Header{}}, Method: c.method, Path: m.Path, Route: m.Route, Sent: []byte(c.body), SentType: "application/x-www-form-urlencoded"}
		m = p.Refine(m, x)
		x.Route = m.Route
		if got := profile.First(m.Route.Identifier, x); m.Route.ActionName() != c.action || got != c.identifier {
			t.Errorf("%s %s with %s is %q of %q, want %q of %q", c.method, c.path, c.body, m.Route.ActionName(), got, c.action, c.identifier)
		}
	}
}
