package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// exchangeHeader tells the Server which exchange a request belongs to, by its seq.
const exchangeHeader = "X-Replay"

// sendTimeout bounds one exchange.
const sendTimeout = 20 * time.Second

// Answer is what the client got.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Send sends the recorded request to address over a connection of its own and
// returns the answer. Method, target, headers and body go out as recorded; only
// the headers that belong to the recorded connection are made anew.
func Send(address string, x *replay.Exchange) (*Answer, error) {
	c, err := net.DialTimeout("tcp", address, sendTimeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(sendTimeout)); err != nil {
		return nil, err
	}
	if _, err := c.Write(requestBytes(address, x)); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: x.Request.Method})
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return &Answer{res.StatusCode, res.Header, body}, err
}

// requestBytes is the request as it goes over the wire.
func requestBytes(host string, x *replay.Exchange) []byte {
	r, b := &x.Request, new(bytes.Buffer)
	fmt.Fprintf(b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s: %d\r\n", r.Method, r.Path, host, exchangeHeader, x.Seq)
	for _, name := range sorted(r.Headers) {
		for _, v := range r.Headers[name] {
			if !ofConnection(name) || name == "Connection" && namesHeaders(v) {
				fmt.Fprintf(b, "%s: %s\r\n", name, v)
			}
		}
	}
	body := r.Wire()
	switch {
	case slices.Contains(r.Headers["Transfer-Encoding"], "chunked"):
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		if len(body) > 0 {
			fmt.Fprintf(b, "%x\r\n%s\r\n", len(body), body)
		}
		b.WriteString("0\r\n\r\n")
	case len(body) > 0 || r.Headers["Content-Length"] != nil:
		fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	default:
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

func sorted(h map[string][]string) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ofConnection names the headers that describe one connection, not the message.
func ofConnection(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Host", "Connection", "Keep-Alive", "Proxy-Connection", "Content-Length", "Transfer-Encoding":
		return true
	}
	return false
}

// namesHeaders says whether a Connection header makes other headers hop-by-hop,
// which changes what the upstream sees.
func namesHeaders(v string) bool {
	for token := range strings.SplitSeq(v, ",") {
		switch strings.ToLower(strings.TrimSpace(token)) {
		case "", "keep-alive", "close":
		default:
			return true
		}
	}
	return false
}

// Differences says where the answer is not the recorded one: the audit log must
// not change what passes through it.
func Differences(x *replay.Exchange, a *Answer) []string {
	var out []string
	if a.Status != x.Response.Status {
		out = append(out, fmt.Sprintf("status %d became %d", x.Response.Status, a.Status))
	}
	if x.Request.Method != http.MethodHead && !bytes.Equal(a.Body, x.Response.Wire()) {
		out = append(out, fmt.Sprintf("the body of %d bytes became another one of %d bytes", len(x.Response.Wire()), len(a.Body)))
	}
	for _, name := range sorted(x.Response.Headers) {
		if ofConnection(name) || name == "Server" || name == "Via" {
			continue // a proxy's own
		}
		if want, got := x.Response.Headers[name], a.Header[http.CanonicalHeaderKey(name)]; !slices.Equal(want, got) {
			out = append(out, fmt.Sprintf("header %s %q became %q", name, want, got))
		}
	}
	return out
}
