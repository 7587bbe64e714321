package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Requests: on a route with body rules (its 2xx JSON is held back), and on routes
// without.
const (
	signIn = "POST /api/auth/sign-in/email"
	verify = "GET /api/auth/verify-email"
	update = "POST /api/auth/update-user"
	magic  = "GET /api/auth/magic-link/verify" // GET, with body rules
)

const (
	jsonType = "Content-Type: application/json\r\n"
	gzipped  = jsonType + "Content-Encoding: gzip\r\n"
	textType = "Content-Type: text/plain\r\n"
	sse      = "Content-Type: text/event-stream\r\n"
	typed    = `{"email":"ada@example.com","password":"correct horse"}`
	signedIn = `{"redirect":false,"token":"t0k3n","user":{"id":"u-ada"}}`
	wantsTOT = `{"twoFactorRedirect":true}`
	denied   = `{"message":"Invalid email or password","code":"INVALID_EMAIL_OR_PASSWORD"}`
)

// entry is what the log must say of one exchange.
type entry struct {
	action string
	status storage.Status
	code   int
}

func (e entry) String() string { return fmt.Sprintf("%s %s %d", e.action, e.status, e.code) }

// row is one exchange, run on every site.
type row struct {
	name    string
	request string // method and path
	header  string // more lines of the request's head
	body    string
	proto   string // HTTP/1.1 if empty
	keep    bool   // without Connection: close
	do      string // what Caddy itself does; the auth server if empty
	up      script
	client  func(*wireLog) // sends w.request and reads; by default everything at once
	want    []entry
	// anyFraming: Caddy's first flush races with the end of an empty chunked answer
	// (reverseproxy copyResponse), so its framing differs from run to run.
	anyFraming bool
	or         []entry // where two ends of one exchange race in Caddy itself
}

func signInIs(s storage.Status, code int) []entry { return []entry{{"sign-in:email", s, code}} }
func verifyIs(s storage.Status, code int) []entry { return []entry{{"verify-email", s, code}} }
func updateIs(s storage.Status, code int) []entry { return []entry{{"update-user", s, code}} }

func gz(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s) // memory
	_ = z.Close()
	return b.String()
}

// jsonOf is a JSON document of exactly n bytes that says how a sign-in ended last.
func jsonOf(n int) string {
	frame := `{"pad":"","twoFactorRedirect":true}`
	return `{"pad":"` + strings.Repeat("x", n-len(frame)) + `","twoFactorRedirect":true}`
}

// pieces cuts s.
func pieces(s string, n int) []string {
	var out []string
	for len(s) > n {
		out, s = append(out, s[:n]), s[n:]
	}
	return append(out, s)
}

// stepped answers in parts, and sends the next when the client has seen the last.
func stepped(parts ...string) script {
	return func(p *peer) {
		p.readBody()
		for i, s := range parts {
			if i > 0 {
				p.waitClient()
			}
			p.send(s)
		}
	}
}

// stepChunks is the client of a stepped chunked answer.
func stepChunks(n int) func(*wireLog) {
	return func(w *wireLog) {
		w.send(w.request)
		head := w.readHead()
		for range n {
			if _, err := w.chunk(); err != nil {
				w.note(err)
				return
			}
			w.tellUpstream()
		}
		w.readBody(head)
		w.rest()
	}
}

// stepHints is the client of informational answers, each of which must be there
// before the auth server sends the next.
func stepHints(n int) func(*wireLog) {
	return func(w *wireLog) {
		w.send(w.request)
		for range n {
			w.readHead()
			w.tellUpstream()
		}
		w.answer()
		w.rest()
	}
}

// cut sends the parts and closes; with gate it waits until the client saw them.
func cut(wait, reset bool, parts ...string) script {
	return func(p *peer) {
		p.readBody()
		p.send(parts...)
		if wait {
			p.waitClient()
		}
		if reset {
			p.reset()
			return
		}
		p.close()
	}
}

// stepFirst is the client that says when it has the head and first bytes.
func stepFirst(w *wireLog) {
	w.send(w.request)
	head := w.readHead()
	w.tellUpstream()
	w.readBody(head)
	w.rest()
}

