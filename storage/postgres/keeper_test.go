package postgres_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// hang bounds what must not hang.
const hang = 60 * time.Second

func keep(t *testing.T, o postgres.Options) *postgres.Keeper {
	t.Helper()
	k, err := postgres.Keep(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// revive waits until the keeper works.
func revive(t *testing.T, k *postgres.Keeper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	for err := k.Revive(ctx); err != nil; err = k.Revive(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("it does not come back: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAKeeperOpensWhenItsServerComes(t *testing.T) {
	server := pgtest.Start(t)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	k := keep(t, postgres.Options{DSN: server.DSN()})
	var f *storage.Fault
	err := k.Write(t.Context(), storagetest.Entry(1))
	if !errors.As(err, &f) || f.Remedy == "" || strings.Contains(err.Error(), server.Password) {
		t.Errorf("without a server: %v", err)
	}
	if err := k.Check(t.Context()); err == nil {
		t.Error("it says that it works")
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	revive(t, k)
	if err := errors.Join(k.Check(t.Context()), k.Write(t.Context(), storagetest.Entry(1))); err != nil {
		t.Fatal(err)
	}
	if page, err := k.List(t.Context(), storage.Query{}); err != nil || page.Total != 1 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

func TestAKeeperRefusesWhatStaysWrong(t *testing.T) {
	server := pgtest.Start(t)
	if err := errors.Join(server.Exec(`CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0`), server.Exec(`CREATE TABLE "taken_schema" (version text)`)); err != nil {
		t.Fatal(err)
	}
	const secret = "not-the-password"
	for name, c := range map[string]struct {
		o    postgres.Options
		says string
	}{
		"a wrong password":          {postgres.Options{DSN: server.DSN(), Password: secret}, "check user and password"},
		"a database that is not":    {postgres.Options{DSN: strings.Replace(server.DSN(), "/postgres?", "/nowhere?", 1)}, "nowhere"},
		"an encoding without forms": {postgres.Options{DSN: strings.Replace(server.DSN(), "/postgres?", "/latin?", 1)}, "LATIN1"},
		"somebody else's table":     {postgres.Options{DSN: server.DSN(), Table: "taken"}, "audit log in PostgreSQL"},
		"a DSN that is none":        {postgres.Options{DSN: "postgres://u:" + secret + "@[::1/x"}, "the DSN cannot be read"},
		"a certificate that is not": {postgres.Options{DSN: server.DSN(), TLS: "verify-full", RootCert: "/nowhere/ca.pem"}, "the DSN name a file that cannot be read"},
		"too few connections":       {postgres.Options{DSN: server.DSN(), MaxConns: 2, MinConns: 3}, "min_conns 3"},
		"a protocol of texts":       {postgres.Options{DSN: server.DSN("default_query_exec_mode=simple_protocol")}, "simple_protocol"},
	} {
		k, err := postgres.Keep(t.Context(), c.o)
		if err == nil {
			_ = k.Close()
			t.Errorf("%s is accepted", name)
			continue
		}
		if text := err.Error(); !strings.Contains(text, c.says) || strings.Contains(text, secret) || strings.Contains(text, server.Password) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAKeeperMakesTablesAgainThatWereDropped: all, or some of them; a start does it too. What
// is still there stays.
func TestAKeeperMakesTablesAgainThatWereDropped(t *testing.T) {
	for name, c := range map[string]struct {
		drop string
		left int
	}{
		"all":                     {`DROP VIEW %[1]q; DROP TABLE "%[1]s_entries", "%[1]s_moves", "%[1]s_strays", "%[1]s_schema"`, 0},
		"entries":                 {`DROP TABLE "%[1]s_entries" CASCADE`, 0},
		"strays":                  {`DROP TABLE "%[1]s_strays"`, 1},
		"moves":                   {`DROP TABLE "%[1]s_moves"`, 1},
		"the helpers":             {`DROP TABLE "%[1]s_moves", "%[1]s_strays"`, 1},
		"the version":             {`DROP TABLE "%[1]s_schema"`, 1},
		"the version and helpers": {`DROP TABLE "%[1]s_schema", "%[1]s_moves", "%[1]s_strays"`, 1},
		"the view":                {`DROP VIEW %[1]q`, 1},
		"the default":             {`DROP TABLE "%[1]s_default"`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			table := pgtest.Table(t)
			o := postgres.Options{DSN: pgtest.DSN(t), Table: table}
			k := keep(t, o)
			old := storagetest.Entry(1)
			if err := k.Write(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			for i, way := range []func(){func() { revive(t, k) }, func() { _ = open(t, o).Close() }} {
				if err := pgtest.Exec(t, fmt.Sprintf(c.drop, table)); err != nil {
					t.Fatal(err)
				}
				way()
				if err := k.Write(t.Context(), storagetest.Entry(2+i)); err != nil {
					t.Error(err)
				}
				stray := storagetest.Entry(4 + i)
				stray.CreatedAt = stray.CreatedAt.AddDate(0, -3, 0)
				if err := k.Write(t.Context(), stray); err != nil {
					t.Error(err)
				}
			}
			ancient := storagetest.Entry(6)
			ancient.CreatedAt = ancient.CreatedAt.AddDate(-40, 0, 0) // no month of its own
			if err := k.Write(t.Context(), ancient); err != nil {
				t.Error(err)
			}
			page, err := k.List(t.Context(), storage.Query{})
			if want := 3 + c.left*3; err != nil || page.Total != want {
				t.Errorf("%d entries, want %d; %v", page.Total, want, err)
			}
			if err := pgtest.Exec(t, fmt.Sprintf(`SELECT count(*) FROM %q`, table)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestARoleWithoutRightsGoesOnWithoutTheDefault: it cannot make it again, and most entries need none. The command can.
func TestARoleWithoutRightsGoesOnWithoutTheDefault(t *testing.T) {
	server := pgtest.Start(t)
	schema, err := postgres.Schema("public", "auditLog", "caddy", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(server.Exec(`CREATE ROLE caddy LOGIN PASSWORD 'p'`), server.Exec(schema)); err != nil {
		t.Fatal(err)
	}
	o := postgres.Options{DSN: strings.Replace(server.DSN(), "postgres:"+server.Password+"@", "caddy:p@", 1)}
	k := keep(t, o)
	ancient := storagetest.Entry(1)
	ancient.CreatedAt = ancient.CreatedAt.AddDate(-40, 0, 0)
	now := storage.Entry{Action: "x"}
	for _, drop := range []string{`DROP TABLE "auditLog_default"`, `DROP VIEW "auditLog"`} {
		if err := server.Exec(drop); err != nil {
			t.Fatal(err)
		}
		revive(t, k)
		_ = open(t, o).Close()
		now.ID, now.CreatedAt = "", time.Time{}
		now.Sanitize()
		if err := k.Write(t.Context(), now); err != nil {
			t.Errorf("after %s: %v", drop, err)
		}
	}
	var f *storage.Fault
	if err := k.Write(t.Context(), ancient); !errors.As(err, &f) || !strings.Contains(f.Remedy, "caddy audit-log schema") {
		t.Errorf("what the default would take: %v", err)
	}
	if err := server.Exec(schema); err != nil {
		t.Fatal(err)
	}
	if err := k.Write(t.Context(), ancient); err != nil {
		t.Errorf("after the command: %v", err)
	}
	if err := server.Exec(`SELECT count(*) FROM "auditLog"`); err != nil {
		t.Error(err)
	}
}

// TestADefaultPartitionThatIsGoneIsMadeAgain without a restart, and what it would have taken is not lost.
func TestADefaultPartitionThatIsGoneIsMadeAgain(t *testing.T) {
	server := pgtest.Start(t)
	k := keep(t, postgres.Options{DSN: server.DSN()})
	s := spilled(t, k)
	if err := server.Exec(`DROP TABLE "auditLog_default"`); err != nil {
		t.Fatal(err)
	}
	ancient := storagetest.Entry(1)
	ancient.CreatedAt = ancient.CreatedAt.AddDate(-40, 0, 0)
	if err := s.Write(t.Context(), ancient); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := k.Get(t.Context(), ancient.ID); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("it does not get there: %v, %+v", err, healthOf(s))
		}
	}
}

// TestWhatAnIndexRefusesCostsNoEntry: such an index is what the documentation's queries call
// for, and clients have a hand in what it refuses.
func TestWhatAnIndexRefusesCostsNoEntry(t *testing.T) {
	server := pgtest.Start(t)
	k := keep(t, postgres.Options{DSN: server.DSN()})
	s := spilled(t, k)
	if err := server.Exec(`CREATE INDEX ON "auditLog_entries" ((metadata::jsonb->>'tenant'))`); err != nil {
		t.Fatal(err)
	}
	bad := storagetest.Entry(1)
	bad.Metadata = json.RawMessage(`{"n":1e200000}`)
	for _, e := range []storage.Entry{storagetest.Entry(0), bad, storagetest.Entry(2)} {
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if h := healthOf(s); h.State != storage.Healthy || h.Refused != 1 {
		t.Errorf("%+v", h)
	}
	got, err := k.Get(t.Context(), bad.ID)
	if page, listErr := k.List(t.Context(), storage.Query{}); err != nil || listErr != nil || page.Total != 3 || string(got.Metadata) != `{"metadataDropped":{"bytes":14}}` {
		t.Errorf("%d entries, %s, %v, %v", page.Total, got.Metadata, err, listErr)
	}
}

// TestAStrayWhoseEntryIsGoneKeepsNobody from writing its id again.
func TestAStrayWhoseEntryIsGoneKeepsNobody(t *testing.T) {
	table := pgtest.Table(t)
	k := keep(t, postgres.Options{DSN: pgtest.DSN(t), Table: table})
	e := storagetest.Entry(1)
	e.ID, e.CreatedAt = storage.NewIDAt(e.CreatedAt), e.CreatedAt.AddDate(0, -3, 0)
	if err := k.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := pgtest.Exec(t, fmt.Sprintf(`TRUNCATE "%s_entries"`, table)); err != nil {
		t.Fatal(err)
	}
	e.CreatedAt = e.CreatedAt.Add(time.Hour)
	if err := k.Write(t.Context(), e, storagetest.Entry(2)); err != nil {
		t.Fatal(err)
	}
	if page, err := k.List(t.Context(), storage.Query{}); err != nil || page.Total != 2 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// TestAPasswordInAFileIsReadForEachConnection: it was exchanged, with all connections gone.
func TestAPasswordInAFileIsReadForEachConnection(t *testing.T) {
	server := pgtest.Start(t)
	file := filepath.Join(t.TempDir(), "passwords")
	password := func(p string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("*:*:*:caddy:"+p+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	password("one")
	if err := server.Exec(`CREATE ROLE caddy LOGIN SUPERUSER PASSWORD 'one'`); err != nil {
		t.Fatal(err)
	}
	k := keep(t, postgres.Options{DSN: fmt.Sprintf("host=127.0.0.1 port=%d user=caddy dbname=postgres sslmode=disable passfile=%s", server.Port, file)})
	if err := k.Write(t.Context(), storagetest.Entry(1)); err != nil {
		t.Fatal(err)
	}
	if err := server.Exec(`ALTER ROLE caddy PASSWORD 'two'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'caddy'`); err != nil {
		t.Fatal(err)
	}
	password("two")
	for end := time.Now().Add(hang); ; time.Sleep(10 * time.Millisecond) {
		err := k.Write(t.Context(), storagetest.Entry(2))
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestAKeeperGoesOverToAnotherPassword(t *testing.T) {
	server := pgtest.Start(t)
	k := keep(t, postgres.Options{DSN: server.DSN()})
	if err := k.Write(t.Context(), storagetest.Entry(1)); err != nil {
		t.Fatal(err)
	}
	const changed = `it's new\`
	if err := k.Use(t.Context(), postgres.Options{DSN: server.DSN(), Password: changed}); err == nil || strings.Contains(err.Error(), changed) {
		t.Errorf("a password that is wrong: %v", err)
	}
	if err := k.Write(t.Context(), storagetest.Entry(2)); err != nil {
		t.Errorf("with the one that is right still: %v", err)
	}
	if err := server.Exec(`ALTER ROLE postgres PASSWORD 'it''s new\'`); err != nil {
		t.Fatal(err)
	}
	words := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres password=old", server.Port)
	for _, o := range []postgres.Options{{DSN: server.DSN("application_name=a+b"), Password: changed}, {DSN: words, Password: changed, TLS: "disable", MaxConns: 1}} {
		if err := k.Use(t.Context(), o); err != nil {
			t.Fatalf("with %d connections: %v", o.MaxConns, err)
		}
		if err := k.Write(t.Context(), storagetest.Entry(3)); err != nil {
			t.Error(err)
		}
	}
	if page, err := k.List(t.Context(), storage.Query{}); err != nil || page.Total != 4 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// spilled puts a journal in front.
func spilled(t *testing.T, k *postgres.Keeper) storage.Store {
	t.Helper()
	s, err := spill.New(k, filepath.Join(t.TempDir(), "journal.spill"), spill.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c, ok := storage.As[storage.Closer](s); ok {
			_ = c.Close()
		}
	})
	return s
}

func healthOf(s storage.Store) storage.Health {
	r, ok := storage.As[storage.Reporter](s)
	if !ok {
		return storage.Health{}
	}
	return r.Health()
}

func awaitHealthy(t *testing.T, s storage.Store) {
	t.Helper()
	for end := time.Now().Add(hang); healthOf(s).State != storage.Healthy; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not recover: %+v", healthOf(s))
		}
	}
}

// TestATriggerThatRaisesCostsNoEntry: what it refuses waits until it is gone.
func TestATriggerThatRaisesCostsNoEntry(t *testing.T) {
	server := pgtest.Start(t)
	k := keep(t, postgres.Options{DSN: server.DSN()})
	s := spilled(t, k)
	if err := server.Exec(`CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
		CREATE TRIGGER no BEFORE INSERT ON "auditLog_entries" FOR EACH ROW EXECUTE FUNCTION raise()`); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.Write(t.Context(), storagetest.Entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	if h := healthOf(s); h.State != storage.Degraded || h.Waiting != 5 || !strings.Contains(h.Remedy, "trigger") {
		t.Errorf("%+v", h)
	}
	if err := server.Exec(`DROP FUNCTION raise CASCADE`); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t, s)
	if page, err := k.List(t.Context(), storage.Query{}); err != nil || page.Total != 5 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// TestAServerThatKeepsNoPromisesIsNamed (threats.md E7.5). What the role has switched off
// is switched on for each transaction.
func TestAServerThatKeepsNoPromisesIsNamed(t *testing.T) {
	server := pgtest.Start(t, "fsync=off", "full_page_writes=off", "synchronous_commit=off")
	var said bytes.Buffer
	s := open(t, postgres.Options{DSN: server.DSN(), Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if !strings.Contains(said.String(), "fsync is off") || !strings.Contains(said.String(), "full_page_writes is off") || strings.Contains(said.String(), server.Password) {
		t.Errorf("it says %q", said.String())
	}
	if err := server.Exec(`CREATE TABLE modes (mode text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO modes VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;
		CREATE TRIGGER note BEFORE INSERT ON "auditLog_entries" FOR EACH ROW EXECUTE FUNCTION note()`); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Write(t.Context(), storagetest.Entry(1)), s.Write(storage.WithDurability(t.Context(), storage.Commit), storagetest.Entry(2))); err != nil {
		t.Fatal(err)
	}
	if n := number(t, server.DSN(), `SELECT count(*) FILTER (WHERE mode = 'on') * 10 + count(*) FILTER (WHERE mode = 'off') FROM modes`); n != 11 {
		t.Errorf("synchronous_commit is on and off %d times (tens and ones), want once each", n)
	}
}

// TestAServerThatOnlyReadsIsLeftForAnother, as after a failover: the DSN names both.
func TestAServerThatOnlyReadsIsLeftForAnother(t *testing.T) {
	first, second := pgtest.Start(t), pgtest.Start(t)
	if err := second.Exec(`ALTER ROLE postgres PASSWORD '` + first.Password + `'`); err != nil {
		t.Fatal(err)
	}
	dsn := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable", first.Port, second.Port)
	k := keep(t, postgres.Options{DSN: dsn, Password: first.Password})
	s := spilled(t, k)
	if err := s.Write(t.Context(), storagetest.Entry(1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Exec("ALTER SYSTEM SET default_transaction_read_only = on"), first.Exec("SELECT pg_reload_conf()")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(hang); first.Exec("CREATE TABLE probe ()") == nil; time.Sleep(10 * time.Millisecond) {
		if err := first.Exec("DROP TABLE IF EXISTS probe"); err != nil || time.Now().After(end) {
			break // it has come
		}
	}
	e := storagetest.Entry(2)
	if err := s.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t, s)
	other := open(t, postgres.Options{DSN: dsn, Password: first.Password})
	if _, err := other.Get(t.Context(), e.ID); err != nil || !strings.Contains(k.Path(), fmt.Sprint(second.Port)) {
		t.Errorf("the entry is not with the server that takes writes: %v", err)
	}
}

// TestAPoolerMayGiveEveryTransactionAnotherConnection: nothing depends on statements that
// were prepared, or on settings of a connection.
func TestAPoolerMayGiveEveryTransactionAnotherConnection(t *testing.T) {
	for _, mode := range []string{"exec", "describe_exec", "cache_describe"} {
		dsn := pgtest.DSN(t)
		if strings.Contains(dsn, "?") {
			dsn += "&default_query_exec_mode=" + mode
		} else {
			dsn += "?default_query_exec_mode=" + mode
		}
		s := open(t, postgres.Options{DSN: dsn, Table: pgtest.Table(t)})
		stray := storagetest.Entry(2)
		stray.CreatedAt = stray.CreatedAt.AddDate(0, -1, 0)
		if err := s.Write(t.Context(), storagetest.Attempt(1, "tag", storage.Failed), stray); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		user, tag := "user-1", "tag"
		page, err := s.List(t.Context(), storage.Query{UserID: &user, IdentifierHash: tag, Text: "sign", Action: "sign-in:email"})
		if err != nil || page.Total != 1 || len(page.Entries) != 1 {
			t.Errorf("%s: %d entries, %v", mode, page.Total, err)
		}
		if n, err := s.Unlink(t.Context(), stray.UserID); err != nil || n != 1 {
			t.Errorf("%s: %d unlinked, %v", mode, n, err)
		}
		if n, err := s.Prune(t.Context(), time.Now(), 10); err != nil || n == 0 {
			t.Errorf("%s: %d pruned, %v", mode, n, err)
		}
	}
}

// TestNobodyWaitsForAServerThatIsGone: with a journal in front, entries are taken while
// the server is away, and are in the database afterwards.
func TestNobodyWaitsForAServerThatIsGone(t *testing.T) {
	server := pgtest.Start(t)
	k := keep(t, postgres.Options{DSN: server.DSN()})
	s := spilled(t, k)
	if err := s.Write(t.Context(), storagetest.Entry(0)); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 50; i++ {
		if err := s.Write(t.Context(), storagetest.Entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	if h := healthOf(s); h.State != storage.Degraded || h.Waiting == 0 || h.Waiting > 49 {
		t.Errorf("%+v", h)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t, s)
	if page, err := k.List(t.Context(), storage.Query{}); err != nil || page.Total != 50 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// TestAnUnlinkThatFailsSaysWhy, and claims nothing that was rolled back.
func TestAnUnlinkThatFailsSaysWhy(t *testing.T) {
	server := pgtest.Start(t)
	k := keep(t, postgres.Options{DSN: server.DSN()})
	e := storagetest.Entry(1)
	e.UserID = "alice"
	if err := k.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := server.Exec(`CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
		CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON "auditLog_entries" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise()`); err != nil {
		t.Fatal(err)
	}
	n, err := k.Unlink(t.Context(), "alice")
	if f := (*storage.Fault)(nil); n != 0 || !errors.As(err, &f) || f.Reason != storage.Forbidden || !strings.Contains(f.Remedy, "trigger") {
		t.Errorf("%d, %v", n, err)
	}
	if got, err := k.Get(t.Context(), e.ID); err != nil || got.UserID != "alice" {
		t.Errorf("%+v, %v", got, err)
	}
}
