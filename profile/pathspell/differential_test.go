package pathspell

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell/spelltest"
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
	c := spelltest.Load(t)
	if len(c.Targets) < 143 {
		t.Fatalf("the corpus has %d targets, X1 alone had 143", len(c.Targets))
	}
	rows, urls := make([]row, len(c.Targets)), make([]*url.URL, len(c.Targets))
	var sent []string
	for i, tg := range c.Targets {
		raw := tg.Raw(t)
		rows[i] = row{Group: tg.Group, Method: tg.Method, Target: raw}
		u, err := spelltest.Parse(tg.Method, raw)
		if rows[i].Refused = err != nil; rows[i].Refused {
			continue
		}
		urls[i], rows[i].Sent = u, spelltest.SentBytes(tg.Method, u)
		sent = append(sent, rows[i].Sent)
	}
	v := spelltest.Ask(t, c, sent)
	var y spelltest.Tally
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
	y.Report(t, "corpus")
	compareGolden(t, rows)
}

func (r *row) fill(y *spelltest.Tally, base string, u *url.URL, models, runs []string) {
	for m, route := range runs {
		if route != "" {
			if r.Runs == nil {
				r.Runs = map[string][]string{}
			}
			r.Runs[route] = append(r.Runs[route], models[m])
		}
	}
	c := Of(u)
	r.MissedBy = y.Judge(base, r.Target, u, &c, spelltest.RoutesOf(runs))
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
	c := spelltest.Load(t)
	g := spelltest.NewGenerator(c, uint64(seed)) //nolint:gosec // a seed
	const batch = 50_000                         // what Node judges at a time, to bound memory
	var y spelltest.Tally
	for done := 0; done < n; done += batch {
		judgeBatch(t, &y, c, g, min(batch, n-done))
	}
	y.Report(t, fmt.Sprintf("fuzz (seed %d)", seed))
}

func judgeBatch(t *testing.T, y *spelltest.Tally, c spelltest.Corpus, g *spelltest.Generator, n int) {
	t.Helper()
	var raws, sent []string
	var urls []*url.URL
	for len(raws) < n {
		raw := g.Target()
		u, err := spelltest.Parse("POST", raw)
		if err != nil {
			continue
		}
		raws, urls, sent = append(raws, raw), append(urls, u), append(sent, u.RequestURI())
	}
	v := spelltest.Ask(t, c, sent)
	shown := 0
	for i := range raws {
		spelled := Of(urls[i])
		missedBy := y.Judge(c.Base, raws[i], urls[i], &spelled, spelltest.RoutesOf(v.Runs[i]))
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

// The one router of X1 that is at hand here, in person: net/http.ServeMux behind the same random targets.
func TestNothingThatServeMuxRunsIsMissed(t *testing.T) {
	c := spelltest.Load(t)
	var ran string
	mux := http.NewServeMux()
	for _, route := range c.Routes {
		pattern := strings.NewReplacer(":id", "{id}", ":token", "{token}").Replace(c.Base + route)
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) { ran = c.Base + route })
	}
	g := spelltest.NewGenerator(c, 2)
	runs := 0
	for range 5_000 {
		raw := g.Target()
		u, err := spelltest.Parse("POST", raw)
		if err != nil {
			continue
		}
		upstream, err := spelltest.Parse("POST", u.RequestURI())
		if err != nil {
			continue
		}
		ran = ""
		mux.ServeHTTP(httptest.NewRecorder(), &http.Request{Method: "POST", URL: upstream, RequestURI: u.RequestURI()})
		if ran == "" {
			continue
		}
		runs++
		if s := Of(u); !spelltest.Covers(&s, ran) {
			t.Errorf("missed: %q runs %q, candidates %q", raw, ran, list(u))
		}
	}
	if t.Logf("ServeMux ran %d of 5000", runs); runs == 0 {
		t.Error("ServeMux ran nothing, so this test says nothing")
	}
}
