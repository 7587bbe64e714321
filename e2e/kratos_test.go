//go:build kratos

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestKratos drives a real Ory Kratos through Caddy, with its administration on the
// same site. It is behind a build tag, because building Kratos takes minutes: run make
// test-kratos.
func TestKratos(t *testing.T) {
	live(t, server{
		profile: "kratos", title: "Ory Kratos", tokenHeader: "X-Session-Token", start: startKratos,
		visits: kratosVisits,
	})
}

func startKratos(t *testing.T, base string, m *mailbox) (string, map[string]string) {
	t.Helper()
	program := tool(t, "kratos", "github.com/ory/kratos", "-tags", "sqlite")
	dir, public, admin := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	config, err := json.Marshal(kratosConfig(base, dir, public, admin, m.port))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"kratos.json": string(config), "person.schema.json": personSchema} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve(t, dir, []int{public, admin}, program, "serve", "--config", "kratos.json", "--dev", "--sqa-opt-out", "--watch-courier")
	return fmt.Sprintf("reverse_proxy /admin/* 127.0.0.1:%d\n\treverse_proxy 127.0.0.1:%d", admin, public), map[string]string{
		"alice.password": "canary-alice-7b1c9e55", "alice.next": "canary-alice-next-3d2f1a", "bob.password": "canary-bob-c4b3a291", "bob.next": "canary-bob-next-08d7e6",
		"carol.password": "canary-carol-5f6e7d8c", "wrong.password": "canary-wrong-1a2b3c4d",
	}
}

// object is one of JSON.
type object = map[string]any

func kratosConfig(base, dir string, public, admin, mail int) object {
	on := object{"enabled": true}
	page := func(name string, more object) object {
		more["ui_url"] = base + "/ui/" + name
		return more
	}
	session := object{"hooks": []object{{"hook": "session"}}}
	return object{
		"dsn": "memory",
		"serve": object{
			"public": object{"base_url": base, "host": "127.0.0.1", "port": public},
			"admin":  object{"base_url": base, "host": "127.0.0.1", "port": admin},
		},
		"selfservice": object{
			"default_browser_return_url": base + "/ui/welcome",
			"methods": object{
				"password": object{"config": object{"haveibeenpwned_enabled": false}},
				"code":     on,
			},
			"flows": object{
				"error":        page("error", object{}),
				"login":        page("login", object{}),
				"settings":     page("settings", object{}),
				"recovery":     page("recovery", object{"enabled": true, "use": "code"}),
				"registration": page("registration", object{"after": object{"password": session}}),
				"logout":       object{"after": object{"default_browser_return_url": base + "/ui/login"}},
			},
		},
		"identity": object{"schemas": []object{{"id": "default", "url": "file://" + filepath.Join(dir, "person.schema.json")}}},
		"hashers":  object{"algorithm": "bcrypt", "bcrypt": object{"cost": 4}},
		"courier":  object{"smtp": object{"connection_uri": fmt.Sprintf("smtp://x:y@127.0.0.1:%d/?disable_starttls=true", mail)}},
		"log":      object{"level": "error"},
	}
}

const personSchema = `{"$id":"person","$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"traits":{"type":"object","required":["email"],
"properties":{"email":{"type":"string","format":"email","ory.sh/kratos":{"credentials":{"password":{"identifier":true}},"recovery":{"via":"email"}}},"name":{"type":"string"}}}}}`

// flow begins a flow of an app and keeps its id.
func flow(who, kind string) visit {
	return visit{
		name: who + "'s app begins: " + kind, request: "GET /self-service/" + kind + "/api", as: who, answer: 200,
		keep: map[string]string{who + ".flow.id": "/id"}, want: nothing,
	}
}

// page begins a flow of a browser and looks at its page, where the CSRF token is.
func page(who, kind string) []visit {
	return []visit{
		{
			name: who + "'s browser begins: " + kind, request: "GET /self-service/" + kind + "/browser", as: who, answer: 303,
			keep: map[string]string{who + ".flow.id": "header:Location?flow"}, want: nothing,
		},
		{
			name: who + "'s browser shows: " + kind, request: "GET /self-service/" + kind + "/flows?id={" + who + ".flow.id}", as: who, answer: 200,
			find: map[string]string{who + ".csrf": `"csrf_token","type":"hidden","value":"([^"]+)"`}, want: nothing,
		},
	}
}

var kratosVisits = slices.Concat(kratosApp, kratosBrowser, kratosAdmin)

