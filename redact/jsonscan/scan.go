// Package jsonscan knows the grammar of JSON (RFC 8259): where its tokens end, and whether a
// text is a document. Values are never computed: 1e400 and 2^53+1 stay as they were sent
// (threats.md B9). Functions are pure; unless said, what they are given is valid.
package jsonscan

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// nesting remembers which of the open containers are objects, one bit each,
// so that 200,000 brackets cost 25 KB and no stack.
type nesting struct {
	first [4]uint64 // of the first 256
	bits  []uint64  // of the others
	depth int
	most  int // 0: any number
	// members of the root, if they are wanted.
	members []Member
	wanted  bool
}

// Member is one of an object: b[Name:NameEnd] is its name as it is written, without the
// quotes, and b[Value:End] its value. Plain says that the name's bytes stand for themselves.
type Member struct {
	Name, NameEnd, Value, End int
	Plain                     bool
}

func (n *nesting) push(object bool) {
	if n.depth == 64*(len(n.first)+len(n.bits)) {
		n.bits = append(n.bits, 0)
	}
	word, bit := n.word(n.depth), uint64(1)<<(n.depth%64)
	*word &^= bit
	if object {
		*word |= bit
	}
	n.depth++
}

// word is where the bit of a depth stands.
func (n *nesting) word(depth int) *uint64 {
	if at := depth / 64; at >= len(n.first) {
		return &n.bits[at-len(n.first)]
	}
	return &n.first[depth/64]
}

func (n *nesting) inObject() bool {
	d := n.depth - 1
	return *n.word(d)>>(d%64)&1 == 1
}

// Valid reports whether b is one JSON value and white space, of at most maxDepth objects and
// arrays in one another, or of any number if that is 0. Bytes that are not UTF-8 are let
// through inside strings. It does not recurse, as encoding/json (limit 10,000) and gjson (no
// limit) do.
func Valid(b []byte, maxDepth int) bool {
	n := nesting{most: maxDepth}
	return n.valid(b)
}

// AppendMembers is Valid that also appends the members of b to dst, in their order, if b is an
// object. b begins with its bracket. If it is not valid, what was appended means nothing.
func AppendMembers(dst []Member, b []byte, maxDepth int) ([]Member, bool) {
	n := nesting{most: maxDepth, members: dst, wanted: true}
	ok := n.valid(b)
	return n.members, ok
}

func (n *nesting) valid(b []byte) bool {
	for i := 0; ; {
		i = SkipSpace(b, i)
		if i >= len(b) {
			return false
		}
		var opened, ok bool
		if i, opened, ok = begin(b, i, n); !ok {
			return false
		}
		if opened {
			continue
		}
		var done bool
		if i, done, ok = finish(b, i, n); !ok || done {
			return ok
		}
	}
}

// begin reads a scalar, an empty container, or the opening of a container up
// to its first value (opened).
func begin(b []byte, i int, n *nesting) (next int, opened, ok bool) {
	switch b[i] {
	case '{', '[':
		if n.most > 0 && n.depth >= n.most {
			return i, false, false
		}
		object := b[i] == '{'
		i = SkipSpace(b, i+1)
		if i < len(b) && b[i] == Closer(object) {
			return i + 1, false, true
		}
		n.push(object)
		if object {
			i, ok = n.memberName(b, i)
			return i, true, ok
		}
		return i, true, true
	case '"':
		i, _ = StringEnd(b, i)
		return i, false, i > 0
	}
	i, ok = LiteralEnd(b, i)
	return i, false, ok
}

// finish follows a complete value: it closes containers until another value
// must come, or until the document is done.
func finish(b []byte, i int, n *nesting) (next int, done, ok bool) {
	for {
		if n.depth == 1 && n.wanted && n.inObject() {
			n.members[len(n.members)-1].End = i
		}
		i = SkipSpace(b, i)
		if n.depth == 0 {
			return i, true, i == len(b)
		}
		if i >= len(b) {
			return i, false, false
		}
		object := n.inObject()
		switch b[i] {
		case Closer(object):
			n.depth--
			i++
		case ',':
			i++
			if object {
				i, ok = n.memberName(b, SkipSpace(b, i))
				return i, false, ok
			}
			return i, false, true
		default:
			return i, false, false
		}
	}
}

// Closer is the bracket that ends an object or an array.
func Closer(object bool) byte {
	if object {
		return '}'
	}
	return ']'
}

