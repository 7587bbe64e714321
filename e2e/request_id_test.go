package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestTheAccessLogHasTheRequestID also of a session check, of which only the answer showed
// that it needs an entry.
func TestTheAccessLogHasTheRequestID(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"code":"FAILED","message":"failed"}`)
	}))
	file := filepath.Join(dir, "access.log")
	harness.Load(t, harness.Site(dir, port, fmt.Sprintf("\tlog {\n\t\toutput file %s\n\t\tformat json\n\t}\n\taudit_log {\n\t\tprofile better_auth\n\t}\n\treverse_proxy %s", file, up)))
	for _, c := range [][2]string{{"GET", "get-session"}, {"POST", "sign-out"}} {
		status, body := call(t, c[0], fmt.Sprintf("http://127.0.0.1:%d/api/auth/%s", port, c[1]), "")
		if status != http.StatusInternalServerError {
			t.Fatal(status, body)
		}
	}
	stop(t)
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != 2 {
		t.Fatalf("%d entries, want 2: %v", len(entries), entries)
	}
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(log)) {
		var l struct{ UUID string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		seen[l.UUID] = true
	}
	for _, e := range entries {
		if id := storage.TextIn(e.Metadata, "requestId"); id == "" || !seen[id] {
			t.Errorf("%s has the id %q, which the access log does not have:\n%s", e.Action, id, log)
		}
	}
}
