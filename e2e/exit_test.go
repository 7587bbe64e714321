package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestExit ends Caddy with SIGTERM while a request is with the auth server: there
// is an entry for it, however short Caddy's patience is.
func TestExit(t *testing.T) {
	tests := []struct {
		name, options, durability, route string
	}{
		{"default grace, sign-in", "", "fsync", "sign-in/email"},
		{"default grace, deletion", "", "fsync", "delete-user"},
		{"default grace, sign-in, async", "", "async", "sign-in/email"},
		{"grace 200ms, sign-in", "grace_period 200ms", "fsync", "sign-in/email"},
		{"grace 200ms, deletion", "grace_period 200ms", "fsync", "delete-user"},
		{"grace 200ms, sign-in, async", "grace_period 200ms", "async", "sign-in/email"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, port := t.TempDir(), harness.FreePort(t)
			arrived := make(chan struct{}, 1)
			upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if !strings.HasSuffix(r.URL.Path, "/get-session") {
					arrived <- struct{}{}
					time.Sleep(1500 * time.Millisecond)
				}
				_, _ = io.WriteString(w, `{"session":{"userId":"u"},"user":{"id":"u"},"success":true}`)
			}))
			cmd := harness.Start(t, dir, port, site(database(dir), port, upstream, test.options, "durability "+test.durability))
			answer := make(chan error, 1)
			go func() { answer <- destroy(port, test.route, "u") }()
			<-arrived
			began := time.Now()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("Caddy's exit: %v", err)
			}
			took := time.Since(began).Round(10 * time.Millisecond)
			clientErr := <-answer

			entries := entriesIn(t, database(dir), time.Time{})
			if len(entries) != 1 {
				t.Fatalf("%d entries, want one", len(entries))
			}
			e := entries[0]
			if clientErr == nil && e.Status != storage.Success {
				t.Errorf("the client was told of a success, the entry says %s", e.Status)
			}
			if took > 8*time.Second {
				t.Errorf("the exit took %v", took)
			}
			checkIntegrity(t, database(dir))
			t.Logf("TestExit %s: exit in %v, the client got %v; entry: %s of %q, %s, %s", test.name, took, answered(clientErr), e.Action, e.UserID, e.Status, e.Metadata)
		})
	}
}

func answered(err error) string {
	if err == nil {
		return "its answer"
	}
	return fmt.Sprintf("no answer (%v)", err)
}
