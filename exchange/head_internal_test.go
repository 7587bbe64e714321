package exchange

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestAHeldHeadIsPutBack: whatever a handler does with the header, in place or not, the held one
// goes out, and what was set since is what differs.
func TestAHeldHeadIsPutBack(t *testing.T) {
	names := rapid.SampledFrom([]string{"A", "B", "C", "Set-Cookie", "Trailer:X"})
	values := rapid.SliceOfN(rapid.SampledFrom([]string{"", "1", "2"}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		h := http.Header(rapid.MapOfN(names, values, 0, 5).Draw(t, "header"))
		before := h.Clone()
		held := holdHead(h)
		t.Repeat(map[string]func(*rapid.T){
			"set":    func(t *rapid.T) { h[names.Draw(t, "name")] = values.Draw(t, "values") },
			"add":    func(t *rapid.T) { h.Add(names.Draw(t, "name"), "3") },
			"delete": func(t *rapid.T) { delete(h, names.Draw(t, "name")) },
			"in place": func(t *rapid.T) {
				if v := h[names.Draw(t, "name")]; len(v) > 0 {
					v[0] = "4"
				}
			},
		})
		after := h.Clone()
		late := held.restore(h)
		if !maps.EqualFunc(h, before, slices.Equal) {
			t.Fatalf("put back: %v, was %v", h, before)
		}
		want := http.Header{}
		for name, v := range after {
			if old, ok := before[name]; !ok || !slices.Equal(old, v) {
				want[name] = v
			}
		}
		if !maps.EqualFunc(late, want, slices.Equal) {
			t.Fatalf("set since: %v, want %v", late, want)
		}
		held.release()
		if again := holdHead(http.Header{}); len(again.fields)+len(again.values) != 0 {
			t.Fatalf("something was left: %+v", again)
		}
	})
}
