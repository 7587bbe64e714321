package sqlite_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// damagedLog is a log whose file gets a bad page, and what it must have.
type damagedLog struct {
	t     *testing.T
	path  string
	log   strings.Builder
	s     *sqlite.Store
	model *memory.Store
}

func newDamagedLog(t *testing.T) *damagedLog {
	l := &damagedLog{t: t, path: filepath.Join(t.TempDir(), "audit.db"), model: memory.New(1 << 20)}
	l.open()
	t.Cleanup(func() { _ = l.s.Close() })
	return l
}

func (l *damagedLog) open() {
	l.t.Helper()
	var err error
	l.s, err = sqlite.Open(l.t.Context(), sqlite.Options{Path: l.path, Logger: slog.New(slog.NewTextHandler(&l.log, nil))})
	must(l.t, err)
}

// write writes entries, 500 at a time.
func (l *damagedLog) write(entries ...storage.Entry) {
	l.t.Helper()
	ctx := storage.WithDurability(l.t.Context(), storage.Commit)
	for ; len(entries) > 0; entries = entries[min(500, len(entries)):] {
		batch := entries[:min(500, len(entries))]
		must(l.t, l.s.Write(ctx, batch...), l.model.Write(ctx, batch...))
	}
}

// damage closes the log and writes over the page that a query on dbstat names.
func (l *damagedLog) damage(of string) {
	l.t.Helper()
	must(l.t, l.s.Close())
	spoilPage(l.t, l.path, of)
}

func spoilPage(t *testing.T, path, of string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	var page int64
	must(t, db.QueryRow("SELECT pageno FROM dbstat WHERE "+of).Scan(&page), db.Close())
	// By another process, since a file that SQLite has open is never closed in this one.
	cmd := exec.Command("dd", "of="+path, "bs=4096", fmt.Sprint("seek=", page-1), "count=1", "conv=notrunc")
	cmd.Stdin = bytes.NewReader(bytes.Repeat([]byte{0xff}, 4096))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// prune deletes what is older than entry i, from the model, too.
func (l *damagedLog) prune(i int) {
	l.t.Helper()
	prune(l.t, storagetest.Entry(i).CreatedAt, l.s, l.model)
}

// same fails unless the log has what it must have, by users, too.
func (l *damagedLog) same(when string) {
	l.t.Helper()
	for _, user := range []string{"", "user-0", "user-1", "user-2", "nobody-at-all"} {
		q := storage.Query{Limit: 20}
		if user != "" {
			q.UserID = &user
		}
		got, err := l.s.List(l.t.Context(), q)
		want, wrong := l.model.List(l.t.Context(), q)
		if err := errors.Join(err, wrong); err != nil || !want.TotalIsCapped && got.Total != want.Total {
			l.t.Errorf("%s, %q: %d entries (capped %v), want %d (%v): %v", when, user, got.Total, got.TotalIsCapped, want.Total, want.TotalIsCapped, err)
		}
		sameEntries(l.t, got.Entries, want.Entries)
	}
}

// awaitIndex waits until nearly all entries are in the index, and compares it with them.
func (l *damagedLog) awaitIndex(when string) {
	l.t.Helper()
	for until := time.Now().Add(20 * time.Second); sqlite.Unindexed(l.t, l.s) > 1000; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			l.t.Errorf("%s: %d entries are not indexed", when, sqlite.Unindexed(l.t, l.s))
			return
		}
	}
	sqlite.Segments(l.t, l.s)
}

// vacuum does what is advised when pages were given up, and looks whether the file is sound then.
func (l *damagedLog) vacuum() {
	l.t.Helper()
	must(l.t, l.s.Close())
	db, err := sql.Open("sqlite", l.path)
	must(l.t, err)
	_, err = db.Exec("VACUUM")
	must(l.t, err, db.Close())
	integrity(l.t, l.path)
	l.open()
}

func storedEntries(n int) (list []storage.Entry) {
	for i := range n {
		list = append(list, storagetest.Entry(i))
	}
	return list
}

