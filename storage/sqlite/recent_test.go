package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestWhatIsRememberedIsWhatIsThere: the index is made of what the writer remembers of the
// youngest entries, so that must be what the table has, whatever was written anew, failed or was
// forgotten.
func TestWhatIsRememberedIsWhatIsThere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "audit.db")
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		refuse(rt, path)
		sqlite.Segment(t, s)
		youngest, made := 0, map[int]storage.Entry{}
		for range rapid.IntRange(1, 30).Draw(rt, "writes") {
			var batch []storage.Entry
			for range rapid.IntRange(1, 4).Draw(rt, "entries") {
				i := max(0, youngest-rapid.SampledFrom([]int{-1, -1, 0, 1, 2, 3, 20}).Draw(rt, "age")) // many are there already
				youngest = max(youngest, i)
				if made[i].ID == "" {
					made[i] = storagetest.Entry(i)
				}
				e := made[i]
				e.UserID = rapid.SampledFrom([]string{"", "ada", "bob"}).Draw(rt, "user")
				e.IdentifierHash = rapid.SampledFrom([]string{"", "h1", "h2"}).Draw(rt, "identifier")
				e.Status = rapid.SampledFrom([]storage.Status{storage.Unknown, storage.Success, storage.Pending}).Draw(rt, "status")
				batch = append(batch, e)
			}
			what := rapid.SampledFrom([]string{"write", "write", "write", "write", "fail", "unlink"}).Draw(rt, "what")
			switch what {
			case "fail":
				batch[len(batch)-1].UserID = "refused"
			case "unlink":
				if _, err := s.Unlink(t.Context(), "ada"); err != nil {
					rt.Fatal(err)
				}
			}
			if err := s.Write(t.Context(), batch...); (err != nil) != (what == "fail") {
				rt.Fatal(what, err)
			}
		}
		sqlite.Segments(t, s)
		if t.Failed() {
			rt.FailNow()
		}
	})
	if sqlite.Remembered.Load() == 0 {
		t.Error("the writer never remembered anything")
	}
}

// refuse adds triggers that refuse a user's entries, so that whole transactions fail.
func refuse(t *rapid.T, path string) {
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, event := range []string{"INSERT", "UPDATE"} {
		_, err := db.ExecContext(context.Background(), fmt.Sprintf(`CREATE TRIGGER refuse_%[1]s BEFORE %[1]s ON "auditLog_entries" WHEN NEW.user_id = 'refused' BEGIN SELECT RAISE(ABORT, 'refused'); END`, event))
		if err != nil {
			t.Fatal(err)
		}
	}
}
