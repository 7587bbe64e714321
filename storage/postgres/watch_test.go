package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestOneNodeHearsWhatAnotherWrites, also after its connection was lost.
func TestOneNodeHearsWhatAnotherWrites(t *testing.T) {
	dsn, table := pgtest.DSN(t), pgtest.Table(t)
	reader, writer := open(t, postgres.Options{DSN: dsn, Table: table}), open(t, postgres.Options{DSN: dsn, Table: table})
	woken, ctx := make(chan struct{}, 100), t.Context()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reader.Watch(ctx, func() { woken <- struct{}{} })
	}()
	heard := func(what string) {
		t.Helper()
		select {
		case <-woken:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing was heard", what)
		}
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
	cancel()
	<-ended
}
