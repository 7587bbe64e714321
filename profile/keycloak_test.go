package profile_test

import (
	"net/http"
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
