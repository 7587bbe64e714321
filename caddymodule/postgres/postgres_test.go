package postgres_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the http app

	guest "github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

const secret = "hunter2-is-secret"

func TestTheCaddyfileBecomesJSON(t *testing.T) {
	s := new(guest.Store)
	d := caddyfile.NewTestDispenser(`postgres {
		dsn {env.AUDIT_DSN}
		password {file./run/secrets/audit}
		schema audit
		table log
		max_conns 20
		min_conns 2
		tls verify-full /etc/ssl/db.pem
		tls_client_auth /c.pem /k.pem
		spill 128MiB
		spill_path /var/lib/caddy/audit.spill
	}`)
	if err := s.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"dsn":"{env.AUDIT_DSN}","password":"{file./run/secrets/audit}","schema":"audit","table":"log","max_conns":20,"min_conns":2,` +
		`"tls":"verify-full","tls_root_cert":"/etc/ssl/db.pem","tls_client_cert":"/c.pem","tls_client_key":"/k.pem","spill_bytes":134217728,"spill_path":"/var/lib/caddy/audit.spill"}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNoConnectionNeedsToBeKept(t *testing.T) {
	s := guest.Store{MinConns: 3}
	if err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser("postgres {\n dsn x\n min_conns 0\n}")); err != nil || s.MinConns != 0 {
		t.Errorf("min_conns %d: %v", s.MinConns, err)
	}
}

func TestWhatIsWrongIsSaidWithoutSecrets(t *testing.T) {
	t.Setenv("AUDIT_EMPTY", "")
	for block, says := range map[string]string{
		``: "needs a database",
		`dsn postgres://u:` + secret + `@h/d two`:                                     "dsn takes exactly one value",
		"dsn x\n dsn " + secret:                                                       "dsn is there twice",
		"dsn x\n max_conns none":                                                      "bad max_conns 'none'",
		"dsn x\n max_conns -1":                                                        "bad max_conns '-1'",
		"dsn x\n max_conns 0":                                                         "bad max_conns '0': give 1 or more connections",
		"dsn x\n min_conns -1":                                                        "bad min_conns '-1': give 0 or more connections",
		"dsn x\n tls":                                                                 "tls takes a mode",
		"dsn x\n tls_client_auth a":                                                   "tls_client_auth takes the files",
		"dsn x\n spill little":                                                        "bad spill 'little'",
		"dsn x\n user me":                                                             "unrecognized postgres subdirective 'user'",
		"dsn {env.AUDIT_EMPTY}":                                                       "dsn: ",
		"dsn postgres://u:" + secret + "@[x/d":                                        "the DSN cannot be read",
		"dsn postgres://u:" + secret + "@h/d?sslmode=perhaps":                         "bad sslmode",
		"dsn postgres://u:" + secret + "@h/d\n tls perhaps":                           `tls "perhaps": give disable, allow,`,
		"dsn postgres://u:" + secret + "@h/d\n tls verify-full /nowhere":              "tls, tls_client_auth or the DSN name a file that cannot be read: open /nowhere",
		"dsn postgres://u:" + secret + "@h/d\n table drop;it":                         "bad table name",
		"dsn postgres://u:" + secret + "@h/d\n max_conns 501":                         "max_conns 501",
		"dsn postgres://u:" + secret + "@h/d\n min_conns 9":                           "min_conns 9",
		"dsn postgres://u:" + secret + "@h/d?default_query_exec_mode=simple_protocol": "simple_protocol",
	} {
		s := new(guest.Store)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser("postgres {\n" + block + "\n}"))
		if err == nil {
			err = s.Provision(caddy.Context{})
		}
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", block, err)
		}
	}
	if err := new(guest.Store).UnmarshalCaddyfile(caddyfile.NewTestDispenser("postgres " + secret)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("an argument: %v", err)
	}
}

func TestTheIdentityFollowsTheOptionsAndHidesThem(t *testing.T) {
	t.Setenv("AUDIT_SECRET", secret)
	identity := func(s guest.Store) string {
		if err := s.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		return s.Identity()
	}
	base := guest.Store{DSN: "postgres://u@h/d", Password: "{env.AUDIT_SECRET}"}
	same, other := base, base
	same.Password, other.Password = secret, "another"
	if identity(base) != identity(same) || identity(base) == identity(other) || strings.Contains(identity(base), secret) {
		t.Errorf("%s, %s, %s", identity(base), identity(same), identity(other))
	}
}

