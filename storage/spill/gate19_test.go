package spill_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// vanishings are what befalls the files of a database under load.
var vanishings = []struct {
	name   string
	do     func(db string) error
	reason storage.Reason
}{
	{"removed", os.Remove, storage.Deleted},
	{"removed with all files", func(db string) error { return errors.Join(os.Remove(db), os.Remove(db+"-wal"), os.Remove(db+"-shm")) }, storage.Deleted},
	{"its folder removed", func(db string) error { return os.RemoveAll(filepath.Dir(db)) }, storage.Deleted},
	{"its folder moved", func(db string) error { return os.Rename(filepath.Dir(db), filepath.Dir(db)+".old") }, storage.Deleted},
	{"moved", func(db string) error { return os.Rename(db, db+".old") }, storage.Deleted},
	{"its log removed", func(db string) error { return os.Remove(db + "-wal") }, storage.Deleted},
	{"replaced by an empty file", func(db string) error {
		return errors.Join(os.WriteFile(db+".new", nil, 0o600), os.Rename(db+".new", db))
	}, storage.Replaced},
	{"replaced by an older copy", func(db string) error { return os.Rename(db+".copy", db) }, storage.Replaced},
}

// TestGate19StoreIdentity: a database that is removed, moved or replaced under load is
// noticed, made anew or opened anew, and takes every entry from then on (threats.md
// E2.5). The control is SQLite without a look at its file: its rows are
// acknowledged and gone.
//
// That its older copy is a rollback is for the chain of hashes to say, when it exists.
func TestGate19StoreIdentity(t *testing.T) {
	var v vanished
	for range gates.Figure(1, 10) {
		for i := range vanishings {
			t.Run(vanishings[i].name, func(t *testing.T) { v.run(t, i) })
		}
	}
	naive := writeToAFileThatIsGone(t)
	gates.Print(t, 19, "%d times under load the database was removed, moved or replaced in %d ways: noticed after %v at most, well again after %v, %d entries written from then on, %d lost, %d refused; control, SQLite by itself: %d of 100 acknowledged rows lost",
		v.times, len(vanishings), v.noticed.Round(time.Millisecond), v.recovered.Round(time.Millisecond), v.written, v.lost, v.refused, naive)
	if naive == 0 || v.lost > 0 || v.noticed > bound(time.Second) {
		t.Error("the bounds are 1 s and 0 lost, and the control has to lose")
	}
}

// vanished is what came of it.
type vanished struct {
	times, written, lost, refused int
	noticed, recovered            time.Duration // at most
}

func (v *vanished) run(t *testing.T, i int) {
	dir := filepath.Join(t.TempDir(), "data")
	db := filepath.Join(dir, "audit.db")
	olderCopy(t, dir)
	r := onDisk(t, dir)
	l := startLoad(r.s, gates.Figure(3, 8))
	time.Sleep(100 * time.Millisecond)
	if err := vanishings[i].do(db); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l.gone.Store(true)
	for n := 0; n == 0; time.Sleep(time.Millisecond) {
		n = len(r.log.lines())
	}
	noticed := time.Since(began)
	recovered := r.await(storage.Healthy)
	time.Sleep(150 * time.Millisecond)
	l.end()
	r.await(storage.Healthy)
	told := strings.Join(r.log.lines(), "") // the journal's own loss may be noticed first
	r.close()
	lost, total := missing(t, db, l.late)
	if len(lost) > 0 || len(l.late) == 0 || l.failed > 0 || recovered > bound(2*time.Second) || !strings.Contains(told, string(vanishings[i].reason)) {
		t.Errorf("%d lost, %d refused, noticed after %v, recovered after %v, log %q", len(lost), l.failed, noticed, recovered, told)
	}
	t.Logf("noticed after %v, well after %v; %d entries were written from then on, %d lost; %d in the database", noticed.Round(time.Millisecond), recovered.Round(time.Millisecond), len(l.late), len(lost), total)
	v.times++
	v.written, v.lost, v.refused = v.written+len(l.late), v.lost+len(lost), v.refused+l.failed
	v.noticed, v.recovered = max(v.noticed, noticed), max(v.recovered, recovered)
}

// bare opens a database with nothing in front of it.
func bare(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func some(n int) []storage.Entry {
	var list []storage.Entry
	for i := range n {
		list = append(list, storagetest.Entry(i))
	}
	return list
}

// olderCopy makes a database with some entries, and a copy of it as it is before the
// load.
func olderCopy(t *testing.T, dir string) {
	t.Helper()
	s := bare(t, filepath.Join(dir, "audit.db"))
	if err := errors.Join(s.Write(t.Context(), some(50)...), s.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.Path()) // it is closed: no lock of this process goes
	if err == nil {
		err = os.WriteFile(s.Path()+".copy", b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// writeToAFileThatIsGone returns how many acknowledged rows SQLite by itself loses.
func writeToAFileThatIsGone(t *testing.T) (lost int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "naive.db")
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)")
	if err == nil {
		_, err = db.ExecContext(t.Context(), "CREATE TABLE log (id INTEGER)")
	}
	if err = errors.Join(err, os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	acked := 0
	for i := range 100 {
		if _, err := db.ExecContext(t.Context(), "INSERT INTO log VALUES (?)", i); err == nil {
			acked++
		}
	}
	_ = db.Close() // of a file without a name
	if db, err = sql.Open("sqlite", path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var there int
	_ = db.QueryRowContext(t.Context(), "SELECT count(*) FROM log").Scan(&there) // there may be no table
	return acked - there
}
