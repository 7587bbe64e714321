package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/wire"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// TestAutoRecognisesTheServer plays the beginning of recordings through a site with
// nothing but the directive, and looks for what the log says about it.
func TestAutoRecognisesTheServer(t *testing.T) {
	for file, want := range map[string]string{
		"better-auth/core-auth.jsonl": "Better Auth", "gotrue.jsonl": "Supabase", "kratos-v26.jsonl": "Kratos", "pocketbase.jsonl": "PocketBase",
		"casdoor.jsonl": "Casdoor", "authelia.jsonl": "Authelia", "dex.jsonl": "Dex", "hydra.jsonl": "Hydra", "oauth2-proxy.jsonl": "oauth2-proxy",
	} {
		t.Run(want, func(t *testing.T) {
			dir := t.TempDir()
			files, err := replay.Read(fromRoot("testdata/traffic/" + file))
			if err != nil {
				t.Fatal(err)
			}
			generic, err := profile.Builtin("generic")
			if err != nil {
				t.Fatal(err)
			}
			t.Run("site", func(t *testing.T) {
				harness.Use(t)
				server := wire.NewServer(generic, files[0])
				port := harness.FreePort(t)
				harness.Load(t, harness.Site(dir, port, fmt.Sprintf("\theader %s {http.request.uuid}\n\taudit_log {\n\t\trollup off\n\t}\n\treverse_proxy %s", requestIDHeader, harness.Upstream(t, server))))
				for _, x := range files[0].Exchanges[:min(20, len(files[0].Exchanges))] {
					server.Expect(x)
					if _, err := wire.Send(fmt.Sprintf("127.0.0.1:%d", port), x); err != nil {
						t.Fatal(err)
					}
				}
			})
			log, err := os.ReadFile(filepath.Join(dir, "caddy.log"))
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for line := range strings.Lines(string(log)) {
				if strings.Contains(line, "the auth server was recognised") && strings.Contains(line, `"sure":true`) {
					found++
					if !strings.Contains(line, `"server":"`) || !strings.Contains(line, want) || !strings.Contains(line, ` in the block of audit_log"`) {
						t.Errorf("recognised as another server: %s", line)
					}
				}
			}
			if found != 1 {
				t.Errorf("recognised %d times, want once", found)
			}
		})
	}
}

// TestAutoKeepsWhatItHasRecognised: a reload does not begin anew, and neither does
// the API wait for another sign.
func TestAutoKeepsWhatItHasRecognised(t *testing.T) {
	dir, port := t.TempDir(), 0
	t.Run("site", func(t *testing.T) {
		harness.Use(t)
		port = harness.FreePort(t)
		site := "audit_log\nreverse_proxy " + harness.Upstream(t, stubAuth())
		harness.Load(t, harness.Site(dir, port, site))
		get := func(path string) (int, string) {
			r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/auth%s", port, path), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.AddCookie(&http.Cookie{Name: "better-auth.session_token", Value: "s-alice"})
			res, err := again(func() (*http.Response, error) { return http.DefaultClient.Do(r) })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			b, _ := io.ReadAll(res.Body)
			return res.StatusCode, string(b)
		}
		if status, body := get("/audit-log/list"); status != http.StatusServiceUnavailable || !strings.Contains(body, "AUTH_SERVER_UNKNOWN") {
			t.Errorf("before anything was recognised the API answers %d %s", status, body)
		}
		for _, path := range []string{"/docs/audit-log/intro", "/app/7/audit-log/export", "/api/auth/x/audit-log/y"} {
			if status, _ := call(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), ""); status == http.StatusServiceUnavailable {
				t.Errorf("%s, which is no path of the API, is answered %d", path, status)
			}
		}
		get("/get-session")
		if status, body := get("/audit-log/list"); status != http.StatusOK || !strings.Contains(body, `"total":0`) {
			t.Errorf("afterwards %d %s", status, body)
		}
		harness.Load(t, harness.Site(dir, port, "header X-Reloaded 1\n"+site))
		if status, body := get("/audit-log/list"); status != http.StatusOK {
			t.Errorf("after a reload %d %s", status, body)
		}
	})
}

