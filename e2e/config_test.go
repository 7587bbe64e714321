package e2e

import (
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

// loadError loads a Caddyfile that must not load.
func loadError(t *testing.T, config string) string {
	t.Helper()
	err := harness.TryLoad(t, config)
	if err == nil {
		t.Fatalf("it loaded:\n%s", config)
	}
	return err.Error()
}

func TestWhatCannotWorkIsRefusedWithItsRemedy(t *testing.T) {
	harness.Use(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := write("text.db", strings.Repeat("not a database ", 100), 0o600)
	openKey := write("open.key", strings.Repeat("ab", 32), 0o644)
	shortKey := write("short.key", "abcd", 0o600)
	badProfile := write("bad.json", "{\n\"name\": 5}", 0o600)
	site := func(directive string) string { return harness.Site(dir, harness.FreePort(t), directive) }
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"a database that is none":         {strings.Replace(site("audit_log"), "audit.db", "text.db", 1), []string{foreign, "file is not a database", "another path"}},
		"a database that is a folder":     {strings.Replace(site("audit_log"), dir+"/audit.db", dir, 1), []string{dir, "folder"}},
		"a key that others can read":      {strings.Replace(site("audit_log"), "hash.key", "open.key", 1), []string{openKey, "chmod 600"}},
		"a key that is too short":         {strings.Replace(site("audit_log"), "hash.key", "short.key", 1), []string{shortKey, "at least 32 bytes"}},
		"an unknown profile":              {site("audit_log {\n profile keycloack\n}"), []string{`unknown profile "keycloack"`, "better_auth"}},
		"a profile file with a mistake":   {site("audit_log {\n profile " + badProfile + "\n}"), []string{badProfile, "line 2"}},
		"a profile file that is missing":  {site("audit_log {\n profile ./nowhere.json\n}"), []string{"nowhere.json"}},
		"a base path with a query":        {site("audit_log {\n base_path /api?x\n}"), []string{"bad base path", "/api/auth"}},
		"a session endpoint in clear":     {site("audit_log {\n session_endpoint http://auth.example.com/get-session\n}"), []string{"https"}},
		"a session endpoint that is none": {site("audit_log {\n session_endpoint /get-session\n}"), []string{"bad session_endpoint"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := loadError(t, c.config)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%s\ndoes not say %q", got, want)
				}
			}
		})
	}
}

func TestAProfileFileAndASessionEndpointOfOnesOwn(t *testing.T) {
	harness.Use(t)
	dir := t.TempDir()
	own := `{"name":"mine","title":"Mine","base_path":"/login","credentials":{"cookies":["sid"]},
		"session":{"path":"/who","user":"/id"},"outcomes":{"default":[{"status":"4xx,5xx","outcome":"failed"},{"outcome":"success"}]},
		"routes":[{"method":"POST","path":"/leave","class":"sign-out","timing":"before"}]}`
	if err := os.WriteFile(filepath.Join(dir, "mine.json"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	sessions := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("sid"); err != nil || c.Value != "abc" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"id":"user-7"}`)
	}))
	auth := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	port := harness.FreePort(t)
	harness.Load(t, harness.Site(dir, port, fmt.Sprintf("audit_log {\n profile %s/mine.json\n session_endpoint http://%s/anything\n}\nreverse_proxy %s", dir, sessions, auth)))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/login/leave", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Cookie", "sid=abc")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	entries := everyOf(t, harness.OpenStore(t, dir), time.Time{})
	if len(entries) != 1 || entries[0].UserID != "user-7" || entries[0].Action != "leave" || entries[0].Status != storage.Success {
		t.Errorf("%+v", entries)
	}
}
