package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestAuthJS drives a real Auth.js server through Caddy.
func TestAuthJS(t *testing.T) {
	live(t, server{
		profile: "authjs", title: "Auth.js (NextAuth)", options: "base_path /auth",
		start: startAuthJS, visits: authJSVisits,
	})
}

func startAuthJS(t *testing.T, _ string, _ *mailbox) (string, map[string]string) {
	t.Helper()
	const dir = "servers/authjs"
	npmInstall(t, dir)
	values := map[string]string{
		"alice.id": "user-alice", "dora.id": "user-dora", "alice.password": "canary-alice-55d0c2", "dora.password": "canary-dora-a1b2c3d4",
		"wrong.password": "canary-wrong-99e8d7", "code": providerCode, "provider.token": providerToken,
	}
	port := harness.FreePort(t)
	config, err := json.Marshal(map[string]any{
		"port": port, "provider": newProvider(t), "people": map[string]any{
			"alice": map[string]any{"id": values["alice.id"], "password": values["alice.password"]},
			"dora":  map[string]any{"id": values["dora.id"], "password": values["dora.password"], "big": true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, dir, []int{port}, "node", "server.mjs", string(config))
	return fmt.Sprintf("reverse_proxy 127.0.0.1:%d", port), values
}

// npmInstall installs what a folder's lock file names, once.
func npmInstall(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is missing: install Node.js 20 or newer, this test runs a real server", name)
		}
	}
	if _, err := os.Stat(dir + "/node_modules/.package-lock.json"); err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing the server: %v; run npm ci --ignore-scripts in e2e/%s, it needs the npm registry once\n%s", err, dir, out)
	}
}

const credentials = "POST /auth/callback/credentials"

// asked makes Auth.js answer a script instead of a form: 200 with the address.
var asked = map[string]string{"X-Auth-Return-Redirect": "1"}

