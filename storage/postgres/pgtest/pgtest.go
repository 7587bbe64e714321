package pgtest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// Start returns a server that ends with the test.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := New(settings...)
	if errors.Is(err, errMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	endWith(t, s)
	return s
}

// StartOf is Start with the programs in a folder.
func StartOf(t testing.TB, bin string, settings ...string) *Server {
	t.Helper()
	s, err := NewOf(bin, settings...)
	if err != nil {
		t.Fatal(err)
	}
	endWith(t, s)
	return s
}

// StartStandby returns a standby of a server; it ends with the test.
func StartStandby(t testing.TB, of *Server, settings ...string) *Server {
	t.Helper()
	s, err := of.Standby(settings...)
	if err != nil {
		t.Fatal(err)
	}
	endWith(t, s)
	return s
}

func endWith(t testing.TB, s *Server) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.Log())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// shared is the server that the tests of one process share.
var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Shared returns a server that all tests of the process share, started on first
// use. It is for tests that leave it as it is; each uses tables of its own. The
// process's TestMain must call Main.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = New() })
	if errors.Is(shared.err, errMissing) {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// DSN names a database for a test that needs no more than that: the one that
// AUDIT_TEST_POSTGRES names, or that of Shared.
func DSN(t testing.TB) string {
	t.Helper()
	if dsn := os.Getenv("AUDIT_TEST_POSTGRES"); dsn != "" {
		return dsn
	}
	return Shared(t).DSN()
}

// Exec runs statements in the database that DSN names.
func Exec(t testing.TB, sql string) error {
	t.Helper()
	return execute(DSN(t), sql)
}

// Main runs the tests and ends the shared server: os.Exit(pgtest.Main(m)).
func Main(m *testing.M) int {
	status := m.Run()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "ending the shared PostgreSQL:", err)
			return max(status, 1)
		}
	}
	return status
}

// Table returns a table name that no other test has, so that tests can share a
// database. What is in it is dropped at the end, by the prefix of its tables.
func Table(t testing.TB) string {
	t.Helper()
	name := "t" + strings.ToLower(rand.Text()[:12])
	dsn := DSN(t)
	t.Cleanup(func() {
		err := execute(dsn, fmt.Sprintf(`DROP VIEW IF EXISTS %[1]q; DROP TABLE IF EXISTS "%[1]s_entries", "%[1]s_moves", "%[1]s_strays", "%[1]s_schema"`, name))
		if err != nil {
			t.Errorf("dropping the tables of %s: %v", name, err)
		}
	})
	return name
}
