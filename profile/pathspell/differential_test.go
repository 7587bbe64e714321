package pathspell

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/targets.golden.jsonl")

// row is one line of testdata/targets.golden.jsonl: what the oracle and this package say about one target.
type row struct {
	Group      string              `json:"group"`
	Method     string              `json:"method,omitempty"`
	Target     string              `json:"target"` // U+FFFD stands for bytes that are not UTF-8
	Refused    bool                `json:"refusedByGo,omitempty"`
	Sent       string              `json:"sent,omitempty"`
	Runs       map[string][]string `json:"runs,omitempty"`     // route -> the models that execute it
	MissedBy   []string            `json:"missedBy,omitempty"` // naive ways that miss a route
	Ambiguous  bool                `json:"ambiguous"`
	Candidates []string            `json:"candidates,omitempty"`
}

// X1, X2, X4, A5, A7 and A32 of threats.md: whatever a router executes must be among the candidates.
func TestNoExecutedRouteOfTheCorpusIsMissed(t *testing.T) {
	c := loadCorpus(t)
	if len(c.Targets) < 143 {
		t.Fatalf("the corpus has %d targets, X1 alone had 143", len(c.Targets))
	}
	rows, urls := make([]row, len(c.Targets)), make([]*url.URL, len(c.Targets))
	var sent []string
	for i, tg := range c.Targets {
		raw := tg.raw(t)
		rows[i] = row{Group: tg.Group, Method: tg.Method, Target: raw}
		u, err := parse(tg.Method, raw)
		if rows[i].Refused = err != nil; rows[i].Refused {
			continue
		}
		urls[i], rows[i].Sent = u, sentBytes(tg.Method, u)
		sent = append(sent, rows[i].Sent)
	}
	v := askOracle(t, c, sent)
	var y tally
	next := 0
	for i := range rows {
		if rows[i].Refused {
			continue
		}
		rows[i].fill(&y, c.Base, urls[i], v.Models, v.Runs[next])
		next++
		if len(rows[i].MissedBy) > 0 && rows[i].MissedBy[0] == "candidates" {
			t.Errorf("missed: %q sent as %q runs %v, candidates %q", rows[i].Target, rows[i].Sent, rows[i].Runs, rows[i].Candidates)
		}
	}
	y.report(t, "corpus")
	if y.missedClean == 0 || y.missedDecode == 0 || y.missedRaw == 0 {
		t.Error("the naive comparisons missed nothing, so the corpus or the oracle is no longer hostile")
	}
	compareGolden(t, rows)
}

func (r *row) fill(y *tally, base string, u *url.URL, models, runs []string) {
	for m, route := range runs {
		if route != "" {
			if r.Runs == nil {
				r.Runs = map[string][]string{}
			}
			r.Runs[route] = append(r.Runs[route], models[m])
		}
	}
	r.MissedBy = y.judge(base, r.Target, u, routesOf(runs))
	c := Of(u)
	r.Ambiguous = c.Ambiguous()
	for i := range c.Len() {
		r.Candidates = append(r.Candidates, c.At(i))
	}
}

func compareGolden(t *testing.T, rows []row) {
	t.Helper()
	const file = "testdata/targets.golden.jsonl"
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s line %d differs (go test ./profile/pathspell -update rewrites it):\n got %s\nwant %s",
				file, i+1, at(g, i), at(w, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// A3: random hostile targets, judged by the oracle. PATHSPELL_FUZZ sets how many, PATHSPELL_SEED which.
func TestNoExecutedRouteOfRandomTargetsIsMissed(t *testing.T) {
	n, seed := envInt(t, "PATHSPELL_FUZZ", 20_000), envInt(t, "PATHSPELL_SEED", 1)
	c := loadCorpus(t)
	g := generator{rng: rand.New(rand.NewPCG(uint64(seed), 0)), corpus: c}
	const batch = 50_000 // what Node judges at a time, to bound memory
	var y tally
	for done := 0; done < n; done += batch {
		judgeBatch(t, &y, c, &g, min(batch, n-done))
	}
	y.report(t, fmt.Sprintf("fuzz (seed %d)", seed))
	if y.missedClean == 0 || y.missedDecode == 0 || y.missedRaw == 0 {
		t.Error("the naive comparisons missed nothing, so the generator or the oracle is no longer hostile")
	}
}

func judgeBatch(t *testing.T, y *tally, c corpus, g *generator, n int) {
	t.Helper()
	var raws, sent []string
	var urls []*url.URL
	for len(raws) < n {
		raw := g.target()
		u, err := parse("POST", raw)
		if err != nil {
			continue
		}
		raws, urls, sent = append(raws, raw), append(urls, u), append(sent, u.RequestURI())
	}
	v := askOracle(t, c, sent)
	shown := 0
	for i := range raws {
		missedBy := y.judge(c.Base, raws[i], urls[i], routesOf(v.Runs[i]))
		if len(missedBy) > 0 && missedBy[0] == "candidates" && shown < 20 {
			shown++
			t.Errorf("missed: %q sent as %q runs %q, candidates %q", raws[i], sent[i], v.Runs[i], list(urls[i]))
		}
	}
}

func list(u *url.URL) []string {
	c := Of(u)
	all := make([]string, c.Len())
	for i := range all {
		all[i] = c.At(i)
	}
	return all
}

func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// generator makes targets that try to run a route under another name.
type generator struct {
	rng    *rand.Rand
	corpus corpus
}

func (g *generator) pick(from ...string) string { return from[g.rng.IntN(len(from))] }

func (g *generator) target() string {
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
func (g *generator) mutate(s string) string {
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
func (g *generator) slash(s string) int {
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

// The one router of X1 that is at hand here, in person: net/http.ServeMux behind the same random targets.
func TestNothingThatServeMuxRunsIsMissed(t *testing.T) {
	c := loadCorpus(t)
	var ran string
	mux := http.NewServeMux()
	for _, route := range c.Routes {
		pattern := strings.NewReplacer(":id", "{id}", ":token", "{token}").Replace(c.Base + route)
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) { ran = c.Base + route })
	}
	g := generator{rng: rand.New(rand.NewPCG(2, 0)), corpus: c}
	runs := 0
	for range 5_000 {
		raw := g.target()
		u, err := parse("POST", raw)
		if err != nil {
			continue
		}
		upstream, err := parse("POST", u.RequestURI())
		if err != nil {
			continue
		}
		ran = ""
		mux.ServeHTTP(httptest.NewRecorder(), &http.Request{Method: "POST", URL: upstream, RequestURI: u.RequestURI()})
		if ran == "" {
			continue
		}
		runs++
		if s := Of(u); !covers(&s, ran) {
			t.Errorf("missed: %q runs %q, candidates %q", raw, ran, list(u))
		}
	}
	if t.Logf("ServeMux ran %d of 5000", runs); runs == 0 {
		t.Error("ServeMux ran nothing, so this test says nothing")
	}
}
