package exchange

import "sync"

// buffers are reused: most answers of an auth server fit in the first 4 KiB, and what is
// larger in MaxBody.
var (
	buffers = sync.Pool{New: func() any { b := make([]byte, 0, usualBody); return &b }}
	large   = sync.Pool{New: func() any { b := make([]byte, 0, MaxBody); return &b }}
)

const usualBody = 4 << 10

// getBuffer returns an empty buffer for so many bytes, if somebody knows how many.
func getBuffer(size int64) *[]byte {
	pool := &buffers
	if size > usualBody {
		pool = &large
	}
	b := pool.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

// appendTo appends p to a buffer, and returns a larger one in its place if it must. Nobody
// may look at the old one then, unless keep says that somebody does.
func appendTo(b *[]byte, p []byte, keep bool) *[]byte {
	if need := len(*b) + len(p); need > cap(*b) && need <= MaxBody {
		small := b
		b = getBuffer(MaxBody)
		*b = append(*b, *small...)
		if !keep {
			putBuffer(small)
		}
	}
	*b = append(*b, p...)
	return b
}

// putBuffer gives a buffer back, which has all that was ever in it.
func putBuffer(b *[]byte) {
	clear(*b) // passwords and tokens should not linger
	switch cap(*b) {
	case usualBody:
		buffers.Put(b)
	case MaxBody:
		large.Put(b)
	}
}
