package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// forPooler is what docs/fleet.md has users add to the DSN.
const forPooler = "default_query_exec_mode=exec"

// TestSuiteThroughAPooler: a pooler that gives each transaction another connection.
func TestSuiteThroughAPooler(t *testing.T) {
	server := pgtest.Start(t)
	address, tables := pgtest.StartPooler(t, server), 0
	storagetest.Run(t, func(t *testing.T) storage.Store {
		tables++
		return open(t, postgres.Options{DSN: server.DSNAt(address, forPooler), Table: fmt.Sprintf("log%d", tables)})
	})
}

// TestAServerBehindAPoolerIsKilled: a pooler says in its own words that there is no server, and
// takes clients' connections all the same. No entry is refused, lost or doubled for it.
func TestAServerBehindAPoolerIsKilled(t *testing.T) {
	server := pgtest.Start(t)
	address := pgtest.StartPooler(t, server, "server_login_retry = 1", "query_wait_timeout = 2")
	s := spilled(t, keep(t, postgres.Options{DSN: server.DSNAt(address, forPooler)}))
	load := begin(t, s)
	for range 5 {
		load.await(load.count() + 200)
		must(t, server.Kill())
		load.await(load.count() + 200)
		must(t, server.Start())
	}
	load.await(load.count() + 200)
	load.end()
	awaitHealthy(t, s)
	if lost := load.lost(server.DSN()); lost > 0 {
		t.Errorf("%d of %d entries are lost", lost, load.count())
	}
}

// TestAPoolerIsNamedWithItsRemedy: without the option statements are not where they were prepared.
func TestAPoolerIsNamedWithItsRemedy(t *testing.T) {
	server := pgtest.Start(t)
	address := pgtest.StartPooler(t, server)
	var err error
	for i := 0; err == nil && i < 20; i++ {
		var s *postgres.Store
		if s, err = postgres.Open(t.Context(), postgres.Options{DSN: server.DSNAt(address)}); err != nil {
			break
		}
		t.Cleanup(func() { _ = s.Close() })
		for j := 0; err == nil && j < 20; j++ {
			if err = s.Write(t.Context(), storagetest.Entry(j)); err == nil {
				_, err = s.List(t.Context(), storage.Query{})
			}
		}
	}
	if err == nil || !strings.Contains(err.Error(), "add "+forPooler+" to the DSN") {
		t.Fatalf("the error is %v", err)
	}
}
