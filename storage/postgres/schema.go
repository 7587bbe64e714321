package postgres

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// migrations are numbered without gaps, from 1. One that has been released never
// changes.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrationTimeout bounds how long a start waits for another process that makes the
// tables.
const migrationTimeout = 30 * time.Second

// steps returns the migrations in order.
func steps() ([]string, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, name := range names {
		b, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(b))
	}
	return texts, nil
}

// namer fills the names into SQL texts: {s} schema, {t} table. They were checked by
// ValidSchema and ValidTable, so quotes around them are enough.
type namer struct{ schema, table string }

func (n namer) fill(sql string) string {
	return strings.NewReplacer("{s}", n.schema, "{t}", n.table).Replace(sql)
}

// lock is the key of the advisory lock that whoever changes the tables holds.
func (n namer) lock() int64 {
	sum := sha256.Sum256([]byte("caddy-audit-log|" + n.schema + "|" + n.table))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// Schema returns the SQL that makes the tables, or brings those of an earlier version
// up to date, and makes the partitions of the month of now and the next ones. It can
// be run again at any time, and by several at once. A role that is given gets the
// rights that a Store needs; "" for none.
func Schema(schema, table, role string, now time.Time) (string, error) {
	if err := errors.Join(ValidSchema(schema), ValidTable(table)); err != nil {
		return "", err
	}
	n := namer{schema, table}
	body, err := n.script(now)
	if err != nil {
		return "", err
	}
	if role != "" {
		body += n.grants(role)
	}
	return "-- The tables of the audit log. Apply with psql -v ON_ERROR_STOP=1.\nBEGIN;\n" + body + "COMMIT;\n", nil
}

// script is what Schema and migrate run in a transaction.
func (n namer) script(now time.Time) (string, error) {
	texts, err := steps()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	// Whoever has to wait for the tables makes all others wait behind him: rather try again later.
	fmt.Fprintf(&b, "SELECT pg_advisory_xact_lock(%d);\nSET LOCAL lock_timeout = %d;\n", n.lock(), ddlTimeout.Milliseconds())
	// CREATE ... IF NOT EXISTS asks for the right to create even if it does not.
	b.WriteString(n.fill(`DO $audit$ BEGIN
	IF to_regnamespace('"{s}"') IS NULL THEN
		CREATE SCHEMA "{s}";
	END IF;
	IF to_regclass('"{s}"."{t}_schema"') IS NULL THEN
		CREATE TABLE "{s}"."{t}_schema" (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());
		-- Somebody may have dropped it alone: the columns say what was done.
		IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('"{s}"."{t}_entries"') AND NOT attisdropped
			AND attname IN ('key', 'user_hash', 'identifier_hash', 'error_code')) = 4 THEN
			INSERT INTO "{s}"."{t}_schema" (version) SELECT 1 UNION SELECT CASE attname WHEN 'class' THEN 2 ELSE 3 END FROM pg_attribute
				WHERE attrelid = to_regclass('"{s}"."{t}_entries"') AND NOT attisdropped AND attname IN ('class', 'session_hash');
		END IF;
	END IF;
END $audit$;
`))
	for i, text := range texts {
		fmt.Fprintf(&b, n.fill(`DO $audit$ BEGIN
IF NOT EXISTS (SELECT FROM "{s}"."{t}_schema" WHERE version = %[1]d) THEN

%[2]s
INSERT INTO "{s}"."{t}_schema" (version) VALUES (%[1]d);
END IF;
END $audit$;
`), i+1, n.fill(text))
	}
	b.WriteString(n.fill(repair(texts[0])))
	for m := monthOf(now); m <= monthOf(now)+monthsAhead; m++ {
		b.WriteString(n.partition(m))
	}
	return b.String(), nil
}

// repair makes again what the first migration has made beside the entries, and somebody has dropped.
func repair(first string) string {
	_, view, _ := strings.Cut(first, "CREATE VIEW")
	return `DO $audit$ BEGIN
IF to_regclass('"{s}"."{t}_strays"') IS NULL THEN
	CREATE TABLE "{s}"."{t}_strays" (id text COLLATE "C" PRIMARY KEY, key bigint NOT NULL);
	CREATE INDEX ON "{s}"."{t}_strays" (key);
END IF;
IF to_regclass('"{s}"."{t}_moves"') IS NULL THEN
	CREATE TABLE "{s}"."{t}_moves" (source text PRIMARY KEY, key bigint NOT NULL);
END IF;
IF to_regclass('"{s}"."{t}_default"') IS NULL THEN
	CREATE TABLE "{s}"."{t}_default" PARTITION OF "{s}"."{t}_entries" DEFAULT;
	CREATE UNIQUE INDEX ON "{s}"."{t}_default" (id);
END IF;
IF to_regclass('"{s}"."{t}"') IS NULL THEN
	CREATE VIEW` + view + `
END IF;
END $audit$;
`
}

// grants gives a role what a Store needs.
func (n namer) grants(role string) string {
	return strings.ReplaceAll(n.fill(`GRANT USAGE ON SCHEMA "{s}" TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON "{s}"."{t}_entries", "{s}"."{t}_strays", "{s}"."{t}_moves" TO {role};
GRANT SELECT ON "{s}"."{t}_schema", "{s}"."{t}" TO {role};
`), "{role}", pgx.Identifier{role}.Sanitize())
}

// migrate makes the tables unless they are there. Of several processes that start at
// once one does it, under an advisory lock, and the others find it done.
func (s *Store) migrate(ctx context.Context) error {
	texts, err := steps()
	if err != nil {
		return err
	}
	have, err := s.version(ctx)
	if err != nil {
		return fmt.Errorf("reading the version of the tables: %w", err)
	}
	switch {
	case have > len(texts):
		return unfitf("table %s in schema %s was made by a newer version of caddy-audit-log (schema %d, this one knows %d): upgrade, or use another table",
			s.table, s.schema, have, len(texts))
	case have > 0:
		if err := s.mend(ctx); err != nil {
			return err
		}
		if have == len(texts) {
			return s.checkColumns(ctx)
		}
	}
	script, err := s.script(time.Now())
	if err != nil {
		return err
	}
	err = s.inTime(ctx, s.change(ctx, script, migrationTimeout))
	var slow *tooSlow
	switch c := code(err); {
	case err == nil:
		if err := s.mend(ctx); err != nil { // of tables without a version that were there
			return err
		}
		return s.checkColumns(ctx)
	case errors.As(err, &slow):
		return err
	case c == noPrivilege && have > 0:
		return unfitf("%w: the tables are of an earlier version (schema %d, this one needs %d), and the role of the DSN may not change them; somebody who may has to run: %s --schema %s --table %s --role <role> | psql -v ON_ERROR_STOP=1",
			err, have, len(texts), SchemaCommand, s.schema, s.table)
	case c == noPrivilege:
		return unfitf("%w: the tables are not there, and the role of the DSN may not make them; somebody who may has to run: %s --schema %s --table %s --role <role> | psql -v ON_ERROR_STOP=1",
			err, SchemaCommand, s.schema, s.table)
	case c == duplicateTable, c == duplicateRelation, c == undefinedObject:
		return unfitf("%w: something of another program has that name; give the audit log another table or schema", err)
	}
	return fmt.Errorf("making the tables: %w", err)
}

// tooSlow says that tables could not be changed in time. While somebody tries nobody else can use
// them, so it is not tried again before the pause is over.
type tooSlow struct {
	error
	pause time.Duration
}

// Unwrap gives it back.
func (e *tooSlow) Unwrap() error { return e.error }

// slowPauses are the pauses by what the server said: a change that takes too long will take too
// long again, a lock may be free soon. saidNothing is that for a server that did not say.
var slowPauses = map[string]time.Duration{queryCanceled: 10 * time.Minute, lockNotAvailable: 10 * time.Second}

const saidNothing = time.Minute

// inTime is err, as tooSlow if the tables could not be changed in time.
func (s *Store) inTime(ctx context.Context, err error) error {
	pause, slow := slowPauses[code(err)]
	if !slow && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		pause, slow = saidNothing, true
	}
	if !slow {
		return err
	}
	return &tooSlow{fmt.Errorf("making the tables, which a log with many entries or a busy one does not let happen in time: run %s --schema %s --table %s | psql -v ON_ERROR_STOP=1 while nobody uses it: %w",
		SchemaCommand, s.schema, s.table, err), pause}
}

