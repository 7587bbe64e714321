package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

func keep(t testing.TB, path string) *sqlite.Keeper {
	t.Helper()
	k, err := sqlite.Keep(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func TestKeeperSuite(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return keep(t, filepath.Join(t.TempDir(), "audit.db")) })
}

// reasonOf is the reason of a fault; "" for no error, and the text of other ones.
func reasonOf(err error) storage.Reason {
	var f *storage.Fault
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.Reason
	}
	return storage.Reason(err.Error())
}

// count is how many entries a database shows.
func count(t testing.TB, s storage.Lister) int {
	t.Helper()
	page, err := s.List(context.Background(), storage.Query{})
	if err != nil {
		t.Fatal(err)
	}
	return page.Total
}

// happening is something that befalls the files of an open database.
type happening struct {
	name string
	do   func(t *testing.T, path string)
	// reason it must be noticed with, and entries that are left of two.
	reason storage.Reason
	left   int
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWhatHappensToTheFilesIsNoticedBeforeAnEntryIsAcknowledged(t *testing.T) {
	for _, h := range []happening{
		{"removed", func(t *testing.T, p string) { must(t, os.Remove(p)) }, storage.Deleted, 0},
		{"removed with the files beside it", func(t *testing.T, p string) { must(t, os.Remove(p), os.Remove(p+"-wal"), os.Remove(p+"-shm")) }, storage.Deleted, 0},
		{"only the log removed", func(t *testing.T, p string) { must(t, os.Remove(p+"-wal")) }, storage.Deleted, 2},
		{"only the index of the log removed", func(t *testing.T, p string) { must(t, os.Remove(p+"-shm")) }, storage.Deleted, 2},
		{"moved away", func(t *testing.T, p string) { must(t, os.Rename(p, p+".old")) }, storage.Deleted, 0},
		{"its folder moved away", func(t *testing.T, p string) { must(t, os.Rename(filepath.Dir(p), filepath.Dir(p)+".old")) }, storage.Deleted, 0},
		{"replaced by another log", func(t *testing.T, p string) {
			other := open(t, filepath.Join(t.TempDir(), "other.db"))
			write(t, other, storagetest.Entry(1), storagetest.Entry(2), storagetest.Entry(3))
			must(t, other.Close(), os.Rename(other.Path(), p))
		}, storage.Replaced, 3},
		{"replaced by an empty file", func(t *testing.T, p string) {
			must(t, os.WriteFile(p+".new", nil, 0o600), os.Rename(p+".new", p))
		}, storage.Replaced, 0},
	} {
		t.Run(h.name, func(t *testing.T) { h.test(t, filepath.Join(t.TempDir(), "data", "audit.db")) })
	}
}

// TestAReaderOfTheOldFilesIsAwaited before they are opened anew: what it has mapped of a log that is gone
// would be that of the new one.
func TestAReaderOfTheOldFilesIsAwaited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	must(t, k.Write(t.Context(), storagetest.Entry(1)))
	end := sqlite.Reading(t, k)
	must(t, os.Remove(path+"-wal"), os.Remove(path+"-shm"))
	if err := k.Write(t.Context(), storagetest.Entry(2)); reasonOf(err) != storage.Deleted {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := k.Revive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was opened anew while somebody read the old files: %v", err)
	}
	end()
	must(t, k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(2)))
	copied := filepath.Join(t.TempDir(), "audit.db")
	for _, name := range []string{"", "-wal"} { // what a kill leaves
		b, err := os.ReadFile(path + name)
		must(t, err, os.WriteFile(copied+name, b, 0o600))
	}
	if n := count(t, keep(t, copied)); n != count(t, k) {
		t.Errorf("after a kill %d entries are there, before it %d", n, count(t, k))
	}
}

