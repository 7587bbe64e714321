package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// Unlink implements storage.Unlinker, some entries at a time, each time durably: if it fails,
// so many of them as it returns are without their user already.
func (s *Store) Unlink(ctx context.Context, userID string) (n int, err error) {
	for below := int64(math.MaxInt64); userID != "" && below > 0 && err == nil; {
		var part int
		part, err = mended(ctx, s, func() (int, error) {
			next := int64(0)
			part, err := s.changed(ctx, s.writer.submit, storage.Fsync, func(ctx context.Context, tx *sql.Tx) (n int64, err error) {
				now := s.view
				now.db = tx
				n, next, err = s.writer.unlink(ctx, &now, userID, below)
				return n, err
			})
			if err == nil {
				below = next
			}
			return part, err
		})
		if err == nil { // or it was rolled back
			n += part
		}
	}
	return n, err
}

// unlinkMost is how many entries lose their user in one transaction.
const unlinkMost = 500

// unlink is Unlink in a job, for the youngest entries with keys below one. It says how many
// it has changed, and below which key others may be: 0 if none are.
func (w *writer) unlink(ctx context.Context, v *view, userID string, below int64) (n, next int64, err error) {
	f := newFinder(ctx, v, &storage.Query{UserID: &userID}, kinds{})
	defer func() { err = errors.Join(err, f.close()) }()
	f.to = below
	all, err := f.parts()
	if err != nil {
		return 0, 0, err
	}
	keys, err := f.newest(all).take(unlinkMost)
	if err != nil {
		return 0, 0, err
	}
	if len(keys) == unlinkMost {
		next = keys[len(keys)-1]
	}
	var gone []postings.Posting
	var late []int64
	for _, key := range keys {
		indexed, err := w.index.indexed(key)
		var before []postings.Posting
		if err == nil && indexed {
			before, err = w.index.postings(key)
		}
		if err != nil {
			return n, 0, err
		}
		done, err := changed(w.link.unlink.exec(numbered(key, storage.TextHash(userID), userID)...))
		if err != nil {
			return n, 0, err
		}
		if !done {
			continue // another user with the same hash
		}
		if n++; indexed {
			gone, late = append(gone, before...), append(late, key)
		}
	}
	return n, next, w.index.again(late, gone)
}
