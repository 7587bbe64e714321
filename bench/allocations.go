package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/tools/benchmark/parse"
)

// allocations are what one request allocates in a process that does nothing else.
type allocations []allocation

// allocation is one variant of e2e's benchmark of the handler.
type allocation struct {
	Variant string
	Count   float64
	// What it has more than the same handlers without ours.
	More, MoreBytes, MoreSeconds float64
}

// of returns what a variant allocates.
func (a allocations) of(variant string) allocation {
	for _, x := range a {
		if x.Variant == variant {
			return x
		}
	}
	return allocation{variant, none, none, none, none}
}

// print writes them as a table.
func (a allocations) print(w io.Writer) {
	var rows [][]string
	for _, x := range a {
		rows = append(rows, []string{x.Variant, fmt.Sprintf("%.0f", x.Count), fmt.Sprintf("%+.0f", x.More), fmt.Sprintf("%+.0f", x.MoreBytes), fmt.Sprintf("%+.1f", x.MoreSeconds*1e6)})
	}
	_, _ = fmt.Fprintln(w)
	table{"request", "allocations", "beside plain", "bytes", "µs"}.print(w, rows)
}

func allocationsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "allocations", Short: "What one request allocates (go test ./e2e -bench Handler)",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := allocated(c.Context())
			return shown(c.OutOrStdout(), a, err)
		},
	}
}

// processors is what go test adds to the name of a benchmark, unless it is one.
var processors = regexp.MustCompile(`-\d+$`)

// allocated runs e2e's benchmark of the handler.
func allocated(ctx context.Context) (all allocations, err error) {
	cmd := exec.CommandContext(ctx, "go", "test", "./e2e", "-run", "^$", "-bench", "Handler", "-benchmem", "-benchtime", "30000x")
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	set, err := parse.ParseSet(bytes.NewReader(out))
	if err != nil {
		return nil, err
	}
	var of []*parse.Benchmark
	for _, b := range set {
		of = append(of, b...)
	}
	slices.SortFunc(of, func(a, b *parse.Benchmark) int { return a.Ord - b.Ord })
	var base *parse.Benchmark
	for _, b := range of {
		_, name, _ := strings.Cut(b.Name, "/")
		name = processors.ReplaceAllString(name, "")
		if base == nil {
			base = b
		}
		all = append(all, allocation{name, float64(b.AllocsPerOp), float64(b.AllocsPerOp) - float64(base.AllocsPerOp),
			float64(b.AllocedBytesPerOp) - float64(base.AllocedBytesPerOp), (b.NsPerOp - base.NsPerOp) / 1e9})
	}
	if base == nil {
		return nil, fmt.Errorf("go test printed no benchmark: %s", out)
	}
	return all, nil
}
