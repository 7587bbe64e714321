package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// safeBuffer takes the output of a process while it is read.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is what it has.
func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestProxyFromTheCommandLine: one line stands in front of an auth server and records it,
// shows its log to this machine, keeps secrets out of its logs, and has written everything
// when Ctrl-C ends it.
func TestProxyFromTheCommandLine(t *testing.T) {
	dir, port, viewer := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	db := filepath.Join(dir, "log", "audit.db")
	cmd := exec.Command(harness.Binary(t), "audit-log", "proxy", "--to", authServer(t), "--from", fmt.Sprintf(":%d", port), "--db", db,
		"--profile", "better_auth", "--viewer", fmt.Sprintf("127.0.0.1:%d", viewer), "--access-log")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	var said safeBuffer
	cmd.Stderr = &said
	harness.Launch(t, cmd)
	harness.WaitFor(t, fmt.Sprintf("127.0.0.1:%d", port))
	for i := range 5 {
		url := fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email?token=canary-%d", port, i)
		if code, body := call(t, http.MethodPost, url, `{"email":"ann@example.com"}`); code != http.StatusUnauthorized || !strings.Contains(body, "INVALID_EMAIL_OR_PASSWORD") {
			t.Errorf("%d %s", code, body)
		}
	}
	log := fmt.Sprintf("http://127.0.0.1:%d/audit-log/", viewer)
	if code, body := call(t, http.MethodGet, log+"list", ""); code != http.StatusOK || strings.Count(body, `"action":"sign-in:email"`) != 5 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := call(t, http.MethodGet, log+"access", ""); code != http.StatusOK || !strings.Contains(body, `"surface":"operator"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := call(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/audit-log/list", port), ""); code == http.StatusOK {
		t.Error("the log is shown on the proxy's own port")
	}
	expect(t, auditLog(t, "", "list", "--db", db), 0, "sign-in:email", "6 of 6 entries") // with audit-log:started
	other := auditLog(t, "", "proxy", "--to", "127.0.0.1:1", "--from", fmt.Sprintf(":%d", harness.FreePort(t)), "--db", db)
	expect(t, other, 1, "", "an audit log has one Caddy")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
	text := said.String()
	if !strings.Contains(text, fmt.Sprintf("look at it   http://localhost:%d/audit-log/", viewer)) || !strings.Contains(text, "caddy audit-log tail --db "+db) {
		t.Errorf("it says %s", text)
	}
	if strings.Contains(text, "canary") || !strings.Contains(text, "/api/auth/sign-in/email?REDACTED") || strings.Contains(text, "audit log entry") {
		t.Errorf("its log has %s", text)
	}
	if n := len(entriesIn(t, db, time.Time{})); n != 5 {
		t.Errorf("%d entries, want 5", n)
	}
	checkIntegrity(t, db)
	for _, c := range []struct {
		args []string
		errs string
	}{
		{[]string{}, "--to is required"},
		{[]string{"--to", "localhost:3000/path"}, "without a path"},
		{[]string{"--to", "localhost:3000", "--from", "a.example/path"}, "without a path"},
		{[]string{"--to", "localhost:3000", "--viewer", "0.0.0.0:1"}, "only this machine reaches"},
		{[]string{"--to", "localhost:3000", "--profile", "nobody"}, "nobody"},
		{[]string{"localhost:3000"}, "name the auth server with --to"},
		{[]string{"--too", "localhost:3000"}, "unknown flag: --too"},
	} {
		expect(t, auditLog(t, "", append([]string{"proxy", "--from", fmt.Sprintf(":%d", harness.FreePort(t)), "--db", filepath.Join(dir, "other.db")}, c.args...)...), 1, "", c.errs)
	}
}

// TestTheProxyFiltersAsTheExampleDoes: the filter that the command brings is that of
// Caddyfile.example.
func TestTheProxyFiltersAsTheExampleDoes(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Logging struct {
			Logs map[string]struct{ Encoder map[string]any }
		}
	}
	if err := json.Unmarshal(harness.Adapt(t, string(example)), &config); err != nil {
		t.Fatal(err)
	}
	want := config.Logging.Logs["default"].Encoder
	delete(want, "wrap") // the command's console may be a terminal
	var got map[string]any
	b, err := os.ReadFile("../caddymodule/log_filter.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil || len(got) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("caddymodule/log_filter.json is not the encoder of Caddyfile.example: take it from caddy adapt, without wrap (%v)", err)
	}
}
