package exchange_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
)

// hooks say one mode, and note what Commit saw.
type hooks struct {
	mode    exchange.BodyMode
	err     error
	commits []string
}

func (h *hooks) BodyMode(*exchange.Observer, int, http.Header) exchange.BodyMode { return h.mode }

func (h *hooks) Commit(o *exchange.Observer) error {
	body, complete := o.Body()
	h.commits = append(h.commits, fmt.Sprintf("%d %s %v", o.Status(), body, complete))
	return h.err
}

// writer notes what net/http would put on the wire: heads with the header as it is
// at that moment, bodies, flushes.
type writer struct {
	header http.Header
	wire   []string
	head   bool
}

func newWriter() *writer { return &writer{header: http.Header{}} }

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(status int) {
	if w.head {
		w.wire = append(w.wire, fmt.Sprintf("superfluous %d", status))
		return
	}
	w.head = status >= 200 || status == 101
	var names []string
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names)
	w.wire = append(w.wire, strings.TrimSpace(fmt.Sprintf("head %d %s", status, strings.Join(names, ","))))
}

func (w *writer) Write(p []byte) (int, error) {
	if !w.head {
		w.WriteHeader(http.StatusOK)
	}
	if last := len(w.wire) - 1; strings.HasPrefix(w.wire[last], "body ") {
		w.wire[last] += string(p)
	} else {
		w.wire = append(w.wire, "body "+string(p))
	}
	return len(p), nil
}

func (w *writer) FlushError() error {
	w.wire = append(w.wire, "flush")
	return nil
}

const refused = "head 503 Cache-Control,Content-Length,Content-Type,Retry-After"

func setJSON(o *exchange.Observer) { o.Header().Set("Content-Type", "application/json") }

func write(o *exchange.Observer, parts ...string) {
	for _, p := range parts {
		_, _ = o.Write([]byte(p))
	}
}

func flush(o *exchange.Observer) { _ = http.NewResponseController(o).Flush() }

