package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

// TestTheWriterNeverReadsWholeTables: plans are kept, and those that are made while the
// tables are small must be those for large ones.
func TestTheWriterNeverReadsWholeTables(t *testing.T) {
	s, err := Open(t.Context(), Options{DSN: pgtest.DSN(t), Table: pgtest.Table(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	e := storage.Entry{Action: "x"}
	e.Sanitize()
	if err := errors.Join(s.Write(t.Context(), e), pgtest.Exec(t, s.fill(`ANALYZE "{s}"."{t}_entries", "{s}"."{t}_strays"`))); err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]struct {
		sql  string
		args []any
	}{
		"find":   {s.texts.find, []any{[]string{e.ID}}},
		"upsert": {s.texts.upsert, columns(newRows([]storage.Entry{e}))},
	} {
		var plan []string
		err := s.writer.submit(t.Context(), &job{do: func(ctx context.Context, tx *tx) error {
			var line string
			if err := tx.each(ctx, "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)", nil, []any{&line}, func() error { return nil }); err != nil {
				return err
			}
			return tx.each(ctx, "EXPLAIN "+q.sql, q.args, []any{&line}, func() error {
				plan = append(plan, line)
				return nil
			})
		}})
		if text := strings.Join(plan, "\n"); err != nil || strings.Contains(text, "Seq Scan") || !strings.Contains(text, "Index") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}
