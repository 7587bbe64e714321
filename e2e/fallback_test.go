package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestWhatAFallbackDoesIsRecorded: the server that is asked first is down, and the routes for errors
// ask another one. With audit_log before that, too, what happened there has an entry; where nobody is
// asked, nothing has happened once more.
func TestWhatAFallbackDoesIsRecorded(t *testing.T) {
	server := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"user":{"id":"alice"}}`)
	}))
	const audited = "audit_log {\nprofile better_auth\n}\n"
	for fallback, want := range map[string]string{
		"reverse_proxy " + server: "sign-in:email/failed", audited + "reverse_proxy " + server: "sign-in:email/failed sign-in:email/success",
		audited + `respond "come back later" 200`: "sign-in:email/failed", audited + `respond "come back later" 502`: "sign-in:email/failed",
	} {
		dir := t.TempDir()
		t.Run("site", func(t *testing.T) {
			harness.Use(t)
			port := harness.FreePort(t)
			down := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
			harness.Load(t, harness.Site(dir, port, "audit_log {\nprofile better_auth\n}\nreverse_proxy "+down+
				"\nhandle_errors 502 {\n"+fallback+"\n}"))
			if status, body := call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"a@b.c","password":"x"}`); status >= 500 && !strings.Contains(fallback, "502") {
				t.Fatal(status, body)
			}
		})
		var got []string
		for _, e := range entriesIn(t, database(dir), time.Time{}) {
			if strings.HasPrefix(e.Action, "sign-in") {
				got = append(got, e.Action+"/"+string(e.Status))
			}
		}
		if all := strings.Join(got, " "); all != want {
			t.Errorf("with %q: %s, want %s", fallback, all, want)
		}
	}
}

// TestAGatewaysAnswerIsNotTheServers: a server acts before it has read all of a body that ends in
// nonsense, and the client gets Caddy's 502, which proves nothing; also where a gateway was asked before.
func TestAGatewaysAnswerIsNotTheServers(t *testing.T) {
	for _, gateway := range []bool{false, true} {
		dir := t.TempDir()
		t.Run("site", func(t *testing.T) {
			harness.Use(t)
			port := harness.FreePort(t)
			acts, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = acts.Close() })
			go func() { // it acts on the head, and waits for the rest
				for {
					c, err := acts.Accept()
					if err != nil {
						return
					}
					go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
				}
			}()
			asks := ""
			if gateway {
				asks = "forward_auth " + harness.Upstream(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) + " {\nuri /ask\n}\n"
			}
			harness.Load(t, harness.Site(dir, port, "audit_log {\nprofile better_auth\n}\nroute {\n"+asks+"reverse_proxy "+acts.Addr().String()+"\n}"))
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(hang))
			_, _ = io.WriteString(c, "POST /api/auth/change-password HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nZZZ\r\n")
			if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusBadGateway {
				t.Fatalf("%v, %v", res, err)
			}
		})
		if got := summary(entriesIn(t, database(dir), time.Time{})); !strings.Contains(got, "change-password/unknown") {
			t.Errorf("with a gateway %v: %s", gateway, got)
		}
	}
}
