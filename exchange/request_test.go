package exchange_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
)

func TestRequestBodyCopiesTheBeginning(t *testing.T) {
	tests := []struct {
		name, body string
		limit      int
		read       int // bytes that the upstream reads; -1 for all
		want       exchange.Copied
	}{
		{"all of a short body", "hello", 10, -1, exchange.Copied{Bytes: []byte("hello"), Seen: 5, Complete: true}},
		{"a body of exactly the limit is not cut", "hello", 5, -1, exchange.Copied{Bytes: []byte("hello"), Seen: 5, Complete: true}},
		{"what is above the limit is counted only", "hello", 4, -1, exchange.Copied{Bytes: []byte("hell"), Seen: 5, Complete: true, Truncated: true}},
		{"what the upstream did not read is not read", "hello", 10, 2, exchange.Copied{Bytes: []byte("he"), Seen: 2}},
		{"a body of no bytes", "", 10, -1, exchange.Copied{Complete: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", io.NopCloser(iotest.OneByteReader(strings.NewReader(tt.body))))
			tee := exchange.TeeRequest(r, tt.limit)
			from := io.Reader(r.Body)
			if tt.read >= 0 {
				from = io.LimitReader(from, int64(tt.read))
			}
			got, err := io.ReadAll(from)
			if err != nil || tt.read < 0 && string(got) != tt.body {
				t.Errorf("the upstream reads %q, %v", got, err)
			}
			if c := tee.Copied(); !bytes.Equal(c.Bytes, tt.want.Bytes) || c.Seen != tt.want.Seen || c.Complete != tt.want.Complete || c.Truncated != tt.want.Truncated {
				t.Errorf("copied %+v, want %+v", c, tt.want)
			}
			tee.Release()
			if c := tee.Copied(); c.Bytes != nil {
				t.Errorf("after Release %q is still there", c.Bytes)
			}
		})
	}
}

func TestTeeRequestLeavesAlone(t *testing.T) {
	body := func() io.Reader { return strings.NewReader("x") }
	tests := []struct {
		name   string
		method string
		body   io.Reader
		header http.Header
		teed   bool
	}{
		{"a POST is copied", http.MethodPost, body(), nil, true},
		{"a GET with a body is copied", http.MethodGet, body(), nil, true},
		{"a POST that names an upgrade is copied, it may be a trick", http.MethodPost, body(), http.Header{"Upgrade": {"x"}, "Connection": {"Upgrade"}}, true},
		{"no body is left alone", http.MethodPost, http.NoBody, nil, false},
		{"a tunnel is left alone", http.MethodConnect, body(), nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", tt.body)
			r.Method, r.Header = tt.method, tt.header
			before := r.Body
			tee := exchange.TeeRequest(r, 10)
			if (tee != nil) != tt.teed || (r.Body == before) == tt.teed {
				t.Errorf("copied %v, want %v", tee != nil, tt.teed)
			}
		})
	}
	var none *exchange.RequestBody
	none.Release()
	if c := none.Copied(); !c.Complete || c.Seen != 0 {
		t.Errorf("nil RequestBody: %+v, want complete and empty", c)
	}
}

func TestRequestBodyErrorIsNotItsEnd(t *testing.T) {
	broken := errors.New("broken")
	r := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(broken)))
	tee := exchange.TeeRequest(r, 10)
	if _, err := io.ReadAll(r.Body); !errors.Is(err, broken) {
		t.Errorf("the upstream gets %v, want the client's error", err)
	}
	if c := tee.Copied(); c.Complete || string(c.Bytes) != "ab" {
		t.Errorf("copied %+v, want an incomplete ab", c)
	}
}

// A transport may still read while the answer is recorded and after it.
func TestRequestBodyIsReadWhileItIsCopiedAndReleased(t *testing.T) {
	want := strings.Repeat("0123456789", 10_000)
	for range 20 {
		r := httptest.NewRequest(http.MethodPost, "/", iotest.HalfReader(strings.NewReader(want)))
		tee := exchange.TeeRequest(r, 16<<10)
		var readers sync.WaitGroup
		readers.Go(func() {
			if got, err := io.ReadAll(r.Body); err != nil || string(got) != want {
				t.Errorf("the upstream reads %d bytes, %v", len(got), err)
			}
		})
		for range 10 {
			if c := tee.Copied(); !strings.HasPrefix(want, string(c.Bytes)) {
				t.Error("the copy is not the beginning")
			}
		}
		tee.Release()
		tee.Release()
		readers.Wait()
		if c := tee.Copied(); c.Bytes != nil || c.Seen != int64(len(want)) || !c.Truncated {
			t.Errorf("after Release: %d bytes kept, %d seen", len(c.Bytes), c.Seen)
		}
	}
}

// TestWhatWasCopiedDoesNotChange: the transport may go on to read while somebody looks at what
// it has read before, also when that does not fit in its buffer any more.
func TestWhatWasCopiedDoesNotChange(t *testing.T) {
	body := make([]byte, 200<<10)
	for i := range body {
		body[i] = byte('a' + i%23)
	}
	for _, first := range []int{1, 4 << 10, 4<<10 + 1, 16 << 10, 64 << 10} {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		tee := exchange.TeeRequest(r, exchange.MaxBody)
		if _, err := io.ReadFull(r.Body, make([]byte, first)); err != nil {
			t.Fatal(err)
		}
		before := tee.Copied()
		done := make(chan error)
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, 3000))
			done <- err
		}()
		same := bytes.Equal(before.Bytes, body[:first])
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !same || !bytes.Equal(before.Bytes, body[:first]) {
			t.Errorf("the first %d bytes have changed", first)
		}
		if c := tee.Copied(); !c.Truncated || !bytes.Equal(c.Bytes, body[:exchange.MaxBody]) {
			t.Errorf("after the first %d bytes: %d in all, truncated %v", first, len(c.Bytes), c.Truncated)
		}
		tee.Release()
	}
}
