package spelltest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"os/exec"
	"testing"
)

//go:embed oracle.mjs
var oracleScript string

// Verdicts are the oracle's answer.
type Verdicts struct {
	// Models are the names of the routers.
	Models []string `json:"models"`
	// Runs has, for the i-th target and the m-th model, the route that it executes;
	// "" for none.
	Runs [][]string `json:"runs"`
}

// Model returns the place of a router in each of Runs.
func (v *Verdicts) Model(t testing.TB, name string) int {
	t.Helper()
	for m, have := range v.Models {
		if have == name {
			return m
		}
	}
	t.Fatalf("the oracle has no router %q: %q", name, v.Models)
	return -1
}

// Ask lets the oracle judge the targets that are sent, in one run of Node.
func Ask(t testing.TB, c Corpus, sent []string) Verdicts {
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
	cmd := exec.Command(node, "--input-type=module", "--eval", oracleScript)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(question), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("oracle.mjs: %v\n%s", err, stderr.Bytes())
	}
	var v Verdicts
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

// RoutesOf are the different routes that the models executed for one target.
func RoutesOf(runs []string) []string {
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
