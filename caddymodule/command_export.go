package caddymodule

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime/debug"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/storage/filelock"
)

// The formats of an export, besides formatJSONL.
const (
	formatCSV     = "csv"
	formatParquet = "parquet"
)

// What stands behind a file's name while its export is not complete: its text, and what
// was asked for.
const (
	partSuffix  = ".part"
	querySuffix = ".part-query"
)

func exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export [<filters>] [--format jsonl|csv|parquet] --output <file> [--resume | --force] [--db <file> | --address <admin> | --config <file>]",
		Short: "Writes entries to a file",
		Long: `
Writes all entries that are selected to a file, newest first: JSON lines, CSV, or Parquet. The file has its name only
when it is complete; until then it is <file>.part. When an export of JSON lines or CSV was stopped, --resume goes on
after the last entry that it has, with the filters of then. A Parquet file has its index at the end and cannot be
gone on with.

--output - writes to standard output.
` + whereHelp + exitHelp,
		Example: `  caddy audit-log export --output audit.jsonl
  caddy audit-log export --format csv --since 90d --status failed --output failed.csv
  caddy audit-log export --format csv --output failed.csv --resume
  caddy audit-log export --output - | zstd > audit.jsonl.zst`,
	}
	sourceFlags(cmd)
	filterFlags(cmd)
	f := cmd.Flags()
	timeFlags(f)
	f.String("cursor", "", "begin after this cursor, which a list said")
	f.String("format", formatJSONL, "jsonl, csv or parquet")
	complete(cmd, "format", formatJSONL, formatCSV, formatParquet)
	f.StringP("output", "o", "", "the file to write; - for standard output")
	complete(cmd, "output")
	f.Bool("resume", false, "go on with an export that was stopped")
	f.Bool("force", false, "replace a file that is there, or begin anew what was stopped")
	return readsLog(cmd, 0, runExport)
}

// wish is what an export asks for. It is kept beside the file while that is not complete.
type wish struct {
	Format string `json:"format"`
	// Flags are the filters as they were given, Query what they meant then.
	Flags map[string]string `json:"flags"`
	Query string            `json:"query"`
}

// wishOf reads the flags.
func wishOf(f caddycmd.Flags) (*wish, url.Values, error) {
	if err := noneEmpty(f, "cursor"); err != nil {
		return nil, nil, err
	}
	w := &wish{Format: f.String("format"), Flags: map[string]string{}}
	if err := oneOf("--format", w.Format, []string{formatJSONL, formatCSV, formatParquet}); err != nil {
		return nil, nil, err
	}
	q, err := filters(f, time.Now())
	if err != nil {
		return nil, nil, err
	}
	f.Visit(func(flag *pflag.Flag) {
		switch flag.Name {
		case "user", "action", "class", "status", "severity", "ip", "identifier", "identifier-hash", "text", "from", "to", "since", "cursor":
			w.Flags[flag.Name] = flag.Value.String()
		}
	})
	q = parameters(q, "cursor", f.String("cursor"))
	w.Query = q.Encode()
	return w, q, nil
}

