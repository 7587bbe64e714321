package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestDesignSection6 holds, through a running Caddy, each row of the design's table
// "What the plugin has, and what becomes of it". Rows with more to them have tests
// of their own besides: the options in TestEveryOptionWorks, rules and hooks in
// TestRules..., retention in TestRetention..., stores in examples/store.
func TestDesignSection6(t *testing.T) {
	want := func(entries []storage.Entry, summaryWant string) string {
		if got := summary(entries); got != summaryWant {
			return fmt.Sprintf("got  %s\nwant %s", got, summaryWant)
		}
		return ""
	}
	for _, row := range []struct {
		name, directive string
		acts            []act
		check           func([]storage.Entry, answerSeen) string
	}{
		{"enabled, nonBlocking, paths, beforePaths, capture, metadataLimits: same meaning, per path capture works",
			"audit_log {\n\t\tprofile better_auth\n enabled on\n non_blocking\n path /update-user {\n severity high\n capture request_body\n}\n before /update-user\n metadata_limits {\n max_bytes 8KiB\n}\n}",
			[]act{toUpdate, toSignOut}, func(e []storage.Entry, _ answerSeen) string {
				if !strings.Contains(string(e[0].Metadata), `"requestBody":{"name":"x","password":"[REDACTED]"}`) {
					return string(e[0].Metadata)
				}
				return want(e, "update-user/success/high/alice")
			}},
		{"before-paths always success: intent, then the true outcome", pinned, []act{{"POST", "/revoke-session", `{"refuse":true}`, "alice"}, toSignOut},
			func(e []storage.Entry, _ answerSeen) string {
				return want(e, "revoke-session/failed/high/alice sign-out/success/medium/alice")
			}},
		{"every redirect failed: outcome by rule", pinned, []act{{"GET", "/magic-link/verify?token=bad", "", ""}, {"GET", "/magic-link/verify?token=good", "", ""}},
			func(e []storage.Entry, _ answerSeen) string {
				return want(e, "magic-link:verify/failed/high/ magic-link:verify/success/medium/")
			}},
		{"nothing for 404, 429, 403, invalid JSON, 500: recorded", pinned, []act{{"POST", "/status/404", `{}`, ""}, {"POST", "/status/429", `{}`, ""}, {"POST", "/status/403", `{}`, ""}, {"POST", "/status/400", `{`, ""}, {"POST", "/status/500", `{}`, ""}},
			func(e []storage.Entry, _ answerSeen) string {
				return want(e, "status:404/failed/low/ status:429/failed/low/ status:403/failed/low/ status:400/failed/low/ status:500/failed/low/")
			}},
		{"logs reads and its own: not audited unless asked", pinned, []act{toRead, {"GET", "/list-sessions", "", "alice"}, {"GET", "/audit-log/list", "", "alice"}},
			func(e []storage.Entry, last answerSeen) string {
				if last.status != 200 {
					return last.body
				}
				return want(e, "")
			}},
		{"piiRedaction shallow, unsalted hash: deep, keyed", "audit_log {\n\t\tprofile better_auth\n capture {\n request_body on\n}\n redact hash\n}", []act{{"POST", "/update-user", `{"a":[{"b":{"Pass_Word":"hunter2"}}],"otp":123456}`, "alice"}},
			func(e []storage.Entry, _ answerSeen) string {
				m := string(e[0].Metadata)
				if strings.Contains(m, "hunter2") || strings.Contains(m, "123456") || !strings.Contains(m, "hmac-sha256:") {
					return m
				}
				return ""
			}},
		{"beforeLog: skip, set, hooks", "audit_log {\n\t\tprofile better_auth\n skip `entry.action == \"sign-out\"`\n set severity `\"critical\"`\n}", []act{toUpdate},
			func(e []storage.Entry, _ answerSeen) string { return want(e, "update-user/success/critical/alice") }},
		{"custom storage: guest modules; MemoryStorage: memory store", pinned, nil, func([]storage.Entry, answerSeen) string {
			for _, id := range []string{"audit_log.stores.sqlite", "audit_log.stores.memory"} {
				if _, err := caddy.GetModule(id); err != nil {
					return err.Error()
				}
			}
			return ""
		}},
		{"ON DELETE SET NULL: a successful deletion unlinks", pinned, []act{toUpdate, toDelete},
			func(e []storage.Entry, _ answerSeen) string {
				return want(e, "update-user/success/low/ delete-user/success/high/")
			}},
		{"any user may insert admin:ban-user: refused, and inserted entries are marked", pinned, []act{{"POST", "/audit-log/insert", `{"action":"custom:ok"}`, "alice"}, {"POST", "/audit-log/insert", `{"action":"admin:ban-user"}`, "alice"}},
			func(e []storage.Entry, last answerSeen) string {
				if last.status != 400 || len(e) != 1 || !strings.Contains(string(e[0].Metadata), `"source":"api"`) {
					return fmt.Sprint(last, summary(e))
				}
				return ""
			}},
		{"severity by substring: by route and word", pinned, []act{{"POST", "/admin/unban-user", `{"userId":"b"}`, "root"}, {"POST", "/admin/remove-user", `{"userId":"b"}`, "root"}, {"POST", "/admin/ban-user", `{"userId":"b"}`, "root"}, {"POST", "/revoke-session", `{}`, "alice"}},
			func(e []storage.Entry, _ answerSeen) string {
				return want(e, "admin:unban-user/success/high/root admin:remove-user/success/high/root admin:ban-user/success/critical/root revoke-session/success/high/alice")
			}},
	} {
		t.Run(row.name, func(t *testing.T) {
			entries, last := recordedBy(t, row.directive, row.acts...)
			if problem := row.check(entries, last); problem != "" {
				t.Error(problem)
			}
		})
	}
	t.Run("retention parsed, never run: runs", retentionRuns)
	t.Run("afterLog, onWriteError: a log line for every entry", entriesAreLogged)
}

