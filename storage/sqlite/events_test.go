package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// rolledUp is a roll-up of a time.
func rolledUp(at time.Time, count int) storage.Entry {
	e := storage.Entry{Action: storage.RolledUp + "sign-in", Status: storage.Failed, Severity: severity.High, CreatedAt: at, Metadata: fmt.Appendf(nil, `{"count":%d,"class":"sign-in"}`, count)}
	e.ID = storage.NewIDAt(at)
	e.Sanitize()
	return e
}

// TestWhatIsRememberedOfFloodsIsForgotten when entries of their hours change: by a new one, by
// one that replaces another and says another number, by pruning, and by another process.
func TestWhatIsRememberedOfFloodsIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, other, model := open(t, path), open(t, path), memory.New(0)
	now := time.Now()
	write := func(to storage.Store, entries ...storage.Entry) {
		t.Helper()
		for _, to := range []storage.Store{to, model} {
			if err := to.Write(t.Context(), entries...); err != nil {
				t.Fatal(err)
			}
		}
	}
	same := func() {
		t.Helper()
		sqlite.TendCounts(t, s) // what is over goes into the table, and others are noticed
		for range 2 {
			for _, q := range []storage.Query{{}, {From: now.Add(-50 * time.Hour)}, {To: now.Add(-50 * time.Hour)}, {Class: "sign-in"}, {Class: "account"}, {Status: storage.Success}} {
				storagetest.SameCounts(t, s, model, q)
			}
		}
	}
	var entries []storage.Entry
	for i := range 100 {
		entries = append(entries, rolledUp(now.Add(-time.Duration(i)*time.Hour), 100+i), rolledUp(now.Add(-time.Duration(i)*time.Hour-time.Minute), 1))
	}
	write(s, entries...)
	same()
	if hours := sqlite.FloodHours(s); hours < 90 {
		t.Fatalf("%d hours are remembered", hours)
	}
	write(s, rolledUp(now.Add(-30*time.Hour), 1000)) // an hour that had some
	same()
	more := rolledUp(now.Add(-60*time.Hour), 5000) // the same in all that counts see
	more.ID = entries[120].ID
	write(s, more)
	same()
	account := rolledUp(now.Add(-70*time.Hour), 70) // an action that there was not
	account.Metadata = []byte(`{"class":"account","count":70}`)
	write(s, account)
	same()
	write(other, rolledUp(now.Add(-40*time.Hour), 3))
	same()
	for _, to := range []storage.Pruner{s, model} {
		if _, err := to.Prune(t.Context(), now.Add(-80*time.Hour), 1000); err != nil {
			t.Fatal(err)
		}
	}
	same()
}
