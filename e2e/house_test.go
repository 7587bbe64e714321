package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

const module = "github.com/caddy-audit-log/caddy-audit-log"

// goList runs go list in the repository.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

// allowed says which of our own packages a room may use; "" is the room itself.
// Rooms below may not know those above (DESIGN section 2).
var allowed = map[string][]string{
	"severity":                    {},
	"redact/jsonscan":             {},
	"redact":                      {"redact/jsonscan"},
	"exchange":                    {},
	"storage":                     {"severity"},
	"storage/memory":              {"severity", "storage"},
	"storage/sqlite":              {"severity", "storage", "storage/filelock", "storage/sqlite/postings"},
	"storage/sqlite/postings":     {},
	"storage/postgres":            {"severity", "storage"},
	"storage/postgres/pgtest":     {"e2e/ports"}, // for tests only, as that is
	"storage/filelock":            {},
	"storage/spill":               {"severity", "storage", "storage/filelock"},
	"storage/storagetest":         {"severity", "storage", "storage/memory"},
	"storage/audittest":           {"severity", "storage", "storage/memory"},
	"profile/pathspell":           {},
	"profile/pathspell/spelltest": {},
	"profile":                     {"profile/pathspell", "redact/jsonscan", "severity", "storage"},
	"recorder":                    {"exchange", "profile", "profile/pathspell", "redact", "redact/jsonscan", "severity", "storage"},
	"recorder/rule":               {"exchange", "profile", "profile/pathspell", "recorder", "redact", "redact/jsonscan", "severity", "storage"},
	"storage/retention":           {"severity", "storage"},
	"storage/follow":              {"severity", "storage"},
	"storage/plugintable":         {"severity", "storage"},
	"logclient":                   {},
	"near":                        {},
	"replay":                      {"exchange", "profile", "profile/pathspell", "recorder", "redact", "redact/jsonscan", "severity", "storage", "storage/memory"},
	"tap":                         {"exchange", "profile", "profile/pathspell", "recorder", "redact", "redact/jsonscan", "replay", "severity", "storage", "storage/memory"},
	"viewer":                      {},
	"httpapi":                     {"exchange", "near", "profile", "profile/pathspell", "recorder", "redact", "redact/jsonscan", "severity", "storage", "storage/follow"},
}

func TestTheArrowsOfTheHousePointDown(t *testing.T) {
	for room, below := range allowed {
		for _, dep := range goList(t, "-deps", "./"+room) {
			own, ours := strings.CutPrefix(dep, module+"/")
			switch {
			case ours && own != room && !slices.Contains(below, own):
				t.Errorf("%s imports %s", room, own)
			case strings.HasPrefix(dep, "github.com/caddyserver/"), strings.HasPrefix(dep, "go.uber.org/zap"):
				t.Errorf("%s imports %s: Caddy and zap stay in caddymodule", room, dep)
			case strings.HasPrefix(dep, "modernc.org/") && room != "storage/sqlite":
				t.Errorf("%s imports %s: the driver stays in storage/sqlite", room, dep)
			case strings.HasPrefix(dep, "github.com/jackc/") && !strings.HasPrefix(room, "storage/postgres"):
				t.Errorf("%s imports %s: the driver stays in storage/postgres", room, dep)
			case (room == "severity" || room == "redact" || room == "redact/jsonscan" || room == "profile/pathspell") && strings.Contains(strings.Split(dep, "/")[0], ".") && !ours:
				t.Errorf("%s imports %s: it needs the standard library only", room, dep)
			}
		}
	}
	if slices.ContainsFunc(goList(t, "-deps", "./caddymodule"), func(dep string) bool { return strings.HasPrefix(dep, module+"/storage/postgres") }) {
		t.Error("caddymodule imports storage/postgres: it comes as a guest, caddymodule/postgres")
	}
	for _, pkg := range goList(t, "./...") {
		room := strings.TrimPrefix(pkg, module+"/")
		if _, known := allowed[room]; !known && !regexp.MustCompile(`^(caddymodule|cmd|e2e|bench|examples)(/|$)`).MatchString(room) {
			t.Errorf("%s is a room that this test does not know: say what it may import", room)
		}
	}
}

func TestTheLibcIsTheOneThatSQLiteNames(t *testing.T) {
	version := func(modfile string) string {
		cmd := exec.Command("go", "mod", "edit", "-json", modfile)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Require []struct{ Path, Version string }
		}
		if err := json.Unmarshal(out, &m); err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Require {
			if r.Path == "modernc.org/libc" {
				return r.Version
			}
		}
		return "none"
	}
	sqlite := goList(t, "-m", "-f", "{{.Dir}}", "modernc.org/sqlite")[0]
	ours, theirs := goList(t, "-m", "-f", "{{.Version}}", "modernc.org/libc")[0], version(filepath.Join(sqlite, "go.mod"))
	if ours != theirs {
		t.Errorf("modernc.org/libc is %s, modernc.org/sqlite is tested with %s: run go get modernc.org/libc@%s", ours, theirs, theirs)
	}
}

var fence = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")

// TestEveryCaddyfileInTheDocumentsWorks adapts, formats and validates every
// fenced Caddyfile, and the example.
func TestEveryCaddyfileInTheDocumentsWorks(t *testing.T) {
	t.Setenv("AUDIT_DB_PASSWORD", "secret") // a document may name it
	t.Setenv("AUDIT_OPERATOR_HASH", "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG")
	configs := map[string]string{}
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../README.md", "../ARCHITECTURE.md", "../examples/better-auth/README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range fence.FindAllStringSubmatch(string(b), -1) {
			configs[filepath.Base(file)+"#"+string(rune('1'+i))] = m[1]
		}
	}
	b, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	configs["Caddyfile.example"] = string(b)
	if len(configs) < 3 {
		t.Errorf("only %d Caddyfiles were found", len(configs))
	}
	for name, config := range configs {
		t.Run(name, func(t *testing.T) {
			adapted := harness.Adapt(t, config)
			file := filepath.Join(t.TempDir(), "Caddyfile")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(harness.Binary(t), "fmt", file).CombinedOutput(); err != nil {
				t.Errorf("it is not formatted; caddy fmt gives\n%s", out)
			}
			var cfg caddy.Config
			if err := json.Unmarshal(adapted, &cfg); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(&cfg); err != nil {
				t.Errorf("it is not valid: %v", err)
			}
		})
	}
}

// TestAnXcaddyBuildHasTheModules builds what xcaddy would: a module of its own
// that blank-imports ours, with a replace to this folder.
func TestAnXcaddyBuildHasTheModules(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	caddyVersion := goList(t, "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2")[0]
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module caddy\n\ngo 1.26.0\n\nrequire (\n\tgithub.com/caddyserver/caddy/v2 "+caddyVersion+"\n\t"+module+" v0.0.0\n)\n\nreplace "+module+" => "+root+"\n")
	write("main.go", `package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "`+module+`/caddymodule"
	_ "`+module+`/caddymodule/postgres"
)

func main() { caddycmd.Main() }
`)
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("go", "mod", "tidy")
	run("go", "build", "-o", "caddy", ".")
	modules := run(filepath.Join(dir, "caddy"), "list-modules")
	for _, id := range []string{"audit_log", "audit_log.stores.memory", "audit_log.stores.postgres", "audit_log.stores.sqlite", "http.handlers.audit_log"} {
		if !slices.Contains(strings.Split(modules, "\n"), id) {
			t.Errorf("list-modules does not show %s", id)
		}
	}
}
