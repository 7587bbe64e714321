package e2e

import (
	"fmt"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestPocketBase drives a real PocketBase through Caddy.
func TestPocketBase(t *testing.T) {
	live(t, server{
		profile: "pocketbase", title: "PocketBase", tokenHeader: "Authorization", start: startPocketBase,
		visits: pocketBaseVisits,
	})
}

func startPocketBase(t *testing.T, _ string, m *mailbox) (string, map[string]string) {
	t.Helper()
	program := tool(t, "pocketbase", "github.com/pocketbase/pocketbase/examples/base")
	dir, port := t.TempDir(), harness.FreePort(t)
	values := map[string]string{
		"mail.port.id": fmt.Sprint(m.port), "provider.id": newProvider(t), "provider.code": providerCode, "provider.token": providerToken, "provider.secret": "canary-provider-secret-2b4d",
		"root.password": "canary-root-6f0c1d77", "alice.password": "canary-alice-first-90ab", "alice.next": "canary-alice-second-41cd",
		"alice.last": "canary-alice-third-77ef", "bob.password": "canary-bob-2e8d4410", "bob.next": "canary-bob-set-5bb1a0", "carol.password": "canary-carol-83e1f2a9",
		"dave.password": "canary-dave-0a9b8c7d", "wrong.password": "canary-wrong-e4d3c2b1", "s3.secret": "canary-s3-1f2e3d4c",
		"member.password": "canary-member-66b0a9", "root2.password": "canary-root2-b7a6c5d4",
	}
	data := []string{"--dir", dir + "/data", "--migrationsDir", dir + "/migrations", "--hooksDir", dir + "/hooks", "--publicDir", dir + "/public", "--automigrate=false", "--hooksWatch=false"}
	run(t, dir, program, append([]string{"superuser", "upsert", "root@example.test", values["root.password"]}, data...)...)
	serve(t, dir, []int{port}, program, append([]string{"serve", "--http", fmt.Sprintf("127.0.0.1:%d", port)}, data...)...)
	return fmt.Sprintf("reverse_proxy 127.0.0.1:%d", port), values
}

const (
	pbUsers = "/api/collections/users"
	pbRoots = "/api/collections/_superusers"
)

var pocketBaseVisits = []visit{
	// The superuser.
	{
		name: "a superuser signs in with a wrong password", request: "POST " + pbRoots + "/auth-with-password",
		body: `{"identity":"root@example.test","password":"{wrong.password}"}`, answer: 400,
		want: failed("sign-in", "sign-in:superuser").typed("r***@example.test"),
	},
	{
		name: "a superuser signs in", request: "POST " + pbRoots + "/auth-with-password",
		body: `{"identity":"root@example.test","password":"{root.password}"}`, answer: 200,
		keep: map[string]string{"root.token": "/token", "root.id": "/record/id"},
		want: success("sign-in", "sign-in:superuser").by("{root.id}"),
	},
	{
		name: "a superuser changes settings", request: "PATCH /api/settings", as: "root",
		body:   `{"smtp":{"enabled":true,"host":"127.0.0.1","port":{mail.port.id}},"batch":{"enabled":true,"maxRequests":10,"timeout":5},"s3":{"secret":"{s3.secret}"}}`,
		answer: 200, want: success("admin", "admin:update-settings").by("{root.id}"),
	},
	{
		name: "nobody changes settings", request: "PATCH /api/settings", body: `{"batch":{"enabled":false}}`, answer: 401,
		want: failed("admin", "admin:update-settings"),
	},
	{name: "a superuser reads settings", request: "GET /api/settings", as: "root", answer: 200, want: nothing},
	{
		name: "a superuser enables one-time passwords", request: "PATCH " + pbUsers, as: "root", body: `{"otp":{"enabled":true,"duration":180,"length":8}}`,
		answer: 200, want: success("admin", "admin:update-collection").by("{root.id}"),
	},
	{name: "a superuser refreshes", request: "POST " + pbRoots + "/auth-refresh", as: "root", answer: 200, want: success("token", "token:refresh").by("{root.id}")},

	// Sign-up and sign-in.
	{name: "anybody asks how to sign in", request: "GET " + pbUsers + "/auth-methods", answer: 200, want: nothing},
	{
		name: "alice signs up", request: "POST " + pbUsers + "/records",
		body:   `{"email":"alice@example.test","name":"Alice","password":"{alice.password}","passwordConfirm":"{alice.password}"}`,
		answer: 200, keep: map[string]string{"alice.id": "/id"}, want: success("sign-up", "sign-up").by("{alice.id}"),
	},
	{
		name: "somebody signs up with alice's address", request: "POST " + pbUsers + "/records",
		body:   `{"email":"alice@example.test","password":"{wrong.password}","passwordConfirm":"{wrong.password}"}`,
		answer: 400, want: failed("sign-up", "sign-up").typed("a***@example.test"),
	},
	{
		name: "bob signs up by a form", request: "POST " + pbUsers + "/records",
		body:   "email=bob%40example.test&password={bob.password}&passwordConfirm={bob.password}",
		answer: 200, keep: map[string]string{"bob.id": "/id"}, want: success("sign-up", "sign-up").by("{bob.id}"),
	},
	{
		name: "alice signs in with a wrong password", request: "POST " + pbUsers + "/auth-with-password",
		body: `{"identity":"alice@example.test","password":"{wrong.password}"}`, answer: 400,
		want: failed("sign-in", "sign-in:password").typed("a***@example.test"),
	},
	{
		name: "somebody unknown signs in", request: "POST " + pbUsers + "/auth-with-password",
		body: `{"identity":"nobody@example.test","password":"{wrong.password}"}`, answer: 400,
		want: failed("sign-in", "sign-in:password").typed("n***@example.test"),
	},
	{
		name: "alice signs in", request: "POST " + pbUsers + "/auth-with-password",
		body: `{"identity":"alice@example.test","password":"{alice.password}"}`, answer: 200,
		keep: map[string]string{"alice.token": "/token"}, want: success("sign-in", "sign-in:password").by("{alice.id}"),
	},
	{
		name: "bob signs in and asks for the token alone", request: "POST " + pbUsers + "/auth-with-password?fields=token",
		body: "identity=bob%40example.test&password={bob.password}", answer: 200,
		keep: map[string]string{"bob.token": "/token"}, want: success("sign-in", "sign-in:password").by("{bob.id}"),
	},
	{name: "alice reads her record", request: "GET " + pbUsers + "/records/{alice.id}", as: "alice", answer: 200, want: success("session", "users:get").by("{alice.id}")},
	{name: "nobody reads alice's record", request: "GET " + pbUsers + "/records/{alice.id}", answer: 404, want: failed("session", "users:get").on("{alice.id}")},
	{name: "alice refreshes", request: "POST " + pbUsers + "/auth-refresh", as: "alice", answer: 200, keep: map[string]string{"alice.token": "/token"}, want: success("token", "token:refresh").by("{alice.id}")},
	{
		name: "somebody refreshes with a token made up", request: "POST " + pbUsers + "/auth-refresh", header: map[string]string{"Authorization": "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6ImFsaWNlIn0.bm90LWEtc2lnbmF0dXJl"},
		answer: 401, want: failed("token", "token:refresh"),
	},
	{
		name: "alice asks for a file token", request: "POST /api/files/token", as: "alice", answer: 200, keep: map[string]string{"alice.file_token": "/token"},
		want: success("token", "files:token").by("{alice.id}"),
	},

	// One's own account.
	{
		name: "alice changes her name", request: "PATCH " + pbUsers + "/records/{alice.id}", as: "alice", body: `{"name":"Alice A."}`, answer: 200,
		want: success("account", "user:update").by("{alice.id}"),
	},
	{
		name: "alice changes bob's name", request: "PATCH " + pbUsers + "/records/{bob.id}", as: "alice", body: `{"name":"Mallory"}`, answer: 404,
		want: failed("admin", "user:update").by("{alice.id}").on("{bob.id}"),
	},
	{
		name: "alice changes her password and gets the old one wrong", request: "PATCH " + pbUsers + "/records/{alice.id}", as: "alice",
		body: `{"oldPassword":"{wrong.password}","password":"{alice.next}","passwordConfirm":"{alice.next}"}`, answer: 400,
		want: failed("credential", "user:change-password").by("{alice.id}"),
	},
	{
		name: "alice changes her password", request: "PATCH " + pbUsers + "/records/{alice.id}", as: "alice",
		body: `{"oldPassword":"{alice.password}","password":"{alice.next}","passwordConfirm":"{alice.next}"}`, answer: 200,
		want: success("credential", "user:change-password").by("{alice.id}"),
	},
	{name: "alice's old token has ended", request: "POST " + pbUsers + "/auth-refresh", as: "alice", answer: 401, want: failed("token", "token:refresh")},
	{
		name: "alice signs in with the new password", request: "POST " + pbUsers + "/auth-with-password",
		body: `{"identity":"alice@example.test","password":"{alice.next}"}`, answer: 200,
		keep: map[string]string{"alice.token": "/token"}, want: success("sign-in", "sign-in:password").by("{alice.id}"),
	},

	// By mail.
	{
		name: "alice has forgotten her password", request: "POST " + pbUsers + "/request-password-reset", body: `{"email":"alice@example.test"}`, answer: 204,
		mail: map[string]string{"alice.reset_token": `confirm-password-reset/([\w.-]+)`},
		want: success("credential", "request-password-reset").typed("a***@example.test"),
	},
	{
		name: "alice resets her password", request: "POST " + pbUsers + "/confirm-password-reset",
		body:   `{"token":"{alice.reset_token}","password":"{alice.last}","passwordConfirm":"{alice.last}"}`,
		answer: 204, want: success("credential", "reset-password").by("{alice.id}"),
	},
	{
		name: "somebody uses alice's reset token again", request: "POST " + pbUsers + "/confirm-password-reset",
		body:   `{"token":"{alice.reset_token}","password":"{wrong.password}","passwordConfirm":"{wrong.password}"}`,
		answer: 400, want: failed("credential", "reset-password"),
	},
	{
		name: "bob verifies his address: he asks", request: "POST " + pbUsers + "/request-verification", body: `{"email":"bob@example.test"}`, answer: 204,
		mail: map[string]string{"bob.verify_token": `confirm-verification/([\w.-]+)`},
		want: success("account", "request-verification").typed("b***@example.test"),
	},
	{
		name: "bob verifies his address: he follows the link", request: "POST " + pbUsers + "/confirm-verification", body: `{"token":"{bob.verify_token}"}`, answer: 204,
		want: success("account", "verify-email").by("{bob.id}"),
	},
	{
		name: "alice signs in after the reset", request: "POST " + pbUsers + "/auth-with-password",
		body: `{"identity":"alice@example.test","password":"{alice.last}"}`, answer: 200,
		keep: map[string]string{"alice.token": "/token"}, want: success("sign-in", "sign-in:password").by("{alice.id}"),
	},
	{
		name: "alice asks for a one-time password", request: "POST " + pbUsers + "/request-otp", body: `{"email":"alice@example.test"}`, answer: 200,
		keep: map[string]string{"alice.otp.id": "/otpId"}, mail: map[string]string{"alice.otp": `>(\d{8})<`},
		want: success("credential", "request-otp").typed("a***@example.test"),
	},
	{
		name: "alice mistypes the one-time password", request: "POST " + pbUsers + "/auth-with-otp", body: `{"otpId":"{alice.otp.id}","password":"00000000"}`, answer: 400,
		want: failed("sign-in", "sign-in:otp"),
	},
	{
		name: "alice signs in with the one-time password", request: "POST " + pbUsers + "/auth-with-otp", body: `{"otpId":"{alice.otp.id}","password":"{alice.otp}"}`, answer: 200,
		keep: map[string]string{"alice.token": "/token"}, want: success("sign-in", "sign-in:otp").by("{alice.id}"),
	},

	// Two factors.
	{
		name: "a superuser asks for two factors", request: "PATCH " + pbUsers, as: "root", body: `{"mfa":{"enabled":true,"duration":1800,"rule":""}}`, answer: 200,
		want: success("admin", "admin:update-collection").by("{root.id}"),
	},
	{
		name: "bob's first factor", request: "POST " + pbUsers + "/auth-with-password", body: `{"identity":"bob@example.test","password":"{bob.password}"}`, answer: 401,
		keep: map[string]string{"bob.mfa": "/mfaId"}, want: pending("sign-in", "sign-in:password").by("{bob.id}"),
	},
	{
		name: "bob asks for his second", request: "POST " + pbUsers + "/request-otp", body: `{"email":"bob@example.test"}`, answer: 200,
		keep: map[string]string{"bob.otp.id": "/otpId"}, mail: map[string]string{"bob.otp": `>(\d{8})<`},
		want: success("credential", "request-otp"),
	},
	{
		name: "bob's second factor", request: "POST " + pbUsers + "/auth-with-otp", body: `{"otpId":"{bob.otp.id}","password":"{bob.otp}","mfaId":"{bob.mfa}"}`, answer: 200,
		keep: map[string]string{"bob.token": "/token"}, want: success("sign-in", "sign-in:otp").by("{bob.id}"),
	},
	{
		name: "a superuser asks for one factor again", request: "PATCH " + pbUsers, as: "root", body: `{"mfa":{"enabled":false}}`, answer: 200,
		want: success("admin", "admin:update-collection").by("{root.id}"),
	},

	// By a provider.
	{
		name: "a superuser allows a provider", request: "PATCH " + pbUsers, as: "root",
		body:   `{"oauth2":{"enabled":true,"providers":[{"name":"oidc","clientId":"pb","clientSecret":"{provider.secret}","authURL":"{provider.id}/authorize","tokenURL":"{provider.id}/token","userInfoURL":"{provider.id}/userinfo"}]}}`,
		answer: 200, want: success("admin", "admin:update-collection").by("{root.id}"),
	},
	{
		name: "oscar comes from the provider with a wrong code", request: "POST " + pbUsers + "/auth-with-oauth2",
		body: `{"provider":"oidc","code":"canary-wrong-code","codeVerifier":"canary-verifier-71","redirectURL":"{base}/api/oauth2-redirect"}`, answer: 400,
		want: failed("sign-in", "sign-in:oauth2"),
	},
	{
		name: "oscar comes from the provider", request: "POST " + pbUsers + "/auth-with-oauth2",
		body: `{"provider":"oidc","code":"{provider.code}","codeVerifier":"canary-verifier-71","redirectURL":"{base}/api/oauth2-redirect"}`, answer: 200,
		keep: map[string]string{"oscar.token": "/token", "oscar.id": "/record/id"}, want: success("sign-in", "sign-in:oauth2").by("{oscar.id}"),
	},

	// Administration.
	{
		name: "a superuser creates carol", request: "POST " + pbUsers + "/records", as: "root",
		body: `{"email":"carol@example.test","password":"{carol.password}","passwordConfirm":"{carol.password}","verified":true}`, answer: 200,
		keep: map[string]string{"carol.id": "/id"}, want: success("sign-up", "sign-up").by("{root.id}").on("{carol.id}"),
	},
	{name: "a superuser lists users", request: "GET " + pbUsers + "/records", as: "root", answer: 200, want: nothing},
	{name: "a superuser reads carol's record", request: "GET " + pbUsers + "/records/{carol.id}", as: "root", answer: 200, want: nothing},
	{
		name: "a superuser renames carol", request: "PATCH " + pbUsers + "/records/{carol.id}", as: "root", body: `{"name":"Carol C."}`, answer: 200,
		want: success("admin", "user:update").by("{root.id}").on("{carol.id}"),
	},
	{
		name: "a superuser sets bob's password", request: "PATCH " + pbUsers + "/records/{bob.id}", as: "root",
		body: `{"password":"{bob.next}","passwordConfirm":"{bob.next}"}`, answer: 200,
		want: success("admin", "user:set-password").by("{root.id}").on("{bob.id}"),
	},
	{
		name: "a superuser becomes carol", request: "POST " + pbUsers + "/impersonate/{carol.id}", as: "root", body: `{"duration":600}`, answer: 200,
		keep: map[string]string{"carol.token": "/token"}, want: success("admin", "admin:impersonate-user").by("{root.id}").on("{carol.id}"),
	},
	{
		name: "alice becomes bob", request: "POST " + pbUsers + "/impersonate/{bob.id}", as: "alice", body: `{"duration":600}`, answer: 403,
		want: failed("admin", "admin:impersonate-user").by("{alice.id}").on("{bob.id}"),
	},
	{
		name: "carol changes her name", request: "PATCH " + pbUsers + "/records/{carol.id}", as: "carol", body: `{"name":"C."}`, answer: 200,
		want: success("account", "user:update").by("{carol.id}"),
	},
	{
		name: "alice deletes carol", request: "DELETE " + pbUsers + "/records/{carol.id}", as: "alice", answer: 404,
		want: failed("admin", "user:delete").by("{alice.id}").on("{carol.id}"),
	},
	{
		name: "a superuser deletes carol", request: "DELETE " + pbUsers + "/records/{carol.id}", as: "root", answer: 204,
		want: success("admin", "user:delete").by("{root.id}").on("{carol.id}"), deletes: "{carol.id}",
	},
	{
		name: "a superuser deletes carol once more", request: "DELETE " + pbUsers + "/records/{carol.id}", as: "root", answer: 404,
		want: failed("admin", "user:delete").by("{root.id}").on("{carol.id}"),
	},
	{
		name: "a superuser creates dave in a batch", request: "POST /api/batch", as: "root",
		body:   `{"requests":[{"method":"POST","url":"/api/collections/users/records","body":{"email":"dave@example.test","password":"{dave.password}","passwordConfirm":"{dave.password}"}}]}`,
		answer: 200, keep: map[string]string{"dave.id": "/0/body/id"}, want: success("account", "batch").by("{root.id}"),
	},
	{
		name: "alice deletes dave in a batch", request: "POST /api/batch", as: "alice", body: `{"requests":[{"method":"DELETE","url":"/api/collections/users/records/{dave.id}"}]}`,
		answer: 400, want: failed("account", "batch").by("{alice.id}"),
	},
	{
		name: "a superuser creates another", request: "POST " + pbRoots + "/records", as: "root",
		body:   `{"email":"root2@example.test","password":"{root2.password}","passwordConfirm":"{root2.password}"}`,
		answer: 200, keep: map[string]string{"root2.id": "/id"}, want: success("admin", "admin:create-superuser").by("{root.id}").on("{root2.id}"),
	},
	{
		name: "alice creates a superuser", request: "POST " + pbRoots + "/records", as: "alice",
		body: `{"email":"alice@example.test","password":"{alice.last}","passwordConfirm":"{alice.last}"}`, answer: 403,
		want: failed("admin", "admin:create-superuser").by("{alice.id}"),
	},
	{
		name: "a superuser deletes the other", request: "DELETE " + pbRoots + "/records/{root2.id}", as: "root", answer: 204,
		want: success("admin", "admin:delete-superuser").by("{root.id}").on("{root2.id}"), deletes: "{root2.id}",
	},
	{name: "alice reads the server's log", request: "GET /api/logs", as: "alice", answer: 403, want: failed("admin", "admin:list-logs").by("{alice.id}")},

	// Collections of one's own.
	{
		name: "a superuser makes a collection of members", request: "POST /api/collections", as: "root",
		body: `{"name":"members","type":"auth","createRule":"","viewRule":"id = @request.auth.id","deleteRule":"id = @request.auth.id","updateRule":"id = @request.auth.id"}`, answer: 200,
		want: success("admin", "admin:create-collection").by("{root.id}"),
	},
	{
		name: "a member signs up", request: "POST /api/collections/members/records", body: `{"email":"member@example.test","password":"{member.password}","passwordConfirm":"{member.password}"}`,
		answer: 200, keep: map[string]string{"member.id": "/id"}, want: success("sign-up", "sign-up").by("{member.id}"),
	},
	{
		name: "a member signs in", request: "POST /api/collections/members/auth-with-password", body: `{"identity":"member@example.test","password":"{member.password}"}`,
		answer: 200, keep: map[string]string{"member.token": "/token"}, want: success("sign-in", "sign-in:password").by("{member.id}"),
	},
	{
		name: "a member leaves", request: "DELETE /api/collections/members/records/{member.id}", as: "member", answer: 204,
		want: success("custom", "records:delete").by("{member.id}"),
	},
	{
		name: "a superuser makes a collection of data", request: "POST /api/collections", as: "root",
		body:   `{"name":"posts","type":"base","createRule":"","listRule":"","fields":[{"name":"title","type":"text"}]}`,
		answer: 200, want: success("admin", "admin:create-collection").by("{root.id}"),
	},
	{name: "alice writes", request: "POST /api/collections/posts/records", as: "alice", body: `{"title":"hello"}`, answer: 200, want: nothing},
	{name: "anybody reads", request: "GET /api/collections/posts/records", answer: 200, want: nothing},
	{name: "the server is well", request: "GET /api/health", answer: 200, want: nothing},

	// The end.
	{
		name: "bob signs in with the password that he was given", request: "POST " + pbUsers + "/auth-with-password", body: `{"identity":"bob@example.test","password":"{bob.next}"}`,
		answer: 200, keep: map[string]string{"bob.token": "/token"}, want: success("sign-in", "sign-in:password").by("{bob.id}"),
	},
	{name: "nobody deletes bob", request: "DELETE " + pbUsers + "/records/{bob.id}", answer: 404, want: failed("account", "user:delete").on("{bob.id}")},
	{
		name: "bob deletes himself", request: "DELETE " + pbUsers + "/records/{bob.id}", as: "bob", answer: 204,
		want: success("account", "user:delete").by("{bob.id}"), deletes: "{bob.id}",
	},
	{
		name: "bob signs in no more", request: "POST " + pbUsers + "/auth-with-password", body: `{"identity":"bob@example.test","password":"{bob.next}"}`, answer: 400,
		want: failed("sign-in", "sign-in:password").typed("b***@example.test"),
	},
	{name: "alice removes all users", request: "DELETE " + pbUsers + "/truncate", as: "alice", answer: 403, want: failed("admin", "admin:truncate-collection").by("{alice.id}")},
	{name: "a superuser removes all users", request: "DELETE " + pbUsers + "/truncate", as: "root", answer: 204, want: success("admin", "admin:truncate-collection").by("{root.id}")},
}
