package profile_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestASAMLResponseIsNoSignOn: Keycloak answers logouts and refusals with one, too. Who signs on gets
// the identity cookie.
func TestASAMLResponseIsNoSignOn(t *testing.T) {
	const page = `<form method="post" action="https://app.example/acs"><input type="hidden" name="SAMLResponse" value="PHNhbWw"/></form>`
	back := []string{"https://app.example/acs?SAMLResponse=PHNhbWw"}
	identity := []string{"KEYCLOAK_IDENTITY=" + unsigned(`{"sub":"alice"}`) + "; Path=/realms/m/; HttpOnly"}
	html := []string{"text/html"}
	for _, c := range []struct {
		served
		outcome storage.Status
		user    string
	}{
		{served{"keycloak", "GET /realms/m/protocol/saml?SAMLRequest=x", nil, "", 302, http.Header{"Location": back}, ""}, storage.Unknown, ""},
		{served{"keycloak", "GET /realms/m/protocol/saml?SAMLRequest=x", nil, "", 302, http.Header{"Location": back, "Set-Cookie": identity}, ""}, storage.Success, "alice"},
		{served{"keycloak", "GET /realms/m/protocol/saml?SAMLRequest=x", nil, "", 302, http.Header{"Location": back, "Set-Cookie": {"KEYCLOAK_IDENTITY=; Max-Age=0"}}, ""}, storage.Unknown, ""},
		{served{"keycloak", "POST /realms/m/protocol/saml", nil, "SAMLRequest=x", 200, http.Header{"Content-Type": html}, page}, storage.Unknown, ""},
		{served{"keycloak", "POST /realms/m/protocol/saml", nil, "SAMLRequest=x", 200, http.Header{"Content-Type": html, "Set-Cookie": identity}, page}, storage.Success, "alice"},
		{served{"keycloak", "POST /realms/m/protocol/saml", nil, "SAMLRequest=x", 400, nil, ""}, storage.Failed, ""},
		{served{"keycloak", "POST /realms/m/protocol/saml", nil, "SAMLRequest=x", 200, http.Header{"Content-Type": html}, "<form id=kc-form-login>"}, profile.None, ""},
	} {
		m, x := c.read(t)
		if c.header != nil && len(c.header["Content-Type"]) > 0 {
			x.Page, x.Body = x.Body, nil
		}
		if got, user := m.Route.Outcome(x), profile.FirstSure(m.Route.User, x); m.Route.ActionName() != "saml:sign-on" || got != c.outcome || user != c.user {
			t.Errorf("%s -> %d %v is %q, %s of %q, want %s of %q", c.request, c.status, c.header, m.Route.ActionName(), got, user, c.outcome, c.user)
		}
	}
}

// TestTheAccountAPIOfKeycloakHasAVersion, which its path may name or not.
func TestTheAccountAPIOfKeycloakHasAVersion(t *testing.T) {
	p := builtin(t, "keycloak")
	for _, account := range []string{" /realms/m/account", " /realms/m/account/v1alpha1"} {
		for _, c := range []asked{
			{request: "POST" + account, body: `{"firstName":"x"}`, action: "user:update"},
			{request: "DELETE" + account + "/sessions", action: "session:revoke-all"},
			{request: "DELETE" + account + "/sessions/7", action: "session:revoke"},
			{request: "PUT" + account + "/credentials/7/label", action: "credential:rename"},
			{request: "DELETE" + account + "/credentials/7", action: "credential:remove"},
			{request: "POST" + account + "/credentials/password", body: `{}`, action: "user:change-password"},
			{request: "DELETE" + account + "/linked-accounts/google", action: "account:unlink"},
			{request: "PUT" + account + "/applications/app/consent", body: `{}`, action: "oauth:consent"},
			{request: "DELETE" + account + "/applications/app/consent", action: "oauth:revoke-consent"},
			{request: "DELETE" + account + "/applications/app/sessions", action: "session:revoke-client"},
			{request: "DELETE" + account + "/issued-verifiable-credentials/7", action: "account:remove"},
			{request: "PUT" + account + "/resources/7/permissions", body: `[]`, action: "account:update"},
		} {
			c.status, c.outcome = 204, storage.Success
			r := c.check(t, p)
			if r != nil && (r.Record != profile.Always || strings.HasPrefix(c.request, "DELETE") != (r.Timing == profile.Before)) {
				t.Errorf("%s: record %s, timing %s", c.request, r.Record, r.Timing)
			}
		}
	}
}

