package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/filelock"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSuite(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return open(t, filepath.Join(t.TempDir(), "audit.db")) })
}

// TestSuiteWithManySegments: what is found in segments is what is found among the youngest
// entries.
func TestSuiteWithManySegments(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s := open(t, filepath.Join(t.TempDir(), "audit.db"))
		sqlite.Segment(t, s)
		t.Cleanup(func() { t.Logf("segments of each level: %v", sqlite.Segments(t, s)) })
		return s
	})
}

func TestEntriesSurviveClosingAndOpening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	a, b := storagetest.Entry(1), storagetest.Entry(2)
	for _, e := range []storage.Entry{a, b} {
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), e); !errors.Is(err, storage.ErrClosed) {
			t.Errorf("a closed store says %v", err)
		}
		s = open(t, path)
	}
	page, err := s.List(t.Context(), storage.Query{})
	if err != nil || page.Total != 2 {
		t.Fatalf("%d entries, %v", page.Total, err)
	}
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	for _, mask := range []int{0o000, 0o022, 0o077} {
		old := syscall.Umask(mask)
		dir := filepath.Join(t.TempDir(), "new", "folder")
		path := filepath.Join(dir, "audit.db")
		s := open(t, path)
		err := s.Write(t.Context(), storagetest.Entry(1))
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600} {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("umask %03o: %s has mode %o, want %o", mask, filepath.Base(name), got, want)
			}
		}
	}
}

func TestAnOlderFileIsTightened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
}

func TestOpenRefusesWhatIsNotOursAndSaysWhy(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(file("text.db"), []byte(strings.Repeat("this is no database. ", 200)), 0o640)) // for others, too
	must(os.Symlink(file("text.db"), file("link.db")))
	must(os.Mkdir(file("folder.db"), 0o700))
	foreign, err := sql.Open("sqlite", file("foreign.db"))
	must(err)
	_, err = foreign.Exec("CREATE TABLE user (id TEXT)")
	must(err)
	must(foreign.Close())
	newer := file("newer.db")
	must(open(t, newer).Close())
	db, err := sql.Open("sqlite", newer)
	must(err)
	_, err = db.Exec("PRAGMA user_version=99")
	must(err)
	must(db.Close())
	for name, want := range map[string]string{
		"text.db": "file is not a database", "link.db": "symbolic link", "folder.db": "folder",
		"foreign.db": "another program", "newer.db": "newer version", "text.db/x.db": "not a directory",
	} {
		if info, err := os.Lstat(file(name)); err == nil && info.Mode().IsRegular() {
			must(os.Chmod(file(name), 0o660))
		}
		before, _ := os.ReadFile(file(name))
		beside := filesIn(t, dir)
		_, err := sqlite.Open(t.Context(), sqlite.Options{Path: file(name)})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file(name)) {
			t.Errorf("%s: %v, want the path and %q", name, err, want)
		}
		if _, err := sqlite.Keep(t.Context(), sqlite.Options{Path: file(name)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is kept: %v, want %q", name, err, want)
		}
		if after, _ := os.ReadFile(file(name)); string(before) != string(after) {
			t.Errorf("%s was changed", name)
		}
		if info, err := os.Lstat(file(name)); err == nil && info.Mode().IsRegular() && info.Mode().Perm() != 0o660 {
			t.Errorf("%s has mode %o now", name, info.Mode().Perm())
		}
		if after := filesIn(t, dir); !slices.Equal(after, beside) {
			t.Errorf("%s: files %q, before %q", name, after, beside)
		}
	}
}

