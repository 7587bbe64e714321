package caddymodule

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// The forms of output.
const (
	outputTable = "table"
	outputJSON  = "json"
	outputLines = "jsonl"
)

// screen is where a command prints tables, and how.
type screen struct {
	// w takes text that is safe already, and the colours.
	w io.Writer
	// width in columns of text; 0 for no limit.
	width int
	// color says whether colours are wanted.
	color bool
}

// outputFlags are those of forms and colours.
func outputFlags(cmd *cobra.Command, forms ...string) {
	f := cmd.Flags()
	f.StringP("output", "o", "", strings.Join(forms[:len(forms)-1], ", ")+" or "+forms[len(forms)-1]+" (default: table on a terminal, else JSON)")
	complete(cmd, "output", forms...)
	f.String("color", "auto", "auto, always or never; auto obeys NO_COLOR")
	complete(cmd, "color", "auto", "always", "never")
}

// outputOf reads the flags of outputFlags: the form, and the screen for tables. otherwise is
// the form when no person looks.
func outputOf(f caddycmd.Flags, otherwise string, forms ...string) (string, *screen, error) {
	person := term.IsTerminal(int(os.Stdout.Fd()))
	form := f.String("output")
	if err := oneOf("--output", form, forms); err != nil {
		return "", nil, err
	}
	if form == "" {
		form = otherwise
		if person {
			form = outputTable
		}
	}
	s := &screen{w: os.Stdout}
	switch f.String("color") {
	case "always":
		s.color = true
	case "never":
	case "auto":
		s.color = person && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	default:
		return "", nil, fmt.Errorf("--color: unknown word %q: use auto, always or never", f.String("color"))
	}
	if person {
		s.width = 80
		if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 0 {
			s.width = width
		}
	}
	return form, s, nil
}

// The colours: parameters of SGR (ECMA-48).
var colors = map[string]string{
	"success": "32", "failed": "31", "pending": "33", "unknown": "35",
	"low": "2", "high": "33", "critical": "1;31",
}

// paint gives a text that is safe a colour.
func (s *screen) paint(safe, color string) string {
	if !s.color || color == "" || safe == "" {
		return safe
	}
	return "\x1b[" + color + "m" + safe + "\x1b[0m"
}

// word is a status or a severity in its colour.
func (s *screen) word(w string) string { return s.paint(oneLine(w), colors[w]) }

// faint is a text that matters less.
func (s *screen) faint(t string) string { return s.paint(oneLine(t), "2") }

// line prints a line of texts that are safe.
func (s *screen) line(parts ...string) { fmt.Fprintln(s.w, strings.Join(parts, "")) }

// column is one of a table of entries.
type column struct {
	title string
	// text of an entry, not made safe yet.
	text func(*logclient.Entry) string
	// colored is true when the words have colours.
	colored bool
	// usual is the width in a stream, whose entries nobody knows beforehand; least what
	// it may be shrunk to.
	usual, least int
	// rank says which columns are left out first where there is no room: those with the
	// highest; 0 stays.
	rank int
}

// columns of a table of entries.
var columns = []column{
	{title: "TIME (UTC)", usual: 19, least: 19, text: func(e *logclient.Entry) string { return shortTime(e.CreatedAt) }},
	{title: "STATUS", usual: 7, least: 7, colored: true, text: func(e *logclient.Entry) string { return e.Status }},
	{title: "SEVERITY", usual: 8, least: 8, rank: 4, colored: true, text: func(e *logclient.Entry) string { return e.Severity }},
	{title: "ACTION", usual: 24, least: 12, text: func(e *logclient.Entry) string { return e.Action }},
	{title: "USER", usual: 20, least: 8, rank: 5, text: func(e *logclient.Entry) string { return orDash(e.UserID) }},
	{title: "ADDRESS", usual: 15, least: 11, rank: 3, text: func(e *logclient.Entry) string { return orDash(e.IPAddress) }},
	{title: "DETAIL", usual: 24, least: 10, rank: 1, text: detail},
	{title: "ID", usual: 36, least: 36, rank: 2, text: func(e *logclient.Entry) string { return e.ID }},
}

