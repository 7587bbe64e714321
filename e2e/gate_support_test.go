package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// What the gates of the acceptance suite share (package gates says what a gate is).
// A request of a gate has a case: a name that its User-Agent and its header X-Case
// carry, so that its entry and what the upstream saw of it can be found.

// conn is a client's connection that writes requests byte by byte as they are given,
// and reads answers.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func connect(port int) (*conn, error) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), hang)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * hang)) // against hanging only
	return &conn{c, bufio.NewReader(c)}, nil
}

// do sends a request and reads its answer to the end.
func (c *conn) do(request string) (*http.Response, []byte, error) {
	if _, err := io.WriteString(c, request); err != nil {
		return nil, nil, err
	}
	return c.answer()
}

func (c *conn) answer() (*http.Response, []byte, error) {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

// once sends one request on a connection of its own; status 0 says that there was no
// answer.
func once(port int, request string) (status int, body []byte) {
	c, err := connect(port)
	if err != nil {
		return 0, nil
	}
	defer func() { _ = c.Close() }()
	res, body, err := c.do(request)
	if res == nil || err != nil {
		return 0, body
	}
	return res.StatusCode, body
}

// raw is a request as it goes over the wire: header is more lines of the head.
func raw(method, target, name, header, body string) string {
	if body != "" {
		header += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	if !strings.Contains(header, "Host: ") {
		header = "Host: auth.test\r\n" + header
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nUser-Agent: %s\r\nX-Case: %[3]s\r\n%s\r\n%s", method, target, name, header, body)
}

// everyEntry stops Caddy, reads the whole log and sorts it by the cases of the
// requests.
func everyEntry(t testing.TB, file string) map[string][]storage.Entry {
	t.Helper()
	stop(t)
	of := map[string][]storage.Entry{}
	for _, e := range entriesIn(t, file, time.Time{}) {
		of[e.UserAgent] = append(of[e.UserAgent], e)
	}
	return of
}

// parallel calls do for 0 to n-1 from some goroutines.
func parallel(n, workers int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range workers {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// trusting is a global option that believes what clients of loopback say of the
// client's address, so that a test can be many clients.
const trusting = "servers {\n\t\ttrusted_proxies static private_ranges\n\t}"

// anyHost is a configuration without logs whose sites answer whatever the Host is,
// each given by port and directives. Options are lines of the global block.
func anyHost(file, options string, sites ...string) string {
	return fmt.Sprintf(`{
	persist_config off
	grace_period 10s
	%s
	log {
		output discard
	}
	audit_log {
		store sqlite {
			path %s
		}
		key_file %s/hash.key
	}
}
`, options, file, filepath.Dir(file)) + strings.Join(sites, "")
}

// siteOf is one of the sites of anyHost: directives, and a proxy to the upstream.
func siteOf(port int, directives, upstream string) string {
	return fmt.Sprintf("http://:%d {\n\tbind 127.0.0.1\n\t%s\n\treverse_proxy %s\n}\n", port, directives, upstream)
}

// singly is the directive of the gates: every exchange has an entry of its own, floods
// too, so that they can be counted. Options are more lines of it.
func singly(options ...string) string {
	return "audit_log {\n\t\tprofile better_auth\n\t\trollup off\n\t\t" + strings.Join(options, "\n\t\t") + "\n\t}"
}

// witness is a real Better Auth server that tells what it executed (witness/server.mjs).
type witness struct {
	t           *testing.T
	Port        int `json:"port"`
	ControlPort int `json:"controlPort"`
}

// witnessed is what the witness says of one request.
type witnessed struct {
	URL           string `json:"url"`
	Cookie        string `json:"cookie"`
	Authorization string `json:"authorization"`
	Path          string `json:"path"`  // the route that ran, "" for none
	Email         any    `json:"email"` // as it stood in the body, whatever it was
}

func startWitness(t *testing.T, base string, env ...string) *witness {
	t.Helper()
	requireNode(t)
	example, err := filepath.Abs(exampleDir)
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{t: t}
	startNode(t, "witness", w, "server.mjs", append(env, "BETTER_AUTH_DIR="+example, "BASE_URL="+base)...)
	return w
}

func (w *witness) address() string { return fmt.Sprintf("127.0.0.1:%d", w.Port) }

// seen returns what the witness saw since the last call, by the cases of the requests.
func (w *witness) seen() map[string]witnessed {
	w.t.Helper()
	_, body := call(w.t, "GET", fmt.Sprintf("http://127.0.0.1:%d/seen", w.ControlPort), "")
	var all map[string]witnessed
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// bytesUpstream is an auth server that reads requests as bytes, whatever their target,
// and answers by their case; "" closes the connection.
type bytesUpstream struct {
	address string
	answer  func(name string) string
	// mu protects the fields below.
	mu      sync.Mutex
	targets map[string]string // of the cases' request lines
	times   map[string]int    // that each case arrived
}

// always is the same answer to every case.
func always(answer string) func(string) string { return func(string) string { return answer } }

func newBytesUpstream(t *testing.T, answer func(name string) string) *bytesUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	u := &bytesUpstream{address: l.Addr().String(), answer: answer, targets: map[string]string{}, times: map[string]int{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			go u.serve(c)
		}
	}()
	return u
}

func (u *bytesUpstream) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	for in := bufio.NewReader(c); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var name string
		length := 0
		for header := ""; header != "\r\n"; {
			if header, err = in.ReadString('\n'); err != nil {
				return
			}
			key, value, _ := strings.Cut(strings.TrimSpace(header), ": ")
			switch strings.ToLower(key) {
			case "x-case":
				name = value
			case "content-length":
				length, _ = strconv.Atoi(value)
			}
		}
		if _, err := in.Discard(length); err != nil {
			return
		}
		u.saw(name, line)
		answer := u.answer(name)
		if _, err := io.WriteString(c, answer); err != nil || answer == "" || strings.Contains(answer, "Connection: close") {
			return
		}
	}
}

func (u *bytesUpstream) saw(name, line string) {
	_, target, _ := strings.Cut(strings.TrimSuffix(line, " HTTP/1.1\r\n"), " ")
	u.mu.Lock()
	defer u.mu.Unlock()
	u.targets[name] = target
	u.times[name]++
}

// target is the target that a case was sent with, and whether it was sent at all.
func (u *bytesUpstream) target(name string) (string, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, ok := u.targets[name]
	return s, ok
}
