package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func init() {
	caddy.RegisterModule(new(testHook))
	caddy.RegisterModule(new(testEvents))
}

// ears are what tests listen with, by name.
var ears sync.Map

// ear is a test's hold on its hook and its event handler.
type ear struct {
	// before is what the hook does; nil for nothing.
	before func(e *storage.Entry) (*storage.Entry, error)
	// block holds AfterLog up until it is closed; nil for nothing.
	block chan struct{}

	// mu protects the fields below.
	mu     sync.Mutex
	after  []storage.Entry
	events []caddy.Event
}

func newEar(t *testing.T) *ear {
	t.Helper()
	e := new(ear)
	ears.Store(t.Name(), e)
	t.Cleanup(func() { ears.Delete(t.Name()) })
	return e
}

func (e *ear) heard() (after []storage.Entry, events []caddy.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.after), slices.Clone(e.events)
}

// named is a module that finds its ear by name.
type named struct {
	Name string `json:"name,omitempty"`
	ear  *ear
}

func (n *named) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&n.Name)
	return nil
}

func (n *named) Provision(caddy.Context) error {
	e, ok := ears.Load(n.Name)
	if !ok {
		return errors.New("no test has made this ear")
	}
	n.ear = e.(*ear)
	return nil
}

// testHook is a guest module of both kinds.
type testHook struct{ named }

func (*testHook) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.hooks.e2e_hook", New: func() caddy.Module { return new(testHook) }}
}

func (h *testHook) BeforeLog(_ context.Context, e *storage.Entry) (*storage.Entry, error) {
	if h.ear.before == nil {
		return e, nil
	}
	return h.ear.before(e)
}

func (h *testHook) AfterLog(_ context.Context, e storage.Entry) {
	if h.ear.block != nil {
		<-h.ear.block
	}
	h.ear.mu.Lock()
	defer h.ear.mu.Unlock()
	h.ear.after = append(h.ear.after, e)
}

// testEvents keeps the events that it handles.
type testEvents struct{ named }

func (*testEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.e2e_events", New: func() caddy.Module { return new(testEvents) }}
}

func (h *testEvents) Handle(ctx context.Context, e caddy.Event) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	h.ear.mu.Lock()
	defer h.ear.mu.Unlock()
	h.ear.events = append(h.ear.events, e)
	return nil
}

var (
	_ caddymodule.HookModule     = (*testHook)(nil)
	_ caddymodule.AfterLogModule = (*testHook)(nil)
)

// namedAuth signs in whomever the header X-User names; "nobody" is refused.
func namedAuth(t testing.TB) string {
	t.Helper()
	return harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Type", "application/json")
		if user := r.Header.Get("X-User"); user != "nobody" {
			_, _ = fmt.Fprintf(w, `{"token":null,"user":{"id":%q}}`, user)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"code":"INVALID_EMAIL_OR_PASSWORD","message":"Invalid email or password"}`)
	}))
}

// signInAs signs in and returns the status and how long it took.
func signInAs(t testing.TB, port int, user string) (int, time.Duration) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), strings.NewReader(`{"email":"ann@example.com","password":"pass-in-clear"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-User", user)
	r.Header.Set("X-Tenant", "red")
	r.Header.Set("Authorization", "Bearer header-in-clear")
	began := time.Now()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode, time.Since(began)
}

// eventually waits until something is so, or fails.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(hang); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v: %s", hang, what)
		}
	}
}

// ruled runs a site whose audit_log has the given lines and returns its port and
// folder.
func ruled(t *testing.T, options, directive string) (port int, dir string) {
	t.Helper()
	harness.Use(t)
	dir, port = t.TempDir(), harness.FreePort(t)
	harness.Load(t, site(database(dir), port, namedAuth(t), options, directive))
	return port, dir
}

// users lists the users of the stored entries in order.
func users(entries []storage.Entry) []string {
	var list []string
	for _, e := range entries {
		list = append(list, e.UserID)
	}
	return list
}

func TestRulesSkip(t *testing.T) {
	port, dir := ruled(t, "", "skip `entry.userId == \"service-account\"`\n\t\tskip entry.userId == \"robot\" && request.headers[\"x-tenant\"][0] == \"red\"")
	for _, user := range []string{"ann", "service-account", "robot", "bob"} {
		if status, _ := signInAs(t, port, user); status != http.StatusOK {
			t.Errorf("%s got %d", user, status)
		}
	}
	stop(t)
	if got := users(entriesIn(t, database(dir), time.Time{})); !slices.Equal(got, []string{"ann", "bob"}) {
		t.Errorf("entries of %v", got)
	}
}

