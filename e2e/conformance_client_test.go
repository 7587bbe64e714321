package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wireLog is the client's end of one connection. It notes what it read, with chunks
// put together, so that two runs can be compared.
type wireLog struct {
	t    testing.TB
	conn *net.TCPConn
	in   *bufio.Reader
	gate *turns
	log  strings.Builder
	// request is what the row sends.
	request string
	head    bool // the next answer has no body
}

func dial(t testing.TB, port int, g *turns) *wireLog {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), hang)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(hang)) // against hanging only
	return &wireLog{t: t, conn: c.(*net.TCPConn), in: bufio.NewReaderSize(c, 128<<10), gate: g}
}

func (w *wireLog) send(s string) {
	if _, err := io.WriteString(w.conn, s); err != nil {
		fmt.Fprintf(&w.log, "(sending failed)\n")
	}
}

func (w *wireLog) tellUpstream() { w.gate.toUpstream <- struct{}{} }

func (w *wireLog) waitUpstream() {
	if !pass(w.gate.toClient) {
		w.t.Error("the auth server did not get that far")
	}
}

var date = regexp.MustCompile(`(?m)^Date: .*$`)

// readHead reads and notes one head; "" at the end of the connection.
func (w *wireLog) readHead() string {
	var b strings.Builder
	for {
		line, err := w.in.ReadString('\n')
		b.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		if err != nil {
			fmt.Fprintf(&w.log, "%s(%s)\n", strings.TrimSuffix(b.String(), "\n"), ending(err))
			return ""
		}
		if line == "\r\n" {
			// Caddy announces trailers in the order of a Go map.
			head := strings.Replace(date.ReplaceAllString(b.String(), "Date: X"), "X-Late, X-Sum", "X-Sum, X-Late", 1)
			w.log.WriteString(head)
			return head
		}
	}
}

// ending names how a connection ended, the same for a FIN and a RST after it: which
// of them comes is a race in TCP itself.
func ending(err error) string {
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return "HANGS"
	}
	return "end of connection"
}

// status is the code of a head.
func status(head string) int {
	fields := strings.Fields(head)
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(fields[1])
	return n
}

func field(head, name string) string {
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(head)))
	_, _ = r.ReadLine()
	h, _ := r.ReadMIMEHeader()
	return h.Get(name)
}

// answer reads one whole final answer and what informational ones precede it.
func (w *wireLog) answer() string {
	head := w.readHead()
	for status(head)/100 == 1 && status(head) != 101 {
		head = w.readHead()
	}
	if head == "" {
		return ""
	}
	w.readBody(head)
	return head
}

func (w *wireLog) readBody(head string) {
	switch code := status(head); {
	case w.head || code == 204 || code == 304 || code == 101:
		return
	case field(head, "Transfer-Encoding") == "chunked":
		w.dechunk()
	case field(head, "Content-Length") != "":
		n, _ := strconv.Atoi(field(head, "Content-Length"))
		_, err := io.Copy(&w.log, io.LimitReader(w.in, int64(n)))
		w.note(err)
		if n > 0 {
			w.log.WriteString("\n")
		}
	default:
		_, err := io.Copy(&w.log, w.in)
		w.note(err)
	}
}

func (w *wireLog) note(err error) {
	if err != nil {
		fmt.Fprintf(&w.log, "(%s)", ending(err))
	}
}

// dechunk reads a chunked body and its trailers.
func (w *wireLog) dechunk() {
	for {
		n, err := w.chunk()
		if err != nil {
			fmt.Fprintf(&w.log, "(cut: %s)\n", ending(err))
			return
		}
		if n == 0 {
			w.log.WriteString("(whole)\n")
			w.readHead() // trailers
			return
		}
	}
}

// chunk reads and notes one chunk.
func (w *wireLog) chunk() (int64, error) {
	line, err := w.in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
	if err != nil || n == 0 {
		return 0, err
	}
	if _, err := io.CopyN(&w.log, w.in, n); err != nil {
		return 0, err
	}
	_, err = w.in.Discard(2)
	return n, err
}

// rest notes everything until the connection ends.
func (w *wireLog) rest() {
	_, err := io.Copy(&w.log, w.in)
	w.note(err)
	w.log.WriteString("(end)\n")
}

func (w *wireLog) close() { _ = w.conn.Close() }