func TestExistingMakesNoLog(t *testing.T) {
	dir := t.TempDir()
	empty, good, missing := filepath.Join(dir, "empty.db"), filepath.Join(dir, "good.db"), filepath.Join(dir, "missing.db")
	if err := errors.Join(os.WriteFile(empty, nil, 0o640), open(t, good).Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, table, want string }{
		{empty, "auditLog", "no audit log named auditLog: name the table"}, {good, "audtLog", "no audit log named audtLog"}, {missing, "auditLog", "no such file"},
	} {
		before, _ := os.ReadFile(c.path)
		_, err := sqlite.Open(t.Context(), sqlite.Options{Path: c.path, Table: c.table, Existing: true})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s: %v, want %q", c.path, c.table, err, c.want)
		}
		if after, _ := os.ReadFile(c.path); string(before) != string(after) {
			t.Errorf("%s was changed", c.path)
		}
	}
	if files := filesIn(t, dir); !slices.Equal(files, []string{"empty.db", "good.db"}) {
		t.Errorf("files %q", files)
	}
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: good, Table: "AUDITLOG", Existing: true}) // names of SQLite have no case
	if err = errors.Join(err, s.Write(t.Context(), storagetest.Entry(1)), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestTableNamesAreCheckedAndQuoted(t *testing.T) {
	for _, bad := range []string{`"; DROP TABLE x; --`, "public.user", "sqlite_master", "1st", "", strings.Repeat("x", 49), "a b", "ä"} {
		if err := sqlite.ValidTable(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "a.db"), Table: "select"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Write(t.Context(), storagetest.Entry(1)); err != nil {
		t.Error(err)
	}
}

func TestTheViewShowsThePluginsColumns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	e := storagetest.Entry(1)
	if err := s.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var id, user, action, status, level, ip, agent, metadata, at string
	row := db.QueryRow(`SELECT id, userId, action, status, severity, ipAddress, userAgent, metadata, createdAt FROM auditLog`)
	if err := row.Scan(&id, &user, &action, &status, &level, &ip, &agent, &metadata, &at); err != nil {
		t.Fatal(err)
	}
	if id != e.ID || user != e.UserID || action != e.Action || status != "success" || level != "medium" || ip != e.IPAddress ||
		agent != e.UserAgent || metadata != string(e.Metadata) || at != "2026-01-02T03:05:05.678Z" {
		t.Error(id, user, action, status, level, ip, agent, metadata, at)
	}
}

func TestListsUseIndexes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	open(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	user, nobody, high := "u", "", severity.High
	if plans := sqlite.ExplainIDs(t, db); strings.Contains(plans, "SCAN ") || strings.Count(plans, "USING INDEX auditLog_stray") < 2 {
		t.Errorf("entries are not found by their ids:\n%s", plans)
	}
	for index, q := range map[string]storage.Query{
		"nobody": {UserID: &nobody}, "severe": {Severity: &high}, "action": {Action: "a", Status: storage.Failed}, "unsuccessful": {Status: storage.Failed},
	} {
		if plan := sqlite.ExplainPage(t, db, q); !strings.Contains(plan, "auditLog_"+index) || strings.Contains(plan, "USE TEMP B-TREE") {
			t.Errorf("%+v:\n%s", q, plan)
		}
	}
	for _, q := range []storage.Query{
		{UserID: &user}, {UserID: &user, Status: storage.Failed}, {UserID: &user, Action: "a", Severity: &high}, {UserID: &user, To: time.Now(), From: time.Unix(1, 0)},
		{UserID: &user, IdentifierHash: "h", Text: "t"}, {IPAddress: "a", Action: "a", Status: storage.Failed}, {IdentifierHash: "h", IPAddress: "a"}, {UserID: &nobody, IPAddress: "a"},
	} {
		if plan := sqlite.ExplainPage(t, db, q); !strings.Contains(plan, "USING INTEGER PRIMARY KEY (rowid=?)") || strings.Contains(plan, "SCAN auditLog_entries") {
			t.Errorf("%+v does not go by the keys that were found:\n%s", q, plan)
		}
	}
	plans := sqlite.ExplainFinding(t, db)
	if strings.Contains(plans, "SCAN auditLog_entries") || strings.Contains(plans, "SCAN auditLog_postings") || strings.Contains(plans, "USE TEMP B-TREE") ||
		!strings.Contains(plans, "SEARCH auditLog_entries USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)") {
		t.Errorf("entries are looked for in:\n%s", plans)
	}
}

func TestCheckChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := sqlite.Check(filepath.Join(dir, "not", "yet", "audit.db")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("Check made %v", left)
	}
	if err := sqlite.Check(dir); err == nil {
		t.Error("a folder was accepted as database")
	}
}

