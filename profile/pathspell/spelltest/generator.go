package spelltest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Generator makes targets that try to run a route under another name. It is not safe
// for concurrent use.
type Generator struct {
	rng    *rand.Rand
	corpus Corpus
}

// NewGenerator returns a Generator; the same seed makes the same targets.
func NewGenerator(c Corpus, seed uint64) *Generator {
	return &Generator{rng: rand.New(rand.NewPCG(seed, 0)), corpus: c} //nolint:gosec // repeatable on purpose
}

func (g *Generator) pick(from ...string) string { return from[g.rng.IntN(len(from))] }

// Target returns the next one.
func (g *Generator) Target() string {
	route := g.corpus.Routes[g.rng.IntN(len(g.corpus.Routes))]
	for _, param := range []string{":token", ":id"} {
		route = strings.ReplaceAll(route, param, g.pick("aB3", "github", "..", "a%2Fb", "..%2f..", "%ff", "a;b", ".", "%2e%2e"))
	}
	s := g.corpus.Base + route
	for range 1 + g.rng.IntN(5) {
		s = g.mutate(s)
	}
	switch g.rng.IntN(24) {
	case 0:
		s = g.pick("http://evil", "http:", "//evil", "///h:80", "x:http://h", "x:https://h", "//a%2eb", "https://u@h:1", "x:y:") + s
	case 1:
		s += g.pick("?", "?x", "?/../ok", "?#", "?\u00a0", "??a=b")
	}
	return s
}

// mutate changes s in one place.
func (g *Generator) mutate(s string) string {
	i := g.rng.IntN(len(s))
	switch g.rng.IntN(8) {
	case 0, 1: // a detour at a segment boundary
		i = g.slash(s)
		return s[:i] + g.pick("/.", "/x/..", "/x/y/../..", "/", "//..", "//", "/%2e", "/x/%2e%2e", "/x/.%2E", "/..", "/;a/..",
			"/;a", "/x;/..;", "/é/..", `/"`, "/x%2F..", "/x%5C..", `/x\..`, "/%252e", "/./.", `\`, "%2F", "%5c") + s[i:]
	case 2: // an escape that nobody needs
		return s[:i] + fmt.Sprintf(g.pick("%%%02x", "%%%02X", "%%25%02x"), s[i]) + s[i+1:]
	case 3: // case
		return s[:i] + strings.ToUpper(s[i:])
	case 4: // another separator
		i = g.slash(s)
		return s[:i] + g.pick(`\`, "%2F", "%2f", "%5C", "//", "/", "%252F", ";/") + s[i+1:]
	case 5: // the end
		return s + g.pick("/", "//", "/.", "/..", "/x/..", ";x", ";x/y", "%3Bx", "%00", "%20", "%3F", "?", "%2F", "/%2e", "%5C", ".")
	case 6: // a byte that makes Go encode the path anew
		return s[:i] + g.pick(`"`, "<", "^", "`", "{", "|", "#", "é", "\xff", `\`) + s[i:]
	}
	return g.pick("/..", "/x/..", "/.", "/", "/%2e%2e", "/;x", "/%2F..", "/é/..") + s
}

// slash is the position of a random "/" in s, or 0.
func (g *Generator) slash(s string) int {
	var all []int
	for i := range len(s) {
		if s[i] == '/' {
			all = append(all, i)
		}
	}
	if len(all) == 0 {
		return 0
	}
	return all[g.rng.IntN(len(all))]
}
