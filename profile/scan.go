package profile

import (
	"encoding/binary"
	"math/bits"

	"github.com/tidwall/gjson"
)

// usualMembers is for how many members of a document there is room at first.
const usualMembers = 8

// scanner finds out whether a text is JSON (RFC 8259) within the bounds, and what the
// members of an object are, in one pass. Bytes in strings that are not UTF-8 are let
// through, as encoding/json does.
type scanner struct {
	text []byte
	// members get those of the root, if it is not nil.
	members *[]member
	depth   int
}

func (s *scanner) valid() bool {
	if len(s.text) == 0 || len(s.text) > maxLookup {
		return false
	}
	end := s.value(s.space(0))
	return end > 0 && s.space(end) == len(s.text)
}

// at is the byte at i; 0, which nothing begins with, behind the end.
func (s *scanner) at(i int) byte {
	if i < len(s.text) {
		return s.text[i]
	}
	return 0
}

func (s *scanner) space(i int) int {
	for i < len(s.text) && (s.text[i] == ' ' || s.text[i] == '\t' || s.text[i] == '\n' || s.text[i] == '\r') {
		i++
	}
	return i
}

// value is behind the value that begins at i; 0 if there is none, as for the other steps.
func (s *scanner) value(i int) int {
	switch c := s.at(i); c {
	case '"':
		return s.str(i)
	case '{', '[':
		if s.depth++; s.depth > maxDepth {
			return 0
		}
		var end int
		if c == '{' {
			end = s.object(i)
		} else {
			end = s.array(i)
		}
		s.depth--
		return end
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	}
	return s.number(i)
}

func (s *scanner) word(i int, word string) int {
	if end := i + len(word); end <= len(s.text) && string(s.text[i:end]) == word {
		return end
	}
	return 0
}

func (s *scanner) array(i int) int {
	if i = s.space(i + 1); s.at(i) == ']' {
		return i + 1
	}
	for {
		if i = s.value(i); i == 0 {
			return 0
		}
		switch i = s.space(i); s.at(i) {
		case ']':
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return 0
		}
	}
}

func (s *scanner) object(i int) int {
	root := s.members != nil && s.depth == 1
	if root {
		*s.members = make([]member, 0, usualMembers)
	}
	if i = s.space(i + 1); s.at(i) == '}' {
		return i + 1
	}
	for {
		name := i
		if s.at(i) != '"' {
			return 0
		}
		if i = s.str(i); i == 0 {
			return 0
		}
		named := i
		if i = s.space(i); s.at(i) != ':' {
			return 0
		}
		begin := s.space(i + 1)
		if i = s.value(begin); i == 0 {
			return 0
		}
		if root {
			*s.members = append(*s.members, member{unquoted(s.text[name:named]), s.text[begin:i]})
		}
		switch i = s.space(i); s.at(i) {
		case '}':
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return 0
		}
	}
}

// unquoted is what a string says that is JSON.
func unquoted(quoted []byte) []byte {
	inside := quoted[1 : len(quoted)-1]
	for _, c := range inside {
		if c == '\\' {
			return []byte(gjson.ParseBytes(quoted).Str)
		}
	}
	return inside
}

// str is behind the string that begins at i.
func (s *scanner) str(i int) int {
	for i++; ; {
		i = s.plain(i)
		switch s.at(i) {
		case '"':
			return i + 1
		case '\\':
			if i = s.escape(i + 1); i == 0 {
				return 0
			}
		default:
			return 0
		}
	}
}

// escape is behind the escape whose letter is at i.
func (s *scanner) escape(i int) int {
	switch s.at(i) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		for range 4 {
			if i++; hexValue(s.at(i)) > 15 {
				return 0
			}
		}
		return i + 1
	}
	return 0
}

// One and the highest bit of each byte of a word.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain is the first index from i on at which a string may end: a quote, a backslash or a
// control character. It looks at eight bytes at once: (v - ones) &^ v & highs has the highest
// bit of the first byte of v that is 0, and none before it.
func (s *scanner) plain(i int) int {
	for ; i+8 <= len(s.text); i += 8 {
		w := binary.LittleEndian.Uint64(s.text[i:])
		quote, slash := w^('"'*ones), w^('\\'*ones)
		if found := ((w-' '*ones)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(s.text) && s.text[i] >= ' ' && s.text[i] != '"' && s.text[i] != '\\' {
		i++
	}
	return i
}

func (s *scanner) number(i int) int {
	if s.at(i) == '-' {
		i++
	}
	begin := i
	if i = s.digits(i); i == begin || s.text[begin] == '0' && i > begin+1 {
		return 0
	}
	if s.at(i) == '.' {
		begin = i + 1
		if i = s.digits(begin); i == begin {
			return 0
		}
	}
	if s.at(i)|0x20 == 'e' {
		if i++; s.at(i) == '+' || s.at(i) == '-' {
			i++
		}
		begin = i
		if i = s.digits(i); i == begin {
			return 0
		}
	}
	return i
}

func (s *scanner) digits(i int) int {
	for i < len(s.text) && s.text[i] >= '0' && s.text[i] <= '9' {
		i++
	}
	return i
}
