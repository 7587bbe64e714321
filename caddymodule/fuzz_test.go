package caddymodule_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// hasLine is how an error of the Caddyfile names its place.
var hasLine = regexp.MustCompile(`Caddyfile:\d+`)

// elsewhere are words of a Caddyfile that read files, run programs or never end.
var elsewhere = regexp.MustCompile(`import|/dev|/proc|\{\$|\{env|\{file|\{system|<<`)

// FuzzCaddyfile: whatever stands in the two blocks, adapting does not panic; what is
// refused is refused with its line; and what is accepted is a configuration that Caddy
// can set up.
func FuzzCaddyfile(f *testing.F) {
	files, err := filepath.Glob("../testdata/adapt/*.caddyfiletest")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		global, directive := blocksOf(string(b))
		f.Add(global, directive)
	}
	for _, line := range []string{"profile nope", "base_path /a/../b", "before /sign-out x", "path /nope*", "session_endpoint ftp://x", "profile kratos\npath /self-service/*", "rollup 0", "skip `true ? 1`"} {
		f.Add("retention 1h", line)
	}
	base, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
		AppsRaw: caddy.ModuleMap{"audit_log": json.RawMessage(`{"store":{"backend":"memory"},"key_file":"` + filepath.Join(f.TempDir(), "key") + `"}`)},
	})
	if err != nil {
		f.Fatal(err)
	}
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	f.Fuzz(func(t *testing.T, global, directive string) {
		if elsewhere.MatchString(global+directive) || len(global)+len(directive) > 4000 {
			return
		}
		text := "{\n\taudit_log {\n" + global + "\n\t}\n}\n:8080 {\n\taudit_log {\n" + directive + "\n\t}\n}\n"
		config, _, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			if strings.Contains(err.Error(), "audit_log") && !hasLine.MatchString(err.Error()) {
				t.Errorf("an error without its line: %v\n%s", err, text)
			}
			return
		}
		provisions(t, base, config, text)
	})
}

// provisions sets up every audit_log in a configuration.
func provisions(t *testing.T, base caddy.Context, config []byte, text string) {
	t.Helper()
	if !json.Valid(config) {
		t.Fatalf("no JSON: %s", config)
	}
	var parts struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal(config, &parts); err != nil {
		t.Fatal(err)
	}
	load := func(id string, raw json.RawMessage) {
		var h struct {
			Profile string `json:"profile"`
		}
		_ = json.Unmarshal(raw, &h) // an app has none
		if strings.ContainsAny(h.Profile, `/.\`) {
			return // a file, which is read when it is set up
		}
		ctx, cancel := caddy.NewContext(base)
		defer cancel()
		if _, err := ctx.LoadModuleByID(id, raw); err != nil {
			t.Errorf("%s was accepted and cannot be set up: %v\n%s\n%s", id, err, raw, text)
		}
	}
	if raw := parts.Apps["audit_log"]; raw != nil {
		load("audit_log", raw)
	}
	for _, raw := range handlersOf(parts.Apps["http"]) {
		load("http.handlers.audit_log", raw)
	}
}

// handlersOf finds the handlers named audit_log anywhere in a document.
func handlersOf(raw json.RawMessage) []json.RawMessage {
	var object map[string]json.RawMessage
	var list []json.RawMessage
	var out []json.RawMessage
	if json.Unmarshal(raw, &object) == nil {
		if string(object["handler"]) == `"audit_log"` {
			delete(object, "handler")
			b, _ := json.Marshal(object) // it was JSON
			return []json.RawMessage{b}
		}
		for _, v := range object {
			out = append(out, handlersOf(v)...)
		}
		return out
	}
	if json.Unmarshal(raw, &list) == nil {
		for _, v := range list {
			out = append(out, handlersOf(v)...)
		}
	}
	return out
}

// blocksOf are the insides of the two audit_log blocks of a Caddyfile.
func blocksOf(text string) (global, directive string) {
	text, _, _ = strings.Cut(text, "\n----------\n")
	for i, part := range strings.Split(text, "audit_log {\n") {
		inside, _, _ := strings.Cut(part, "\n\t}")
		switch {
		case i == 0:
		case strings.Contains(inside, "store") || strings.Contains(inside, "retention") || strings.Contains(inside, "key_file"):
			global = inside
		default:
			directive = inside
		}
	}
	return global, directive
}
