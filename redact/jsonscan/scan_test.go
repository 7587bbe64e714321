package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
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
		for depth := 1; depth < 400; depth++ {
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

// FuzzMembers: both ways to find the members of an object agree with each other and with
// encoding/json.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{` {"a":1}`, `{"a":[1,{"b":2}],"é":"x" , "a\u0041" : {"c":{}} }`, "{}", "{ }", `{"a":1,}`, `[{"a":1}]`, `{"a":{"b":[{"c":"}"}]},"d":"\"","d":null}`, `{"a":1} x`, `{"":""}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if text = bytes.TrimLeft(text, " \t\r\n"); len(text) == 0 || len(text) > 5000 {
			return
		}
		members, ok := jsonscan.AppendMembers(nil, text, 0)
		switch {
		case ok != jsonscan.Valid(text, 0):
			t.Fatalf("%q: valid %v", text, !ok)
		case !ok:
		case text[0] != '{':
			if len(members) > 0 {
				t.Fatalf("%q has members", text)
			}
		default:
			m, ok := jsonscan.NextMember(text, 1)
			for i := range members {
				if !ok || m != members[i] {
					t.Fatalf("%q: %v is the next member, %v; want %v", text, m, ok, members[i])
				}
				m, ok = jsonscan.NextMember(text, m.End)
			}
			if ok {
				t.Fatalf("%q: one more member, %v", text, m)
			}
			sameMembers(t, text, members)
		}
	})
}

// sameMembers compares with what encoding/json finds.
func sameMembers(t *testing.T, text []byte, members []jsonscan.Member) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		name, err := d.Token()
		var value json.RawMessage
		if err = errors.Join(err, d.Decode(&value)); err != nil {
			t.Fatalf("%q has more members than encoding/json finds: %v", text, err)
		}
		var own string
		if err := json.Unmarshal(text[m.Name-1:m.NameEnd+1], &own); err != nil || own != name {
			t.Fatalf("%q: a member %q, want %q", text, own, name)
		}
		if m.Plain && string(text[m.Name:m.NameEnd]) != name {
			t.Fatalf("%q: %q is not plain", text, name)
		}
		if got := string(text[m.Value:m.End]); got != string(value) {
			t.Fatalf("%q: %q is %q, want %q", text, name, got, value)
		}
	}
	if d.More() {
		t.Fatalf("%q has more members than %d", text, len(members))
	}
}

// TestElementsOfAnArray: by their place.
func TestElementsOfAnArray(t *testing.T) {
	array := []byte(`[ 1 , "]," ,{"a":[2]}, [] ,null ]`)
	for n, want := range []string{"1", `"],"`, `{"a":[2]}`, "[]", "null", ""} {
		if got := jsonscan.Element(array, n); string(got) != want || got == nil != (want == "") {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	if got := jsonscan.Element([]byte("[ ]"), 0); got != nil {
		t.Errorf("an element %q of nothing", got)
	}
}
