package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestGate19StoreIdentity: a second Caddy on one database is refused and told by whom,
// takes over when the first is killed (threats.md E2.7), and a configuration that would
// serve the database's files, which drops their locks, is refused (D15). That files
// which vanish are noticed, and that looking at them moves no locks, is tested where the
// files are: storage/spill and storage/sqlite have this gate, too.
func TestGate19StoreIdentity(t *testing.T) {
	var w writers
	t.Run("second writer", w.run)
	refused, served := 0, 0
	t.Run("served", func(t *testing.T) { refused, served = notServed(t) })
	gates.Print(t, 19, "%d times a second Caddy was started on the database of another: %d refused with the other's pid, entries of the first lost %d; %d takeovers from a killed one, %v at most; %d of %d configurations that would serve the database refused, and none of those that would not",
		w.tries, w.refused, w.lost, w.takeovers, w.slowest.Round(time.Millisecond), refused, served)
	if w.refused != w.tries || w.lost > 0 || refused != served || w.takeovers == 0 {
		t.Error("all must be refused, and nothing lost")
	}
	if gates.Full() && w.slowest > 2*time.Second {
		t.Error("the bound is 2 s")
	}
}

// writers is what came of several Caddys on one database.
type writers struct {
	tries, refused, lost, takeovers int
	slowest                         time.Duration
}

func (w *writers) run(t *testing.T) {
	s := startSpillSite(t, "spill 8MiB")
	for range gates.Figure(2, 20) {
		w.tries++
		if out := runSecond(t, s); strings.Contains(out, fmt.Sprintf("another process (pid %d) writes to %s", s.cmd.Process.Pid, database(s.dir))) {
			w.refused++
		} else {
			t.Errorf("the second Caddy says\n%s", out)
		}
		s.record(2)
		expect(t, auditLog(t, "", "prune", "--older-than", "90d", "--dry-run", "--db", database(s.dir)), 0, "0 entries from before", "")
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // it was killed
		began := time.Now()
		s.cmd = startWithAdmin(t, s.dir, s.port, s.config("spill 8MiB", "hash.key"))
		s.record(1)
		w.takeovers++
		w.slowest = max(w.slowest, time.Since(began))
	}
	w.lost = 3*w.tries - len(entriesIn(t, database(s.dir), time.Time{}))
}

// runSecond runs another Caddy on the site's database until it ends, and returns what it
// says.
func runSecond(t *testing.T, s *spillSite) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	config := strings.Replace(site(database(s.dir), harness.FreePort(t), s.up, "admin off", "durability fsync"), "output discard", "output stderr", 1)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.Binary(t), "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("it was not refused")
	}
	return string(out)
}

// notServed loads configurations, and returns how many of those that would serve the
// database were refused before the file was made.
func notServed(t *testing.T) (refused, served int) {
	t.Helper()
	harness.Use(t)
	for name, c := range map[string]struct {
		directives string
		refused    bool
	}{
		"root and file_server":             {"root * DIR/srv\n\tfile_server", true},
		"a root of file_server":            {"file_server {\n\t\troot DIR/srv/data\n\t}", true},
		"a root above":                     {"root * DIR\n\tfile_server browse", true},
		"a root behind a link":             {"root * DIR/link\n\tfile_server", true},
		"in a handle":                      {"handle /files/* {\n\t\troot * DIR/srv\n\t\tfile_server\n\t}", true},
		"on a proxy's error":               {"reverse_proxy 127.0.0.1:9 {\n\t\thandle_response {\n\t\t\troot * DIR/srv\n\t\t\tfile_server\n\t\t}\n\t}", true},
		"for errors":                       {"handle_errors {\n\t\troot * DIR/srv\n\t\tfile_server\n\t}", true},
		"a store of audit_log_api":         {"root * DIR/public\n\tfile_server\n\thandle /operators/* {\n\t\taudit_log_api {\n\t\t\tstore sqlite {\n\t\t\t\tpath DIR/public/other.db\n\t\t\t}\n\t\t}\n\t}", true},
		"another folder":                   {"root * DIR/public\n\tfile_server", false},
		"a folder whose name begins alike": {"root * DIR/sr\n\tfile_server", false},
		"a root without file_server":       {"root * DIR/srv\n\trespond 200", false},
		"a root that the request says":     {"root * DIR/{host}\n\tfile_server", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := servedFolders(t)
			directives := "\taudit_log\n\t" + strings.ReplaceAll(c.directives, "DIR", dir)
			err := harness.TryLoad(t, harness.Site(filepath.Join(dir, "srv", "data"), harness.FreePort(t), directives))
			was := err != nil && strings.Contains(err.Error(), "of the audit log is in it")
			if was != c.refused || !was && err != nil {
				t.Errorf("%v; want it to be refused: %v", err, c.refused)
			}
			if _, err := os.Stat(filepath.Join(dir, "srv", "data", "audit.db")); (err == nil) == c.refused {
				t.Errorf("the database is there: %v", err == nil)
			}
			if c.refused {
				served++
			}
			if was {
				refused++
			}
		})
	}
	return refused, served
}

// servedFolders returns a folder with srv/data, public, and link to srv.
func servedFolders(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"srv/data", "public"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "srv"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}
