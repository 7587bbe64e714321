package profile_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestKratosSendsToItsOtherPort: what is asked of the wrong port is not done, and answered with the
// address of the other one.
func TestKratosSendsToItsOtherPort(t *testing.T) {
	p := builtin(t, "kratos")
	const admin, public = "http://127.0.0.1:4434", "http://127.0.0.1:4433"
	for _, c := range []asked{
		{request: "DELETE /admin/identities/5", status: 307, to: admin + "/admin/identities/5", action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "DELETE /admin/identities/5", status: 204, action: "admin:delete-user", outcome: storage.Success, target: "5"},
		{request: "POST /admin/recovery/code", body: `{"identity_id":"5"}`, status: 307, to: admin + "/admin/recovery/code", action: "admin:recovery-code", outcome: storage.Failed, target: "5"},
		{request: "DELETE /admin/identities/5/sessions", status: 308, to: admin + "/admin/identities/5/sessions", action: "admin:revoke-user-sessions", outcome: storage.Failed, target: "5"},
		{request: "DELETE /admin//identities/5", status: 301, to: "/admin/identities/5", action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "GET /self-service/logout?token=x", status: 307, to: public + "/self-service/logout?token=x", action: "sign-out", outcome: storage.Failed},
	} {
		c.check(t, p)
	}
}

// TestKratosAdministratesWithoutThePrefix: its admin port adds /admin to every path that lacks it.
func TestKratosAdministratesWithoutThePrefix(t *testing.T) {
	p := builtin(t, "kratos")
	for _, c := range []asked{
		{request: "DELETE /identities/5", status: 204, action: "admin:delete-user", outcome: storage.Success, target: "5"},
		{request: "DELETE /identities/5", status: 307, to: "http://127.0.0.1:4434/admin/identities/5", action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "POST /identities", body: `{"traits":{"email":"a@b.c"}}`, status: 201, answer: `{"id":"5"}`, action: "admin:create-user", outcome: storage.Success, identifier: "a@b.c", target: "5"},
		{request: "PATCH /identities", body: `{"identities":[{"create":{"traits":{"email":"a@b.c"}}}]}`, status: 200, answer: `{"identities":[{"action":"error"}]}`, action: "admin:create-users", outcome: storage.Unknown, identifier: "a@b.c"},
		{request: "PUT /identities/5", body: `{"state":"inactive"}`, status: 200, action: "admin:ban-user", outcome: storage.Success, target: "5"},
		{request: "DELETE /identities/5/credentials/totp", status: 204, action: "admin:delete-credential", outcome: storage.Success, target: "5"},
		{request: "DELETE /identities/5/sessions", status: 204, action: "admin:revoke-user-sessions", outcome: storage.Success, target: "5"},
		{request: "POST /recovery/code", body: `{"identity_id":"5"}`, status: 201, action: "admin:recovery-code", outcome: storage.Success, target: "5"},
		{request: "POST /recovery/link", body: `{"identity_id":"5"}`, status: 200, action: "admin:recovery-link", outcome: storage.Success, target: "5"},
		{request: "POST /sessions", body: `{"identities":["5"]}`, status: 200, action: "admin:revoke-sessions", outcome: storage.Success, target: "5"},
		{request: "PATCH /sessions/7/extend", status: 200, answer: `{"identity":{"id":"5"}}`, action: "admin:extend-session", outcome: storage.Success, target: "5"},
		{request: "DELETE /sessions/7", status: 204, action: "session:revoke", outcome: storage.Success}, // one's own, on the public port
		{request: "GET /sessions", status: 200, action: "session:list", outcome: storage.Success},
	} {
		c.check(t, p)
	}
	destroys(t, p, "DELETE /identities/5", "admin:delete-user", true)
	destroys(t, p, "POST /sessions", "admin:revoke-sessions", false)
	same := 0
	for _, r := range p.Routes {
		bare, prefixed := strings.CutPrefix(r.Path, "/admin/")
		if !prefixed || r.Class != "admin" {
			continue
		}
		for _, other := range p.Routes {
			if other.Path == "/"+bare && other.Method == r.Method && other.Class == "admin" && sameWhen(other, r) {
				same++
				if other.ActionName() != r.ActionName() || other.Timing != r.Timing || other.Record != r.Record || other.Unlink != r.Unlink || other.Rules != r.Rules || len(other.Target) != len(r.Target) || len(other.Identifier) != len(r.Identifier) {
					t.Errorf("%s %s is not as it is with the prefix", r.Method, other.Path)
				}
			}
		}
	}
	if same != 25 {
		t.Errorf("%d routes are there without the prefix, too", same)
	}
}