// config is a site whose log is in PostgreSQL; lines are more of the store's block.
func config(dir, upstream string, port int, lines string) string {
	return fmt.Sprintf(`{
	persist_config off
	grace_period 10s
	log {
		output file %[1]s/caddy.log
		level DEBUG
	}
	audit_log {
		store postgres {
			%[4]s
		}
		key_file %[1]s/hash.key
	}
}
http://127.0.0.1:%[2]d {
	audit_log {
		profile better_auth
		rollup off
	}
	reverse_proxy %[3]s
}
`, dir, port, upstream, lines)
}

// TestReloadsKeepTheLog: a Caddy starts without its database, records, is reloaded with
// another password and other bounds, and everything is there once. No log line has a
// secret.
func TestReloadsKeepTheLog(t *testing.T) {
	server := pgtest.Start(t)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	secretFile := filepath.Join(dir, "password")
	write := func(password string) {
		if err := os.WriteFile(secretFile, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute} // a reload ends connections
	signIn := func() {
		var resp *http.Response
		err := io.EOF
		for errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) { // an old server may take a connection just when it ends, and reads nothing from it
			resp, err = client.Post(fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), "application/json", strings.NewReader(`{"email":"a@example.com"}`))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	lines := fmt.Sprintf("dsn \"host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable\"\n\t\t\tpassword {file.%s}\n\t\t\tspill_path %s/journal.spill", server.Port, secretFile, dir)
	write(server.Password)
	harness.Load(t, config(dir, upstream, port, lines))
	signIn() // into the journal
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	signIn()
	if err := server.Exec(`ALTER ROLE postgres PASSWORD '` + secret + `'`); err != nil {
		t.Fatal(err)
	}
	write(secret)
	for _, more := range []string{"\n\t\t\tmax_conns 3", "\n\t\t\tmax_conns 4\n\t\t\tspill off", "\n\t\t\tmax_conns 5\n\t\t\tmin_conns 2"} {
		harness.Load(t, config(dir, upstream, port, lines+more))
		signIn()
	}
	log, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN(), Password: secret})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	total := 0
	for end := time.Now().Add(time.Minute); total != 5 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		page, err := log.List(t.Context(), storage.Query{})
		if err != nil {
			t.Fatal(err)
		}
		total = len(harness.Captured(page.Entries))
	}
	if total != 5 {
		t.Errorf("%d entries, want 5", total)
	}
	text, err := os.ReadFile(filepath.Join(dir, "caddy.log"))
	if err != nil || strings.Contains(string(text), secret) || strings.Contains(string(text), server.Password) || strings.Contains(string(text), "panic") || !strings.Contains(string(text), "audit log") {
		t.Errorf("the log has a secret, a panic, or nothing: %v", err)
	}
}

// TestTwoStoresOfAConfigurationHaveTwoJournals: with one, the log would be in the database of
// whichever was opened last.
func TestTwoStoresOfAConfigurationHaveTwoJournals(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for lines, says := range map[string]string{
		"dsn postgres://u@eu.invalid/audit":                               "",
		"dsn postgres://u@us.invalid/audit":                               "two stores with different options have the journal",
		"dsn postgres://reader@eu.invalid/audit":                          "two stores with different options have the journal",
		"dsn postgres://u@us.invalid/audit\n spill_path us.spill":         "",
		"dsn postgres://u@us.invalid/audit\n schema other":                "",
		"dsn postgres://u@eu.invalid/audit\n password another\n schema s": "",
	} {
		text := fmt.Sprintf("{\n audit_log {\n store postgres {\n dsn postgres://u@eu.invalid/audit\n }\n }\n}\nhttp://127.0.0.1:9 {\n audit_log_api {\n store postgres {\n %s\n }\n }\n}\n", lines)
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
		if err != nil {
			t.Fatalf("%s: %v", lines, err)
		}
		var c caddy.Config
		if err := json.Unmarshal(config, &c); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&c); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", lines, err)
		}
	}
}