func TestObserver(t *testing.T) {
	tests := []struct {
		name    string
		mode    exchange.BodyMode
		err     error
		method  string
		do      func(o *exchange.Observer)
		aborted bool
		wire    []string
		commits []string
	}{
		{name: "a handler that writes nothing commits the status that the server will send", do: func(*exchange.Observer) {}, commits: []string{"200  true"}},
		{name: "a write without a head means 200", do: func(o *exchange.Observer) { write(o, "a", "b") }, wire: []string{"head 200", "body ab"}, commits: []string{"200  false"}},
		{name: "a flush without a head means 200", do: flush, wire: []string{"head 200", "flush"}, commits: []string{"200  false"}},
		{name: "a second head goes to the writer, which knows what to do", do: func(o *exchange.Observer) { o.WriteHeader(201); o.WriteHeader(500) }, wire: []string{"head 201", "superfluous 500"}, commits: []string{"201  false"}},
		{name: "a second head while the answer is held is ignored", mode: exchange.Hold, do: func(o *exchange.Observer) {
			setJSON(o)
			o.WriteHeader(201)
			o.WriteHeader(500)
			write(o, "{}")
		}, wire: []string{"head 201 Content-Type", "body {}"}, commits: []string{"201 {} true"}},
		{name: "a hint while the answer is held cannot show its header", mode: exchange.Hold, do: func(o *exchange.Observer) {
			setJSON(o)
			o.WriteHeader(200)
			o.WriteHeader(103)
			write(o, "{}")
		}, wire: []string{"head 200 Content-Type", "body {}"}, commits: []string{"200 {} true"}},
		{name: "hints go through and do not commit", do: func(o *exchange.Observer) { o.WriteHeader(103); o.WriteHeader(103); o.WriteHeader(401) }, wire: []string{"head 103", "head 103", "head 401"}, commits: []string{"401  false"}},
		{name: "101 is final", mode: exchange.Hold, do: func(o *exchange.Observer) { setJSON(o); o.WriteHeader(101) }, wire: []string{"head 101 Content-Type"}, commits: []string{"101  true"}},
		{name: "204 has no body to hold", mode: exchange.Hold, do: func(o *exchange.Observer) { setJSON(o); o.WriteHeader(204) }, wire: []string{"head 204 Content-Type"}, commits: []string{"204  true"}},
		{name: "HEAD has no body to hold", mode: exchange.Hold, method: "HEAD", do: func(o *exchange.Observer) { setJSON(o); o.WriteHeader(200) }, wire: []string{"head 200 Content-Type"}, commits: []string{"200  true"}},
		{name: "JSON stays held over flushes until it is whole", mode: exchange.Hold, do: func(o *exchange.Observer) {
			setJSON(o)
			flush(o)
			write(o, `{"a`)
			flush(o)
			write(o, `":[1,2]`, `}`)
			flush(o)
		}, wire: []string{"head 200 Content-Type", `body {"a":[1,2]}`, "flush", "flush"}, commits: []string{`200 {"a":[1,2]} true`}},
		{name: "encoded JSON stays held over flushes until the end", mode: exchange.Hold, do: func(o *exchange.Observer) {
			setJSON(o)
			o.Header().Set("Content-Encoding", "gzip")
			flush(o)
			write(o, "{}")
			flush(o)
			write(o, "rest")
			flush(o)
		}, wire: []string{"head 200 Content-Encoding,Content-Type", "body {}rest", "flush"}, commits: []string{"200 {}rest true"}},
		{name: "what is no JSON is released at the first flush with a body", mode: exchange.Hold, do: func(o *exchange.Observer) {
			flush(o)
			write(o, "<form>")
			flush(o)
			write(o, "more")
		}, wire: []string{"head 200", "body <form>", "flush", "body more"}, commits: []string{"200 <form> false"}},
		{name: "a declared length ends the hold", mode: exchange.Hold, do: func(o *exchange.Observer) {
			o.Header().Set("Content-Length", "3")
			write(o, "ab", "c", "d")
		}, wire: []string{"head 200 Content-Length", "body abcd"}, commits: []string{"200 abc true"}},
		{name: "a declared length above the cap is not held", mode: exchange.Hold, do: func(o *exchange.Observer) {
			o.Header().Set("Content-Length", "65537")
			write(o, "ab")
		}, wire: []string{"head 200 Content-Length", "body ab"}, commits: []string{"200  false"}},
		{name: "a declared length of 0 is complete", mode: exchange.Hold, do: func(o *exchange.Observer) {
			o.Header().Set("Content-Length", "0")
			o.WriteHeader(200)
		}, wire: []string{"head 200 Content-Length"}, commits: []string{"200  true"}},
		{name: "a body shorter than declared is not complete", mode: exchange.Hold, do: func(o *exchange.Observer) {
			o.Header().Set("Content-Length", "3")
			write(o, "ab")
		}, wire: []string{"head 200 Content-Length", "body ab"}, commits: []string{"200 ab false"}},
		{name: "a panic releases what is held as incomplete", mode: exchange.Hold, aborted: true, do: func(o *exchange.Observer) {
			setJSON(o)
			write(o, `{"a"`)
			flush(o)
		}, wire: []string{"head 200 Content-Type", `body {"a"`, "flush"}, commits: []string{`200 {"a" false`}},
		{name: "trailers set while held do not leak into the head", mode: exchange.Hold, do: func(o *exchange.Observer) {
			setJSON(o)
			o.Header().Set("Trailer", "X-Sum")
			o.Header().Set("X-Gone", "1")
			write(o, `{"a"`)
			o.Header().Set("X-Sum", "42")
			o.Header().Set(http.TrailerPrefix+"X-Late", "1")
			o.Header().Del("X-Gone")
		}, wire: []string{"head 200 Content-Type,Trailer,X-Gone", `body {"a"`}, commits: []string{`200 {"a" true`}},
		{name: "refusal replaces head and body", err: errors.New("full"), do: func(o *exchange.Observer) {
			o.Header().Set("Set-Cookie", "secret")
			o.WriteHeader(200)
			write(o, "secret")
			o.WriteHeader(103)
			flush(o)
		}, wire: []string{refused, "flush"}, commits: []string{"200  false"}},
		{name: "refusal replaces what was held", mode: exchange.Hold, err: errors.New("full"), do: func(o *exchange.Observer) {
			o.Header().Set("Set-Cookie", "secret")
			setJSON(o)
			write(o, `{"a":`, `1}`, "\n")
			o.Header().Set("X-Sum", "42")
		}, wire: []string{refused, "flush"}, commits: []string{`200 {"a":1} true`}},
		{name: "a copy lets everything through", mode: exchange.Copy, do: func(o *exchange.Observer) { setJSON(o); write(o, `{"a":`); flush(o); write(o, `1}`) }, wire: []string{"head 200 Content-Type", `body {"a":`, "flush", `body 1}`}, commits: []string{"200  false"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, h := newWriter(), &hooks{mode: tt.mode, err: tt.err}
			o := exchange.New(w, httptest.NewRequest(tt.method, "/", nil), h)
			tt.do(o)
			if err := o.Finish(200, tt.aborted); err != nil {
				t.Errorf("Finish: %v", err)
			}
			if got := withoutRefusal(w.wire); !slices.Equal(got, tt.wire) {
				t.Errorf("on the wire %q, want %q", got, tt.wire)
			}
			if !slices.Equal(h.commits, tt.commits) {
				t.Errorf("commits %q, want %q", h.commits, tt.commits)
			}
			o.Release()
		})
	}
}

