package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestSuiteInOtherVersions: the oldest PostgreSQL that is taken and the newest, beside the machine's
// own; make test-postgres has those between them. What is in e2e/servers/postgres is for one architecture.
func TestSuiteInOtherVersions(t *testing.T) {
	for _, version := range []int{14, 18} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			t.Parallel()
			bin := filepath.Join("..", "..", "e2e", "servers", "postgres", "node_modules", fmt.Sprintf("postgres-%d-x64", version), "native", "bin")
			if _, err := os.Stat(bin); err != nil {
				t.Skipf("%s %d: run make servers", pgtest.Missing, version)
			}
			server := pgtest.StartOf(t, bin)
			if got := number(t, server.DSN(), "SELECT current_setting('server_version_num')::int / 10000"); got != version {
				t.Fatalf("this is PostgreSQL %d", got)
			}
			tables := 0
			storagetest.Run(t, func(t *testing.T) storage.Store {
				tables++
				return open(t, postgres.Options{DSN: server.DSN(), Table: fmt.Sprintf("log%d", tables)})
			})
		})
	}
}