// TestAPageOfTheIndexThatCannotBeChanged is met by statements that would change it, after which SQLite
// does nothing more in the same transaction. Entries are written, found, changed and pruned all the same, and
// the index is made anew.
func TestAPageOfTheIndexThatCannotBeChanged(t *testing.T) {
	n := 3000
	entries := storedEntries(10_000)
	for name, page := range map[string]string{
		"a leaf":             "name = 'auditLog_postings' AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1 OFFSET 10",
		"the last leaf":      "name = 'auditLog_postings' AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1",
		"the root":           "name = 'auditLog_postings' AND path = '/'",
		"the places' page":   "name = 'auditLog_place' ORDER BY path DESC LIMIT 1",
		"the segments' page": "name = 'auditLog_segments' LIMIT 1",
	} {
		for what, first := range map[string]func(*damagedLog){
			"prune": func(l *damagedLog) { l.prune(n / 2) },
			"list":  func(l *damagedLog) { l.same("at first") },
			"write": func(l *damagedLog) { l.write(entries[n-1000 : n]...) },
			"unlink": func(l *damagedLog) {
				got, err := l.s.Unlink(l.t.Context(), "user-1")
				want, _ := l.model.Unlink(l.t.Context(), "user-1")
				if got != want || err != nil {
					l.t.Errorf("%d entries unlinked, want %d: %v", got, want, err)
				}
			},
			"change": func(l *damagedLog) {
				for i := 0; i < n; i += 300 {
					e := entries[i]
					e.UserID, e.Status = "user-2", storage.Failed
					l.write(e)
				}
			},
		} {
			if what != "prune" && name != "a leaf" {
				continue // one of each is enough
			}
			if n = 3000; what == "prune" && name == "a leaf" {
				n = len(entries) // some segments are merged
			}
			t.Run(name+", "+what, func(t *testing.T) {
				l := newDamagedLog(t)
				l.write(entries[:n]...)
				l.awaitIndex("before")
				l.damage(page)
				l.open()
				first(l)
				l.same("then")
				l.prune(n / 3)
				l.same("after it was pruned")
				for i := range 700 { // and time to index what is there
					e := storagetest.Entry(n + i)
					l.write(e)
				}
				l.awaitIndex("after more was written")
				l.same("after it is indexed")
				must(t, l.s.Close())
				l.open()
				l.prune(2 * n / 3)
				l.same("after a restart")
				l.awaitIndex("after a restart")
				if told := l.log.String(); !strings.Contains(told, "is made anew") || !strings.Contains(told, "VACUUM") {
					t.Errorf("nobody heard of it, or what to do: %s", told)
				}
				l.vacuum()
				l.same("after VACUUM")
				sqlite.Segments(t, l.s)
			})
		}
	}
}

// hourly are entries of so many hours, until some hours ago.
func hourly(n int) (list []storage.Entry) {
	for i := range n {
		e := storagetest.Entry(i)
		e.CreatedAt = time.Now().Add(time.Duration(i-n-5) * time.Hour).Truncate(time.Millisecond)
		e.ID = storage.NewIDAt(e.CreatedAt)
		list = append(list, e)
	}
	return list
}

// counted fails if a number is wrong: totals are exact or say that they are capped, others are exact.
func (l *damagedLog) counted(when string, exact bool) {
	l.t.Helper()
	year := time.Now().AddDate(-1, 0, 0)
	for _, q := range []storage.Query{{}, {From: year}, {Status: storage.Failed}, {From: year, To: time.Now().AddDate(0, -3, 0)}, {Action: "sign-in:email", To: year}} {
		got, err := l.s.List(l.t.Context(), q)
		want := 0
		b, wrong := l.model.Tally(l.t.Context(), q)
		for _, t := range b {
			want += t.Count
		}
		capped := !exact && got.TotalIsCapped && got.Total == storage.MaxTotal && want > storage.MaxTotal
		if err := errors.Join(err, wrong); err != nil || !capped && (got.TotalIsCapped || got.Total != want) {
			l.t.Errorf("%s, %+v: %d entries (capped %v), want %d: %v", when, q, got.Total, got.TotalIsCapped, want, err)
		}
		a, err := l.s.Tally(l.t.Context(), q)
		if err != nil || !reflect.DeepEqual(a, b) {
			l.t.Errorf("%s, %+v: the tally is %v, want %v: %v", when, q, a, b, err)
		}
		for _, step := range []time.Duration{time.Hour, 24 * time.Hour} {
			a, err := l.s.Histogram(l.t.Context(), q, step)
			b, wrong := l.model.Histogram(l.t.Context(), q, step)
			if err := errors.Join(err, wrong); err != nil || !reflect.DeepEqual(a, b) {
				l.t.Errorf("%s, %+v: a histogram by %v differs: %v", when, q, step, err)
			}
		}
	}
}