const hint = "HTTP/1.1 103 Early Hints\r\nLink: </app.css>; rel=preload\r\n\r\n"

func conformanceRows() []row {
	var rows []row
	for _, part := range [][]row{plainRows(), streamRows(), sizeRows(), trailerRows(), abortRows(), caddyRows(), requestRows()} {
		rows = append(rows, part...)
	}
	return rows
}

func plainRows() []row {
	cookies := jsonType + "Set-Cookie: better-auth.session_token=t0k3n.sig; Path=/; HttpOnly\r\nSet-Auth-Token: t0k3n\r\n"
	return []row{
		{name: "HEAD has the length and no body", request: "HEAD /api/auth/verify-email", client: headClient, up: says("HTTP/1.1 200 OK\r\n" + jsonType + "Content-Length: 17\r\n\r\n"), want: verifyIs(storage.Success, 200)},
		{name: "HEAD on a route with body rules", request: "HEAD /api/auth/sign-in/email", client: headClient, up: says("HTTP/1.1 405 Method Not Allowed\r\n" + jsonType + "Content-Length: 17\r\n\r\n"), want: signInIs(storage.Failed, 405)},
		{name: "204 on a route with body rules", request: signIn, body: typed, up: says("HTTP/1.1 204 No Content\r\n" + jsonType + "\r\n"), want: signInIs(storage.Success, 204)},
		{name: "304 with an ETag", request: verify, up: says("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"), want: verifyIs(storage.Success, 304)},
		{name: "redirect with an error", request: magic, up: says(answer("302 Found", "Location: /login?error=INVALID_TOKEN\r\n", "")), want: []entry{{"magic-link:verify", storage.Failed, 302}}},
		{name: "JSON with a length is held and complete", request: signIn, body: typed, up: says(answer("200 OK", cookies, signedIn)), want: signInIs(storage.Success, 200)},
		{name: "JSON with a length says that a second factor is needed", request: signIn, body: typed, up: says(answer("200 OK", jsonType, wantsTOT)), want: signInIs(storage.Pending, 200)},
		{name: "chunked JSON is held and complete", request: signIn, body: typed, up: says(chunked("200 OK", jsonType, wantsTOT)), want: signInIs(storage.Pending, 200)},
		{name: "chunked JSON in pieces", request: signIn, body: typed, up: says(chunked("200 OK", jsonType, pieces(wantsTOT, 3)...)), want: signInIs(storage.Pending, 200)},
		{name: "chunked JSON and space after it", request: signIn, body: typed, up: says(chunked("200 OK", jsonType, wantsTOT, " \n", "\n")), want: signInIs(storage.Pending, 200)},
		{name: "chunked JSON of no bytes", request: signIn, body: typed, up: says(chunked("200 OK", jsonType)), anyFraming: true, want: signInIs(storage.Success, 200)},
		{name: "JSON of length 0", request: signIn, body: typed, up: says(answer("200 OK", jsonType, "")), want: signInIs(storage.Success, 200)},
		{name: "chunked JSON that is none", request: signIn, body: typed, up: says(chunked("200 OK", jsonType, `{"a":`, `]`)), want: signInIs(storage.Unknown, 200)},
		{name: "chunked text on a route with body rules", request: signIn, body: typed, up: says(chunked("200 OK", textType, "a", "b")), want: signInIs(storage.Success, 200)},
		{name: "401 with JSON", request: signIn, body: typed, up: says(answer("401 Unauthorized", jsonType, denied)), want: signInIs(storage.Failed, 401)},
		{name: "chunked 401 with JSON on a route without body rules", request: update, body: typed, up: says(chunked("401 Unauthorized", jsonType, pieces(denied, 9)...)), want: updateIs(storage.Failed, 401)},
		{name: "answer without length or chunks ends with the connection", request: signIn, body: typed, up: func(p *peer) {
			p.readBody()
			p.send("HTTP/1.1 200 OK\r\n" + jsonType + "Connection: close\r\n\r\n" + wantsTOT)
			p.close()
		}, want: signInIs(storage.Pending, 200)},
		{name: "status 999 goes through", request: update, body: typed, up: says(answer("999 Odd", "", "x")), want: updateIs(storage.Failed, 999)},
		{name: "status 099 does what it does to Caddy", request: update, body: typed, up: says(answer("099 Odd", "", "x")), want: updateIs(storage.Unknown, 0)},
		{name: "gzip-encoded JSON with a length", request: signIn, header: "Accept-Encoding: gzip\r\n", body: typed, up: says(answer("200 OK", gzipped, gz(wantsTOT))), want: signInIs(storage.Pending, 200)},
		{name: "gzip-encoded JSON in chunks", request: signIn, header: "Accept-Encoding: gzip\r\n", body: typed, up: says(chunked("200 OK", gzipped, pieces(gz(wantsTOT), 5)...)), want: signInIs(storage.Pending, 200)},
	}
}