// withoutRefusal takes the text of a refusal out.
func withoutRefusal(wire []string) []string {
	return slices.DeleteFunc(slices.Clone(wire), func(s string) bool { return strings.Contains(s, "AUDIT_UNAVAILABLE") })
}

func TestObserverTrailersAreThereAfterTheRelease(t *testing.T) {
	w := newWriter()
	o := exchange.New(w, httptest.NewRequest("", "/", nil), &hooks{mode: exchange.Hold})
	setJSON(o)
	write(o, `{"a"`)
	o.Header().Set("X-Sum", "42")
	o.Header().Set("Content-Type", "changed")
	if err := o.Finish(200, false); err != nil || w.header.Get("X-Sum") != "42" || w.header.Get("Content-Type") != "changed" {
		t.Errorf("after the release %v, %v; want what was set while held", err, w.header)
	}
}

func TestObserverThatRefused(t *testing.T) {
	o := exchange.New(&hijackable{*newWriter()}, httptest.NewRequest("", "/", nil), &hooks{err: errors.New("full")})
	o.WriteHeader(200)
	if !o.Committed() {
		t.Error("a refusal is an answer: want Committed")
	}
	if _, _, err := http.NewResponseController(o).Hijack(); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("Hijack: %v, want ErrNotSupported: nobody may tunnel without an entry", err)
	}
	if err := http.NewResponseController(o).Flush(); err == nil {
		t.Error("Flush: want an error, it begins tunnels over HTTP/2")
	}
	n, err := io.Copy(struct{ io.Writer }{o}, neverEnds{})
	if err == nil || n > 1<<20 {
		t.Errorf("an endless answer was read for %d bytes, %v", n, err)
	}
	if _, err := o.ReadFrom(neverEnds{}); err == nil {
		t.Error("ReadFrom an endless answer: want an error")
	}
}

// hijackable is a writer whose connection can be taken.
type hijackable struct{ writer }