// sameWhen says whether two routes have the same conditions.
func sameWhen(a, b *profile.Route) bool {
	return maps.EqualFunc(a.When, b.When, slices.Equal[profile.Values])
}

// TestKratosSettingsAreWhatIsDone: Kratos tries its strategies in a fixed order, and most go by their
// own fields, whatever method the request names. All but the last take GET, too.
func TestKratosSettingsAreWhatIsDone(t *testing.T) {
	p := builtin(t, "kratos")
	const (
		post = "POST /self-service/settings?flow=f"
		get  = "GET /self-service/settings?flow=f&"
		done = `{"identity":{"id":"5"},"state":"success"}`
	)
	for _, c := range []asked{
		{request: post, body: `{"method":"x","totp_unlink":true}`, action: "two-factor:disable-totp"},
		{request: post, body: `{"totp_unlink":"t"}`, action: "two-factor:disable-totp"},
		{request: post, body: `{"method":"lookup_secret","lookup_secret_disable":true,"totp_unlink":true}`, action: "two-factor:disable-totp"},
		{request: post, body: `{"method":"totp","totp_unlink":false,"totp_code":"1"}`, action: "two-factor:enable-totp"},
		{request: post, body: `{"method":"x","lookup_secret_disable":true}`, action: "two-factor:disable-lookup-secrets"},
		{request: post, body: `{"method":"x","lookup_secret_regenerate":true}`, action: "two-factor:lookup-secrets"},
		{request: post, body: `{"method":"totp","totp_code":"1","lookup_secret_disable":true}`, action: "two-factor:enable-totp"},
		{request: post, body: `{"method":"totp","totp_code":"1","unlink":"google"}`, action: "user:unlink-provider"},
		{request: post, body: `{"method":"x","totp_unlink":true,"unlink":"google"}`, action: "user:unlink-provider"},
		{request: post + "&unlink=google", body: `{"method":"totp","totp_code":"1"}`, action: "user:unlink-provider"},
		{request: post, body: `{"method":"totp","webauthn_remove":"k","totp_code":"1"}`, action: "two-factor:enable-totp"},
		{request: post, body: `{"method":"x","webauthn_remove":"k","passkey_remove":"k"}`, action: "passkey:remove"},
		{request: post, body: `{"method":"password","password":"n","totp_unlink":true,"unlink":"google"}`, action: "user:change-password"},
		{request: post, body: `{"method":"profile","traits":{"email":"a@b.c"},"unlink":"google"}`, action: "user:update", identifier: "a@b.c"},
		{request: post, body: "method=x&totp_unlink=true", action: "two-factor:disable-totp"},
		{request: post, body: `{"method":"x"}`, action: "user:update-settings"},
		{request: get + "method=totp&totp_unlink=true", action: "two-factor:disable-totp"},
		{request: get + "totp_unlink=1", action: "two-factor:disable-totp"},
		{request: get + "method=totp&totp_code=1", action: "two-factor:enable-totp"},
		{request: get + "unlink=google", action: "user:unlink-provider"},
		{request: get + "webauthn_remove=k", action: "two-factor:remove-webauthn"},
		{request: get + "passkey_remove=k", action: "passkey:remove"},
		{request: get + "method=password&password=n&totp_unlink=true", action: "user:change-password"},
		{request: get + "method=profile&traits.email=a@b.c", action: "user:update", identifier: "a@b.c"},
		{request: get + "lookup_secret_disable=true", action: "user:update-settings"},
		{request: strings.TrimSuffix(get, "&"), action: "user:update-settings"},
	} {
		c.status, c.answer, c.outcome = 200, done, storage.Success
		c.check(t, p)
		c.status, c.answer, c.outcome = 303, "", storage.Failed
		if r := c.check(t, p); r != nil && r.Record != profile.Always {
			t.Errorf("%s %s: record %s", c.request, c.body, r.Record)
		}
	}
	for _, c := range []asked{
		{request: post + "&link=google", body: `{}`, status: 422, action: "user:link-provider", outcome: profile.None},
		{request: get + "link=google", status: 303, to: "https://google.example/auth", action: "user:link-provider", outcome: profile.None},
	} {
		c.check(t, p)
	}
}

