package spelltest

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

// Candidates are the spellings of a path that somebody found, such as
// pathspell.Candidates.
type Candidates interface {
	Len() int
	At(i int) string
	Ambiguous() bool
}

// Tally counts, over targets and the routes that they execute, who would have missed
// one.
type Tally struct {
	// Targets that were judged, and how many of them some router executes.
	Targets, Executable int
	// MissedCandidates, MissedClean, MissedDecode and MissedRaw are the targets of
	// which the candidates, path.Clean of the decoded path, the decoded path, and the
	// bytes of the target miss something.
	MissedCandidates, MissedClean, MissedDecode, MissedRaw int

	ambiguous, candidates, most int
}

// Judge compares the candidates and the three naive ways with what the routers
// executed, and reports who missed any of it: "raw" compares the request target,
// "u.Path" the decoded path, "path.Clean" the cleaned decoded path.
func (y *Tally) Judge(base, raw string, u *url.URL, c Candidates, executed []string) []string {
	y.Targets++
	y.candidates += c.Len()
	y.most = max(y.most, c.Len())
	if c.Ambiguous() {
		y.ambiguous++
	}
	if len(executed) == 0 {
		return nil
	}
	y.Executable++
	rawPath, _, _ := strings.Cut(raw, "?")
	ways := []struct {
		name   string
		count  *int
		caught func(template string) bool
	}{
		{"candidates", &y.MissedCandidates, func(r string) bool { return Covers(c, r) }},
		{"path.Clean", &y.MissedClean, func(r string) bool { return matches(r, path.Clean(u.Path)) }},
		{"u.Path", &y.MissedDecode, func(r string) bool { return matches(r, u.Path) }},
		{"raw", &y.MissedRaw, func(r string) bool { return matches(r, rawPath) }},
	}
	var missedBy []string
	for _, w := range ways {
		for _, route := range executed {
			if !w.caught(base + route) {
				*w.count++
				missedBy = append(missedBy, w.name)
				break
			}
		}
	}
	return missedBy
}

// Add adds what another one has counted.
func (y *Tally) Add(other *Tally) {
	y.Targets += other.Targets
	y.Executable += other.Executable
	y.MissedCandidates += other.MissedCandidates
	y.MissedClean += other.MissedClean
	y.MissedDecode += other.MissedDecode
	y.MissedRaw += other.MissedRaw
	y.ambiguous += other.ambiguous
	y.candidates += other.candidates
	y.most = max(y.most, other.most)
}

// Report logs the figures, and fails the test when the naive ways miss nothing: then
// the targets are no longer hostile, and the figures say nothing.
func (y *Tally) Report(t testing.TB, name string) {
	t.Helper()
	t.Logf("%s: candidates per target: mean %.1f, most %d; ambiguous %d of %d", name,
		float64(y.candidates)/float64(max(1, y.Targets)), y.most, y.ambiguous, y.Targets)
	t.Logf("%s: %d targets, %d executable; missed by candidates %d, path.Clean %d (%.1f %%), u.Path %d, raw %d", name,
		y.Targets, y.Executable, y.MissedCandidates, y.MissedClean,
		100*float64(y.MissedClean)/float64(max(1, y.Executable)), y.MissedDecode, y.MissedRaw)
	if y.MissedClean == 0 || y.MissedDecode == 0 || y.MissedRaw == 0 {
		t.Errorf("%s: the naive comparisons missed nothing, so the targets or the oracle are no longer hostile", name)
	}
}

// Covers says whether a template is among the candidates.
func Covers(c Candidates, template string) bool {
	for i := range c.Len() {
		if matches(template, c.At(i)) {
			return true
		}
	}
	return false
}

// matches compares a path with a route template as the doc of package pathspell tells
// callers to. All templates here are in lower case.
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
