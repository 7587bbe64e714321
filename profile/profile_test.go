package profile_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func betterAuth(t testing.TB) *profile.Profile {
	t.Helper()
	p, err := profile.Builtin("better_auth")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func target(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.ParseRequestURI(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestEveryBuiltinProfileParses(t *testing.T) {
	for _, name := range profile.Names() {
		p, err := profile.Builtin(name)
		if err != nil {
			t.Error(err)
		} else if p.Name != name || p.Title == "" || len(p.Sources) == 0 {
			t.Errorf("%s: name %q, title %q, %d sources", name, p.Name, p.Title, len(p.Sources))
		}
	}
}

// TestBetterAuthCoversEveryEndpoint compares the profile with the dump of the
// real router: the same action, and a route of its own for every endpoint that
// is not the audit log's or a test's.
func TestBetterAuthCoversEveryEndpoint(t *testing.T) {
	b, err := os.ReadFile("../testdata/traffic/better-auth/endpoints.json")
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []struct{ Method, Path, ReferenceAction string }
	if err := json.Unmarshal(b, &endpoints); err != nil {
		t.Fatal(err)
	}
	p, checked := betterAuth(t), 0
	for _, e := range endpoints {
		if strings.HasPrefix(e.Path, "/audit-log") || strings.HasPrefix(e.Path, "/boom") {
			continue
		}
		checked++
		path := strings.NewReplacer(":id", "github", ":token", "8sbERK1x1WXmHo5OxKDH6Kyf").Replace(e.Path)
		m, ok := p.Match(e.Method, target(t, "/api/auth"+path))
		if !ok || !m.Route.Known() || !m.Method || m.Ambiguous {
			t.Errorf("%s %s: %+v, %v", e.Method, e.Path, m, ok)
			continue
		}
		if got := m.Route.ActionName(); got != e.ReferenceAction {
			t.Errorf("%s %s: action %q, the plugin says %q", e.Method, e.Path, got, e.ReferenceAction)
		}
	}
	t.Logf("%d endpoints of %d, the rest are the audit log's own and a test plugin's", checked, len(endpoints))
	if checked < 120 {
		t.Errorf("only %d endpoints were checked", checked)
	}
}

func TestMatchNamesTheRouteOrSaysNotMine(t *testing.T) {
	p := betterAuth(t)
	for _, c := range []struct {
		method, path, action string
		mine, known, before  bool
	}{
		{"POST", "/api/auth/sign-out", "sign-out", true, true, true},
		{"post", "/api/auth/sign-out", "sign-out", true, true, true},
		{"GET", "/api/auth/sign-out", "sign-out", true, true, false},
		{"POST", "/api/auth/sign-in/email?x=/sign-out", "sign-in:email", true, true, false},
		{"GET", "/api/auth/reset-password/Abc", "reset-password::token", true, true, false},
		{"POST", "/api/auth/nothing", "", true, false, false},
		{"GET", "/api/auth", "", true, false, false},
		{"POST", "/api/authX/sign-out", "sign-out", true, true, true}, // to older versions
		{"POST", "/api/auth.x/sign-out", "sign-out", true, true, true},
		{"POST", "/x/api/auth/sign-out", "sign-out", true, true, true},
		{"POST", "/x//api/authy/admin/remove-user", "admin:remove-user", true, true, true},
		{"GET", "/api/authx/callback/g", "callback::id", true, true, false},
		{"POST", "/api/authX/nothing", "", false, false, false},
		{"POST", "/api/authX", "", false, false, false},
		{"POST", "/docs/api/auth", "", false, false, false},
		{"GET", "/docs/api/auth/sign-out", "", false, false, false},
		{"GET", "/", "", false, false, false},
		{"POST", "/api/auth//../sign-out", "", true, false, false},
		{"POST", "/api/auth/x/../sign-out", "sign-out", true, true, true},
		{"POST", "/x/../api/auth/sign-out", "sign-out", true, true, true},
		{"POST", "/api/auth/%73ign-out", "sign-out", true, true, true},
		{"POST", "/API/AUTH/Sign-Out", "sign-out", true, true, true},
		{"POST", "/api/auth/sign-out/", "sign-out", true, true, true},
		{"POST", "//api/auth/sign-out", "sign-out", true, true, true},
		{"GET", "/api/auth/callback/..%2f..%2fsign-out", "callback::id", true, true, false},
	} {
		m, ok := p.Match(c.method, target(t, c.path))
		if ok != c.mine {
			t.Errorf("%s %s: mine %v", c.method, c.path, ok)
			continue
		}
		if !ok || c.path == "/api/auth//../sign-out" { // base path or sign-out: both are readings
			continue
		}
		if m.Route.Known() != c.known || m.Route.ActionName() != c.action || (m.Route.Timing == profile.Before) != c.before {
			t.Errorf("%s %s: known %v, action %q, timing %s", c.method, c.path, m.Route.Known(), m.Route.ActionName(), m.Route.Timing)
		}
	}
}

// refined is the route of a request to a server, once its body is known; none if it is nothing of it.
func refined(t *testing.T, server, method, path, typ, body string) profile.Match {
	t.Helper()
	p, err := profile.Builtin(server)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := p.Match(method, target(t, path))
	if !ok {
		t.Errorf("%s: %s %s is nothing of it", server, method, path)
		return m
	}
	return p.Refine(m, &profile.Exchange{Answer: &profile.Answer{Status: 200}, Method: method, Path: m.Path, Sent: []byte(body), SentType: typ})
}

// TestASpellingHidesNoRoute: another spelling of a path that a server executes is its route, not
// what takes everything or nothing.
func TestASpellingHidesNoRoute(t *testing.T) {
	for _, c := range []struct{ profile, method, path, body, action string }{
		{"keycloak", "POST", "//realms/m/login-actions/authenticate", "username=a&password=b", "sign-in:password"},
		{"keycloak", "POST", "/x/../realms/m/login-actions/authenticate", "username=a&password=b", "sign-in:password"},
		{"keycloak", "POST", "/realms/m/login-actions//authenticate", "username=a&password=b", "sign-in:password"},
		{"keycloak", "POST", "/realms/m/login-actions/%61uthenticate", "tryAnotherWay=on", "sign-in:another-way"},
		{"keycloak", "POST", "/realms/m/protocol/openid-connect/%6cogout", "", "sign-out"},
		{"keycloak", "DELETE", "/admin/realms/m/users//7", "", "admin:delete-user"},
		{"keycloak", "POST", "/admin/realms/m/users/7/%69mpersonation", "", "admin:impersonate-user"},
		{"zitadel", "POST", "/oauth/v2/%69ntrospect", "token=x", "token:introspect"},
		{"pocketbase", "PATCH", "/api/collections/Users/records/abc", `{"verified":true,"email":"a@b.c"}`, "user:update"},
		{"pocketbase", "DELETE", "/api/collections/Users/records/abc", "", "user:delete"},
		{"pocketbase", "DELETE", "/api/collections/_Superusers/records/abc", "", "admin:delete-superuser"},
		{"pocketbase", "POST", "/api/collections/_Superusers/auth-with-password", "", "sign-in:superuser"},
	} {
		typ := "application/x-www-form-urlencoded"
		if strings.HasPrefix(c.body, "{") {
			typ = "application/json"
		}
		m := refined(t, c.profile, c.method, c.path, typ, c.body)
		if m.Route != nil && m.Route.ActionName() != c.action {
			t.Errorf("%s: %s %s is %q, want %q", c.profile, c.method, c.path, m.Route.ActionName(), c.action)
		}
	}
}

// TestAnIntentClaimsNoMoreThanItKnows: until the body is read it is what it is without conditions.
func TestAnIntentClaimsNoMoreThanItKnows(t *testing.T) {
	for _, c := range []struct{ profile, method, path, action string }{
		{"kratos", "PATCH", "/admin/identities/7", "admin:update-user"},
		{"kratos", "PUT", "/admin/identities/7", "admin:update-user"},
	} {
		p, err := profile.Builtin(c.profile)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := p.Match(c.method, target(t, c.path)); !ok || m.Route.ActionName() != c.action || m.Route.Timing != profile.Before {
			t.Errorf("%s: %s %s begins as %q, %s", c.profile, c.method, c.path, m.Route.ActionName(), m.Route.Timing)
		}
	}
}

// TestWhatABodyAddsHidesNothing: a field that the server ignores, or a type that it does not look at.
func TestWhatABodyAddsHidesNothing(t *testing.T) {
	const form, text = "application/x-www-form-urlencoded", "text/plain"
	for _, c := range []struct{ profile, method, path, typ, body, action string }{
		{"keycloak", "POST", "/realms/m/login-actions/authenticate", form, "username=a&password=b&otp=1", "sign-in:password"},
		{"keycloak", "POST", "/realms/m/login-actions/authenticate", form, "otp=1", "sign-in:otp"},
		{"kratos", "POST", "/self-service/settings", "application/json", `{"method":"totp","totp_unlink":true,"totp_code":"1"}`, "two-factor:disable-totp"},
		{"kratos", "POST", "/self-service/settings", "application/json", `{"method":"totp","totp_unlink":false,"totp_code":"1"}`, "two-factor:enable-totp"},
		{"kratos", "POST", "/self-service/settings", form, "csrf_token=x&totp_unlink=true", "two-factor:disable-totp"},
		{"kratos", "POST", "/self-service/settings", form, "method=password&password=x&totp_unlink=true&lookup_secret_reveal=true", "user:change-password"},
		{"kratos", "POST", "/self-service/settings", form, "csrf_token=x&lookup_secret_disable=true", "two-factor:disable-lookup-secrets"},
		{"kratos", "POST", "/self-service/settings", form, "csrf_token=x&lookup_secret_reveal=true", "two-factor:lookup-secrets"},
		{"kratos", "PATCH", "/admin/identities/7", "application/json", `[{"op":"test","path":"/schema_id","value":"x"},{"op":"replace","path":"/state","value":"inactive"}]`, "admin:ban-user"},
		{"supabase", "PUT", "/auth/v1/user", text, `{"password":"new"}`, "user:change-password"},
		{"supabase", "PUT", "/auth/v1/user", "application/json", `{"data":{}}`, "user:update"},
	} {
		m := refined(t, c.profile, c.method, c.path, c.typ, c.body)
		if m.Route != nil && m.Route.ActionName() != c.action {
			t.Errorf("%s: %s %s with %s is %q, want %q", c.profile, c.method, c.path, c.body, m.Route.ActionName(), c.action)
		}
	}
}

func TestUnknownPathsAreRecordedUnlessTheyOnlyRead(t *testing.T) {
	p := betterAuth(t)
	for method, want := range map[string]profile.Record{"POST": profile.Always, "DELETE": profile.Always, "FOO": profile.Always, "GET": profile.Failures, "HEAD": profile.Failures} {
		if m, _ := p.Match(method, target(t, "/api/auth/new/route")); m.Route.Record != want {
			t.Errorf("%s: record %s, want %s", method, m.Route.Record, want)
		}
	}
	if m, _ := p.Match("OPTIONS", target(t, "/api/auth/sign-in/email")); m.Route.Record != profile.Failures {
		t.Error("a CORS preflight is recorded although it worked")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	for _, name := range profile.Names() {
		p, err := profile.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/", "/app/page.html", "/App/Main.JS", "/orders/4711/lines", "/api/auth/sign-in/email", "/self-service/settings", "/oauth2/revoke"} {
			u := target(t, path)
			if m, mine := p.Match("DELETE", u); mine && !m.Method && m.Route.Known() {
				continue // a route of another method is copied: rare
			}
			if n := testing.AllocsPerRun(200, func() { p.Match("DELETE", u) }); n > upperCase(path, p) {
				t.Errorf("%s: %s: %v allocations", name, path, n)
			}
		}
	}
}

// upperCase is the one allocation that a path in upper case costs where the base path
// is the whole site: its reading in lower case.
func upperCase(path string, p *profile.Profile) float64 {
	if p.Base() == "" && path != strings.ToLower(path) {
		return 1
	}
	return 0
}

func TestOutcomesFollowTheRules(t *testing.T) {
	p := betterAuth(t)
	cookie := http.Header{"Set-Cookie": {"better-auth.session_token=a.b; Path=/"}}
	cleared := http.Header{"Set-Cookie": {"better-auth.session_token=; Max-Age=0; Path=/"}}
	both := http.Header{"Set-Cookie": {cleared["Set-Cookie"][0], cookie["Set-Cookie"][0]}}
	to := func(l string) http.Header { return http.Header{"Location": {l}} }
	for _, c := range []struct {
		method, path string
		status       int
		header       http.Header
		body         string
		want         storage.Status
	}{
		{"POST", "/sign-in/email", 200, cookie, `{"token":"t","user":{"id":"u"}}`, storage.Success},
		{"POST", "/sign-in/email", 200, nil, `{"twoFactorRedirect":true}`, storage.Pending},
		{"POST", "/sign-in/email", 401, nil, `{"code":"X"}`, storage.Failed},
		{"POST", "/sign-in/email", 499, nil, ``, storage.Unknown},
		{"POST", "/sign-in/social", 200, nil, `{"url":"x","redirect":true}`, storage.Pending},
		{"POST", "/sign-in/social", 200, nil, `{"redirect":false,"token":"t"}`, storage.Success},
		{"POST", "/sign-up/email", 200, nil, `{"token":null,"user":{"id":"made-up"}}`, storage.Pending},
		{"GET", "/magic-link/verify", 302, to("/x?error=INVALID_TOKEN"), ``, storage.Failed},
		{"GET", "/magic-link/verify", 302, to("/x?a=b"), ``, storage.Success},
		{"GET", "/callback/github", 302, to("/x#error=access_denied"), ``, storage.Failed},
		{"GET", "/reset-password/t", 302, to("/r?token=t"), ``, storage.Pending},
		{"POST", "/change-email", 200, cookie, `{"status":true}`, storage.Success},
		{"POST", "/change-email", 200, cleared, `{"status":true}`, storage.Pending},
		{"POST", "/change-email", 200, both, `{"status":true}`, storage.Success},
		{"POST", "/delete-user", 200, nil, `{"message":"Verification email sent"}`, storage.Pending},
		{"POST", "/delete-user", 200, nil, `{"message":"User deleted"}`, storage.Success},
		{"POST", "/two-factor/enable", 200, nil, `{"totpURI":"otpauth://x"}`, storage.Pending},
		{"POST", "/new/route", 204, nil, ``, storage.Success},
		{"POST", "/new/route", 99, nil, ``, storage.Failed},
		{"POST", "/new/route", 999, nil, ``, storage.Failed},
	} {
		m, _ := p.Match(c.method, target(t, "/api/auth"+c.path))
		got := m.Route.Outcome(&profile.Exchange{Answer: &profile.Answer{Status: c.status, Header: c.header, Body: []byte(c.body)}})
		if got != c.want {
			t.Errorf("%s %s %d %s: %s, want %s", c.method, c.path, c.status, c.body, got, c.want)
		}
	}
}

func TestBadProfilesAreRefusedWithTheirPlace(t *testing.T) {
	good := `{"name":"x","base_path":"/a","outcomes":{"default":[{"outcome":"success"}]},"routes":[{"path":"/b","class":"custom"}]}`
	if _, err := profile.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for change, want := range map[string]string{
		`"name":"x"|"name":""`:                                           "no name",
		`"base_path":"/a"|"base_path":"a"`:                               "bad base path",
		`"base_path":"/a"|"base_path":"/a/../b"`:                         "bad base path",
		`"class":"custom"|"class":"custm"`:                               "unknown class",
		`"class":"custom"|"clas":"custom"`:                               `unknown field "clas"`,
		`"class":"custom"|"class":"custom","outcome":"n"`:                `no list "n"`,
		`"class":"custom"|"class":"custom","method":"get"`:               "upper case",
		`"class":"custom"|"class":"custom","timing":"now"`:               "unknown timing",
		`"class":"custom"|"class":"custom","record":"n"`:                 "unknown record",
		`{"path":"/b","class":"custom"}|{"path":"b","class":"custom"}`:   "must start with /",
		`"outcome":"success"|"outcome":"fine"`:                           "unknown outcome",
		`"outcome":"success"|"outcome":"success","status":"9xx"`:         "bad status",
		`"outcome":"success"|"outcome":"success","json":{"pointer":"x"}`: "bad JSON pointer",
		`"default"|"other"`:                                              `needs a list "default"`,
		`]}|]} x`:                                                        "line 1",
		`{"name"|{"name":`:                                               "line 1",
		`{"path":"/b","class":"custom"}|{"path":"/b","class":"custom"},{"path":"/b","class":"custom"}`: "there twice",
	} {
		from, to, _ := strings.Cut(change, "|")
		_, err := profile.Parse([]byte(strings.Replace(good, from, to, 1)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", to, err, want)
		}
	}
	if _, err := profile.Builtin("nope"); err == nil || !strings.Contains(err.Error(), "better_auth") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestLookupReadsAsJavaScriptDoes(t *testing.T) {
	for _, c := range []struct{ body, pointer, want string }{
		{`{"email":"real","EMAIL":"decoy"}`, "/email", "real"},
		{`{"email":"first","email":"last"}`, "/email", "last"},
		{"\xef\xbb\xbf" + `{"email":"bom"}`, "/email", "bom"},
		{`{"a/b":{"~":"x"}}`, "/a~1b/~0", "x"},
		{`{"a":["x","y"]}`, "/a/1", "y"},
		{`{"n":1e400,"email":"x"}`, "/email", "x"},
		{`{"email":5}`, "/email", ""},
		{`{"email":"x"`, "/email", ""},
		{strings.Repeat("[", 100000), "/0", ""},
	} {
		if got := profile.LookupString([]byte(c.body), c.pointer); got != c.want {
			t.Errorf("%.40s %s = %q, want %q", c.body, c.pointer, got, c.want)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	p := betterAuth(b)
	for _, path := range []string{"/assets/app.js", "/api/auth/sign-in/email", "/api/auth/reset-password/8sbERK1x1WXmHo5OxKDH6Kyf", "/api/auth/x/../sign-out"} {
		u := target(b, path)
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				p.Match("POST", u)
			}
		})
	}
}

// BenchmarkMatchByWords is what a request that is not ours costs where nothing is
// known of the server.
func BenchmarkMatchByWords(b *testing.B) {
	p, err := profile.Builtin("generic")
	if err != nil {
		b.Fatal(err)
	}
	u, err := url.Parse("/orders/4711/lines/2")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Match("POST", u)
	}
}

func TestServersHaveTheirUsualNames(t *testing.T) {
	for name, want := range map[string]string{"gotrue": "supabase", "better-auth": "better_auth", "oauth2-proxy": "oauth2_proxy", "next-auth": "authjs"} {
		p, err := profile.Builtin(name)
		if err != nil || p.Name != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// TestAnAmbiguousPathIsReadAsWhatWouldBeMissedMost, whichever reading comes first.
func TestAnAmbiguousPathIsReadAsWhatWouldBeMissedMost(t *testing.T) {
	p, err := profile.Parse([]byte(`{"name":"x","base_path":"/","outcomes":{"default":[{"outcome":"success"}]},"routes":[
		{"words":["health/"],"class":"custom","record":"never"},
		{"path":"/static/*","method":"GET","class":"custom","record":"never"},
		{"path":"/login","method":"GET","class":"sign-in","record":"failures"},
		{"path":"/me","method":"GET","class":"session","record":"checks"},
		{"path":"/users","method":"POST","class":"admin"},
		{"path":"/out","class":"sign-out","timing":"before"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]profile.Record{
		"GET /health": profile.Never, "GET /login;health/": profile.Failures, "GET /static/../me": profile.Checks, "POST /static/../users": profile.Always,
		"GET /out;/../health": profile.Always, "POST /nobody/knows;health/": profile.Always, "POST /users/health": profile.Always,
	} {
		method, path, _ := strings.Cut(request, " ")
		if m, ok := p.Match(method, target(t, path)); !ok || m.Route.Record != want {
			t.Errorf("%s: record %q, want %q", request, m.Route.Record, want)
		}
	}
}

// TestARepeatedParameterMayBeTheClientsOwn.
func TestARepeatedParameterMayBeTheClientsOwn(t *testing.T) {
	p, err := profile.Parse([]byte(`{"name":"x","base_path":"/","outcomes":{"default":[{"location_repeats":"flow","outcome":"failed"},{"outcome":"success"}]},"routes":[{"path":"/login","class":"sign-in"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := p.Match("POST", target(t, "/login"))
	for query, want := range map[string]storage.Status{
		"flow=f1": storage.Failed, "flow=f2": storage.Success, "flow=f1&return_to=%2Fapp%3Fflow%3Df1": storage.Unknown,
	} {
		x := &profile.Exchange{Answer: &profile.Answer{Status: 303, Header: http.Header{"Location": {"/login?flow=f1"}}, Query: query}}
		if got := m.Route.Outcome(x); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func TestWordsAreBounded(t *testing.T) {
	words := `"` + strings.Repeat("a", 9000) + `"`
	_, err := profile.Parse([]byte(`{"name":"x","base_path":"/","outcomes":{"default":[{"outcome":"success"}]},"routes":[{"words":[` + words + `],"class":"custom"},{"words":["b",` + words + `],"class":"custom"}]}`))
	if err == nil || !strings.Contains(err.Error(), "18001 bytes") {
		t.Errorf("%v", err)
	}
}

// TestWhichProfilesGuessCookies: the generic one, and what extends it without cookies of its own.
func TestWhichProfilesGuessCookies(t *testing.T) {
	for text, want := range map[string]bool{
		`{"name":"mine","extends":"generic","base_path":"/a"}`:                                         true,
		`{"name":"mine","extends":"generic","base_path":"/a","credentials":{"cookies":["sid"]}}`:       false,
		`{"name":"mine","extends":"generic","base_path":"/a","credentials":{"headers":["X-Session"]}}`: true,
		`{"name":"mine","extends":"better_auth"}`:                                                      false,
	} {
		p, err := profile.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		moved, err := p.WithBasePath("/b")
		if err != nil {
			t.Fatal(err)
		}
		if p.GuessesCookies() != want || moved.GuessesCookies() != want {
			t.Errorf("%s: %v, under another path %v", text, p.GuessesCookies(), moved.GuessesCookies())
		}
	}
	if p, err := profile.Builtin("generic"); err != nil || !p.GuessesCookies() {
		t.Error(err)
	}
}
