package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// framed is a request that one reader takes for one and another for two (threats.md A16, X5):
// what stands in its head instead of the framing, and its body, in which HIDDEN is a second
// request and LENGTH the length of that.
type framed struct{ name, head, body string }

// framings are tried on a sign-in; HIDDEN is a sign-out.
var framings = slices.Concat(
	variants("Transfer-Encoding", "Content-Length: 4\r\nTransfer-Encoding:%s\r\n", "0\r\n\r\nHIDDEN",
		" chunked", " Chunked", "chunked", "\tchunked", " chunked ", " chunked\t", " xchunked", " chunked, identity", " identity, chunked", " gzip, chunked", " chunked, chunked",
		` "chunked"`, " chunked;q=1", " \x0bchunked", " chunked\x00", "\r\n chunked", "\r\n\tchunked", " chunked\r\nTransfer-Encoding: x", " x\r\nTransfer-Encoding: chunked",
		" identity", " "),
	variants("a header that is nearly Transfer-Encoding", "Content-Length: LENGTH\r\n%schunked\r\n", "0\r\n\r\nHIDDEN",
		"Transfer-Encoding : ", "Transfer_Encoding: ", "Transfer-Encoding\t: ", " Transfer-Encoding: ", "X: y\rTransfer-Encoding: ", "X: y\nTransfer-Encoding: ", "TRANSFER-ENCODING: ", "Transfer-Encoding\x00: ", "Transfer-Encoding; "),
	variants("Content-Length", "Content-Length:%s\r\n", "{}HIDDEN",
		" 2", "2", " 2 ", "\t2", " +2", " 2, 2", " 02", " 0x2", " -1", " 2e0", " 2\r\nContent-Length: 2", " 2\r\nContent-Length: 0", " 0\r\nContent-Length: 2", " 2\r\n ", " 99999999999999999999", " "),
	variants("a chunk", "Transfer-Encoding: chunked\r\n", "%s\r\n\r\nHIDDEN",
		"2\r\n{}\r\n0", "2\n{}\r\n0", "2\r\n{}\n0", "0x2\r\n{}\r\n0", " 2\r\n{}\r\n0", "2 \r\n{}\r\n0", "2;x=y\r\n{}\r\n0", "2;x=\"\n\"\r\n{}\r\n0", "2;\n0\r\n{}\r\n0", "-2\r\n{}\r\n0", "10000000000000002\r\n{}\r\n0",
		"2\r\n{}0", "2\r\n{}xx\r\n0", "2\r\n{}\r\n0\r\nContent-Length: 9", "2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\nHost: y", "2\r\n{}\r\n00", "2\r\n{}\r\n0;x", "\r\n2\r\n{}\r\n0"),
	[]framed{
		{"a request in a chunk, and a length", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "LENGTHX\r\nHIDDEN\r\n0\r\n\r\n"},
		{"pipelined, three in one packet", "Content-Length: 2\r\n", "{}HIDDENHIDDEN"},
		{"pipelined, blank lines between", "Content-Length: 2\r\n", "{}\r\n\r\nHIDDEN"},
		{"pipelined behind the end of the connection", "Content-Length: 2\r\nConnection: close\r\n", "{}HIDDEN"},
		{"a body that nobody has announced", "", "HIDDEN"},
		{"the length is hop-by-hop", "Content-Length: LENGTH\r\nConnection: Content-Length\r\n", "HIDDEN"},
		{"the encoding is hop-by-hop", "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n", "0\r\n\r\nHIDDEN"},
		{"a body that is waited for", "Content-Length: 2\r\nExpect: 100-continue\r\n", "{}HIDDEN"},
		{"a change to HTTP/2", "Content-Length: 2\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", "{}HIDDEN"},
		{"a change to a web socket", "Content-Length: 2\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", "{}HIDDEN"},
		{"a folded header", "X-Folded: a\r\n b\r\nContent-Length: 2\r\n", "{}HIDDEN"},
		{"a header without a name", ": x\r\nContent-Length: 2\r\n", "{}HIDDEN"},
		{"a line without a colon", "nothing\r\nContent-Length: 2\r\n", "{}HIDDEN"},
		{"two hosts", "Host: y\r\nContent-Length: 2\r\n", "{}HIDDEN"},
	},
)

// variants are framings with one of the values each, in the head or else in the body.
func variants(name, head, body string, values ...string) (list []framed) {
	for _, v := range values {
		f := framed{fmt.Sprintf("%s %q", name, v), head, body}
		if strings.Contains(head, "%s") {
			f.head = fmt.Sprintf(head, v)
		} else {
			f.body = fmt.Sprintf(body, v)
		}
		list = append(list, f)
	}
	return list
}

