package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// stubAuth answers as Better Auth would, for the options' tests: the session of
// cookie "s-<user>" is that user's, and every act succeeds.
func stubAuth() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		user := ""
		if c, err := r.Cookie("better-auth.session_token"); err == nil {
			user, _ = strings.CutPrefix(c.Value, "s-")
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/get-session") && user == "":
			_, _ = io.WriteString(w, "null")
		case strings.HasSuffix(r.URL.Path, "/get-session"):
			role := "user"
			if user == "root" {
				role = "user,admin"
			}
			_, _ = fmt.Fprintf(w, `{"session":{"userId":%q,"expiresAt":"2099-01-01T00:00:00Z"},"user":{"id":%[1]q,"role":%q,"email":"%[1]s@example.com"}}`, user, role)
		case strings.HasSuffix(r.URL.Path, "/sign-in/email"):
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"message":"Invalid email or password","code":"INVALID_EMAIL_OR_PASSWORD"}`)
		case strings.Contains(r.URL.Path, "/status/"):
			code, err := strconv.Atoi(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
			if err != nil {
				code = http.StatusTeapot
			}
			w.WriteHeader(code)
		case strings.HasSuffix(r.URL.Path, "/magic-link/verify"):
			to := "/welcome"
			if r.URL.Query().Get("token") == "bad" {
				to = "/?error=INVALID_TOKEN"
			}
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/revoke-session") && refused(r):
			w.WriteHeader(http.StatusBadRequest)
		case strings.HasSuffix(r.URL.Path, "/delete-user"):
			_, _ = io.WriteString(w, `{"success":true,"message":"User deleted"}`)
		default:
			_, _ = io.WriteString(w, `{"status":true}`)
		}
	})
}

func refused(r *http.Request) bool {
	b, err := io.ReadAll(r.Body)
	return err == nil && strings.Contains(string(b), "refuse")
}

// act is one request of an options test.
type act struct{ method, path, body, user string }

// recordedBy runs a site with the given directive, sends the acts, ends Caddy and
// returns what was stored, oldest first, and the last answer.
func recordedBy(t *testing.T, directive string, acts ...act) ([]storage.Entry, answerSeen) {
	t.Helper()
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	harness.Load(t, harness.Site(dir, port, pin(directive)+"\nreverse_proxy "+harness.Upstream(t, stubAuth())))
	var last answerSeen
	for _, a := range acts {
		last = send(t, fmt.Sprintf("http://127.0.0.1:%d/api/auth", port), a)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	return everyOf(t, harness.OpenStore(t, dir), time.Time{}), last
}

type answerSeen struct {
	status int
	body   string
}

func send(t *testing.T, base string, a act) answerSeen {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), a.method, base+a.path, strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if a.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("User-Agent", "options/1")
	if a.user != "" {
		r.Header.Set("Cookie", "better-auth.session_token=s-"+a.user)
		r.Header.Set("Origin", strings.TrimSuffix(base, "/api/auth"))
	}
	res, err := (&http.Client{Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answerSeen{res.StatusCode, string(b)}
}

// summary is an entry in a word: action, status, severity, user.
func summary(entries []storage.Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, fmt.Sprintf("%s/%s/%s/%s", e.Action, e.Status, e.Severity, e.UserID))
	}
	return strings.Join(out, " ")
}

var (
	toSignIn  = act{"POST", "/sign-in/email", `{"email":"alice@example.com","password":"hunter2"}`, ""}
	toUpdate  = act{"POST", "/update-user", `{"name":"x","password":"hunter2"}`, "alice"}
	toSignOut = act{"POST", "/sign-out", `{}`, "alice"}
	toDelete  = act{"POST", "/delete-user", `{"password":"hunter2","why":"tired"}`, "alice"}
	toRead    = act{"GET", "/get-session", "", "alice"}
	toNowhere = act{"POST", "/not/known", `{}`, "alice"}
	toSpell   = act{"POST", "/x/../sign-out", `{}`, "alice"}
)

// TestEveryOptionWorks holds the options of the plugin (DESIGN section 6) and our
// own through a running Caddy.
func TestEveryOptionWorks(t *testing.T) {
	has := func(i int, parts ...string) func([]storage.Entry) string {
		return func(e []storage.Entry) string {
			all := fmt.Sprintf("%s ip=%s agent=%s", e[i].Metadata, e[i].IPAddress, e[i].UserAgent)
			for _, part := range parts {
				if want, not := strings.CutPrefix(part, "!"); not == strings.Contains(all, want) {
					return fmt.Sprintf("%s: %s", part, all)
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		name, directive string
		acts            []act
		want            string
		more            func([]storage.Entry) string
	}{
		{"zero config", "audit_log", []act{toSignIn, toUpdate, toSignOut, toRead, toNowhere},
			"sign-in:email/failed/high/ update-user/success/low/alice sign-out/success/medium/alice not:known/success/low/alice",
			has(0, `"identifier":"a***@example.com"`, "ip=127.0.0.1", "agent=options/1", "!hunter2", "!requestBody")},
		{"enabled off records nothing", "audit_log {\n enabled off\n}", []act{toSignIn, toSignOut, toNowhere}, "", nil},
		{"durability async", "audit_log {\n durability async\n}", []act{toSignIn, toSignOut}, "sign-in:email/failed/high/ sign-out/success/medium/alice", nil},
		{"durability commit", "audit_log {\n durability commit\n}", []act{toSignOut}, "sign-out/success/medium/alice", nil},
		{"non_blocking is durability async", "audit_log {\n non_blocking\n}", []act{toSignIn}, "sign-in:email/failed/high/", nil},
		{"path restricts, but not what evades it", "audit_log {\n path /update-user\n}", []act{toSignIn, toUpdate, toSignOut, toNowhere, toSpell},
			"update-user/success/low/alice not:known/success/low/alice sign-out/success/medium/alice", nil},
		{"path with a beginning", "audit_log {\n path /sign-*\n}", []act{toSignIn, toUpdate, toSignOut}, "sign-in:email/failed/high/ sign-out/success/medium/alice", nil},
		{"path with severity", "audit_log {\n path /update-user {\n severity critical\n}\n}", []act{toUpdate}, "update-user/success/critical/alice", nil},
		{"path with capture", "audit_log {\n path /update-user {\n capture request_body\n}\n path /sign-out\n}", []act{toUpdate, toSignOut},
			"update-user/success/low/alice sign-out/success/medium/alice", has(0, `"requestBody":{"name":"x","password":"[REDACTED]"}`, "agent=options/1")},
		{"path with capture off", "audit_log {\n path /update-user {\n capture {\n ip_address off\n user_agent off\n}\n}\n}", []act{toUpdate},
			"update-user/success/low/alice", has(0, "ip= ", "!options/1")},
		{"path asks for a read", "audit_log {\n path /get-session\n}", []act{toRead}, "get-session/success/low/alice", nil},
		{"path of one's own", "audit_log {\n path /not/known {\n severity high\n}\n}", []act{toNowhere, toUpdate}, "not:known/success/high/alice", nil},
		{"before moves the intent", "audit_log {\n before /update-user\n}", []act{toUpdate, toSignOut}, "update-user/success/low/alice sign-out/success/medium/alice", nil},
		{"capture off", "audit_log {\n capture {\n ip_address off\n user_agent off\n}\n}", []act{toUpdate}, "update-user/success/low/alice", has(0, "ip= ", "!options/1")},
		{"capture request_body", "audit_log {\n capture {\n request_body on\n}\n}", []act{toUpdate}, "update-user/success/low/alice",
			has(0, `"requestBody":{"name":"x","password":"[REDACTED]"}`, "!hunter2")},
		{"capture session", "audit_log {\n capture session\n}", []act{{"POST", "/update-user", `{}`, "alice-smith"}, toSignIn}, "update-user/success/low/alice-smith sign-in:email/failed/high/",
			has(0, `"sessionHash":"hmac-sha256:`, "!s-alice", "agent=options/1")},
		{"redact hash", "audit_log {\n capture {\n request_body on\n}\n redact hash\n}", []act{toUpdate}, "update-user/success/low/alice", has(0, `"password":"hmac-sha256:`, "!hunter2")},
		{"redact remove", "audit_log {\n capture {\n request_body on\n}\n redact remove\n}", []act{toUpdate}, "update-user/success/low/alice", has(0, `"requestBody":{"name":"x"}`)},
		{"redact fields replace the list", "audit_log {\n capture {\n request_body on\n}\n redact mask {\n fields why\n}\n}", []act{toDelete}, "delete-user/success/high/", has(0, `"why":"[REDACTED]"`, `hunter2`)},
		{"redact add_fields adds to it", "audit_log {\n capture {\n request_body on\n}\n redact mask {\n add_fields why\n}\n}", []act{toDelete}, "delete-user/success/high/", has(0, `"why":"[REDACTED]"`, `!hunter2`)},
		{"metadata_limits cut what is captured", "audit_log {\n capture request_body\n metadata_limits {\n max_bytes 200\n}\n}", []act{{"POST", "/update-user", `{"n":"` + strings.Repeat("x ", 300) + `"}`, "alice"}},
			"update-user/success/low/alice", has(0, `"requestBody":{"`, "!x x x")},
		{"a deleted user's entries stay without the user", "audit_log", []act{toUpdate, toDelete}, "update-user/success/low/ delete-user/success/high/", nil},
		{"unlink off keeps the user", "audit_log {\n unlink off\n}", []act{toUpdate, toDelete}, "update-user/success/low/alice delete-user/success/high/alice", nil},
		{"base_path moves everything", "audit_log {\n base_path /api\n}", []act{toSignOut}, "auth:sign-out/success/medium/alice", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			entries, _ := recordedBy(t, c.directive, c.acts...)
			if got := summary(entries); got != c.want {
				t.Fatalf("got  %s\nwant %s", got, c.want)
			}
			if c.more != nil {
				if problem := c.more(entries); problem != "" {
					t.Error(problem)
				}
			}
		})
	}
}

