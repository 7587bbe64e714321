package e2e

import (
	"encoding/json"
	"errors"
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

// TestOneRequestHasOneID, whoever asks for it, and when: the auth server is told the id that
// the entry has, and so is the client by an error page, with an access log and without one.
func TestOneRequestHasOneID(t *testing.T) {
	for name, log := range map[string]string{"without an access log": "", "with an access log": "\tlog\n"} {
		t.Run(name, func(t *testing.T) {
			harness.Use(t)
			dir, port := t.TempDir(), harness.FreePort(t)
			told := make(chan string, 8)
			up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				told <- r.Header.Get("X-Request-Id")
				if r.Header.Get("X-Break") != "" {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(http.StatusUnauthorized)
			}))
			harness.Load(t, harness.Site(dir, port, log+fmt.Sprintf("\taudit_log {\n\t\tprofile better_auth\n\t\trollup off\n\t}\n"+
				"\treverse_proxy %s {\n\t\theader_up X-Request-Id {http.request.uuid}\n\t}\n\thandle_errors {\n\t\trespond \"{http.request.uuid}\"\n\t}", up)))
			seen := map[string]bool{}
			for i := range 6 {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/%s", port, []string{"sign-in/email", "sign-out", "delete-user"}[i%3]), strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				if i >= 3 {
					r.Header.Set("X-Break", "1")
				}
				w, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(w.Body)
				if err := errors.Join(err, w.Body.Close()); err != nil {
					t.Fatal(err)
				}
				id := <-told
				if i >= 3 && string(body) != id {
					t.Errorf("the client was told the id %q, the server %q", body, id)
				}
				seen[id] = true
			}
			stop(t)
			entries := entriesIn(t, database(dir), time.Time{})
			if len(entries) != 6 || len(seen) != 6 {
				t.Fatalf("%d entries and %d ids, want 6: %v", len(entries), len(seen), entries)
			}
			for _, e := range entries {
				if id := storage.TextIn(e.Metadata, "requestId"); !seen[id] {
					t.Errorf("%s has the id %q, which nobody was told", e.Action, id)
				}
			}
		})
	}
}
