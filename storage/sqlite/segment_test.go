package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// aLog is a log that two processes write, and what it must have.
type aLog struct {
	dir     *testing.T
	path    string
	stores  [2]*sqlite.Store
	model   *memory.Store
	written []storage.Entry
	busy    bool // most entries are one user's and of one group
}

func (l *aLog) open(t *rapid.T, i int) {
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: l.path})
	if err != nil {
		t.Fatal(err)
	}
	l.stores[i] = s
	sqlite.Segment(l.dir, s)
}

func (l *aLog) close() {
	for _, s := range l.stores {
		_ = s.Close()
	}
}

func (l *aLog) store(t *rapid.T) *sqlite.Store {
	return l.stores[rapid.IntRange(0, 1).Draw(t, "store")]
}

// entry draws a new one, or another version of one that is there.
func (l *aLog) entry(t *rapid.T) storage.Entry {
	pick := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	e := storagetest.Entry(rapid.IntRange(0, 300).Draw(t, "minute"))
	e.ID = storage.NewIDAt(e.CreatedAt)
	if len(l.written) > 0 && rapid.IntRange(0, 3).Draw(t, "again") == 0 {
		old := rapid.SampledFrom(l.written).Draw(t, "old")
		e.ID, e.CreatedAt = old.ID, old.CreatedAt
	}
	e.UserID, e.IPAddress = pick("user", "", "ada", "bob", "eve"), pick("address", "", "203.0.113.7", "203.0.113.8")
	e.Action, e.Severity = pick("action", "a", "b", "c"), severity.Level(rapid.IntRange(0, 3).Draw(t, "severity")) //nolint:gosec // a level
	e.Status = storage.StatusOf(rapid.IntRange(0, storage.StatusCodes-1).Draw(t, "status"))
	if l.busy && rapid.IntRange(0, 7).Draw(t, "other") > 0 {
		e.UserID, e.Action, e.Status, e.Severity = "ada", "a", storage.Success, severity.Low
	}
	if tag := pick("tag", "", "", "x", "y"); tag != "" {
		e.IdentifierHash, e.Metadata = tag, []byte(fmt.Sprintf(`{"identifierHash":%q}`, tag))
	}
	e.Sanitize()
	return e
}

func (l *aLog) query(t *rapid.T) storage.Query {
	q := storage.Query{Limit: rapid.IntRange(1, 20).Draw(t, "limit"), Offset: rapid.IntRange(0, 10).Draw(t, "offset")}
	if u := rapid.SampledFrom([]string{"-", "", "ada", "bob"}).Draw(t, "whose"); u != "-" {
		q.UserID = &u
	}
	q.IdentifierHash = rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "identifier")
	q.IPAddress = rapid.SampledFrom([]string{"", "", "203.0.113.7"}).Draw(t, "from address")
	q.Action = rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(t, "what")
	q.Status = rapid.SampledFrom([]storage.Status{"", "", storage.Failed, storage.Success}).Draw(t, "outcome")
	if level := rapid.IntRange(-3, 3).Draw(t, "level"); level >= 0 {
		q.Severity = new(severity.Level)
		*q.Severity = severity.Level(level) //nolint:gosec // a level
	}
	at := func(name string) time.Time {
		if n := rapid.IntRange(-300, 300).Draw(t, name); n > 0 {
			return storagetest.Entry(n).CreatedAt
		}
		return time.Time{}
	}
	q.From, q.To = at("since"), at("until")
	return q
}

// same fails unless a store answers as the model does, on all pages.
func (l *aLog) same(t *rapid.T, s *sqlite.Store, q storage.Query) {
	for {
		got, err := s.List(context.Background(), q)
		want, wrong := l.model.List(context.Background(), q)
		if err = errors.Join(err, wrong); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v:\n got %+v\nwant %+v\n%v", q, got, want, err)
		}
		if q.Cursor = got.NextCursor; q.Cursor == "" {
			break
		}
	}
	storagetest.SameCounts(l.dir, s, l.model, q)
}

