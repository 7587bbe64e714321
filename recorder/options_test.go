package recorder_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/recorder/rule"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// hookFunc is a hook of one function.
type hookFunc func(d *recorder.Draft) error

func (f hookFunc) BeforeLog(_ context.Context, d *recorder.Draft) error { return f(d) }

func withHook(f hookFunc) func(*recorder.Options) {
	return func(o *recorder.Options) { o.Hooks = append(o.Hooks, f) }
}

func TestAHookMayChangeAnEntryButNotItsPlaceNorPutSecretsIn(t *testing.T) {
	g := newRig(t, withHook(func(d *recorder.Draft) error {
		d.Entry.ID, d.Entry.CreatedAt = "mine", d.Entry.CreatedAt.AddDate(-5, 0, 0)
		d.Entry.Severity, d.Entry.UserID = severity.Critical, d.Request.Method+" "+d.Identity.UserID
		d.Entry.Metadata = json.RawMessage(strings.Replace(string(d.Entry.Metadata), "{", `{"team":"blue","password":"hunter2","deep":{"token":"t"},`, 1))
		return nil
	}))
	g.do("POST", "/sign-in/email", `{"email":"a@b.c"}`, nil, answers(401, `{"code":"INVALID_PASSWORD","message":"no"}`))
	e, m := g.one()
	if e.ID == "mine" || e.CreatedAt.Year() < 2026 || e.Severity != severity.Critical || e.UserID != "POST " {
		t.Errorf("%+v", e)
	}
	if m["team"] != "blue" || strings.Contains(string(e.Metadata), "hunter2") || !strings.Contains(string(e.Metadata), `"code":"INVALID_PASSWORD"`) {
		t.Errorf("%s", e.Metadata)
	}
}

func TestAHookThatFailsLeavesTheEntryAsItWas(t *testing.T) {
	for name, f := range map[string]hookFunc{
		"an error":              func(d *recorder.Draft) error { d.Entry.Action = "changed"; return errors.New("no") },
		"a panic":               func(d *recorder.Draft) error { d.Entry.Action = "changed"; panic("boom") },
		"no entry":              func(d *recorder.Draft) error { d.Entry = nil; return nil },
		"no action":             func(d *recorder.Draft) error { d.Entry.Action = ""; return nil },
		"the log's own action":  func(d *recorder.Draft) error { d.Entry.Action = " Audit-Log/stopped"; return nil },
		"a status that is none": func(d *recorder.Draft) error { d.Entry.Status = "fine"; return nil },
		"metadata that is none": func(d *recorder.Draft) error { d.Entry.Metadata = json.RawMessage(`["x"]`); return nil },
		"too much metadata": func(d *recorder.Draft) error {
			d.Entry.Metadata = json.RawMessage(`{"x":"` + strings.Repeat("y", 70000) + `"}`)
			return nil
		},
	} {
		g := newRig(t, withHook(f))
		g.do("POST", "/update-user", `{}`, nil, answers(200, `{}`))
		if e, _ := g.one(); e.Action != "update-user" || e.Status != storage.Success || g.rec.HookFailures() != 1 {
			t.Errorf("%s: %+v, %d failures", name, e, g.rec.HookFailures())
		}
	}
}

// TestARuleThatFailsIsCountedAndTheOthersCount: with the real rules.
func TestARuleThatFailsIsCountedAndTheOthersCount(t *testing.T) {
	rules, err := rule.Compile(rule.Spec{Set: []rule.SetExpr{
		{Field: "metadata.tenant", Expr: rule.Expr{Text: `request.headers["x-tenant"][0]`}},
		{Field: "severity", Expr: rule.Expr{Text: `"critical"`}},
	}})
	must(t, err)
	g := newRig(t, func(o *recorder.Options) { o.Hooks = append(o.Hooks, rules) })
	g.writer.Metrics = new(recorder.Metrics)
	g.do("POST", "/update-user", `{}`, nil, answers(200, `{}`))
	if e, _ := g.one(); e.Severity != severity.Critical || g.rec.HookFailures() != 1 || g.writer.Metrics.Snapshot().HookFailures != 1 {
		t.Errorf("%+v, %d failures, %d in the metric", e, g.rec.HookFailures(), g.writer.Metrics.Snapshot().HookFailures)
	}
}

// TestRulesRedactAsTheSiteDoes: with its own names, and paths as the log shows them.
func TestRulesRedactAsTheSiteDoes(t *testing.T) {
	rules, err := rule.Compile(rule.Spec{Set: []rule.SetExpr{
		{Field: "metadata.badge", Expr: rule.Expr{Text: `request.headers["x-badge"][0]`}},
		{Field: "metadata.where", Expr: rule.Expr{Text: `request.path`}},
		{Field: "action", Expr: rule.Expr{Text: `"token:refresh:" + request.headers["x-note"][0]`}},
		{Field: "userAgent", Expr: rule.Expr{Text: `entry.userAgent + " " + string(entry.metadata.method) + " x-badge=1234"`}},
	}})
	must(t, err)
	g := newRig(t, func(o *recorder.Options) {
		o.Hooks = append(o.Hooks, rules)
		o.Redactor, err = redact.New(redact.Options{AddFields: []string{"x-badge"}})
		must(t, err)
	})
	g.do("POST", "/reset-password/ab12", `{}`, http.Header{"X-Badge": {"4711"}, "X-Note": {"alice@example.com"}}, answers(200, `{}`))
	e, m := g.one()
	if m["badge"] != "[REDACTED]" || m["where"] != "/reset-password/:token" || e.Action != "token:refresh::redacted" || e.UserAgent != "rig/1 POST x-badge=[REDACTED]" {
		t.Errorf("%q by %q: %s", e.Action, e.UserAgent, e.Metadata)
	}
}