// shortTime is a time without what is the same in all.
func shortTime(at string) string {
	t, err := time.Parse(storage.TimeLayout, at)
	if err != nil {
		return at
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

// detail is what most tells entries of one action apart.
func detail(e *logclient.Entry) string {
	var m struct {
		Identifier, TargetUserID string
		Error                    struct {
			Code    string
			Message string
		}
	}
	_ = json.Unmarshal(e.Metadata, &m) // of metadata that is not like that nothing is shown
	var parts []string
	for _, part := range []string{m.Identifier, m.TargetUserID, cmp.Or(m.Error.Code, m.Error.Message)} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, " ")
}

// gap is between two columns.
const gap = 2

// layout is which columns a table has, and how wide they are: the same on all its pages.
type layout struct {
	columns []column
	widths  []int
}

// layoutFor fits a table of such entries on the screen; wide tables are not fitted. With no
// entries it is that of a stream.
func (s *screen) layoutFor(entries []logclient.Entry, wide bool) *layout {
	l := &layout{}
	for _, c := range columns {
		width := c.usual
		if len(entries) > 0 {
			width = len(c.title)
		}
		for i := range entries {
			width = max(width, text.StringWidthWithoutEscSequences(oneLine(c.text(&entries[i]))))
		}
		l.columns, l.widths = append(l.columns, c), append(l.widths, width)
	}
	if s.width > 0 && !wide {
		l.fit(s.width)
	}
	return l
}

// fit shrinks the widest column that may be shrunk until all fit; when none may, it leaves
// columns out.
func (l *layout) fit(width int) {
	for l.total() > width {
		widest := -1
		for i, c := range l.columns {
			if l.widths[i] > c.least && (widest < 0 || l.widths[i] > l.widths[widest]) {
				widest = i
			}
		}
		if widest >= 0 && (l.least() <= width || !l.leaves()) {
			l.widths[widest]--
			continue
		}
		if !l.leaveOut() {
			return
		}
	}
}

// total is how wide the table is, least how wide it must be.
func (l *layout) total() int {
	n := gap * (len(l.widths) - 1)
	for _, w := range l.widths {
		n += w
	}
	return n
}

func (l *layout) least() int {
	n := gap * (len(l.widths) - 1)
	for i, c := range l.columns {
		n += min(c.least, l.widths[i])
	}
	return n
}

// leaves says whether there is a column to leave out.
func (l *layout) leaves() bool {
	for _, c := range l.columns {
		if c.rank > 0 {
			return true
		}
	}
	return false
}

// leaveOut leaves the column out that matters least.
func (l *layout) leaveOut() bool {
	out := -1
	for i, c := range l.columns {
		if c.rank > 0 && (out < 0 || c.rank < l.columns[out].rank) {
			out = i
		}
	}
	if out < 0 {
		return false
	}
	l.columns = append(append([]column{}, l.columns[:out]...), l.columns[out+1:]...)
	l.widths = append(append([]int{}, l.widths[:out]...), l.widths[out+1:]...)
	return true
}

// print prints entries, with or without the head of the table.
func (l *layout) print(s *screen, entries []logclient.Entry, head bool) {
	var rows [][]string
	for _, e := range entries {
		row := make([]string, len(l.columns))
		for n, c := range l.columns {
			value := c.text(&e)
			color := ""
			if c.colored {
				color = colors[value]
			}
			row[n] = s.paint(text.Snip(oneLine(value), l.widths[n], "~"), color)
		}
		rows = append(rows, row)
	}
	var titles []string
	if head {
		for n, c := range l.columns {
			titles = append(titles, s.paint(text.Snip(c.title, l.widths[n], ""), "1"))
		}
	}
	s.table(titles, rows, l.widths, 0)
}

// table prints rows of cells that are safe, in columns at least so wide; the last right
// columns are numbers.
func (s *screen) table(titles []string, rows [][]string, widths []int, right int) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", gap)
	style.Format = table.FormatOptions{}
	t.SetStyle(style)
	var configs []table.ColumnConfig
	for i, width := range widths {
		c := table.ColumnConfig{Number: i + 1, WidthMin: width, Align: text.AlignLeft, AlignHeader: text.AlignLeft}
		if i >= len(widths)-right {
			c.Align, c.AlignHeader = text.AlignRight, text.AlignRight
		}
		configs = append(configs, c)
	}
	t.SetColumnConfigs(configs)
	cells := func(row []string) table.Row {
		r := make(table.Row, len(row))
		for i, cell := range row {
			r[i] = cell
		}
		return r
	}
	if titles != nil {
		t.AppendHeader(cells(titles))
	}
	for _, row := range rows {
		t.AppendRow(cells(row))
	}
	if titles == nil && rows == nil {
		return
	}
	for line := range strings.SplitSeq(t.Render(), "\n") {
		fmt.Fprintln(s.w, strings.TrimRight(line, " "))
	}
}

// jsonWriter prints entries as JSON: a line each, or all in one object.
type jsonWriter struct {
	w     io.Writer
	lines bool
	n     int
}

// print prints some of them.
func (j *jsonWriter) print(entries []logclient.Entry) error {
	for i := range entries {
		begin, end := "", "\n"
		if !j.lines {
			begin, end = ",\n", ""
			if j.n == 0 {
				begin = "{\"entries\":[\n"
			}
		}
		if _, err := fmt.Fprint(j.w, begin, string(entries[i].Raw), end); err != nil {
			return err
		}
		j.n++
	}
	return nil
}

// end prints what the last page says.
func (j *jsonWriter) end(last logclient.Page) error {
	if j.lines {
		return nil
	}
	begin := "\n]"
	if j.n == 0 {
		begin = "{\"entries\":[]"
	}
	cursor, err := json.Marshal(last.NextCursor)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(j.w, "%s,\"total\":%d,\"totalIsCapped\":%t,\"nextCursor\":%s}\n", begin, last.Total, last.TotalIsCapped, cursor)
	return err
}

// countOf is a number of entries in words.
func countOf(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return strconv.Itoa(n) + " entries"
}
