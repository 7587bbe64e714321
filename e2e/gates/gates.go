// Package gates is what the tests of the acceptance suite share: how much they do,
// and the one line that each of them prints.
//
// A gate is a promise with a figure (reference/threats.md section I). Its test is
// called TestGateNNName, can fail, and runs a control where there is one: the naive
// way, which must show the loss that the gate is about. e2e/report collects the
// lines.
package gates

import (
	"fmt"
	"os"
	"testing"
)

// Full says whether the suite runs with its full figures: ACCEPTANCE=full, which
// make acceptance sets. Otherwise the figures are those of make test.
func Full() bool { return os.Getenv("ACCEPTANCE") == "full" }

// Figure is how many times a gate tries something: always, or in the full suite.
func Figure(always, full int) int {
	if Full() {
		return full
	}
	return always
}

// Print prints a gate's line: "gate 05: 500 kills, 0 lost; control async: 462 lost".
// It is one line, because the report makes a row of a table of it.
func Print(t testing.TB, gate int, format string, args ...any) {
	t.Helper()
	t.Logf("gate %02d: %s", gate, fmt.Sprintf(format, args...))
}
