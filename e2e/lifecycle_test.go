package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// ownEntry is what the log says of itself.
type ownEntry struct {
	Action         string         `json:"-"`
	Severity       severity.Level `json:"-"`
	Config         string         `json:"config"`
	PreviousConfig string         `json:"previousConfig"`
	Handlers       int            `json:"handlers"`
	Sites          []string       `json:"sites"`
	Reason         string         `json:"reason"`
	Node           string         `json:"node"`
}

// ownEntries waits until the log has n entries of its starts and stops.
func ownEntries(t *testing.T, dir string, n int) (own []ownEntry) {
	t.Helper()
	store := harness.OpenStore(t, dir)
	for end := time.Now().Add(hang); ; time.Sleep(20 * time.Millisecond) {
		own = nil
		for _, e := range all(t, store, storage.Query{}) {
			if !strings.HasPrefix(e.Action, "audit-log:") {
				continue
			}
			o := ownEntry{Action: strings.TrimPrefix(e.Action, "audit-log:"), Severity: e.Severity}
			if err := json.Unmarshal(e.Metadata, &o); err != nil || e.UserID != "" || e.IPAddress != "" || e.Status != storage.Success {
				t.Fatalf("%v: %+v", err, e)
			}
			own = append(own, o)
		}
		if len(own) >= n || time.Now().After(end) {
			return own
		}
	}
}

// TestTheLogSaysWhenItStopped: who takes the log out of a configuration, or changes what it
// records, leaves an entry of that (threats.md A30).
func TestTheLogSaysWhenItStopped(t *testing.T) {
	harness.Use(t)
	dir, port, other := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	auth := harness.Upstream(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	with := func(options string) string {
		return harness.Site(dir, port, fmt.Sprintf("audit_log {\nprofile better_auth\n%s\n}\nreverse_proxy %s", options, auth))
	}
	beside := func(directives string) string {
		return fmt.Sprintf("http://127.0.0.1:%d {\n%s\n}\n", other, directives)
	}
	harness.Load(t, with(""))
	first := lastOwn(t, dir, 1)
	harness.Load(t, with("")+beside("respond hello")) // nothing of ours
	harness.Load(t, with("checks off"))
	second := lastOwn(t, dir, 2)
	if err := harness.TryLoad(t, with("rollup 0")+beside("bind 192.0.2.1")); err == nil {
		t.Fatal("a configuration with an address that is not this machine's was taken")
	}
	said := ownEntries(t, dir, 2)
	failed := len(said) - 2 // 2 if our app started before the other failed
	if last := said[len(said)-1]; last.Config != second.Config || failed != 0 && failed != 2 {
		t.Errorf("after a reload that failed the log says %+v", said)
	}
	harness.Load(t, with("enabled off"))
	off := lastOwn(t, dir, failed+3)
	harness.Load(t, with("checks off"))
	again := lastOwn(t, dir, failed+4)
	harness.Load(t, fmt.Sprintf("http://127.0.0.1:%d {\nreverse_proxy %s\n}\n", port, auth))
	without := lastOwn(t, dir, failed+5)
	harness.Load(t, with(""))
	back := lastOwn(t, dir, failed+6)
	elsewhere := t.TempDir() // to another log, while this one is read
	harness.Load(t, strings.Replace(with(""), dir+"/audit.db", elsewhere+"/audit.db", 1)+
		beside(fmt.Sprintf("audit_log_api {\nstore sqlite {\npath %s/audit.db\n}\n}", dir)))
	moved := lastOwn(t, dir, failed+7)

	started := func(config, before string) ownEntry {
		name, _ := os.Hostname() // "" if there is none
		return ownEntry{Action: "started", Severity: severity.Medium, Config: config, PreviousConfig: before, Handlers: 1, Sites: []string{"127.0.0.1"}, Node: name}
	}
	stopped := started(second.Config, "")
	stopped.Action, stopped.Severity, stopped.Reason = "stopped", severity.High, "configuration"
	stoppedFirst := stopped
	stoppedFirst.Config = first.Config
	for name, c := range map[string]struct{ got, want ownEntry }{
		"first":         {first, started(first.Config, "")},
		"other options": {second, started(second.Config, first.Config)},
		"disabled":      {off, stopped},
		"enabled":       {again, started(second.Config, "")},
		"taken out":     {without, stopped},
		"put back":      {back, started(first.Config, "")},
		"moved":         {moved, stoppedFirst},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: the log says\n%+v\nwant\n%+v", name, c.got, c.want)
		}
	}
	if len(first.Config) != 16 || first.Config == second.Config {
		t.Errorf("digests %q and %q", first.Config, second.Config)
	}
}

