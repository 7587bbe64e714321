package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func http2Rows() []row {
	events := []string{chunkedHead("200 OK", sse) + chunk("data: 1\n\n"), chunk("data: 2\n\n"), "0\r\n\r\n"}
	trailers := chunkedHead("200 OK", jsonType+"Trailer: X-Sum\r\n") + chunk(wantsTOT) + "0\r\nX-Sum: 42\r\n\r\n"
	return []row{
		{name: "JSON in chunks, held", request: signIn, body: typed, up: says(chunked("200 OK", jsonType, pieces(wantsTOT, 3)...)), want: signInIs(storage.Pending, 200)},
		{name: "JSON with a length, held", request: signIn, body: typed, up: says(answer("200 OK", jsonType, signedIn)), want: signInIs(storage.Success, 200)},
		{name: "JSON above the cap", request: signIn, body: typed, up: says(answer("200 OK", jsonType, jsonOf(100_000))), want: signInIs(storage.Unknown, 200)},
		{name: "announced trailers after held JSON", request: signIn, body: typed, up: says(trailers), want: signInIs(storage.Pending, 200)},
		{name: "103 at once, then 401", request: signIn, body: typed, up: stepped(hint, answer("401 Unauthorized", jsonType, denied)), want: signInIs(storage.Failed, 401)},
		{name: "events one by one", request: verify, up: stepped(events...), want: verifyIs(storage.Success, 200)},
		{name: "HEAD", request: "HEAD /api/auth/verify-email", up: says("HTTP/1.1 200 OK\r\n" + jsonType + "Content-Length: 17\r\n\r\n"), want: verifyIs(storage.Success, 200)},
		{name: "204", request: signIn, body: typed, up: says("HTTP/1.1 204 No Content\r\n\r\n"), want: signInIs(storage.Success, 204)},
		{name: "auth server breaks off, held", request: signIn, body: typed, up: cut(false, false, chunkedHead("200 OK", jsonType)+chunk(`{"a":`)), want: signInIs(storage.Unknown, 200)},
		{name: "auth server closes before an answer", request: signIn, body: typed, up: cut(false, false), want: signInIs(storage.Failed, 502)},
		{name: "handler panics", request: signIn, body: typed, do: "before", want: signInIs(storage.Unknown, 0)},
		{name: "file", request: verify, do: "file", want: verifyIs(storage.Success, 200)},
	}
}

func TestConformanceOverHTTP2(t *testing.T) {
	rows := http2Rows()
	up := newUpstream(t)
	for i := range rows {
		if rows[i].do == "" {
			rows[i].do = fmt.Sprintf("r%d", i)
			up.scripts[rows[i].do] = rows[i].up
		}
	}
	plain, audited := &testSite{}, &testSite{directive: pinned}
	dir := t.TempDir()
	startSites(t, fmt.Sprintf("\t\tstore sqlite {\n\t\t\tpath %s/audit.db\n\t\t}\n", dir), up.addr, plain, audited)
	j := &journal{store: harness.OpenStore(t, dir), known: map[string]bool{}}
	for i := range rows {
		t.Run(rows[i].name, func(t *testing.T) {
			client, server := rows[i].overHTTP2(t, up, plain)
			gotClient, gotServer := rows[i].overHTTP2(t, up, audited)
			if gotClient != client || gotServer != server {
				t.Errorf("with audit_log\n%s\n%s\nwithout\n%s\n%s", short(gotClient), short(gotServer), short(client), short(server))
			}
			j.await(t, rows[i].want, nil)
		})
	}
}

// overHTTP2 makes the exchange with HTTP/2 in clear text.
func (r *row) overHTTP2(t *testing.T, up *upstream, s *testSite) (client, server string) {
	t.Helper()
	var log strings.Builder
	g := up.begin()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		fmt.Fprintln(&log, code, h)
		g.toUpstream <- struct{}{}
		return nil
	}})
	method, path, _ := strings.Cut(r.request, " ")
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s?do=%s", s.port, path, r.do), strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "auth.test"
	req.Header.Set("Content-Type", "application/json")
	res, err := transport.RoundTrip(req)
	if err != nil {
		fmt.Fprintln(&log, "no answer:", resetReason(err))
	} else {
		dump(&log, res, g)
	}
	return log.String(), strings.Join(up.took(), "\n---\n")
}

// dump notes an answer; after every line of its body the auth server may go on.
func dump(log io.Writer, res *http.Response, g *turns) {
	defer func() { _ = res.Body.Close() }()
	var lines []string
	for name, values := range res.Header {
		if name != "Date" {
			lines = append(lines, fmt.Sprint(name, values))
		}
	}
	slices.Sort(lines)
	fmt.Fprintln(log, res.Proto, res.Status, strings.Join(lines, "\n"))
	body := bufio.NewReader(res.Body)
	for {
		line, err := body.ReadString('\n')
		fmt.Fprint(log, line)
		if err != nil {
			fmt.Fprintln(log, resetReason(err), res.Trailer)
			return
		}
		if line == "\n" { // the end of an event
			g.toUpstream <- struct{}{}
		}
	}
}

// resetReason is an error without the number of its stream.
func resetReason(err error) string {
	_, reason, ok := strings.Cut(err.Error(), "; ")
	if !ok {
		reason = err.Error()
	}
	return reason
}
