package exchange_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
)

// FuzzObserver lets a program of a handler's calls run against an Observer and against
// the bare writer: the client must see the same head and the same body, and one commit
// is made; or it sees a 503 and nothing of the answer.
func FuzzObserver(f *testing.F) {
	for _, program := range []string{
		"", "h2w{}", "j2w{\"a\":1}f", "jc2w{}w{}", "1j1w[fw]f", "2h5h2", "jbw{}", "pw<form", "jrw{\"x\":[1,2]}", "t1", "j2w{}s", "jd2w{}", "x2w{}fw1", "1w1", "j4", "j3w{}",
		"j2" + strings.Repeat("w"+strings.Repeat("x", 9), 9), "jw" + strings.Repeat("W", 70) + "f",
	} {
		for mode := range 4 {
			f.Add(program, uint8(mode), false, false)
			f.Add(program, uint8(mode), true, mode%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, program string, mode uint8, fails, head bool) {
		if len(program) > 300 {
			return
		}
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		h := &hooks{mode: exchange.BodyMode(mode % 4)}
		if fails {
			h.err = errors.New("disk full")
		}
		observed, bare := &flushing{*newWriter()}, &flushing{*newWriter()}
		o := exchange.New(observed, httptest.NewRequest(method, "/", nil), h)
		run(program, o)
		if err := o.Finish(http.StatusOK, false); (err != nil) != (fails && seenOf(&observed.writer) == "") {
			t.Errorf("Finish says %v", err)
		}
		o.Release()
		run(program, bare)
		if len(h.commits) != 1 {
			t.Fatalf("%d commits: %q", len(h.commits), h.commits)
		}
		got, want := seenOf(&observed.writer), seenOf(&bare.writer)
		if fails {
			if got != "" && !strings.HasPrefix(got, refused+"\nbody {\"message\":\"The audit log cannot") {
				t.Errorf("a refused answer shows %q", got)
			}
			return
		}
		if got != want {
			t.Errorf("mode %d: the client sees\n%q, without us\n%q", h.mode, got, want)
		}
		for name, values := range bare.header { // trailers; what is deleted after the head was sent is sent
			if fmt.Sprint(observed.header[name]) != fmt.Sprint(values) {
				t.Errorf("mode %d: at the end %s is %v, without us %v", h.mode, name, observed.header[name], values)
			}
		}
	})
}

// flushing is a writer whose flush sends the head, as net/http's does.
type flushing struct{ writer }

func (w *flushing) FlushError() error {
	if !w.head {
		w.WriteHeader(http.StatusOK)
	}
	return w.writer.FlushError()
}

// run interprets a program: some letters are calls, all others are written.
func run(program string, w http.ResponseWriter) {
	for i := range len(program) {
		switch c := program[i]; c {
		case 'j':
			w.Header().Set("Content-Type", "application/json")
		case 'p':
			w.Header().Set("Content-Type", "text/html")
		case 'x':
			w.Header().Set("X-Late", program[:i])
		case 'd':
			w.Header().Del("Content-Type")
		case 't':
			w.Header().Set("Trailer", "X-Late")
		case 'c':
			w.Header().Set("Content-Encoding", "br")
		case 'l':
			w.Header().Set("Content-Length", "9")
		case '1', '2', '3', '4', '5':
			w.WriteHeader([]int{103, 200, 204, 304, 500}[c-'1'])
		case 'f':
			_ = http.NewResponseController(w).Flush() // the writers here take it
		case 'W':
			_, _ = w.Write([]byte(strings.Repeat("x", 1000)))
		case 'r':
			_, _ = readFrom(w, program[i:])
		default:
			_, _ = w.Write([]byte{c})
		}
	}
}

// readFrom copies as io.Copy does.
func readFrom(w http.ResponseWriter, s string) (int64, error) {
	if from, ok := w.(io.ReaderFrom); ok {
		return from.ReadFrom(strings.NewReader(s))
	}
	n, err := w.Write([]byte(s))
	return int64(n), err
}

// seenOf is the final head and all of the body that a writer has put on the wire.
func seenOf(w *writer) string {
	head, body := "", ""
	for _, line := range w.wire {
		switch {
		case strings.HasPrefix(line, "body "):
			body += line[len("body "):]
		case strings.HasPrefix(line, "head ") && !strings.HasPrefix(line, "head 1"):
			head = line
		}
	}
	if head == "" && body == "" {
		return ""
	}
	return head + "\nbody " + body
}