// TestAPreflightIsNoEventOfKeycloak: browsers ask first before they send a token elsewhere.
func TestAPreflightIsNoEventOfKeycloak(t *testing.T) {
	p := builtin(t, "keycloak")
	for _, path := range []string{"/realms/m/protocol/openid-connect/token", "/realms/m/account/sessions", "/realms/m/account/v1alpha1/sessions", "/realms/m/account/resources", "/admin/realms/m/users/7"} {
		if m, ok := p.Match("OPTIONS", target(t, path)); !ok || m.Route.Record != profile.Failures {
			t.Errorf("OPTIONS %s is %q, record %s", path, m.Route.ActionName(), m.Route.Record)
		}
	}
}

// TestAnUpdateOfKeycloakMayBeMore: the request says whether an account is to be enabled, and brings
// new passwords. What it asks for is named, whether or not it was so before.
func TestAnUpdateOfKeycloakMayBeMore(t *testing.T) {
	p := builtin(t, "keycloak")
	const put = "PUT /admin/realms/m/users/7"
	for _, c := range []asked{
		{request: put, body: `{"enabled":false}`, action: "admin:ban-user"},
		{request: put, body: `{"username":"bob","enabled":"False","emailVerified":true}`, action: "admin:ban-user"},
		{request: put, body: `{"enabled":false,"credentials":[{"type":"password","value":"n"}]}`, action: "admin:ban-user"},
		{request: put, body: `{"credentials":[{"type":"password","value":"n"}]}`, action: "admin:set-user-password"},
		{request: put, body: `{"enabled":true,"firstName":"x"}`, action: "admin:update-user"},
		{request: put, body: `{"credentials":[]}`, action: "admin:update-user"},
	} {
		c.status, c.outcome, c.target = 204, storage.Success, "7"
		c.check(t, p)
		c.status, c.outcome = 403, storage.Failed
		c.check(t, p)
	}
	destroys(t, p, put, "admin:update-user", false) // before its body is read nobody knows
}

// TestDeletionsByPOST: Keycloak takes some in a POST, and they are no creation of anything.
func TestDeletionsByPOST(t *testing.T) {
	p := builtin(t, "keycloak")
	const admin = "POST /admin/realms/m/"
	for _, c := range []asked{
		{request: admin + "user-storage/3/remove-imported-users", action: "admin:remove-imported-users"},
		{request: admin + "user-storage/3/unlink-users", action: "admin:unlink-users"},
		{request: admin + "ui-ext/role-mapping-delete/users/7", body: `[{"roleId":"1"}]`, action: "admin:remove-role", target: "7"},
		{request: admin + "ui-ext/role-mapping-delete/groups/7", body: `[{"roleId":"1"}]`, action: "admin:remove-role"},
	} {
		c.status, c.outcome = 204, storage.Success
		c.check(t, p)
		destroys(t, p, c.request, c.action, false)
	}
	sync := asked{request: admin + "user-storage/3/sync?action=triggerFullSync", status: 200, action: "admin:create", outcome: storage.Success}
	sync.check(t, p)
}

// TestTheEndOfASignOutIsNoSignIn: the provider sends the browser back to its endpoint after both.
func TestTheEndOfASignOutIsNoSignIn(t *testing.T) {
	p := builtin(t, "keycloak")
	const endpoint = "GET /realms/m/broker/google/endpoint"
	for _, c := range []asked{
		{request: endpoint + "/logout_response?state=s", status: 302, to: "https://app.example/", action: "sign-out:broker", outcome: storage.Success},
		{request: endpoint + "/logout_response?state=s", status: 200, answer: `<p id="kc-info-message">You are logged out`, action: "sign-out:broker", outcome: storage.Success},
		{request: endpoint + "/logout_response?state=s", status: 400, action: "sign-out:broker", outcome: storage.Failed},
		{request: endpoint + "?state=s&code=c", status: 302, to: "https://app.example/?code=d", action: "sign-in:broker", outcome: storage.Success},
	} {
		if r := c.check(t, p); r != nil && (r.Class == "sign-out") != strings.Contains(c.request, "logout") {
			t.Errorf("%s: class %s", c.request, r.Class)
		}
	}
}

