package postgres_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// poison are values that PostgreSQL refuses in a text or as jsonb, or that two databases
// may well read differently (threats.md X13, X14, B7, B9).
var poison = []string{
	"\x00", "a\x00b", "\xff", "\xed\xa0\x80", "\ufffe\uffff", "é☃🎈", "e\u0301", "İıK", "'; DROP TABLE x; --", `\`, "%_", "\r\n\x1b[31m", "\u202e", "$1", "?", "E'\\000'", " ", "\t",
	strings.Repeat("\xc3\xa9", 4500), strings.Repeat("x", 16<<10),
}

// poisonMetadata are documents, some of which are none.
var poisonMetadata = []string{
	``, `{}`, `{"identifier":"a\u0000b"}`, `{"identifier":"\ud800"}`, `{"targetUserId":"\udc00\ud800"}`, `{"n":1e200000}`, `{"n":1e400,"m":-0,"k":9007199254740993,"z":0.10}`,
	`{"a":1,"a":2,"identifier":"first","identifier":"second"}`, ` {"spaced" : [ 1,2 ] }`, `{"b":1,"a":2}`, `{"error":{"code":"X\u0000"}}`, `{"error.code":"dotted"}`,
	"{\"raw\":\"\xff\"}", `no JSON`, `[1]`, `null`, `{"identifier":{"code":7},"error":"flat"}`, `{"identifier":"\u00e9É"}`, `{"":""}`, `{"identifier":""}`,
	`{"deep":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, `{"long":"` + strings.Repeat("y", 200<<10) + `"}`, `{"` + strings.Repeat("k", 9000) + `":true}`,
}

// oddEntry is an entry of odd values as a rule, of harmless ones now and then.
func oddEntry(rng *rand.Rand, at time.Time) storage.Entry {
	text := func() string {
		switch rng.IntN(4) {
		case 0:
			return fmt.Sprintf("plain-%d", rng.IntN(3))
		case 1:
			b := make([]byte, rng.IntN(40))
			for i := range b {
				b[i] = byte(rng.UintN(256))
			}
			return string(b)
		}
		return poison[rng.IntN(len(poison))]
	}
	e := storage.Entry{
		ID: storage.NewID(), UserID: text(), Action: text(), Status: storage.Status([]string{"success", "failed", "pending", "unknown", "\x00"}[rng.IntN(5)]),
		Severity: severity.Level(rng.IntN(4)), IPAddress: text(), UserAgent: text(), Metadata: json.RawMessage(poisonMetadata[rng.IntN(len(poisonMetadata))]),
		CreatedAt: at.Add(time.Duration(rng.IntN(40)) * time.Millisecond),
	}
	switch rng.IntN(6) {
	case 0: // many ids with one sort key
		e.ID, e.CreatedAt = fmt.Sprintf("00000000-0000-7000-8000-%012d", rng.IntN(40)), at
	case 1:
		e.ID = text()
	case 2: // other months, other centuries, before time began
		e.CreatedAt = at.AddDate(0, []int{-2000, -300, -13, -1, 1, 2, 3, 2000}[rng.IntN(8)], 0)
	}
	return e
}

// TestTheSameAnswersAsSQLite puts the same entries into both stores and compares what
// lists and single entries look like in JSON, byte by byte.
func TestTheSameAnswersAsSQLite(t *testing.T) {
	rng := rand.New(rand.NewPCG(20, 26))
	ours := fresh(t)
	theirs, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "audit.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	at := time.Date(2026, 11, 30, 23, 59, 59, 980e6, time.UTC) // a month ends among them
	var written []storage.Entry
	for range 100 {
		batch := make([]storage.Entry, 1+rng.IntN(6))
		for i := range batch {
			batch[i] = oddEntry(rng, at)
			if len(written) > 0 && rng.IntN(6) == 0 { // an outcome, with another time
				batch[i].ID = written[rng.IntN(len(written))].ID
			}
			batch[i].Sanitize()
		}
		written = append(written, batch...)
		for _, s := range []storage.Store{ours, theirs} {
			if err := s.Write(storage.WithDurability(t.Context(), storage.Commit), batch...); err != nil {
				t.Fatalf("%T lost entries: %v", s, err)
			}
		}
	}
	ids := map[string]bool{}
	for _, e := range written {
		ids[e.ID] = true
		compareJSON(t, e.ID, entryJSON(t, ours, e.ID), entryJSON(t, theirs, e.ID))
	}
	n := 0
	for q := (storage.Query{Limit: 37}); ; n++ {
		got, want := pageOf(t, ours, q), pageOf(t, theirs, q)
		compareJSON(t, fmt.Sprintf("page %d", n), got, want)
		if got.Total != len(ids) {
			t.Fatalf("%d entries, want %d", got.Total, len(ids))
		}
		if q.Cursor = got.NextCursor; q.Cursor == "" {
			break
		}
	}
	for range 200 {
		q := oddQuery(rng, written, at)
		compareJSON(t, fmt.Sprintf("%+v", q), pageOf(t, ours, q), pageOf(t, theirs, q))
	}
	t.Logf("%d entries under %d ids, %d pages and 200 queries alike", len(written), len(ids), n+1)
}

// oddQuery asks for what is there, as a rule.
func oddQuery(rng *rand.Rand, written []storage.Entry, at time.Time) storage.Query {
	e := &written[rng.IntN(len(written))]
	q := storage.Query{Limit: 1 + rng.IntN(60), Offset: rng.IntN(20)}
	if rng.IntN(3) == 0 {
		q.UserID = &e.UserID
	}
	if rng.IntN(3) == 0 {
		q.Action = e.Action
	}
	if rng.IntN(3) == 0 {
		q.Status = e.Status
	}
	if rng.IntN(4) == 0 {
		q.Severity = &e.Severity
	}
	if rng.IntN(3) == 0 {
		q.From = at.Add(time.Duration(rng.IntN(30)) * time.Millisecond)
	}
	if rng.IntN(4) == 0 {
		q.To = at.Add(time.Duration(rng.IntN(40)) * time.Millisecond)
	}
	if rng.IntN(3) == 0 {
		q.Text = []string{"plain-1", "PLAIN", "É", "é", "%", "_", `\`, "'", "first", "second", "x", "dotted", "flat", "7", "\u202e", "İ", "\ufffd"}[rng.IntN(17)]
		q.TextInAgent = rng.IntN(2) == 0
	}
	return q
}

type both interface {
	storage.Lister
	storage.Getter
}

var (
	_ both = (*postgres.Store)(nil)
	_ both = (*sqlite.Store)(nil)
)

func pageOf(t *testing.T, s both, q storage.Query) storage.Page {
	t.Helper()
	page, err := s.List(t.Context(), q)
	if err != nil {
		t.Fatalf("%T: List(%+v): %v", s, q, err)
	}
	return page
}

func entryJSON(t *testing.T, s both, id string) storage.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("%T: Get(%q): %v", s, id, err)
	}
	return e
}

func compareJSON(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Fatalf("%s:\nPostgreSQL %.3000s\nSQLite     %.3000s", what, g, w)
	}
}