func TestAHookMaySuppressAnEntryButNotTakeBackAnIntent(t *testing.T) {
	g := newRig(t, withHook(func(d *recorder.Draft) error { d.Skip = true; return nil }))
	g.do("POST", "/update-user", `{}`, nil, answers(200, `{}`))
	g.do("POST", "/sign-out", `{}`, nil, answers(200, `{}`))
	if n := len(g.store.Entries()); n != 0 {
		t.Errorf("%d entries were written", n)
	}
	g = newRig(t, withHook(func(d *recorder.Draft) error { d.Skip = d.Entry.Status == storage.Success; return nil }))
	g.do("POST", "/sign-out", `{}`, nil, answers(200, `{}`))
	if e, _ := g.one(); e.Status != storage.Success {
		t.Errorf("the intent was left as %s", e.Status)
	}
}

// ears is an Observer that counts.
type ears struct{ written, failed []string }

func (e *ears) EntryWritten(entry storage.Entry) { e.written = append(e.written, entry.Action) }
func (e *ears) WriteFailed(_ error, entries []storage.Entry) {
	e.failed = append(e.failed, entries[0].Action)
}

func TestAnObserverHearsOfFinalEntriesOnce(t *testing.T) {
	for _, d := range []recorder.Durability{recorder.Fsync, recorder.Async} {
		heard := new(ears)
		g := newRig(t, func(o *recorder.Options) { o.Observer, o.Durability = heard, d })
		g.do("POST", "/sign-out", `{}`, nil, answers(200, `{}`))
		g.store.set(true)
		g.do("POST", "/update-user", `{}`, nil, answers(200, `{}`))
		g.store.set(false)
		must(t, g.writer.Close(t.Context()))
		if strings.Join(heard.written, " ") != "sign-out update-user" || d == recorder.Fsync && strings.Join(heard.failed, " ") != "update-user" {
			t.Errorf("durability %d: written %v, failed %v", d, heard.written, heard.failed)
		}
	}
}

func TestADeletedUsersEntriesStayWithoutTheUser(t *testing.T) {
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		answer                   string
		keep                     bool
		want                     string // user of the earlier entry
	}{
		{"the own account", "POST", "/delete-user", `{}`, 200, `{"message":"User deleted"}`, false, ""},
		{"by the link in a mail", "GET", "/delete-user/callback?token=x", ``, 302, ``, false, ""},
		{"by the link in a mail, sent on to a page", "GET", "/delete-user/callback?token=x", ``, 303, ``, false, ""},
		{"by the link in a mail, at another address", "GET", "/delete-user/callback?token=x", ``, 307, ``, false, "alice"},
		{"at another address from now on", "POST", "/admin/remove-user", `{"userId":"alice"}`, 308, ``, false, "alice"},
		{"at an address that has moved", "POST", "/admin/remove-user", `{"userId":"alice"}`, 301, ``, false, "alice"},
		{"an anonymous account", "POST", "/delete-anonymous-user", `{}`, 200, `{}`, false, ""},
		{"by an administrator", "POST", "/admin/remove-user", `{"userId":"alice"}`, 200, `{}`, false, ""},
		{"a failure", "POST", "/delete-user", `{}`, 400, `{}`, false, "alice"},
		{"a mail that asks first", "POST", "/delete-user", `{}`, 200, `{"message":"Verification email sent"}`, false, "alice"},
		{"somebody else", "POST", "/admin/remove-user", `{"userId":"bob"}`, 200, `{}`, false, "alice"},
		{"unlink off", "POST", "/delete-user", `{}`, 200, `{"message":"User deleted"}`, true, "alice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, func(o *recorder.Options) { o.KeepUsers = c.keep })
			g.do("POST", "/update-user", `{}`, cookie("s-alice"), answers(200, `{}`))
			who := "s-alice"
			if strings.HasPrefix(c.path, "/admin") {
				who = "s-admin"
			}
			g.do(c.method, c.path, c.body, cookie(who), answers(c.status, c.answer))
			if got := g.store.Entries()[0].UserID; got != c.want {
				t.Errorf("a crash at this moment leaves the entry with user %q", got)
			}
			must(t, g.writer.Close(t.Context()))
			entries := g.store.Entries()
			if len(entries) != 2 || entries[0].UserID != c.want {
				t.Errorf("%+v", entries)
			}
			if who == "s-admin" && entries[1].UserID != "admin" {
				t.Errorf("the administrator is gone too: %+v", entries[1])
			}
		})
	}
}

