package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// goal is a figure that the log is to have; it has the same key in the table of all runs.
type goal struct {
	key, what string
	limit     float64
	atLeast   bool // the limit is the least, not the most
	unit      string
	digits    int
	kept      bool               // there is no goal; the table of all runs has it
	read      func(*run) float64 // NaN: not measured
}

// goals are those of "Fleets and speed", and figures that are kept beside them (no limit).
var goals = []goal{
	{key: "asyncCPU", what: "CPU of a request, `async`, beside plain", limit: 1.12, digits: 2, read: func(r *run) float64 { return r.Proxy.of(async).CPU.Median }},
	{key: "asyncBesideAccessLog", what: "the same beside Caddy's JSON access log", limit: 1, digits: 2, read: func(r *run) float64 { return r.Proxy.of(async).CPU.Median / r.Proxy.of(accessLog).CPU.Median }},
	{key: "fsyncCPU", what: "CPU of a request, `fsync`", limit: 1.30, digits: 2, read: func(r *run) float64 { return r.Proxy.of(durable).CPU.Median }},
	{key: "bodiesCPU", what: "the same, request bodies kept", limit: 1.30, digits: 2, read: func(r *run) float64 { return r.Proxy.of(bodies).CPU.Median }},
	{key: "asyncThroughput", what: "throughput, `async`", limit: 0.93, atLeast: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of(async).Throughput.Median }},
	{key: "fsyncThroughput", what: "throughput, `fsync`", limit: 0.82, atLeast: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of(durable).Throughput.Median }},
	{key: "notOursCPU", what: "CPU of a request that is not ours", limit: 1.02, digits: 2, read: func(r *run) float64 { return r.Proxy.of(notOurs).CPU.Median }},
	{key: "addedP50", what: "added at the median at 500 requests/s, `fsync`", limit: 0.35, unit: " ms", digits: 2, read: func(r *run) float64 { return r.Rate.of(durable).Added }},
	{key: "addedBesideDisk", what: "that beside the disk's own fdatasync", limit: 1.3, digits: 1, read: func(r *run) float64 { return r.Rate.of(durable).Added / r.Rate.Fdatasync }},
	{key: "signInAsync", what: "CPU of a sign-in with bcrypt, `async`", limit: 0.7, unit: " %", digits: 2, read: func(r *run) float64 { return r.SignIn.of(async).Share }},
	{key: "signInFsync", what: "CPU of a sign-in with bcrypt, `fsync`", limit: 0.7, unit: " %", digits: 2, read: func(r *run) float64 { return r.SignIn.of(durable).Share }},
	{key: "entries64", what: "durable entries with 64 writers, of a bare file", limit: 30, atLeast: true, unit: " %", read: func(r *run) float64 { return 100 * r.entered(0).of(inSQLite, 64).Share }},
	{key: "entriesFull", what: "the same with the full log, of the empty log", limit: 65, atLeast: true, unit: " %", read: func(r *run) float64 {
		if len(r.Entries) < 2 {
			return none
		}
		return 100 * r.entered(len(r.Entries)-1).of(inSQLite, 64).PerSecond / r.entered(0).of(inSQLite, 64).PerSecond
	}},
	{key: "bytes", what: "disk for an entry, indexes in", limit: 330, unit: " bytes", read: func(r *run) float64 { return r.fullLog().Bytes }},
	{key: "firstP50", what: "first page, the slowest filter, at the median", limit: 1.5, unit: " ms", digits: 2, read: func(r *run) float64 { return r.fullLog().worst(func(q *queryFigures) float64 { return q.P50 }) }},
	{key: "firstP99", what: "the same at p99", limit: 5, unit: " ms", digits: 2, read: func(r *run) float64 { return r.fullLog().worst(func(q *queryFigures) float64 { return q.P99 }) }},
	{key: "deepP50", what: "a deep page by cursor, the slowest filter, at the median", limit: 1.5, unit: " ms", digits: 2, read: func(r *run) float64 { return r.fullLog().worst(func(q *queryFigures) float64 { return q.DeepP50 }) }},
	{key: "deepP99", what: "the same at p99", limit: 5, unit: " ms", digits: 2, read: func(r *run) float64 { return r.fullLog().worst(func(q *queryFigures) float64 { return q.DeepP99 }) }},
	{key: "exactTotal", what: "exact totals (no user, address or identifier), the slowest", limit: 1, unit: " ms", digits: 2, read: func(r *run) float64 {
		return r.fullLog().worst(func(q *queryFigures) float64 { return q.totalIf(q.Exact) })
	}},
	{key: "cappedTotal", what: "other totals, capped at 10,000, the slowest", limit: 5, unit: " ms", digits: 2, read: func(r *run) float64 {
		return r.fullLog().worst(func(q *queryFigures) float64 { return q.totalIf(!q.Exact) })
	}},
	{key: "retention", what: "p99 of writers beside retention, times that without", limit: 2, digits: 1, read: func(r *run) float64 { return r.Retention.Meanwhile.P99 / r.Retention.Without.P99 }},
	{key: "idle", what: "memory beside plain Caddy, idle", limit: 16, unit: " MB", read: func(r *run) float64 { return r.Proxy.of(durable).Idle - r.Proxy.of(plain).Idle }},
	{key: "after", what: "memory beside plain Caddy, after the load", limit: 48, unit: " MB", read: func(r *run) float64 { return r.Proxy.of(durable).After - r.Proxy.of(plain).After }},
	{key: "afterFull", what: "the same with the full log", limit: 48, unit: " MB", read: func(r *run) float64 { return r.Full.of(async).After - r.Full.of(plain).After }},
	{key: "allocationsNotOurs", what: "allocations of a request that is not ours", read: func(r *run) float64 { return r.Allocations.of("not-mine").More }},
	{key: "allocationsIgnored", what: "allocations of an ignored request", read: func(r *run) float64 { return r.Allocations.of("ignored").More }},
	{key: "allocations", what: "allocations of an audited request, `async`", limit: 12, read: func(r *run) float64 { return r.Allocations.of("audited/async").More }},
	{key: "allocationsBody", what: "the same with its body kept", limit: 25, read: func(r *run) float64 { return r.Allocations.of("audited/async,body").More }},
	{key: "plainMicros", kept: true, unit: " µs", read: func(r *run) float64 { return cmp.Or(r.Proxy.Micros, none) }},
	{key: "fdatasync", kept: true, unit: " ms", digits: 2, read: func(r *run) float64 { return cmp.Or(r.Proxy.Fdatasync, none) }},
	{key: "accessLogCPU", kept: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of(accessLog).CPU.Median }},
	{key: "corazaCPU", kept: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of("coraza with its audit log").CPU.Median }},
	{key: "nginxCPU", kept: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of("nginx").CPU.Median }},
	{key: "nginxLogCPU", kept: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of("nginx with its access log").CPU.Median }},
	{key: "postgresCPU", kept: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of(inPostgres).CPU.Median }},
	{key: "postgresThroughput", kept: true, digits: 2, read: func(r *run) float64 { return r.Proxy.of(inPostgres).Throughput.Median }},
	{key: "postgresAddedP50", kept: true, unit: " ms", digits: 2, read: func(r *run) float64 { return r.Rate.of(inPostgres).Added }},
	{key: "postgresPerSecond", kept: true, read: func(r *run) float64 { return r.entered(0).of(inServer, 64).PerSecond }},
	{key: "entriesPerSecond", kept: true, read: func(r *run) float64 { return r.entered(0).of(inSQLite, 64).PerSecond }},
}