func headClient(w *wireLog) {
	w.head = true
	w.send(w.request)
	w.answer()
	w.rest()
}

func streamRows() []row {
	echo := func(p *peer) {
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(p.conn, p.in) // until the client closes its half
		p.send("bye")
		p.close()
	}
	events := []string{chunkedHead("200 OK", sse) + chunk("data: 1\n\n"), chunk("data: 2\n\n"), chunk("data: 3\n\n"), "0\r\n\r\n"}
	return []row{
		{name: "103 twice before 200, each at once", request: signIn, body: typed, up: stepped(hint, hint, answer("200 OK", jsonType, signedIn)), client: stepHints(2), want: signInIs(storage.Success, 200)},
		{name: "103 twice before a chunked 401, each at once", request: signIn, body: typed, up: stepped(hint, hint, chunked("401 Unauthorized", jsonType, denied)), client: stepHints(2), want: signInIs(storage.Failed, 401)},
		{name: "upgrade with an echo and a half-close", request: verify, header: "Connection: Upgrade\r\nUpgrade: echo\r\n", keep: true, up: echo, client: upgradeClient, want: verifyIs(storage.Success, 101)},
		{name: "events arrive one by one", request: verify, up: stepped(events...), client: stepChunks(3), want: verifyIs(storage.Success, 200)},
		{name: "events arrive one by one on a route with body rules", request: signIn, body: typed, up: stepped(events...), client: stepChunks(3), want: signInIs(storage.Success, 200)},
		{name: "chunks of JSON arrive one by one on a route without body rules", request: update, body: typed, up: stepped(chunkedHead("200 OK", jsonType)+chunk(`{"a":`), chunk(`1`), chunk(`}`), "0\r\n\r\n"), client: stepChunks(3), want: updateIs(storage.Success, 200)},
		{name: "JSON is there before the last chunk", request: signIn, body: typed, up: stepped(chunkedHead("200 OK", jsonType)+chunk(`{"a"`)+chunk(`:1}`), "0\r\n\r\n"), client: stepFirst, want: signInIs(storage.Success, 200)},
		{name: "slow body with a length, held", request: signIn, body: typed, up: func(p *peer) {
			p.readBody()
			head, body, _ := strings.Cut(answer("200 OK", jsonType, wantsTOT), "\r\n\r\n")
			p.send(head + "\r\n\r\n")
			for _, s := range pieces(body, 5) {
				p.send(s)
			}
		}, want: signInIs(storage.Pending, 200)},
	}
}

func upgradeClient(w *wireLog) {
	w.send(w.request)
	w.readHead()
	for _, s := range []string{"ping", "pong"} {
		w.send(s)
		_, err := io.CopyN(&w.log, w.in, int64(len(s)))
		w.note(err)
	}
	_ = w.conn.CloseWrite()
	w.rest()
}

func sizeRows() []row {
	var rows []row
	for _, n := range []int{exchange.MaxBody - 1, exchange.MaxBody, exchange.MaxBody + 1, 300 << 10} {
		seen := storage.Pending // the body says it
		if n > exchange.MaxBody {
			seen = storage.Unknown // nobody saw what would decide
		}
		doc := jsonOf(n)
		rows = append(rows,
			row{name: fmt.Sprintf("%d bytes of JSON with a length", n), request: signIn, body: typed, up: says(answer("200 OK", jsonType, doc)), want: signInIs(seen, 200)},
			row{name: fmt.Sprintf("%d bytes of JSON in chunks", n), request: signIn, body: typed, up: says(chunked("200 OK", jsonType, pieces(doc, 10000)...)), want: signInIs(seen, 200)},
		)
	}
	return rows
}

