package gates

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// SmallDisk mounts a disk of a size such as "16m" until the test ends. Without the right
// to mount one it returns why.
func SmallDisk(t testing.TB, size string) (dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil { //nolint:gosec // the caller names it
		return "", errors.New("a small disk needs the right to mount one: " + err.Error() + ": " + string(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil { //nolint:gosec // as above
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir, nil
}

// Fill leaves no byte free on a small disk, and returns how to free them.
func Fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	f := fill(t, dir)
	free = sync.OnceFunc(func() {
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(free) // a test that fails must leave nothing on the disk that is unmounted
	return free
}

// fill writes a file until the disk is full.
func fill(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast")) //nolint:gosec // the caller names it
	if err != nil {
		t.Fatal(err)
	}
	for n := 64 << 10; n > 0; {
		if _, err := f.Write(make([]byte, n)); errors.Is(err, syscall.ENOSPC) {
			n /= 16
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// Tracer says why strace cannot make system calls fail here; nil if it can.
func Tracer() error {
	if _, err := exec.LookPath("strace"); err != nil {
		return errors.New("there is no strace to make system calls fail: " + err.Error())
	}
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		return errors.New("strace may not watch processes here: " + err.Error() + ": " + string(out))
	}
	return nil
}
