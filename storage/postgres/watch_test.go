package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestOneNodeHearsWhatAnotherWrites, also after its connection was lost.
func TestOneNodeHearsWhatAnotherWrites(t *testing.T) {
	dsn, table := pgtest.DSN(t), pgtest.Table(t)
	reader, writer := open(t, postgres.Options{DSN: dsn, Table: table}), open(t, postgres.Options{DSN: dsn, Table: table})
	woken, ctx := make(chan storage.Spans, 100), t.Context()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reader.Watch(ctx, func(late storage.Spans) { woken <- late })
	}()
	heard := func(what string) (late storage.Spans) {
		t.Helper()
		select {
		case late = <-woken:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing was heard", what)
		}
		return late
	}
	heard("the beginning")
	for i := range 3 {
		if err := writer.Write(ctx, storagetest.Entry(i)); err != nil {
			t.Fatal(err)
		}
		heard("a write")
	}
	if n := number(t, dsn, `SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN "caddy_audit_log%') AS gone`); n == 0 {
		t.Fatal("nobody listens")
	}
	heard("a new connection")
	if err := writer.Write(ctx, storagetest.Entry(4)); err != nil {
		t.Fatal(err)
	}
	heard("a write after that")
	late := []storage.Entry{storagetest.Entry(5), storagetest.Entry(6), storagetest.Entry(7)}
	for i, ago := range []time.Duration{3 * time.Hour, time.Hour, 0} {
		late[i].CreatedAt = time.Now().Add(-ago).UTC().Truncate(time.Millisecond)
	}
	if err := writer.Write(ctx, late...); err != nil {
		t.Fatal(err)
	}
	if spans := heard("late entries"); len(spans) != 2 || !spans[0].From.Equal(late[0].CreatedAt) || !spans[1].To.Equal(late[1].CreatedAt) {
		t.Errorf("late are %v, want %v and %v", spans, late[0].CreatedAt, late[1].CreatedAt)
	}
	cancel()
	<-ended
}
