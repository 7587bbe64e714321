package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

const clientDir = "../clients/better-auth"

// requireClient wants the client's development dependencies.
func requireClient(t *testing.T) {
	t.Helper()
	requireNode(t)
	if _, err := os.Stat(filepath.Join(clientDir, "node_modules", "typescript")); err == nil {
		return
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts")
	cmd.Dir = clientDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing the client's dependencies: %v; run npm ci --ignore-scripts in clients/better-auth, it needs the npm registry once\n%s", err, out)
	}
}

// TestTheClientKeepsItsTypes compiles what the client's types promise, and the
// client itself against them.
func TestTheClientKeepsItsTypes(t *testing.T) {
	requireClient(t)
	cmd := exec.Command("node", "node_modules/typescript/bin/tsc", "--project", "tsconfig.json")
	cmd.Dir = clientDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestTheClientWithARealServer calls the API with the official Better Auth client
// and our plugin in it, through Caddy.
func TestTheClientWithARealServer(t *testing.T) {
	requireClient(t)
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	server := startBetterAuth(t, base)
	harness.Load(t, harness.Site(dir, port, fmt.Sprintf("audit_log {\n admins {\n role admin\n }\n }\n reverse_proxy 127.0.0.1:%d", server.Port)))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "test/live.mjs")
	cmd.Dir = clientDir
	cmd.Env = append(os.Environ(), "BASE_URL="+base)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	var done struct{ Calls int }
	if err != nil || json.Unmarshal(out, &done) != nil || done.Calls < 30 {
		t.Fatalf("the client's test: %v, %d calls\n%s%s", err, done.Calls, out, complaints.String())
	}
	t.Logf("TestTheClientWithARealServer: %d calls", done.Calls)
}