func TestRoutesHaveTheirOwnOptions(t *testing.T) {
	low := severity.Low
	g := newRig(t, func(o *recorder.Options) {
		o.OnlyRoutes = true
		o.Routes = map[string]recorder.RouteOptions{
			"/delete-user": {Severity: &low, Capture: &recorder.Capture{RequestBody: true}, Fail: recorder.FailOpen},
		}
	})
	for path, want := range map[string]bool{"/delete-user": true, "/sign-out": false, "/sign-in/email": false, "/unknown": true, "/x/../sign-out": true} {
		m, _ := g.rec.Profile.Match("POST", target("/api/auth"+path))
		if got := g.rec.Wants(m); got != want {
			t.Errorf("%s is recorded: %v", path, got)
		}
	}
	g.do("POST", "/delete-user", `{"password":"hunter2","why":"tired"}`, cookie("s-alice"), answers(200, `{"message":"no"}`))
	e, _ := g.one()
	if e.Severity != low || e.IPAddress != "" || e.UserAgent != "" || !strings.Contains(string(e.Metadata), `"requestBody":{"password":"[REDACTED]","why":"tired"}`) {
		t.Errorf("%+v %s", e, e.Metadata)
	}
}

func TestMetadataKeepsItsLimit(t *testing.T) {
	g := newRig(t, func(o *recorder.Options) { o.MaxMetadata, o.Capture.RequestBody = 500, true })
	g.do("POST", "/update-user", `{"name":"`+strings.Repeat("x", 1000)+`"}`, nil, answers(200, `{}`))
	if e, _ := g.one(); len(e.Metadata) > 500 || !strings.Contains(string(e.Metadata), `"requestBody":{"unparsed":"longer than the limit of metadata"`) {
		t.Errorf("%d bytes: %s", len(e.Metadata), e.Metadata)
	}
}

func TestAProfileCanBeCustomized(t *testing.T) {
	p, err := profile.Builtin("better_auth")
	must(t, err)
	c, err := p.Customize(func(r *profile.Route) {
		if profile.MatchPattern("/two-factor/*", r.Path) {
			r.Timing = profile.Before
		}
	}, &profile.Route{Path: "/own/route", Class: "custom"})
	must(t, err)
	for path, want := range map[string]profile.Timing{"/two-factor/enable": profile.Before, "/sign-in/email": profile.After, "/own/route": profile.After, "/callback/x": profile.After} {
		if m, ok := c.Match("POST", target("/api/auth"+path)); !ok || !m.Route.Known() || m.Route.Timing != want {
			t.Errorf("%s: %+v", path, m.Route)
		}
	}
	if m, _ := p.Match("POST", target("/api/auth/two-factor/enable")); m.Route.Timing != profile.After {
		t.Error("the original was changed")
	}
}

// Whoever plants a session of their own in somebody's browser gets that person's acts into
// their name (threats.md C9): the hash beside the user shows that it is one session, and whose.
func TestTheSessionOfAnEntryIsKnownByItsHash(t *testing.T) {
	signIn := func(g *rig, with http.Header, token string) {
		g.do("POST", "/sign-in/email", `{}`, with, answers(200, signedIn, "Set-Cookie", "better-auth.session_token="+token+"; Path=/"))
	}
	hashes := func(g *rig) (list []string) {
		for _, e := range g.store.Entries() {
			if strings.Contains(string(e.Metadata), "-of-") {
				t.Errorf("a session stands in %s", e.Metadata)
			}
			var m struct{ SessionHash string }
			if err := json.Unmarshal(e.Metadata, &m); err != nil {
				t.Fatal(err)
			}
			list = append(list, m.SessionHash)
		}
		return list
	}
	g := newRig(t, func(o *recorder.Options) { o.Capture.Session = true })
	signIn(g, nil, "first-of-mallory")
	signIn(g, cookie("first-of-mallory"), "second-of-alice")
	g.do("POST", "/update-user", `{}`, cookie("first-of-mallory"), answers(200, `{}`)) // in alice's browser
	g.do("POST", "/sign-out", `{}`, cookie("second-of-alice"), answers(200, `{}`))
	g.do("POST", "/sign-in/email", `{}`, cookie("first-of-mallory"), answers(401, `{}`))
	g.do("POST", "/sign-in/email", `{}`, nil, answers(401, `{}`))
	first, second := g.rec.Redactor.HashTag("session", "first-of-mallory"), g.rec.Redactor.HashTag("session", "second-of-alice")
	if got, want := hashes(g), []string{first, second, first, second, first, ""}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	g = newRig(t, nil)
	signIn(g, nil, "first-of-mallory")
	g.do("POST", "/update-user", `{}`, cookie("first-of-mallory"), answers(200, `{}`))
	if got := hashes(g); !slices.Equal(got, []string{"", ""}) {
		t.Errorf("nobody asked for %q", got)
	}
}