// past is one run in the table of all runs. Runs before December 2026 were entered by hand,
// from the page as it was.
type past struct {
	Day     string
	Where   string             `json:",omitempty"`
	Figures map[string]float64 // by key of goals
}

// figures are those of a run, by key.
func (r *run) figures() map[string]float64 {
	all := map[string]float64{}
	for _, g := range goals {
		if v := g.read(r); !math.IsNaN(v) && !math.IsInf(v, 0) {
			all[g.key] = math.Round(v*1000) / 1000
		}
	}
	return all
}

// entered is the i-th run of durable entries, the first of an empty log.
func (r *run) entered(i int) *entriesRun {
	if i < 0 || i >= len(r.Entries) {
		return &entriesRun{}
	}
	return &r.Entries[i]
}

// fullLog is the largest log.
func (r *run) fullLog() *logRun {
	if len(r.Logs) == 0 {
		return &logRun{Bytes: none}
	}
	return &r.Logs[len(r.Logs)-1]
}

// totalIf is what a query's total takes, or nothing.
func (q *queryFigures) totalIf(asked bool) float64 {
	if !asked {
		return 0
	}
	return q.Counted
}

func (g *goal) format(v float64) string { return fmt.Sprintf("%.*f%s", g.digits, v, g.unit) }

// met says whether a figure is what it is to be, as precise as it is written.
func (g *goal) met(v float64) bool {
	v, err := strconv.ParseFloat(strings.TrimSuffix(g.format(v), g.unit), 64)
	if err != nil {
		return false
	}
	if g.atLeast {
		return v >= g.limit
	}
	return v <= g.limit
}

