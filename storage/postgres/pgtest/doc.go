// Package pgtest gives tests a PostgreSQL server of their own: in a temporary
// folder, on a loopback port and a unix socket, with a password that nobody else
// knows, gone when the test process ends, however that ends. It never uses a server
// that happens to run.
//
// The programs are found on the machine (make tools-postgres installs Debian's), and
// a test that finds none is skipped and says so. AUDIT_TEST_POSTGRES names another
// server by its DSN, for tests that need no more than a database.
package pgtest
