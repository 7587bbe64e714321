package sqlite_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestCountsAreExact writes, completes, prunes, closes, opens, and writes from elsewhere,
// and looks whether entries, totals, histograms and tallies are those of a simple store.
func TestCountsAreExact(t *testing.T) { countsAreExact(t, 0) }

// TestCountsAreExactWhenFewFitIntoMemory at once: after an upgrade, say, from a version without them.
func TestCountsAreExactWhenFewFitIntoMemory(t *testing.T) { countsAreExact(t, 7) }

func countsAreExact(t *testing.T, found int) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, other, model := open(t, path), open(t, path), memory.New(1<<20)
	rng := rand.New(rand.NewPCG(3, 4))
	now := time.Now()
	var written []storage.Entry
	write := func(to *sqlite.Store) {
		batch := make([]storage.Entry, 1+rng.IntN(20))
		for i := range batch {
			batch[i] = randomEntry(rng, now)
			if len(written) > 0 {
				switch old := written[rng.IntN(len(written))]; rng.IntN(8) {
				case 0:
					batch[i].ID = old.ID // at another time
				case 1:
					batch[i].ID, batch[i].CreatedAt = old.ID, old.CreatedAt
				case 2:
					if id, err := uuid.Parse(old.ID); err == nil && id.Version() == 7 {
						sec, nsec := id.Time().UnixTime()
						batch[i].ID, batch[i].CreatedAt = old.ID, time.Unix(sec, nsec) // where its id leads
					}
				case 3:
					batch[i].ID, batch[i].CreatedAt = old.ID[:len(old.ID)-1]+fmt.Sprint(rng.IntN(10)), old.CreatedAt // in the same place
				}
			}
			written = append(written, batch[i])
		}
		for _, to := range []storage.Store{to, model} {
			if err := to.Write(t.Context(), batch...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range 60 {
		write(s)
		foreign := false
		switch rng.IntN(6) {
		case 0:
			write(other)
			foreign = true
		case 1:
			prune(t, now.Add(-time.Duration(rng.IntN(300))*time.Hour), s, model)
		case 2:
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, path)
		case 3:
			sqlite.SaveCounts(t, s)
		case 4:
			sqlite.BoundCounts(s, 0, found)
			sqlite.Distrust(s)
			foreign = true
		}
		if foreign || round%2 == 0 {
			sqlite.TendCounts(t, s) // what the background does
		}
		for range 10 {
			q := randomSpan(rng, now)
			storagetest.SameCounts(t, s, model, q)
			got, err := s.List(t.Context(), q)
			want, _ := model.List(t.Context(), q)
			if err != nil || got.Total != want.Total {
				t.Fatalf("round %d, %+v: total %d, want %d: %v", round, q, got.Total, want.Total, err)
			}
			sameEntries(t, got.Entries, want.Entries)
		}
		for range min(10, len(written)) {
			id := written[rng.IntN(len(written))].ID
			got, err := s.Get(t.Context(), id)
			want, wanted := model.Get(t.Context(), id)
			if !errors.Is(err, wanted) {
				t.Fatalf("round %d, %s: %v, want %v", round, id, err, wanted)
			}
			sameEntries(t, []storage.Entry{got}, []storage.Entry{want})
		}
	}
}

// sameEntries compares them without their times, which a store keeps as they were at first.
func sameEntries(t *testing.T, got, want []storage.Entry) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i].ID != want[i].ID || got[i].Action != want[i].Action || got[i].Status != want[i].Status {
			t.Fatalf("entry %d is another one:\ngot  %v\nwant %v", i, got, want)
		}
	}
}

func randomEntry(rng *rand.Rand, now time.Time) storage.Entry {
	e := storagetest.Entry(0)
	e.CreatedAt = now.Add(-time.Duration(rng.IntN(10*24*3600*1000)) * time.Millisecond)
	if rng.IntN(2) == 0 {
		e.CreatedAt = now.Add(-time.Duration(rng.IntN(5*3600*1000)) * time.Millisecond)
	}
	if rng.IntN(30) == 0 {
		e.CreatedAt = now.AddDate(500, 0, 0) // kept as the last time that there is
	}
	e.Action, e.Status, e.Severity = fmt.Sprint("action-", rng.IntN(4)), storage.StatusOf(rng.IntN(4)), severity.Level(rng.IntN(4))
	e.Metadata = fmt.Appendf(nil, `{"class":"class-%d"}`, rng.IntN(2))
	if e.Action == "action-3" && rng.IntN(2) == 0 {
		e.Action = storage.RolledUp + "sign-in"
		e.Metadata = fmt.Appendf(nil, `{"count":%d,"class":"class-%d"}`, rng.IntN(1000), rng.IntN(2))
	}
	switch rng.IntN(6) {
	case 0:
		e.ID = storage.NewID() // of now
	case 1:
		e.ID = fmt.Sprint("text-", rng.IntN(1000))
	default:
		e.ID = storage.NewIDAt(e.CreatedAt)
	}
	e.Sanitize()
	return e
}