func (h happening) test(t *testing.T, path string) {
	k := keep(t, path)
	must(t, k.Write(t.Context(), storagetest.Entry(1), storagetest.Entry(2)))
	h.do(t, path)
	late := storagetest.Entry(100)
	if err := k.Write(t.Context(), late); reasonOf(err) != h.reason {
		t.Errorf("Write says %v, want %q", err, h.reason)
	}
	if err := k.Check(t.Context()); reasonOf(err) != h.reason {
		t.Errorf("Check says %v, want %q", err, h.reason)
	}
	if _, err := k.List(t.Context(), storage.Query{}); reasonOf(err) != h.reason {
		t.Errorf("List says %v, want %q", err, h.reason)
	}
	must(t, k.Revive(t.Context()), k.Check(t.Context()))
	if n := count(t, k); n != h.left {
		t.Errorf("%d entries are left, want %d", n, h.left)
	}
	must(t, k.Write(t.Context(), late), k.Close())
	db := open(t, path)
	if n := count(t, db); n != h.left+1 {
		t.Errorf("after closing %d entries, want %d", n, h.left+1)
	}
	integrity(t, path)
	if rest, err := filepath.Glob(path + "*left*"); err != nil || len(rest) > 0 {
		t.Errorf("%v, %v", rest, err)
	}
}

// TestACommitIntoAFileWithoutANameIsNotAcknowledged: the file is removed after it was
// last looked at, and before the COMMIT.
func TestACommitIntoAFileWithoutANameIsNotAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	if err := sqlite.During(t, k, func(*sql.Tx) { must(t, os.Remove(path)) }); reasonOf(err) != storage.Deleted {
		t.Errorf("the transaction ended with %v", err)
	}
	must(t, os.WriteFile(path, nil, 0o600)) // nothing is written to the old one although a file is there again
	if err := k.Write(t.Context(), storagetest.Entry(1)); err == nil {
		t.Error("an entry was written to a file that was removed")
	}
	must(t, k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(1)))
}

func integrity(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer func() { _ = db.Close() }()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity of %s: %q, %v", path, verdict, err)
	}
}

// TestALogThatIsMovedAwayIsComplete: its entries were in the write-ahead log, which
// stays behind under the old name.
func TestALogThatIsMovedAwayIsComplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	must(t, k.Write(t.Context(), storagetest.Entry(1), storagetest.Entry(2)))
	must(t, os.Rename(path, path+".old"))
	must(t, k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(3)))
	old := open(t, path+".old")
	if now, then := count(t, k), count(t, old); now != 1 || then != 2 {
		t.Errorf("%d entries in the new one, %d in the old one; want 1 and 2", now, then)
	}
	integrity(t, path)
	integrity(t, path+".old")
}

func TestAFileOfAnotherProgramIsNotTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	must(t, k.Write(t.Context(), storagetest.Entry(1)))
	db, err := sql.Open("sqlite", path+".foreign")
	must(t, err)
	_, err = db.Exec("CREATE TABLE user (id TEXT)")
	must(t, err, db.Close())
	before, err := os.ReadFile(path + ".foreign")
	must(t, err, os.Rename(path+".foreign", path))
	for range 3 {
		if err := k.Revive(t.Context()); reasonOf(err) != storage.Replaced || !strings.Contains(err.Error(), "another program") {
			t.Errorf("Revive says %v", err)
		}
	}
	if err := k.Write(t.Context(), storagetest.Entry(2)); reasonOf(err) != storage.Replaced {
		t.Errorf("Write says %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the other program's file was changed (%v)", err)
	}
	must(t, os.Rename(path, path+".foreign"), k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(2)))
}

// TestADamagedFileIsLeftForSomebodyToSave: overwritten in place, so that its identity
// says nothing.
func TestADamagedFileIsLeftForSomebodyToSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	for i := range 50 {
		must(t, k.Write(t.Context(), storagetest.Entry(i)))
	}
	must(t, k.Close())
	k = keep(t, path) // all is in the database, and nothing in the log
	overwrite(t, path)
	deadline := time.Now().Add(10 * time.Second)
	err := k.Write(t.Context(), storagetest.Entry(99)) // the writer may remember its pages
	for ; err == nil && time.Now().Before(deadline); err = k.Check(t.Context()) {
		time.Sleep(50 * time.Millisecond)
	}
	if reasonOf(err) != storage.Corrupt {
		t.Fatalf("it says %v", err)
	}
	if err := k.Revive(t.Context()); reasonOf(err) != storage.Corrupt || !strings.Contains(err.Error(), "move "+path+" away") {
		t.Errorf("Revive says %v", err)
	}
	must(t, os.Rename(path, path+".damaged"))
	must(t, k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(100)))
	if n := count(t, k); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// overwrite writes over the beginning of a file from another process, because a file
