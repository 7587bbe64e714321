package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// leaky has a finding of each kind that a start can see, and some that it cannot.
const leaky = `{
	servers {
		trusted_proxies static private_ranges
	}
}

http://a.example {
	audit_log /api/auth/*
	reverse_proxy localhost:3000
}

http://b.example {
	reverse_proxy localhost:3000
}

http://c.example {
	audit_log {
		profile kratos
		admins {
			role admin
		}
	}
	reverse_proxy localhost:4433
}
`

// written writes a file and returns its path.
func written(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLintFromTheCommandLine(t *testing.T) {
	file := written(t, "Caddyfile", leaky)
	got := auditLog(t, "", "lint", file)
	expect(t, got, 1, file+":8: high: audit_log stands behind the path matcher /api/auth/*", "6 findings")
	for _, line := range []string{file + ":3: high: ", file + ":1: medium: entries", file + ":1: high: the log default", file + ":13: high: this reverse_proxy reaches localhost:3000", file + ":17: medium: admins has role admin"} {
		if !strings.Contains(got.out, line) {
			t.Errorf("no %q in\n%s", line, got.out)
		}
	}
	expect(t, auditLog(t, "", "lint", file, "--adapter", "caddyfile"), 1, file+":8: high", "")
	expect(t, auditLog(t, "", "lint", "../Caddyfile.example"), 0, "../Caddyfile.example: nothing to say", "")
	expect(t, auditLog(t, "", "lint", "--config", file), 1, file+":8: high", "")
	expect(t, auditLog(t, "", "lint"), 2, "", "the command is caddy audit-log lint")
	expect(t, auditLog(t, "", "lint", file, "--no-such-flag"), 2, "", "no-such-flag")
	expect(t, auditLog(t, "", "lint", file+".none"), 2, "", "no such file")
	expect(t, auditLog(t, "", "lint", file, "--adapter", "none"), 2, "", "unknown adapter")
	expect(t, auditLog(t, "", "lint", written(t, "Caddyfile", "a.example {\n\taudit_logg\n}\n")), 2, "", "unrecognized directive: audit_logg")
}

func TestLintOfJSONNamesPaths(t *testing.T) {
	file := written(t, "caddy.json", string(harness.Adapt(t, leaky)))
	got := auditLog(t, "", "lint", "--json", file)
	var answer struct {
		Findings []struct{ Rule, Severity, Path, File, Text, Remedy string }
	}
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || got.status != 1 {
		t.Fatalf("%v: %+v", err, got)
	}
	var rules []string
	for _, f := range answer.Findings {
		rules = append(rules, f.Rule)
		if f.Path == "" || f.File != "" || f.Text == "" || f.Remedy == "" || f.Severity == "" {
			t.Errorf("%+v", f)
		}
	}
	slices.Sort(rules)
	if want := []string{"admin-role", "client-address", "entries-in-log", "scoped-handler", "unaudited-route", "unfiltered-log"}; !slices.Equal(rules, want) {
		t.Errorf("%q, want %q", rules, want)
	}
}

// TestAStartWarnsOfWhatLintWouldSay loads a configuration and reads Caddy's log.
func TestAStartWarnsOfWhatLintWouldSay(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	config := harness.Site(dir, port, "\t@auth path /api/auth/*\n\thandle @auth {\n\t\taudit_log {\n\t\t\tprofile better_auth\n\t\t\tpath /delete-user/\n\t\t}\n\t\treverse_proxy 127.0.0.1:1\n\t}\n\thandle {\n\t\treverse_proxy 127.0.0.1:1\n\t}")
	config = strings.Replace(config, "\tpersist_config off\n", "\tpersist_config off\n\tservers {\n\t\ttrusted_proxies static private_ranges\n\t}\n", 1)
	lines := startLog(t, dir, config)
	for _, rule := range []string{"scoped-handler", "unaudited-route", "client-address", "unknown-path"} {
		n := 0
		for _, l := range lines {
			if l.Rule != rule {
				continue
			}
			if n++; l.Level != "warn" || l.Logger != "audit_log" || l.Msg == "" || l.Remedy == "" || !strings.HasPrefix(l.At, "apps/http/servers/srv0/") {
				t.Errorf("%+v", l)
			}
		}
		if n != 1 {
			t.Errorf("%d warnings of %s, want 1", n, rule)
		}
	}
	file := written(t, "Caddyfile", config)
	got := auditLog(t, "", "lint", file)
	for _, l := range lines {
		if l.Rule != "" && !strings.Contains(got.out, l.Msg) {
			t.Errorf("lint does not say %q:\n%s", l.Msg, got.out)
		}
	}
	dir = t.TempDir()
	for _, l := range startLog(t, dir, harness.Site(dir, port, "\taudit_log\n\treverse_proxy 127.0.0.1:1")) {
		if l.Rule != "" {
			t.Errorf("a clean start warns: %+v", l)
		}
	}
}

type logLine struct{ Level, Logger, Msg, Rule, Remedy, At string }

// startLog loads a configuration whose log is caddy.log in dir, and reads it.
func startLog(t *testing.T, dir, config string) []logLine {
	t.Helper()
	harness.Load(t, config)
	b, err := os.ReadFile(filepath.Join(dir, "caddy.log"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []logLine
	for text := range strings.Lines(string(b)) {
		var l logLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

// TestDoctorFromTheCommandLine looks at a Caddy that is well, then at one that is not.
func TestDoctorFromTheCommandLine(t *testing.T) {
	dir, port, admin := filepath.Join(t.TempDir(), "log"), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	auth := http.NewServeMux()
	auth.HandleFunc("/api/auth/get-session", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("null")) // the client may be gone
	})
	upstream := harness.Upstream(t, auth)
	startWithAdmin(t, dir, port, site(database(dir), port, upstream, "admin "+admin, "durability fsync"))
	if code, body := call(t, http.MethodPost, "http://127.0.0.1:"+itoa(port)+"/api/auth/update-user", `{}`); code != http.StatusNotFound {
		t.Fatal(code, body)
	}

	got := auditLog(t, "", "doctor", "--address", admin)
	expect(t, got, 0, "", "")
	for _, want := range []string{"Better Auth under /api/auth, as configured", "knows nobody without credentials", "the clocks agree", "are free", "mode 0600", "mode 0700", "0 entries wait, the last write was at", "it answers on no other address", "lint has nothing to say"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	if strings.Contains(got.out, "warn") || strings.Contains(got.out, "fail") {
		t.Error(got.out)
	}

	if err := os.Chmod(filepath.Join(dir, "hash.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	got = auditLog(t, "", "doctor", "--address", admin, "--json", "--upstream", "localhost:x")
	var answer struct {
		Checks []struct{ Status, Check, Of, Text, Remedy string }
	}
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || got.status != 2 {
		t.Fatalf("%v: %+v", err, got)
	}
	var bad []string
	for _, c := range answer.Checks {
		if c.Status != "ok" {
			bad = append(bad, c.Status+" "+c.Check)
		}
	}
	if want := []string{"fail key", "warn upstream"}; !slices.Equal(bad, want) {
		t.Errorf("%q, want %q\n%s", bad, want, got.out)
	}
	if err := os.Chmod(filepath.Join(dir, "hash.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, auditLog(t, "", "doctor", "--address", admin, "--upstream", "localhost:x"), 1, "-> give host:port", "with 1 warnings")
	expect(t, auditLog(t, "", "doctor", "--address", admin, "--upstream", ""), 1, "-> give host:port", "with 1 warnings")
	expect(t, auditLog(t, "", "doctor", "--address", "127.0.0.1:1"), 2, "", "the doctor looks at a running Caddy")
	expect(t, auditLog(t, "", "doctor", "what"), 2, "", "the command is caddy audit-log doctor")
}