// TestAutoKnowsASiteAgainByWhatIsBehindIt: neither the Host that a client sends nor a name that
// was another server's before makes one server of another.
func TestAutoKnowsASiteAgainByWhatIsBehindIt(t *testing.T) {
	harness.Use(t)
	dir, port, other := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	better := harness.Upstream(t, stubAuth())
	keycloak := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	second := fmt.Sprintf("http://127.0.0.1:%d {\n\taudit_log\n\treverse_proxy %s\n}\n", other, keycloak)
	harness.Load(t, harness.Site(dir, port, "audit_log\nreverse_proxy "+better)+second)
	if status, body := call(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/auth/get-session", port), ""); status != http.StatusOK {
		t.Fatal(status, body)
	}
	steal := func(port int) {
		r, err := http.NewRequest(http.MethodDelete, fmt.Sprintf("http://127.0.0.1:%d/admin/realms/m/users/7", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = fmt.Sprintf("127.0.0.1:%d", port)
		res, err := again(func() (*http.Response, error) { return http.DefaultClient.Do(r) })
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", other), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = fmt.Sprintf("127.0.0.1:%d", port) // the name of the site that is known
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	steal(other)
	harness.Load(t, harness.Site(dir, port, "audit_log\nreverse_proxy "+keycloak)) // the server is another one now
	steal(port)
	stop(t)
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != 2 {
		t.Fatalf("%d entries of 2 deletions: %v", len(entries), entries)
	}
}

// TestTheAPIIsThereForEveryServer that can be asked who is signed in: also where the profile is of
// a whole site, whose other paths are nothing to it.
func TestTheAPIIsThereForEveryServer(t *testing.T) {
	for _, name := range profile.Names() {
		p, err := profile.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			harness.Use(t)
			dir, port := t.TempDir(), harness.FreePort(t)
			reached := 0
			up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "audit-log") {
					reached++
				}
				w.WriteHeader(http.StatusUnauthorized)
			}))
			harness.Load(t, harness.Site(dir, port, fmt.Sprintf("audit_log {\n\tprofile %s\n}\nreverse_proxy %s", name, up)))
			status, body := call(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s/audit-log/list", port, p.Base()), "")
			if asks := len(p.Session) > 0; asks != (reached == 0) || asks && !strings.Contains(body, `"code":"`) {
				t.Errorf("it answers %d %s, and %d requests came to the server", status, body, reached)
			}
		})
	}
}

// TestAClientCannotSteerAuto: what a client asks for makes the application look like
// one server or another. The real one is recorded all the same, and nobody reads the
// log on the word of what was put into the application.
func TestAClientCannotSteerAuto(t *testing.T) {
	for name, tt := range map[string]struct {
		file, ask string
		want      int // what the log's API answers under the base path that was made up
	}{
		"an application that answers anything":      {`{"status":true}`, "/x/admin/realms/foo", http.StatusServiceUnavailable},
		"a page that repeats the address":           {`<link href="/lgn-/ui/login/x">`, "/lgn-/ui/login/x", http.StatusServiceUnavailable},
		"a file that says who somebody is":          {`{"session":{"userId":"mallory"},"user":{"id":"mallory","role":"admin"}}`, "/files/login/get-session", http.StatusServiceUnavailable},
		"a file that looks like a health check":     {`{"message":"API is healthy.","sub":"mallory"}`, "/files/login/health", http.StatusServiceUnavailable},
		"a file that looks like another login page": {`<div class="theme-navbar__logo-wrap">`, "/files/login/device", http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Run("site", func(t *testing.T) {
				harness.Use(t)
				real := stubAuth()
				app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/api/auth/") {
						real.ServeHTTP(w, r)
						return
					}
					w.Header().Set("Content-Type", "application/json")
					if strings.HasPrefix(tt.file, "<") {
						w.Header().Set("Content-Type", "text/html")
					}
					_, _ = io.WriteString(w, tt.file)
				})
				port := harness.FreePort(t)
				harness.Load(t, harness.Site(dir, port, "audit_log\nreverse_proxy "+harness.Upstream(t, app)))
				do := func(method, path string) (int, string) {
					r, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), strings.NewReader(`{"email":"a@b.c","password":"x"}`))
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("Content-Type", "application/json")
					r.AddCookie(&http.Cookie{Name: "better-auth.session_token", Value: "s-mallory"})
					res, err := http.DefaultClient.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = res.Body.Close() }()
					b, _ := io.ReadAll(res.Body)
					return res.StatusCode, string(b)
				}
				do(http.MethodGet, tt.ask)
				do(http.MethodPost, "/api/auth/sign-in/email")
				do(http.MethodPost, "/api/auth/delete-user")
				base := tt.ask[:strings.LastIndex(tt.ask, "/")]
				got, body := do(http.MethodGet, base+"/audit-log/list?scope=all")
				if got != tt.want && body != tt.file { // or it is a path of the application's
					t.Errorf("the log's API under a made-up base path answers %d, want %d: %s", got, tt.want, body)
				}
			})
			found := 0
			for _, e := range entriesIn(t, database(dir), time.Time{}) {
				if strings.HasPrefix(e.Action, "sign-in") || strings.HasPrefix(e.Action, "delete-user") || strings.Contains(e.Action, "delete") {
					found++
				}
			}
			if found < 2 {
				t.Errorf("%d entries of two events", found)
			}
		})
	}
}

