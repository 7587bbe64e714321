package postgres

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// readsAll finds a step that has looked at thousands of rows.
var readsAll = regexp.MustCompile(`Removed by Filter: \d{4}|actual time=\S+ rows=\d{4}`)

// TestRollUpsAreFoundByTheirActions, in a log that has none as in one that has some: who counts
// must not read all entries twice.
func TestRollUpsAreFoundByTheirActions(t *testing.T) {
	s, err := Open(t.Context(), Options{DSN: pgtest.DSN(t), Table: pgtest.Table(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	now := time.Now()
	for _, rolledUp := range []int{0, 20} {
		entries := make([]storage.Entry, 10000)
		for i := range entries {
			e := &entries[i]
			if e.Action = "sign-in:email"; i < rolledUp {
				e.Action, e.Metadata = storage.RolledUp+"sign-in", []byte(`{"count":480}`)
			}
			e.Status, e.CreatedAt = storage.Failed, now.Add(-time.Duration(i)*time.Second)
			e.Sanitize()
		}
		if err := errors.Join(s.Write(t.Context(), entries...), pgtest.Exec(t, s.fill(`ANALYZE "{s}"."{t}_entries"`))); err != nil {
			t.Fatal(err)
		}
		for _, q := range []storage.Query{{}, {From: now.Add(-24 * time.Hour)}, {Status: storage.Failed}} {
			sql, args := s.rollUpSQL(&q, "0")
			rows, err := s.read.Query(t.Context(), "EXPLAIN ANALYZE "+sql, args...)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			plan := strings.Join(lines, "\n")
			if err != nil || !strings.Contains(plan, "Index Cond: ((action >= 'audit-log:rolled-up:'") || readsAll.MatchString(plan) {
				t.Errorf("%+v: %v\n%s", q, err, plan)
			}
		}
	}
}
