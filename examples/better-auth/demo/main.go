// Command demo shows the audit log at work: a real Better Auth server behind our
// Caddy; somebody signs up, mistypes the password, and deletes the account. It
// prints what the API and the database say, and ends.
//
//	make demo
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

const server = "examples/better-auth"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "audit-log-demo-")
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	upstream, stop, err := startServer(base)
	if err != nil {
		return err
	}
	defer stop()
	config := fmt.Sprintf("{\n\tadmin off\n\tpersist_config off\n\tlog {\n\t\toutput file %[1]s/caddy.log\n\t}\n\taudit_log {\n\t\tstore sqlite {\n\t\t\tpath %[1]s/audit.db\n\t\t}\n\t\tkey_file %[1]s/hash.key\n\t}\n}\n\n"+
		"http://127.0.0.1:%[2]d {\n\taudit_log\n\treverse_proxy 127.0.0.1:%[3]d\n}\n", dir, port, upstream)
	fmt.Printf("Caddy runs with this Caddyfile, in front of a Better Auth server that knows nothing of it:\n\n%s\n", indent(config))
	if err := load(config); err != nil {
		return err
	}
	if err := visit(newVisitor(base), newVisitor(base)); err != nil {
		return err
	}
	if err := caddy.Stop(); err != nil {
		return err
	}
	return show(filepath.Join(dir, "audit.db"))
}

func load(config string) error {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	adapted, _, err := adapter.Adapt([]byte(config), nil)
	if err != nil {
		return err
	}
	return caddy.Load(adapted, true)
}

// startServer starts the Better Auth server on a free port.
func startServer(base string) (port int, stop func(), err error) {
	if _, err := os.Stat(filepath.Join(server, "node_modules")); err != nil {
		return 0, nil, fmt.Errorf("the example server is not installed: run npm ci --ignore-scripts in %s", server)
	}
	cmd := exec.Command("node", "server.mjs") //nolint:gosec // a fixed command
	cmd.Dir = server
	cmd.Env = append(os.Environ(), "PORT=0", "MAILBOX_PORT=0", "BASE_URL="+base, "EXIT_ON_STDIN_CLOSE=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return 0, nil, fmt.Errorf("starting node: %w: install Node.js 20 or newer", err)
	}
	stop = func() {
		_ = stdin.Close() // the server ends by itself then
		_ = cmd.Wait()
	}
	var ready struct{ Port int }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		stop()
		return 0, nil, fmt.Errorf("the example server did not start: %w", err)
	}
	return ready.Port, stop, nil
}

// visitor is somebody with a browser.
type visitor struct {
	base   string
	client *http.Client
}

func newVisitor(base string) *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // it has no way to fail
	}
	return &visitor{base, &http.Client{Jar: jar, Timeout: 30 * time.Second}}
}

// visit: Alice signs up, a stranger tries her account, she looks at her own log
// and deletes the account.
func visit(alice, stranger *visitor) error {
	for _, step := range []struct {
		what               string
		who                *visitor
		method, path, body string
	}{
		{"Alice signs up", alice, "POST", "/api/auth/sign-up/email", `{"name":"Alice","email":"alice@example.com","password":"correct-horse"}`},
		{"a stranger guesses", stranger, "POST", "/api/auth/sign-in/email", `{"email":"alice@example.com","password":"battery-staple"}`},
		{"Alice signs in", alice, "POST", "/api/auth/sign-in/email", `{"email":"alice@example.com","password":"correct-horse"}`},
		{"Alice looks at her log", alice, "GET", "/api/auth/audit-log/list?limit=1", ""},
		{"Alice deletes her account", alice, "POST", "/api/auth/delete-user", `{"password":"correct-horse"}`},
	} {
		answer, err := step.who.do(step.method, step.path, step.body)
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Printf("%-26s %-4s %-34s %s\n", step.what, step.method, step.path, answer.Status)
		if step.method == "GET" {
			fmt.Printf("\n%s\n", indent(pretty(answer.body)))
		}
	}
	return nil
}

type answer struct {
	Status string
	body   []byte
}

func (v *visitor) do(method, path, body string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, v.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Origin", v.base)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := v.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return answer{res.Status, b}, err
}

// show prints the database.
func show(path string) error {
	store, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	page, err := store.List(context.Background(), storage.Query{})
	if err != nil {
		return err
	}
	fmt.Printf("\nThe database, newest first:\n\n")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "  TIME\tACTION\tSTATUS\tSEVERITY\tUSER\tTYPED\tADDRESS")
	captured := 0
	for _, e := range page.Entries {
		if !strings.HasPrefix(e.Action, "audit-log:") { // of the log's own start
			captured++
		}
		var m struct{ Identifier string }
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.CreatedAt.Format("15:04:05.000"), e.Action, e.Status, e.Severity,
			cmp.Or(e.UserID, "-"), cmp.Or(m.Identifier, "-"), cmp.Or(e.IPAddress, "-"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf("\nIt is yours to look at:\n\n  sqlite3 %s 'SELECT * FROM auditLog'\n\n", path)
	if captured != 4 {
		return fmt.Errorf("expected 4 entries of requests, found %d", captured)
	}
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func pretty(b []byte) string {
	var out bytes.Buffer
	if json.Indent(&out, b, "", "  ") != nil {
		return string(b)
	}
	return out.String()
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}
