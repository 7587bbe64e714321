package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// hang is how long anything here may take before the test gives up.
const hang = 20 * time.Second

// script plays the auth server for one request.
type script func(*peer)

// says is a script that reads the request's body and answers with the parts.
func says(parts ...string) script {
	return func(p *peer) {
		p.readBody()
		p.send(parts...)
	}
}

// peer is the auth server's end of one request.
type peer struct {
	conn *net.TCPConn
	in   *bufio.Reader
	req  *http.Request
	body []byte // what the script has read of the request's body
	end  string // how the body ended, if the script read all of it
	gate *turns
	shut bool
}

func (p *peer) send(parts ...string) {
	for _, s := range parts {
		_, _ = io.WriteString(p.conn, s) // Caddy may have left; the rows look at what arrives
	}
}

// readBody reads what is left of the request's body.
func (p *peer) readBody() {
	b, err := io.ReadAll(p.req.Body)
	p.body = append(p.body, b...)
	p.end = "whole"
	if err != nil {
		p.end = "cut"
	}
}

// read reads n bytes of the request's body.
func (p *peer) read(n int) {
	b := make([]byte, n)
	got, _ := io.ReadFull(p.req.Body, b)
	p.body = append(p.body, b[:got]...)
}

// close ends the connection in order, reset with RST.
func (p *peer) close() { p.shut = true; _ = p.conn.Close() }
func (p *peer) reset() { _ = p.conn.SetLinger(0); p.close() }

// gone waits until Caddy has closed the connection.
func (p *peer) gone() {
	p.shut = true
	_, _ = io.Copy(io.Discard, p.in)
}

// turns order what client and auth server do.
type turns struct{ toUpstream, toClient chan struct{} }

func newTurns() *turns {
	return &turns{toUpstream: make(chan struct{}, 64), toClient: make(chan struct{}, 64)}
}

func pass(c chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-time.After(hang):
		return false
	}
}

// waitClient waits until the client said that it saw what was sent so far.
func (p *peer) waitClient() {
	if !pass(p.gate.toUpstream) {
		p.reset()
	}
}

func (p *peer) tellClient() { p.gate.toClient <- struct{}{} }

// upstream is a raw TCP auth server; the parameter "do" of a request's query names
// the script that answers it.
type upstream struct {
	addr string
	// mu protects the fields below.
	mu      sync.Mutex
	scripts map[string]script
	gate    *turns
	seen    []string
	active  int // scripts that run
	idle    *sync.Cond
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: l.Addr().String(), scripts: map[string]script{}, gate: newTurns()}
	u.idle = sync.NewCond(&u.mu)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			go u.serve(c.(*net.TCPConn))
		}
	}()
	return u
}

// begin forgets what was seen and returns the gate of the next exchange.
func (u *upstream) begin() *turns {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen, u.gate = nil, newTurns()
	return u.gate
}

// took returns the requests that were seen since begin, once their scripts ended.
func (u *upstream) took() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.active > 0 {
		u.idle.Wait()
	}
	return u.seen
}

// enter finds the script of a request, and keeps the request's place among seen.
func (u *upstream) enter(r *http.Request) (script, *turns, int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active++
	u.seen = append(u.seen, "")
	return u.scripts[r.URL.Query().Get("do")], u.gate, len(u.seen) - 1
}

func (u *upstream) serve(c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	var raw bytes.Buffer
	in := bufio.NewReader(io.TeeReader(c, &raw))
	for {
		raw.Reset()
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.URL.Path == "/api/auth/get-session" { // the handler's own question
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull")
			continue
		}
		if !u.play(c, in, &raw, r) {
			return
		}
	}
}

func (u *upstream) play(c *net.TCPConn, in *bufio.Reader, raw *bytes.Buffer, r *http.Request) bool {
	s, g, at := u.enter(r)
	p := &peer{conn: c, in: in, req: r, gate: g}
	head, _, _ := strings.Cut(raw.String(), "\r\n\r\n")
	if s == nil {
		p.send("HTTP/1.1 599 No Such Script\r\nContent-Length: 0\r\n\r\n")
	} else {
		s(p)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active--
	u.idle.Broadcast()
	if at < len(u.seen) {
		u.seen[at] = fmt.Sprintf("%s\n\n%s\n%s", strings.ReplaceAll(head, "\r\n", "\n"), p.body, p.end)
	}
	return !p.shut
}

// answer writes an answer with a content length, chunked one in the given pieces.
func answer(status, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body)
}

func chunkedHead(status, header string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\n%sTransfer-Encoding: chunked\r\n\r\n", status, header)
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

func chunked(status, header string, pieces ...string) string {
	var b strings.Builder
	b.WriteString(chunkedHead(status, header))
	for _, p := range pieces {
		b.WriteString(chunk(p))
	}
	return b.String() + "0\r\n\r\n"
}
