package caddymodule

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// defaultRange is what stats counts unless told otherwise.
	defaultRange = 7 * 24 * time.Hour
	// maxBars is how many steps of time it shows, maxActions how many actions.
	maxBars    = 31
	maxActions = 20
)

func statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [<filters>] [--output table|json] [--db <file> | --address <admin> | --config <file>]",
		Short: "Counts entries by action, class, status, severity and time",
		Long: `
Counts entries of the last 7 days, or of the time that --from and --to say, by action, class, status and severity, and
shows how many there were over time.
` + whereHelp + exitHelp,
		Example: `  caddy audit-log stats
  caddy audit-log stats --since 24h --class sign-in
  caddy audit-log stats --from 2026-01-01 --to 2026-02-01 --output json`,
	}
	sourceFlags(cmd)
	filterFlags(cmd)
	timeFlags(cmd.Flags())
	outputFlags(cmd, outputTable, outputJSON)
	return readsLog(cmd, 0, runStats)
}

// statistics are what stats shows.
type statistics struct {
	Total      int                      `json:"total"`
	ByStatus   map[string]int           `json:"byStatus"`
	BySeverity map[string]int           `json:"bySeverity"`
	ByClass    map[string]int           `json:"byClass"`
	ByAction   map[string]*actionCounts `json:"byAction"`
	Histogram  logclient.Histogram      `json:"histogram"`
	// Incomplete is true when there were too many groups to be counted by all but time.
	Incomplete bool `json:"incomplete,omitempty"`
}

// actionCounts are those of one action.
type actionCounts struct {
	Count   int `json:"count"`
	Success int `json:"success"`
	Failed  int `json:"failed"`
}

func runStats(ctx context.Context, f caddycmd.Flags) (int, error) {
	form, s, err := outputOf(f, outputJSON, outputTable, outputJSON)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	now := time.Now()
	q, err := filters(f, now)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	step, err := rangeOf(q, now)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	client, done, err := openLog(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer done()
	st, err := count(ctx, client, q, step)
	if err != nil {
		return caddy.ExitCodeFailedStartup, interrupted(ctx, err, "")
	}
	if form == outputJSON {
		err = printJSON(Stdout(), st)
	} else {
		st.print(s)
	}
	switch {
	case err != nil:
		return caddy.ExitCodeFailedStartup, err
	case st.Incomplete:
		fmt.Fprintln(os.Stderr, "there are more than 1000 combinations of action, class, status and severity: the rarest are not counted; narrow the query")
		return exitIncomplete, nil
	case st.Total == 0:
		fmt.Fprintln(os.Stderr, "nothing found")
		return exitNothing, nil
	}
	return caddy.ExitCodeSuccess, nil
}

// steps of time that people think in.
var steps = []time.Duration{
	time.Second, 10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour,
}

// rangeOf fills in the bounds of the time, and returns the step that shows it in few bars.
func rangeOf(q url.Values, now time.Time) (time.Duration, error) {
	if q.Get("to") == "" {
		q.Set("to", now.UTC().Format(storage.TimeLayout))
	}
	to, err := time.Parse(storage.TimeLayout, q.Get("to"))
	if err != nil {
		return 0, err
	}
	if q.Get("from") == "" {
		q.Set("from", to.Add(-defaultRange).Format(storage.TimeLayout))
	}
	from, err := time.Parse(storage.TimeLayout, q.Get("from"))
	if err != nil {
		return 0, err
	}
	if !from.Before(to) {
		return 0, fmt.Errorf("--from %s is not before --to %s", q.Get("from"), q.Get("to"))
	}
	for _, step := range steps {
		if to.Sub(from) <= (maxBars-1)*step {
			return step, nil
		}
	}
	return steps[len(steps)-1], nil
}

// count asks for the counts and adds them up.
func count(ctx context.Context, client *logclient.Client, q url.Values, step time.Duration) (*statistics, error) {
	groups, capped, err := client.Tally(ctx, q)
	if err != nil {
		return nil, err
	}
	st := &statistics{Incomplete: capped, ByStatus: map[string]int{}, BySeverity: map[string]int{}, ByClass: map[string]int{}, ByAction: map[string]*actionCounts{}}
	for _, g := range groups {
		st.add(g)
	}
	st.Histogram, err = client.Histogram(ctx, parameters(q, "step", strconv.FormatInt(step.Milliseconds(), 10)))
	return st, err
}

func (st *statistics) add(g logclient.Group) {
	st.Total += g.Count
	st.ByStatus[g.Status] += g.Count
	st.BySeverity[g.Severity] += g.Count
	st.ByClass[cmp.Or(g.Class, "none")] += g.Count
	a := st.ByAction[g.Action]
	if a == nil {
		a = new(actionCounts)
		st.ByAction[g.Action] = a
	}
	a.Count += g.Count
	switch g.Status {
	case string(storage.Success):
		a.Success += g.Count
	case string(storage.Failed):
		a.Failed += g.Count
	}
}

// print prints it for people.
func (st *statistics) print(s *screen) {
	s.line(countOf(st.Total), " from ", oneLine(shortTime(st.Histogram.From)), " to ", oneLine(shortTime(st.Histogram.To)), " (UTC)")
	if st.Total == 0 {
		return
	}
	s.counts("STATUS", st.ByStatus, statuses)
	s.counts("SEVERITY", st.BySeverity, severities)
	s.counts("CLASS", st.ByClass, nil)
	st.actions(s)
	st.bars(s)
}

// counts prints how many there are of each word: in the order of words, else the most
// frequent first.
func (s *screen) counts(title string, by map[string]int, words []string) {
	keys := slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		if words != nil {
			return cmp.Compare(slices.Index(words, a), slices.Index(words, b))
		}
		return cmp.Or(cmp.Compare(by[b], by[a]), cmp.Compare(a, b))
	})
	var rows [][]string
	for _, key := range keys {
		rows = append(rows, []string{s.word(key), strconv.Itoa(by[key])})
	}
	s.line()
	s.table([]string{s.paint(title, "1"), s.paint("ENTRIES", "1")}, rows, []int{12, 9}, 1)
}

