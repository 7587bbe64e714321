package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

func logCommand() *cobra.Command {
	o, n, file := options{}, 0, ""
	c := &cobra.Command{
		Use: "log", Short: "Disk per entry, first and deep pages, totals, with many entries",
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := readLog(c.Context(), o, n, file)
			return shown(c.OutOrStdout(), &r, err)
		},
	}
	o.flags(c)
	c.Flags().IntVar(&n, "entries", 1_000_000, "how many")
	c.Flags().StringVar(&file, "db", "", "a database to keep: it is filled if it is not there, and must have as many entries")
	return c
}

// logRun is what a log of so many entries needs, and how fast it answers.
type logRun struct {
	Entries   int
	Bytes     float64 // for each, indexes in
	PerSecond float64 // in batches of 500; 0: the log was there before
	Queries   []queryFigures
}

// queryFigures are those of one list, in ms. Deep pages go on by cursor from the middle;
// Counted is the first page with one entry: what the total takes, and little else.
type queryFigures struct {
	Query, Total     string
	P50, P99         float64
	DeepP50, DeepP99 float64
	Counted          float64
	// Exact totals come from counts, whatever is in the log; others are counted up to 10,000.
	Exact bool
}

// worst is the largest of a figure of all queries.
func (r *logRun) worst(of func(*queryFigures) float64) (worst float64) {
	if len(r.Queries) == 0 {
		return none
	}
	for i := range r.Queries {
		worst = max(worst, of(&r.Queries[i]))
	}
	return worst
}

// print writes them as a paragraph and a table.
func (r *logRun) print(w io.Writer) {
	written := ""
	if r.PerSecond > 0 {
		written = fmt.Sprintf(", written at %.0f/s in batches of 500", r.PerSecond)
	}
	_, _ = fmt.Fprintf(w, "\n%d entries%s, %.0f bytes each with indexes; a million sign-ins a day are %.0f MB a day\n\n", r.Entries, written, r.Bytes, r.Bytes)
	var rows [][]string
	for i := range r.Queries {
		q := &r.Queries[i]
		row := []string{q.Query, q.Total}
		for _, ms := range []float64{q.P50, q.P99, q.DeepP50, q.DeepP99, q.Counted} {
			row = append(row, fmt.Sprintf("%.2f", ms))
		}
		rows = append(rows, row)
	}
	table{"query", "total", "first page p50 ms", "p99 ms", "deep page by cursor p50 ms", "p99 ms", "its total p50 ms"}.print(w, rows)
}

func readLog(ctx context.Context, o options, n int, file string) (r logRun, err error) {
	if file == "" {
		dir, err := os.MkdirTemp(o.dir, "bench")
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		file = filepath.Join(dir, "audit.db")
	}
	r.Entries = n
	began := time.Now()
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		s, err := filled(ctx, file, n)
		if err == nil {
			err = s.Close() // so that all is in the database, and nothing in its log
		}
		if err != nil {
			return r, err
		}
		r.PerSecond = float64(n) / time.Since(began).Seconds()
	}
	s, err := sqlite.Open(ctx, sqlite.Options{Path: file})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	size, err := s.Size(ctx)
	if err != nil {
		return r, err
	}
	r.Bytes = float64(size) / float64(n)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); { // a log that was opened a moment ago has not read its counts yet
		page, err := s.List(ctx, storage.Query{Limit: 1})
		if err != nil {
			return r, err
		}
		if !page.TotalIsCapped {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, q := range queries(n) {
		answered, err := ask(ctx, s, q.name, q.Query)
		if err != nil {
			return r, fmt.Errorf("%s: %w", q.name, err)
		}
		r.Queries = append(r.Queries, answered)
	}
	return r, nil
}

// query is a list with a name.
type query struct {
	name string
	storage.Query
}

func queries(n int) []query {
	user, busy := "user-004711", busyUser
	end := newSource(1).time.Add(time.Duration(n) * time.Second) // about the last one
	from := func(q storage.Query, d time.Duration) storage.Query { q.From, q.To = end.Add(-d), end; return q }
	return []query{
		{"no filter", storage.Query{}},
		{"a user", storage.Query{UserID: &user}},
		{"a user with 2 % of all", storage.Query{UserID: &busy}},
		{"that user and a rare action", storage.Query{UserID: &busy, Action: "admin:ban-user"}},
		{"that user, failed, a week", from(storage.Query{UserID: &busy, Status: storage.Failed}, 7*24*time.Hour)},
		{"an action (a third of all)", storage.Query{Action: "sign-in:email"}},
		{"a rare action", storage.Query{Action: "admin:ban-user"}},
		{"failed", storage.Query{Status: storage.Failed}},
		{"an action, failed", storage.Query{Action: "sign-in:email", Status: storage.Failed}},
		{"an action, failed, a day", from(storage.Query{Action: "sign-in:email", Status: storage.Failed}, 24*time.Hour)},
		{"nobody", storage.Query{UserID: new(string)}},
		{"high", storage.Query{Severity: new(severity.High)}},
		{"a class (half of all)", storage.Query{Class: "sign-in"}},
		{"a rare class", storage.Query{Class: "admin"}},
		{"an address", storage.Query{IPAddress: "203.0.47.11"}},
		{"an identifier", storage.Query{IdentifierHash: fmt.Sprintf("hmac-sha256:6da8786a:%022d", 4711)}},
		{"a day", from(storage.Query{}, 24*time.Hour)},
		{"success, a week", from(storage.Query{Status: storage.Success}, 7*24*time.Hour)},
	}
}

// ask measures the first page, and pages that go on by cursor from the middle of what
// there is.
func ask(ctx context.Context, s *sqlite.Store, name string, q storage.Query) (a queryFigures, err error) {
	q.Limit = 1
	counted, page, err := times(ctx, s, q, 100)
	if err != nil {
		return a, err
	}
	a = queryFigures{Query: name, Total: strconv.Itoa(page.Total), Counted: milliseconds(quantile(counted, 0.5)), Exact: q.UserID == nil && q.IPAddress == "" && q.IdentifierHash == ""}
	if page.TotalIsCapped {
		a.Total = "> " + a.Total
	}
	q.Limit = 50
	took, _, err := times(ctx, s, q, 100)
	if err != nil {
		return a, err
	}
	a.P50, a.P99 = milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99))
	q.Cursor = storage.EncodeCursor(storage.TimeKey(newSource(1).time.Add(24 * time.Hour))) // the end of the first day
	if took, _, err = times(ctx, s, q, 100); err != nil {
		return a, err
	}
	a.DeepP50, a.DeepP99 = milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99))
	progress("%s: %s", name, a.Total)
	return a, nil
}

// times asks n times, and returns how long each took and the last answer.
func times(ctx context.Context, s *sqlite.Store, q storage.Query, n int) (took []time.Duration, page storage.Page, err error) {
	for i := range n + 5 { // the first ones warm up
		began := time.Now()
		if page, err = s.List(ctx, q); err != nil {
			return nil, page, err
		}
		if i >= 5 {
			took = append(took, time.Since(began))
		}
	}
	return took, page, nil
}