func TestRulesSet(t *testing.T) {
	port, dir := ruled(t, "", "set severity `entry.status == \"failed\" ? \"critical\" : entry.severity`\n"+
		"\t\tset metadata.tenant `request.headers[\"x-tenant\"][0]`\n"+
		"\t\tset metadata.credential `request.headers[\"authorization\"][0]`\n"+
		"\t\tset metadata.copied `request.headers[\"authorization\"][0]`\n"+
		"\t\tset action `entry.action + \":\" + string(entry.metadata.tenant)`\n"+
		"\t\tset status `\"non\" + \"sense\"`")
	for _, user := range []string{"ann", "nobody"} {
		signInAs(t, port, user)
	}
	stop(t)
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != 2 {
		t.Fatalf("%d entries", len(entries))
	}
	for i, want := range []struct {
		status storage.Status
		level  severity.Level
	}{{storage.Success, severity.Medium}, {storage.Failed, severity.Critical}} {
		e := entries[i]
		if e.Status != want.status || e.Severity != want.level || e.Action != "sign-in:email:red" || gjson.GetBytes(e.Metadata, "tenant").Str != "red" {
			t.Errorf("entry %d: %+v %s", i, e, e.Metadata)
		}
	}
	holdsNot(t, dir, "in-clear")
}

// holdsNot looks for a secret in every file of a folder.
func holdsNot(t testing.TB, dir, secret string) {
	t.Helper()
	for _, file := range files(t, dir) {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), secret) {
			t.Errorf("%q is in %s", secret, filepath.Base(file))
		}
	}
}

func TestRulesHookModule(t *testing.T) {
	original := []string{"sign-in:email"}
	for name, c := range map[string]struct {
		before  func(e *storage.Entry) (*storage.Entry, error)
		actions []string
	}{
		"changes the entry": {func(e *storage.Entry) (*storage.Entry, error) { e.Action = "changed"; return e, nil }, []string{"changed"}},
		"returns another entry, whose place in the log stays": {func(*storage.Entry) (*storage.Entry, error) {
			return &storage.Entry{ID: "mine", Action: "other", Status: storage.Success}, nil
		}, []string{"other"}},
		"suppresses it": {func(*storage.Entry) (*storage.Entry, error) { return nil, nil }, nil},
		"fails after a change": {func(e *storage.Entry) (*storage.Entry, error) {
			e.Action = "changed"
			return e, errors.New("on purpose")
		}, original},
		"panics":             {func(e *storage.Entry) (*storage.Entry, error) { e.Action = "changed"; panic("on purpose") }, original},
		"no action":          {func(e *storage.Entry) (*storage.Entry, error) { e.Action = ""; return e, nil }, original},
		"a strange status":   {func(e *storage.Entry) (*storage.Entry, error) { e.Status = "strange"; return e, nil }, original},
		"a strange severity": {func(e *storage.Entry) (*storage.Entry, error) { e.Severity = 77; return e, nil }, original},
		"broken metadata":    {func(e *storage.Entry) (*storage.Entry, error) { e.Metadata = json.RawMessage(`{"a`); return e, nil }, original},
		"broken in place": {func(e *storage.Entry) (*storage.Entry, error) {
			clear(e.Metadata)
			return nil, errors.New("on purpose")
		}, original},
		"adds a secret": {func(e *storage.Entry) (*storage.Entry, error) {
			e.Metadata = json.RawMessage(`{"password":"hook-in-clear","deep":{"list":[{"apiKey":"hook-in-clear"}]},"note":"fine"}`)
			return e, nil
		}, original},
	} {
		t.Run(name, func(t *testing.T) {
			newEar(t).before = c.before
			port, dir := ruled(t, "", "capture {\n\t\t\trequest_body on\n\t\t}\n\t\thook e2e_hook "+fmt.Sprintf("%q", t.Name()))
			if status, _ := signInAs(t, port, "ann"); status != http.StatusOK {
				t.Errorf("status %d", status)
			}
			stop(t)
			var actions []string
			for _, e := range entriesIn(t, database(dir), time.Time{}) {
				actions = append(actions, e.Action)
				if e.ID == "mine" || e.CreatedAt.IsZero() || e.CreatedAt.Year() < 2020 || !json.Valid(e.Metadata) {
					t.Errorf("%+v %s", e, e.Metadata)
				}
				if name == "adds a secret" && gjson.GetBytes(e.Metadata, "note").Str != "fine" {
					t.Errorf("what is no secret is gone: %s", e.Metadata)
				}
			}
			if !slices.Equal(actions, c.actions) {
				t.Errorf("actions %v, want %v", actions, c.actions)
			}
			holdsNot(t, dir, "in-clear")
		})
	}
}

