package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// confusing are heads with which clients have moved a request somewhere else, or taken
// something of it away (threats.md A12, A13, X5, X6, section H). Each is sent to four
// routes.
func confusing() []string {
	var heads []string
	header := func(name string, values ...string) {
		for _, v := range values {
			heads = append(heads, name+": "+v+"\r\n")
		}
	}
	header("X-Forwarded-Proto", "http", "https", "HTTPS", "ws", "ftp", "http:", "http://", "//h", "javascript:", "http,https", "http https", "",
		"http://h/api/auth/delete-user?", "https://h/api/auth/delete-user#", "http://h/api/auth/revoke-sessions?x=", "http://h/api/auth/sign-out?",
		"http://h/api/auth/change-password?", "http:h/api/auth/delete-user?", "http:\\\\h\\api\\auth\\delete-user?", "http://u@h/api/auth/delete-user;", "HTTP://H/api/auth/delete-user?")
	header("X-Forwarded-Host", "auth.test", "evil.test", "h/api/auth/delete-user?", "h/api/auth/delete-user#", "h\\api\\auth\\delete-user?", "a@b", "a,b", "a b", "[::1]:80", "h:99999", "h%2fx", "h/../..", "h;x", "")
	header("Host", "auth.test", "evil.test", "127.0.0.1", "[::1]", "h:99999", "h%2fx", "a,b", "h/api/auth/delete-user?", "h?x", "h#x", "a@b", "a\\b", "A.TEST", "a..b", "h'x")
	header("Forwarded", "for=1.2.3.4;proto=https;host=evil.test", `proto="http://h/api/auth/delete-user?"`, `host="h/api/auth/delete-user?"`, "garbage")
	for _, name := range []string{"X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Uri", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Invoke-Path", "X-Original-Uri"} {
		header(name, "/api/auth/delete-user")
	}
	for _, name := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Forwarded-Method"} {
		header(name, "POST", "GET")
	}
	header("Connection", "X-Forwarded-Proto", "X-Forwarded-Host, close", "Host", "Content-Type", "Content-Length", "X-Case, keep-alive", "Cookie, Authorization", "Upgrade\r\nUpgrade: h2c", "Transfer-Encoding")
	heads = append(heads,
		"X-Forwarded-Proto: http\r\nX-Forwarded-Proto: http://h/api/auth/delete-user?\r\n",
		"X-Forwarded-Proto: http://h/api/auth/delete-user?\r\nX-Forwarded-Proto: http\r\n",
		"X-Forwarded-Proto: http://h/api/auth/delete-user?\r\nConnection: X-Forwarded-Proto\r\n",
		"x-forwarded-proto: http://h/api/auth/delete-user?\r\n", "X_Forwarded_Proto: http://h/api/auth/delete-user?\r\n",
		"X-Forwarded-Host: a\r\nX-Forwarded-Host: h/api/auth/delete-user?\r\n")
	return heads
}

// TestGate14HeaderConfusion: what the server runs is what the log says, whatever the
// headers claim, behind a Caddy that trusts its clients' forwarding headers; and the
// user of an entry is whoever the server saw. The control is the same Caddy without the
// module, where a header moves requests to other routes (X6).
func TestGate14HeaderConfusion(t *testing.T) {
	sent, ran, wrong, moved := confuse(t)
	attributed, misattributed, names, unrecorded := attribute(t)
	gates.Print(t, 14, "%d requests with hostile headers, of which the server ran %d, %d recorded under another action than ran; %d attributions, %d wrong; %d header names, %d unrecorded requests; control, without the module: %d requests moved to another route",
		sent, ran, wrong, attributed, misattributed, names, unrecorded, moved)
	if wrong+misattributed+unrecorded > 0 || moved == 0 || ran < 200 {
		t.Error("the figures must be at least 200, 200, 0, 0 and 0, and more than 0 in the control")
	}
}

// harmless are the requests that the headers are to confuse: what runs, and its action,
// if that is an event.
var harmless = []struct{ method, path, action string }{{"GET", "/ok", ""}, {"POST", "/sign-out", "sign-out"}, {"POST", "/verify-password", "verify-password"}, {"POST", "/update-user", "update-user"}}

// confuse sends the headers through two sites to a server that tells what it ran.
func confuse(t *testing.T) (sent, executed, wrong, moved int) {
	t.Helper()
	t.Run("confusion", func(t *testing.T) { // Caddy ends with it
		harness.Use(t)
		dir, port, bare := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
		server := startWitness(t, fmt.Sprintf("http://127.0.0.1:%d", port))
		harness.Load(t, anyHost(database(dir), trusting, siteOf(port, singly(), server.address()), siteOf(bare, "", server.address())))
		heads := confusing()
		each := func(do func(name string, head, method, path, action string)) {
			for i, head := range heads {
				for j, a := range harmless {
					do(fmt.Sprintf("head-%d-%d", i, j), head, a.method, a.path, a.action)
				}
			}
		}
		send := func(port int) func(name, head, method, path, _ string) {
			return func(name, head, method, path, _ string) {
				body := ""
				if method == "POST" {
					head, body = head+"Content-Type: application/json\r\n", "{}"
				}
				if !strings.Contains(head, "Connection: ") {
					head += "Connection: close\r\n"
				}
				once(port, raw(method, "/api/auth"+path, name, head, body))
			}
		}
		each(send(bare))
		without := server.seen()
		each(send(port))
		with, entries := server.seen(), everyEntry(t, database(dir))
		each(func(name, head, _, path, action string) {
			sent++
			if ran := without[name].Path; ran != "" && ran != path {
				moved++
			}
			var want string
			if ran := with[name].Path; ran == path {
				want = action
			} else if ran != "" {
				want = strings.ReplaceAll(strings.TrimPrefix(ran, "/"), "/", ":")
			} else {
				return // nothing ran: the entry says what was asked for
			}
			executed++
			got := ""
			for _, e := range entries[name] {
				got += e.Action
			}
			if got != want {
				wrong++
				t.Errorf("%s with %q: the server ran %s, the log has %q", path, head, with[name].Path, got)
			}
		})
	})
	return sent, executed, wrong, moved
}

