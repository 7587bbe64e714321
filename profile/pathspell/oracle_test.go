package pathspell

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
)

// corpus is testdata/targets.json.
type corpus struct {
	Base    string   `json:"base"`
	Routes  []string `json:"routes"`
	Targets []target `json:"targets"`
}

// target is a request target as a client sends it; Hex instead of Target where it is not UTF-8.
type target struct {
	Group  string `json:"group"`
	Method string `json:"method"`
	Target string `json:"target"`
	Hex    string `json:"hex"`
}

func (tg target) raw(t *testing.T) string {
	t.Helper()
	if tg.Hex == "" {
		return tg.Target
	}
	b, err := hex.DecodeString(tg.Hex)
	if err != nil {
		t.Fatalf("targets.json: %v", err)
	}
	return string(b)
}

func loadCorpus(t *testing.T) corpus {
	t.Helper()
	var c corpus
	readJSON(t, "testdata/targets.json", &c)
	return c
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// parse does what net/http's server does with the second word of a request line.
func parse(method, raw string) (*url.URL, error) {
	if method == "CONNECT" && !strings.HasPrefix(raw, "/") {
		u, err := url.ParseRequestURI("http://" + raw)
		if err == nil {
			u.Scheme = ""
		}
		return u, err
	}
	return url.ParseRequestURI(raw)
}

// sentBytes is what net/http's transport, and so Caddy's reverse_proxy, writes as the request target.
func sentBytes(method string, u *url.URL) string {
	if method == "CONNECT" && u.Path == "" {
		return u.Host
	}
	return u.RequestURI()
}

// verdicts are the oracle's answer: Runs[i][m] is the route that model m executes for the i-th target, or "".
type verdicts struct {
	Models []string   `json:"models"`
	Runs   [][]string `json:"runs"`
}

// askOracle runs testdata/oracle.mjs once for all targets.
func askOracle(t *testing.T, c corpus, sent []string) verdicts {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("this test judges path spellings with Node's own URL parser: install Node.js 20 or later and put `node` in PATH")
	}
	latin := make([]string, len(sent))
	for i, s := range sent {
		latin[i] = latin1(s)
	}
	question, err := json.Marshal(map[string]any{"base": c.Base, "routes": c.Routes, "sent": latin})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(node, "testdata/oracle.mjs")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(question), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("node testdata/oracle.mjs: %v\n%s", err, stderr.Bytes())
	}
	var v verdicts
	if err := json.Unmarshal(stdout.Bytes(), &v); err != nil {
		t.Fatalf("the oracle's answer: %v", err)
	}
	if len(v.Runs) != len(sent) {
		t.Fatalf("the oracle judged %d of %d targets", len(v.Runs), len(sent))
	}
	return v
}

// latin1 makes one character of each byte, as Node's req.url does.
func latin1(s string) string {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// matches compares a path with a route template as doc.go tells callers to. All templates here are in lower case.
func matches(template, p string) bool {
	want, got := strings.Split(template, "/"), strings.Split(p, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if !strings.HasPrefix(want[i], ":") && want[i] != got[i] {
			return false
		}
	}
	return true
}

func covers(c *Candidates, template string) bool {
	for i := range c.Len() {
		if matches(template, c.At(i)) {
			return true
		}
	}
	return false
}

// tally counts, over (target, executed route) pairs, who would have missed the route.
type tally struct {
	targets, executable, pairs                  int
	missedCandidates, missedClean, missedDecode int
	missedRaw, overflow, most                   int
	ambiguous                                   int
	candidates                                  int
}

// judge compares the candidates and the three naive ways with what the models executed, and reports who missed any of
// it: "raw" compares the request target, "u.Path" the decoded path, "path.Clean" the cleaned decoded path.
func (y *tally) judge(base, raw string, u *url.URL, executed []string) []string {
	c := Of(u)
	y.targets++
	y.candidates += c.Len()
	y.most = max(y.most, c.Len())
	if c.Len() == maxCandidates {
		y.overflow++
	}
	if c.Ambiguous() {
		y.ambiguous++
	}
	if len(executed) == 0 {
		return nil
	}
	y.executable++
	rawPath, _, _ := strings.Cut(raw, "?")
	ways := []struct {
		name   string
		count  *int
		caught func(template string) bool
	}{
		{"candidates", &y.missedCandidates, func(r string) bool { return covers(&c, r) }},
		{"path.Clean", &y.missedClean, func(r string) bool { return matches(r, path.Clean(u.Path)) }},
		{"u.Path", &y.missedDecode, func(r string) bool { return matches(r, u.Path) }},
		{"raw", &y.missedRaw, func(r string) bool { return matches(r, rawPath) }},
	}
	y.pairs += len(executed)
	var missedBy []string
	for _, w := range ways {
		missed := false
		for _, route := range executed {
			missed = missed || !w.caught(base+route)
		}
		if missed {
			*w.count++
			missedBy = append(missedBy, w.name)
		}
	}
	return missedBy
}

// report logs the figures, the last line being the summary.
func (y *tally) report(t *testing.T, name string) {
	t.Helper()
	t.Logf("%s: candidates per target: mean %.1f, most %d, full sets %d; ambiguous %d of %d", name,
		float64(y.candidates)/float64(max(1, y.targets)), y.most, y.overflow, y.ambiguous, y.targets)
	t.Logf("%s: %d targets, %d executable; missed by candidates %d, path.Clean %d (%.1f %%), u.Path %d, raw %d", name,
		y.targets, y.executable, y.missedCandidates, y.missedClean,
		100*float64(y.missedClean)/float64(max(1, y.executable)), y.missedDecode, y.missedRaw)
}

// routesOf are the different routes that the models executed.
func routesOf(runs []string) []string {
	var routes []string
	seen := map[string]bool{"": true}
	for _, r := range runs {
		if !seen[r] {
			seen[r] = true
			routes = append(routes, r)
		}
	}
	return routes
}