// actions prints the most frequent ones.
func (st *statistics) actions(s *screen) {
	keys := slices.SortedFunc(maps.Keys(st.ByAction), func(a, b string) int {
		return cmp.Or(cmp.Compare(st.ByAction[b].Count, st.ByAction[a].Count), cmp.Compare(a, b))
	})
	var rows [][]string
	for _, key := range keys[:min(len(keys), maxActions)] {
		a := st.ByAction[key]
		rows = append(rows, []string{text.Snip(oneLine(key), 40, "~"), strconv.Itoa(a.Count), strconv.Itoa(a.Success), strconv.Itoa(a.Failed)})
	}
	s.line()
	titles := []string{"ACTION", "ENTRIES", "SUCCESS", "FAILED"}
	for i := range titles {
		titles[i] = s.paint(titles[i], "1")
	}
	s.table(titles, rows, []int{12, 9, 9, 9}, 3)
	if more := len(keys) - maxActions; more > 0 {
		s.line("and ", strconv.Itoa(more), " more actions (--output json has all)")
	}
}

// bars prints how many there were over time, failures in their colour.
func (st *statistics) bars(s *screen) {
	step := time.Duration(st.Histogram.Step) * time.Millisecond
	from, err := time.Parse(storage.TimeLayout, st.Histogram.From)
	to, toErr := time.Parse(storage.TimeLayout, st.Histogram.To)
	if err != nil || toErr != nil || step <= 0 || to.Sub(from)/step > 2*maxBars {
		return
	}
	most, at := 1, map[int64]logclient.Bucket{}
	for _, b := range st.Histogram.Buckets {
		if t, err := time.Parse(storage.TimeLayout, b.At); err == nil {
			at[t.UnixMilli()] = b
			most = max(most, b.Success+b.Failed+b.Pending+b.Unknown)
		}
	}
	layout := "2006-01-02 15:04"
	if step < time.Minute {
		layout = "15:04:05"
	} else if step >= 24*time.Hour {
		layout = "2006-01-02"
	}
	room := min(cmp.Or(s.width, 80), 100) - len(layout) - len(strconv.Itoa(most)) - 2*gap
	s.line()
	s.line(s.paint("TIME (UTC), EACH "+strings.ToUpper(stepName(step)), "1"))
	first := from.UnixMilli() / step.Milliseconds() * step.Milliseconds()
	for ms := first; ms <= to.UnixMilli(); ms += step.Milliseconds() {
		b := at[ms]
		n := b.Success + b.Failed + b.Pending + b.Unknown
		whole, failed := scaled(n, most, room), scaled(b.Failed, most, room)
		bar := s.paint(strings.Repeat("#", max(whole-failed, 0)), colors["success"]) + s.paint(strings.Repeat("x", failed), colors["failed"])
		s.line(strings.TrimRight(fmt.Sprintf("%s  %*d  %s", time.UnixMilli(ms).UTC().Format(layout), len(strconv.Itoa(most)), n, bar), " "))
	}
	s.line(s.faint("x are failures"))
}

// scaled is a count as a length; what is there is seen.
func scaled(n, most, room int) int {
	if n == 0 {
		return 0
	}
	return max(1, n*max(room, 1)/most)
}

// stepName is a step as people say it.
func stepName(d time.Duration) string {
	const day = 24 * time.Hour
	name := d.String()
	switch {
	case d%day == 0 && d > day:
		return strconv.Itoa(int(d/day)) + " days"
	case d == day:
		return "day"
	case d%time.Hour == 0:
		return strings.TrimSuffix(name, "0m0s")
	case d%time.Minute == 0:
		return strings.TrimSuffix(name, "0s")
	}
	return name
}
