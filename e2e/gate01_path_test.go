package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell"
	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell/spelltest"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate01PathCoverage: whatever any router would execute has an entry (threats.md
// A1 to A7, A32). The corpus goes through a real Caddy, over raw connections; the
// random targets are shown to the profiles as the handler shows them. Twice: to the
// profile of Better Auth, whose router is known, so that the entry must name the very
// route; and to the same profile without the router, where it must be at least as
// severe as what any of the oracle's routers runs. Package pathspell holds the
// spellings by themselves (profile/pathspell/differential_test.go).
func TestGate01PathCoverage(t *testing.T) {
	c := spelltest.Load(t)
	p := newPathJudge(t, c)
	sent, executed, lost := throughCaddy(t, c, p)

	n := gates.Figure(60_000, 3_000_000)
	fuzzed := p.fuzz(t, n)
	fuzzed.Report(t, "fuzz")
	gates.Print(t, 1, "%d targets of the corpus through Caddy, %d executed by some router, %d missed; %d random targets, %d executed, %d missed; control path.Clean: %d missed",
		sent, executed, lost, fuzzed.Targets, fuzzed.Executable, p.missed, fuzzed.MissedClean)
	if executed == 0 {
		t.Error("no router executes anything of the corpus: it says nothing")
	}
	if p.missed > 0 {
		t.Errorf("%d random targets are executed by a router and have no entry, or one of a lesser route", p.missed)
	}
}

// pathJudge says what entries the executed routes must have.
type pathJudge struct {
	corpus     spelltest.Corpus
	known, any *profile.Profile
	anyFile    string
	betterAuth int               // the model of the known profile's router
	methods    map[string]string // of the corpus' routes
	// mu protects the field below.
	mu     sync.Mutex
	missed int
}