func runExport(ctx context.Context, f caddycmd.Flags) (int, error) {
	// This process does nothing else, and has little that lives: a Parquet file of ten million
	// entries needs 30 MB beside what a list needs, instead of 50.
	debug.SetGCPercent(20)
	w, q, err := wishOf(f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	output, person := f.String("output"), term.IsTerminal(int(os.Stdout.Fd()))
	switch {
	case output == "" && person, output == "-" && person && w.Format == formatParquet:
		return caddy.ExitCodeFailedStartup, errors.New("name a file with --output")
	case f.Bool("resume") && (output == "" || output == "-"):
		return caddy.ExitCodeFailedStartup, errors.New("--resume goes on with a file: name it with --output")
	case f.Bool("resume") && w.Format == formatParquet:
		return caddy.ExitCodeFailedStartup, errors.New("a Parquet file has its index at the end and cannot be gone on with: export it anew with --force, or as jsonl or csv")
	}
	client, done, err := openLog(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer done()
	if output == "" || output == "-" {
		return exportToStdout(ctx, client, w, q, person)
	}
	return exportToFile(ctx, client, w, q, output, f.Bool("resume"), f.Bool("force"))
}

// exportToStdout writes to standard output: as it is into a pipe, which wants data, and
// with nothing that is obeyed to a terminal.
func exportToStdout(ctx context.Context, client *logclient.Client, w *wish, q url.Values, person bool) (int, error) {
	if status, err := anything(ctx, client, q); err != nil || status != caddy.ExitCodeSuccess {
		return status, interrupted(ctx, err, "")
	}
	body, err := client.Export(ctx, parameters(q, "format", w.Format))
	if err != nil {
		return caddy.ExitCodeFailedStartup, interrupted(ctx, err, "")
	}
	defer func() { _ = body.Close() }()
	var out io.Writer = os.Stdout
	if person {
		out = Stdout()
	}
	if n, err := io.Copy(out, body); err != nil {
		return exitIncomplete, fmt.Errorf("the export broke off after %s: %w", humanize.IBytes(uint64(n)), err)
	}
	return caddy.ExitCodeSuccess, nil
}

// anything is exitNothing if the query selects nothing.
func anything(ctx context.Context, client *logclient.Client, q url.Values) (int, error) {
	page, err := client.List(ctx, parameters(q, "limit", "1"))
	var refused *logclient.Error
	switch {
	case errors.As(err, &refused) && refused.Code == "QUERY_TOO_SLOW":
		return caddy.ExitCodeSuccess, nil // an export has more time, and does not count
	case err != nil:
		return caddy.ExitCodeFailedStartup, err
	case len(page.Entries) == 0:
		fmt.Fprintln(os.Stderr, "nothing found")
		sayHowAccountsAreFound(q, true)
		return exitNothing, nil
	}
	sayHowAccountsAreFound(q, false)
	return caddy.ExitCodeSuccess, nil
}

func exportToFile(ctx context.Context, client *logclient.Client, w *wish, q url.Values, output string, resume, force bool) (int, error) {
	var p *part
	var err error
	if resume {
		p, q, err = resumePart(output, w)
	} else {
		if err = free(output, force); err == nil {
			if status, err := anything(ctx, client, q); err != nil || status != caddy.ExitCodeSuccess {
				return status, interrupted(ctx, err, "")
			}
			p, err = newPart(output, w)
		}
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	body, err := client.Export(ctx, parameters(q, "format", p.format))
	if err != nil {
		return caddy.ExitCodeFailedStartup, errors.Join(interrupted(ctx, err, ""), p.abandon())
	}
	defer func() { _ = body.Close() }()
	if err := p.fill(body); err != nil {
		err = errors.Join(interrupted(ctx, err, "interrupted"), p.close())
		return exitIncomplete, fmt.Errorf("%w: what there is is in %s%s; %s", err, output, partSuffix, p.remedy())
	}
	if err := p.finish(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	fmt.Fprintf(os.Stderr, "%s are in %s\n", humanize.IBytes(uint64(p.size)), oneLine(output))
	return caddy.ExitCodeSuccess, nil
}

// free says what is in the way of a new export.
func free(output string, force bool) error {
	if force {
		return nil
	}
	if _, err := os.Lstat(output); err == nil {
		return fmt.Errorf("%s is there already: give another name, or --force to replace it", output)
	}
	if _, err := os.Lstat(output + partSuffix); err == nil {
		return fmt.Errorf("%s%s is there: an export was stopped. --resume goes on with it, --force begins anew", output, partSuffix)
	}
	return nil
}

// part is a file that is not complete.
type part struct {
	name, format string
	file         *os.File
	size         int64
	resumed      bool
	// locked is false where files cannot be locked: there it must be closed before it is renamed.
	locked bool
	// skip leaves out what the file has already; nil if it has nothing.
	skip *skipper
}

// newPart makes the file, for its owner only, and notes what is asked for.
func newPart(name string, w *wish) (*part, error) {
	note, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	if err := notUnderWay(name + partSuffix); err != nil {
		return nil, err
	}
	for _, old := range []string{partSuffix, querySuffix} {
		if err := os.Remove(name + old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	file, err := os.OpenFile(name+partSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	locked, err := own(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := os.WriteFile(name+querySuffix, note, 0o600); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &part{name: name, format: w.Format, file: file, locked: locked}, nil
}

// own keeps other exports from the file until it is closed, where files can be locked.
func own(file *os.File) (locked bool, err error) {
	err = filelock.Try(file)
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return false, fmt.Errorf("another export writes to %s: wait for its end, or give another name", file.Name())
	case errors.Is(err, filelock.ErrUnsupported):
		return false, nil
	}
	return err == nil, err
}

// notUnderWay says whether another export writes to the file.
func notUnderWay(part string) error {
	file, err := os.Open(part)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = own(file)
	return errors.Join(err, file.Close())
}

// fill writes what comes, until it is complete.
func (p *part) fill(body io.Reader) (err error) {
	bar := NewProgress("exporting", -1, true)
	defer bar.End()
	in := bufio.NewReaderSize(body, 64<<10)
	out := bufio.NewWriterSize(&progressWriter{p, bar}, 64<<10)
	defer func() { err = errors.Join(err, out.Flush()) }()
	if p.skip != nil {
		if err := p.skip.leaveOut(in, out, p.format); err != nil {
			return err
		}
	}
	_, err = io.Copy(out, in)
	return err
}

// progressWriter counts what is written.
type progressWriter struct {
	p   *part
	bar Progress
}

// Write implements io.Writer.
func (w *progressWriter) Write(b []byte) (int, error) {
	n, err := w.p.file.Write(b)
	w.p.size += int64(n)
	w.bar.At(w.p.size)
	return n, err
}

// finish gives the file its name, while nobody else may write to it.
func (p *part) finish() error {
	if err := p.file.Sync(); err != nil {
		return errors.Join(err, p.file.Close())
	}
	mine, err := p.file.Stat()
	if err != nil {
		return errors.Join(err, p.file.Close())
	}
	if now, err := os.Stat(p.name + partSuffix); err != nil || !os.SameFile(mine, now) {
		return errors.Join(fmt.Errorf("%s%s was replaced or removed meanwhile: begin anew", p.name, partSuffix), p.file.Close())
	}
	if !p.locked {
		err = p.file.Close()
	}
	if err == nil {
		err = os.Rename(p.name+partSuffix, p.name)
	}
	if err == nil {
		err = os.Remove(p.name + querySuffix)
	}
	if p.locked {
		err = errors.Join(err, p.file.Close())
	}
	return err
}

func (p *part) close() error { return p.file.Close() }

// abandon takes a new file away into which nothing came.
func (p *part) abandon() error {
	err := p.file.Close()
	if p.resumed {
		return err
	}
	return errors.Join(err, os.Remove(p.name+partSuffix), os.Remove(p.name+querySuffix))
}

// remedy says how to come to the rest.
func (p *part) remedy() string {
	if p.format == formatParquet {
		return "it cannot be gone on with: begin anew with --force"
	}
	return "the same command with --resume goes on"
}

// noteOf reads what was asked for, and compares it with what is asked for now.
func noteOf(name string, now *wish) (*wish, error) {
	b, err := os.ReadFile(name + querySuffix)
	if err != nil {
		return nil, fmt.Errorf("there is no stopped export of %s to go on with: %w", name, err)
	}
	var then wish
	if err := json.Unmarshal(b, &then); err != nil {
		return nil, fmt.Errorf("%s%s: %w: begin anew with --force", name, querySuffix, err)
	}
	if then.Format != now.Format {
		return nil, fmt.Errorf("the stopped export of %s has the format %s: give --format %s, or begin anew with --force", name, then.Format, then.Format)
	}
	for flag, value := range now.Flags {
		if had, ok := then.Flags[flag]; !ok || had != value {
			return nil, fmt.Errorf("the stopped export of %s had --%s %s: leave the filters out or give those, or begin anew with --force", name, flag, cmp.Or(had, "not"))
		}
	}
	return &then, nil
}
