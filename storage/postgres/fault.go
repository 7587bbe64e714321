package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// The SQLSTATEs that this package acts on (postgresql.org/docs, appendix A).
const (
	uniqueViolation   = "23505"
	readOnly          = "25006"
	undefinedTable    = "42P01"
	undefinedColumn   = "42703"
	noPrivilege       = "42501"
	lockNotAvailable  = "55P03"
	duplicateTable    = "42P07"
	diskFull          = "53100"
	queryCanceled     = "57014"
	staleStatement    = "26000" // a pooler gave the connection to somebody else
	preparedTwice     = "42P05" // the same, seen by the other one
	stalePlan         = "0A000" // "cached plan must not change result type"
	noSchema          = "3F000"
	undefinedObject   = "42704"
	duplicateRelation = "42710"
	tooManyClients    = "53300"
	checkViolation    = "23514"
)

// code returns the SQLSTATE of an error, "" for errors that the server did not send.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// constraint is the constraint that an error of the server names, "" for none.
func constraint(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.ConstraintName
	}
	return ""
}

// passing says whether the same call may work in a moment: the connection is gone,
// the server is starting, stopping, overloaded, only reading, or had a deadlock, or
// somebody else has just written the same id.
func passing(err error) bool {
	c := code(err)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false // an answer, without rows
	case c == "":
		return true // no answer
	case c == queryCanceled, c == lockNotAvailable, c == readOnly, c == staleStatement, c == stalePlan, c == uniqueViolation:
		return true
	case c == diskFull:
		return false // it stays so
	}
	switch c[:2] {
	case "08", "40", "53", "57", "58":
		return true
	}
	return false
}

// gone says whether there is no server to talk to: the connection broke or was refused,
// or the server is starting or stopping.
func gone(err error) bool {
	c := code(err)
	return err != nil && (c == "" || c != queryCanceled && (c[:2] == "08" || c[:2] == "57"))
}

// refused says whether the server works and will never take this value. Our tables have
// no constraint that an entry could violate: one that somebody has added, or a trigger,
// is a fault of the database, not of the entry, which must not be lost to it.
func refused(err error) bool {
	c := code(err)
	return c == "54000" || c == "54001" || c != "" && c[:2] == "22"
}

// explain makes a storage.Fault of what went wrong in the database. What callers
// decide on (storage.ErrNotFound, the end of their own context) stays as it is.
func (s *Store) explain(ctx context.Context, err error) error {
	var f *storage.Fault
	switch {
	case err == nil, errors.Is(err, storage.ErrClosed), errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrBadCursor), errors.As(err, &f):
		return err
	case errors.As(err, new(*unfit)):
		return &storage.Fault{Reason: storage.Unspecified, Err: err}
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("waiting for PostgreSQL: %w", context.Canceled)
	case refused(err):
		return fmt.Errorf("%w: %w", storage.ErrRejected, err)
	}
	reason, remedy := s.judge(err)
	return &storage.Fault{Reason: reason, Remedy: remedy, Err: err}
}

// judge names the reason of a failure, and what to do.
func (s *Store) judge(err error) (storage.Reason, string) {
	switch c := code(err); {
	case c == diskFull:
		return storage.DiskFull, "free space on the database server " + s.target
	case c == noPrivilege:
		return storage.Forbidden, fmt.Sprintf("let the role of the DSN SELECT, INSERT, UPDATE and DELETE in the tables %s_* of schema %s", s.table, s.schema)
	case c == undefinedTable, c == undefinedColumn, c == noSchema:
		return storage.Deleted, "somebody has changed the audit log's tables: restart Caddy, or apply " + SchemaCommand
	case c == checkViolation && constraint(err) == "": // no partition of the relation takes the row
		return storage.Deleted, "the default partition is gone: restart Caddy, or apply " + SchemaCommand
	case c != "" && (c[:2] == "23" || c[:2] == "P0"):
		return storage.Forbidden, "somebody has added a trigger or a constraint to the tables " + s.table + "_*, which refuses entries: take it away"
	case c == tooManyClients:
		return storage.Unspecified, "raise max_connections of " + s.target + ", or lower max_conns of the Caddys: it has no connection left"
	case c == lockNotAvailable:
		return storage.Locked, "look in pg_stat_activity for a session that holds a lock on " + s.table + "_entries"
	case c == readOnly:
		return storage.Forbidden, s.target + " only reads, as a standby does: name the primary, or both, in the DSN"
	case c == preparedTwice, c == staleStatement:
		return storage.Unspecified, s.target + " is a pooler that gives every transaction another connection, as PgBouncer does in transaction mode: add default_query_exec_mode=exec to the DSN"
	case c != "" && (c[:2] == "XX"):
		return storage.Corrupt, "look into the log of the database server " + s.target
	case c != "" && c[:2] == "28":
		return storage.Forbidden, "check user and password of the DSN, and pg_hba.conf of " + s.target
	case errors.Is(err, context.DeadlineExceeded), c == queryCanceled, pgconn.Timeout(err):
		return storage.Slow, "look what keeps " + s.target + " busy, and whether it can be reached"
	}
	return storage.Unspecified, "check that PostgreSQL runs at " + s.target + " and lets this machine in"
}

// SchemaCommand prints the SQL that makes the tables.
const SchemaCommand = "caddy audit-log schema"
