package e2e

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// The COMMIT of a transaction on the wire: the client's message, and the server's
// CommandComplete and ReadyForQuery.
const (
	commitMessage = "Q\x00\x00\x00\x0bcommit\x00"
	commitAnswer  = "C\x00\x00\x00\x0bCOMMIT\x00" + "Z\x00\x00\x00\x05I"
	// commitBytes is how many bytes go over the wire for it, in both directions.
	commitBytes = len(commitMessage) + len(commitAnswer)
)

// commitProxy stands between a store and PostgreSQL. When it is armed, it lets that many
// bytes of the next COMMIT pass, its answer included, and cuts the connection, by turns
// with a FIN and with a RST.
type commitProxy struct {
	address, upstream string
	armed             atomic.Int64 // -1: not
	cuts              atomic.Int64
}

func newCommitProxy(t *testing.T, upstream string) *commitProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &commitProxy{address: l.Addr().String(), upstream: upstream}
	p.armed.Store(-1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			go p.serve(c)
		}
	}()
	return p
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	// left is how many bytes of the answer may pass; -1 for all.
	left atomic.Int64
	once sync.Once
}

func (p *commitProxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.upstream)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server}
	l.left.Store(-1)
	go l.answers()
	defer l.cut(false)
	var head [4]byte // the startup message has no type
	if _, err := io.ReadFull(client, head[:]); err != nil {
		return
	}
	if _, err := server.Write(head[:]); err != nil {
		return
	}
	if _, err := io.CopyN(server, client, int64(binary.BigEndian.Uint32(head[:]))-4); err != nil {
		return
	}
	for p.message(l) {
	}
}

// message lets one message of the client pass; false when the connection is over.
func (p *commitProxy) message(l *link) bool {
	var head [5]byte
	if _, err := io.ReadFull(l.client, head[:]); err != nil {
		return false
	}
	m := make([]byte, 1+int(binary.BigEndian.Uint32(head[1:])))
	copy(m, head[:])
	if _, err := io.ReadFull(l.client, m[5:]); err != nil {
		return false
	}
	n := int64(-1)
	if bytes.Equal(m, []byte(commitMessage)) {
		n = p.armed.Swap(-1)
	}
	if n < 0 {
		_, err := l.server.Write(m)
		return err == nil
	}
	reset := p.cuts.Add(1)%2 == 0
	if n <= int64(len(m)) {
		_, _ = l.server.Write(m[:n])
		l.cut(reset && n < int64(len(m))) // a reset could take the COMMIT with it
		return false
	}
	l.left.Store(n - int64(len(m)))
	_, err := l.server.Write(m)
	return err == nil
}

// answers lets the server's bytes pass, as far as they may.
func (l *link) answers() {
	defer l.cut(false)
	b := make([]byte, 32<<10)
	for {
		n, err := l.server.Read(b)
		if left := l.left.Load(); left >= 0 {
			_, _ = l.client.Write(b[:min(int64(n), left)])
			if left -= int64(n); left <= 0 {
				return
			}
			l.left.Store(left)
		} else if _, writeErr := l.client.Write(b[:n]); writeErr != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// cut ends both connections.
func (l *link) cut(reset bool) {
	l.once.Do(func() {
		for _, c := range []net.Conn{l.client, l.server} {
			if tcp, ok := c.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}
