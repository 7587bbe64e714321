package exchange

import (
	"io"
	"net/http"
	"sync"
)

// RequestBody copies the beginning of a request's body while somebody else reads
// it. Nothing is read ahead: a client that waits for "100 Continue", or an
// upstream that answers early, sees what it would have seen without it.
//
// It is safe for concurrent use: a transport may still be reading the body when
// the answer is there.
type RequestBody struct {
	body  io.ReadCloser
	limit int

	// mu protects the fields below.
	mu     sync.Mutex
	copied *[]byte
	seen   int64
	eof    bool
	broken bool
	closed bool
	done   bool // Release was called; copy no more
	// shown is true when Copied was called: somebody may look at copied, also when a larger
	// one has taken its place. outgrown are those until Release.
	shown    bool
	outgrown []*[]byte
}

// TeeRequest replaces r.Body by one that copies its first limit bytes, none if that is 0, and
// returns it; nil if the request has no body to copy (none at all, or CONNECT and
// extended CONNECT, where it is the tunnel). The Upgrade header does not count:
// what an HTTP/1.1 tunnel carries is no body, and a client that adds the header to
// an ordinary POST must not get around the log.
func TeeRequest(r *http.Request, limit int) *RequestBody {
	if r.Body == nil || r.Body == http.NoBody || r.Method == http.MethodConnect {
		return nil
	}
	b := &RequestBody{body: r.Body, limit: limit}
	r.Body = b
	return b
}

// Read implements io.Reader.
func (b *RequestBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen += int64(n)
	b.eof, b.broken = b.eof || err == io.EOF, b.broken || err != nil && err != io.EOF && !b.closed
	if b.done || n <= 0 || b.limit <= 0 {
		return n, err
	}
	if b.copied == nil {
		b.copied = getBuffer(0)
	}
	if room := b.limit - len(*b.copied); room > 0 {
		b.add(p[:min(room, n)])
	}
	return n, err
}

// add appends p to the copy; mu is held.
func (b *RequestBody) add(p []byte) {
	var outgrown *[]byte
	b.copied, outgrown = appendTo(b.copied, p)
	switch {
	case outgrown == nil:
	case b.shown:
		b.outgrown = append(b.outgrown, outgrown)
	default:
		putBuffer(outgrown)
	}
}

// Close implements io.Closer. Whoever closes a body wants no more of it: what fails then is
// not the client's doing.
func (b *RequestBody) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	return b.body.Close()
}

// Copied is what a RequestBody has seen so far.
type Copied struct {
	// Bytes are the beginning of the body. They do not change until Release, and must
	// not be looked at after it.
	Bytes []byte
	// Seen is how many bytes were read in all.
	Seen int64
	// Truncated is true when there was more than the limit.
	Truncated bool
	// Complete is true when the body was read to its end.
	Complete bool
}

// Copied returns what was seen so far. It works on a nil RequestBody.
func (b *RequestBody) Copied() Copied {
	if b == nil {
		return Copied{Complete: true}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := Copied{Seen: b.seen, Complete: b.eof, Truncated: b.seen > int64(b.limit)}
	if b.copied != nil { // what is read later is appended: these bytes do not change
		b.shown, c.Bytes = true, (*b.copied)[:len(*b.copied):len(*b.copied)]
	}
	return c
}

// Broken says whether reading the body has failed: the client sent something else than it
// said, or left. What the upstream did by then, nobody knows. It works on a nil RequestBody.
func (b *RequestBody) Broken() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// Release gives the copy's buffer back; reading goes on without copying. What Copied has
// returned must not be looked at any more. It works on a nil RequestBody.
func (b *RequestBody) Release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	putBuffer(b.copied)
	for _, outgrown := range b.outgrown {
		putBuffer(outgrown)
	}
	b.copied, b.outgrown = nil, nil
}
