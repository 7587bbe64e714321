package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// What a live run needs besides Caddy: programs of others, and a mailbox for what
// they send.

// tool builds a program that a folder below servers names as its module's tool, and
// returns the program's path. What is built already costs a look.
func tool(t *testing.T, name, pkg string, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil && len(flags) > 0 {
		t.Fatalf("gcc is missing: %s is built with cgo (Debian: apt-get install gcc libc6-dev)", name)
	}
	program, err := filepath.Abs("../.cache/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", program}, flags...), pkg)...)
	cmd.Dir = "servers/" + name
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v; it needs a Go module proxy once\n%s", name, err, out)
	}
	return program
}

// run runs a program to its end.
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", filepath.Base(name), args, err, out)
	}
}

// leash lets a program live for as long as somebody holds the shell's standard
// input: until the test ends, or this process does, however.
const leash = `"$0" "$@" & program=$!; cat >/dev/null; kill -9 $program`

// serve starts a server in dir and waits until it listens on all its ports.
func serve(t *testing.T, dir string, ports []int, name string, args ...string) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", leash, name}, args...)...)
	cmd.Dir = dir
	log, err := os.CreateTemp(t.TempDir(), "server")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	hold, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = hold.Close()
		_ = cmd.Wait() // how it ends is of no interest
		if out, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s said last:\n%s", filepath.Base(name), out[max(0, len(out)-4000):])
		}
		_ = log.Close()
	})
	for _, port := range ports {
		harness.WaitFor(t, fmt.Sprintf("127.0.0.1:%d", port))
	}
}

// mailbox is a mail server that keeps what it gets.
type mailbox struct {
	port int
	// mu protects the field below.
	mu    sync.Mutex
	mails []string
}

// newMailbox starts a mailbox that ends with the test.
func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	m := &mailbox{port: l.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go m.receive(c)
		}
	}()
	return m
}

// receive speaks as much SMTP (RFC 5321) as clients insist on.
func (m *mailbox) receive(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	mail := textproto.NewConn(c)
	defer func() { _ = mail.Close() }()
	answer := "220 ready"
	for {
		if mail.PrintfLine("%s", answer) != nil {
			return
		}
		line, err := mail.ReadLine()
		switch command, _, _ := strings.Cut(strings.ToUpper(line), " "); {
		case err != nil || command == "QUIT":
			return
		case command == "DATA":
			if mail.PrintfLine("354 go on") != nil {
				return
			}
			text, err := mail.ReadDotBytes()
			if err != nil {
				return
			}
			m.keep(text)
		}
		answer = "250 fine"
	}
}

// keep stores a mail with its soft line breaks undone (RFC 2045, quoted-printable).
func (m *mailbox) keep(text []byte) {
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("=\n"), nil), []byte("=3D"), []byte("="))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails = append(m.mails, string(text))
}

// count is how many mails came so far.
func (m *mailbox) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mails)
}

// await waits for the mail after the first n.
func (m *mailbox) await(t *testing.T, n int) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		mails := m.mails
		m.mu.Unlock()
		if len(mails) > n {
			return mails[n]
		}
	}
	t.Fatalf("no mail came within 20 s")
	return ""
}

// newProvider starts an OAuth provider (RFC 6749) that ends with the test. It trusts
// the code "good" of anybody, and no other.
func newProvider(t *testing.T) string {
	t.Helper()
	answer := func(w http.ResponseWriter, status int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the client may be gone
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("code") != providerCode {
			answer(w, http.StatusBadRequest, `{"error":"invalid_grant"}`)
			return
		}
		answer(w, http.StatusOK, `{"access_token":"`+providerToken+`","token_type":"bearer"}`)
	})
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, `{"sub":"42","email":"oscar@example.test","email_verified":true}`)
	})
	return "http://" + harness.Upstream(t, mux)
}

const (
	providerCode  = "canary-provider-code-c0ffee"
	providerToken = "canary-provider-token-decaf"
)
