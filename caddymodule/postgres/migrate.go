package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// exitDiffers is the exit status of a migration whose verification found differences.
const exitDiffers = 2

// writeTries is how often a move tries to write a page before it gives up.
const writeTries = 10

// errDiffers says that the two logs are not alike.
var errDiffers = errors.New("the two logs are not alike")

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --from <file> --dsn <dsn> [--password <password>] [--tls <mode>] [--from-table <name>] [--schema <name>] [--table <name>]",
		Short: "Moves the log from SQLite to PostgreSQL",
		Long: `
Copies the entries of a SQLite audit log into the store postgres, newest first, and compares both logs afterwards, by
count and by digest. Let Caddy use the store postgres before, so that nothing new comes into the SQLite file; a Caddy
may use either meanwhile. The file is only read, and stays.

It can be interrupted: the same command goes on where it was. It can be repeated: entries that are there are replaced,
not doubled. Give secrets as placeholders, such as --dsn '{env.AUDIT_DSN}' or --password '{file./run/secrets/audit}':
other users of the machine see what stands in a command.

Exit status: 0 if both logs are alike, 2 if they are not, 1 if it failed.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.String("from", "", "the SQLite database")
	f.String("from-table", sqlite.DefaultTable, "the name of the view that shows the log there")
	f.String("dsn", "", "the PostgreSQL database")
	f.String("password", "", "the password, instead of the DSN's")
	f.String("tls", "", "how the connection is protected, as in the Caddyfile: verify-full, for one; instead of the DSN's sslmode")
	f.String("tls-root-cert", "", "the file of the certificates that are believed")
	f.String("tls-client-cert", "", "the file of the certificate to show")
	f.String("tls-client-key", "", "the file of its key")
	f.String("schema", postgres.DefaultSchema, "the schema that the tables are in")
	f.String("table", postgres.DefaultTable, "the name of the view that shows the log there")
	cmd.RunE = caddymodule.Command(runMigrate)
	return cmd
}

func runMigrate(f caddycmd.Flags) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if f.String("from") == "" || f.String("dsn") == "" {
		return caddy.ExitCodeFailedStartup, errors.New("--from and --dsn are required: the SQLite database, and the PostgreSQL database")
	}
	m, err := openMigration(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	err = errors.Join(m.run(ctx), m.to.Close())
	switch {
	case errors.Is(err, context.Canceled):
		return caddy.ExitCodeFailedStartup, errors.New("interrupted: run the same command again to go on")
	case errors.Is(err, errDiffers):
		return exitDiffers, err
	case err != nil:
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// migration is a move from one log to another.
type migration struct {
	from   *sqlite.Reader
	table  string // of from
	to     *postgres.Store
	source string // names from in the notes of to
	total  int64  // of the entries; -1 if nobody knows
}

func openMigration(ctx context.Context, f caddycmd.Flags) (*migration, error) {
	s := Store{
		DSN: f.String("dsn"), Password: f.String("password"), Schema: f.String("schema"), Table: f.String("table"),
		TLS: f.String("tls"), TLSRootCert: f.String("tls-root-cert"), TLSClientCert: f.String("tls-client-cert"), TLSClientKey: f.String("tls-client-key"),
	}
	err := s.Provision(caddy.Context{})
	if err == nil {
		err = s.Validate()
	}
	if err != nil {
		return nil, err
	}
	s.options.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	file, err := filepath.Abs(f.String("from"))
	if err != nil {
		return nil, err
	}
	m := &migration{table: f.String("from-table")}
	if m.from, err = sqlite.OpenReadOnly(ctx, sqlite.Options{Path: file, Table: m.table}); err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	if err := m.nothingWaits(); err != nil {
		return nil, err
	}
	if m.source, err = sourceOf(m.from.Path(), m.table); err != nil {
		return nil, err
	}
	m.to, err = postgres.Open(ctx, s.options)
	return m, err
}

// sourceOf names a log in the notes of the other one: files of several machines have the same path.
func sourceOf(file, table string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("--from: %w", err)
	}
	return fmt.Sprintf("%s|%s|%s", file, fileID(info), table), nil
}

// nothingWaits refuses a database whose journal has entries that it does not have.
func (m *migration) nothingWaits() error {
	file := m.from.Path() // where Caddy has it: it takes no link
	journal := caddymodule.JournalOf(file, m.table)
	n, err := spill.Waiting(journal)
	if err != nil {
		return fmt.Errorf("looking for entries that wait in the database's journal: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("%d entries wait in %s and are not in %s: start Caddy once with its old configuration (store sqlite), until nothing waits any more, and run this again", n, journal, file)
	}
	return nil
}

// run copies, compares, and says what came of it.
func (m *migration) run(ctx context.Context) error {
	all, err := m.from.List(ctx, storage.Query{Limit: 1})
	if err != nil {
		return fmt.Errorf("counting the entries: %w", err)
	}
	if m.total = int64(all.Total); all.TotalIsCapped {
		m.total = -1
	}
	if err := m.copy(ctx); err != nil {
		return err
	}
	theirs, ours, err := m.compare(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(caddymodule.Stdout(), "%s: %d entries, digest %x\n%s: %d of them, digest %x\n", m.from.Path(), theirs.count, theirs.sum, m.to.Path(), ours.count, ours.sum)
	if err := m.to.SetMoved(ctx, m.source, 0); err != nil {
		return err
	}
	if theirs == ours {
		return m.nothingWaits() // a Caddy may have used the file meanwhile, and its disk may have failed
	}
	return fmt.Errorf("%w: entries were changed or deleted in one of them meanwhile, by a Caddy that still uses the file, by the retention in PostgreSQL, which deletes what is old, or because an account was deleted, whose entries lose its id in PostgreSQL (then a second run brings the id back): see that only one is written to, run a Caddy with the retention on the file before (or none until the move is over), and run the same command again, which begins anew", errDiffers)
}

// copy goes on where an earlier run was.
func (m *migration) copy(ctx context.Context) error {
	key, err := m.to.Moved(ctx, m.source)
	if err != nil {
		return err
	}
	from := ""
	if key != 0 {
		from = storage.EncodeCursor(key)
		fmt.Fprintln(os.Stderr, "going on where the last run was interrupted")
	}
	bar := caddymodule.NewProgress("moving", m.total, false)
	defer bar.End()
	done := 0
	return m.pages(ctx, from, func(p storage.Page) error {
		// Oldest first: of two entries with one sort key the older one comes first.
		slices.Reverse(p.Entries)
		for rest := p.Entries; len(rest) > 0; {
			n := fitting(rest)
			if err := m.write(ctx, rest[:n]); err != nil {
				return fmt.Errorf("after %d entries: %w", done, err)
			}
			rest, done = rest[n:], done+n
			bar.At(int64(done))
		}
		if p.NextCursor == "" {
			return nil
		}
		next, err := storage.DecodeCursor(p.NextCursor)
		if err != nil {
			return err
		}
		return m.to.SetMoved(ctx, m.source, next)
	})
}

// writeBytes bounds what is written at once, as the journal does: a slow network has 2.5 s for it.
const writeBytes = 1 << 20

// fitting is how many of the entries are written at once: one at least.
func fitting(entries []storage.Entry) int {
	size := 0
	for i := range entries {
		if size += len(entries[i].Metadata); size > writeBytes {
			return max(i, 1)
		}
	}
	return len(entries)
}

// write writes entries, again for a while if need be.
func (m *migration) write(ctx context.Context, entries []storage.Entry) error {
	return again(ctx, func() error { return m.to.Write(ctx, entries...) })
}

// again tries again for a while when the server is busy or gone: a move takes long.
func again(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		var f *storage.Fault
		if err == nil || try == writeTries || !errors.As(err, &f) {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pages calls f for each page of the source after a cursor.
func (m *migration) pages(ctx context.Context, cursor string, f func(storage.Page) error) error {
	for q := (storage.Query{Limit: storage.MaxLimit, Cursor: cursor}); ; {
		page, err := m.from.List(ctx, q)
		if err != nil {
			return fmt.Errorf("reading %s: %w", m.from.Path(), err)
		}
		q.Cursor = page.NextCursor
		if err := f(page); err != nil || q.Cursor == "" {
			return err
		}
	}
}

// digest is of a set of entries, whatever their order.
type digest struct {
	count int
	sum   [sha256.Size]byte
}

// add adds an entry: its hash, by exclusive or.
func (d *digest) add(e *storage.Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("entry %s: %w", e.ID, err)
	}
	sum := sha256.Sum256(slices.Concat(b, e.Metadata, []byte(e.IdentifierHash))) // JSON has the metadata without its spaces
	for i := range sum {
		d.sum[i] ^= sum[i]
	}
	d.count++
	return nil
}

// compare reads both logs, of the second what the first one has.
func (m *migration) compare(ctx context.Context) (theirs, ours digest, err error) {
	bar := caddymodule.NewProgress("comparing", m.total, false)
	defer bar.End()
	err = m.pages(ctx, "", func(p storage.Page) error {
		for rest := p.Entries; len(rest) > 0; {
			n := fitting(rest)
			if err := m.comparePart(ctx, rest[:n], &theirs, &ours); err != nil {
				return err
			}
			rest = rest[n:]
			bar.At(int64(theirs.count))
		}
		return nil
	})
	return theirs, ours, err
}

// comparePart adds entries to the first digest, and what the other log has of them to the second.
func (m *migration) comparePart(ctx context.Context, entries []storage.Entry, theirs, ours *digest) error {
	ids := make([]string, len(entries))
	for i := range entries {
		ids[i] = entries[i].ID
		if err := theirs.add(&entries[i]); err != nil {
			return err
		}
	}
	var found map[string]storage.Entry
	err := again(ctx, func() (err error) {
		found, err = m.to.Find(ctx, ids...)
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range found {
		if err := ours.add(&e); err != nil {
			return err
		}
	}
	return nil
}
