package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestTenStoresStartAtOnce: one makes the tables, and all of them write.
func TestTenStoresStartAtOnce(t *testing.T) {
	server := pgtest.Start(t)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			s, err := postgres.Open(context.Background(), postgres.Options{DSN: server.DSN(), MaxConns: 2})
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(s.Write(context.Background(), storagetest.Entry(i)), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := open(t, postgres.Options{DSN: server.DSN()})
	if page, err := s.List(t.Context(), storage.Query{}); err != nil || page.Total != 10 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
	// A migration that ran twice would have failed: its tables and columns were there.
	if n := number(t, server.DSN(), `SELECT count(*) - max(version) FROM "auditLog_schema"`); n != 0 {
		t.Errorf("%d migrations more than there are", n)
	}
}

// number asks for a number.
func number(t *testing.T, dsn, sql string) (n int) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	if err := c.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAFrozenServerKeepsNobodyWaiting: whatever is asked is answered within 3 s, with
// the reason.
func TestAFrozenServerKeepsNobodyWaiting(t *testing.T) {
	server := pgtest.Start(t)
	s := open(t, postgres.Options{DSN: server.DSN()})
	e := storagetest.Entry(1)
	if err := s.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for name, call := range map[string]func() error{
		"Write":  func() error { return s.Write(t.Context(), storagetest.Entry(2)) },
		"Unlink": func() error { _, err := s.Unlink(t.Context(), "somebody"); return err },
		"List":   func() error { _, err := s.List(t.Context(), storage.Query{}); return err },
		"Get":    func() error { _, err := s.Get(t.Context(), e.ID); return err },
		"Size":   func() error { _, err := s.Size(t.Context()); return err },
	} {
		wg.Go(func() {
			began := time.Now()
			err := call()
			var f *storage.Fault
			if !errors.As(err, &f) || f.Reason != storage.Slow || time.Since(began) > 3*time.Second {
				t.Errorf("%s says after %v: %v", name, time.Since(began), err)
			}
		})
	}
	wg.Wait()
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), storagetest.Entry(3)); err != nil {
		t.Error(err)
	}
}

// TestARoleWithoutRights: the tables are made by somebody else, with the SQL that the
// command prints, and the store needs no right to make any.
func TestARoleWithoutRights(t *testing.T) {
	server := pgtest.Start(t)
	if err := server.Exec(`CREATE ROLE caddy LOGIN PASSWORD 'p'`); err != nil {
		t.Fatal(err)
	}
	o := postgres.Options{DSN: strings.Replace(server.DSN(), "postgres:"+server.Password+"@", "caddy:p@", 1), Schema: "audit"}
	if s, err := postgres.Open(t.Context(), o); err == nil {
		_ = s.Close()
		t.Fatal("it made the tables without the right to")
	} else if !strings.Contains(err.Error(), "caddy audit-log schema --schema audit --table auditLog --role") {
		t.Errorf("it does not say what to do: %v", err)
	}
	for range 2 { // it can be repeated
		sql, err := postgres.Schema("audit", "auditLog", "caddy", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Exec(sql); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
	}
	s := open(t, o)
	now, old := storagetest.Entry(1), storagetest.Entry(2)
	now.CreatedAt, old.CreatedAt = time.Now().Truncate(time.Millisecond), time.Now().AddDate(-1, 0, 0)
	if err := s.Write(t.Context(), now, old); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Prune(t.Context(), time.Now().AddDate(0, -1, 0), 100); err != nil || n != 1 {
		t.Errorf("%d pruned, %v", n, err)
	}
	if page, err := s.List(t.Context(), storage.Query{}); err != nil || page.Total != 1 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// TestRetentionDropsMonths: what is old as a whole goes with its table.
func TestRetentionDropsMonths(t *testing.T) {
	table := pgtest.Table(t)
	s := open(t, postgres.Options{DSN: pgtest.DSN(t), Table: table})
	now := time.Now().UTC()
	for months := range 5 {
		for i := range 3 {
			e := storagetest.Entry(i)
			e.CreatedAt = time.Date(now.Year(), now.Month()-time.Month(months), 15, 0, i, 0, 0, time.UTC)
			if err := s.Write(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	tables := func() int {
		return number(t, pgtest.DSN(t), fmt.Sprintf(`SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE '%s\_p%%'`, table))
	}
	before, cutoff := tables(), time.Date(now.Year(), now.Month()-2, 15, 0, 1, 0, 0, time.UTC)
	total := 0
	for n, err := s.Prune(t.Context(), cutoff, 1000); n > 0 || err != nil; n, err = s.Prune(t.Context(), cutoff, 1000) {
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if after := tables(); total != 7 || before-after != 2 {
		t.Errorf("%d entries and %d tables are gone, want 7 and 2", total, before-after)
	}
	if strays := number(t, pgtest.DSN(t), fmt.Sprintf(`SELECT count(*) FROM "%s_strays"`, table)); strays == 0 || strays > 8 {
		t.Errorf("%d strays, want those of the months that are left", strays)
	}
}

// TestTheViewShowsTheLog as documents say it does.
func TestTheViewShowsTheLog(t *testing.T) {
	table := pgtest.Table(t)
	s := open(t, postgres.Options{DSN: pgtest.DSN(t), Table: table})
	e := storagetest.Attempt(1, "tag", storage.Failed)
	if err := s.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	sql := fmt.Sprintf(`SELECT count(*) FROM %q WHERE status = 'failed' AND severity = 'medium' AND "userId" IS NULL AND "ipAddress" = '203.0.113.7'
		AND metadata->>'identifier' = 'a***@example.com' AND "createdAt" = '%s'`, table, e.CreatedAt.Format(time.RFC3339Nano))
	if n := number(t, pgtest.DSN(t), sql); n != 1 {
		t.Errorf("it shows %d", n)
	}
}