// TestKeycloakIsAdministratedElsewhere: by SCIM, and by the second version of its API.
func TestKeycloakIsAdministratedElsewhere(t *testing.T) {
	p := builtin(t, "keycloak")
	const scim, api = " /realms/m/scim/v2/", " /admin/api/m/"
	for _, c := range []asked{
		{request: "POST" + scim + "Users", body: `{"userName":"bob"}`, status: 201, answer: `{"id":"5"}`, action: "admin:create-user", outcome: storage.Success, identifier: "bob", target: "5"},
		{request: "PUT" + scim + "Users/5", body: `{"userName":"bob"}`, status: 200, action: "admin:update-user", outcome: storage.Success, target: "5"},
		{request: "PATCH" + scim + "Users/5", body: `{"Operations":[]}`, status: 200, action: "admin:update-user", outcome: storage.Success, target: "5"},
		{request: "DELETE" + scim + "Users/5", status: 204, action: "admin:delete-user", outcome: storage.Success, target: "5"},
		{request: "DELETE" + scim + "Users/5", status: 404, action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "POST" + scim + "Groups", body: `{}`, status: 201, action: "admin:scim", outcome: storage.Success},
		{request: "DELETE" + scim + "Groups/6", status: 204, action: "admin:scim", outcome: storage.Success},
		{request: "POST" + scim + "Bulk", body: `{}`, status: 200, action: "admin:scim", outcome: storage.Success},
		{request: "POST" + api + "clients/v2", body: `{}`, status: 201, action: "admin:update", outcome: storage.Success},
		{request: "PATCH" + api + "clients/v2/app", body: `{}`, status: 200, action: "admin:update", outcome: storage.Success},
		{request: "DELETE" + api + "clients/v2/app", status: 204, action: "admin:delete", outcome: storage.Success},
		{request: "DELETE" + api + "clients/v2/app", status: 403, action: "admin:delete", outcome: storage.Failed},
	} {
		if r := c.check(t, p); r != nil && (r.Class != "admin" || r.Record != profile.Always) {
			t.Errorf("%s: class %s, record %s", c.request, r.Class, r.Record)
		}
	}
	destroys(t, p, "DELETE"+scim+"Users/5", "admin:delete-user", true)
	destroys(t, p, "POST"+scim+"Bulk", "admin:scim", false)
	destroys(t, p, "DELETE"+api+"clients/v2/app", "admin:delete", false)
	for _, request := range []string{"GET" + scim + "Users", "GET" + scim + "Users/5", "POST" + scim + "Users/.search", "GET" + api + "clients/v2", "OPTIONS" + api + "clients/v2"} {
		method, path, _ := strings.Cut(request, " ")
		if m, ok := p.Match(method, target(t, path)); !ok || m.Route.Record != profile.Failures {
			t.Errorf("%s: record %s", request, m.Route.Record)
		}
	}
}

