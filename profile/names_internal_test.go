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
