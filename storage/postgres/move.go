package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// What a move from another store needs. It can be interrupted, and goes on where it was.

// Moved returns the sort key down to which the source's entries are here; 0 if none are.
func (s *Store) Moved(ctx context.Context, source string) (int64, error) {
	var key int64
	err := s.reading(ctx, func(b *pgx.Batch) {
		b.Queue(s.fill(`SELECT coalesce(max(key), 0) FROM "{s}"."{t}_moves" WHERE source = $1`), source).QueryRow(func(row pgx.Row) error { return row.Scan(&key) })
	})
	return key, s.explain(ctx, err)
}

// SetMoved notes how far it is; 0 forgets the source.
func (s *Store) SetMoved(ctx context.Context, source string, key int64) error {
	sql, args := s.fill(`INSERT INTO "{s}"."{t}_moves" (source, key) VALUES ($1, $2) ON CONFLICT (source) DO UPDATE SET key = EXCLUDED.key`), []any{source, key}
	if key == 0 {
		sql, args = s.fill(`DELETE FROM "{s}"."{t}_moves" WHERE source = $1`), []any{source}
	}
	return s.explain(ctx, s.writer.submit(ctx, &job{do: func(ctx context.Context, t *tx) error {
		return t.each(ctx, sql, args, nil, func() error { return nil })
	}}))
}

// Find returns those of the entries with the ids that are there, by id.
func (s *Store) Find(ctx context.Context, ids ...string) (map[string]storage.Entry, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var found map[string]storage.Entry
	err := s.reading(ctx, func(b *pgx.Batch) {
		found = make(map[string]storage.Entry, len(ids))
		b.Queue(s.fill(`SELECT `+listColumns+` FROM "{s}"."{t}_entries" WHERE id = ANY($1)`), ids).Query(func(rows pgx.Rows) error {
			defer rows.Close()
			for rows.Next() {
				_, e, err := scan(rows)
				if err != nil {
					return err
				}
				found[e.ID] = e
			}
			return rows.Err()
		})
	})
	return found, s.explain(caller, err)
}