// kratosApp is what a mobile app does.
var kratosApp = []visit{
	{name: "nobody asks who is there", request: "GET /sessions/whoami", answer: 401, want: failed("session", "session:check")},
	flow("alice", "registration"),
	{
		name: "alice registers with a password that is too short", request: "POST /self-service/registration?flow={alice.flow.id}",
		body: `{"method":"password","password":"123","traits":{"email":"alice@example.test"}}`, answer: 400, want: failed("sign-up", "sign-up").typed("a***@example.test"),
	},
	{
		name: "alice registers", request: "POST /self-service/registration?flow={alice.flow.id}",
		body: `{"method":"password","password":"{alice.password}","traits":{"email":"alice@example.test"}}`, answer: 200,
		keep: map[string]string{"alice.id": "/identity/id", "alice.token": "/session_token"}, want: success("sign-up", "sign-up").by("{alice.id}"),
	},
	{name: "alice's app asks who she is", request: "GET /sessions/whoami", as: "alice", answer: 200, want: success("session", "session:check").by("{alice.id}")},
	{
		name: "alice's app signs out", request: "DELETE /self-service/logout/api", body: `{"session_token":"{alice.token}"}`, answer: 204,
		want: success("sign-out", "sign-out:api").by("{alice.id}"),
	},
	{name: "alice's session has ended", request: "GET /sessions/whoami", as: "alice", answer: 401, want: failed("session", "session:check")},
	flow("mallory", "login"),
	{
		name: "alice signs in with a wrong password", request: "POST /self-service/login?flow={mallory.flow.id}",
		body: `{"method":"password","identifier":"alice@example.test","password":"{wrong.password}"}`, answer: 400,
		want: failed("sign-in", "sign-in:password").typed("a***@example.test"),
	},
	{
		name: "somebody unknown signs in", request: "POST /self-service/login?flow={mallory.flow.id}",
		body: `{"method":"password","identifier":"nobody@example.test","password":"{wrong.password}"}`, answer: 400,
		want: failed("sign-in", "sign-in:password").typed("n***@example.test"),
	},
	{
		name: "alice signs in", request: "POST /self-service/login?flow={mallory.flow.id}",
		body: `{"method":"password","identifier":"alice@example.test","password":"{alice.password}"}`, answer: 200,
		keep: map[string]string{"alice.token": "/session_token"}, want: success("sign-in", "sign-in:password").by("{alice.id}"),
	},
	{
		name: "somebody signs in with a flow that never was", request: "POST /self-service/login?flow=00000000-0000-0000-0000-000000000000",
		body: `{"method":"password","identifier":"alice@example.test","password":"{alice.password}"}`, answer: 400,
		want: failed("sign-in", "sign-in:password").typed("a***@example.test"),
	},
	flow("alice", "settings"),
	{
		name: "alice changes her name", request: "POST /self-service/settings?flow={alice.flow.id}", as: "alice",
		body: `{"method":"profile","traits":{"email":"alice@example.test","name":"Alice"}}`, answer: 200, want: success("account", "user:update").by("{alice.id}"),
	},
	{
		name: "alice changes her password to one that is too short", request: "POST /self-service/settings?flow={alice.flow.id}", as: "alice",
		body: `{"method":"password","password":"123"}`, answer: 400, want: failed("credential", "user:change-password").by("{alice.id}"),
	},
	{
		name: "alice changes her password", request: "POST /self-service/settings?flow={alice.flow.id}", as: "alice",
		body: `{"method":"password","password":"{alice.next}"}`, answer: 200, want: success("credential", "user:change-password").by("{alice.id}"),
	},
	{
		name: "nobody changes alice's password", request: "POST /self-service/settings?flow={alice.flow.id}",
		body: `{"method":"password","password":"{wrong.password}"}`, answer: 401, want: failed("credential", "user:change-password"),
	},
}

