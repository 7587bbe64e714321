package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestKillBetweenIntentAndOutcome kills Caddy while a destructive request is with
// the auth server: its entry must be there, and must not claim to know how it
// ended.
func TestKillBetweenIntentAndOutcome(t *testing.T) {
	routes := []string{"delete-user", "sign-out", "revoke-sessions", "admin/ban-user", "two-factor/disable"}
	dir, port := t.TempDir(), harness.FreePort(t)
	arrived, never := make(chan string, 1), make(chan struct{})
	t.Cleanup(func() { close(never) })
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := "nobody"
		if c, err := r.Cookie("better-auth.session_token"); err == nil {
			user = c.Value
		}
		if strings.HasSuffix(r.URL.Path, "/get-session") {
			_, _ = fmt.Fprintf(w, `{"session":{"userId":%q},"user":{"id":%q}}`, user, user)
			return
		}
		arrived <- user
		<-never
	}))
	config := site(database(dir), port, upstream, "grace_period 10s", "durability fsync")
	for i, route := range routes {
		cmd := harness.Start(t, dir, port, config) // from the second on with what the earlier kills left
		answer := make(chan error, 1)
		go func() { answer <- destroy(port, route, fmt.Sprintf("user-%d", i)) }()
		select {
		case <-arrived:
		case err := <-answer:
			t.Fatalf("%s was answered, or failed before it reached the auth server: %v", route, err)
		case <-time.After(20 * time.Second):
			t.Fatalf("%s did not reach the auth server", route)
		}
		if err := syscall.Kill(cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if err := <-answer; err == nil {
			t.Errorf("%s was answered although nobody did", route)
		}
	}
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != len(routes) {
		t.Errorf("%d entries, want %d", len(entries), len(routes))
	}
	for i, e := range entries {
		action := strings.ReplaceAll(routes[i], "/", ":")
		if e.Status != storage.Unknown || e.Action != action || e.UserID != fmt.Sprintf("user-%d", i) {
			t.Errorf("entry %d: %s of %q is %s, want %s of user-%d, unknown", i, e.Action, e.UserID, e.Status, action, i)
		}
	}
	checkIntegrity(t, database(dir))
	t.Logf("TestKillBetweenIntentAndOutcome: %d kills, %d entries, all unknown", len(routes), len(entries))
}
