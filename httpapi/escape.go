package httpapi

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// escaped is JSON whose texts have what a terminal obeys written as \u escapes: control
// characters that JSON allows, and those that turn the direction of a text. It says the
// same. For what people look at as it is: lines, and streams.
func escaped(b []byte) []byte {
	if !bytes.ContainsFunc(b, obeyed) {
		return b
	}
	out := make([]byte, 0, len(b)+64)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if obeyed(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

// obeyed says of what stands in JSON's texts whether a terminal acts upon it.
func obeyed(r rune) bool {
	return r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}