func TestRulesAreAskedInOrderAndThenTheHook(t *testing.T) {
	e := newEar(t)
	e.before = func(e *storage.Entry) (*storage.Entry, error) { e.Action += ":hook"; return e, nil }
	port, dir := ruled(t, "", "hook e2e_hook "+t.Name()+"\n\t\tset action `entry.action + \":one\"`\n\t\tset action `entry.action + \":two\"`")
	signInAs(t, port, "ann")
	stop(t)
	entries := entriesIn(t, database(dir), time.Time{})
	if len(entries) != 1 || entries[0].Action != "sign-in:email:one:two:hook" {
		t.Errorf("%+v", entries)
	}
}

func TestRulesEvents(t *testing.T) {
	e := newEar(t)
	port, dir := ruled(t, "events {\n\t\ton audit_log.entry e2e_events "+t.Name()+"\n\t}", "hook e2e_hook "+t.Name())
	for n := range 20 {
		signInAs(t, port, fmt.Sprintf("user-%d", n))
	}
	stop(t) // at once: what is waiting is told all the same
	after, events := e.heard()
	events = slices.DeleteFunc(events, func(event caddy.Event) bool {
		action, _ := event.Data["entry"].(map[string]any)["action"].(string)
		return (&storage.Entry{Action: action}).OwnLife()
	})
	entries := entriesIn(t, database(dir), time.Time{})
	if len(events) != 20 || len(after) != 20 || len(entries) != 20 {
		t.Fatalf("%d events, %d calls of AfterLog, %d entries, want 20 each", len(events), len(after), len(entries))
	}
	for i, event := range events {
		fields, ok := event.Data["entry"].(map[string]any)
		if !ok || fields["id"] != entries[i].ID || fields["userId"] != entries[i].UserID || fields["metadata"].(map[string]any)["class"] != "sign-in" || after[i].ID != entries[i].ID {
			t.Errorf("event %d: %v, AfterLog %+v, entry %+v", i, event.Data, after[i], entries[i])
		}
		if m := event.Origin(); m == nil || m.CaddyModule().ID != "audit_log.entries" || event.Name() != "audit_log.entry" {
			t.Errorf("event %s of %v", event.Name(), m)
		}
	}
}

func TestRulesEventOfAFailedWrite(t *testing.T) {
	e, sw := newEar(t), newFailingStore(t)
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	sw.down.Store(true)
	config := site(database(dir), port, namedAuth(t), "events {\n\t\ton audit_log.write_failed e2e_events "+t.Name()+"\n\t\ton audit_log.entry e2e_events "+t.Name()+"\n\t}", "durability fsync")
	config = strings.Replace(config, "store sqlite {\n\t\t\tpath "+database(dir)+"\n\t\t}", "store e2e_failing "+t.Name(), 1)
	harness.Load(t, config)
	if status, _ := signInAs(t, port, "ann"); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	names := func() (list []string) {
		_, events := e.heard()
		for _, event := range events {
			list = append(list, event.Name())
		}
		return list
	}
	eventually(t, "no event of the failed write", func() bool { return slices.Contains(names(), "audit_log.write_failed") })
	_, events := e.heard()
	if got := events[0].Data; got["count"] != 1 || !strings.Contains(fmt.Sprint(got["error"]), errStoreDown.Error()) {
		t.Errorf("%v", got)
	}
	sw.down.Store(false)
	eventually(t, "no event of the entry once the store works again", func() bool { return slices.Contains(names(), "audit_log.entry") })
}

// lines reads a log of JSON lines.
func lines(t testing.TB, file string) []gjson.Result {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []gjson.Result
	for line := range strings.Lines(string(b)) {
		if !gjson.Valid(line) {
			t.Fatalf("no JSON: %s", line)
		}
		list = append(list, gjson.Parse(line))
	}
	return list
}

