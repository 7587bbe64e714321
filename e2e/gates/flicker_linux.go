package gates

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
)

// Flicker is Fill on a disk where others free a little, so many bytes, each time that it has been
// full for a while.
func Flicker(t testing.TB, dir string, bytes int64, every time.Duration) (free func()) {
	t.Helper()
	f := fill(t, dir)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				stopped <- errors.Join(f.Close(), os.Remove(f.Name()))
				return
			case <-tick.C:
			}
			if err := makeRoom(f, bytes); err != nil {
				stopped <- errors.Join(err, f.Close())
				return
			}
		}
	}()
	return func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
}

// makeRoom takes bytes off the end of a file, if its disk is full.
func makeRoom(f *os.File, bytes int64) error {
	var disk syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &disk); err != nil || disk.Bavail > 1 {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return f.Truncate(max(0, size-bytes))
}
