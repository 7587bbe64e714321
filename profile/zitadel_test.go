package profile_test

import (
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func TestZitadelIsProvisionedBySCIM(t *testing.T) {
	p := builtin(t, "zitadel")
	const scim = " /scim/v2/3000/"
	for _, c := range []asked{
		{request: "POST" + scim + "Users", body: `{"userName":"bob"}`, status: 201, answer: `{"id":"5"}`, action: "admin:create-user", outcome: storage.Success, identifier: "bob", target: "5"},
		{request: "PUT" + scim + "Users/5", body: `{"userName":"bob"}`, status: 200, action: "admin:update-user", outcome: storage.Success, target: "5"},
		{request: "PATCH" + scim + "Users/5", body: `{}`, status: 204, action: "admin:update-user", outcome: storage.Success, target: "5"},
		{request: "DELETE" + scim + "Users/5", status: 204, action: "admin:delete-user", outcome: storage.Success, target: "5"},
		{request: "DELETE" + scim + "Users/5", status: 404, action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "POST" + scim + "Groups", body: `{}`, status: 201, action: "admin:create-group", outcome: storage.Success},
		{request: "POST" + scim + "Bulk", body: `{"Operations":[]}`, status: 200, action: "admin:bulk", outcome: storage.Success},
	} {
		if r := c.check(t, p); r != nil && (r.Class != "admin" || r.Record != profile.Always) {
			t.Errorf("%s: class %s, record %s", c.request, r.Class, r.Record)
		}
	}
	destroys(t, p, "DELETE"+scim+"Users/5", "admin:delete-user", true)
	destroys(t, p, "POST"+scim+"Bulk", "admin:bulk", false)
	for _, request := range []string{"GET" + scim + "Users", "GET" + scim + "Users/5", "POST" + scim + "Users/.search", "GET" + scim + "ServiceProviderConfig"} {
		method, path, _ := strings.Cut(request, " ")
		if m, ok := p.Match(method, target(t, path)); !ok || m.Route.Record != profile.Failures {
			t.Errorf("%s: record %s", request, m.Route.Record)
		}
	}
}

// TestTheBetaOfZitadelIsReadAsWhatCameOfIt: every route of sessions and users.
func TestTheBetaOfZitadelIsReadAsWhatCameOfIt(t *testing.T) {
	p := builtin(t, "zitadel")
	for _, c := range []asked{
		{request: "POST /v2beta/sessions", body: `{"checks":{"user":{"loginName":"alice"},"password":{"password":"x"}}}`, status: 201, answer: `{"sessionId":"1","sessionToken":"t"}`, action: "sign-in:password", outcome: storage.Success, identifier: "alice"},
		{request: "POST /v2beta/sessions", body: `{"checks":{"user":{"loginName":"alice"},"password":{"password":"x"}}}`, status: 400, action: "sign-in:password", outcome: storage.Failed, identifier: "alice"},
		{request: "PATCH /v2beta/sessions/1", body: `{"checks":{"totp":{"code":"1"}}}`, status: 400, action: "sign-in:totp", outcome: storage.Failed},
		{request: "DELETE /v2beta/sessions/1", status: 200, action: "sign-out", outcome: storage.Success},
		{request: "POST /v2beta/users/5/password", body: `{"newPassword":{"password":"x"}}`, status: 200, action: "admin:set-user-password", outcome: storage.Success, target: "5"},
		{request: "POST /v2beta/users/5/password", body: `{"newPassword":{"password":"x"},"verificationCode":"c"}`, status: 200, action: "reset-password", outcome: storage.Success},
		{request: "POST /v2beta/users/5/lock", body: `{}`, status: 200, action: "admin:ban-user", outcome: storage.Success, target: "5"},
		{request: "PUT /v2beta/users/5", body: `{}`, status: 200, action: "admin:update-user", outcome: storage.Success, target: "5"},
		{request: "DELETE /v2beta/users/5", status: 200, answer: `{"details":{}}`, action: "admin:delete-user", outcome: storage.Success, target: "5"},
		{request: "POST /v2beta/oidc/auth_requests/V2_1", body: `{"session":{"sessionId":"1"}}`, status: 200, answer: `{"callbackUrl":"https://a.example/cb?error=access_denied"}`, action: "oauth:authorize", outcome: storage.Failed},
		{request: "POST /v2beta/organizations", body: `{}`, status: 200, action: "admin:create", outcome: storage.Success},
	} {
		c.check(t, p)
	}
	destroys(t, p, "DELETE /v2beta/sessions/1", "sign-out", false)
	destroys(t, p, "POST /v2beta/users/5/lock", "admin:ban-user", false)
	destroys(t, p, "DELETE /v2beta/users/5", "admin:delete-user", true)
	same := 0
	for _, r := range p.Routes {
		rest, beta := strings.CutPrefix(r.Path, "/v2beta/")
		if !beta || strings.Contains(r.Path, "*") {
			continue
		}
		for _, other := range p.Routes {
			if other.Path == "/v2/"+rest && other.Method == r.Method && len(other.When) == len(r.When) && other.ActionName() == r.ActionName() {
				same++
				if other.Class != r.Class || other.Timing != r.Timing || other.Record != r.Record || other.Unlink != r.Unlink || other.Anonymous != r.Anonymous || len(other.Target) != len(r.Target) || len(other.User) != len(r.User) {
					t.Errorf("%s %s is not as it is in v2", r.Method, r.Path)
				}
			}
		}
	}
	if same < 60 {
		t.Errorf("only %d routes were compared", same)
	}
}

// What Zitadel's pages have in common.
const (
	wrong = `<form action="/ui/login/mfa/otp/verify"><div class="lgn-error"><p class="lgn-error-message">`
	again = `<form action="/ui/login/mfa/otp/verify" method="POST">`
	yes   = `<i class="lgn-icon-check-solid lgn-primary"></i><p class="lgn-error-message">The device is approved.</p>`
)

func TestReadsOfZitadelThatAct(t *testing.T) {
	p := builtin(t, "zitadel")
	const callback = "/oauth/v2/authorize/callback?id=228000000000000001"
	for _, c := range []asked{
		{request: "GET /ui/login/mfa/otp/verify?authRequestID=2&code=1&selectedProvider=4", status: 302, to: callback, action: "sign-in:one-time-code", outcome: storage.Success},
		{request: "GET /ui/login/mfa/otp/verify?authRequestID=2&code=1&selectedProvider=4", status: 200, answer: wrong, action: "sign-in:one-time-code", outcome: storage.Failed},
		{request: "GET /ui/login/mfa/otp/verify?authRequestID=2&code=1", status: 200, answer: again, action: "sign-in:one-time-code", outcome: profile.None},
		{request: "POST /ui/login/mfa/otp/verify", body: "authRequestID=2&code=1&selectedProvider=4", status: 302, to: callback, action: "sign-in:one-time-code", outcome: storage.Success},
		{request: "POST /ui/login/mfa/otp/verify", body: "authRequestID=2&resend=true", status: 200, answer: again, action: "sign-in:one-time-code", outcome: profile.None},
		{request: "GET /ui/login/mail/verification?userID=5&code=1", status: 200, answer: `<form action="/ui/login/login">`, action: "verify-email", outcome: storage.Success},
		{request: "GET /ui/login/mail/verification?userID=5&code=1", status: 200, answer: `<form action="/ui/login/mail/verification"><div class="lgn-error">`, action: "verify-email", outcome: storage.Failed},
		{request: "GET /ui/login/mail/verification?userID=5&code=1", status: 200, answer: `<form action="/ui/login/mail/verification"><input name="password">`, action: "verify-email", outcome: profile.None},
		{request: "GET /ui/login/device/allowed?authRequestID=2", status: 200, answer: yes, action: "device:approve", outcome: storage.Success},
		{request: "GET /ui/login/device/allowed?authRequestID=2", status: 303, to: "/ui/login/device?prompt=authentication+not+completed", action: "device:approve", outcome: storage.Failed},
		{request: "GET /ui/login/device/denied?authRequestID=2", status: 200, answer: `<p class="lgn-error-message">denied`, action: "device:deny", outcome: storage.Success},
		{request: "POST /ui/login/device/allowed", body: "authRequestID=2", status: 200, answer: yes, action: "device:approve", outcome: storage.Success},
		{request: "POST /ui/login/device/denied", body: "authRequestID=2", status: 200, answer: `<p>`, action: "device:deny", outcome: storage.Success},
		{request: "GET /ui/login/device?user_code=ABCD-EFGH", status: 302, to: "/ui/login/login?authRequestID=2", action: "device:verify", outcome: profile.None},
		{request: "GET /ui/login/device?user_code=ABCD-EFGH", status: 200, answer: `<div class="lgn-error">`, action: "device:verify", outcome: storage.Failed},
	} {
		if r := c.check(t, p); r != nil && r.Record != profile.Always {
			t.Errorf("%s: record %s", c.request, r.Record)
		}
	}
	for _, request := range []string{"/ui/login/mfa/otp/verify?authRequestID=2", "/ui/login/mail/verification?userID=5", "/ui/login/device/allowed", "/ui/login/device/%7Baction%7D?authRequestID=2", "/ui/login/device"} {
		if m, ok := p.Match("GET", target(t, request)); !ok || m.Route.Record != profile.Failures {
			t.Errorf("GET %s: record %s", request, m.Route.Record)
		}
	}
}

// TestATokenEndpointIsNoZitadel: others have theirs under /oauth/v2, too.
func TestATokenEndpointIsNoZitadel(t *testing.T) {
	r := recognizer(t)
	for _, x := range []*profile.Exchange{
		seen("POST", "/oauth/v2/token", 200, `{"access_token":"t"}`),
		seen("POST", "/oauth/v2/token", 400, `{"error":"invalid_grant"}`),
		seen("GET", "/oauth/v2/authorize", 302, "", "Location", "/login"),
		seen("GET", "/oauth/v2/authorize", 400, `{"error":"invalid_request"}`),
		seen("POST", "/oauth/v2/introspect", 200, `{"active":true}`),
	} {
		if found, ok := r.Recognize(x, profile.Nothing); ok && found.Profile.Name == "zitadel" && found.Certainty > profile.Standard {
			t.Errorf("%s %s %d is taken for Zitadel by %s", x.Method, x.Path, x.Status, found.Why)
		}
	}
	for _, x := range []*profile.Exchange{
		seen("GET", "/oauth/v2/authorize", 302, "", "Location", "/ui/login/login?authRequestID=2", "Set-Cookie", "__Host-zitadel.useragent=abc; Path=/"),
		seen("POST", "/oauth/v2/token", 200, `{"access_token":"t"}`, "Set-Cookie", "__Host-zitadel.useragent=abc; Path=/"),
		seen("POST", "/oauth/v2/introspect", 200, `{"active":true,"urn:zitadel:iam:user:resourceowner:id":"3"}`),
	} {
		if found, ok := r.Recognize(x, profile.Nothing); !ok || found.Profile.Name != "zitadel" || found.Certainty <= profile.Standard {
			t.Errorf("%s %s is not taken for Zitadel: %+v", x.Method, x.Path, found)
		}
	}
}