// TestABadPageOfTheCountsKeepsNothingFromTheLog: late entries are written, old ones changed and pruned,
// totals are exact or capped, and exact again when the entries were counted anew.
func TestABadPageOfTheCountsKeepsNothingFromTheLog(t *testing.T) {
	n := 0
	var entries []storage.Entry
	late := func(l *damagedLog) {
		for i := 0; i < n; i += n / 60 {
			e := entries[i]
			e.ID, e.Status = storage.NewIDAt(e.CreatedAt), storage.Failed
			l.write(e)
		}
	}
	prune := func(l *damagedLog, i int) {
		l.t.Helper()
		prune(l.t, entries[i].CreatedAt, l.s, l.model)
	}
	for name, page := range map[string]string{
		"a leaf":   "name = 'auditLog_counts' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 1",
		"the root": "name = 'auditLog_counts' AND path = '/'",
	} {
		for what, first := range map[string]func(*damagedLog){
			"late entries": late,
			"prune":        func(l *damagedLog) { prune(l, n/20) },
			"questions":    func(l *damagedLog) { l.counted("at first", false) },
			"change": func(l *damagedLog) {
				for i := n / 50; i < n; i += n / 50 {
					e := entries[i]
					e.Status, e.UserID = storage.Failed, "user-2"
					l.write(e)
				}
			},
			"the background": func(l *damagedLog) { sqlite.TendCounts(l.t, l.s) },
		} {
			for _, running := range []bool{false, true} {
				if (name != "a leaf" || !running) && what != "late entries" {
					continue // one of each is enough
				}
				if n = 1200; what == "questions" {
					n = 12_000 // more than storage.MaxTotal
				}
				entries = hourly(n)
				t.Run(fmt.Sprintf("%s, %s, while it is open %v", name, what, running), func(t *testing.T) {
					l := newDamagedLog(t)
					l.write(entries...)
					sqlite.TendCounts(t, l.s)
					if running {
						must(t, l.s.Close()) // all is in the database, and nothing in the log
						l.open()
						sqlite.TendCounts(t, l.s)
						spoilPage(t, l.path, page)
						sqlite.DropCaches(t, l.s)
					} else {
						l.damage(page)
						l.open()
					}
					first(l)
					l.counted("then", false)
					late(l)
					prune(l, n/10)
					l.same("after it was pruned")
					l.counted("after it was pruned", false)
					sqlite.TendCounts(t, l.s)
					l.counted("counted anew", true)
					must(t, l.s.Close())
					l.open()
					prune(l, n/8)
					l.counted("after a restart", false)
					sqlite.TendCounts(t, l.s)
					l.counted("counted after a restart", true)
					if told := l.log.String(); strings.Count(told, "are counted anew") != 1 || !strings.Contains(told, "VACUUM") {
						t.Errorf("nobody heard of it, or what to do, or too often: %s", told)
					}
					l.vacuum()
					sqlite.TendCounts(t, l.s)
					l.counted("after VACUUM", true)
				})
			}
		}
	}
}

// TestABadPageOfTheEntriesIsCorruption, and not what is made anew: its entries are nowhere else.
func TestABadPageOfTheEntriesIsCorruption(t *testing.T) {
	l := newDamagedLog(t)
	l.write(storedEntries(2000)...)
	l.damage("name = 'auditLog_entries' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 1")
	k := keep(t, l.path)
	_, err := k.Prune(t.Context(), storagetest.Entry(2000).CreatedAt, 1000)
	if err = errors.Join(err, k.Write(t.Context(), storagetest.Entry(1))); !strings.Contains(err.Error(), "malformed") {
		t.Errorf("it says %v", err)
	}
}
