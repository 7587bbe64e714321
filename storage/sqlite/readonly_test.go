package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

func openReadOnly(t *testing.T, path string) *sqlite.Reader {
	t.Helper()
	r, err := sqlite.OpenReadOnly(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// filesIn are the names of what is in a folder.
func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// TestAReaderBesideAWriter: while a store writes, a reader of the same file sees whole
// calls of Write, never less than before, and the store never waits for it.
func TestAReaderBesideAWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	first := storagetest.Entry(0)
	if err := s.Write(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	r := openReadOnly(t, path)
	before := filesIn(t, filepath.Dir(path))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for i := range 100 {
			if err := s.Write(t.Context(), storagetest.Entry(2*i+1), storagetest.Entry(2*i+2)); err != nil {
				t.Error(err)
			}
		}
	})
	seen, looks := 1, 0
	for ctx.Err() == nil {
		page, err := r.List(t.Context(), storage.Query{})
		if err != nil || page.Total < seen || page.Total%2 != 1 {
			t.Fatalf("%d entries after %d: %v", page.Total, seen, err)
		}
		seen, looks = page.Total, looks+1
	}
	wg.Wait()
	if page, err := r.List(t.Context(), storage.Query{}); err != nil || page.Total != 201 || looks < 3 {
		t.Errorf("%d entries, want 201, after %d looks: %v", page.Total, looks, err)
	}
	if got, err := r.Get(t.Context(), first.ID); err != nil || got.Action != first.Action {
		t.Errorf("%+v: %v", got, err)
	}
	if _, err := r.Get(t.Context(), "no"); !errors.Is(err, storage.ErrNotFound) {
		t.Error(err)
	}
	want, err := s.Tally(t.Context(), storage.Query{})
	if got, gotErr := r.Tally(t.Context(), storage.Query{}); errors.Join(err, gotErr) != nil || len(got) == 0 || !slices.Equal(got, want) {
		t.Errorf("tally %v, the writer says %v: %v", got, want, errors.Join(err, gotErr))
	}
	for _, step := range []time.Duration{time.Second, time.Hour} {
		want, err := s.Histogram(t.Context(), storage.Query{}, step)
		if got, gotErr := r.Histogram(t.Context(), storage.Query{}, step); errors.Join(err, gotErr) != nil || len(got) == 0 || !slices.Equal(got, want) {
			t.Errorf("histogram by %s %v, the writer says %v: %v", step, got, want, errors.Join(err, gotErr))
		}
	}
	if after := filesIn(t, filepath.Dir(path)); !slices.Equal(before, after) {
		t.Errorf("files %q before, %q after", before, after)
	}
	if err := r.Write(t.Context(), first); err == nil {
		t.Error("a reader wrote")
	}
}

// TestAReaderMakesNoFiles, whether or not the database is open elsewhere, and sees a
// store come and go.
func TestAReaderMakesNoFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	if err := errors.Join(s.Write(t.Context(), storagetest.Entry(1)), s.Close()); err != nil {
		t.Fatal(err)
	}
	count := func(r *sqlite.Reader, want int) {
		t.Helper()
		if page, err := r.List(t.Context(), storage.Query{}); err != nil || page.Total != want {
			t.Errorf("%d entries, want %d: %v", page.Total, want, err)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := openReadOnly(t, path)
	count(r, 1)
	if files := filesIn(t, filepath.Dir(path)); !slices.Equal(files, []string{"audit.db"}) {
		t.Errorf("files %q", files)
	}
	if after, err := os.ReadFile(path); err != nil || !slices.Equal(before, after) {
		t.Errorf("the file was changed (%v)", err)
	}
	s = open(t, path)
	if err := s.Write(t.Context(), storagetest.Entry(2)); err != nil {
		t.Fatal(err)
	}
	count(r, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	count(r, 2)
	if files := filesIn(t, filepath.Dir(path)); !slices.Equal(files, []string{"audit.db"}) {
		t.Errorf("files %q", files)
	}
}

// TestAReaderOfAKilledStore: its log is still beside it, and nobody has it open.
func TestAReaderOfAKilledStore(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	s := open(t, filepath.Join(dir, "audit.db"))
	if err := s.Write(t.Context(), storagetest.Entry(1)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} { // what a kill leaves
		b, err := os.ReadFile(filepath.Join(dir, "audit.db"+suffix)) //nolint:gosec // this closes a descriptor of the open store, whose locks do not matter here
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, "audit.db"+suffix), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := filesIn(t, copied)
	page, err := openReadOnly(t, filepath.Join(copied, "audit.db")).List(t.Context(), storage.Query{})
	if err != nil || page.Total != 1 {
		t.Errorf("%d entries, want 1: %v", page.Total, err)
	}
	if after := filesIn(t, copied); !slices.Equal(before, after) {
		t.Errorf("files %q before, %q after", before, after)
	}
	if err := os.Remove(filepath.Join(copied, "audit.db-shm")); err != nil { // a copy that forgot it
		t.Fatal(err)
	}
	if _, err := sqlite.OpenReadOnly(t.Context(), sqlite.Options{Path: filepath.Join(copied, "audit.db")}); err == nil || !strings.Contains(err.Error(), "-shm file") {
		t.Error(err)
	}
	if after := filesIn(t, copied); !slices.Equal(after, []string{"audit.db", "audit.db-wal"}) {
		t.Errorf("files %q", after)
	}
}

func TestAReaderRefusesWhatIsNoAuditLog(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte("this is no database, and long enough to be sure of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "audit.db")
	if err := open(t, good).Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []sqlite.Options{{Path: text}, {Path: dir}, {Path: filepath.Join(dir, "missing.db")}, {Path: good, Table: "other"}, {Path: good, Table: "a b"}} {
		if _, err := sqlite.OpenReadOnly(t.Context(), o); err == nil {
			t.Errorf("%+v was opened", o)
		}
	}
	if files := filesIn(t, dir); !slices.Equal(files, []string{"audit.db", "text.db"}) {
		t.Errorf("files %q", files)
	}
}
