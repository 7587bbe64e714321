package exchange

import "sync"

// buffers are reused: most answers of an auth server fit in the first 4 KiB.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func getBuffer() *[]byte {
	b := buffers.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

// putBuffer keeps small buffers only, so that the pool does not hold on to the
// memory of a few large answers. b has all that was ever in it.
func putBuffer(b *[]byte) {
	if cap(*b) <= 16<<10 {
		clear(*b) // passwords and tokens should not linger
		buffers.Put(b)
	}
}
