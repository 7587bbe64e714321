package gates

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Flicker is Fill on a disk where others free a little, so many bytes, each time that it has been
// full for a while. free returns how often they did.
func Flicker(t testing.TB, dir string, bytes int64, every time.Duration) (free func() (times int)) {
	t.Helper()
	f := fill(t, dir)
	times := 0
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
			made, err := makeRoom(f, bytes)
			if err != nil {
				stopped <- errors.Join(err, f.Close())
				return
			}
			if made {
				times++
			}
		}
	}()
	end := sync.OnceFunc(func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end) // a test that fails must leave nothing on the disk that is unmounted
	return func() int {
		end()
		return times
	}
}

// makeRoom takes bytes off the end of a file, if its disk is full.
func makeRoom(f *os.File, bytes int64) (made bool, err error) {
	var disk syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &disk); err != nil || disk.Bavail > 1 {
		return false, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	return true, f.Truncate(max(0, size-bytes))
}