// TestCheckingAFileInUseKeepsItsLocks: a second process must still find the file
// locked after Check has looked at it (threats.md X13).
func TestCheckingAFileInUseKeepsItsLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	if err := s.Write(t.Context(), storagetest.Entry(1)); err != nil {
		t.Fatal(err)
	}
	before := locksOn(t, path)
	if before == 0 {
		t.Fatal("the open database has no locks: the test cannot see what it is for")
	}
	link := filepath.Join(t.TempDir(), "folder")
	if err := os.Symlink(filepath.Dir(path), link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(link, "audit.db")} {
		if err := sqlite.Check(p); err != nil {
			t.Fatal(err)
		}
	}
	// A descriptor that is closed takes all of them; one more or less is the background's.
	if after := locksOn(t, path); after == 0 {
		t.Errorf("%d locks before Check, none after it", before)
	}
}

// locksOn counts this process's POSIX locks on the file, as the kernel lists them.
func locksOn(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(locks), fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino))
}

// cpuTime is what this process has used of the processors.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWrite measures durable entries with many callers waiting.
func BenchmarkWrite(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "audit.db"))
			work := make(chan storage.Entry, callers)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for e := range work {
						if err := s.Write(context.Background(), e); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportAllocs()
			began := cpuTime(b)
			for i := range b.N {
				e := storagetest.Entry(i)
				e.CreatedAt = time.Now()
				e.ID = storage.NewIDAt(e.CreatedAt)
				work <- e
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// TestUsersWithOneHashAreToldApart: nobody sees another's entries.
func TestUsersWithOneHashAreToldApart(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	for i := range 90 {
		if err := s.Write(t.Context(), storagetest.Entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	user := "user-1"
	sqlite.Confuse(t, s, user)
	q, seen := storage.Query{UserID: &user, Limit: 7}, 0
	for more := true; more; more = q.Cursor != "" {
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			if seen++; e.UserID != user {
				t.Errorf("an entry of %s", e.UserID)
			}
		}
		q.Cursor = page.NextCursor
	}
	if seen != 30 {
		t.Errorf("%d entries, want 30", seen)
	}
}

// TestAUserWithManyGroups, whom somebody may make who walks through all paths.
func TestAUserWithManyGroups(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, model := open(t, path), memory.New(0)
	sqlite.Segment(t, s)
	user := "ada"
	for i := range 501 {
		e := storagetest.Entry(i)
		e.UserID, e.Action = user, fmt.Sprintf("unknown:%d", i)
		if err := errors.Join(s.Write(t.Context(), e), model.Write(t.Context(), e)); err != nil {
			t.Fatal(err)
		}
		if i%50 != 0 {
			continue
		}
		for _, q := range []storage.Query{{UserID: &user}, {UserID: &user, Limit: 7, Offset: 40}, {UserID: &user, Action: "unknown:3"}, {UserID: &user, Status: storage.Failed, From: e.CreatedAt.Add(-time.Hour)}} {
			got, err := s.List(t.Context(), q)
			want, wrong := model.List(t.Context(), q)
			if err = errors.Join(err, wrong); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v after %d entries: %+v, want %+v: %v", q, i, got, want, err)
			}
		}
	}
}

// TestAnEarlierVersionsEntriesAreIndexed: by a Store, which says that it changes the
// database. A Reader says who does.
func TestAnEarlierVersionsEntriesAreIndexed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, entries := open(t, path), make([]storage.Entry, 2000)
	for i := range entries {
		entries[i] = storagetest.Entry(i)
		entries[i].UserID = "ada"
	}
	if err := errors.Join(s.Write(t.Context(), entries...), s.Close()); err != nil {
		t.Fatal(err)
	}
	asBefore(t, path, toSchema4+";"+toSchema3)
	if _, err := sqlite.OpenReadOnly(t.Context(), sqlite.Options{Path: path}); err == nil || !strings.Contains(err.Error(), "earlier version: let a Caddy open it once") {
		t.Errorf("a Reader says %v", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err = errors.Join(err, filelock.Try(lock)); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Options{Path: path}); err == nil || !strings.Contains(err.Error(), "start that anew with this version first") {
		t.Errorf("beside a Caddy of that version: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	upgraded, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if levels := sqlite.Segments(t, upgraded); levels[0] != 1 {
		t.Errorf("segments of each level: %v", levels)
	}
	page, err := upgraded.List(t.Context(), storage.Query{UserID: &entries[0].UserID, Limit: 5})
	if err != nil || page.Total != len(entries) || len(page.Entries) != 5 {
		t.Errorf("%d entries of %d: %v", len(page.Entries), page.Total, err)
	}
	if err := upgraded.Close(); err != nil || !strings.Contains(log.String(), "schema=3 becomes=") {
		t.Errorf("what a Store says of an earlier database: %q, %v", &log, err)
	}
}

// TestAnUpgradeTakesAsLongAsItTakes: whoever opens the database may have less time than that.
func TestAnUpgradeTakesAsLongAsItTakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, e := open(t, path), storagetest.Entry(1)
	if err := errors.Join(s.Write(t.Context(), e), s.Close()); err != nil {
		t.Fatal(err)
	}
	asBefore(t, path, toSchema4)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	k, err := sqlite.Keep(ctx, sqlite.Options{Path: path, Logger: slog.New(&untilOver{slog.DiscardHandler, ctx})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	if ctx.Err() == nil {
		t.Error("it was in time")
	}
	if page, err := k.List(t.Context(), storage.Query{UserID: &e.UserID}); err != nil || page.Total != 1 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// untilOver is a log in which the line of an upgrade takes until a context is over.
type untilOver struct {
	slog.Handler
	ctx context.Context
}

func (u *untilOver) Enabled(context.Context, slog.Level) bool { return true }

func (u *untilOver) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "of an earlier version") {
		<-u.ctx.Done()
	}
	return nil
}

// What earlier versions would have made of a database.
const (
	toSchema4 = `DROP TABLE auditLog_unindexed; DROP TABLE auditLog_late; DROP TABLE auditLog_segments; DROP TABLE auditLog_postings;
	CREATE INDEX auditLog_useraction ON auditLog_entries (user_hash, action, status) WHERE user_hash IS NOT NULL;
	CREATE INDEX auditLog_identifier ON auditLog_entries (identifier_hash) WHERE identifier_hash IS NOT NULL;
	CREATE INDEX auditLog_address ON auditLog_entries (ip) WHERE ip IS NOT NULL; PRAGMA user_version=4`
	toSchema3 = `DROP INDEX auditLog_useraction; CREATE INDEX auditLog_user ON auditLog_entries (user_hash, key, action, status)
	WHERE user_hash IS NOT NULL; PRAGMA user_version=3`
	toSchema2 = `DROP INDEX auditLog_stray; DROP INDEX auditLog_elsewhere; ALTER TABLE auditLog_entries DROP COLUMN stray;
	CREATE UNIQUE INDEX auditLog_id ON auditLog_entries (id); PRAGMA user_version=2`
	toSchema1 = `DROP INDEX auditLog_identifier; ALTER TABLE auditLog_entries DROP COLUMN identifier_hash;
	DROP VIEW auditLog; DROP INDEX auditLog_text; DROP INDEX auditLog_class; DROP INDEX auditLog_address;
	DROP TABLE auditLog_counts; DROP TABLE auditLog_counted; ALTER TABLE auditLog_texts RENAME TO old;
	CREATE TABLE auditLog_texts (code INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
	INSERT INTO auditLog_texts SELECT code, text FROM old; DROP TABLE old; PRAGMA user_version=1`
)

// asBefore makes of a database that nobody has open what an earlier version made.
func asBefore(t *testing.T, path, downgrade string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(downgrade)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestADatabaseOfAnEarlierVersionIsUpgraded: what lists and counts need is added, and its
// entries stay and are found.
func TestADatabaseOfAnEarlierVersionIsUpgraded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	e, attempt := storagetest.Entry(1), storagetest.Attempt(2, "tag", storage.Failed)
	e.Metadata = []byte(`{"class":"sign-in"}`)
	flood := storagetest.Entry(4)
	flood.UserID, flood.Action, flood.Metadata = "", storage.RolledUp+"sign-in", []byte(`{"count":480,"class":"sign-in"}`)
	s := open(t, path)
	if err := errors.Join(s.Write(t.Context(), e, flood), s.Close()); err != nil {
		t.Fatal(err)
	}
	asBefore(t, path, toSchema4+";"+toSchema3+";"+toSchema2+";"+toSchema1)
	newer := storagetest.Entry(3)
	newer.Metadata = e.Metadata
	model := memory.New(0)
	if err := model.Write(t.Context(), e, attempt, newer, flood); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, path)
		if err := s.Write(t.Context(), attempt, newer); err != nil {
			t.Fatal(err)
		}
		sqlite.TendCounts(t, s)
		page, err := s.List(t.Context(), storage.Query{UserID: &e.UserID, IdentifierHash: "tag"})
		if err != nil || page.Total != 2 {
			t.Errorf("%d entries, want 2: %v", page.Total, err)
		}
		for _, q := range []storage.Query{{Class: "sign-in"}, {Class: "sign-in", Action: e.Action}, {}, {Class: "none"}} {
			storagetest.SameCounts(t, s, model, q)
			got, err := s.List(t.Context(), q)
			want, _ := model.List(t.Context(), q)
			if err != nil || got.Total != want.Total || len(got.Entries) != len(want.Entries) {
				t.Errorf("%+v: %d entries, total %d, want %d: %v", q, len(got.Entries), got.Total, want.Total, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEntriesOfAnEarlierVersionAreFoundByTheirIDs, which had an index then.
func TestEntriesOfAnEarlierVersionAreFoundByTheirIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	var entries []storage.Entry
	for i, id := range []string{storage.NewIDAt(storagetest.Entry(0).CreatedAt), "of-the-plugin", uuid.NewString(), strings.ToUpper(storage.NewID()), storage.NewID()} {
		for n := range 3 {
			e := storagetest.Entry(0)
			e.ID = id[:len(id)-1] + fmt.Sprint(n) // the same place, if it has one
			e.CreatedAt = e.CreatedAt.Add(time.Duration(i) * time.Hour)
			entries = append(entries, e)
		}
	}
	if err := errors.Join(s.Write(t.Context(), entries...), s.Close()); err != nil {
		t.Fatal(err)
	}
	asBefore(t, path, toSchema4+";"+toSchema3+";"+toSchema2)
	s = open(t, path)
	for i := range entries {
		entries[i].Status = storage.Unknown
	}
	if err := s.Write(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if got, err := s.Get(t.Context(), e.ID); err != nil || got.Status != storage.Unknown || got.ID != e.ID {
			t.Errorf("%s: %+v, %v", e.ID, got, err)
		}
	}
	if page, err := s.List(t.Context(), storage.Query{}); err != nil || page.Total != len(entries) {
		t.Errorf("%d entries, want %d: %v", page.Total, len(entries), err)
	}
	if n := sqlite.Strays(t, s); n != len(entries)-1 {
		t.Errorf("%d strays, want all but the one whose id leads to it", n)
	}
}

// TestASearchEndsWithItsContext: a text that no index finds must not be looked for
// longer than the caller waits.
func TestASearchEndsWithItsContext(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	for range 10 {
		batch := make([]storage.Entry, 500)
		for i := range batch {
			batch[i] = storagetest.Entry(i)
		}
		if err := s.Write(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if _, err := s.List(t.Context(), storage.Query{Text: "nowhere"}); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(began)
	ctx, cancel := context.WithTimeout(t.Context(), whole/10)
	defer cancel()
	began = time.Now()
	_, err := s.List(ctx, storage.Query{Text: "nowhere"})
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > whole {
		t.Errorf("%v after %v; the whole search takes %v", err, took, whole)
	}
	t.Logf("5,000 entries are searched in %v", whole)
}