// attribute sends requests of two people, and of none, in turn over the same
// connections, with credentials that Caddy is told to take away; and requests that ask
// not to be recorded.
func attribute(t *testing.T) (sent, wrong, names, unrecorded int) {
	t.Helper()
	t.Run("attribution", func(t *testing.T) {
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		harness.Load(t, anyHost(database(dir), "", siteOf(port, singly("durability commit"), harness.Upstream(t, &sessionAuth{}))))
		sent = gates.Figure(1000, 10_000)
		var seen sync.Map // by case, the user whom the server saw
		const conns = 8
		parallel(conns, conns, func(worker int) {
			c, err := connect(port)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			for i := worker; i < sent; i += 2 * conns { // two at a time, pipelined
				mine := []int{i}
				if i+conns < sent {
					mine = append(mine, i+conns)
				}
				if err := c.attributed(mine, &seen); err != nil {
					t.Error(err)
					return
				}
			}
		})
		unwanted := unwantedHeaders()
		names = len(unwanted)
		for i := range names / 5 {
			once(port, raw("POST", "/api/auth/update-user", fmt.Sprint("skip-", i), strings.Join(unwanted[5*i:5*i+5], "")+bearing("ada.1")+jsonType, "{}"))
		}
		entries := everyEntry(t, database(dir))
		for i := range sent {
			name := fmt.Sprint("who-", i)
			who, answered := seen.Load(name)
			if e := entries[name]; !answered || len(e) != 1 || e[0].UserID != who {
				wrong++
				t.Errorf("%s: the server saw %v, the log has %s", credentialsOf(i), who, summary(e))
			}
		}
		for i := range names / 5 {
			if e := entries[fmt.Sprint("skip-", i)]; len(e) != 1 || e[0].UserID != "ada" {
				unrecorded++
				t.Errorf("%q: %s", unwanted[5*i:5*i+5], summary(e))
			}
		}
	})
	return sent, wrong, names, unrecorded
}

// credentialsOf are those of the i-th request: cookie and bearer token of one of three
// people or of none, and what Connection takes away of them (A13), or seems to: a
// Kelvin sign and a no-break space are none of the proxy's letters and spaces.
func credentialsOf(i int) string {
	people := []string{"ada", "bob", "", "eve"}
	var head strings.Builder
	if who := people[i%4]; who != "" {
		fmt.Fprintf(&head, "Cookie: better-auth.session_token=%s.%d\r\n", who, i/4%3)
	}
	if who := people[i/4%4]; who != "" && i%3 == 0 {
		fmt.Fprintf(&head, "Authorization: Bearer %s.9\r\n", who)
	}
	head.WriteString([]string{"", "", "Connection: Cookie\r\n", "Connection: Authorization\r\n", "Connection: keep-alive, cookie, authorization\r\n", "Connection: x-case2\r\n", "",
		"Connection: Coo\u212aie\r\n", "Connection: Cookie\u00a0, \u0085Authorization\r\n"}[i%9])
	return head.String()
}

// attributed sends some requests in one write and notes whom the server saw.
func (c *conn) attributed(mine []int, seen *sync.Map) error {
	var requests strings.Builder
	for _, i := range mine {
		requests.WriteString(raw("POST", "/api/auth/update-user", fmt.Sprint("who-", i), credentialsOf(i)+jsonType, "{}"))
	}
	if _, err := c.Write([]byte(requests.String())); err != nil {
		return err
	}
	for _, i := range mine {
		_, body, err := c.answer()
		if err != nil {
			return err
		}
		var answer struct{ Seen string }
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("%s: %w", body, err)
		}
		seen.Store(fmt.Sprint("who-", i), answer.Seen)
	}
	return nil
}

// unwantedHeaders are a thousand names that might switch a log off (C27).
func unwantedHeaders() []string {
	var lines []string
	for _, prefix := range []string{"X-Audit", "X-Audit-Log", "X-Caddy", "X-Caddy-Audit", "X-Middleware", "X-Log", "Audit", "X-Internal", "X-No", "X-Skip"} {
		for _, word := range []string{"", "-Skip", "-Ignore", "-Disable", "-Off", "-Bypass", "-Internal", "-Subrequest", "-Recorded", "-Trusted", "-Debug", "-Test", "-Health", "-Probe", "-Replay", "-Dry-Run", "-Synthetic", "-Admin", "-Silent", "-None"} {
			for _, value := range []string{"1", "true", "off", "no", "src/middleware:src/middleware"} {
				lines = append(lines, prefix+word+": "+value+"\r\n")
			}
		}
	}
	return lines
}