// of SQLite is never closed in this one.
func overwrite(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("dd", "if=/dev/zero", "of="+path, "bs=4096", "count=8", "conv=notrunc").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestALockOfAnotherProcessIsNamedInTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	deleted := storagetest.Entry(1)
	must(t, k.Write(t.Context(), deleted))
	if _, err := k.Unlink(t.Context(), deleted.UserID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the log is cut soon after a deletion
		if log, err := os.Stat(path + "-wal"); err == nil && log.Size() == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the log is not cut")
		}
	}
	other, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)") // the Keeper counts in the background; another connection is as good as another process
	must(t, err)
	defer func() { _ = other.Close() }()
	conn, err := other.Conn(t.Context())
	must(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	must(t, err)
	began := time.Now()
	err = k.Write(t.Context(), storagetest.Entry(2))
	if took := time.Since(began); reasonOf(err) != storage.Locked || took > 3*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	if err := k.Check(t.Context()); err != nil {
		t.Errorf("Check says %v", err)
	}
	if err := k.Revive(t.Context()); reasonOf(err) != storage.Locked {
		t.Errorf("Revive says %v", err)
	}
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	must(t, err, conn.Close(), k.Revive(t.Context()), k.Write(t.Context(), storagetest.Entry(2)))
}

// keeperProcess is set in a process that a test starts to keep a database.
const keeperProcess = "AUDIT_LOG_TEST_KEEP"

func TestMain(m *testing.M) {
	if path := os.Getenv(keeperProcess); path != "" {
		os.Exit(keepUntilTold(path))
	}
	if path := os.Getenv(rowProcess); path != "" {
		os.Exit(insertRow(path))
	}
	os.Exit(m.Run())
}

// keepUntilTold keeps a database until standard input ends.
func keepUntilTold(path string) int {
	k, err := sqlite.Keep(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("kept")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := k.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// keepElsewhere has another process keep a database, and returns what it says first
// and a function that kills it.
func keepElsewhere(t *testing.T, path string) (says string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), keeperProcess+"="+path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		_ = in.Close()
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(line), cmd.Process.Pid), kill
}

func TestADatabaseHasOneKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	says, kill := keepElsewhere(t, path)
	_, pid, _ := strings.Cut(says, "(")
	pid = "(" + pid
	_, err := sqlite.Keep(t.Context(), sqlite.Options{Path: path})
	if reasonOf(err) != storage.Locked || !strings.Contains(err.Error(), "another process "+pid+" writes to "+path) || !strings.Contains(err.Error(), "stop that one") {
		t.Errorf("the second one: %v, want it to name %s", err, pid)
	}
	plain := open(t, path) // a command's
	must(t, plain.Write(t.Context(), storagetest.Entry(1)), plain.Close())
	kill()
	k := keep(t, path)
	if n := count(t, k); n != 1 {
		t.Errorf("%d entries", n)
	}
	again := keep(t, path) // a reload
	must(t, k.Close(), again.Write(t.Context(), storagetest.Entry(2)))
	if says, _ := keepElsewhere(t, path); !strings.Contains(says, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("while one of two is left another process says %q", says)
	}
	must(t, os.Remove(path+".lock"), again.Check(t.Context()))
	if says, _ := keepElsewhere(t, path); !strings.Contains(says, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("after the lock file was removed another process says %q", says)
	}
	must(t, again.Close())
	if says, _ := keepElsewhere(t, path); !strings.HasPrefix(says, "kept") {
		t.Errorf("after the end another process says %q", says)
	}
	if info, err := os.Stat(path + ".lock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestSomebodyWhoTookTheLeaseIsNoticed: the lock file was removed, and another
// process was faster.
func TestSomebodyWhoTookTheLeaseIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	k := keep(t, path)
	must(t, os.Remove(path+".lock"))
	says, kill := keepElsewhere(t, path)
	if !strings.HasPrefix(says, "kept") {
		t.Fatal(says)
	}
	for _, f := range []func(context.Context) error{k.Check, k.Revive} {
		if err := f(t.Context()); reasonOf(err) != storage.Locked {
			t.Errorf("it says %v", err)
		}
	}
	kill()
	must(t, k.Revive(t.Context()), k.Check(t.Context()))
}
