package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/plugintable"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "audit-log",
		Short: "Reads and looks after the audit log",
		Long: `
Reads and looks after the audit log of an auth server behind this Caddy: lists, shows, follows, counts and exports
entries, finds them by values of which only a hash is kept, deletes old entries, takes over the entries of the
Better Auth plugin better-auth-audit-logs, checks profiles, records traffic to make profiles from, and says which of
the server's routes no profile names. It looks through a configuration before it runs (lint), and at a Caddy that runs
(doctor).`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return cmd.Help()
				}
				return Command(func(f caddycmd.Flags) (int, error) {
					return exitUsage, fmt.Errorf("there is no command %q: see caddy audit-log --help", f.Arg(0))
				})(cmd, args)
			}
			cmd.AddCommand(pruneCommand(), importCommand(), profileCommand(), coverageCommand(), recordCommand(), lintCommand(), doctorCommand(),
				listCommand(), showCommand(), tailCommand(), statsCommand(), exportCommand(), hashCommand(), proxyCommand())
			for _, guest := range guestCommands {
				cmd.AddCommand(guest())
			}
		},
	})
}

// guestCommands are those of guest packages.
var guestCommands []func() *cobra.Command

// RegisterCommand adds a command under caddy audit-log. A guest package calls it when it
// is initialised; its command runs through Command and prints to Stdout.
func RegisterCommand(command func() *cobra.Command) { guestCommands = append(guestCommands, command) }

// exitIncomplete is the exit status of an import that had to skip rows.
const exitIncomplete = 2

// interruptible is a context that ends with Ctrl-C or SIGTERM.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

func pruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune --older-than <age> [--dry-run] [--db <file> [--table <name>] | [--store <store>] [--address <admin> | --config <file>]]",
		Short: "Deletes old entries now",
		Long: `
Deletes the entries that are older than an age, such as 90d. It asks the running Caddy to do it, through its
admin endpoint, and Caddy's requests do not wait for it. With --db it works on a database file itself: use that
when no Caddy runs. --dry-run only counts, and writes nothing.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.String("older-than", "", "how old entries must be to be deleted, such as 90d; at least 1h")
	f.Bool("dry-run", false, "count, and delete nothing")
	f.String("db", "", "the database file to work on, instead of the running Caddy")
	f.String("table", sqlite.DefaultTable, "with --db: the name of the view that shows the log")
	f.String("address", "", "the admin address of the running Caddy")
	f.StringP("config", "c", "", "the configuration file that names the admin address")
	f.StringP("adapter", "a", "", "the adapter of that file")
	f.String("store", "", storeHelp)
	cmd.RunE = Command(runPrune)
	return cmd
}

func runPrune(f caddycmd.Flags) (int, error) {
	age, err := parseAge(f.String("older-than"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--older-than: %w", err)
	}
	db, err := databaseFile(f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	var results []pruneResult
	if db != "" {
		results, err = pruneFile(db, f.String("table"), age, f.Bool("dry-run"))
	} else {
		results, err = pruneRunning(f, age)
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	for _, r := range results {
		name, before := oneLine(cmp.Or(r.Path, r.Store)), r.Before.Format(time.RFC3339)
		if f.Bool("dry-run") {
			fmt.Fprintf(Stdout(), "%s: %d entries from before %s would be deleted\n", name, r.Matched, before)
		} else {
			fmt.Fprintf(Stdout(), "%s: %d entries from before %s deleted\n", name, r.Deleted, before)
		}
	}
	return caddy.ExitCodeSuccess, nil
}

// pruneRunning asks a running Caddy.
func pruneRunning(f caddycmd.Flags, age time.Duration) ([]pruneResult, error) {
	address, err := adminAddress(f)
	if err != nil {
		return nil, err
	}
	transport, origin, header, err := adminTransport(address)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(pruneRequest{OlderThan: age.String(), DryRun: f.Bool("dry-run"), Store: f.String("store")})
	if err != nil {
		return nil, err
	}
	ctx, stop := interruptible()
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+adminPrune, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	r.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return nil, interrupted(ctx, err, "")
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Stores []pruneResult
		Error  string
	}
	err = json.NewDecoder(resp.Body).Decode(&answer)
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(cmp.Or(answer.Error, fmt.Sprintf("Caddy at %s answers %s", address, resp.Status)))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the answer of Caddy at %s: %w", address, err)
	}
	return answer.Stores, nil
}

// pruneFile works on a file that has a log already. A dry run only reads it.
func pruneFile(file, table string, age time.Duration, dryRun bool) ([]pruneResult, error) {
	ctx, stop := interruptible()
	defer stop()
	r := pruneResult{Store: "sqlite", Before: time.Now().Add(-age).UTC().Truncate(time.Millisecond)}
	if dryRun {
		s, err := sqlite.OpenReadOnly(ctx, sqlite.Options{Path: file, Table: table})
		if err != nil {
			return nil, err
		}
		r.Path = s.Path()
		return []pruneResult{r}, r.prune(ctx, s, nil, true)
	}
	s, err := sqlite.Open(ctx, sqlite.Options{Path: file, Table: table, Existing: true})
	if err != nil {
		return nil, err
	}
	r.Path = s.Path()
	del := func(ctx context.Context, before time.Time) (n int, err error) {
		n, err = retention.Sweep(ctx, s, before, nil)
		if n == 0 {
			return n, err
		}
		d := retention.Deletion{By: retention.ByHand, Before: before, Deleted: n, Account: account()}
		if err != nil {
			d.Error = err.Error()
		}
		return n, errors.Join(err, writeOwn(s, d.Entry("command")))
	}
	if err := r.prune(ctx, s, del, false); err != nil {
		return nil, errors.Join(fmt.Errorf("%w (%d of %d entries were deleted)", err, r.Deleted, r.Matched), s.Close())
	}
	return []pruneResult{r}, s.Close()
}

// writeOwn leaves an entry of what a command has done in a log, also if it was interrupted.
func writeOwn(s storage.Store, e storage.Entry) error {
	ctx, cancel := context.WithTimeout(storage.WithDurability(context.Background(), storage.Fsync), ownTimeout)
	defer cancel()
	if err := s.Write(ctx, e); err != nil {
		return fmt.Errorf("the log has no entry %s of this: %w", e.Action, err)
	}
	return nil
}

// ownTimeout bounds how long a command waits for the entry of what it has done.
const ownTimeout = 10 * time.Second

// account is who runs a command, as the operating system knows it; "" if it does not.
func account() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return cmp.Or(u.Username, u.Uid)
}

func importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import --from <file> [--format sqlite|jsonl] [--table <name>] --db <file> [--db-table <name>]",
		Short: "Takes the entries of the plugin better-auth-audit-logs over",
		Long: `
