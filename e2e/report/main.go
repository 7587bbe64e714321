// Command report runs go test with the given arguments and tells what a person
// wants to know: the figures that the end-to-end tests print, the whole output of
// what failed, what was skipped and why. An unexpected skip is a failure. At the end
// it prints the gates of the acceptance suite as one table; with -gates=FILE as its
// first argument it also writes the table into that document.
//
//	go run ./e2e/report -race ./...
//	ACCEPTANCE=full go run ./e2e/report -gates=docs/reliability.md -run TestGate ./...
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

// expectedSkips are the tests that may be skipped, by package and test, with the reason
// why that is no gap.
var expectedSkips = map[string]string{
	spillTests + " TestGate11DiskFull":        "without the right to mount a small disk; the same is tested with a disk that only says it is full",
	spillTests + " TestGate11DiskCalls":       "without strace, or without the right to use it; the same is tested with calls that only say they failed",
	e2eTests + " TestGate04Kill/system_calls": "without strace, or without the right to use it; the kills at random and at the stages of a request go on",
	e2eTests + " TestGate06PowerLoss":         "without mkfs.ext4, loop devices, or the right to mount them: elsewhere nothing forgets what was not synced",
}

// expectedReasons are what a test may say when it is skipped, whichever it is.
var expectedReasons = map[string]string{
	pgtest.Missing:                    "tests of the PostgreSQL store need its programs; what the two stores share is tested with SQLite",
	pgtest.MissingPooler:              "the store is tested without a pooler, and a mode of its connections that needs none",
	"Chromium is not on this machine": "the viewer is tested in a real browser (viewer/browser_test.go); its API and its files are tested without",
}

const (
	spillTests = "github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	e2eTests   = "github.com/caddy-audit-log/caddy-audit-log/e2e"
)

// event is one line of go test -json (see go doc test2json).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type result struct {
	output         map[string][]string // by package and test
	passed, failed int
	skipped        []string
	broken         []string
	gates          map[string]*gate // by number
}

func main() {
	args, document := os.Args[1:], ""
	if len(args) > 0 {
		if file, ok := strings.CutPrefix(args[0], "-gates="); ok {
			args, document = args[1:], file
		}
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...) //nolint:gosec // it is a test runner
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(2)
	}
	began := time.Now()
	r := &result{output: map[string][]string{}, gates: map[string]*gate{}}
	r.read(out)
	runErr := cmd.Wait()
	table := r.table()
	fmt.Print(table)
	if document != "" {
		if err := writeTable(document, table); err != nil {
			fmt.Fprintln(os.Stderr, "report:", err)
			runErr = err
		}
	}
	if !r.summary(time.Since(began)) || runErr != nil {
		os.Exit(1)
	}
}

func (r *result) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			r.take(&e)
		} else if len(line) > 0 {
			fmt.Print(string(line))
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "report:", err)
			}
			return
		}
	}
}

func (r *result) take(e *event) {
	key := e.Package + " " + e.Test
	r.takeGate(e)
	switch e.Action {
	case "output", "build-output":
		r.output[key] = append(r.output[key], e.Output)
		if e.Action == "build-output" || strings.HasSuffix(e.Package, "/e2e") && isFigure(e.Output) {
			fmt.Print(e.Output)
		}
	case "pass", "fail", "skip":
		r.end(e, key)
	}
}

// isFigure leaves out the lines that go test prints about itself.
func isFigure(line string) bool {
	for _, prefix := range []string{"=== ", "--- ", "    --- ", "PASS", "ok  "} {
		if strings.HasPrefix(line, prefix) {
			return false
		}
	}
	return strings.TrimSpace(line) != ""
}

func (r *result) end(e *event, key string) {
	switch {
	case e.Test == "" && e.Action != "skip":
		fmt.Printf("%-4s %7.1fs  %s\n", e.Action, e.Elapsed, e.Package)
		if e.Action == "fail" {
			r.broken = append(r.broken, e.Package)
			fmt.Print(strings.Join(r.output[key], ""))
		}
	case e.Test == "":
		return // a package without tests
	case e.Action == "pass":
		r.passed++
	case e.Action == "fail":
		r.failed++
		fmt.Printf("FAILED %s %s\n%s", e.Package, e.Test, strings.Join(r.output[key], ""))
	case e.Action == "skip":
		r.skipped = append(r.skipped, key+": "+reason(r.output[key]))
	}
	delete(r.output, key)
}

// reason is the last thing a skipped test said.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "it did not say why"
}

// expected is why a skip is no gap, "" if it is one.
func expected(skip string) string {
	name, _, _ := strings.Cut(skip, ":")
	if why, ok := expectedSkips[name]; ok {
		return why
	}
	for said, why := range expectedReasons {
		if strings.Contains(skip, said) {
			return why
		}
	}
	return ""
}

func (r *result) summary(took time.Duration) bool {
	good := r.failed == 0 && len(r.broken) == 0
	for _, s := range r.skipped {
		if why := expected(s); why != "" {
			fmt.Printf("skipped, as expected (%s): %s\n", why, s)
			continue
		}
		fmt.Printf("SKIPPED UNEXPECTEDLY: %s\n", s)
		good = false
	}
	if silent := r.silent(); len(silent) > 0 {
		fmt.Printf("GATES WITHOUT A FIGURE: %s\n", strings.Join(silent, ", "))
		good = false
	}
	fmt.Printf("took %s\n%d passed, %d failed, %d skipped\n", took.Round(time.Second), r.passed, r.failed, len(r.skipped))
	return good
}