// TestAutoKeepsWhatItKnowsWhenItGetsSurer: whose a token is was learned while the
// server was recognised by the shape of its answers only, and counts after its cookie
// has made that certain.
func TestAutoKeepsWhatItKnowsWhenItGetsSurer(t *testing.T) {
	dir := t.TempDir()
	t.Run("site", func(t *testing.T) {
		harness.Use(t)
		port := harness.FreePort(t)
		harness.Load(t, harness.Site(dir, port, "audit_log\nreverse_proxy "+harness.Upstream(t, surerAndSurer())))
		for _, path := range []string{"/sign-in/email", "/update-user", "/sign-out"} {
			r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth%s", port, path), strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			if path == "/sign-out" {
				r.Header.Set("Authorization", "Bearer token-of-alice")
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
		}
	})
	if got := summary(entriesIn(t, database(dir), time.Time{})); !strings.Contains(got, "sign-out/success/medium/alice") {
		t.Errorf("%s: the sign-out lost its user", got)
	}
}

// surerAndSurer is a Better Auth whose session endpoint is not there: a token's owner
// must be remembered. Only its second answer has a cookie of its own.
func surerAndSurer() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/get-session"):
			w.WriteHeader(http.StatusNotFound)
		case strings.HasSuffix(r.URL.Path, "/sign-in/email"):
			_, _ = io.WriteString(w, `{"token":"token-of-alice","user":{"id":"alice"}}`)
		case strings.HasSuffix(r.URL.Path, "/update-user"):
			w.Header().Set("Set-Cookie", "better-auth.dont_remember=1; Path=/")
			fallthrough
		default:
			_, _ = io.WriteString(w, `{"status":true}`)
		}
	})
}

// TestNothingPassesBeforeTheServerIsRecognised: audit_log_api, wherever it is, lets only its
// own paths by, in their only spelling.
func TestNothingPassesBeforeTheServerIsRecognised(t *testing.T) {
	dir := t.TempDir()
	t.Run("sites", func(t *testing.T) {
		harness.Use(t)
		var reached sync.Map
		up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reached.Store(r.Header.Get("X-Case"), true)
			_, _ = io.WriteString(w, "{}")
		}))
		port, operators := harness.FreePort(t), harness.FreePort(t)
		harness.Load(t, anyHost(database(dir), "", siteOf(port, "audit_log {\n\t\tprofile auto\n\t}", up), siteOf(operators, "audit_log_api", up)))
		for _, target := range []string{
			"/audit-log/../login", "/audit-log/%2e%2e/login", "/audit-log/..%2flogin", "/audit-log/x/..;/login", "/audit-log/./login", "/audit-log//login",
			"/audit-log/x\\..\\login", "/audit-log/%2E%2E%2Flogin",
		} {
			status, _ := once(port, raw("POST", target, target, "Content-Type: application/json\r\n", "{}"))
			if _, there := reached.Load(target); there || status != http.StatusServiceUnavailable {
				t.Errorf("%s: %d, it reached the server: %v", target, status, there)
			}
		}
		if status, _ := once(port, raw("POST", "/x/../login", "other", "Content-Type: application/json\r\n", "{}")); status != http.StatusOK {
			t.Fatal(status)
		}
	})
	if n := len(entriesIn(t, database(dir), time.Time{})); n != 1 {
		t.Errorf("%d entries, want that of the request that was passed on", n)
	}
}
