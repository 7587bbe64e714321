package spill_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestABadPageOfTheCountsIsNoDegradation: a late entry that meets it is written, and nothing waits in the
// journal for ever.
func TestABadPageOfTheCountsIsNoDegradation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.db")
	k, err := sqlite.Keep(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	at := func(i int) storage.Entry {
		e := storagetest.Entry(i)
		e.CreatedAt = time.Now().Add(time.Duration(i-n-5) * time.Hour).Truncate(time.Millisecond)
		e.ID = storage.NewIDAt(e.CreatedAt)
		return e
	}
	for i := 0; i < n; i += 500 {
		var batch []storage.Entry
		for j := range 500 {
			batch = append(batch, at(i+j))
		}
		if err := k.Write(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	const counts = "SELECT count(*) FROM auditLog_counts"
	for rows, until := 0, time.Now().Add(30*time.Second); rows < n; time.Sleep(100 * time.Millisecond) { // the background counts every 10 s
		if err := db.QueryRow(counts).Scan(&rows); err != nil || time.Now().After(until) {
			t.Fatalf("%d hours are counted: %v", rows, err)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	var page int64
	if err := db.QueryRow("SELECT pageno FROM dbstat WHERE name = 'auditLog_counts' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 3").Scan(&page); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	spoil := exec.Command("dd", "of="+path, "bs=4096", fmt.Sprint("seek=", page-1), "count=1", "conv=notrunc")
	spoil.Stdin = bytes.NewReader(bytes.Repeat([]byte{0xff}, 4096))
	if out, err := spoil.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for round := range 2 { // the second one after a restart
		if k, err = sqlite.Keep(t.Context(), sqlite.Options{Path: path}); err != nil {
			t.Fatal(err)
		}
		r := open(t, k, dir, spill.Options{})
		for i := round; i < n; i += n / 50 {
			r.write(at(i))
		}
		now := at(n + 5)
		r.write(now)
		r.is(storage.Healthy, "", 0)
		page, err := k.List(t.Context(), storage.Query{})
		if err != nil || page.Total != n+51*(round+1) || page.Entries[0].ID != now.ID {
			t.Errorf("%d entries are there, want %d, the newest %s: %v", page.Total, n+51*(round+1), page.Entries[0].ID, err)
		}
		r.close()
	}
}
