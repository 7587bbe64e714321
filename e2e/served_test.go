package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestTheLogIsNotServed: a configuration that would serve the database is refused,
// before the file is made.
func TestTheLogIsNotServed(t *testing.T) {
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
		"another folder":                   {"root * DIR/public\n\tfile_server", false},
		"a folder whose name begins alike": {"root * DIR/sr\n\tfile_server", false},
		"a root without file_server":       {"root * DIR/srv\n\trespond 200", false},
		"a root that the request says":     {"root * DIR/{host}\n\tfile_server", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := servedFolders(t)
			directives := "\taudit_log\n\t" + strings.ReplaceAll(c.directives, "DIR", dir)
			err := harness.TryLoad(t, harness.Site(filepath.Join(dir, "srv", "data"), harness.FreePort(t), directives))
			if refused := err != nil && strings.Contains(err.Error(), "of the audit log is in it"); refused != c.refused || !refused && err != nil {
				t.Errorf("%v; want it to be refused: %v", err, c.refused)
			}
			if _, err := os.Stat(filepath.Join(dir, "srv", "data", "audit.db")); (err == nil) == c.refused {
				t.Errorf("the database is there: %v", err == nil)
			}
		})
	}
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
