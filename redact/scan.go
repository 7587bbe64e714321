package redact

import (
	"unicode/utf16"
	"unicode/utf8"
)

// nesting remembers which of the open containers are objects, one bit each,
// so that 200,000 brackets cost 25 KB and no stack.
type nesting struct {
	bits  []uint64
	depth int
}

func (n *nesting) push(object bool) {
	word, bit := n.depth/64, uint64(1)<<(n.depth%64)
	if word == len(n.bits) {
		n.bits = append(n.bits, 0)
	}
	n.bits[word] &^= bit
	if object {
		n.bits[word] |= bit
	}
	n.depth++
}

func (n *nesting) inObject() bool {
	d := n.depth - 1
	return n.bits[d/64]>>(d%64)&1 == 1
}

// validJSON reports whether b is one JSON value (RFC 8259) and white space.
// Bytes that are not UTF-8 are let through inside strings: they are replaced
// when written. It does not recurse, as encoding/json (limit 10,000) and
// gjson (no limit) do.
func validJSON(b []byte) bool {
	var room [4]uint64
	n := nesting{bits: room[:0]}
	for i := 0; ; {
		i = skipSpace(b, i)
		if i >= len(b) {
			return false
		}
		var opened, ok bool
		if i, opened, ok = begin(b, i, &n); !ok {
			return false
		}
		if opened {
			continue
		}
		var done bool
		if i, done, ok = finish(b, i, &n); !ok || done {
			return ok
		}
	}
}

// begin reads a scalar, an empty container, or the opening of a container up
// to its first value (opened).
func begin(b []byte, i int, n *nesting) (next int, opened, ok bool) {
	switch b[i] {
	case '{', '[':
		object := b[i] == '{'
		i = skipSpace(b, i+1)
		if i < len(b) && b[i] == closer(object) {
			return i + 1, false, true
		}
		n.push(object)
		if object {
			i, ok = memberName(b, i)
			return i, true, ok
		}
		return i, true, true
	case '"':
		i, _ = stringEnd(b, i)
		return i, false, i > 0
	}
	i, ok = literal(b, i)
	return i, false, ok
}

// finish follows a complete value: it closes containers until another value
// must come, or until the document is done.
func finish(b []byte, i int, n *nesting) (next int, done, ok bool) {
	for {
		i = skipSpace(b, i)
		if n.depth == 0 {
			return i, true, i == len(b)
		}
		if i >= len(b) {
			return i, false, false
		}
		object := n.inObject()
		switch b[i] {
		case closer(object):
			n.depth--
			i++
		case ',':
			i++
			if object {
				i, ok = memberName(b, skipSpace(b, i))
				return i, false, ok
			}
			return i, false, true
		default:
			return i, false, false
		}
	}
}

func closer(object bool) byte {
	if object {
		return '}'
	}
	return ']'
}

// memberName reads `"name" :`.
func memberName(b []byte, i int) (int, bool) {
	if i >= len(b) || b[i] != '"' {
		return i, false
	}
	if i, _ = stringEnd(b, i); i == 0 {
		return i, false
	}
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return i, false
	}
	return i + 1, true
}

// stringEnd is the index after the string that opens at i, 0 when it is
// broken. plain says that its bytes stand for themselves: ASCII, no escapes.
func stringEnd(b []byte, i int) (end int, plain bool) {
	plain = true
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1, plain
		case c == '\\':
			plain = false
			if i++; i >= len(b) {
				return 0, false
			}
			if b[i] == 'u' {
				if _, ok := hex4(b, i+1); !ok {
					return 0, false
				}
				i += 4
			} else if unescaped(b[i]) == 0 {
				return 0, false
			}
		case c < ' ':
			return 0, false
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	return 0, false
}

// literal reads true, false, null or a number.
func literal(b []byte, i int) (int, bool) {
	for _, word := range [...]string{"true", "false", "null"} {
		if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
			return i + len(word), true
		}
	}
	return number(b, i)
}

// number reads the grammar of RFC 8259, section 6. The value is never
// computed: 1e400 and 2^53+1 stay as they were sent (threats.md B9).
func number(b []byte, i int) (int, bool) {
	if i < len(b) && b[i] == '-' {
		i++
	}
	start := i
	i = digits(b, i)
	if i == start || (b[start] == '0' && i > start+1) {
		return i, false
	}
	if i < len(b) && b[i] == '.' {
		start = i + 1
		if i = digits(b, start); i == start {
			return i, false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		start = i
		if i = digits(b, start); i == start {
			return i, false
		}
	}
	return i, true
}

func digits(b []byte, i int) int {
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// valueEnd is the index after the value at i. b must be valid.
func valueEnd(b []byte, i int) int {
	for depth := 0; i < len(b); {
		switch b[i] {
		case '"':
			i, _ = stringEnd(b, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			i++
			continue
		default:
			i, _ = literal(b, i)
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

// appendUnquoted appends what the inside of a valid JSON string stands for:
// valid UTF-8, with U+FFFD for NUL, lone surrogates and broken bytes.
func appendUnquoted(dst, in []byte) []byte {
	for i := 0; i < len(in); {
		if in[i] != '\\' {
			v, size := utf8.DecodeRune(in[i:])
			dst = utf8.AppendRune(dst, v)
			i += size
			continue
		}
		if in[i+1] != 'u' {
			dst = append(dst, unescaped(in[i+1]))
			i += 2
			continue
		}
		v, _ := hex4(in, i+2)
		i += 6
		if utf16.IsSurrogate(v) {
			pair := rune(utf8.RuneError)
			if i+6 <= len(in) && in[i] == '\\' && in[i+1] == 'u' {
				low, _ := hex4(in, i+2)
				pair = utf16.DecodeRune(v, low)
			}
			if v = pair; v != utf8.RuneError {
				i += 6
			}
		}
		if v == 0 {
			v = utf8.RuneError
		}
		dst = utf8.AppendRune(dst, v)
	}
	return dst
}

// unescaped is the byte that a one-letter escape stands for, 0 for none.
func unescaped(c byte) byte {
	switch c {
	case '"', '\\', '/':
		return c
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return 0
}

func hex4(b []byte, i int) (rune, bool) {
	if i+4 > len(b) {
		return 0, false
	}
	var v rune
	for _, c := range b[i : i+4] {
		d, ok := hexDigit(c)
		if !ok {
			return 0, false
		}
		v = v<<4 | rune(d)
	}
	return v, true
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string. NUL and what is not UTF-8 become
// U+FFFD: SQLite stops at the one, PostgreSQL refuses both (threats.md B7).
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0
	for plain < len(s) && s[plain] >= ' ' && s[plain] < utf8.RuneSelf && s[plain] != '"' && s[plain] != '\\' {
		plain++
	}
	dst = append(dst, s[:plain]...)
	for _, v := range s[plain:] {
		switch {
		case v == '"' || v == '\\':
			dst = append(dst, '\\', byte(v))
		case v == 0:
			dst = append(dst, "\ufffd"...)
		case v < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[v>>4], hexDigits[v&15])
		default:
			dst = utf8.AppendRune(dst, v)
		}
	}
	return append(dst, '"')
}

// appendCompact appends the JSON value in without the white space between
// its tokens.
func appendCompact(dst, in []byte) []byte {
	for i := 0; i < len(in); {
		if in[i] == '"' {
			end, _ := stringEnd(in, i)
			dst = append(dst, in[i:end]...)
			i = end
			continue
		}
		if skipSpace(in, i) == i {
			dst = append(dst, in[i])
		}
		i++
	}
	return dst
}
