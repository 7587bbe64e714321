package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// rowProcess is set in a process that a test starts to commit a row of the table rows.
const rowProcess = "AUDIT_LOG_TEST_ROW"

// insertRow commits a row at once or not at all.
func insertRow(path string) int {
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(0)")
	if err == nil {
		_, err = db.Exec("INSERT INTO rows VALUES ('other process')")
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// insertElsewhere has another process commit a row, and says whether it could.
func insertElsewhere(path string) bool {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), rowProcess+"="+path)
	return cmd.Run() == nil
}

const (
	makeRows  = "CREATE TABLE rows (who TEXT)"
	insertOwn = "INSERT INTO rows VALUES ('this process')"
)

// TestGate19StoreIdentityLocks: two processes commit to one database; one of them is a
// Keeper that looks at its files in every way it has, in the middle of its transaction.
// Each commit that was acknowledged is there in the end (threats.md X13, E2.12). The
// control opens and closes a file of the database instead, which drops SQLite's locks:
// both commits are acknowledged, and one is gone.
func TestGate19StoreIdentityLocks(t *testing.T) {
	rounds := gates.Figure(5, 100)
	acks, rows := 0, 0
	for range rounds {
		a, r := commitBoth(t)
		acks, rows = acks+a, rows+r
	}
	naiveAcks, naiveRows := commitBothUnlocked(t)
	gates.Print(t, 19, "two processes on one database, %d times: %d commits acknowledged, %d rows there; control, opening a file of it meanwhile: %d acknowledged, %d there",
		rounds, acks, rows, naiveAcks, naiveRows)
	if rows != acks || acks < 2*rounds || naiveRows >= naiveAcks {
		t.Error("rows and acknowledged commits must be equal, and not in the control")
	}
}

// commitBoth returns how many commits of the two processes were acknowledged and how
// many are there.
func commitBoth(t *testing.T) (acks, rows int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	other, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)") // the Keeper counts in the background
	must(t, err)
	_, err = other.Exec(makeRows)
	must(t, err, other.Close())
	err = sqlite.During(t, k, func(tx *sql.Tx) {
		_, err := tx.Exec(insertOwn)
		must(t, err, sqlite.Check(path), k.Check(t.Context()))
		_, sizeErr := k.Size(t.Context())
		_, listErr := k.List(t.Context(), storage.Query{})
		must(t, sizeErr, listErr)
		if insertElsewhere(path) {
			acks++
		}
	})
	if err == nil {
		acks++
	}
	for range 100 { // nothing is in its way any more but what the Keeper does in the background
		if insertElsewhere(path) {
			acks++
			break
		}
	}
	must(t, k.Close())
	return acks, rowsIn(t, path)
}

// commitBothUnlocked is the same with SQLite by itself, and a look at one of its files
// that closes it again.
func commitBothUnlocked(t *testing.T) (acks, rows int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "naive.db")
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_txlock=immediate")
	must(t, err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec(makeRows)
	must(t, err)
	tx, err := db.BeginTx(context.Background(), nil)
	must(t, err)
	f, err := os.Open(path + "-shm")
	must(t, err)
	must(t, f.Close())
	if insertElsewhere(path) {
		acks++
	}
	if _, err = tx.Exec(insertOwn); err == nil {
		err = tx.Commit()
	}
	if err == nil {
		acks++
	}
	must(t, db.Close())
	return acks, rowsIn(t, path)
}

func rowsIn(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	must(t, db.QueryRow("SELECT count(*) FROM rows").Scan(&n), db.Close())
	integrity(t, path)
	return n
}

// TestKeepingMovesNoLocks counts a Keeper's locks, also after its file was made anew.
func TestKeepingMovesNoLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	must(t, k.Write(t.Context(), storagetest.Entry(1)))
	before := locksOn(t, path)
	for range 10 {
		must(t, k.Check(t.Context()), sqlite.Check(path))
	}
	if after := locksOn(t, path); after != before || before == 0 {
		t.Errorf("%d locks before, %d after", before, after)
	}
	must(t, os.Remove(path), k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(1)))
	if n := locksOn(t, path); n == 0 {
		t.Error("the new file has no locks")
	}
}
