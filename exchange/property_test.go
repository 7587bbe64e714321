package exchange_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
)

var scalars = []string{"1", "-1.5e10", "true", "false", "null", `"a\"}"`, `"ü\u0000"`, "{}", "[]"}

func document(t *rapid.T) string {
	d := rapid.SampledFrom(scalars).Draw(t, "scalar")
	for range rapid.IntRange(0, 6).Draw(t, "depth") {
		d = strings.ReplaceAll(rapid.SampledFrom([]string{`[@]`, `{"a":@}`, `[1,@ , 2]`, ` {"b":[@],"c":null} `}).Draw(t, "frame"), "@", d)
	}
	return d + rapid.SampledFrom([]string{"", "\n", " \r\n\t"}).Draw(t, "space")
}

// Whatever the body, however it is cut, flushed and declared: the client gets
// these bytes and one commit is made.
func TestObserverAnySplitOfAnyBodyIsTheSameDownstream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := []byte(document(t))
		switch rapid.SampledFrom([]string{"document", "bytes", "large", "broken"}).Draw(t, "kind") {
		case "bytes":
			body = rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		case "large":
			body = []byte(`["` + strings.Repeat("x", rapid.IntRange(exchange.MaxBody-10, exchange.MaxBody+10).Draw(t, "size")) + `"]`)
		case "broken":
			body = body[:len(body)/2]
		}
		h := &hooks{mode: rapid.SampledFrom([]exchange.BodyMode{exchange.Pass, exchange.Hold, exchange.Copy}).Draw(t, "mode")}
		rec := httptest.NewRecorder()
		o := exchange.New(rec, httptest.NewRequest("", "/", nil), h)
		defer o.Release()
		if rapid.Bool().Draw(t, "json") {
			setJSON(o)
		}
		if rapid.Bool().Draw(t, "encoded") {
			o.Header().Set("Content-Encoding", "br")
		}
		writeSplit(t, o, body)
		if err := o.Finish(200, false); err != nil {
			t.Fatal(err)
		}
		if got := rec.Body.Bytes(); !slices.Equal(got, body) {
			t.Fatalf("the client got %q, want %q", got, body)
		}
		if len(h.commits) != 1 {
			t.Fatalf("%d commits, want one", len(h.commits))
		}
		if seen, complete := o.Body(); complete && h.mode == exchange.Copy && !slices.Equal(seen, body) {
			t.Fatalf("complete, but %q was seen of %q", seen, body)
		}
	})
}

// writeSplit writes the body in pieces, with flushes between them.
func writeSplit(t *rapid.T, o *exchange.Observer, body []byte) {
	for len(body) > 0 {
		n := rapid.IntRange(1, len(body)).Draw(t, "piece")
		if rapid.Bool().Draw(t, "by ReadFrom") {
			_, _ = o.ReadFrom(strings.NewReader(string(body[:n])))
		} else {
			_, _ = o.Write(body[:n])
		}
		if rapid.Bool().Draw(t, "flush") {
			flush(o)
		}
		body = body[n:]
	}
}

// A held document is committed complete, and equal as JSON, however it is cut.
func TestObserverSeesAnySplitOfADocumentWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := document(t)
		seen := &whole{}
		o := exchange.New(newWriter(), httptest.NewRequest("", "/", nil), seen)
		defer o.Release()
		setJSON(o)
		writeSplit(t, o, []byte(doc))
		if err := o.Finish(200, false); err != nil {
			t.Fatal(err)
		}
		if !seen.complete || strings.TrimSpace(seen.body) != strings.TrimSpace(doc) || !json.Valid([]byte(seen.body)) {
			t.Fatalf("committed %q (complete %v) of %q", seen.body, seen.complete, doc)
		}
	})
}

// whole holds, and keeps what Commit saw.
type whole struct {
	body     string
	complete bool
}

func (h *whole) BodyMode(*exchange.Observer, int, http.Header) exchange.BodyMode {
	return exchange.Hold
}

func (h *whole) Commit(o *exchange.Observer) error {
	b, complete := o.Body()
	h.body, h.complete = string(b), complete
	return nil
}