// goalsTable has each goal, this run, and all runs that measured it.
func goalsTable(r *run, all []past) string {
	var b strings.Builder
	var rows [][]string
	now := r.figures()
	for i := range goals {
		g := &goals[i]
		if g.kept {
			continue
		}
		sign, met, of, least, most := "≤ ", 0, 0, math.Inf(1), math.Inf(-1)
		if g.atLeast {
			sign = "≥ "
		}
		for _, p := range all {
			if v, ok := p.Figures[g.key]; ok {
				of, least, most = of+1, min(least, v), max(most, v)
				if g.met(v) {
					met++
				}
			}
		}
		row := []string{g.what, sign + g.format(g.limit), "", "not measured", "", ""}
		if v, ok := now[g.key]; ok {
			row[2], row[3] = g.format(v), "**no**"
			if g.met(v) {
				row[3] = "yes"
			}
		}
		if of > 0 {
			row[4], row[5] = fmt.Sprintf("%d of %d", met, of), fmt.Sprintf("%s to %s", g.format(least), g.format(most))
		}
		rows = append(rows, row)
	}
	table{"what", "goal", "this run", "met", "met in all runs", "from, to"}.print(&b, rows)
	return strings.TrimSpace(b.String())
}

// historyTable has a row for each run, the newest first.
func historyTable(all []past) string {
	var b strings.Builder
	columns := []struct{ key, head string }{
		{"plainMicros", "plain"}, {"fdatasync", "fdatasync"}, {"asyncCPU", "`async`"}, {"asyncThroughput", "throughput"}, {"fsyncCPU", "`fsync`"}, {"fsyncThroughput", "throughput"},
		{"bodiesCPU", "bodies kept"}, {"accessLogCPU", "access log"}, {"corazaCPU", "coraza"}, {"nginxLogCPU", "nginx with its log"}, {"addedP50", "500/s"}, {"signInAsync", "sign-in, `async`"}, {"signInFsync", "`fsync`"}, {"entriesPerSecond", "entries/s"}, {"entries64", "of a bare file"}, {"postgresCPU", "PostgreSQL"}, {"postgresPerSecond", "entries/s"},
	}
	of := map[string]*goal{}
	for i := range goals {
		of[goals[i].key] = &goals[i]
	}
	head := table{"day"}
	for _, c := range columns {
		head = append(head, c.head)
	}
	var rows [][]string
	for _, p := range slices.Backward(all) {
		row := []string{strings.TrimSuffix(p.Day+", "+p.Where, ", ")}
		for _, c := range columns {
			text := ""
			if v, ok := p.Figures[c.key]; ok {
				text = of[c.key].format(v)
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	head.print(&b, rows)
	return strings.TrimSpace(b.String())
}

// connectionsTable and sizesTable have a row for each load.
func connectionsTable(r *run) string {
	return loadsTable(r.Connections, []string{async, durable, bodies, inPostgres}, table{"connections"}, func(l load) []string { return []string{strconv.Itoa(l.Clients)} })
}

func sizesTable(r *run) string {
	size := func(n, otherwise int) string { return strconv.Itoa(cmp.Or(n, otherwise)) }
	return loadsTable(r.Sizes, []string{durable, bodies, inPostgres}, table{"body, bytes", "answer, bytes"}, func(l load) []string {
		return []string{size(l.Body, len(signIn.body)), size(l.Answer, len(answer))}
	})
}

func loadsTable(loads []proxyRun, variants []string, head table, first func(load) []string) string {
	var b strings.Builder
	head = append(head, "plain, µs of CPU")
	variants = slices.DeleteFunc(slices.Clone(variants), func(v string) bool { // nobody has measured it
		return !slices.ContainsFunc(loads, func(l proxyRun) bool { return !math.IsNaN(l.of(v).CPU.Median) })
	})
	for _, v := range variants {
		head = append(head, strings.TrimPrefix(v, "audit log, ")+": CPU, throughput")
	}
	var rows [][]string
	for i := range loads {
		l := &loads[i]
		row := append(first(l.Load), fmt.Sprintf("%.0f", l.Micros))
		for _, v := range variants {
			text := ""
			if f := l.of(v); !math.IsNaN(f.CPU.Median) {
				text = fmt.Sprintf("%s, %.2f", f.CPU, f.Throughput.Median)
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	head.print(&b, rows)
	return strings.TrimSpace(b.String())
}

// durableTable has durable entries a second: a row for each number of writers, a column
// for each size of the log.
func durableTable(r *run) string {
	var b strings.Builder
	head := table{"writers", "bare file, group fdatasync"}
	var rows [][]string
	for i := range r.Entries {
		e := &r.Entries[i]
		head = append(head, fmt.Sprintf("%d entries in the log", e.InLog))
		if i == 0 {
			head = append(head, "of the bare file")
		}
	}
	there := !math.IsNaN(r.entered(0).of(inServer, 1).PerSecond)
	if there {
		head = append(head, "PostgreSQL")
	}
	for _, floor := range r.entered(0).Rates {
		if floor.Way != bareFile {
			continue
		}
		row := []string{strconv.Itoa(floor.Writers), fmt.Sprintf("%.0f/s", floor.PerSecond)}
		for i := range r.Entries {
			e := r.Entries[i].of(inSQLite, floor.Writers)
			row = append(row, fmt.Sprintf("%.0f/s", e.PerSecond))
			if i == 0 {
				row = append(row, fmt.Sprintf("%.0f %%", 100*e.Share))
			}
		}
		if there {
			row = append(row, fmt.Sprintf("%.0f/s", r.entered(0).of(inServer, floor.Writers).PerSecond))
		}
		rows = append(rows, row)
	}
	head.print(&b, rows)
	return strings.TrimSpace(b.String())
}

// growthTable has how cost grows with what is in the log.
func growthTable(r *run) string {
	var b strings.Builder
	var rows [][]string
	for i := range r.Logs {
		l := &r.Logs[i]
		worst := func(of func(*queryFigures) float64) string {
			if v := l.worst(of); !math.IsNaN(v) {
				return fmt.Sprintf("%.2f ms", v)
			}
			return ""
		}
		rows = append(rows, []string{strconv.Itoa(l.Entries), fmt.Sprintf("%.0f", l.Bytes), fmt.Sprintf("%.0f", l.PerSecond),
			worst(func(q *queryFigures) float64 { return q.P50 }), worst(func(q *queryFigures) float64 { return q.P99 }),
			worst(func(q *queryFigures) float64 { return q.DeepP50 }), worst(func(q *queryFigures) float64 { return q.DeepP99 })})
	}
	table{"entries", "bytes each", "written/s in batches of 500", "slowest first page, p50", "p99", "slowest deep page, p50", "p99"}.print(&b, rows)
	return strings.TrimSpace(b.String())
}
