package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// rebuild begins the index anew, since it is damaged: nothing is in it that the entries do not
// say.
func (w *writer) rebuild(why error) error {
	return w.link.transact(func() error { return w.mend(why) })
}

// mend is rebuild in a transaction, if the error asks for it; others it returns.
func (w *writer) mend(why error) error {
	if !errors.Is(why, postings.ErrDamaged) {
		return why
	}
	w.changes.known = false // it is read at the next transaction
	if err := w.index.reset(); err != nil {
		return errors.Join(why, err)
	}
	w.log.Error("the audit log's index of users and addresses is made anew; until that is done, it takes longer to find theirs", "error", why)
	return nil
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
			return nil // somebody else has met the same damage
		}
		return s.writer.mend(err)
	}})
	if failed != nil {
		return answer, failed
	}
	return do()
}
