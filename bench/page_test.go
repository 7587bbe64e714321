package main

import (
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestThePageIsWhatWasMeasured: nobody has changed a figure by hand, or the text without
// `bench page`.
func TestThePageIsWhatWasMeasured(t *testing.T) {
	var (
		r   run
		all []past
	)
	if err := errors.Join(read(runFile, &r), read(historyFile, &all)); err != nil {
		t.Fatal(err)
	}
	want, err := page(&r, all)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(pageFile); err != nil || string(got) != want {
		t.Errorf("%s is not what %s, %s and performance.md.tmpl make: run `go run . page` in bench (%v)", pageFile, runFile, historyFile, err)
	}
	last := all[len(all)-1]
	if last.Day != r.Day {
		t.Errorf("the last run of %s is of %s, %s of %s", historyFile, last.Day, runFile, r.Day)
	}
	for _, p := range all {
		for key := range p.Figures {
			if !knownKey(key) {
				t.Errorf("%s, %s: %q is no goal's key", historyFile, p.Day, key)
			}
		}
	}
}

func knownKey(key string) bool {
	for i := range goals {
		if goals[i].key == key {
			return true
		}
	}
	return false
}

// TestAPageOfHalfARun: what was not measured is said to be not measured.
func TestAPageOfHalfARun(t *testing.T) {
	r := &run{Day: "1 January 2027", Machine: "2 cores", Logs: make([]logRun, 1), Entries: make([]entriesRun, 1)}
	r.Proxy.Figures = []proxyFigures{
		{Variant: plain, CPU: ratio{1, 1, 1}, Throughput: ratio{1, 1, 1}},
		{Variant: async, CPU: ratio{1.124, 1, 2}, Throughput: ratio{0.92, 0.9, 1}},
	}
	text, err := page(r, []past{{Day: "1 January 2026", Figures: map[string]float64{"asyncCPU": 1.5}}, {Day: r.Day, Figures: r.figures()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| CPU of a request, `async`, beside plain | ≤ 1.12 | 1.12 | yes | 1 of 2 | 1.12 to 1.50 |",
		"| throughput, `async` | ≥ 0.93 | 0.92 | **no** |",
		"| the same beside Caddy's JSON access log | ≤ 1.00 | | not measured | | |",
		"| audit log, async | 1.12 (1.00-2.00) | 0.92 (0.90-1.00) |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if bad := regexp.MustCompile(`(?i)\b(NaN|[+-]?Inf)\b|<no value>`).FindAllString(text, -1); bad != nil {
		t.Errorf("the page has %q", bad)
	}
	if newest, oldest := strings.LastIndex(text, "| 1 January 2027 |"), strings.LastIndex(text, "| 1 January 2026 |"); newest < 0 || oldest < newest {
		t.Error("the table of all runs does not begin with the newest")
	}
}

// TestAServerThatIsNotThereHasNoColumn, and one that is has its figures beside the others.
func TestAServerThatIsNotThereHasNoColumn(t *testing.T) {
	figures := []proxyFigures{{Variant: durable, CPU: ratio{1.3, 1, 2}}, {Variant: inPostgres, CPU: ratio{1.41, 1, 2}, Throughput: ratio{0.7, 0.6, 0.8}}}
	rates := []entriesRate{{1, bareFile, 2000, 1}, {1, inSQLite, 1000, 0.5}, {1, inServer, 900, 0.45}}
	for _, c := range []struct {
		name string
		n    int // of the variants, and ways less one
		want []string
	}{
		{"there", 2, []string{
			"| connections | plain, µs of CPU | fsync: CPU, throughput | fsync, PostgreSQL: CPU, throughput |\n", "| 8 | 200 | 1.30 (1.00-2.00), 0.00 | 1.41 (1.00-2.00), 0.70 |\n",
			"| of the bare file | PostgreSQL |\n", "| 1 | 2000/s | 1000/s | 50 % | 900/s |\n",
		}},
		{"missing", 1, []string{
			"| connections | plain, µs of CPU | fsync: CPU, throughput |\n", "| 8 | 200 | 1.30 (1.00-2.00), 0.00 |\n", "| of the bare file |\n", "| 1 | 2000/s | 1000/s | 50 % |\n",
		}},
	} {
		text, err := page(&run{
			Logs: make([]logRun, 1), Entries: []entriesRun{{Rates: rates[:c.n+1]}},
			Connections: []proxyRun{{Load: load{Clients: 1}}, {Load: load{Clients: 8}, Micros: 200, Figures: figures[:c.n]}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("PostgreSQL is %s: the page lacks %q", c.name, want)
			}
		}
	}
}

// TestNothingIsNotAFigure: what was not measured is not met.
func TestNothingIsNotAFigure(t *testing.T) {
	if all := (&run{}).figures(); len(all) > 0 {
		t.Errorf("a run that measured nothing has %v", all)
	}
}

// TestAGoalIsMetAsItIsWritten: nobody reads "1.12, at most 1.12: no".
func TestAGoalIsMetAsItIsWritten(t *testing.T) {
	for _, c := range []struct {
		v       float64
		atLeast bool
		met     bool
	}{{1.1249, false, true}, {1.125, false, true}, {1.126, false, false}, {1.116, true, true}, {1.1149, true, false}} {
		if g := (goal{limit: 1.12, digits: 2, atLeast: c.atLeast, unit: " ms"}); g.met(c.v) != c.met {
			t.Errorf("%v, at least %v: %v", c.v, c.atLeast, !c.met)
		}
	}
}

// TestPicturesShowSomething: each is an image, with more in it than a title.
func TestPicturesShowSomething(t *testing.T) {
	r := &run{Day: "1 January 2027"}
	r.Proxy.Figures = []proxyFigures{{Variant: plain, CPU: ratio{1, 1, 1}}, {Variant: accessLog, CPU: ratio{1.2, 1.1, 1.3}}, {Variant: async, CPU: ratio{1.1, 1, 1.3}}}
	for _, n := range []int{1, 64} {
		figures := slices.Clone(r.Proxy.Figures)
		for _, v := range []string{durable, bodies} {
			figures = append(figures, proxyFigures{Variant: v, CPU: ratio{1.4, 1, 2}})
		}
		r.Connections = append(r.Connections, proxyRun{Load: load{Clients: n}, Figures: figures})
	}
	dir := t.TempDir()
	if err := pictures(r, dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%d pictures, %v", len(files), err)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		picture, err := png.Decode(f)
		_ = f.Close()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		drawn, b := 0, picture.Bounds()
		for y := b.Min.Y; y < b.Max.Y; y++ {
			for x := b.Min.X; x < b.Max.X; x++ {
				if r, g, b, _ := picture.At(x, y).RGBA(); b > r+0x2000 && b > g { // blue is the first line or bar
					drawn++
				}
			}
		}
		if drawn < 500 {
			t.Errorf("%s has %d blue points", path, drawn)
		}
	}
}