func retentionRuns(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	s := harness.OpenStore(t, dir)
	old := storage.Entry{Action: "old", Status: storage.Success, Severity: severity.Low, CreatedAt: time.Now().Add(-48 * time.Hour)}
	young := old
	young.Action, young.CreatedAt = "young", time.Now()
	old.Sanitize()
	young.Sanitize()
	if err := s.Write(t.Context(), old, young); err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(harness.Site(dir, port, "audit_log"), "key_file", "retention 24h\n\t\tkey_file", 1)
	harness.Load(t, config)
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		page, err := s.List(t.Context(), storage.Query{})
		if err != nil {
			t.Fatal(err)
		}
		if left := harness.Captured(page.Entries); len(left) == 1 && left[0].Action == "young" {
			return
		}
	}
	t.Error("the old entry is still there after a minute")
}

func entriesAreLogged(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	file := filepath.Join(dir, "sink.json")
	config := strings.Replace(harness.Site(dir, port, pinned+"\nreverse_proxy "+harness.Upstream(t, stubAuth())), "{\n", "{\n\tlog sink {\n\t\tinclude audit_log.entries\n\t\toutput file "+file+"\n\t}\n", 1)
	harness.Load(t, config)
	send(t, fmt.Sprintf("http://127.0.0.1:%d/api/auth", port), toUpdate)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, line := range lines(t, file) {
		said = append(said, strings.TrimSpace(line.Get("logger").Str+" "+line.Get("action").Str+" "+line.Get("userId").Str))
	}
	if want := []string{"audit_log.entries audit-log:started", "audit_log.entries update-user alice", "audit_log.entries audit-log:stopped"}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
}

// TestEveryOptionIsDocumented: every field of the configuration has a doc comment's
// worth of words in docs/configuration.md under its Caddyfile name.
func TestEveryOptionIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	caddyfileNames := map[string]string{"paths": "path", "hooks": "hook", "strategy": "redact", "roles": "role", "ids": "id", "spill_bytes": "spill", "allow_headers": "allow_header"}
	for _, v := range []any{caddymodule.Handler{}, caddymodule.App{}, caddymodule.Capture{}, caddymodule.Redact{}, caddymodule.PathOptions{}, caddymodule.MetadataLimits{}, caddymodule.Admins{}, caddymodule.SQLiteStore{}, caddymodule.MemoryStore{}, caddymodule.OperatorAPI{}} {
		checkDocumented(t, text, reflect.TypeOf(v), caddyfileNames)
	}
}

func checkDocumented(t *testing.T, text string, typ reflect.Type, names map[string]string) {
	t.Helper()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			checkDocumented(t, text, f.Type, names)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		if as, ok := names[name]; ok {
			name = as
		}
		if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, "`"+name+" ") {
			t.Errorf("%s.%s: docs/configuration.md does not have `%s`", typ.Name(), f.Name, name)
		}
	}
}