// memberName reads `"name" :` and the white space behind it.
func (n *nesting) memberName(b []byte, i int) (int, bool) {
	if i >= len(b) || b[i] != '"' {
		return i, false
	}
	end, plain := StringEnd(b, i)
	if end == 0 {
		return i, false
	}
	colon := SkipSpace(b, end)
	if colon >= len(b) || b[colon] != ':' {
		return colon, false
	}
	value := SkipSpace(b, colon+1)
	if n.wanted && n.depth == 1 {
		n.members = append(n.members, Member{Name: i + 1, NameEnd: end - 1, Value: value, Plain: plain})
	}
	return value, true
}

// NextMember is the first member of a valid object that begins at i or later, where i is behind
// the bracket or behind another member; ok is false if there is none. The object begins with
// its bracket; more text may stand behind it.
func NextMember(object []byte, i int) (m Member, ok bool) {
	if i = SkipSpace(object, i); object[i] == ',' {
		i = SkipSpace(object, i+1)
	}
	if object[i] == '}' {
		return m, false
	}
	end, plain := StringEnd(object, i)
	value := SkipSpace(object, SkipSpace(object, end)+1)
	return Member{i + 1, end - 1, value, ValueEnd(object, value), plain}, true
}

// Element is the n-th value of a valid array, which begins with its bracket; nil if it has
// fewer.
func Element(array []byte, n int) []byte {
	for i := SkipSpace(array, 1); array[i] != ']'; i = SkipSpace(array, i) {
		if array[i] == ',' {
			i = SkipSpace(array, i+1)
		}
		end := ValueEnd(array, i)
		if n == 0 {
			return array[i:end]
		}
		n, i = n-1, end
	}
	return nil
}

// StringEnd is the index after the string that opens at i, 0 when it is broken. plain says
// that its bytes stand for themselves: ASCII, no escapes.
func StringEnd(b []byte, i int) (end int, plain bool) {
	plain = true
	for i++; ; {
		next, ascii := stop(b, i)
		if plain = plain && ascii; next >= len(b) {
			return 0, false
		}
		switch b[next] {
		case '"':
			return next + 1, plain
		case '\\':
			plain = false
			if i = escapeEnd(b, next+1); i == 0 {
				return 0, false
			}
		default:
			return 0, false
		}
	}
}

// escapeEnd is the index after the escape whose letter is at i, 0 when it is broken.
func escapeEnd(b []byte, i int) int {
	switch {
	case i >= len(b):
		return 0
	case b[i] != 'u':
		if unescaped(b[i]) == 0 {
			return 0
		}
		return i + 1
	}
	if _, ok := hex4(b, i+1); !ok {
		return 0
	}
	return i + 5
}

// One and the highest bit of each byte of a word.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// stop is the first index from i on at which a string may end or be broken: a quote, a
// backslash, a control character, or the end. ascii says what is before it. It looks at eight
// bytes at once: (v - ones) &^ v & highs has the highest bit of the first byte of v that is 0,
// and none before it.
func stop(b []byte, i int) (next int, ascii bool) {
	var seen uint64
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^('"'*ones), w^('\\'*ones)
		if found := ((w-' '*ones)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs; found != 0 {
			n := bits.TrailingZeros64(found) / 8
			seen |= w & (1<<(8*n) - 1)
			return i + n, seen&highs == 0
		}
		seen |= w
	}
	for ; i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\'; i++ {
		seen |= uint64(b[i])
	}
	return i, seen&highs == 0
}

// LiteralEnd is the index after true, false, null or a number at i; ok is false if there is
// none.
func LiteralEnd(b []byte, i int) (end int, ok bool) {
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
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

// SkipSpace is the first index from i on that is no white space. b may be anything.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// ValueEnd is the index after the value at i. b must be valid.
func ValueEnd(b []byte, i int) int {
	for depth := 0; i < len(b); {
		switch b[i] {
		case '"':
			i, _ = StringEnd(b, i)
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
			i, _ = LiteralEnd(b, i)
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

// AppendUnquoted appends what the inside of a valid JSON string stands for:
// valid UTF-8, with U+FFFD for NUL, lone surrogates and broken bytes.
func AppendUnquoted(dst, in []byte) []byte {
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
		d, ok := HexDigit(c)
		if !ok {
			return 0, false
		}
		v = v<<4 | rune(d)
	}
	return v, true
}

// HexDigit is the value of a hexadecimal digit in either case; ok is false for all else.
func HexDigit(c byte) (v byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
