package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestTheReadmesQuestionsAreAnswered runs the commands of the README's table, as they
// stand there, on what a Caddy has recorded of a deleted account and of an attack.
func TestTheReadmesQuestionsAreAnswered(t *testing.T) {
	dir, port := t.TempDir(), harness.FreePort(t)
	admin, auth := "127.0.0.1:"+itoa(harness.FreePort(t)), authServer(t)
	config := func(directive string) string {
		return site(database(dir), port, auth, "admin "+admin, "profile better_auth\n\t\trollup off"+directive)
	}
	seed(t, dir, 1, 200*day)
	startWithAdmin(t, dir, port, config(""))
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--address", admin), 0, "1 entries from before", "")
	reload(t, admin, config("\n\t\tenabled off"))
	reload(t, admin, config(""))
	for range 3 {
		call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"ada@example.com"}`)
	}
	call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"bob@example.com"}`)
	call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/delete-user", port), `{}`)
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "failed.jsonl")
	ran := map[string]string{}
	for _, line := range regexp.MustCompile("\\| `caddy audit-log ((?:list|stats|export) [^`]+)` \\|").FindAllStringSubmatch(string(readme), -1) {
		args := strings.Fields(strings.ReplaceAll(line[1], "failed.jsonl", file))
		got := auditLog(t, "", append(args, "--db", database(dir))...)
		if got.status != 0 {
			t.Errorf("%s ends with %d: %s", line[1], got.status, got.errors)
		}
		ran[args[0]+args[1]+args[2]] = got.out
	}
	if lines := strings.Split(strings.TrimSpace(ran["list--classaccount"]), "\n"); len(lines) != 1 || !strings.Contains(lines[0], `"action":"delete-user"`) {
		t.Errorf("who deleted an account: %s", ran["list--classaccount"])
	}
	if got := ran["list--actionaudit-log:stopped"]; strings.Count(got, "\n") != 1 || !strings.Contains(got, `"action":"audit-log:stopped"`) {
		t.Errorf("when it was switched off: %s", got)
	}
	if got := ran["list--actionaudit-log:pruned"]; strings.Count(got, "\n") != 1 || !strings.Contains(got, `"by":"hand"`) {
		t.Errorf("what was deleted: %s", got)
	}
	if !strings.Contains(ran["stats--identifierada@example.com"], `"total": 3,`) {
		t.Errorf("the attack on one account: %s", ran["stats--identifierada@example.com"])
	}
	if b, err := os.ReadFile(file); err != nil || strings.Count(string(b), "\n") != 4 {
		t.Errorf("the failed sign-ins: %v\n%s", err, b)
	}
}
