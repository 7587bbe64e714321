package jsonscan_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

// slowStringEnd is StringEnd byte by byte.
func slowStringEnd(b []byte, i int) (end int, plain bool) {
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
				if i+4 >= len(b) || strings.Trim(string(b[i+1:i+5]), "0123456789abcdefABCDEF") != "" {
					return 0, false
				}
				i += 4
			} else if !strings.ContainsRune(`"\/bfnrt`, rune(b[i])) {
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

// TestAStringEndsWhereItDoesByteByByte: eight bytes are looked at at once.
func TestAStringEndsWhereItDoesByteByByte(t *testing.T) {
	part := rapid.OneOf(rapid.Just("mmm"), rapid.Just("mmmmmmmmmm"), rapid.SampledFrom([]string{
		"\x00", "\x01", "\x1f", " ", "!", `"`, "#", "[", `\`, "]", "\x7f", "\x80", "\x9f", "\xa0", "\xff", "é", `\n`, `\u00e9`, `\u00g9`, `\x`, `\"`, `\\`, "u12"}))
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(`"` + strings.Join(rapid.SliceOfN(part, 0, 12).Draw(t, "parts"), ""))
		end, plain := jsonscan.StringEnd(text, 0)
		if wantEnd, wantPlain := slowStringEnd(text, 0); end != wantEnd || plain != wantPlain {
			t.Fatalf("%q: %d, %v; byte by byte %d, %v", text, end, plain, wantEnd, wantPlain)
		}
	})
}

// TestDepthIsBounded: empty ones count, too.
func TestDepthIsBounded(t *testing.T) {
	for _, shape := range [][3]string{{"[", "", "]"}, {"[", "1", "]"}, {`{"a":`, "{}", "}"}} {
		for depth := 1; depth < 70; depth++ {
			text := []byte(strings.Repeat(shape[0], depth) + shape[1] + strings.Repeat(shape[2], depth))
			deep := depth
			if shape[1] == "{}" {
				deep++
			}
			if !jsonscan.Valid(text, deep) || !jsonscan.Valid(text, 0) || deep > 1 && jsonscan.Valid(text, deep-1) {
				t.Fatalf("%s is not %d deep", text, deep)
			}
		}
	}
}

// FuzzValid: what encoding/json takes for a document is one, and nothing else.
func FuzzValid(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+3,true,null,"\u00e9\\"]}`, " [] ", "", "01", "1.", "-", `"\x"`, "{,}", `{"a":1,}`, "[1 2]", "tru", `"` + "\x80", "1e400"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, want := jsonscan.Valid(text, 0), json.Valid(text); got != want && len(text) < 5000 {
			t.Fatalf("%q: %v, encoding/json says %v", text, got, want)
		}
	})
}