// requestLines are other beginnings of a request; %s is its path.
var requestLines = []string{
	"POST %s HTTP/1.1\r\n", "POST %s HTTP/1.1\n", "POST %s HTTP/1.0\r\n", "POST %s HTTP/1.2\r\n", "POST %s http/1.1\r\n", "POST  %s HTTP/1.1\r\n", "POST\t%s HTTP/1.1\r\n", "POST %s  HTTP/1.1\r\n",
	"\r\nPOST %s HTTP/1.1\r\n", "POST http://y%s HTTP/1.1\r\n", "POST %s\r\n", "post %s HTTP/1.1\r\n", "GET %s HTTP/1.1\r\n",
}

// request is the bytes of it, with a user agent of its own.
func (f *framed) request(line, agent string) string {
	hidden := "POST /api/auth/sign-out HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: " + agent + "\r\nContent-Length: 2\r\n\r\n{}"
	text := fmt.Sprintf(line, "/api/auth/sign-in/email") + "Host: 127.0.0.1\r\nUser-Agent: " + agent + "\r\nContent-Type: application/json\r\n" + f.head + "\r\n" + f.body
	return strings.NewReplacer("HIDDEN", hidden, "LENGTHX", fmt.Sprintf("%x", len(hidden)), "LENGTH", fmt.Sprint(len(hidden))).Replace(text)
}

// counting is an auth server that knows how often each request came, by user agent and path.
type counting struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/get-session") {
		c.mu.Lock()
		c.seen[r.UserAgent()+" "+r.URL.Path]++
		c.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `null`)
}

// TestARequestInARequestHasAnEntryOfItsOwn: however a request is framed, each that the auth
// server gets has one entry, with its action, and no entry tells of more than was sent on, unless
// it failed on the way.
func TestARequestInARequestHasAnEntryOfItsOwn(t *testing.T) {
	harness.Use(t)
	up := &counting{seen: map[string]int{}}
	dir, port := t.TempDir(), harness.FreePort(t)
	harness.Load(t, harness.Site(dir, port, pin("audit_log")+"\nreverse_proxy "+harness.Upstream(t, up)))
	var sent []string
	var all sync.WaitGroup
	turns := make(chan struct{}, 16)
	try := func(name string, text string) {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if err := overWire(port, text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for i := range framings {
		agent := fmt.Sprint("framing-", i)
		sent = append(sent, agent+" "+framings[i].name)
		try(framings[i].name, framings[i].request(requestLines[0], agent))
	}
	for i, line := range requestLines {
		agent, f := fmt.Sprint("line-", i), framed{head: "Content-Length: 2\r\n", body: "{}HIDDEN"}
		sent = append(sent, fmt.Sprintf("%s %q", agent, line))
		try(line, f.request(line, agent))
	}
	all.Wait()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	recorded, failed := map[string]int{}, map[string]int{}
	for _, e := range everyOf(t, harness.OpenStore(t, dir), time.Time{}) {
		key := e.UserAgent + " " + map[string]string{"sign-in:email": "/api/auth/sign-in/email", "sign-out": "/api/auth/sign-out"}[e.Action]
		if recorded[key]++; e.Status == storage.Failed || e.Status == storage.Unknown {
			failed[key]++
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	refused, hidden := 0, 0
	for _, s := range sent {
		agent, name, _ := strings.Cut(s, " ")
		arrived := 0
		for _, path := range []string{"/api/auth/sign-in/email", "/api/auth/sign-out"} {
			key := agent + " " + path
			n, entries := up.seen[key], recorded[key]
			if n > entries || entries > n+failed[key] {
				t.Errorf("%s: the auth server got %s %d times, the log has %d entries of which %d failed", name, path, n, entries, failed[key])
			}
			if arrived += n; n > 0 && path == "/api/auth/sign-out" {
				hidden++
			}
		}
		if arrived == 0 {
			refused++
		}
	}
	for key := range recorded {
		if i := slices.IndexFunc(sent, func(s string) bool { return strings.HasPrefix(s, strings.Fields(key)[0]+" ") }); i < 0 {
			t.Errorf("an entry of what nobody has sent: %s", key)
		}
	}
	for key := range up.seen {
		if recorded[key] == 0 {
			t.Errorf("the auth server got %q, and there is no entry", key)
		}
	}
	t.Logf("%d requests; of %d nothing came to the auth server, of %d the hidden one", len(sent), refused, hidden)
	if len(sent) < 40 || refused < 10 || hidden < 10 {
		t.Errorf("%d requests, %d refused, %d with two: the corpus says nothing any more", len(sent), refused, hidden)
	}
}

// overWire sends bytes and waits for answers until none comes for a while.
func overWire(port int, text string) error {
	c, err := connect(port)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	for b := make([]byte, 4096); ; {
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := c.Read(b); err != nil {
			return nil // it ends, or nothing comes
		}
	}
}