// TestARefusedConfigurationHidesNoStop: one whose apps have started, and that Caddy then refuses
// without stopping them. The stop is told, too, by whoever tells of entries.
func TestARefusedConfigurationHidesNoStop(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	with := func(port int, options string) string {
		return harness.Site(dir, port, fmt.Sprintf("audit_log {\nprofile better_auth\n%s\n}\nrespond ok", options))
	}
	harness.Load(t, with(port, ""))
	var config map[string]any
	if err := json.Unmarshal(harness.Adapt(t, with(harness.FreePort(t), "checks off")), &config); err != nil {
		t.Fatal(err)
	}
	config["admin"] = map[string]any{"disabled": true, "remote": map[string]any{"listen": "127.0.0.1:0", "access_control": []any{map[string]any{"public_keys": []string{"no key"}}}}}
	refused, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(refused, true); err == nil {
		t.Fatal("an access control without a key was taken")
	}
	harness.Load(t, fmt.Sprintf("http://127.0.0.1:%d {\nrespond ok\n}\n", port))
	own := ownEntries(t, dir, 4)
	var said []string
	for _, o := range own {
		said = append(said, fmt.Sprintf("%s %s %v", o.Action, o.Reason, o.Config == own[0].Config))
	}
	if want := []string{"started  true", "started  false", "started  true", "stopped configuration true"}; !slices.Equal(said, want) {
		t.Errorf("the log says %q, want %q", said, want)
	}
	log, err := os.ReadFile(filepath.Join(dir, "caddy.log"))
	if err != nil || strings.Count(string(log), `"action":"audit-log:stopped","status"`) != 1 {
		t.Errorf("Caddy's log does not tell of the stop once: %v\n%s", err, log)
	}
}

// TestAFailedStartIsNoStopOfARunningCaddy: nobody is to be alarmed by a port that is taken.
func TestAFailedStartIsNoStopOfARunningCaddy(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	taken := fmt.Sprintf("http://127.0.0.1:%d {\nbind 192.0.2.1\n}\n", harness.FreePort(t))
	for range 20 { // apps start in random order
		if err := harness.TryLoad(t, harness.Site(dir, port, "audit_log\nrespond ok")+taken); err == nil {
			t.Fatal("a configuration with an address that is not this machine's was taken")
		}
	}
	harness.Load(t, harness.Site(dir, port, "audit_log\nrespond ok"))
	var own []ownEntry
	for end := time.Now().Add(hang); len(own)%2 == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) { // with that of the last start
		own = ownEntries(t, dir, 1)
	}
	if len(own) < 3 {
		t.Fatalf("of 20 starts that failed none had begun to record: %+v", own)
	}
	for i, o := range own[:len(own)-1] {
		if i%2 == 0 && o.Action != "started" || i%2 == 1 && (o.Action != "stopped" || o.Reason != "failed start" || o.Severity != severity.Medium) {
			t.Errorf("entry %d: %+v", i, o)
		}
	}
}

// awaitStart waits until a log says that it has started.
func awaitStart(t *testing.T, store storage.Lister) {
	t.Helper()
	for end := time.Now().Add(hang); ; time.Sleep(10 * time.Millisecond) {
		page, err := store.List(t.Context(), storage.Query{Action: "audit-log:started"})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Entries) > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the log does not say that it has started")
		}
	}
}

// lastOwn is the nth of ownEntries.
func lastOwn(t *testing.T, dir string, n int) ownEntry {
	t.Helper()
	own := ownEntries(t, dir, n)
	if len(own) != n {
		t.Fatalf("%d entries of starts and stops, want %d: %+v", len(own), n, own)
	}
	return own[n-1]
}

// TestACrashIsAStartWithoutAStop: what a kill leaves is told from an orderly end.
func TestACrashIsAStartWithoutAStop(t *testing.T) {
	dir, port := t.TempDir(), harness.FreePort(t)
	config := harness.Site(dir, port, "audit_log\nrespond ok")
	for _, end := range []struct {
		signal  syscall.Signal
		entries int // with the start that it ends
	}{{syscall.SIGTERM, 1}, {syscall.SIGKILL, 3}, {syscall.SIGTERM, 4}} {
		cmd := harness.Start(t, dir, port, config)
		ownEntries(t, dir, end.entries)
		if err := cmd.Process.Signal(end.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its status is the signal's
	}
	var said []string
	for _, o := range ownEntries(t, dir, 5) {
		said = append(said, o.Action+" "+o.Reason)
	}
	if want := []string{"started ", "stopped exit", "started ", "started ", "stopped exit"}; !slices.Equal(said, want) {
		t.Errorf("the log says %q, want %q", said, want)
	}
}
