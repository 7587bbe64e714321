// Package harness starts what end-to-end tests need: Caddy in this process or as
// a program of its own, free ports, temporary stores. Everything listens on
// loopback only and ends with the test.
package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the Caddyfile adapter and the standard modules

	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule"          // the module under test
	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres" // and its guest
	"github.com/caddy-audit-log/caddy-audit-log/e2e/ports"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// FreePort is ports.Free for a test, which ends if there is none.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := ports.Free()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Adapt turns a Caddyfile into JSON and fails the test if it cannot.
func Adapt(t testing.TB, config string) []byte {
	t.Helper()
	out, err := tryAdapt(t, config)
	if err != nil {
		t.Fatalf("adapting the Caddyfile: %v\n%s", err, config)
	}
	return out
}

func tryAdapt(t testing.TB, config string) ([]byte, error) {
	t.Helper()
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	out, warnings, err := adapter.Adapt([]byte(config), nil)
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Logf("Caddyfile warning: %s", w)
		}
	}
	return out, err
}

// loaded serialises the tests of one process that load a configuration: Caddy has
// one.
var loaded sync.Mutex

// Load runs a Caddyfile in this process, with the admin endpoint off. A test calls
// Use first, and Load again to reload.
func Load(t testing.TB, config string) {
	t.Helper()
	if err := TryLoad(t, config); err != nil {
		t.Fatalf("loading the configuration: %v\n%s", err, config)
	}
}

// TryLoad is Load for a configuration that is refused, by the Caddyfile's adapter or by
// Caddy, and returns why.
func TryLoad(t testing.TB, config string) error {
	t.Helper()
	b, err := tryAdapt(t, config)
	if err != nil {
		return err
	}
	if err := caddy.Load(quiet(t, b), true); err != nil {
		return err
	}
	Settle(t, b)
	return nil
}

// Use takes Caddy for this test and stops it at the end.
func Use(t testing.TB) {
	t.Helper()
	loaded.Lock()
	t.Cleanup(func() {
		defer loaded.Unlock()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
}

// quiet turns the admin endpoint and automatic saving off.
func quiet(t testing.TB, config []byte) []byte {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	c["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Site returns a Caddyfile with a global audit_log block on a database in dir and
// one site on port with the given directives.
func Site(dir string, port int, directives string) string {
	return fmt.Sprintf(`{
	persist_config off
	grace_period 10s
	log {
		output file %[1]s/caddy.log
		level DEBUG
	}
	audit_log {
		store sqlite {
			path %[1]s/audit.db
		}
		key_file %[1]s/hash.key
	}
}
http://127.0.0.1:%[2]d {
%[3]s
}
`, dir, port, directives)
}

// OpenStore opens the database that Site names, to read what was recorded. Open
// it in the process that runs Caddy only after Caddy has stopped, or read through
// this store alone: it is a second connection, which SQLite allows.
func OpenStore(t testing.TB, dir string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: filepath.Join(dir, "audit.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Captured leaves out what the log says of itself when it starts and stops.
func Captured(entries []storage.Entry) []storage.Entry {
	return slices.DeleteFunc(entries, func(e storage.Entry) bool { return e.OwnLife() })
}

var (
	buildOnce sync.Once
	built     string
	buildErr  error
)

// refusing is a store that takes nothing.
type refusing struct{}

func (refusing) Write(context.Context, ...storage.Entry) error { return errors.New("not now") }

// LeaveWaiting leaves entries in the journal at a path, as a database that fails does.
func LeaveWaiting(t testing.TB, journal string, entries ...storage.Entry) {
	t.Helper()
	s, err := spill.New(refusing{}, journal, spill.Options{})
	if err != nil {
		t.Fatal(err)
	}
	closer, _ := storage.As[storage.Closer](s)
	if err := errors.Join(s.Write(context.Background(), entries...), closer.Close()); err != nil {
		t.Fatal(err)
	}
}

// Binary builds cmd/caddy once per test process and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	buildOnce.Do(func() {
		dir, err := os.MkdirTemp("", "audit-log-caddy")
		if err != nil {
			buildErr = err
			return
		}
		built = filepath.Join(dir, "caddy")
		out, err := exec.Command("go", "build", "-o", built, "github.com/caddy-audit-log/caddy-audit-log/cmd/caddy").CombinedOutput()
		if err != nil {
			buildErr = fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return built
}

// Start runs the built Caddy with a Caddyfile as a process of its own and waits
// until it answers on port. The process is killed when the test ends.
func Start(t testing.TB, dir string, port int, config string) *exec.Cmd {
	t.Helper()
	cmd := Command(t, Binary(t), dir, config)
	Launch(t, cmd)
	WaitFor(t, fmt.Sprintf("127.0.0.1:%d", port))
	return cmd
}

// Command returns what runs a Caddy, the built one or another program that is one, with
// a Caddyfile that it writes to dir. It is not started yet.
func Command(t testing.TB, program, dir, config string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(strings.Replace(config, "{\n", "{\n\tadmin off\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	return cmd
}

// Launch starts a command, which is killed when the test ends.
func Launch(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_, _ = cmd.Process.Wait()
	})
}

// WaitFor waits until something listens on address.
func WaitFor(t testing.TB, address string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
	}
	t.Fatalf("nothing listens on %s after 30 s", address)
}

// Upstream starts an HTTP server on loopback that ends with the test, and returns
// its address.
func Upstream(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // ends with Close below
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}