func trailerRows() []row {
	trailers := func(announce, header, body string) script {
		return says(chunkedHead("200 OK", header+announce) + chunk(body) + "0\r\nX-Sum: 42\r\nX-Late: yes\r\n\r\n")
	}
	const announced = "Trailer: X-Sum, X-Late\r\n"
	return []row{
		{name: "announced trailers", request: update, body: typed, up: trailers(announced, textType, "text"), want: updateIs(storage.Success, 200)},
		{name: "unannounced trailers", request: update, body: typed, up: trailers("", textType, "text"), want: updateIs(storage.Success, 200)},
		{name: "announced trailers after held JSON", request: signIn, body: typed, up: trailers(announced, jsonType, wantsTOT), want: signInIs(storage.Pending, 200)},
		{name: "unannounced trailers after held JSON", request: signIn, body: typed, up: trailers("", jsonType, wantsTOT), want: signInIs(storage.Pending, 200)},
		{name: "announced trailers while JSON is still held", request: signIn, body: typed, up: trailers(announced, jsonType, `{"not":`), want: signInIs(storage.Unknown, 200)},
		{name: "unannounced trailers while JSON is still held", request: signIn, body: typed, up: trailers("", jsonType, `{"not":`), want: signInIs(storage.Unknown, 200)},
		{name: "announced trailers after gzip-encoded JSON", request: signIn, header: "Accept-Encoding: gzip\r\n", body: typed, up: trailers(announced, gzipped, gz(wantsTOT)), want: signInIs(storage.Pending, 200)},
	}
}