// TestKratosTakesCodesAndTokensAnywhere: recovery and verification read the query and the body together,
// and a token counts in a POST, too. With an address a mail is sent, and no code is tried.
func TestKratosTakesCodesAndTokensAnywhere(t *testing.T) {
	p := builtin(t, "kratos")
	const recovery, verification = "POST /self-service/recovery?flow=f", "POST /self-service/verification?flow=f"
	const (
		sent   = `{"state":"sent_email","ui":{"messages":[{"id":1060003,"type":"info"}]}}`
		guess  = `{"state":"sent_email","ui":{"messages":[{"id":4060006,"type":"error"}]}}`
		passed = `{"state":"passed_challenge"}`
	)
	for _, c := range []asked{
		{request: recovery + "&code=123456", body: `{"method":"code"}`, status: 200, answer: guess, action: "recovery:code", outcome: storage.Failed},
		{request: recovery + "&code=123456", body: `{"method":"code"}`, status: 422, answer: `{"redirect_browser_to":"https://a.example/settings?flow=g"}`, action: "recovery:code", outcome: storage.Success},
		{request: recovery + "&code=123456", body: "method=code", status: 303, to: "https://a.example/recovery?flow=f", action: "recovery:code", outcome: storage.Failed},
		{request: recovery, body: `{"method":"link","token":"t"}`, status: 303, to: "https://a.example/recovery?flow=g", action: "recovery:link", outcome: storage.Failed},
		{request: recovery + "&token=t", body: `{"method":"link"}`, status: 303, to: "https://a.example/recovery?flow=g", action: "recovery:link", outcome: storage.Failed},
		{request: recovery + "&code=123456&email=", body: `{"method":"code","email":"a@b.c"}`, status: 200, answer: guess, action: "recovery:code", outcome: storage.Failed},
		{request: recovery + "&code=123456", body: `{"method":"code","email":"a@b.c"}`, status: 200, answer: sent, action: "recovery:code", outcome: storage.Unknown}, // a mail is sent instead
		{request: recovery, body: "method=code&code=123456", status: 303, to: "https://a.example/recovery?flow=f", action: "recovery:code", outcome: storage.Failed},
		{request: recovery, body: "method=code&code=123456&email=a@b.c", status: 303, to: "https://a.example/recovery?flow=f", action: "recovery:code", outcome: storage.Unknown},
		{request: recovery + "&token=t", body: `{"method":"code","email":"a@b.c"}`, status: 200, answer: sent, action: "recovery:link", outcome: storage.Unknown}, // so it is, where codes are
		{request: recovery, body: `{"method":"code","email":"a@b.c"}`, status: 200, answer: sent, action: "recovery:request", outcome: storage.Success, identifier: "a@b.c"},
		{request: verification + "&code=123456", body: `{"method":"code"}`, status: 200, answer: guess, action: "verification:code", outcome: storage.Failed},
		{request: verification + "&code=123456", body: `{"method":"code"}`, status: 200, answer: passed, action: "verification:code", outcome: storage.Success},
		{request: verification, body: `{"method":"code","email":"a@b.c"}`, status: 200, answer: sent, action: "verification:request", outcome: storage.Success, identifier: "a@b.c"},
	} {
		c.check(t, p)
	}
}

// TestKratosSignsUpWithAProvider: its own button sends no method, and what follows is a step; with the
// provider's token it is done at once.
func TestKratosSignsUpWithAProvider(t *testing.T) {
	p := builtin(t, "kratos")
	const sign, away = "POST /self-service/registration?flow=f", "https://google.example/auth?state=s"
	for _, c := range []asked{
		{request: sign, body: "provider=google", status: 303, to: away, action: "sign-up:provider", outcome: profile.None},
		{request: sign, body: `{"provider":"google"}`, status: 422, answer: `{"redirect_browser_to":"` + away + `"}`, action: "sign-up:provider", outcome: profile.None},
		{request: sign + "&provider=google", body: `{"traits":{}}`, status: 422, answer: `{"redirect_browser_to":"` + away + `"}`, action: "sign-up:provider", outcome: profile.None},
		{request: sign, body: "provider=google", status: 303, to: "https://a.example/registration?flow=f", action: "sign-up:provider", outcome: storage.Failed},
		{request: sign, body: `{"method":"oidc","provider":"google","id_token":"t"}`, status: 200, answer: `{"identity":{"id":"5"}}`, action: "sign-up:provider", outcome: storage.Success},
		{request: sign, body: `{"method":"oidc","provider":"google","id_token":"t"}`, status: 400, answer: `{"ui":{}}`, action: "sign-up:provider", outcome: storage.Failed},
		{request: sign, body: `{"method":"password","provider":"google","traits":{"email":"a@b.c"}}`, status: 200, answer: `{"identity":{"id":"5"}}`, action: "sign-up", outcome: storage.Success, identifier: "a@b.c"},
	} {
		c.check(t, p)
	}
}