Copies the table of the Better Auth plugin better-auth-audit-logs into an audit log database. It reads a SQLite
file, or JSON lines from any other database (- is the standard input). Ids and times stay, so the command can be
repeated: entries that are there are replaced, not doubled. A Caddy may use the database meanwhile.

Exit status: 0 if every row was taken, 2 if some could not be (they are named), 1 if it failed.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.String("from", "", "the file to read: the auth server's SQLite database, or JSON lines; - for standard input")
	f.String("format", "", "sqlite or jsonl; found out from the file if not given")
	f.String("table", sqlite.DefaultTable, "the plugin's table in a SQLite file")
	f.String("db", "", "the audit log's database; made if it is not there")
	f.String("db-table", sqlite.DefaultTable, "the name of the view that shows the log there")
	cmd.RunE = Command(runImport)
	return cmd
}

func runImport(f caddycmd.Flags) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	if f.String("from") == "" || f.String("db") == "" {
		return caddy.ExitCodeFailedStartup, errors.New("--from and --db are required: the file to read, and the audit log's database")
	}
	from, err := openSource(ctx, f.String("from"), f.String("format"), f.String("table"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--from: %w", err)
	}
	defer from.close()
	to, err := sqlite.Open(ctx, sqlite.Options{Path: f.String("db"), Table: f.String("db-table")})
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	bar := NewProgress("importing", from.total, from.bytes)
	result, err := plugintable.Copy(ctx, from.rows, to, func(r plugintable.Result) { bar.At(from.done(r)) })
	bar.End()
	if result.Written > 0 {
		err = errors.Join(err, writeOwn(to, plugintable.Imported(result, account(), err)))
	}
	return report(result, errors.Join(err, to.Close()), to.Path())
}

// report prints what became of the rows and returns the exit status.
func report(result plugintable.Result, err error, db string) (int, error) {
	fmt.Fprintf(Stdout(), "%d entries are in %s now, %d rows were skipped\n", result.Written, oneLine(db), result.Skipped)
	for _, reason := range result.Reasons {
		fmt.Fprintln(os.Stderr, oneLine(reason))
	}
	if more := result.Skipped - len(result.Reasons); more > 0 {
		fmt.Fprintf(os.Stderr, "and %d more\n", more)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return caddy.ExitCodeFailedStartup, errors.New("interrupted: run the same command again to go on")
	case err != nil:
		return caddy.ExitCodeFailedStartup, err
	case result.Skipped > 0:
		return exitIncomplete, nil
	}
	return caddy.ExitCodeSuccess, nil
}

// Progress shows how far a command is, if a person looks.
type Progress struct{ bar *progressbar.ProgressBar }

// NewProgress returns a Progress up to total, of bytes or of entries. It shows nothing when
// standard error is no terminal. doing names the work, such as "moving".
func NewProgress(doing string, total int64, bytes bool) Progress {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return Progress{}
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription(doing), progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100 * time.Millisecond), progressbar.OptionClearOnFinish(),
	}
	if bytes {
		options = append(options, progressbar.OptionShowBytes(true))
	}
	return Progress{progressbar.NewOptions64(total, options...)}
}

// At says how far it is.
func (p Progress) At(n int64) {
	if p.bar != nil {
		_ = p.bar.Set64(n) // what cannot be shown is not worth failing for
	}
}

// End takes it from the screen.
func (p Progress) End() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
