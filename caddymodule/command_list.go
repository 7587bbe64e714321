package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [<filters>] [--limit <n> | --all] [--output table|json|jsonl] [--db <file> | --address <admin> | --config <file>]",
		Short: "Lists entries, newest first",
		Long: `
Lists entries of the log, newest first: as a table on a terminal, else as JSON, one entry a line. It says how many
there are, and the cursor that goes on after the last one.
` + whereHelp + exitHelp,
		Example: `  caddy audit-log list --status failed --since 24h
  caddy audit-log list --identifier ann@example.com --wide
  caddy audit-log list --user u_123 --class sign-in --from 2026-01-01 --to 2026-02-01 --all > entries.jsonl
  caddy audit-log list --db /var/lib/caddy-audit/audit.db --limit 5`,
	}
	sourceFlags(cmd)
	filterFlags(cmd)
	timeFlags(cmd.Flags())
	listFlags(cmd)
	return readsLog(cmd, 0, runList)
}

// listFlags are those of how a list looks.
func listFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntP("limit", "n", storage.DefaultLimit, "at most so many entries")
	f.Bool("all", false, "all of them, page by page")
	f.String("cursor", "", "go on after an earlier list: the cursor that it said")
	f.Bool("wide", false, "fit the table into no screen: nothing is cut or left out")
	outputFlags(cmd, outputTable, outputJSON, outputLines)
}

func runList(ctx context.Context, f caddycmd.Flags) (int, error) {
	q, err := filters(f, time.Now())
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	client, done, err := openLog(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer done()
	return list(ctx, f, client, q)
}

// list prints what a query selects.
func list(ctx context.Context, f caddycmd.Flags, client *logclient.Client, q url.Values) (int, error) {
	form, s, err := outputOf(f, outputLines, outputTable, outputJSON, outputLines)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	limit := f.Int("limit")
	switch {
	case f.Bool("all") && f.Lookup("limit").Changed:
		return caddy.ExitCodeFailedStartup, errors.New("--all lists everything, --limit so many: give one of them")
	case f.Bool("all"):
		limit = 0
	case limit < 1:
		return caddy.ExitCodeFailedStartup, fmt.Errorf("bad --limit %d: give at least 1", limit)
	}
	each, end := printer(s, form, f.Bool("wide"))
	last, n, err := pages(ctx, client, q, f.String("cursor"), limit, each)
	if err != nil {
		status := caddy.ExitCodeFailedStartup
		if n > 0 {
			status = exitIncomplete
		}
		return status, interrupted(ctx, err, "interrupted after "+countOf(n))
	}
	if err := end(last); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	sayCount(form, n, last)
	sayHowAccountsAreFound(q, n == 0)
	if n == 0 {
		return exitNothing, nil
	}
	return caddy.ExitCodeSuccess, nil
}

// printer returns what prints pages in a form, and what prints their end.
func printer(s *screen, form string, wide bool) (func([]logclient.Entry) error, func(logclient.Page) error) {
	if form == outputTable {
		var l *layout
		return func(entries []logclient.Entry) error {
			if len(entries) == 0 {
				return nil
			}
			head := l == nil
			if head {
				l = s.layoutFor(entries, wide)
			}
			l.print(s, entries, head)
			return nil
		}, func(logclient.Page) error { return nil }
	}
	w := bufio.NewWriter(Stdout())
	j := &jsonWriter{w: w, lines: form == outputLines}
	return func(entries []logclient.Entry) error { return errors.Join(j.print(entries), w.Flush()) },
		func(last logclient.Page) error { return errors.Join(j.end(last), w.Flush()) }
}

// sayCount says how many entries there are and how to go on: below a table on a terminal,
// else beside the output.
func sayCount(form string, n int, last logclient.Page) {
	var w io.Writer = os.Stderr
	if form == outputTable && term.IsTerminal(int(os.Stdout.Fd())) {
		w = os.Stdout
	}
	switch total := countOf(last.Total); {
	case n == 0:
		total = "nothing found"
		fmt.Fprintln(w, total)
		return
	case last.TotalIsCapped:
		fmt.Fprintf(w, "%d of more than %s", n, total)
	default:
		fmt.Fprintf(w, "%d of %s", n, total)
	}
	if last.NextCursor != "" {
		fmt.Fprintf(w, "; the next ones: --cursor %s", oneLine(last.NextCursor))
	}
	fmt.Fprintln(w)
}