// mend makes tables again that somebody has dropped since they were made. Without those that
// entries need the log is unfit; without the others it goes on.
func (s *Store) mend(ctx context.Context) error {
	var entries, helpers, others bool
	err := s.read.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL, to_regclass($2) IS NOT NULL AND to_regclass($3) IS NOT NULL, to_regclass($4) IS NOT NULL AND to_regclass($5) IS NOT NULL AND to_regclass($6) IS NOT NULL",
		s.fill(`"{s}"."{t}_entries"`), s.fill(`"{s}"."{t}_strays"`), s.fill(`"{s}"."{t}_moves"`), s.fill(`"{s}"."{t}_default"`), s.fill(`"{s}"."{t}_schema"`), s.fill(`"{s}"."{t}"`)).Scan(&entries, &helpers, &others)
	if err != nil || entries && helpers && others {
		return err
	}
	s.log.Error("somebody has dropped tables of the audit log", "server", s.target, "schema", s.schema, "table", s.table, "entries", !entries)
	all, err := s.script(time.Now())
	if err != nil {
		return err
	}
	// Another process may have been faster: all is looked at once more, under the lock.
	err = s.inTime(ctx, s.change(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d);\nSET LOCAL lock_timeout = %d;\n", s.lock(), ddlTimeout.Milliseconds())+s.fill(`DO $audit$ BEGIN
IF to_regclass('"{s}"."{t}_entries"') IS NULL THEN
	DROP VIEW IF EXISTS "{s}"."{t}";
	DROP TABLE IF EXISTS "{s}"."{t}_strays", "{s}"."{t}_moves";
	IF to_regclass('"{s}"."{t}_schema"') IS NOT NULL THEN
		DELETE FROM "{s}"."{t}_schema";
	END IF;
END IF;
END $audit$;
`)+all, migrationTimeout))
	switch denied := code(err) == noPrivilege; {
	case denied && entries && helpers:
		s.log.Warn("the default partition, the view or the version of the audit log's tables was dropped, and the role of the DSN may not make it again", "schema", s.schema, "table", s.table,
			"command", fmt.Sprintf("%s --schema %s --table %s --role <role> | psql -v ON_ERROR_STOP=1", SchemaCommand, s.schema, s.table), "error", err)
		return nil
	case denied && entries:
		return unfitf("%w: tables of the audit log were dropped, and the role of the DSN may not make them again; somebody who may has to run: %s --schema %s --table %s --role <role> | psql -v ON_ERROR_STOP=1",
			err, SchemaCommand, s.schema, s.table)
	case denied:
		return unfitf("%w: tables of the audit log were dropped, and the role of the DSN may not make them again; somebody who may has to drop what is left of %s_* in schema %s and run: %s --schema %s --table %s --role <role> | psql -v ON_ERROR_STOP=1",
			err, s.table, s.schema, SchemaCommand, s.schema, s.table)
	}
	if err == nil {
		s.log.Warn("the audit log's tables that were dropped are made again", "server", s.target, "schema", s.schema, "table", s.table)
	}
	return err
}

// change runs a script in a transaction in which each statement may take so long. The server ends
// it before we do: then its error says so.
func (s *Store) change(ctx context.Context, script string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit+limit/4)
	defer cancel()
	return pgx.BeginFunc(ctx, s.read, func(tx pgx.Tx) error {
		// The clients' own settings may be shorter than what another process needs. Who has only waited
		// for it is told so: lock_timeout comes first.
		_, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d; ", limit.Milliseconds(), limit.Milliseconds()*9/10)+script)
		return err
	})
}

// version returns that of the tables, 0 if there are none.
func (s *Store) version(ctx context.Context) (int, error) {
	var there bool
	if err := s.read.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", s.fill(`"{s}"."{t}_schema"`)).Scan(&there); err != nil || !there {
		return 0, err
	}
	var version int
	err := s.read.QueryRow(ctx, s.fill(`SELECT coalesce(max(version), 0) FROM "{s}"."{t}_schema"`)).Scan(&version)
	return version, err
}

// checkColumns refuses tables that somebody has changed since they were made
// (threats.md E7.7).
func (s *Store) checkColumns(ctx context.Context) error {
	rows, err := s.read.Query(ctx, s.fill(`SELECT key, `+rowColumns+` FROM "{s}"."{t}_entries" WHERE false`))
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	switch code(err) {
	case undefinedTable, undefinedColumn:
		return unfitf("%w: the tables are not as caddy-audit-log made them; put back what was changed, or give another table", err)
	case noPrivilege:
		return unfitf("%w: give the role of the DSN its rights with: %s --schema %s --table %s --role <role> | psql -v ON_ERROR_STOP=1", err, SchemaCommand, s.schema, s.table)
	}
	return err
}
