package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
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
func TestSegmentsHaveWhatTheLogHas(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := &aLog{dir: t, path: filepath.Join(t.TempDir(), "audit.db"), model: memory.New(0)}
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
				for range 4 {
					l.same(t, s, l.query(t))
				}
			},
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}
