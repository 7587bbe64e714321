package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// startWithAdmin runs the built Caddy with a Caddyfile that names its admin
// endpoint, and waits until it answers on port.
func startWithAdmin(t testing.TB, dir string, port int, config string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(harness.Binary(t), "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Caddy: %v; it said last:\n%s", cmd.ProcessState, said.Bytes()[max(0, said.Len()-128<<10):])
		}
	})
	harness.WaitFor(t, fmt.Sprintf("127.0.0.1:%d", port))
	return cmd
}

// reload gives the running Caddy another Caddyfile.
func reload(t testing.TB, admin, config string) {
	t.Helper()
	adapted := harness.Adapt(t, config)
	if code, body := call(t, http.MethodPost, "http://"+admin+"/load", string(adapted)); code != http.StatusOK {
		t.Fatal(code, body)
	}
	harness.Settle(t, adapted)
}

// outcome is how a command ended.
type outcome struct {
	status      int
	out, errors string
}

// auditLog runs caddy audit-log with arguments.
func auditLog(t testing.TB, stdin string, args ...string) outcome {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"audit-log"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// expect compares an outcome with its status and parts of its texts.
func expect(t testing.TB, got outcome, status int, out, errs string) {
	t.Helper()
	if got.status != status || !strings.Contains(got.out, out) || !strings.Contains(got.errors, errs) {
		t.Errorf("status %d, output %q, errors %q\nwant %d, %q, %q", got.status, got.out, got.errors, status, out, errs)
	}
}

func TestPruneFromTheCommandLine(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	seed(t, dir, 300, 200*day, 100*day, 0)
	db := database(dir)
	cmd := startWithAdmin(t, dir, port, site(db, port, authServer(t), "admin "+admin, "durability fsync"))

	expect(t, auditLog(t, "", "prune", "--older-than", "150d", "--dry-run", "--address", admin), 0, db+": 300 entries from before", "")
	expect(t, auditLog(t, "", "prune", "--older-than", "150d", "--address", admin), 0, "300 entries from before", "")
	expect(t, auditLog(t, "", "prune", "--older-than", "150d", "--config", filepath.Join(dir, "Caddyfile")), 0, db+": 0 entries from before", "")
	expect(t, auditLog(t, "", "prune", "--older-than", "10s", "--address", admin), 1, "", "at least 1h")
	expect(t, auditLog(t, "", "prune", "--address", admin), 1, "", "--older-than")
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--address", admin, "--db", db), 1, "", "give one of them")
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--config", filepath.Join(dir, "Caddyfile"), "--db", ""), 1, "", "--db is empty")
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--address", admin, "--store", "other"), 1, "", `"msg":"no audit log store \"other\" here; there is: sqlite `+db+` auditLog"}`)
	expect(t, auditLog(t, "", "prune", "--older-than", "150d", "--address", admin, "--store", db), 0, db+": 0 entries from before", "")
	if err := errors.Join(cmd.Process.Kill(), ignoreExit(cmd.Wait())); err != nil {
		t.Fatal(err)
	}
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--address", admin), 1, "", "when no Caddy runs, name the database with --db")
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--dry-run", "--db", db), 0, "300 entries from before", "")
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--db", db), 0, "300 entries from before", "")
	for by, want := range map[string]string{`"by":"hand","before"`: `"deleted":300`, `"account"`: `"source":"command"`} { // through Caddy, and in the file
		told := auditLog(t, "", "list", "--db", db, "--action", "audit-log:pruned", "--severity", "high", "--output", "jsonl")
		if !strings.Contains(told.out, by) || !strings.Contains(told.out, want) {
			t.Errorf("the log says of deletions by hand %q", told.out)
		}
	}
	missing := filepath.Join(dir, "missing.db")
	expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--db", missing), 1, "", "no such file")
	if _, err := os.Stat(missing); err == nil {
		t.Error("it made a database")
	}
	if n := len(entriesIn(t, db, time.Time{})); n != 300 {
		t.Errorf("%d entries are left, want 300", n)
	}
}

func TestAnImportFromARelativePath(t *testing.T) {
	dir := t.TempDir()
	harness.Binary(t) // it is built in the module's folder
	t.Chdir(dir)
	pluginTable(t, "auth.db", 3, func(at time.Time) any { return at.UnixMilli() })
	expect(t, auditLog(t, "", "import", "--from", "auth.db", "--db", "audit.db"), 0, "3 entries are in "+database(dir), "")
	expect(t, auditLog(t, "", "list", "--db", "audit.db", "--to", "2026-02"), 0, "", "3 of 3 entries")
}

// TestADryRunWritesNothing, and neither does what refuses a file.
func TestADryRunWritesNothing(t *testing.T) {
	dir := t.TempDir()
	seed(t, dir, 30, 100*day)
	db, empty, foreign, text := database(dir), filepath.Join(dir, "empty.db"), filepath.Join(dir, "foreign.db"), filepath.Join(dir, "text.db")
	pluginTable(t, foreign, 3, func(at time.Time) any { return at.UnixMilli() })
	err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(text, []byte(strings.Repeat("no database ", 99)), 0o600))
	for _, file := range []string{empty, foreign, text} {
		err = errors.Join(err, os.Chmod(file, 0o660))
	}
	if err != nil {
		t.Fatal(err)
	}
	before := looks(t, dir)
	prune := func(more ...string) outcome {
		return auditLog(t, "", append([]string{"prune", "--older-than", "90d"}, more...)...)
	}
	for _, dry := range [][]string{{"--dry-run"}, nil} {
		expect(t, prune(append(dry, "--db", foreign)...), 1, "", "belongs to another program")
		expect(t, prune(append(dry, "--db", text)...), 1, "", "file is not a database")
		expect(t, prune(append(dry, "--db", empty)...), 1, "", "no audit log named auditLog")
		expect(t, prune(append(dry, "--db", db, "--table", "audtLog")...), 1, "", "no audit log named audtLog: name the table")
	}
	expect(t, prune("--dry-run", "--db", db), 0, db+": 30 entries from before", "")
	expect(t, auditLog(t, "", "import", "--from", foreign, "--db", text), 1, "", "file is not a database")
	config := strings.Replace(site(foreign, harness.FreePort(t), authServer(t), "", ""), dir+"/hash.key", t.TempDir()+"/hash.key", 1)
	if out, err := harness.Command(t, harness.Binary(t), t.TempDir(), config).CombinedOutput(); err == nil {
		t.Errorf("Caddy has started with another program's file: %s", out)
	}
	if after := looks(t, dir); !slices.Equal(after, before) {
		t.Errorf("now there is\n%s\nbefore\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// looks are names, modes and contents of the files in a folder.
func looks(t testing.TB, dir string) (list []string) {
	t.Helper()
	for _, file := range files(t, dir) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %s %x", file, info.Mode(), sha256.Sum256(b)))
	}
	return list
}

// ignoreExit drops the error of a process that was killed.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// pluginTable makes the plugin's table with n rows, createdAt in the given form.
func pluginTable(t testing.TB, file string, n int, createdAt func(time.Time) any) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(`CREATE TABLE auditLog (id TEXT PRIMARY KEY, userId TEXT, action TEXT NOT NULL, status TEXT NOT NULL,
		severity TEXT NOT NULL, ipAddress TEXT, userAgent TEXT, metadata TEXT, createdAt INTEGER NOT NULL)`)
	tx, txErr := db.Begin()
	if err = errors.Join(err, txErr); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := tx.Exec(`INSERT INTO auditLog VALUES (?, 'user-1', 'sign-in:email', 'failed', 'high', '203.0.113.7', 'x/1', '{"statusCode":401}', ?)`,
			fmt.Sprintf("%032d", i), createdAt(day0.Add(time.Duration(i)*time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tx.Commit(), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// day0 is the time of the first row of a pluginTable.
var day0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestImportWhileCaddyRuns takes the plugin's table over into the database of a
// running Caddy, twice, while sign-ins are recorded.
func TestImportWhileCaddyRuns(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	from := filepath.Join(dir, "auth.db")
	pluginTable(t, from, 3000, func(at time.Time) any { return at.UnixMilli() })
	startWithAdmin(t, dir, port, site(database(dir), port, authServer(t), "admin "+admin, "fail closed"))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	signIns := 0
	wg.Go(func() {
		for ; ctx.Err() == nil; signIns++ {
			if code, body := call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"a@example.com"}`); code != http.StatusUnauthorized {
				t.Error(code, body)
			}
		}
	})
	for range 2 {
		got := auditLog(t, "", "import", "--from", from, "--db", database(dir))
		expect(t, got, 0, "3000 entries are in "+database(dir)+" now, 0 rows were skipped", "")
		if strings.Contains(got.errors, "importing") {
			t.Errorf("a progress bar without a terminal: %q", got.errors)
		}
	}
	cancel()
	wg.Wait()
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != 3000+signIns || signIns == 0 {
		t.Fatalf("%d entries, want 3000 and %d of sign-ins", len(entries), signIns)
	}
	e := entries[61]
	if e.ID != fmt.Sprintf("%032d", 61) || !e.CreatedAt.Equal(day0.Add(61*time.Second)) || e.UserID != "user-1" || e.Status != storage.Failed ||
		e.IPAddress != "203.0.113.7" || e.UserAgent != "x/1" || string(e.Metadata) != `{"source":"import","statusCode":401}` || e.Severity.String() != "high" {
		t.Errorf("%+v", e)
	}
	checkIntegrity(t, database(dir))
}

func TestImportReadsEveryFormAndSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "new", "audit.db")
	seconds, iso := filepath.Join(dir, "seconds.db"), filepath.Join(dir, "iso.db")
	pluginTable(t, seconds, 10, func(at time.Time) any { return at.Unix() })
	pluginTable(t, iso, 10, func(at time.Time) any { return at.Format(storage.TimeLayout) })
	before, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	good := `{"id":"a","action":"sign-in:email","status":"success","createdAt":"2026-01-02T03:04:05Z"}` + "\n"
	for _, c := range []struct {
		name, stdin string
		args        []string
		status      int
		out, errs   string
	}{
		{"seconds", "", []string{"--from", seconds, "--db", db}, 0, "10 entries are in", ""},
		{"ISO text, the same ids", "", []string{"--from", iso, "--db", db}, 0, "10 entries are in", ""},
		{"lines", good, []string{"--from", "-", "--db", db}, 0, "1 entries are in", ""},
		{"a bad line", good + "oh\n", []string{"--from", "-", "--db", db}, 2, "1 rows were skipped", "row 2: it is no JSON object"},
		{"no such file", "", []string{"--from", filepath.Join(dir, "no.db"), "--db", db}, 1, "", "no such file"},
		{"no such table", "", []string{"--from", iso, "--table", "audit_logs", "--db", db}, 1, "", `no table`},
		{"no database named", "", []string{"--from", iso}, 1, "", "--from and --db are required"},
		{"a database of another program", "", []string{"--from", iso, "--db", seconds}, 1, "", "belongs to another program"},
		{"unknown format", "", []string{"--from", iso, "--format", "csv", "--db", db}, 1, "", "use sqlite or jsonl"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, auditLog(t, c.stdin, append([]string{"import"}, c.args...)...), c.status, c.out, c.errs)
		})
	}
	if n := len(entriesIn(t, db, time.Time{})); n != 11 {
		t.Errorf("%d entries, want 11", n)
	}
	if after, err := os.ReadFile(iso); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the source was changed (%v)", err)
	}
}
