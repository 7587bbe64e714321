package postgres

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

// authority is a certificate of a new authority, as PEM.
func authority(t *testing.T) []byte {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestCertificatesAreReadForEachConnection, those of all hosts.
func TestCertificatesAreReadForEachConnection(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(pem []byte) {
		t.Helper()
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(authority(t))
	c, err := Options{DSN: "host=one,two user=caddy dbname=audit", TLS: "verify-full", RootCert: file}.parse()
	if err != nil {
		t.Fatal(err)
	}
	before := c.ConnConfig.TLSConfig.RootCAs
	fresh := func() bool {
		t.Helper()
		conn := c.ConnConfig.Copy()
		if err := c.BeforeConnect(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if len(conn.Fallbacks) != 1 || conn.TLSConfig.ServerName != "one" || conn.Fallbacks[0].TLSConfig.ServerName != "two" {
			t.Fatalf("%+v", conn)
		}
		return !conn.TLSConfig.RootCAs.Equal(before) && !conn.Fallbacks[0].TLSConfig.RootCAs.Equal(before)
	}
	if fresh() {
		t.Error("nothing has changed yet")
	}
	write(authority(t))
	if !fresh() {
		t.Error("it has the old authority")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := c.BeforeConnect(t.Context(), c.ConnConfig.Copy()); err == nil {
		t.Error("a file that is gone is no error")
	}
}

// TestAMonthThatCannotBeCountedIsDroppedAllTheSame.
func TestAMonthThatCannotBeCountedIsDroppedAllTheSame(t *testing.T) {
	table := pgtest.Table(t)
	s, err := Open(t.Context(), Options{DSN: pgtest.DSN(t), Table: table})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	m := monthOf(time.Now().AddDate(0, -3, 0))
	if err := s.makePartition(t.Context(), m, time.Second); err != nil {
		t.Fatal(err)
	}
	from, _ := m.keys()
	err = pgtest.Exec(t, fmt.Sprintf(`INSERT INTO "%[1]s_entries" (key, id, action, status, severity) SELECT %[2]d + n, n::text, 'x', 0, 0 FROM generate_series(1, 400000) AS n; ANALYZE "%[1]s_p%[3]s"`, table, from, m))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if n, err := s.count(t.Context(), s.fill(`SELECT count(*) FROM "{s}"."{t}_entries"`)); err != nil || n != 400000 {
		t.Fatal(n, err)
	}
	defer func(d time.Duration) { countTimeout = d }(countTimeout)
	countTimeout = time.Since(began) / 3
	for range 20 { // dropping may take longer too, now and then
		if n, err := s.dropMonths(t.Context(), time.Now()); n > 0 && err == nil {
			return
		}
	}
	t.Error("it is not dropped")
}

// slowDDL makes all changes of tables slow for those who connect under the name that is returned.
func slowDDL(t *testing.T) string {
	t.Helper()
	name := "slow_" + pgtest.Table(t)
	err := pgtest.Exec(t, fmt.Sprintf(`CREATE FUNCTION %[1]s() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
		IF current_setting('application_name') = '%[1]s' THEN PERFORM pg_sleep(60); END IF;
	END $$;
	CREATE EVENT TRIGGER %[1]s ON ddl_command_start EXECUTE FUNCTION %[1]s()`, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pgtest.Exec(t, fmt.Sprintf(`DROP EVENT TRIGGER %[1]s; DROP FUNCTION %[1]s()`, name)); err != nil {
			t.Error(err)
		}
	})
	return name
}

// with is a DSN with a parameter more.
func with(t *testing.T, dsn, parameter string) string {
	t.Helper()
	if strings.Contains(dsn, "?") {
		return dsn + "&" + parameter
	}
	return dsn + "?" + parameter
}

// TestAPartitionThatTakesTooLongCostsNoEntry: the entry goes to the default partition, and nobody
// tries again for a while.
func TestAPartitionThatTakesTooLongCostsNoEntry(t *testing.T) {
	table, name := pgtest.Table(t), slowDDL(t)
	first, err := Open(t.Context(), Options{DSN: pgtest.DSN(t), Table: table})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{DSN: with(t, pgtest.DSN(t), "application_name="+name), Table: table})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var took time.Duration
	for i := range 20 { // six do, but on a machine that is busy with something else
		var page []storage.Entry // of months that have no partition
		for months := range 5 {
			e := storage.Entry{Action: "x", CreatedAt: time.Date(2020, time.Month(1+months), 1, 0, 0, i, 0, time.UTC)}
			e.Sanitize()
			page = append(page, e)
		}
		began := time.Now()
		if err := s.Write(t.Context(), page...); err != nil {
			t.Fatalf("page %d: %v", i, err)
		}
		if took = time.Since(began); i >= 5 && took <= makeTimeout {
			return
		}
	}
	t.Errorf("the last one took %s", took)
}

// TestAChangeOfTheTablesThatIsBlockedIsNotTriedAgainAtOnce: who tries makes everybody wait.
func TestAChangeOfTheTablesThatIsBlockedIsNotTriedAgainAtOnce(t *testing.T) {
	table := pgtest.Table(t)
	first, err := Open(t.Context(), Options{DSN: pgtest.DSN(t), Table: table})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := pgtest.Exec(t, fmt.Sprintf(`ALTER TABLE "%[1]s_entries" DROP COLUMN session_hash; DELETE FROM "%[1]s_schema" WHERE version = 3`, table)); err != nil {
		t.Fatal(err)
	}
	reader, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close(context.WithoutCancel(t.Context())) }()
	if _, err := reader.Exec(t.Context(), fmt.Sprintf(`BEGIN; SELECT count(*) FROM "%s_entries"`, table)); err != nil {
		t.Fatal(err)
	}
	k, err := Keep(t.Context(), Options{DSN: pgtest.DSN(t), Table: table})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	for range 3 {
		if err := k.Revive(t.Context()); err == nil || !strings.Contains(err.Error(), "| psql -v ON_ERROR_STOP=1 while nobody uses it") {
			t.Fatalf("revived: %v", err)
		}
		if k.opening != nil || time.Until(k.notBefore) > slowPauses[lockNotAvailable] || time.Until(k.notBefore) < time.Second {
			t.Fatalf("it tries again in %s, or now: %v", time.Until(k.notBefore), k.opening)
		}
	}
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	k.notBefore = time.Time{}
	if err := k.Revive(t.Context()); err != nil {
		t.Errorf("when nobody is in the way: %v", err)
	}
}

// TestAPartitionOfAnotherRoleStopsNoOther: it is emptied row by row, and new ones are made.
func TestAPartitionOfAnotherRoleStopsNoOther(t *testing.T) {
	server := pgtest.Start(t)
	if err := server.Exec(`CREATE ROLE caddy LOGIN PASSWORD 'p'; CREATE SCHEMA audit AUTHORIZATION caddy`); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{DSN: strings.Replace(server.DSN(), "postgres:"+server.Password+"@", "caddy:p@", 1), Schema: "audit"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	old := storage.Entry{Action: "x", CreatedAt: time.Now().AddDate(-1, 0, 0)}
	old.Sanitize()
	if err := s.Write(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	m := monthOf(old.CreatedAt)
	if err := server.Exec(fmt.Sprintf(`ALTER TABLE audit."auditLog_p%s" OWNER TO postgres`, m)); err != nil {
		t.Fatal(err)
	}
	later := storage.Entry{Action: "x", CreatedAt: time.Now().AddDate(0, -6, 0)}
	later.Sanitize()
	if err := s.Write(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the partition that may be dropped, then the entry of the other
		if n, err := s.Prune(t.Context(), time.Now().AddDate(0, -1, 0), 100); err != nil || n != 1 {
			t.Errorf("%d pruned, %v", n, err)
		}
	}
	if there, err := s.months(t.Context()); err != nil || there[monthOf(later.CreatedAt)] || !there[m] {
		t.Errorf("partitions %v, %v", there, err)
	}
	s.ensure(t.Context(), []month{m - 1}, time.Second)
	if !s.parts.there[m-1] {
		t.Error("no partition is made any more")
	}
	if err := server.Exec(fmt.Sprintf(`ALTER TABLE audit."auditLog_p%s" OWNER TO caddy`, m)); err != nil {
		t.Fatal(err)
	}
	s.parts.mu.Lock()
	s.parts.foreign[m] = time.Now() // an hour later
	s.parts.mu.Unlock()
	if _, err := s.Prune(t.Context(), time.Now().AddDate(0, -1, 0), 100); err != nil {
		t.Error(err)
	}
	if there, err := s.months(t.Context()); err != nil || there[m] {
		t.Errorf("the partition that may be dropped by now is there: %v, %v", there, err)
	}
}

// own is a store on a server of its own; both end with the test.
func own(t *testing.T) (*pgtest.Server, *Store) {
	t.Helper()
	server := pgtest.Start(t)
	s, err := Open(t.Context(), Options{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return server, s
}

// TestAnotherNodesDeletionsEndNothing: what somebody else deletes meanwhile is not all there is.
func TestAnotherNodesDeletionsEndNothing(t *testing.T) {
	server, s := own(t)
	const n = 2 * unlinkRows
	old := time.Now().AddDate(-30, 0, 0) // in the default partition, which is never dropped
	all := make([]storage.Entry, n)
	for i := range all {
		all[i] = storage.Entry{Action: "x", UserID: "ada", CreatedAt: old.Add(time.Duration(i) * time.Second)}
		all[i].Sanitize()
	}
	if err := s.Write(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	watcher, err := pgx.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watcher.Close(context.Background()) }()
	beside := func(what string, rows int, do func() (int, error)) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(context.Background()) }()
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `DELETE FROM "auditLog_entries" WHERE key IN (SELECT key FROM "auditLog_entries" ORDER BY key LIMIT $1)`, rows); err != nil {
			t.Fatal(err)
		}
		type done struct {
			n   int
			err error
		}
		ended := make(chan done, 1)
		go func() {
			n, err := do()
			ended <- done{n, err}
		}()
		for deadline, waits := time.Now().Add(20*time.Second), false; !waits; time.Sleep(time.Millisecond) {
			if err := watcher.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')`).Scan(&waits); err != nil || time.Now().After(deadline) {
				t.Fatalf("%s does not wait for what is deleted beside it: %v", what, err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := <-ended; got.err != nil || got.n == 0 {
			t.Errorf("%s: %d, %v", what, got.n, got.err)
		}
	}
	beside("Prune", pruneRows, func() (int, error) { return s.Prune(t.Context(), time.Now(), pruneRows) })
	beside("Unlink", 300, func() (int, error) { return s.Unlink(t.Context(), "ada") })
	var left int
	if err := s.read.QueryRow(t.Context(), `SELECT count(*) FROM "auditLog_entries" WHERE user_id IS NOT NULL`).Scan(&left); err != nil || left > 0 {
		t.Errorf("%d entries still name the user, %v", left, err)
	}
}

// TestWhatCannotBeDeletedIsNotTriedForEver: somebody's trigger keeps the rows.
func TestWhatCannotBeDeletedIsNotTriedForEver(t *testing.T) {
	server, s := own(t)
	e := storage.Entry{Action: "x", CreatedAt: time.Now().AddDate(-30, 0, 0)}
	e.Sanitize()
	if err := s.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := server.Exec(`CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER keep BEFORE DELETE ON "auditLog_default" FOR EACH ROW EXECUTE FUNCTION keep()`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if n, err := s.Prune(ctx, time.Now(), 100); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestAFrozenServerDoesNotHoldRetention for as long as the network takes to notice.
func TestAFrozenServerDoesNotHoldRetention(t *testing.T) {
	defer func(d time.Duration) { countTimeout = d }(countTimeout)
	server, s := own(t)
	countTimeout = 2 * time.Second
	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := s.Prune(ctx, time.Now(), 100); err == nil || ctx.Err() != nil {
		t.Errorf("months: %v, %v", err, ctx.Err())
	}
	if _, err := s.deleteOldest(ctx, time.Now(), 100); err == nil || ctx.Err() != nil {
		t.Errorf("rows: %v, %v", err, ctx.Err())
	}
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
}

// TestWhatTheServerSaysIsToldWithItsRemedy.
func TestWhatTheServerSaysIsToldWithItsRemedy(t *testing.T) {
	s := &Store{target: "db:5432", namer: namer{"public", "auditLog"}}
	for c, want := range map[*pgconn.PgError]string{
		{Code: tooManyClients}:                           "max_connections",
		{Code: checkViolation}:                           "default partition",
		{Code: checkViolation, ConstraintName: "theirs"}: "a trigger or a constraint",
	} {
		if _, remedy := s.judge(c); !strings.Contains(remedy, want) {
			t.Errorf("%s %s: %s", c.Code, c.ConstraintName, remedy)
		}
	}
}

// TestAHostThatSwallowsPacketsLeavesTimeForTheNext.
func TestAHostThatSwallowsPacketsLeavesTimeForTheNext(t *testing.T) {
	for dsn, most := range map[string]time.Duration{
		"host=a dbname=d": 0, "host=a,b dbname=d sslmode=prefer": callTimeout / 3, "host=a,b,c dbname=d": callTimeout / 4,
	} {
		c, err := Options{DSN: dsn}.parse()
		if err != nil || dialTimeout(c.ConnConfig) != most || c.ConnConfig.ConnectTimeout != connectTimeout {
			t.Errorf("%s: %s and %s in all, want %s: %v", dsn, dialTimeout(c.ConnConfig), c.ConnConfig.ConnectTimeout, most, err)
		}
	}
}

// TestANotificationHasSpans: what other versions write is understood as far as it can be.
func TestANotificationHasSpans(t *testing.T) {
	one := storage.Span{From: time.UnixMilli(1_700_000_000_123), To: time.UnixMilli(1_700_000_000_456)}
	two := storage.Span{From: time.UnixMilli(1_700_000_090_000), To: time.UnixMilli(1_700_000_091_000)}
	for text, want := range map[string]storage.Spans{
		payload(storage.Spans{one}): {one}, payload(storage.Spans{one, two}): {one, two}, payload(nil): nil, payload(storage.Spans{one}) + " and more": {one},
		"x": nil, "1": nil, "2 1": nil, "1.5 2": nil, "1 99999999999999999999": nil,
	} {
		if got := spansOf(text); !slices.Equal(got, want) {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}
