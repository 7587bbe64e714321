package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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
		RunE: func(c *cobra.Command, _ []string) error { return readLog(c.Context(), c.OutOrStdout(), o, n, file) },
	}
	o.flags(c)
	c.Flags().IntVar(&n, "entries", 1_000_000, "how many")
	c.Flags().StringVar(&file, "db", "", "a database to keep: it is filled if it is not there, and must have as many entries")
	return c
}

func readLog(ctx context.Context, w io.Writer, o options, n int, file string) (err error) {
	if file == "" {
		dir, err := os.MkdirTemp(o.dir, "bench")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		file = filepath.Join(dir, "audit.db")
	}
	began := time.Now()
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		s, err := filled(ctx, file, n)
		if err == nil {
			err = s.Close() // so that all is in the database, and nothing in its log
		}
		if err != nil {
			return err
		}
	}
	took := time.Since(began)
	s, err := sqlite.Open(ctx, sqlite.Options{Path: file})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	size, err := s.Size(ctx)
	if err != nil {
		return err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	written := ""
	if took > time.Second { // it was not there before
		written = fmt.Sprintf(", written in %s (%.0f/s in batches of 500)", took.Round(time.Second), float64(n)/took.Seconds())
	}
	_, _ = fmt.Fprintf(w, "\n%d entries%s, %d bytes each with indexes; a million sign-ins a day are %.0f MB a day\n\n", n, written, size/int64(n), float64(size)/float64(n))
	var rows [][]string
	for _, q := range queries(n) {
		row, err := ask(ctx, s, q.name, q.Query)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	table{"query", "total", "first page p50 ms", "p99 ms", "deep page by cursor p50 ms", "p99 ms"}.print(w, rows)
	return nil
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
func ask(ctx context.Context, s *sqlite.Store, name string, q storage.Query) ([]string, error) {
	q.Limit = 50
	first, total, err := times(ctx, s, q, 100)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	q.Cursor = storage.EncodeCursor(storage.TimeKey(newSource(1).time.Add(24 * time.Hour))) // the end of the first day
	deep, _, err := times(ctx, s, q, 100)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }
	progress("%s: %s", name, total)
	return []string{name, total, ms(quantile(first, 0.5)), ms(quantile(first, 0.99)), ms(quantile(deep, 0.5)), ms(quantile(deep, 0.99))}, nil
}

func times(ctx context.Context, s *sqlite.Store, q storage.Query, n int) (took []time.Duration, total string, err error) {
	for i := range n + 5 { // the first ones warm up
		began := time.Now()
		page, err := s.List(ctx, q)
		if err != nil {
			return nil, "", err
		}
		if i >= 5 {
			took = append(took, time.Since(began))
		}
		total = strconv.Itoa(page.Total)
		if page.TotalIsCapped {
			total = fmt.Sprintf("> %d", page.Total)
		}
	}
	return took, total, nil
}
