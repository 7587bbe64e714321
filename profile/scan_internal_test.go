package profile

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestSimilarNamesAreThoseOfEveryServer: names are compared without making new ones; what
// is alike is what is alike with the joints taken out, in any case of any script.
func TestSimilarNamesAreThoseOfEveryServer(t *testing.T) {
	names := rapid.StringMatching(`[aAkKsS\x{212a}\x{17f}é_\-b{@` + "`" + `]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := names.Draw(t, "a"), names.Draw(t, "b")
		plain := strings.NewReplacer("_", "", "-", "")
		want := a != "" && b != "" && strings.EqualFold(plain.Replace(a), plain.Replace(b))
		if got := sameName(a, b); got != want {
			t.Fatalf("%q and %q: %v", a, b, got)
		}
	})
}

// TestAStringEndsWhereItDoesByteByByte: eight bytes are looked at at once.
func TestAStringEndsWhereItDoesByteByByte(t *testing.T) {
	odd := rapid.SampledFrom([]byte{0, 1, 0x1f, ' ', '!', '"', '#', '[', '\\', ']', 0x7f, 0x80, 0x9f, 0xa0, 0xff})
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.OneOf(rapid.Just(byte('m')), rapid.Just(byte('m')), odd), 0, 40).Draw(t, "text")
		from := rapid.IntRange(0, len(text)).Draw(t, "from")
		want := from
		for want < len(text) && text[want] >= ' ' && text[want] != '"' && text[want] != '\\' {
			want++
		}
		s := scanner{text: text}
		if got := s.plain(from); got != want {
			t.Fatalf("%q from %d: %d, want %d", text, from, got, want)
		}
	})
}
