package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// Reader answers from a database file and changes nothing: it takes no lease, makes no
// files, not even those beside the database, and holds no lock between two questions. A
// Caddy may write to the file meanwhile, start, and stop; each question is answered from
// the file as it is then. Use OpenReadOnly. It is safe for concurrent use.
type Reader struct {
	path, table string
	known       bool // it was looked at by OpenReadOnly
}

var (
	_ storage.Store      = (*Reader)(nil)
	_ storage.Lister     = (*Reader)(nil)
	_ storage.Getter     = (*Reader)(nil)
	_ storage.Counter    = (*Reader)(nil)
	_ storage.Aggregator = (*Reader)(nil)
)

// OpenReadOnly looks whether the file is an audit log that this version reads.
func OpenReadOnly(ctx context.Context, o Options) (*Reader, error) {
	table := cmp.Or(o.Table, DefaultTable)
	if err := ValidTable(table); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("audit log database %s: %w", o.Path, err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil { // SQLite would look beside the link for the rest
		return nil, fmt.Errorf("audit log database %s: %w", o.Path, err)
	}
	r := &Reader{path, table, false}
	return look(ctx, r, func(v *view) (*Reader, error) {
		if err := checkOwner(ctx, v.db); err != nil {
			return nil, err
		}
		return &Reader{path, table, true}, r.complete(ctx, v)
	})
}

// complete says what is wrong with a database that has not all that is asked of it.
func (r *Reader) complete(ctx context.Context, v *view) error {
	if err := hasLog(ctx, v.db, r.table); err != nil {
		return err
	}
	if err := v.readLegacy(ctx); err != nil {
		return err
	}
	if _, err := v.Get(ctx, ""); !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	someone := "x"
	for _, q := range []storage.Query{{Limit: 1}, {Limit: 1, UserID: &someone}} {
		if _, err := v.List(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// Path returns the absolute path of the database file.
func (r *Reader) Path() string { return r.path }

// errReadOnly is what a write gets.
var errReadOnly = errors.New("the audit log database is opened to be read only")

// Write implements storage.Store: it fails.
func (r *Reader) Write(context.Context, ...storage.Entry) error { return errReadOnly }

// List implements storage.Lister.
func (r *Reader) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	return look(ctx, r, func(v *view) (storage.Page, error) { return v.List(ctx, q) })
}

// Get implements storage.Getter.
func (r *Reader) Get(ctx context.Context, id string) (storage.Entry, error) {
	return look(ctx, r, func(v *view) (storage.Entry, error) { return v.Get(ctx, id) })
}

// CountBefore implements storage.Counter.
func (r *Reader) CountBefore(ctx context.Context, before time.Time) (int, error) {
	return look(ctx, r, func(v *view) (int, error) { return v.CountBefore(ctx, before) })
}

// Histogram implements storage.Aggregator.
func (r *Reader) Histogram(ctx context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	return look(ctx, r, func(v *view) ([]storage.Bucket, error) {
		if err := v.countOnce(ctx); err != nil {
			return nil, err
		}
		return v.Histogram(ctx, q, step)
	})
}

// Tally implements storage.Aggregator.
func (r *Reader) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	return look(ctx, r, func(v *view) ([]storage.Tally, error) {
		if err := v.countOnce(ctx); err != nil {
			return nil, err
		}
		return v.Tally(ctx, q)
	})
}

// countOnce fills the counts for one question: from the table, and by looking at the
// entries of the hours that it does not have. It runs in the question's transaction.
func (v *view) countOnce(ctx context.Context) error {
	var upto int64
	if err := v.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT hour FROM "%s_counted"`, v.table)).Scan(&upto); err != nil {
		return err
	}
	epoch, found := v.counts.reset(upto), map[hourGroup]int{}
	many := func(int64) error { return errors.New("the entries of too many hours are not added up yet") }
	if err := v.readCounts(ctx, v.db, upto, found, many); err != nil {
		return ctx.Err() // too many actions: the entries themselves are looked at
	}
	legacy, err := v.legacy(ctx, v.db)
	v.counts.fill(epoch, found, legacy)
	return err
}

// look answers one question over a connection of its own. A database that nobody has open
// has no log beside it, and is read as a file that does not change; should somebody open
// it meanwhile, the question is asked again.
func look[T any](ctx context.Context, r *Reader, ask func(*view) (T, error)) (T, error) {
	const tries = 3
	for n := 1; ; n++ {
		quiet, err := r.quiet()
		if err != nil {
			var none T
			return none, r.explain(err)
		}
		answer, err := askOnce(ctx, r, quiet, ask)
		if n < tries && (quiet || err != nil) {
			if still, e := r.quiet(); e == nil && still != quiet {
				continue
			}
		}
		return answer, r.explain(err)
	}
}

// askOnce asks in one transaction: the answer is true of one moment.
func askOnce[T any](ctx context.Context, r *Reader, quiet bool, ask func(*view) (T, error)) (answer T, err error) {
	q := url.Values{"mode": {"ro"}, "_pragma": {busyPragma, "temp_store(MEMORY)", "query_only(ON)"}}
	if quiet {
		q.Set("immutable", "1") // else SQLite makes the log's files
	} else {
		q.Set("readonly_shm", "1") // the same
	}
	db, err := openURL(r.path, 1, q)
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "BEGIN"); err != nil { // there is one connection
		return answer, err
	}
	v := &view{table: r.table, db: db, counts: &counts{}}
	if !r.known {
		return ask(v)
	}
	if err := v.readLegacy(ctx); err != nil {
		return answer, err
	}
	return ask(v)
}

// quiet says whether no log is beside the database: nobody has it open.
func (r *Reader) quiet() (bool, error) {
	info, err := os.Stat(r.path)
	if err != nil {
		return false, err
	}
	if err := checkKind(r.path, info); err != nil {
		return false, err
	}
	_, err = os.Stat(r.path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// explain says what to do about an error.
func (r *Reader) explain(err error) error {
	if err == nil || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrBadCursor) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	switch text := err.Error(); {
	case strings.Contains(text, "no such column"), strings.Contains(text, "no such table"):
		err = fmt.Errorf("%w: written by an earlier version: let a Caddy open it once, or caddy audit-log prune --older-than 36500d --db", err)
	case errors.Is(err, postings.ErrDamaged):
		err = fmt.Errorf("%w: a Caddy makes it anew when it is asked for the same", err)
	case strings.Contains(text, "unable to open database file"):
		err = fmt.Errorf("%w: check that you may read it, and that its -shm file is beside its -wal file", err)
	case strings.Contains(text, "file is not a database"):
		err = fmt.Errorf("%w: it is damaged or something else", err)
	}
	return fmt.Errorf("audit log database %s: %w", r.path, err)
}