func (*hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

// TestAConnectionThatIsTakenIsCommittedFirst: who hijacks before it answers writes the answer by itself.
func TestAConnectionThatIsTakenIsCommittedFirst(t *testing.T) {
	for _, failing := range []error{nil, errors.New("full")} {
		commits := make(chan []string, 1)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := &hooks{err: failing}
			o := exchange.New(w, r, h)
			conn, rw, err := o.Hijack()
			if failing == nil {
				_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n")
				_ = rw.Flush()
				_ = conn.Close()
			} else if !errors.Is(err, failing) {
				t.Errorf("taken although nothing was recorded: %v", err)
			}
			if err := o.Finish(200, false); err != nil {
				t.Error(err)
			}
			commits <- h.commits
		}))
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		if got := <-commits; len(got) != 1 || !strings.HasPrefix(got[0], "101 ") {
			t.Errorf("committed %q", got)
		}
		if tunnel := strings.HasPrefix(string(answer), "HTTP/1.1 101"); tunnel != (failing == nil) {
			t.Errorf("with %v the client got %q", failing, answer)
		}
		_ = conn.Close()
		s.Close()
	}
	o := exchange.New(newWriter(), httptest.NewRequest("", "/", nil), &hooks{})
	if _, _, err := o.Hijack(); !errors.Is(err, http.ErrNotSupported) || o.Committed() {
		t.Errorf("where nobody can take it: %v", err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

func TestObserverFinishAfterAFailedCommitLeavesNoHeaders(t *testing.T) {
	w := newWriter()
	o := exchange.New(w, httptest.NewRequest("", "/", nil), &hooks{err: errors.New("full")})
	o.Header().Set("Set-Cookie", "secret")
	if err := o.Finish(200, false); err == nil || len(w.header) != 0 || len(w.wire) != 0 {
		t.Errorf("Finish: %v with %v and %v, want an error and nothing else", err, w.header, w.wire)
	}
}

func TestObserverAtTheCap(t *testing.T) {
	for _, mode := range []exchange.BodyMode{exchange.Hold, exchange.Copy} {
		for _, n := range []int{exchange.MaxBody - 1, exchange.MaxBody, exchange.MaxBody + 1} {
			doc := `"` + strings.Repeat("x", n-2) + `"`
			for _, size := range []int{n, 4096, 1000} {
				t.Run(fmt.Sprintf("mode %d, %d bytes in pieces of %d", mode, n, size), func(t *testing.T) { atTheCap(t, mode, doc, size) })
			}
		}
	}
}

func atTheCap(t *testing.T, mode exchange.BodyMode, doc string, size int) {
	rec := httptest.NewRecorder()
	o := exchange.New(rec, httptest.NewRequest("", "/", nil), &hooks{mode: mode})
	defer o.Release()
	setJSON(o)
	for piece := range slices.Chunk([]byte(doc), size) {
		if n, err := o.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if err := o.Finish(200, false); err != nil {
		t.Fatal(err)
	}
	body, complete := o.Body()
	if want := len(doc) <= exchange.MaxBody; complete != want || want && string(body) != doc || len(body) > exchange.MaxBody {
		t.Errorf("%d bytes seen, complete %v; want complete %v", len(body), complete, want)
	}
	if rec.Body.String() != doc || o.Written() != int64(len(doc)) {
		t.Errorf("the client got %d bytes (Written says %d), want %d", rec.Body.Len(), o.Written(), len(doc))
	}
}

// fileWriter is a writer with sendfile.
type fileWriter struct {
	writer
	from int64
}

func (w *fileWriter) ReadFrom(r io.Reader) (int64, error) {
	if !w.head {
		w.WriteHeader(200)
	}
	n, err := io.Copy(io.Discard, r)
	w.from += n
	return n, err
}

func TestObserverReadFrom(t *testing.T) {
	tests := []struct {
		name string
		mode exchange.BodyMode
		body string
		from int64 // how much goes the fast way
	}{
		{"everything goes the fast way when nothing is looked at", exchange.Pass, strings.Repeat("x", 100_000), 100_000},
		{"what is held does not", exchange.Hold, `{"a":1}`, 0},
		{"what is above the cap of a hold does, from the block that crosses it", exchange.Hold, strings.Repeat("x", 100_000), 100_000 - (exchange.MaxBody/4096+1)*4096},
		{"what is above the cap of a copy does", exchange.Copy, strings.Repeat("x", 100_000), 100_000 - (exchange.MaxBody/4096+1)*4096},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &fileWriter{writer: *newWriter()}
			o := exchange.New(w, httptest.NewRequest("", "/", nil), &hooks{mode: tt.mode})
			defer o.Release()
			setJSON(o)
			n, err := io.Copy(o, struct{ io.Reader }{strings.NewReader(tt.body)})
			if err != nil || n != int64(len(tt.body)) {
				t.Errorf("ReadFrom: %d, %v", n, err)
			}
			if err := o.Finish(200, false); err != nil {
				t.Fatal(err)
			}
			if w.from != tt.from || o.Written() != int64(len(tt.body)) {
				t.Errorf("%d bytes went the fast way, %d in all; want %d, %d", w.from, o.Written(), tt.from, len(tt.body))
			}
		})
	}
}

func TestObserverReadFromPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	for _, mode := range []exchange.BodyMode{exchange.Pass, exchange.Hold, exchange.Copy} {
		o := exchange.New(newWriter(), httptest.NewRequest("", "/", nil), &hooks{mode: mode})
		n, err := o.ReadFrom(io.MultiReader(strings.NewReader("abc"), &failingReader{broken}))
		if n != 3 || !errors.Is(err, broken) {
			t.Errorf("mode %d: %d, %v; want 3 and the reader's error", mode, n, err)
		}
		o.Release()
	}
}

