package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// lastGate is the number of the last gate (reference/threats.md section I).
const lastGate = 25

// gate is what the tests of one gate said.
type gate struct {
	name    string
	figures []string
	verdict string // pass, fail or skip; "" while it runs
}

// verdicts are what becomes of a test, from good to bad; a gate of several tests has the
// worst of theirs.
var verdicts = []string{"pass", "skip", "fail"}

var (
	gateTest = regexp.MustCompile(`^TestGate(\d\d)(\w+)$`)
	gateLine = regexp.MustCompile(`\bgate (\d\d): (.+)`)
	word     = regexp.MustCompile(`[A-Z][a-z]`)
)

// takeGate notes what an event says of a gate.
func (r *result) takeGate(e *event) {
	test, _, _ := strings.Cut(e.Test, "/")
	m := gateTest.FindStringSubmatch(test)
	if m == nil {
		return
	}
	g := r.gates[m[1]]
	if g == nil {
		g = &gate{}
		r.gates[m[1]] = g
	}
	if name := strings.ToLower(strings.TrimSpace(word.ReplaceAllString(m[2], " $0"))); g.name == "" || len(name) < len(g.name) {
		g.name = name // a gate's tests in several packages add what each is about
	}
	if line := gateLine.FindStringSubmatch(e.Output); e.Action == "output" && line != nil && line[1] == m[1] {
		g.figures = append(g.figures, strings.TrimSpace(line[2]))
	}
	if worse := slices.Index(verdicts, e.Action); test == e.Test && worse > slices.Index(verdicts, g.verdict) {
		g.verdict = e.Action
	}
}

// table is the gates as a table in Markdown, "" if none ran.
func (r *result) table() string {
	if len(r.gates) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("| gate | what | figures | |\n|---|---|---|---|\n")
	var missing []string
	for n := 1; n <= lastGate; n++ {
		number := fmt.Sprintf("%02d", n)
		g := r.gates[number]
		if g == nil {
			missing = append(missing, number)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", number, g.name, strings.ReplaceAll(strings.Join(g.figures, "; "), "|", "\\|"), g.verdict)
	}
	if len(missing) > 0 {
		fmt.Fprintf(&b, "\nNot among the packages that ran: %s.\n", strings.Join(missing, ", "))
	}
	return b.String()
}

// silent are the gates that passed without a figure: a gate has to say one.
func (r *result) silent() []string {
	var names []string
	for number, g := range r.gates {
		if g.verdict == "pass" && len(g.figures) == 0 {
			names = append(names, number)
		}
	}
	slices.Sort(names)
	return names
}

// The lines between which writeTable puts the table.
const (
	tableBegin = "<!-- gates: make acceptance DOCS=1 writes what is between these lines -->\n"
	tableEnd   = "<!-- end of gates -->\n"
)

// writeTable puts the table into a document, between its two marks.
func writeTable(file, table string) error {
	text, err := os.ReadFile(file) //nolint:gosec // the caller names it
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(tableBegin))
	_, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ended {
		return errors.New(file + " has no place for the table: it needs the lines\n" + tableBegin + tableEnd)
	}
	text = slices.Concat(before, []byte(tableBegin), []byte(table), []byte(tableEnd), after)
	return os.WriteFile(file, text, 0o644) //nolint:gosec // a document
}