var authJSVisits = []visit{
	{name: "alice's browser asks for a CSRF token", request: "GET /auth/csrf", as: "alice", answer: 200, keep: map[string]string{"alice.csrf": "/csrfToken"}, want: nothing},
	{name: "alice opens the sign-in page", request: "GET /auth/signin", as: "alice", answer: 200, want: nothing},
	{name: "alice's browser asks for the providers", request: "GET /auth/providers", as: "alice", answer: 200, want: nothing},

	// By password.
	{
		name: "alice signs in with a wrong password", request: credentials, as: "alice", body: "csrfToken={alice.csrf}&username=alice&password={wrong.password}", answer: 302,
		want: failed("sign-in", "callback::provider").typed("a***"),
	},
	{
		name: "alice's script signs in with a wrong password", request: credentials, as: "alice", body: "csrfToken={alice.csrf}&username=alice&password={wrong.password}",
		header: asked, answer: 200, want: failed("sign-in", "callback::provider"),
	},
	{
		name: "alice signs in without the CSRF token", request: credentials, as: "alice", body: "username=alice&password={alice.password}", answer: 302,
		want: failed("sign-in", "callback::provider"),
	},
	{
		name: "alice's script signs in without the CSRF token", request: credentials, as: "alice", body: "username=alice&password={alice.password}", header: asked, answer: 200,
		want: failed("sign-in", "callback::provider"),
	},
	{
		name: "alice signs in", request: credentials, as: "alice", body: "csrfToken={alice.csrf}&username=alice&password={alice.password}", answer: 302,
		want: success("sign-in", "callback::provider").by("{alice.id}"),
	},
	{name: "alice's browser asks who she is", request: "GET /auth/session", as: "alice", answer: 200, want: success("session", "session").by("{alice.id}")},
	{
		name: "alice's browser updates the session", request: "POST /auth/session", as: "alice", body: `{"csrfToken":"{alice.csrf}","data":{"seen":1}}`, answer: 200,
		want: success("session", "session:update").by("{alice.id}"),
	},
	{
		name: "alice tries a wrong password while she is signed in", request: credentials, as: "alice", body: "csrfToken={alice.csrf}&username=dora&password={wrong.password}", answer: 302,
		want: failed("sign-in", "callback::provider").by("{alice.id}"),
	},
	{
		name: "alice signs out without the CSRF token", request: "POST /auth/signout", as: "alice", body: "callbackUrl=%2F", answer: 302,
		want: failed("sign-out", "signout").by("{alice.id}"),
	},
	{
		name: "alice signs out", request: "POST /auth/signout", as: "alice", body: "csrfToken={alice.csrf}", answer: 302,
		want: success("sign-out", "signout").by("{alice.id}"),
	},
	{name: "alice signs out again", request: "POST /auth/signout", as: "alice", body: "csrfToken={alice.csrf}", answer: 302, want: failed("sign-out", "signout")},
	{name: "nobody's browser asks who is there", request: "GET /auth/session", answer: 200, want: failed("session", "session")},
	{
		name: "alice's script signs in", request: credentials, as: "alice", body: "csrfToken={alice.csrf}&username=alice&password={alice.password}", header: asked, answer: 200,
		want: success("sign-in", "callback::provider").by("{alice.id}"),
	},
	{
		name: "alice's script signs out", request: "POST /auth/signout", as: "alice", body: "csrfToken={alice.csrf}", header: asked, answer: 200,
		want: success("sign-out", "signout").by("{alice.id}"),
	},

	// With a session of several cookies.
	{name: "dora's browser asks for a CSRF token", request: "GET /auth/csrf", as: "dora", answer: 200, keep: map[string]string{"dora.csrf": "/csrfToken"}, want: nothing},
	{
		name: "dora signs in", request: credentials, as: "dora", body: "csrfToken={dora.csrf}&username=dora&password={dora.password}", answer: 302,
		keep: map[string]string{"dora.part": "cookie:*session-token.1"}, want: success("sign-in", "callback::provider").by("{dora.id}"),
	},
	{name: "dora's browser asks who she is", request: "GET /auth/session", as: "dora", answer: 200, want: success("session", "session").by("{dora.id}")},
	{
		name: "dora signs out", request: "POST /auth/signout", as: "dora", body: "csrfToken={dora.csrf}", answer: 302,
		want: success("sign-out", "signout").by("{dora.id}"),
	},

	// By a provider.
	{name: "oscar's browser asks for a CSRF token", request: "GET /auth/csrf", as: "oscar", answer: 200, keep: map[string]string{"oscar.csrf": "/csrfToken"}, want: nothing},
	{
		name: "oscar goes to the provider without the CSRF token", request: "POST /auth/signin/stub", as: "oscar", answer: 302,
		want: failed("sign-in", "signin::provider"),
	},
	{
		name: "oscar goes to the provider", request: "POST /auth/signin/stub", as: "oscar", body: "csrfToken={oscar.csrf}", answer: 302,
		keep: map[string]string{"oscar.challenge": "header:Location?code_challenge"}, want: nothing,
	},
	{
		name: "oscar comes back with a wrong code", request: "GET /auth/callback/stub?code=canary-wrong-code", as: "oscar", answer: 302,
		want: failed("sign-in", "callback::provider"),
	},
	{name: "oscar goes to the provider again", request: "POST /auth/signin/stub", as: "oscar", body: "csrfToken={oscar.csrf}", answer: 302, want: nothing},
	{
		name: "oscar comes back and has refused", request: "GET /auth/callback/stub?error=access_denied", as: "oscar", answer: 302,
		want: failed("sign-in", "callback::provider"),
	},
	{
		name: "oscar's script goes to the provider", request: "POST /auth/signin/stub", as: "oscar", body: "csrfToken={oscar.csrf}", header: asked, answer: 200,
		want: nothing,
	},
	{
		name: "oscar comes back", request: "GET /auth/callback/stub?code={code}", as: "oscar", answer: 302,
		want: success("sign-in", "callback::provider").by("{oscar.id}"),
	},
	{
		name: "oscar's browser asks who he is", request: "GET /auth/session", as: "oscar", answer: 200, keep: map[string]string{"oscar.id": "/user/id"},
		want: success("session", "session").by("{oscar.id}"),
	},
	{
		name: "somebody comes back who never went", request: "GET /auth/callback/stub?code={code}", answer: 302,
		want: failed("sign-in", "callback::provider"),
	},
	{name: "a provider that is none", request: "GET /auth/callback/nosuch?code={code}", as: "oscar", answer: 302, want: failed("sign-in", "callback::provider").by("{oscar.id}")},
	{name: "oscar sees the error page", request: "GET /auth/error?error=Configuration", as: "oscar", answer: 500, want: nothing},
}
