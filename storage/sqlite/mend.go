package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// heal is for a transaction that has met damage in what is derived from the entries: that is made
// anew, and the transaction tried once more. Other errors it returns, and those that making it anew
// a moment ago did not help against: each time costs some pages.
func (w *writer) heal(err error, batch []*job) error {
	if errors.Is(err, postings.ErrDamaged) && !w.index.lately() {
		if err = w.rebuild(err); err == nil {
			err = w.transact(batch)
		}
	}
	if errors.Is(err, errCounts) && time.Since(w.recounted) >= rebuildAgain {
		if err = w.recount(err); err == nil {
			err = w.transact(batch)
		}
	}
	return err
}

// rebuild begins the index anew, since it is damaged: nothing is in it that the entries do not
// say. It has a transaction of its own: after a statement that was to change a bad page, SQLite
// does nothing more in the same one.
func (w *writer) rebuild(why error) error {
	w.changes.known = false // it is read at the next transaction
	w.index.tried.Store(time.Now().UnixNano())
	err := why
	if !damaged(err) {
		err = w.link.transact(w.index.reset)
	}
	var advice []any
	if damaged(err) { // pages are, not only what is in them
		advice = adviceOfPages
		err = w.anew("", "postings", "segments", "late", "unindexed")
	}
	if err != nil {
		return errors.Join(err, why)
	}
	w.index.forgotten()
	w.log.Error("the audit log's index of users and addresses is made anew; until that is done, it takes longer to find theirs", append(advice, "error", why)...)
	return nil
}

// errCounts says that the table of counts is damaged.
var errCounts = errors.New("the audit log's table of counts is damaged")

// ofCounts is ofIndex for the table of counts.
func ofCounts(err error) error {
	if err == nil || !damaged(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errCounts, err)
}

// recount begins the table of counts anew, since it is damaged: the background counts the entries
// once more.
func (w *writer) recount(why error) error {
	w.changes.known = false
	w.recounted = time.Now()
	w.counts.distrust() // before the table is empty: see view.whole
	if err := w.anew(`UPDATE "{t}_counted" SET hour = 0;`, "counts"); err != nil {
		return errors.Join(err, why)
	}
	w.recounts.Add(1)
	w.log.Error("the audit log's entries are counted anew; until that is done, totals above 10000 are not exact", append(adviceOfPages, "error", why)...)
	return nil
}

// recount has the writer begin the table of counts anew, unless it was since it had been so often.
func (s *Store) recount(ctx context.Context, before int64, why error) error {
	return s.writer.submitIdle(ctx, &job{durability: storage.Commit, reads: true, do: func(context.Context, *sql.Tx) error {
		if s.writer.recounts.Load() != before {
			return nil
		}
		return why
	}})
}

// adviceOfPages says what to do when pages of the file are damaged.
var adviceOfPages = []any{"remedy", "look after the disk. No entry is lost; the old pages stay in the file until somebody runs VACUUM in it, with Caddy stopped"}

// anew makes derived tables anew, empty, and then runs a statement. DELETE and DROP would meet
// their bad pages: so the tables are taken out of the schema, and their pages are nobody's until
// a VACUUM. Nothing reads them, and nothing else is changed.
func (w *writer) anew(then string, tables ...string) error {
	const reread = "PRAGMA writable_schema=RESET;"
	statements := []string{"PRAGMA writable_schema=ON;"}
	for _, table := range tables {
		statements = append(statements, "DELETE FROM sqlite_schema WHERE tbl_name = '{t}_"+table+"' COLLATE NOCASE;")
	}
	statements = append(statements, reread, schema, then)
	script := strings.ReplaceAll(strings.Join(statements, ""), "{t}", w.link.table)
	run := func(sql string) error {
		_, err := w.conn.ExecContext(context.Background(), sql)
		return err
	}
	err := w.link.transact(func() error { return run(script) })
	if err != nil { // the connection may know a schema that was rolled back
		err = errors.Join(err, run(reread))
	}
	return err
}

// ofIndex says of an error that came of the index's own tables that the index is damaged, if
// it says that the file is: all that is in them stands in the entries, too, so that a bad page
// there must not keep entries from being written.
func ofIndex(err error) error {
	if err == nil || !damaged(err) || errors.Is(err, postings.ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", postings.ErrDamaged, err)
}

// mended does something that goes by the index. If that is damaged, it is begun anew, and the
// thing done once more: all entries are looked at then.
func mended[T any](ctx context.Context, s *Store, do func() (T, error)) (T, error) {
	resets := &s.writer.index.resets
	before := resets.Load()
	answer, err := do()
	if !errors.Is(err, postings.ErrDamaged) || resets.Load() == before && s.writer.index.lately() {
		return answer, err
	}
	failed := s.writer.submit(ctx, &job{do: func(context.Context, *sql.Tx) error {
		if resets.Load() != before {
			return nil // it was begun anew, by this or by somebody else who has met the same damage
		}
		return err
	}})
	if failed != nil {
		return answer, failed
	}
	return do()
}