func TestTheAPIStaysWhenRecordingIsOff(t *testing.T) {
	entries, last := recordedBy(t, "audit_log {\n enabled off\n}", act{"POST", "/audit-log/insert", `{"action":"custom:x"}`, "alice"})
	if last.status != 200 || summary(entries) != "custom:x/success/low/alice" {
		t.Errorf("%+v, %s", last, summary(entries))
	}
}

func TestInsertedMetadataKeepsItsLimits(t *testing.T) {
	directive := "audit_log {\n metadata_limits {\n max_bytes 40\n max_depth 2\n}\n}"
	for body, want := range map[string]int{
		`{"action":"custom:x","metadata":{"a":{"b":1}}}`:                           200,
		`{"action":"custom:x","metadata":{"a":{"b":{"c":1}}}}`:                     400,
		`{"action":"custom:x","metadata":{"a":"` + strings.Repeat("x", 40) + `"}}`: 400,
	} {
		t.Run(fmt.Sprintf("%d for %.60s", want, body), func(t *testing.T) {
			if _, last := recordedBy(t, directive, act{"POST", "/audit-log/insert", body, "alice"}); last.status != want {
				t.Errorf("%+v, want %d", last, want)
			}
		})
	}
}

func TestAnAmbiguousPathCanBeRejected(t *testing.T) {
	entries, last := recordedBy(t, "audit_log {\n ambiguous_path reject\n}", toSpell)
	if last.status != 400 || !strings.Contains(last.body, "AMBIGUOUS_PATH") || len(entries) != 1 || entries[0].Status != storage.Failed || entries[0].Severity != severity.High {
		t.Errorf("%+v, %s", last, summary(entries))
	}
}

// TestAHandlerThatDoesNotRecordLeavesItToTheNext: what one has switched off, another may record.
func TestAHandlerThatDoesNotRecordLeavesItToTheNext(t *testing.T) {
	for _, outer := range []string{"enabled off", "profile better_auth\n path /change-password", "profile better_auth"} {
		t.Run(outer, func(t *testing.T) {
			entries, _ := recordedBy(t, "audit_log {\n"+outer+"\n}\naudit_log {\nprofile better_auth\n}", act{"POST", "/sign-out", `{}`, "alice"})
			if len(entries) != 1 || entries[0].Action != "sign-out" || entries[0].UserID != "alice" {
				t.Errorf("%+v", entries)
			}
		})
	}
}