func TestRulesLogIsASink(t *testing.T) {
	logs := t.TempDir()
	file := filepath.Join(logs, "audit.json")
	port, dir := ruled(t, "log audit {\n\t\tinclude audit_log.entries\n\t\toutput file "+file+"\n\t\tformat json\n\t}", "capture {\n\t\t\trequest_body on\n\t\t}")
	for _, user := range []string{"ann", "nobody"} {
		signInAs(t, port, user)
	}
	stop(t)
	entries := entriesIn(t, database(dir), time.Time{})
	got := slices.DeleteFunc(lines(t, file), func(line gjson.Result) bool { return (&storage.Entry{Action: line.Get("action").Str}).OwnLife() })
	if len(got) != 2 || len(entries) != 2 {
		t.Fatalf("%d lines, %d entries", len(got), len(entries))
	}
	for i, e := range entries {
		line := got[i]
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"id", "userId", "action", "status", "severity", "ipAddress", "userAgent", "createdAt"} {
			if a, b := line.Get(name), gjson.GetBytes(want, name); !a.Exists() || a.Raw != b.Raw {
				t.Errorf("%s is %s, want %s", name, a.Raw, b.Raw)
			}
		}
		if m := line.Get("metadata"); !m.IsObject() || !sameJSON(t, m.Raw, string(e.Metadata)) {
			t.Errorf("metadata %s, want %s", m.Raw, e.Metadata)
		}
		if level := map[bool]string{true: "warn", false: "info"}[e.Severity >= severity.High]; line.Get("level").Str != level || line.Get("logger").Str != "audit_log.entries" {
			t.Errorf("%s", line.Raw)
		}
	}
	holdsNot(t, logs, "in-clear")
}

func sameJSON(t testing.TB, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}

// TestRulesReload reloads the configuration while requests are under way: every
// entry has its event, its call of AfterLog and its line in the log.
func TestRulesReload(t *testing.T) {
	e := newEar(t)
	harness.Use(t)
	dir, logs, port, auth := t.TempDir(), t.TempDir(), harness.FreePort(t), namedAuth(t)
	file := filepath.Join(logs, "audit.json")
	config := func(n int) string {
		return site(database(dir), port, auth, "grace_period 5s\n\tevents {\n\t\ton audit_log.entry e2e_events "+t.Name()+"\n\t}\n\tlog audit {\n\t\tinclude audit_log.entries\n\t\toutput file "+file+"\n\t}",
			fmt.Sprintf("hook e2e_hook %s\n\t\tset metadata.n `%d`", t.Name(), n))
	}
	harness.Load(t, config(0))
	quit := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-quit:
					return
				default:
					signInOnce(port, fmt.Sprintf("user-%d", n))
				}
			}
		})
	}
	for n := 1; n <= 10; n++ {
		time.Sleep(50 * time.Millisecond)
		harness.Load(t, config(n))
	}
	close(quit)
	clients.Wait()
	stop(t)
	n := len(all(t, harness.OpenStore(t, dir), storage.Query{})) // those of starts and of the stop are told, but not to the hooks of a directive
	own := ownOf(t, harness.OpenStore(t, dir))
	after, events := e.heard()
	if n < 20 || len(events) != n || len(after) != n-own || len(lines(t, file)) != n {
		t.Errorf("%d entries, %d events, %d calls of AfterLog, %d lines", n, len(events), len(after), len(lines(t, file)))
	}
}

// signInOnce is signInAs for a request that a reload may break.
func signInOnce(port int, user string) {
	r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), strings.NewReader(`{}`))
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-User", user)
	if res, err := http.DefaultClient.Do(r); err == nil {
		_ = res.Body.Close()
	}
}

func TestRulesAListenerThatHangsDelaysNobody(t *testing.T) {
	e := newEar(t)
	e.block = make(chan struct{})
	port, dir := ruled(t, "", "hook e2e_hook "+t.Name())
	for n := range 20 {
		if status, took := signInAs(t, port, fmt.Sprintf("user-%d", n)); status != http.StatusOK || took > 2*time.Second {
			t.Errorf("status %d after %s", status, took)
		}
	}
	began := time.Now()
	stop(t)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %s", took)
	}
	close(e.block)
	if n := len(entriesIn(t, database(dir), time.Time{})); n != 20 {
		t.Errorf("%d entries", n)
	}
}

func TestRulesMistakesNameTheirLine(t *testing.T) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	for directive, want := range map[string]string{
		"skip `entry.usrId == \"x\"`": "undefined field 'usrId'",
		"set severity `1`":            "must be string",
		"set id `\"x\"`":              "no field \"id\"",
		"skip":                        "skip needs an expression",
		"set severity":                "set needs a field and an expression",
		"hook":                        "hook needs a name",
		"hook nothing":                "unknown hook 'nothing'",
	} {
		_, _, err := adapter.Adapt([]byte("http://:80 {\n\taudit_log {\n\t\t"+directive+"\n\t}\n}\n"), map[string]any{"filename": "Caddyfile"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:3") {
			t.Errorf("%s: %v", directive, err)
		}
	}
}