// TestWhatKeycloakSendsBackWasNotDone: a form with an old code, or for another action than the one that
// it waits for, is answered with the way to the form; what was done never is. What was done may be
// followed by another form, which is not the same again.
func TestWhatKeycloakSendsBackWasNotDone(t *testing.T) {
	p := builtin(t, "keycloak")
	const actions = "https://x/realms/r/login-actions/"
	form := func(of string) string {
		return `<!doctype html><head><SCRIPT>history.replaceState({}, "some title", "` + actions + `required-action?execution=` + of + `&client_id=c");</SCRIPT></head>` +
			`<form action="` + actions + `required-action?session_code=N&amp;execution=` + of + `&amp;client_id=c" method="post"><input name="x">`
	}
	const expired = `<p id="instruction1"><a id="loginRestartLink" href="/realms/r/login-actions/restart?client_id=c">` +
		`<a id="loginContinueLink" href="/realms/r/login-actions/required-action?execution=CONFIGURE_TOTP&amp;client_id=c">`
	const signedIn = `<div id="kc-info-message"><p class="instruction">You are already logged in.`
	info := func(of string) string {
		return `<head><SCRIPT>history.replaceState({}, "some title", "` + actions + `required-action?execution=` + of + `");</SCRIPT></head><div id="kc-info-message">Done`
	}
	type answer struct {
		status  int
		to      string
		page    string
		outcome storage.Status
	}
	for execution, action := range map[string]string{
		"UPDATE_PASSWORD": "user:change-password", "CONFIGURE_TOTP": "mfa:enroll", "webauthn-register": "mfa:enroll", "delete_credential": "mfa:remove",
		"UPDATE_EMAIL": "user:change-email", "UPDATE_PROFILE": "user:update", "delete_account": "user:delete", "TERMS_AND_CONDITIONS": "required-action",
	} {
		request := "POST /realms/r/login-actions/required-action?session_code=s&execution=" + execution + "&client_id=c&tab_id=d"
		other := "VERIFY_PROFILE"
		done, next := storage.Success, storage.Success
		if execution == "delete_account" {
			done, next = storage.Failed, storage.Unknown // nobody goes on after it
		}
		for _, a := range []answer{
			{302, actions + "required-action?execution=" + execution + "&client_id=c", "", storage.Failed},
			{302, actions + "required-action?execution=" + other + "&client_id=c", "", storage.Failed},
			{302, actions + "authenticate?client_id=c", "", storage.Failed},
			{302, "https://app/cb?error=access_denied", "", storage.Failed},
			{302, "https://app/cb?code=11111111-2222", "", done},
			{200, "", form(execution), storage.Failed},
			{200, "", form(execution) + ` aria-invalid="true">`, storage.Failed},
			{200, "", form(other), next},
			{200, "", form(other) + ` aria-invalid="true">`, next}, // some forms complain as soon as they are shown
			{200, "", form(execution + "_2"), next},
			{200, "", expired, storage.Failed},
			{200, "", info(execution), storage.Success},
			{200, "", signedIn, storage.Unknown}, // to a form of long ago
			{200, "", "<p>what is this", storage.Unknown},
			{400, "", "<p>error", storage.Failed},
		} {
			c := asked{request: request, body: "a=b", status: a.status, answer: a.page, to: a.to, action: action, outcome: a.outcome}
			c.check(t, p)
			if execution == "delete_account" || a.outcome == storage.Failed && a.status == 200 {
				continue
			}
			// Keycloak heeds it only where an application has asked for the action.
			c.body, c.outcome = "a=b&cancel-aia=1", storage.Unknown
			if a.status == 400 || strings.Contains(a.to, "/login-actions/") {
				c.outcome = storage.Failed
			}
			if r := c.check(t, p); r == nil || len(r.Flow) == 0 || len(r.Actor) == 0 {
				t.Errorf("%s, cancelled, is nobody's", execution)
			}
		}
	}
	for _, c := range []asked{
		{request: "POST /realms/r/login-actions/consent?session_code=s&client_id=c", body: "accept=Yes", status: 302, to: actions + "required-action?execution=OAUTH_GRANT", action: "oauth:consent", outcome: storage.Failed},
		{request: "POST /realms/r/login-actions/consent?session_code=s&client_id=c", body: "accept=Yes", status: 302, to: "https://app/cb?code=1", action: "oauth:consent", outcome: storage.Success},
		{request: "POST /realms/r/login-actions/required-action?execution=VERIFY_EMAIL", body: "a=b", status: 302, to: actions + "required-action?execution=VERIFY_EMAIL", action: "send-verification-email", outcome: storage.Failed},
		{request: "POST /realms/r/login-actions/required-action?execution=delete_account", body: "cancel-aia=1", status: 302, to: "https://app/cb?kc_action_status=cancelled", action: "user:delete", outcome: storage.Failed},
	} {
		c.check(t, p)
	}
}