type failingReader struct{ err error }

func (r *failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestIsJSON(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json": true, "Application/JSON; charset=utf-8": true, "application/problem+json": true,
		"application/jsonp": false, "text/json": false, "application/x-ndjson": false, "": false, "application/json;;": true,
	} {
		if got := exchange.IsJSON(contentType); got != want {
			t.Errorf("IsJSON(%q) = %v, want %v", contentType, got, want)
		}
	}
}

// plainWriter costs nothing.
type plainWriter struct{ header http.Header }

func (w *plainWriter) Header() http.Header         { return w.header }
func (w *plainWriter) WriteHeader(int)             {}
func (w *plainWriter) Write(p []byte) (int, error) { return len(p), nil }

// quiet hooks note nothing.
type quiet struct{ mode exchange.BodyMode }

func (q *quiet) BodyMode(*exchange.Observer, int, http.Header) exchange.BodyMode { return q.mode }
func (q *quiet) Commit(*exchange.Observer) error                                 { return nil }

// watched is one exchange with a body in both directions.
func watched(w http.ResponseWriter, r *http.Request, request *bytes.Reader, h exchange.Hooks, answer, buf []byte) {
	_, _ = request.Seek(0, io.SeekStart)
	r.Body = struct {
		io.Reader
		io.Closer
	}{request, http.NoBody}
	tee := exchange.TeeRequest(r, 16<<10)
	o := exchange.New(w, r, h)
	_, _ = r.Body.Read(buf)
	o.WriteHeader(200)
	_, _ = o.Write(answer)
	_ = o.Finish(200, false)
	o.Release()
	tee.Release()
}

func BenchmarkObserver(b *testing.B) {
	w, request, answer, buf := &plainWriter{http.Header{"Content-Type": {"application/json"}}}, bytes.NewReader(make([]byte, 100)), []byte(`{"token":"t"}`), make([]byte, 512)
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for name, mode := range map[string]exchange.BodyMode{"pass": exchange.Pass, "copy": exchange.Copy, "hold": exchange.Hold} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			h := &quiet{mode}
			for b.Loop() {
				watched(w, r, request, h, answer, buf)
			}
		})
	}
}