func abortRows() []row {
	half := "HTTP/1.1 200 OK\r\n" + jsonType + "Content-Length: 100\r\n\r\n" + `{"a":`
	part := chunkedHead("200 OK", jsonType) + chunk(`{"a":`)
	// A 200 whose body broke off: nobody knows the outcome where the body says it.
	return []row{
		{name: "auth server breaks off with a length, held", request: signIn, body: typed, up: cut(false, false, half), want: signInIs(storage.Unknown, 200)},
		{name: "auth server breaks off in chunks, held", request: signIn, body: typed, up: cut(false, false, part), want: signInIs(storage.Unknown, 200)},
		{name: "auth server breaks off a 401 in chunks, held", request: signIn, body: typed, up: cut(false, false, chunkedHead("401 Unauthorized", jsonType)+chunk(`{"a":`)), want: signInIs(storage.Failed, 401)},
		{name: "auth server breaks off with a length", request: update, body: typed, up: cut(false, false, half), want: updateIs(storage.Success, 200)},
		{name: "auth server breaks off in chunks", request: update, body: typed, up: cut(true, false, part), client: stepFirst, want: updateIs(storage.Success, 200)},
		{name: "auth server resets in chunks", request: update, body: typed, up: cut(true, true, part), client: stepFirst, want: updateIs(storage.Success, 200)},
		{name: "auth server resets before an answer", request: update, body: typed, up: cut(false, true), want: updateIs(storage.Failed, 502)},
		{name: "auth server closes before an answer", request: signIn, body: typed, up: cut(false, false), want: signInIs(storage.Failed, 502)},
		{name: "auth server closes after a 103", request: signIn, body: typed, up: cut(true, false, hint), client: stepHints(1), want: signInIs(storage.Failed, 502)},
		{name: "auth server answers garbage", request: signIn, body: typed, up: cut(false, false, "\x00\x01 no HTTP at all\r\n\r\n"), want: signInIs(storage.Failed, 502)},
		{name: "auth server answers two lengths", request: signIn, body: typed, up: cut(false, false, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), want: signInIs(storage.Failed, 502)},
		{name: "a page of handle_errors stands for the 502", request: signIn, header: "X-Page: yes\r\n", body: typed, up: cut(false, false), want: signInIs(storage.Failed, 502)},
		{name: "client leaves before the head", request: signIn, body: typed, up: func(p *peer) {
			p.readBody()
			p.tellClient()
			p.gone()
		}, client: func(w *wireLog) {
			w.send(w.request)
			w.waitUpstream()
			w.close()
		}, want: signInIs(storage.Unknown, 499)},
		{name: "client leaves in the middle of the answer", request: verify, up: func(p *peer) {
			p.send(chunkedHead("200 OK", sse) + chunk("data: 1\n\n"))
			p.gone()
		}, client: func(w *wireLog) {
			w.send(w.request)
			w.readHead()
			_, err := w.chunk()
			w.note(err)
			w.close()
		}, want: verifyIs(storage.Success, 200)},
		{name: "client leaves while JSON is held", request: signIn, body: typed, up: func(p *peer) {
			p.readBody()
			p.send(chunkedHead("200 OK", jsonType) + chunk(`{"a":`))
			p.tellClient()
			p.gone()
		}, client: func(w *wireLog) {
			w.send(w.request)
			w.waitUpstream()
			w.close()
		}, want: signInIs(storage.Unknown, 200), or: signInIs(storage.Unknown, 499)},
		{name: "client leaves in the middle of its request", request: update, header: "Content-Length: 100\r\n", up: func(p *peer) {
			p.read(5)
			p.tellClient()
			p.readBody()
			p.gone()
		}, client: func(w *wireLog) {
			w.send(w.request + "hello")
			w.waitUpstream()
			w.close()
		}, want: updateIs(storage.Unknown, 499), or: updateIs(storage.Unknown, 502)},
		// A client could otherwise have what it did look as if it had failed.
		{name: "client's body ends in nonsense", request: "POST /api/auth/sign-out", header: "Transfer-Encoding: chunked\r\n", up: func(p *peer) {
			p.read(9000)
			p.tellClient() // the auth server has acted
			p.gone()
		}, client: func(w *wireLog) {
			w.send(w.request + chunk(strings.Repeat(" ", 9000)))
			w.waitUpstream()
			w.send("ZZZ\r\n")
			w.answer()
		}, want: []entry{{"sign-out", storage.Unknown, 502}}},
	}
}

func caddyRows() []row {
	return []row{
		{name: "file goes out by sendfile", request: verify, do: "file", want: verifyIs(storage.Success, 200)},
		{name: "range of a file", request: verify, header: "Range: bytes=1000-1999\r\n", do: "file", want: verifyIs(storage.Success, 206)},
		{name: "small JSON file on a route with body rules", request: magic, do: "small", want: []entry{{"magic-link:verify", storage.Success, 200}}},
		{name: "large JSON file on a route with body rules", request: magic, do: "large", want: []entry{{"magic-link:verify", storage.Success, 200}}},
		{name: "missing file", request: verify, do: "missing", want: verifyIs(storage.Failed, 404)},
		{name: "handler returns an error of Caddy", request: signIn, body: typed, do: "error", want: signInIs(storage.Failed, 418)},
		{name: "handler panics before the head", request: signIn, body: typed, do: "before", want: signInIs(storage.Unknown, 0)},
		{name: "handler panics after the head", request: verify, do: "after", want: verifyIs(storage.Success, 200)},
		{name: "handler panics while JSON is held", request: signIn, body: typed, do: "held", want: signInIs(storage.Unknown, 200)},
		{name: "handler writes two heads", request: signIn, body: typed, do: "twice", want: signInIs(storage.Success, 200)},
		{name: "handler writes nothing", request: signIn, body: typed, do: "silent", want: signInIs(storage.Success, 200)},
	}
}

