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
shows how many there were over time. A flood of failures that was rolled up into few entries is counted in events, too.
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

// statistics are what stats shows: numbers of entries, and of the events that they stand for.
type statistics struct {
	Total            int                      `json:"total"`
	Events           int                      `json:"events"`
	ByStatus         map[string]int           `json:"byStatus"`
	EventsByStatus   map[string]int           `json:"eventsByStatus"`
	BySeverity       map[string]int           `json:"bySeverity"`
	EventsBySeverity map[string]int           `json:"eventsBySeverity"`
	ByClass          map[string]int           `json:"byClass"`
	EventsByClass    map[string]int           `json:"eventsByClass"`
	ByAction         map[string]*actionCounts `json:"byAction"`
	Histogram        logclient.Histogram      `json:"histogram"`
	// Incomplete is true when there were too many groups to be counted by all but time.
	Incomplete bool `json:"incomplete,omitempty"`
}

// actionCounts are those of one action; of entries but for Events.
type actionCounts struct {
	Count   int `json:"count"`
	Events  int `json:"events"`
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
	sayHowAccountsAreFound(q, st.Total == 0)
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
	st := &statistics{
		Incomplete: capped, ByAction: map[string]*actionCounts{},
		ByStatus: map[string]int{}, BySeverity: map[string]int{}, ByClass: map[string]int{},
		EventsByStatus: map[string]int{}, EventsBySeverity: map[string]int{}, EventsByClass: map[string]int{},
	}
	for _, g := range groups {
		st.add(g)
	}
	st.Histogram, err = client.Histogram(ctx, parameters(q, "step", strconv.FormatInt(step.Milliseconds(), 10)))
	return st, err
}

func (st *statistics) add(g logclient.Group) {
	class := cmp.Or(g.Class, "none")
	st.Total += g.Count
	st.ByStatus[g.Status] += g.Count
	st.BySeverity[g.Severity] += g.Count
	st.ByClass[class] += g.Count
	st.Events = storage.AddEvents(st.Events, g.Events)
	st.EventsByStatus[g.Status] = storage.AddEvents(st.EventsByStatus[g.Status], g.Events)
	st.EventsBySeverity[g.Severity] = storage.AddEvents(st.EventsBySeverity[g.Severity], g.Events)
	st.EventsByClass[class] = storage.AddEvents(st.EventsByClass[class], g.Events)
	a := st.ByAction[g.Action]
	if a == nil {
		a = new(actionCounts)
		st.ByAction[g.Action] = a
	}
	a.Count += g.Count
	a.Events = storage.AddEvents(a.Events, g.Events)
	switch g.Status {
	case string(storage.Success):
		a.Success += g.Count
	case string(storage.Failed):
		a.Failed += g.Count
	}
}

// flooded says whether there are more events than entries.
func (st *statistics) flooded() bool { return st.Events > st.Total }

// print prints it for people. Where there are more events than entries it says both.
func (st *statistics) print(s *screen) {
	total := countOf(st.Total)
	if st.flooded() {
		total += ", " + strconv.Itoa(st.Events) + " events"
	}
	s.line(total, " from ", oneLine(shortTime(st.Histogram.From)), " to ", oneLine(shortTime(st.Histogram.To)), " (UTC)")
	if st.Total == 0 {
		return
	}
	st.counts(s, "STATUS", st.ByStatus, st.EventsByStatus, statuses)
	st.counts(s, "SEVERITY", st.BySeverity, st.EventsBySeverity, severities)
	st.counts(s, "CLASS", st.ByClass, st.EventsByClass, nil)
	st.actions(s)
	st.bars(s)
}

// counts prints how many there are of each word: in the order of words, else the most
// frequent first.
func (st *statistics) counts(s *screen, title string, by, events map[string]int, words []string) {
	keys := slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		if words != nil {
			return cmp.Compare(slices.Index(words, a), slices.Index(words, b))
		}
		return cmp.Or(cmp.Compare(events[b], events[a]), cmp.Compare(by[b], by[a]), cmp.Compare(a, b))
	})
	var rows [][]string
	for _, key := range keys {
		rows = append(rows, append([]string{s.word(key)}, st.numbers(by[key], events[key])...))
	}
	s.line()
	s.numbered(append([]string{title}, st.titles()...), rows)
}

// titles are those of numbers.
func (st *statistics) titles() []string {
	if st.flooded() {
		return []string{"ENTRIES", "EVENTS"}
	}
	return []string{"ENTRIES"}
}

// numbers are how many there are of something, as cells.
func (st *statistics) numbers(entries, events int) []string {
	if st.flooded() {
		return []string{strconv.Itoa(entries), strconv.Itoa(events)}
	}
	return []string{strconv.Itoa(entries)}
}

// numbered prints a table whose columns are numbers but for the first.
func (s *screen) numbered(titles []string, rows [][]string) {
	widths := []int{12}
	for i := range titles {
		if titles[i] = s.paint(titles[i], "1"); i > 0 {
			widths = append(widths, 9)
		}
	}
	s.table(titles, rows, widths, len(titles)-1)
}

// actions prints the most frequent ones.
func (st *statistics) actions(s *screen) {
	keys := slices.SortedFunc(maps.Keys(st.ByAction), func(a, b string) int {
		x, y := st.ByAction[a], st.ByAction[b]
		return cmp.Or(cmp.Compare(y.Events, x.Events), cmp.Compare(y.Count, x.Count), cmp.Compare(a, b))
	})
	var rows [][]string
	for _, key := range keys[:min(len(keys), maxActions)] {
		a := st.ByAction[key]
		row := append([]string{text.Snip(oneLine(key), 40, "~")}, st.numbers(a.Count, a.Events)...)
		rows = append(rows, append(row, strconv.Itoa(a.Success), strconv.Itoa(a.Failed)))
	}
	s.line()
	s.numbered(append(append([]string{"ACTION"}, st.titles()...), "SUCCESS", "FAILED"), rows)
	if more := len(keys) - maxActions; more > 0 {
		s.line("and ", strconv.Itoa(more), " more actions (--output json has all)")
	}
}

// bars prints how many events there were over time, failures in their colour.
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
			most = max(most, sumOf(b.Events))
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
	title := "TIME (UTC), EACH " + strings.ToUpper(stepName(step))
	if st.flooded() {
		title += ", EVENTS"
	}
	s.line(s.paint(title, "1"))
	first := from.UnixMilli() / step.Milliseconds() * step.Milliseconds()
	for ms := first; ms <= to.UnixMilli(); ms += step.Milliseconds() {
		b := at[ms].Events
		n := sumOf(b)
		whole, failed := scaled(n, most, room), scaled(b.Failed, most, room)
		bar := s.paint(strings.Repeat("#", max(whole-failed, 0)), colors["success"]) + s.paint(strings.Repeat("x", failed), colors["failed"])
		s.line(strings.TrimRight(fmt.Sprintf("%s  %*d  %s", time.UnixMilli(ms).UTC().Format(layout), len(strconv.Itoa(most)), n, bar), " "))
	}
	s.line(s.faint("x are failures"))
}

// sumOf is how many events there are of any status.
func sumOf(n logclient.ByStatus) int {
	return storage.AddEvents(storage.AddEvents(n.Success, n.Failed), storage.AddEvents(n.Pending, n.Unknown))
}

// scaled is a count as a length; what is there is seen.
func scaled(n, most, room int) int {
	if n == 0 {
		return 0
	}
	return max(1, int(float64(n)*float64(max(room, 1))/float64(most))) // the product may be more than an int has
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
