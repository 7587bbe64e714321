package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"

	"github.com/prometheus/procfs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// run is all that one run of the report has measured.
type run struct {
	Day, Machine string
	Proxy        proxyRun   // all variants
	Connections  []proxyRun // few variants, each number of connections
	Sizes        []proxyRun // few variants, sizes of bodies and answers
	Full         proxyRun   // async with the largest log in it
	Rate, SignIn rateRun
	Entries      []entriesRun // in logs of each size
	Logs         []logRun
	Retention    retentionRun
	Allocations  allocations
}

// The page, what it is made of, and its pictures, from the folder of the benchmarks.
const (
	runFile     = "run.json"     // the newest run
	partFile    = ".run.json"    // one that is under way
	historyFile = "history.json" // the figures of all runs
	pageFile    = "../docs/performance.md"
	picturesDir = "../docs/images"
)

// reportOptions bound a report.
type reportOptions struct {
	options
	entries []int // sizes of the logs; the largest is the one that counts
	where   string
}

func reportCommand() *cobra.Command {
	o := reportOptions{}
	c := &cobra.Command{
		Use: "report", Short: "Measure everything, and write docs/performance.md",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.only != "" {
				return errors.New("report measures everything: --only is for the single measurements")
			}
			r, err := o.run(c.Context())
			if err != nil {
				return fmt.Errorf("%w; what was measured before is in %s", err, partFile)
			}
			var all []past
			if err := errors.Join(save(runFile, r), read(historyFile, &all)); err != nil {
				return err
			}
			all = append(all, past{Day: r.Day, Where: o.where, Figures: r.figures()})
			if err := save(historyFile, all); err != nil {
				return err
			}
			return errors.Join(os.Remove(partFile), writePage())
		},
	}
	o.flags(c)
	c.Flags().IntSliceVar(&o.entries, "entries", []int{1_000_000, 10_000_000}, "sizes of the logs, from small to large")
	c.Flags().StringVar(&o.where, "where", "", "a word about the machine or the hour, for the table of all runs")
	return c
}

func pageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "page", Short: "Write docs/performance.md again, from " + runFile + " and " + historyFile,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return writePage() },
	}
}

// run measures everything, one after the other.
func (o *reportOptions) run(ctx context.Context) (*run, error) {
	if len(o.entries) == 0 {
		return nil, errors.New("--entries names no size of a log: leave it out for one and ten million")
	}
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &run{Day: time.Now().Format("2 January 2006"), Machine: machine()}
	large := o.entries[len(o.entries)-1]
	logOf := func(n int) string { return filepath.Join(dir, fmt.Sprintf("%d.db", n)) }
	few := o.options // of what does not need the precision of the first table
	few.rounds, few.clients, few.bodies, few.answers = (o.rounds+1)/2, []int{64}, []int{0}, []int{0}
	all, connections, sizes, full, entered := few, few, few, few, few
	all.rounds = o.rounds
	connections.only, connections.clients = "sync", []int{1, 8, 64, 256, 1024}
	sizes.only, sizes.bodies, sizes.answers = "fsync", []int{0, 65536}, []int{0, 65536, 1 << 20}
	full.only, full.db = async, logOf(large)
	rate := all
	rate.only = "sync"
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"a request", func() error { return one(&r.Proxy)(proxy(ctx, all)) }},
		{"connections", func() error { return keep(&r.Connections)(proxy(ctx, connections)) }},
		{"sizes", func() error { return keep(&r.Sizes)(proxy(ctx, sizes)) }},
		{"500 requests a second", func() error { return keep(&r.Rate)(atRate(ctx, rate, 500, signIn)) }},
		{"sign-ins", func() error { return keep(&r.SignIn)(atRate(ctx, rate, 15, slowSignIn)) }},
		{"allocations", func() error { return keep(&r.Allocations)(allocated(ctx)) }},
		{"logs", func() error {
			return each(&r.Logs, o.entries, func(n int) (logRun, error) { return readLog(ctx, few, n, logOf(n)) })
		}},
		{"a full log", func() error { return one(&r.Full)(proxy(ctx, full)) }},
		{"durable entries", func() error {
			return each(&r.Entries, append([]int{0}, o.entries...), func(n int) (entriesRun, error) {
				if entered.db = ""; n > 0 {
					entered.db = logOf(n)
				}
				return entries(ctx, entered, n)
			})
		}},
		{"retention", func() error { return keep(&r.Retention)(beside(ctx, few, min(large, 1_000_000))) }},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		if err := save(partFile, r); err != nil {
			return nil, err
		}
		progress("== %s: %s", step.name, time.Since(began).Round(time.Second))
	}
	return r, nil
}

// each measures logs of several sizes.
func each[T any](to *[]T, sizes []int, measure func(int) (T, error)) error {
	for _, n := range sizes {
		v, err := measure(n)
		if err != nil {
			return err
		}
		*to = append(*to, v)
	}
	return nil
}

// keep puts a result where it belongs.
func keep[T any](to *T) func(T, error) error {
	return func(v T, err error) error {
		*to = v
		return err
	}
}

// one is keep for a list of one.
func one[T any](to *T) func([]T, error) error {
	return func(v []T, err error) error {
		if err == nil {
			*to = v[0]
		}
		return err
	}
}

// machine says what this is measured on; what is not known is left out.
func machine() string {
	words := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if fs, err := procfs.NewDefaultFS(); err == nil {
		if cpu, err := fs.CPUInfo(); err == nil && len(cpu) > 0 && cpu[0].ModelName != "" {
			words = append(words, cpu[0].ModelName)
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		words = append(words, "Linux "+unix.ByteSliceToString(u.Release[:]))
	}
	return strings.Join(append(words, runtime.Version()), ", ")
}

// save writes a value as JSON.
func save(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// read reads a value from JSON.
func read(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

//go:embed performance.md.tmpl
var pageText string

// writePage makes the page and its pictures of what was measured last and before.
func writePage() error {
	var (
		r   run
		all []past
	)
	if err := errors.Join(read(runFile, &r), read(historyFile, &all)); err != nil {
		return err
	}
	text, err := page(&r, all)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(pageFile, []byte(text), 0o644), pictures(&r, picturesDir))
}

// page is docs/performance.md.
func page(r *run, all []past) (string, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"table": func(v interface{ print(io.Writer) }) string {
			var b strings.Builder
			v.print(&b)
			return strings.TrimSpace(b.String())
		},
		"sub":         func(a, b int) int { return a - b },
		"goals":       func() string { return goalsTable(r, all) },
		"history":     func() string { return historyTable(all) },
		"growth":      func() string { return growthTable(r) },
		"connections": func() string { return connectionsTable(r) },
		"sizes":       func() string { return sizesTable(r) },
		"durable":     func() string { return durableTable(r) },
	}).Parse(pageText)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, r)
	return b.String(), err
}