func randomSpan(rng *rand.Rand, now time.Time) (q storage.Query) {
	if rng.IntN(2) == 0 {
		q.From = now.Add(-time.Duration(rng.IntN(11*24*3600)) * time.Second)
	}
	if rng.IntN(2) == 0 {
		q.To = now.Add(-time.Duration(rng.IntN(11*24*3600)) * time.Second)
	}
	if rng.IntN(2) == 0 {
		q.Action = fmt.Sprint("action-", rng.IntN(5))
	}
	if rng.IntN(3) == 0 {
		q.Class = fmt.Sprint("class-", rng.IntN(3))
	}
	if rng.IntN(3) == 0 {
		q.Status = storage.StatusOf(rng.IntN(4))
	}
	if rng.IntN(3) == 0 {
		level := severity.Level(rng.IntN(4))
		q.Severity = &level
	}
	return q
}

func prune(t *testing.T, before time.Time, stores ...storage.Pruner) {
	t.Helper()
	for _, s := range stores {
		for {
			n, err := s.Prune(t.Context(), before, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
	}
}

// TestTotalsOfMoreThanTheCapAreExact also while nobody has counted yet: then they say that
// they are capped.
func TestTotalsOfMoreThanTheCapAreExact(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	const entries = storage.MaxTotal + 1500
	for n := 0; n < entries; n += 500 {
		batch := make([]storage.Entry, 500)
		for i := range batch {
			batch[i] = storagetest.Entry(0)
			batch[i].CreatedAt = time.Now()
		}
		if err := s.Write(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	sqlite.Distrust(s)
	if page, err := s.List(t.Context(), storage.Query{}); err != nil || page.Total != storage.MaxTotal || !page.TotalIsCapped {
		t.Errorf("uncounted: %d, capped %v, %v", page.Total, page.TotalIsCapped, err)
	}
	sqlite.TendCounts(t, s)
	for _, q := range []storage.Query{{}, {Action: "sign-in:email"}, {Status: storage.Success}, {From: time.Now().Add(-48 * time.Hour)}} {
		if page, err := s.List(t.Context(), q); err != nil || page.Total != entries || page.TotalIsCapped {
			t.Errorf("%+v: %d, capped %v, %v", q, page.Total, page.TotalIsCapped, err)
		}
	}
}

// TestAClassOfManyActions is listed and counted, however many somebody has made up: SQLite
// takes 32,766 arguments.
func TestAClassOfManyActions(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	const n = 33_000
	entries := make([]storage.Entry, n)
	for i := range entries {
		entries[i] = storage.Entry{Action: fmt.Sprint("made-up-", i), Metadata: json.RawMessage(`{"class":"sign-in"}`), CreatedAt: time.Now().Add(-time.Duration(n-i) * time.Second)}
		entries[i].Sanitize()
	}
	for batch := range slices.Chunk(entries, 500) {
		must(t, s.Write(t.Context(), batch...))
	}
	ctx := t.Context()
	for name, q := range map[string]storage.Query{
		"all":         {Class: "sign-in"},
		"of a time":   {Class: "sign-in", From: time.Now().Add(-3 * time.Hour), To: time.Now().Add(-30 * time.Minute)},
		"of a status": {Class: "sign-in", Status: storage.Failed},
		"with a text": {Class: "sign-in", Text: "made-up-32999"},
	} {
		if _, err := s.List(ctx, q); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Tally(ctx, q); err != nil {
			t.Errorf("%s, tally: %v", name, err)
		}
		if _, err := s.Histogram(ctx, q, time.Hour); err != nil {
			t.Errorf("%s, histogram: %v", name, err)
		}
	}
	if page, err := s.List(ctx, storage.Query{Class: "sign-in", Text: "made-up-32999"}); err != nil || page.Total != 1 {
		t.Errorf("%d entries, %v", page.Total, err)
	}
}

// TestMadeUpActionsCostNoMoreThanTotals: hours go on into the table, memory is bounded, and nothing is
// read again and again.
func TestMadeUpActionsCostNoMoreThanTotals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	sqlite.TendCounts(t, s)
	sqlite.BoundCounts(s, 5, 0)
	now := time.Now()
	fill := func(n int) {
		for i := range n {
			e := storagetest.Entry(0)
			e.CreatedAt = now.Add(-time.Duration(i) * time.Hour).Truncate(time.Millisecond)
			e.ID, e.Action = storage.NewIDAt(e.CreatedAt), fmt.Sprintf("made-up:%d", i)
			if err := s.Write(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(40)
	check := func(what string) {
		t.Helper()
		whole, overflow, totals, hours, upto := sqlite.Counted(s)
		if !whole || !overflow || totals > 5 || hours > 3 || upto < now.Unix()/3600-2 {
			t.Errorf("%s: whole %v, too many %v, %d groups and %d of hours in memory, all before %d in the table, now is %d", what, whole, overflow, totals, hours, upto, now.Unix()/3600)
		}
	}
	sqlite.FillCounts(t, s)
	check("while it runs")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	sqlite.BoundCounts(s, 5, 0)
	sqlite.Distrust(s)
	sqlite.FillCounts(t, s)
	check("opened anew")
	if page, err := s.List(t.Context(), storage.Query{Action: "made-up:3"}); err != nil || page.Total != 1 {
		t.Errorf("one of them is found %d times, %v", page.Total, err)
	}
}