func requestRows() []row {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	tooLarge := func(p *peer) {
		p.send(answer("413 Content Too Large", "Connection: close\r\n", "no"))
		p.close()
	}
	return []row{
		{name: "413 without reading, client waits for 100", request: signIn, header: "Expect: 100-continue\r\nContent-Length: 100\r\n", up: tooLarge, client: func(w *wireLog) {
			w.send(w.request)
			w.answer()
		}, want: signInIs(storage.Failed, 413)},
		{name: "100 and the body after it", request: signIn, header: "Expect: 100-continue\r\nContent-Length: " + fmt.Sprint(len(typed)) + "\r\n", up: func(p *peer) {
			p.send("HTTP/1.1 100 Continue\r\n\r\n")
			p.readBody()
			p.send(answer("200 OK", jsonType, signedIn))
		}, client: func(w *wireLog) {
			w.send(w.request)
			w.readHead()
			w.send(typed)
			w.answer()
			w.rest()
		}, want: signInIs(storage.Success, 200)},
		{name: "slow request body streams", request: signIn, header: "Content-Length: " + fmt.Sprint(len(typed)) + "\r\n", up: slowReader(10, answer("200 OK", jsonType, signedIn)), client: func(w *wireLog) {
			w.send(w.request + typed[:10])
			w.waitUpstream()
			w.send(typed[10:])
			w.answer()
			w.rest()
		}, want: signInIs(storage.Success, 200)},
		{name: "1 MiB upload streams", request: signIn, header: "Content-Length: " + fmt.Sprint(len(big)) + "\r\n", up: slowReader(len(big)/2, answer("400 Bad Request", jsonType, denied)), client: func(w *wireLog) {
			w.send(w.request + big[:len(big)/2])
			w.waitUpstream()
			w.send(big[len(big)/2:])
			w.answer()
			w.rest()
		}, want: signInIs(storage.Failed, 400)},
		{name: "chunked request body", request: signIn, header: "Transfer-Encoding: chunked\r\n", up: says(answer("200 OK", jsonType, signedIn)), client: func(w *wireLog) {
			w.send(w.request + chunk(typed[:9]) + chunk(typed[9:]) + "0\r\n\r\n")
			w.answer()
			w.rest()
		}, want: signInIs(storage.Success, 200)},
		{name: "POST that asks for an upgrade nobody makes", request: signIn, header: "Connection: Upgrade\r\nUpgrade: x\r\n", keep: true, body: typed, up: says(answer("401 Unauthorized", jsonType, denied)), client: one, want: signInIs(storage.Failed, 401)},
		{name: "HTTP/1.0 client and a length", request: signIn, proto: "HTTP/1.0", body: typed, up: says(answer("200 OK", jsonType, wantsTOT)), want: signInIs(storage.Pending, 200)},
		{name: "HTTP/1.0 client and chunks", request: signIn, proto: "HTTP/1.0", body: typed, up: says(chunked("200 OK", jsonType, pieces(wantsTOT, 4)...)), want: signInIs(storage.Pending, 200)},
		{name: "HTTP/1.0 client and events", request: verify, proto: "HTTP/1.0", up: says(chunked("200 OK", sse, "data: 1\n\n")), want: verifyIs(storage.Success, 200)},
		{name: "pipelined requests", request: signIn, keep: true, body: typed, up: says(answer("200 OK", jsonType, wantsTOT)), client: func(w *wireLog) {
			w.send(w.request + w.request + w.request)
			for range 3 {
				w.answer()
			}
		}, want: append(append(signInIs(storage.Pending, 200), signInIs(storage.Pending, 200)...), signInIs(storage.Pending, 200)...)},
	}
}

// one reads one answer and leaves.
func one(w *wireLog) {
	w.send(w.request)
	w.answer()
}

// slowReader tells the client when it has n bytes, and reads on.
func slowReader(n int, reply string) script {
	return func(p *peer) {
		p.read(n)
		p.tellClient()
		p.readBody()
		p.send(reply)
	}
}

// raw is the row's request as it goes over the wire.
func (r *row) raw(do string) string {
	var b strings.Builder
	proto := r.proto
	if proto == "" {
		proto = "HTTP/1.1"
	}
	fmt.Fprintf(&b, "%s?do=%s %s\r\nHost: auth.test\r\nUser-Agent: conformance\r\n%s", r.request, do, proto, r.header)
	if !r.keep && !strings.Contains(r.header, "Connection:") {
		b.WriteString("Connection: close\r\n")
	}
	if r.body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n" + r.body)
	return b.String()
}