// kratosBrowser is what browsers do with forms.
var kratosBrowser = slices.Concat(
	page("bob", "registration"),
	[]visit{
		{
			name: "bob registers with a password that is too short", request: "POST /self-service/registration?flow={bob.flow.id}", as: "bob",
			body: "csrf_token={bob.csrf}&method=password&password=123&traits.email=bob%40example.test", answer: 302, want: failed("sign-up", "sign-up").typed("b***@example.test"),
		},
		{
			name: "bob registers", request: "POST /self-service/registration?flow={bob.flow.id}", as: "bob",
			body: "csrf_token={bob.csrf}&method=password&password={bob.password}&traits.email=bob%40example.test", answer: 303,
			want: success("sign-up", "sign-up").by("{bob.id}"),
		},
		{
			name: "bob's browser asks who he is", request: "GET /sessions/whoami", as: "bob", answer: 200, keep: map[string]string{"bob.id": "/identity/id"},
			want: success("session", "session:check").by("{bob.id}"),
		},
		{name: "bob's browser asks how to sign out", request: "GET /self-service/logout/browser", as: "bob", answer: 200, keep: map[string]string{"bob.logout": "/logout_token"}, want: nothing},
		{name: "bob signs out with a wrong token", request: "GET /self-service/logout?token=wrong", as: "bob", answer: 303, want: failed("sign-out", "sign-out").by("{bob.id}")},
		{name: "bob signs out", request: "GET /self-service/logout?token={bob.logout}", as: "bob", answer: 303, want: success("sign-out", "sign-out").by("{bob.id}")},
		{name: "bob's session has ended", request: "GET /sessions/whoami", as: "bob", answer: 401, want: failed("session", "session:check")},
	},
	page("bob", "login"),
	[]visit{
		{
			name: "bob signs in with a wrong password", request: "POST /self-service/login?flow={bob.flow.id}", as: "bob",
			body: "csrf_token={bob.csrf}&method=password&identifier=bob%40example.test&password={wrong.password}", answer: 303,
			want: failed("sign-in", "sign-in:password").typed("b***@example.test"),
		},
		{
			name: "bob signs in with a wrong CSRF token", request: "POST /self-service/login?flow={bob.flow.id}", as: "bob",
			body: "csrf_token=wrong&method=password&identifier=bob%40example.test&password={bob.password}", answer: 303,
			want: failed("sign-in", "sign-in:password").typed("b***@example.test"),
		},
	},
	page("bob", "login"),
	[]visit{
		{
			name: "bob signs in", request: "POST /self-service/login?flow={bob.flow.id}", as: "bob",
			body: "csrf_token={bob.csrf}&method=password&identifier=bob%40example.test&password={bob.password}", answer: 303,
			want: success("sign-in", "sign-in:password").by("{bob.id}"),
		},
	},
	page("bob", "settings"),
	[]visit{
		{
			name: "bob changes his password to one that is too short", request: "POST /self-service/settings?flow={bob.flow.id}", as: "bob",
			body: "csrf_token={bob.csrf}&method=password&password=123", answer: 303, want: failed("credential", "user:change-password").by("{bob.id}"),
		},
		{
			name: "bob changes his password", request: "POST /self-service/settings?flow={bob.flow.id}", as: "bob",
			body: "csrf_token={bob.csrf}&method=password&password={bob.next}", answer: 303, want: success("credential", "user:change-password").by("{bob.id}"),
		},
	},
	page("bobs_phone", "recovery"),
	[]visit{
		{
			name: "bob has forgotten his password", request: "POST /self-service/recovery?flow={bobs_phone.flow.id}", as: "bobs_phone",
			body: "csrf_token={bobs_phone.csrf}&method=code&email=bob%40example.test", answer: 303, mail: map[string]string{"bob.code": `\n(\d{6})\n`},
			want: success("credential", "recovery:request").typed("b***@example.test"),
		},
		{
			name: "bob mistypes the code", request: "POST /self-service/recovery?flow={bobs_phone.flow.id}", as: "bobs_phone",
			body: "csrf_token={bobs_phone.csrf}&method=code&code=000000", answer: 303, want: failed("credential", "recovery:code"),
		},
		{
			name: "bob recovers", request: "POST /self-service/recovery?flow={bobs_phone.flow.id}", as: "bobs_phone",
			body: "csrf_token={bobs_phone.csrf}&method=code&code={bob.code}", answer: 303, want: success("credential", "recovery:code").by("{bob.id}"),
		},
	},
)

// kratosAdmin is administration. Kratos asks nobody there who he is.
var kratosAdmin = []visit{
	{
		name: "an administrator creates carol", request: "POST /admin/identities",
		body: `{"schema_id":"default","traits":{"email":"carol@example.test"},"credentials":{"password":{"config":{"password":"{carol.password}"}}}}`, answer: 201,
		keep: map[string]string{"carol.id": "/id"}, want: success("admin", "admin:create-user").on("{carol.id}"),
	},
	{
		name: "an administrator creates carol again", request: "POST /admin/identities", body: `{"schema_id":"default","traits":{"email":"carol@example.test"}}`, answer: 409,
		want: failed("admin", "admin:create-user").typed("c***@example.test"),
	},
	{name: "an administrator lists identities", request: "GET /admin/identities", answer: 200, want: nothing},
	flow("carol", "login"),
	{
		name: "carol signs in", request: "POST /self-service/login?flow={carol.flow.id}",
		body: `{"method":"password","identifier":"carol@example.test","password":"{carol.password}"}`, answer: 200,
		keep: map[string]string{"carol.token": "/session_token"}, want: success("sign-in", "sign-in:password").by("{carol.id}"),
	},
	{
		name: "an administrator bans carol", request: "PATCH /admin/identities/{carol.id}", body: `[{"op":"replace","path":"/state","value":"inactive"}]`, answer: 200,
		want: success("admin", "admin:ban-user").on("{carol.id}"),
	},
	{
		name: "an administrator ends carol's sessions", request: "DELETE /admin/identities/{carol.id}/sessions", answer: 204,
		want: success("admin", "admin:revoke-user-sessions").on("{carol.id}"),
	},
	{
		name: "an administrator deletes carol", request: "DELETE /admin/identities/{carol.id}", answer: 204,
		want: success("admin", "admin:delete-user").on("{carol.id}"), deletes: "{carol.id}",
	},
	{name: "an administrator deletes carol again", request: "DELETE /admin/identities/{carol.id}", answer: 404, want: failed("admin", "admin:delete-user").on("{carol.id}")},
	{name: "the server is well", request: "GET /health/alive", answer: 200, want: nothing},
}