// TestSegmentsHaveWhatTheLogHas: whoever of two processes writes, changes and deletes in
// whatever order, what is found by users, addresses and identifiers is what is there.
//
// SQLite is slow under the race detector: 20 logs, or as many as -rapid.checks says.
func TestSegmentsHaveWhatTheLogHas(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("20"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	rapid.Check(t, func(rt *rapid.T) {
		l := &aLog{dir: t, path: filepath.Join(t.TempDir(), "audit.db"), model: memory.New(0), busy: rapid.Bool().Draw(rt, "busy")}
		l.open(rt, 0)
		l.open(rt, 1)
		defer l.close()
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				entries := rapid.SliceOfN(rapid.Custom(l.entry), 1, 12).Draw(t, "entries")
				quick := storage.WithDurability(context.Background(), storage.Commit)
				if err := errors.Join(l.store(t).Write(quick, entries...), l.model.Write(context.Background(), entries...)); err != nil {
					t.Fatal(err)
				}
				l.written = append(l.written, entries...)
			},
			"unlink": func(t *rapid.T) {
				user := rapid.SampledFrom([]string{"ada", "bob", "eve"}).Draw(t, "user")
				n, err := l.store(t).Unlink(context.Background(), user)
				want, _ := l.model.Unlink(context.Background(), user)
				if err != nil || n != want {
					t.Fatalf("%d entries of %s, want %d: %v", n, user, want, err)
				}
			},
			"fail": func(t *rapid.T) {
				if err := sqlite.FailToUnlink(l.store(t), "ada"); !errors.Is(err, sqlite.ErrOnPurpose) {
					t.Fatal(err)
				}
			},
			"prune": func(t *rapid.T) {
				before, limit := storagetest.Entry(rapid.IntRange(0, 300).Draw(t, "before")).CreatedAt, rapid.IntRange(1, 20).Draw(t, "limit")
				n, err := l.store(t).Prune(context.Background(), before, limit)
				want, _ := l.model.Prune(context.Background(), before, limit)
				if err != nil || n != want {
					t.Fatalf("%d entries pruned, want %d: %v", n, want, err)
				}
			},
			"open": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "store")
				if err := l.stores[i].Close(); err != nil {
					t.Fatal(err)
				}
				l.open(t, i)
			},
			"": func(t *rapid.T) {
				sqlite.Segments(l.dir, l.stores[0])
				s := l.store(t)
				sqlite.TendCounts(l.dir, s) // they hear late of the other process
				for range 2 {
					l.same(t, s, l.query(t))
				}
			},
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// TestADamagedIndexIsMadeAnew: nothing is in it that the entries do not say.
func TestADamagedIndexIsMadeAnew(t *testing.T) {
	user, at := "user-1", storagetest.Entry(0)
	for name, do := range map[string]func(s *sqlite.Store) error{
		"list":   func(s *sqlite.Store) error { _, err := s.List(t.Context(), storage.Query{UserID: &user}); return err },
		"unlink": func(s *sqlite.Store) error { _, err := s.Unlink(t.Context(), "user-2"); return err },
		"change": func(s *sqlite.Store) error {
			e := at
			e.Status = storage.Unknown
			return s.Write(t.Context(), e)
		},
		"merge": func(s *sqlite.Store) error {
			for i := 400; i < 440; i++ {
				if err := s.Write(t.Context(), storagetest.Entry(i)); err != nil {
					return err
				}
			}
			return nil
		},
		"prune": func(s *sqlite.Store) error {
			_, err := s.Prune(t.Context(), storagetest.Entry(4).CreatedAt, 1)
			return err
		},
	} {
		for _, block := range []string{"x'FF'", "x''", "substr(block, 1, 12)"} {
			t.Run(name+" "+block, func(t *testing.T) {
				var log strings.Builder
				s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "audit.db"), Logger: slog.New(slog.NewTextHandler(&log, nil))})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = s.Close() }()
				model := memory.New(0)
				sqlite.Segment(t, s)
				for i := range 90 {
					e := storagetest.Entry(i)
					if i == 0 {
						at = e
					}
					if err := errors.Join(s.Write(t.Context(), e), model.Write(t.Context(), e)); err != nil {
						t.Fatal(err)
					}
				}
				sqlite.Damage(t, s, block)
				if err := do(s); err != nil {
					t.Fatal(err)
				}
				for i := range 60 { // the writer catches up between them
					e := storagetest.Entry(500 + i)
					if err := errors.Join(s.Write(t.Context(), e)); err != nil {
						t.Fatal(err)
					}
				}
				sqlite.Segments(t, s)
				page, err := s.List(t.Context(), storage.Query{UserID: &user, To: storagetest.Entry(89).CreatedAt})
				want, _ := model.List(t.Context(), storage.Query{UserID: &user})
				if name == "prune" {
					want.Total = page.Total
				}
				if err != nil || page.Total != want.Total {
					t.Errorf("%d entries, want %d: %v", page.Total, want.Total, err)
				}
				if err := s.Close(); err != nil || !strings.Contains(log.String(), "is made anew") {
					t.Errorf("nobody heard of it: %s, %v", &log, err)
				}
			})
		}
	}
}