func newPathJudge(t *testing.T, c spelltest.Corpus) *pathJudge {
	t.Helper()
	known, err := profile.Builtin("better_auth")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../profile/builtin/better_auth.json")
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	delete(file, "router")
	file["name"] = "any_router"
	if b, err = json.Marshal(file); err != nil {
		t.Fatal(err)
	}
	p := &pathJudge{corpus: c, known: known, anyFile: filepath.Join(t.TempDir(), "any.json")}
	if p.any, err = profile.Parse(b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.anyFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	v := spelltest.Ask(t, c, nil)
	p.betterAuth, p.methods = v.Model(t, "better-auth"), map[string]string{}
	for _, route := range c.Routes {
		p.methods[route] = "POST"
		if m, _ := known.Match("GET", &url.URL{Path: c.Base + route}); m.Method {
			p.methods[route] = "GET"
		}
	}
	return p
}

// severity of a reading: how much would be missed if it were not recorded.
func severityOf(m profile.Match) int {
	switch {
	case m.Route.Timing == profile.Before:
		return 3
	case m.Route.Record == profile.Always:
		return 2
	case m.Route.Record == profile.Never:
		return 0
	}
	return 1
}

// judge returns what is wrong with how a target is understood that runs these routes;
// "" for nothing. Each route is asked for with the method that it has.
func (p *pathJudge) judge(u *url.URL, runs []string) string {
	if route := runs[p.betterAuth]; route != "" {
		want := p.plain(p.known, route)
		if m, mine := p.known.Match(p.methods[route], u); !mine || m.Route.ActionName() != want.Route.ActionName() {
			return fmt.Sprintf("Better Auth runs %s; the profile says %v, %s", route, mine, m.Path)
		}
	}
	for _, route := range spelltest.RoutesOf(runs) {
		if m, mine := p.any.Match(p.methods[route], u); !mine || severityOf(m) < severityOf(p.plain(p.any, route)) {
			return fmt.Sprintf("some router runs %s; the profile says %v, %s", route, mine, m.Path)
		}
	}
	return ""
}

// plain is the route in its plain spelling.
func (p *pathJudge) plain(of *profile.Profile, route string) profile.Match {
	m, _ := of.Match(p.methods[route], &url.URL{Path: p.corpus.Base + route})
	return m
}

// throughCaddy sends the corpus through two sites and compares bytes sent and entries.
func throughCaddy(t *testing.T, c spelltest.Corpus, p *pathJudge) (sent, executed, lost int) {
	t.Helper()
	harness.Use(t)
	dir := t.TempDir()
	up := newBytesUpstream(t, always(answer("400 Bad Request", jsonType, denied))) // refusals of reads are recorded, too
	known, anyRouter := harness.FreePort(t), harness.FreePort(t)
	harness.Load(t, anyHost(database(dir), "", siteOf(known, singly(), up.address),
		siteOf(anyRouter, strings.Replace(singly(), "better_auth", p.anyFile, 1), up.address)))

	var urls []*url.URL
	var names, methods, targets []string
	for i := range c.Targets {
		tg := &c.Targets[i]
		method, text := tg.Method, tg.Raw(t)
		if method == "" {
			method = "POST"
		}
		name := fmt.Sprintf("target-%d", i)
		for _, s := range []struct {
			port int
			name string
		}{{known, name + "-known"}, {anyRouter, name + "-any"}} {
			once(s.port, raw(method, text, s.name, "Connection: close\r\n", ""))
		}
		got, called := up.target(name + "-any")
		u, err := spelltest.Parse(method, text)
		if !called {
			continue // refused by Caddy, or by its proxy: no router has it
		}
		if err != nil || got != spelltest.SentBytes(method, u) {
			t.Errorf("%q: the auth server gets %q, the oracle judges %v", text, got, u)
			continue
		}
		urls, names, methods, targets = append(urls, u), append(names, name), append(methods, method), append(targets, got)
	}
	v := spelltest.Ask(t, c, targets)
	entries := everyEntry(t, database(dir))
	for i, u := range urls {
		routes := spelltest.RoutesOf(v.Runs[i])
		if len(routes) == 0 {
			continue
		}
		executed++
		if problem := p.compare(methods[i], u, v.Runs[i], entries[names[i]+"-known"], entries[names[i]+"-any"]); problem != "" {
			lost++
			t.Errorf("%q runs %q: %s", u, routes, problem)
		}
	}
	return len(c.Targets), executed, lost
}

// compare holds the entries of one target against what runs, and returns what is wrong
// with them; "" for nothing.
func (p *pathJudge) compare(method string, u *url.URL, runs []string, known, anyRouter []storage.Entry) string {
	if problem := p.judge(u, runs); problem != "" {
		return problem
	}
	for _, site := range []struct {
		profile *profile.Profile
		entries []storage.Entry
	}{{p.known, known}, {p.any, anyRouter}} {
		m, mine := site.profile.Match(method, u)
		want := 1
		if !mine || m.Route.Record == profile.Never {
			want = 0 // nothing runs but what is no event (/ok)
		}
		if len(site.entries) != want || want == 1 && m.Route.Known() && site.entries[0].Action != m.Route.ActionName() {
			return fmt.Sprintf("%d entries %q, want %d", len(site.entries), summary(site.entries), want)
		}
	}
	return ""
}

// fuzz judges random targets in two halves at the same time.
func (p *pathJudge) fuzz(t *testing.T, n int) *spelltest.Tally {
	t.Helper()
	const batch = 25_000 // what Node judges at a time, to bound memory
	var total spelltest.Tally
	parallel((n+batch-1)/batch, 2, func(i int) {
		y := p.batch(t, uint64(i)+100, min(batch, n-i*batch)) //nolint:gosec // a seed
		p.mu.Lock()
		defer p.mu.Unlock()
		total.Add(y)
	})
	return &total
}

func (p *pathJudge) batch(t *testing.T, seed uint64, n int) *spelltest.Tally {
	g := spelltest.NewGenerator(p.corpus, seed)
	raws, sent, urls := make([]string, 0, n), make([]string, 0, n), make([]*url.URL, 0, n)
	for len(raws) < n {
		text := g.Target()
		if u, err := spelltest.Parse("POST", text); err == nil {
			raws, sent, urls = append(raws, text), append(sent, u.RequestURI()), append(urls, u)
		}
	}
	v := spelltest.Ask(t, p.corpus, sent)
	y := new(spelltest.Tally)
	for i, u := range urls {
		c := pathspell.Of(u)
		y.Judge(p.corpus.Base, raws[i], u, &c, spelltest.RoutesOf(v.Runs[i]))
		if problem := p.judge(u, v.Runs[i]); problem != "" {
			p.mu.Lock()
			if p.missed++; p.missed < 20 {
				t.Errorf("seed %d: %q: %s", seed, raws[i], problem)
			}
			p.mu.Unlock()
		}
	}
	return y
}
