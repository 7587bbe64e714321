package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// sentTo is a request to a site that answers by its own code.
type sentTo struct{ method, path, token string }

// logOf plays requests at a site with nothing but the directive, and returns what the log has.
func logOf(t *testing.T, app http.HandlerFunc, requests []sentTo) (log []storage.Entry) {
	t.Helper()
	dir := t.TempDir()
	t.Run("site", func(t *testing.T) {
		harness.Use(t)
		port := harness.FreePort(t)
		harness.Load(t, harness.Site(dir, port, "audit_log\nreverse_proxy "+harness.Upstream(t, app)))
		for _, q := range requests {
			r, err := http.NewRequest(q.method, fmt.Sprintf("http://127.0.0.1:%d%s", port, q.path), strings.NewReader(`{"username":"u"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			if q.token != "" {
				r.Header.Set("Authorization", "Bearer "+q.token)
			}
			res, err := again(func() (*http.Response, error) { return http.DefaultClient.Do(r) })
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	})
	return entriesIn(t, database(dir), time.Time{})
}

// TestAClientCannotHaveAutoForget: a site that answers anything looks like a Keycloak that has
// deleted somebody, to whoever asks it for that. Nobody's entries lose their user for it, and a
// token that anybody could write makes nobody an administrator.
func TestAClientCannotHaveAutoForget(t *testing.T) {
	encoded := base64.RawURLEncoding.EncodeToString
	forged := encoded([]byte(`{"alg":"none"}`)) + "." + encoded([]byte(`{"sub":"alice-the-admin"}`)) + "."
	log := logOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/api/login" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"user":{"id":"u-42"}}`)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<h1>Hello</h1>")
	}, []sentTo{
		{"POST", "/api/login", ""}, {"POST", "/api/login", ""},
		{"PUT", "/index.php/admin/realms/m/users/bob", forged}, {"DELETE", "/index.php/admin/realms/m/users/u-42", forged},
	})
	kept := 0
	for _, e := range log {
		if e.UserID == "alice-the-admin" {
			t.Errorf("%s %s is alice's, whom an unsigned token names", e.Action, e.Status)
		}
		if e.UserID == "u-42" && strings.HasPrefix(e.Action, "sign-in") {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d of two sign-ins are u-42's: %s", kept, summary(log))
	}
}

// TestAClientCannotMakeAutoDeaf: an answer in the form of a Better Auth, which another server gives,
// does not take its own routes away.
func TestAClientCannotMakeAutoDeaf(t *testing.T) {
	gateway := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/sign-in/email") {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"code":401,"message":"who are you?"}`)
			return
		}
		_, _ = io.WriteString(w, `{"ok":true}`)
	}
	events := []sentTo{{"GET", "/api/v1/logout", ""}, {"DELETE", "/api/v1/users/7", ""}, {"POST", "/api/v1/admin/users/7/ban", ""}, {"GET", "/api/v1/users/delete-user/callback", ""}}
	of := func(log []storage.Entry) string {
		var own []storage.Entry
		for _, e := range log {
			if !strings.HasPrefix(e.Action, "audit-log:") && e.Action != "sign-in:email" && e.Action != "sign-in" {
				own = append(own, e)
			}
		}
		return summary(own)
	}
	quiet := of(logOf(t, gateway, events))
	steered := of(logOf(t, gateway, append([]sentTo{{"POST", "/api/v1/sign-in/email", ""}}, events...)))
	if quiet != steered {
		t.Errorf("without a word of the client's: %s\nwith one: %s", quiet, steered)
	}
	if !strings.Contains(quiet, "sign-out") {
		t.Errorf("the events are no events: %s", quiet)
	}
}