// TestABadPageOfTheIndexKeepsNothingFromTheLog: its entries are written, changed and found all the same.
func TestABadPageOfTheIndexKeepsNothingFromTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	open := func() *sqlite.Store {
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		sqlite.Segment(t, s)
		return s
	}
	s, model := open(), memory.New(0)
	for i := range 90 {
		e := storagetest.Entry(i)
		if err := errors.Join(s.Write(t.Context(), e), model.Write(t.Context(), e)); err != nil {
			t.Fatal(err)
		}
	}
	page := sqlite.RootOf(t, s, "auditLog_postings")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, 4096), (page-1)*4096)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer func() { _ = s.Close() }()
	changed := storagetest.Entry(3)
	changed.UserID, changed.Status = "user-other", storage.Unknown
	for i := range 60 {
		e := storagetest.Entry(500 + i)
		if i == 0 {
			e = changed
		}
		if err := errors.Join(s.Write(t.Context(), e), model.Write(t.Context(), e)); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	for _, user := range []string{"user-1", "user-other"} {
		got, err := s.List(t.Context(), storage.Query{UserID: &user, Limit: 500})
		want, wrong := model.List(t.Context(), storage.Query{UserID: &user, Limit: 500})
		if err := errors.Join(err, wrong); err != nil || got.Total != want.Total || len(got.Entries) != len(want.Entries) {
			t.Errorf("%s has %d entries, want %d: %v", user, got.Total, want.Total, err)
		}
	}
	if _, err := s.Unlink(t.Context(), "user-1"); err != nil {
		t.Error(err)
	}
}

// TestAPendingEntryThatMovesIsCountedOnce: its id with another time, then with the first one again.
func TestAPendingEntryThatMovesIsCountedOnce(t *testing.T) {
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "audit.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	sqlite.TendCounts(t, s)
	e := storagetest.Entry(1)
	e.ID, e.Status = storage.NewIDAt(e.CreatedAt), storage.Pending
	moved := e
	moved.CreatedAt, moved.Status = e.CreatedAt.Add(time.Hour), storage.Failed
	back := e
	back.Status = storage.Success
	for _, version := range []storage.Entry{e, moved, back} {
		if err := s.Write(t.Context(), version); err != nil {
			t.Fatal(err)
		}
	}
	for status, want := range map[storage.Status]int{storage.Pending: 0, storage.Failed: 0, storage.Success: 1} {
		page, err := s.List(t.Context(), storage.Query{Status: status})
		if err != nil || page.Total != want || len(page.Entries) != want {
			t.Errorf("%s: total %d, %d entries, want %d: %v", status, page.Total, len(page.Entries), want, err)
		}
	}
}

// TestWhatIsDeletedLeavesTheIndex, too: of a user who is unlinked at once, of entries that are
// too old when all of a segment is, or much of it.
func TestWhatIsDeletedLeavesTheIndex(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	for i := range 30 {
		entries := make([]storage.Entry, 100)
		for j := range entries {
			entries[j] = storagetest.Entry(100*i + j)
		}
		if err := s.Write(t.Context(), entries...); err != nil {
			t.Fatal(err)
		}
	}
	if n := sqlite.Postings(t, s, ""); n < 1500 {
		t.Fatalf("%d postings", n)
	}
	if n, err := s.Unlink(t.Context(), "user-1"); n != 1000 || err != nil {
		t.Fatal(n, err)
	}
	if n := sqlite.Postings(t, s, "user-1"); n != 0 {
		t.Errorf("%d postings of a user who was unlinked", n)
	}
	prune := func(before time.Time) {
		t.Helper()
		for {
			if n, err := s.Prune(t.Context(), before, 1000); err != nil {
				t.Fatal(err)
			} else if n == 0 {
				return
			}
		}
	}
	prune(storagetest.Entry(1500).CreatedAt)
	sqlite.Segments(t, s)
	prune(storagetest.Entry(3000).CreatedAt)
	if n := sqlite.Postings(t, s, ""); n != 0 {
		t.Errorf("%d postings without entries", n)
	}
}
