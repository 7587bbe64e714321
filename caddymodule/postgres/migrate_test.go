package postgres_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	module "github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// move runs the command and returns its exit status and what it says.
func move(t *testing.T, file, dsn, password string, more ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), append([]string{"audit-log", "migrate", "--from", file, "--dsn", "{env.MOVE_DSN}", "--password", "{env.MOVE_PASSWORD}"}, more...)...)
	cmd.Env = append(os.Environ(), "MOVE_DSN="+dsn, "MOVE_PASSWORD="+password)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(string(out), password) {
		t.Errorf("the password is in what it says: %s", out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// folder says what is in the folder of a database: names, sizes and hashes, but for journals.
func folder(t *testing.T, file string) string {
	t.Helper()
	all, err := filepath.Glob(file + "*")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(name, ".spill") {
			said = append(said, fmt.Sprintf("%s %d %x", filepath.Base(name), len(b), sha256.Sum256(b)))
		}
	}
	return strings.Join(said, ", ")
}

// TestALogMovesFromSQLite: interrupted, gone on, found to differ, begun anew, repeated.
func TestALogMovesFromSQLite(t *testing.T) {
	server := pgtest.Start(t)
	file := filepath.Join(t.TempDir(), "audit.db")
	from, err := sqlite.Open(t.Context(), sqlite.Options{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	const n = 1300
	var entries []storage.Entry
	for i := range n {
		e := storagetest.Entry(i)
		if i%7 == 0 {
			e = storagetest.Attempt(i, fmt.Sprint("tag-", i), storage.Failed)
		}
		if i >= 40 && i < 100 { // more than is written at once
			e.Metadata = json.RawMessage(`{"p":"` + strings.Repeat("x", 60<<10) + `"}`)
		}
		entries = append(entries, e)
	}
	if err := errors.Join(from.Write(t.Context(), entries...), from.Close()); err != nil {
		t.Fatal(err)
	}
	to, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = to.Close() })
	// As an interrupted run leaves it, but for one entry that somebody has deleted.
	own := storagetest.Entry(5000)
	middle := entries[600].SortKey()
	source, err := module.SourceOf(file, "auditLog")
	if err := errors.Join(err, to.Write(t.Context(), append(entries[601:n-1:n-1], own)...), to.SetMoved(t.Context(), source, middle+1)); err != nil {
		t.Fatal(err)
	}
	// Another machine has left its note, too, of a file that has the same path there.
	if err := to.SetMoved(t.Context(), file+"|0:0|auditLog", entries[2].SortKey()); err != nil {
		t.Fatal(err)
	}
	dsn := strings.Replace(server.DSN(), ":"+server.Password+"@", "@", 1)
	before := folder(t, file)
	defer func() {
		if after := folder(t, file); after != before {
			t.Errorf("the file was not only read: %s before, %s after", before, after)
		}
	}()
	if status, said := move(t, file, dsn, server.Password); status != 2 || !strings.Contains(said, "going on where") || !strings.Contains(said, "1300 entries") || !strings.Contains(said, "1299 of them") {
		t.Errorf("gone on: %d %s", status, said)
	}
	for range 2 {
		status, said := move(t, file, dsn, server.Password)
		digests := strings.Split(said, "digest ")
		if status != 0 || len(digests) != 3 || digests[1][:64] != digests[2][:64] || strings.Contains(said, "going on") {
			t.Fatalf("anew: %d %s", status, said)
		}
	}
	if page, err := to.List(t.Context(), storage.Query{}); err != nil || page.Total != n+1 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
	harness.LeaveWaiting(t, file+".spill", storagetest.Entry(1), storagetest.Entry(2))
	if status, said := move(t, file, dsn, server.Password); status != 1 || !strings.Contains(said, "2 entries wait in "+file+".spill") {
		t.Errorf("with entries that wait: %d %s", status, said)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if status, said := move(t, link, dsn, server.Password); status != 1 || !strings.Contains(said, "2 entries wait in "+file+".spill") {
		t.Errorf("through a link, with entries that wait: %d %s", status, said)
	}
	if status, said := move(t, file, "host=db.example sslmode=verify-full", "not-the-password", "--tls", "verify-half"); status != 1 || !strings.Contains(said, `tls \"verify-half\": give disable`) || strings.Count(said, "verify-half") > 1 {
		t.Errorf("with a way of protection that there is not: %d %s", status, said)
	}
	if status, said := move(t, file+".not", dsn, server.Password); status != 1 || !strings.Contains(said, "--from") {
		t.Errorf("a file that is not there: %d %s", status, said)
	}
}
