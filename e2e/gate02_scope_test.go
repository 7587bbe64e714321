package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell/spelltest"
)

// bypasses are the targets of threats.md X2: Caddy's path matcher does not match them
// with /api/auth/*, and Better Auth runs /sign-out.
var bypasses = []string{
	"/api/auth//../sign-out", "/api/auth//x/../../sign-out", "/api/auth///../../sign-out",
	"/api/auth/x//../../sign-out", "/api/auth/%2e%2e//../auth/sign-out",
}

// scoped is the Caddyfile that must not be written, siteWide the one that must.
const (
	scoped   = "handle /api/auth/* {\n\t\t%[1]s\n\t\treverse_proxy %[2]s\n\t}\n\thandle {\n\t\treverse_proxy %[2]s\n\t}"
	siteWide = "%[1]s\n\treverse_proxy %[2]s"
)

// TestGate02ScopeBypass: with the handler in front of the whole site each target of X2
// has an entry of the route that a real Better Auth server ran; behind a path matcher,
// as a control, they have none. caddy audit-log lint finds the second configuration and
// is content with the first. No route of an honest client is called ambiguous.
func TestGate02ScopeBypass(t *testing.T) {
	recorded, ran := bypass(t, siteWide)
	bare, bareRan := bypass(t, scoped)
	flagged := lintScopes(t)
	honest, ambiguous := honestRoutes(t)
	gates.Print(t, 2, "%d of %d targets of X2 that Better Auth ran have their entry; lint flags the scoped Caddyfile: %v; %d honest routes, %d called ambiguous; control, scoped: %d of %d recorded",
		recorded, ran, flagged, honest, ambiguous, bare, bareRan)
	if recorded != len(bypasses) || ran != len(bypasses) || bare >= bareRan || ambiguous > 0 {
		t.Error("the figures must be 5 of 5, 0, and fewer than 5 of 5 in the control")
	}
}

// bypass sends the targets to a real Better Auth server behind the directives, and
// returns how many it ran as a sign-out, and how many of those have their entry.
func bypass(t *testing.T, directives string) (recorded, ran int) {
	t.Helper()
	t.Run("Caddy", func(t *testing.T) { // which ends with the subtest
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		server := startWitness(t, fmt.Sprintf("http://127.0.0.1:%d", port))
		harness.Load(t, anyHost(database(dir), "", fmt.Sprintf("http://:%d {\n\tbind 127.0.0.1\n\t%s\n}\n", port, fmt.Sprintf(directives, singly(), server.address()))))
		for i, target := range bypasses {
			once(port, raw("POST", target, fmt.Sprint("bypass-", i), "Connection: close\r\n"+jsonType, "{}"))
		}
		seen, entries := server.seen(), everyEntry(t, database(dir))
		for i := range bypasses {
			name := fmt.Sprint("bypass-", i)
			if seen[name].Path != "/sign-out" {
				continue
			}
			ran++
			if got := entries[name]; len(got) == 1 && got[0].Action == "sign-out" {
				recorded++
			}
		}
	})
	return recorded, ran
}

// lintScopes asks caddy audit-log lint about both configurations.
func lintScopes(t *testing.T) (flagged bool) {
	t.Helper()
	lint := func(directives string) outcome {
		dir := t.TempDir()
		file := filepath.Join(dir, "Caddyfile")
		text := anyHost(database(dir), "", fmt.Sprintf("http://:%d {\n\t%s\n}\n", harness.FreePort(t), fmt.Sprintf(directives, pinned, "127.0.0.1:3000")))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return auditLog(t, "", "lint", "--config", file)
	}
	if good := lint(siteWide); good.status != 0 {
		t.Errorf("lint of the handler in front of the whole site: status %d, %s%s", good.status, good.out, good.errors)
	}
	bad := lint(scoped)
	if bad.status == 0 || !strings.Contains(bad.out+bad.errors, "/api/auth/*") {
		t.Errorf("lint of the handler behind a path matcher: status %d, want another than 0 and the matcher's name; it says\n%s%s", bad.status, bad.out, bad.errors)
		return false
	}
	return true
}

// honestRoutes asks the profile about the routes of honest clients.
func honestRoutes(t *testing.T) (routes, ambiguous int) {
	t.Helper()
	p, err := profile.Builtin("better_auth")
	if err != nil {
		t.Fatal(err)
	}
	all := spelltest.Honest(t)
	for _, route := range all {
		path := "/api/auth" + strings.NewReplacer(":token", "AbC123dEf456GhI7", ":id", "github").Replace(route)
		for _, method := range []string{"GET", "POST"} {
			if m, mine := p.Match(method, &url.URL{Path: path}); !mine || m.Ambiguous {
				t.Errorf("%s %s: mine %v, ambiguous %v", method, path, mine, m.Ambiguous)
				ambiguous++
			}
		}
	}
	return len(all), ambiguous
}
