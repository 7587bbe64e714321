package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// metadata is what the tests look at of an entry's metadata.
type metadata struct {
	RequestID      string `json:"requestId"`
	Class          string `json:"class"`
	Identifier     string `json:"identifier"`
	TargetUserID   string `json:"targetUserId"`
	ImpersonatedBy string `json:"impersonatedBy"`
}

func metadataOf(t testing.TB, e *storage.Entry) metadata {
	t.Helper()
	var m metadata
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		t.Fatalf("metadata of entry %s: %v", e.ID, err)
	}
	return m
}

// entriesIn reads every captured entry of a database since a time, oldest first, over a
// store of its own.
func entriesIn(t testing.TB, file string, since time.Time) []storage.Entry {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing %s: %v", file, err)
		}
	}()
	return everyOf(t, s, since)
}

// ownOf is how many entries a log has of its starts and stops.
func ownOf(t testing.TB, s storage.Lister) (n int) {
	t.Helper()
	every := all(t, s, storage.Query{})
	return len(every) - len(harness.Captured(slices.Clone(every)))
}

// everyOf reads every captured entry of a log since a time, oldest first.
func everyOf(t testing.TB, s storage.Lister, since time.Time) []storage.Entry {
	t.Helper()
	return harness.Captured(all(t, s, storage.Query{From: since}))
}

// all reads every entry that a query asks for, oldest first.
func all(t testing.TB, s storage.Lister, q storage.Query) (entries []storage.Entry) {
	t.Helper()
	for q.Limit = storage.MaxLimit; ; {
		page, err := s.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, page.Entries...)
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			slices.Reverse(entries)
			return entries
		}
	}
}

// byUser counts entries by their user and keeps the last one of each.
func byUser(entries []storage.Entry) (count map[string]int, last map[string]storage.Entry) {
	count, last = map[string]int{}, map[string]storage.Entry{}
	for _, e := range entries {
		count[e.UserID]++
		last[e.UserID] = e
	}
	return count, last
}

// checkIntegrity asks SQLite whether the file is sound.
func checkIntegrity(t testing.TB, file string) {
	t.Helper()
	db, err := sql.Open("sqlite", file) // storage/sqlite registers the driver
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check of %s: %q, %v", file, verdict, err)
	}
}

// site is a Caddyfile with one proxied site, without logs. Options are lines of
// the global block, directive those of audit_log.
func site(file string, port int, upstream, options, directive string) string {
	return fmt.Sprintf(`{
	persist_config off
	%s
	log {
		output discard
	}
	audit_log {
		store sqlite {
			path %s
		}
		key_file %s/hash.key
	}
}
http://127.0.0.1:%d {
	%s
	reverse_proxy %s
}
`, options, file, filepath.Dir(file), port, pin("audit_log {\n\t\t"+directive+"\n\t}"), upstream)
}

func database(dir string) string { return filepath.Join(dir, "audit.db") }

// stop ends the Caddy of this process before the test does, so that it can be
// seen what is left.
func stop(t testing.TB) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
}

// files lists everything below dir.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// pinned is the directive for a server that is known to be Better Auth: stubs show
// too little to be recognised. Every failure has its own entry: tests count them, and
// roll-ups have tests of their own.
const pinned = "audit_log {\n\t\tprofile better_auth\n\t\trollup off\n\t}"

// pin names that profile in a directive that names none.
func pin(directive string) string {
	switch {
	case strings.Contains(directive, "profile "):
		return directive
	case strings.Contains(directive, "audit_log {"):
		return strings.Replace(directive, "audit_log {", strings.TrimSuffix(pinned, "\n\t}"), 1)
	}
	return strings.Replace(directive, "audit_log", pinned, 1)
}
