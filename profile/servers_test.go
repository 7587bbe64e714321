package profile_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// builtin is the profile of a server.
func builtin(t *testing.T, name string) *profile.Profile {
	t.Helper()
	p, err := profile.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// served is a request to a server and its answer, by the server's source.
type served struct {
	profile string
	request string      // "METHOD /path"
	sent    http.Header // of the request
	body    string      // JSON, or a form
	status  int
	header  http.Header // of the answer
	answer  string
}

// read returns what the profile makes of it.
func (s *served) read(t *testing.T) (profile.Match, *profile.Exchange) {
	t.Helper()
	p := builtin(t, s.profile)
	method, path, _ := strings.Cut(s.request, " ")
	u := target(t, path)
	m, ok := p.Match(method, u)
	if !ok {
		t.Fatalf("%s: %s is nothing of it", s.profile, s.request)
	}
	typ := "application/x-www-form-urlencoded"
	if strings.HasPrefix(s.body, "{") {
		typ = "application/json"
	}
	x := &profile.Exchange{
		Answer: &profile.Answer{Status: s.status, Header: s.header, Body: []byte(s.answer), Query: u.RawQuery},
		Method: method, Path: m.Path, SentHeader: s.sent, Sent: []byte(s.body), SentType: typ,
	}
	m = p.Refine(m, x)
	x.Route = m.Route
	return m, x
}

// unsigned is a token that nobody has signed.
func unsigned(claims string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

// TestWhatServersMean: what is done, whether it is recorded, and how it ended.
func TestWhatServersMean(t *testing.T) {
	const (
		ko       = `{"status":"KO","message":"Authentication failed. Check your credentials."}`
		consent  = "POST /api/oidc/consent"
		redirect = `{"status":"OK","data":{"redirect":"https://app.example.test/"}}`
		member   = "PATCH /api/collections/members/records/abc"
		set      = "PUT /auth/v1/admin/users/7"
	)
	session := http.Header{"Set-Cookie": {"authelia_session=fresh; Path=/; HttpOnly"}}
	token := http.Header{"Authorization": {"Negotiate YIIB"}}
	challenge := http.Header{"Www-Authenticate": {"Negotiate"}}
	signedIn := http.Header{"Location": {"/"}, "Set-Cookie": {"next-auth.session-token=fresh; Path=/; HttpOnly"}}
	superuser := http.Header{"Authorization": {unsigned(`{"collectionId":"pbc_3142635823","id":"root"}`)}}
	for _, c := range []struct {
		served
		action  string
		record  profile.Record
		outcome storage.Status
	}{
		// A client may ask for a flow or an address that Authelia knows nothing of, once it is signed in.
		{served{"authelia", "POST /api/firstfactor", nil, `{"username":"a","password":"b","flow":"x"}`, 200, session, ko}, "sign-in:password", profile.Always, storage.Pending},
		{served{"authelia", "POST /api/firstfactor", nil, `{"username":"a","password":"b"}`, 200, session, redirect}, "sign-in:password", profile.Always, storage.Success},
		{served{"authelia", "POST /api/firstfactor", nil, `{"username":"a","password":"b"}`, 200, session, `{"status":"OK"}`}, "sign-in:password", profile.Always, storage.Pending},
		{served{"authelia", "POST /api/firstfactor", nil, `{"username":"a","password":"no","flow":"x"}`, 401, nil, ko}, "sign-in:password", profile.Always, storage.Failed},
		{served{"authelia", "POST /api/firstfactor/passkey", nil, `{"flow":"x"}`, 200, session, ko}, "sign-in:passkey", profile.Always, storage.Pending},
		{served{"authelia", "POST /api/firstfactor/passkey", nil, `{"flow":"x"}`, 403, session, ko}, "sign-in:passkey", profile.Always, storage.Failed},
		{served{"authelia", "POST /api/firstfactor/reauthenticate", nil, `{"password":"b","flow":"x"}`, 200, session, ko}, "reauthenticate:password", profile.Always, storage.Success},
		{served{"authelia", "POST /api/secondfactor/totp", nil, `{"token":"1","targetURL":"x"}`, 200, session, ko}, "mfa:verify:totp", profile.Always, storage.Success},
		{served{"authelia", "POST /api/secondfactor/totp", nil, `{"token":"1","targetURL":"x"}`, 403, nil, ko}, "mfa:verify:totp", profile.Always, storage.Failed},
		{served{"authelia", "POST /api/secondfactor/webauthn", nil, `{"flow":"x"}`, 200, session, ko}, "mfa:verify:webauthn", profile.Always, storage.Success},
		{served{"authelia", "POST /api/secondfactor/password", nil, `{"flow":"x"}`, 200, session, ko}, "mfa:verify:password", profile.Always, storage.Success},
		{served{"authelia", "POST /api/secondfactor/duo", nil, `{"flow":"x"}`, 200, session, ko}, "mfa:verify:duo", profile.Always, storage.Success},
		{served{"authelia", "POST /api/secondfactor/duo", nil, `{}`, 200, nil, ko}, "mfa:verify:duo", profile.Always, storage.Failed},
		{served{"authelia", "POST /api/secondfactor/duo", nil, `{}`, 200, session, redirect}, "mfa:verify:duo", profile.Always, storage.Success},
		{served{"authelia", "POST /api/secondfactor/duo", nil, `{}`, 200, nil, `{"status":"OK","data":{"result":"deny"}}`}, "mfa:verify:duo", profile.Always, storage.Failed},
		{served{"authelia", "POST /api/secondfactor/duo", nil, `{}`, 200, nil, `{"status":"OK","data":{"result":"auth","devices":[{"device":"d"}]}}`}, "mfa:verify:duo", profile.Always, storage.Pending},
		{served{"authelia", "POST /api/secondfactor/duo", nil, `{}`, 200, nil, `{"status":"OK","data":{"result":"enroll"}}`}, "mfa:verify:duo", profile.Always, storage.Pending},
		{served{"authelia", consent, nil, `{"client_id":"app","consent":true}`, 200, nil, `{"status":"OK"}`}, "oidc:consent", profile.Always, storage.Success},
		{served{"authelia", consent, nil, `{"client_id":"app","consent":false}`, 200, nil, `{"status":"OK"}`}, "oidc:refuse-consent", profile.Always, storage.Success},
		{served{"authelia", consent, nil, `{"client_id":"app"}`, 200, nil, `{"status":"OK"}`}, "oidc:refuse-consent", profile.Always, storage.Success},
		{served{"authelia", consent, nil, `{"consent":false,"Consent":true}`, 200, nil, `{"status":"OK"}`}, "oidc:consent", profile.Always, storage.Success},

		// Kerberos: a ticket signs in, and to be asked for one is no failure.
		{served{"dex", "GET /dex/auth/ldap/login?state=kk3ra5ypan66", token, "", 303, http.Header{"Location": {"/dex/auth?hmac=h&req=kk3ra5ypan66"}}, ""}, "sign-in:kerberos", profile.Always, storage.Success},
		{served{"dex", "GET /dex/auth/ldap/login?state=kk3ra5ypan66", token, "", 401, challenge, ""}, "sign-in:kerberos", profile.Always, storage.Failed},
		{served{"dex", "GET /dex/auth/ldap/login?state=kk3ra5ypan66", token, "", 200, nil, ""}, "sign-in:kerberos", profile.Always, profile.None},
		{served{"dex", "GET /dex/auth/ldap/login?state=kk3ra5ypan66", nil, "", 401, challenge, ""}, "auth::connector:login", profile.Failures, profile.None},
		{served{"dex", "GET /dex/auth/ldap/login?state=kk3ra5ypan66", nil, "", 400, nil, ""}, "auth::connector:login", profile.Failures, storage.Failed},
		{served{"dex", "POST /dex/auth/ldap/login?state=kk3ra5ypan66", nil, "login=a&password=b", 401, nil, ""}, "sign-in:password", profile.Always, storage.Failed},

		// PocketBase ignores a token that it has not signed.
		{served{"pocketbase", "POST /api/collections/users/records", superuser, `{"email":"a@b.c"}`, 200, nil, `{"id":"new"}`}, "sign-up", profile.Always, storage.Success},
		{served{"pocketbase", "POST /api/collections/members/records", superuser, `{"email":"a@b.c","passwordConfirm":"x"}`, 200, nil, `{"id":"new"}`}, "sign-up", profile.Always, storage.Success},

		// What makes an account another one's is recorded in all collections, what has an address only is not.
		{served{"pocketbase", member, superuser, `{"email":"b@b.c","verified":true}`, 200, nil, `{"id":"abc","collectionId":"m","emailVisibility":false}`}, "user:update", profile.Always, storage.Success},
		{served{"pocketbase", member, superuser, `{"verified":true}`, 200, nil, `{"id":"abc","collectionId":"m","emailVisibility":true}`}, "user:update", profile.Always, storage.Success},
		{served{"pocketbase", member + "?fields=id", superuser, `{"verified":true}`, 200, nil, `{"id":"abc"}`}, "user:update", profile.Always, storage.Success},
		{served{"pocketbase", member + "?fields=id&fields=", superuser, `{"email":"b@b.c"}`, 200, nil, `{"id":"abc"}`}, "user:update", profile.Always, storage.Success},
		{served{"pocketbase", member, superuser, "@jsonPayload=%7B%22email%22%3A%22b%40b.c%22%7D", 200, nil, `{"id":"abc","emailVisibility":false}`}, "user:update", profile.Always, storage.Success},
		{served{"pocketbase", "PATCH /api/collections/contacts/records/abc", superuser, `{"email":"b@b.c"}`, 200, nil, `{"id":"abc","collectionId":"c","email":"b@b.c"}`}, "user:update", profile.Always, profile.None},
		{served{"pocketbase", "PATCH /api/collections/posts/records/abc", superuser, `{"title":"t"}`, 200, nil, `{"id":"abc","collectionId":"p"}`}, "records:update", profile.Failures, storage.Success},

		{served{"logto", "PATCH /api/users/u1/is-suspended", nil, `{"isSuspended":true}`, 200, nil, `{"id":"u1"}`}, "admin:ban-user", profile.Always, storage.Success},
		{served{"logto", "PATCH /api/users/u1/is-suspended", nil, `{"isSuspended":false}`, 200, nil, `{"id":"u1"}`}, "admin:unban-user", profile.Always, storage.Success},
		{served{"logto", "PATCH /api/users/u1/is-suspended", nil, `{"isSuspended":false,"isSuspended":true}`, 200, nil, `{"id":"u1"}`}, "admin:ban-user", profile.Always, storage.Success},

		// A new password in a reset, which the submit behind it commits.
		{served{"logto", "PUT /api/experience/profile/password", nil, `{"password":"New"}`, 204, nil, ""}, "reset-password", profile.Always, storage.Pending},
		{served{"logto", "PUT /api/experience/profile/password", nil, `{"password":"a"}`, 422, nil, `{"code":"password.rejected"}`}, "reset-password", profile.Always, storage.Failed},

		// Private keys.
		{served{"hydra", "GET /admin/keys/hydra.openid.id-token", nil, "", 200, nil, `{"keys":[]}`}, "admin:get-keys", profile.Always, storage.Success},
		{served{"hydra", "GET /admin/keys/hydra.openid.id-token/7", nil, "", 200, nil, `{"keys":[]}`}, "admin:get-key", profile.Always, storage.Success},

		// What is done besides does not hide what is worse.
		{served{"supabase", set, nil, `{"ban_duration":"none","password":"New"}`, 200, nil, `{}`}, "admin:set-user-password", profile.Always, storage.Success},
		{served{"supabase", set, nil, `{"ban_duration":"none","role":"service_role"}`, 200, nil, `{}`}, "admin:set-role", profile.Always, storage.Success},
		{served{"supabase", set, nil, `{"ban_duration":"24h","password":"New"}`, 200, nil, `{}`}, "admin:ban-user", profile.Always, storage.Success},
		{served{"supabase", set, nil, `{"ban_duration":"none"}`, 200, nil, `{}`}, "admin:unban-user", profile.Always, storage.Success},
		{served{"supabase", set, nil, `{"password":"New","role":"x"}`, 200, nil, `{}`}, "admin:set-user-password", profile.Always, storage.Success},

		// Passkeys are what their providers do.
		{served{"authjs", "POST /api/auth/callback/credentials", nil, "username=a&password=b&action=authenticate", 302, http.Header{"Location": {"/api/auth/signin?error=CredentialsSignin"}}, ""}, "callback::provider", profile.Always, storage.Failed},
		{served{"authjs", "POST /api/auth/callback/credentials", nil, "username=a&password=b&action=register", 302, http.Header{"Location": {"/api/auth/signin?error=CredentialsSignin"}}, ""}, "callback::provider", profile.Always, storage.Failed},
		{served{"authjs", "POST /api/auth/callback/passkey", nil, "username=a&action=authenticate", 302, nil, ""}, "sign-in:passkey", profile.Always, storage.Failed},
		{served{"authjs", "POST /api/auth/callback/webauthn", nil, "username=a&action=register", 302, nil, ""}, "passkey:register", profile.Always, storage.Failed},

		// The fourth version takes whatever follows a path, the fifth refuses it.
		{served{"authjs", "POST /api/auth/callback/credentials/x", nil, "username=a&password=b", 302, signedIn, ""}, "callback::provider", profile.Always, storage.Success},
		{served{"authjs", "POST /api/auth/callback/credentials/x/y", nil, "username=a&password=b", 401, nil, ""}, "callback::provider", profile.Always, storage.Failed},
		{served{"authjs", "POST /api/auth/callback/credentials/x", nil, "username=a&password=b", 400, nil, ""}, "callback::provider", profile.Always, storage.Failed},
		{served{"authjs", "GET /api/auth/callback/email/x?email=a&token=t", nil, "", 302, signedIn, ""}, "callback::provider", profile.Always, storage.Success},
		{served{"authjs", "POST /api/auth/signin/email/x", nil, "email=a", 302, http.Header{"Location": {"/api/auth/verify-request?provider=email"}}, ""}, "signin::provider", profile.Always, storage.Success},
	} {
		m, x := c.read(t)
		if got := m.Route.Outcome(x); m.Route.ActionName() != c.action || m.Route.Record != c.record || got != c.outcome {
			t.Errorf("%s: %s with %s -> %d %s is %q, recorded %s, %s; want %q, %s, %s", c.profile, c.request, c.body, c.status, c.answer,
				m.Route.ActionName(), m.Route.Record, got, c.action, c.record, c.outcome)
		}
		if c.profile == "authjs" && profile.First(m.Route.Identifier, x) != "a" {
			t.Errorf("%s: %s with %s: nobody knows who was typed", c.profile, c.request, c.body)
		}
	}
}

// TestASignOutOfNextAuthEndsWhateverFollows: the fourth version looks at no more of the path.
func TestASignOutOfNextAuthEndsWhateverFollows(t *testing.T) {
	cleared := http.Header{"Set-Cookie": {"next-auth.session-token=; Path=/; Max-Age=0"}}
	for _, c := range []struct {
		served
		action  string
		record  profile.Record
		outcome storage.Status
	}{
		{served{"authjs", "POST /api/auth/signout/x", nil, "csrfToken=c", 302, cleared, ""}, "signout", profile.Always, storage.Success},
		{served{"authjs", "POST /api/auth/signout/x", nil, "csrfToken=c", 400, nil, ""}, "signout", profile.Always, storage.Failed},
		{served{"authjs", "GET /api/auth/signout/x", nil, "", 200, nil, ""}, "signout", profile.Never, storage.Success},
	} {
		m, x := c.read(t)
		if got := m.Route.Outcome(x); !m.Method || m.Route.ActionName() != c.action || m.Route.Record != c.record || got != c.outcome || (m.Route.Timing == profile.Before) != (x.Method == "POST") {
			t.Errorf("%s -> %d is %q, recorded %s %s, %s; want %q, %s, %s", c.request, c.status, m.Route.ActionName(), m.Route.Record, m.Route.Timing, got, c.action, c.record, c.outcome)
		}
	}
}

// TestNobodyIsNamedByWhatIsTyped: neither by another spelling of a name nor by a token that the
// server has not looked at.
func TestNobodyIsNamedByWhatIsTyped(t *testing.T) {
	victim, own := unsigned(`{"sub":"VICTIM"}`), unsigned(`{"sub":"own"}`)
	for _, c := range []served{
		{"authelia", "POST /api/firstfactor", nil, `{"username":"Alice@Example.test","password":"b"}`, 200, nil, `{"status":"OK","data":{"redirect":"https://app.example.test/"}}`},
		{"dex", "POST /dex/logout?id_token_hint=" + victim, nil, "id_token_hint=" + own, 302, nil, ""},
		{"dex", "POST /dex/logout", nil, `{"id_token_hint":"` + victim + `"}`, 200, nil, ""}, // a document is no form to Go
	} {
		m, x := c.read(t)
		if got := profile.FirstSure(m.Route.User, x); got != "" {
			t.Errorf("%s: %s with %s names %q", c.profile, c.request, c.body, got)
		}
		if got := profile.FirstSure(m.Route.Flow, x); strings.Contains(c.request, "?") && got != "" {
			t.Errorf("%s: %s goes on with the flow of %q", c.profile, c.request, got)
		}
	}
	if m, _ := (&served{profile: "dex", request: "GET /dex/logout?id_token_hint=" + own, status: 302}).read(t); len(m.Route.User) == 0 {
		t.Error("dex: a hint in the query, which dex has verified, names nobody")
	}
}

// TestASuspensionBeginsAsAnUpdate: before its body is read nobody knows which way it goes.
func TestASuspensionBeginsAsAnUpdate(t *testing.T) {
	p, err := profile.Builtin("logto")
	if err != nil {
		t.Fatal(err)
	}
	m, ok := p.Match("PATCH", target(t, "/api/users/u1/is-suspended"))
	if !ok || m.Route.ActionName() != "admin:update-user" || m.Route.Timing != profile.Before {
		t.Errorf("%v: begins as %q, %s", ok, m.Route.ActionName(), m.Route.Timing)
	}
}

// TestAnErrorCodeIsNoGoTrue: many servers say error_code.
func TestAnErrorCodeIsNoGoTrue(t *testing.T) {
	body := `{"code":401,"error_code":"no_authorization","msg":"x"}`
	if found, ok := recognizer(t).Recognize(seen("GET", "/app/user", 401, body), profile.Nothing); ok {
		t.Errorf("it is taken for %s, by %s", found.Profile.Name, found.Why)
	}
	found, ok := recognizer(t).Recognize(seen("GET", "/app/user", 401, body, "X-Sb-Error-Code", "no_authorization"), profile.Nothing)
	if !ok || found.Profile.Name != "supabase" || found.Profile.Base() != "/app" {
		t.Errorf("GoTrue is not recognised: %v %+v", ok, found)
	}
}
