package exchange

import "sync"

// bufferSizes are those of the buffers that are used again: most answers of an auth server
// fit in the first, and nothing that is looked at is larger than the last.
var bufferSizes = [...]int{4 << 10, 16 << 10, MaxBody}

var buffers [len(bufferSizes)]sync.Pool // of *[]byte

// getBuffer returns an empty buffer for so many bytes.
func getBuffer(size int) *[]byte {
	i := 0
	for i < len(bufferSizes)-1 && size > bufferSizes[i] {
		i++
	}
	b, ok := buffers[i].Get().(*[]byte)
	if !ok {
		fresh := make([]byte, 0, bufferSizes[i])
		b = &fresh
	}
	*b = (*b)[:0]
	return b
}

// appendTo appends p to a buffer. When it is too small, a larger one takes its place, and
// outgrown is the old one, for putBuffer once nobody looks at it any more.
func appendTo(b *[]byte, p []byte) (grown, outgrown *[]byte) {
	if need := len(*b) + len(p); need > cap(*b) {
		outgrown, b = b, getBuffer(need)
		*b = append(*b, *outgrown...)
	}
	*b = append(*b, p...)
	return b, outgrown
}

// putBuffer gives a buffer back, which has all that was ever in it; nil is none.
func putBuffer(b *[]byte) {
	if b == nil {
		return
	}
	clear(*b) // passwords and tokens should not linger
	for i, size := range bufferSizes {
		if cap(*b) == size {
			buffers[i].Put(b) // from here on it is somebody else's
			return
		}
	}
}
