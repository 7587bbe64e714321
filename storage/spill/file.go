package spill

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/caddy-audit-log/caddy-audit-log/storage/filelock"
)

// file is what a journal needs of an *os.File.
type file interface {
	io.ReaderAt
	io.WriterAt
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
	Close() error
}

// openFile opens a journal's file, or makes it if it is not there, for its owner
// only. Two journals cannot have one file.
func openFile(path string) (file, error) {
	f, err := createFile(path)
	if !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file: move it away", path)
	}
	old, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := checkOld(old, info); err != nil {
		return nil, errors.Join(err, old.Close())
	}
	return old, nil
}

// createFile makes the file, and its folder with mode 0700. After a power cut it is
// still there.
func createFile(path string) (file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(lock(f), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// checkOld takes over a file that was there: the one that was looked at, readable
// by its owner only.
func checkOld(f *os.File, seen fs.FileInfo) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, seen) {
		return errors.New("it was replaced while it was opened")
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return fmt.Errorf("others can read it, and its mode cannot be changed to 0600: %w", err)
		}
	}
	return lock(f)
}

func lock(f *os.File) error {
	if err := filelock.Try(f); err != nil && !errors.Is(err, filelock.ErrUnsupported) {
		return err
	}
	return nil
}

// syncDir makes the names in a folder durable. Some systems cannot, and need not.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// isAt says whether the open file is the one that the path names: nil if so,
// fs.ErrNotExist if the path names nothing.
func isAt(f file, path string) error {
	there, err := os.Lstat(path)
	if err != nil {
		return err
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(there, mine) {
		return fmt.Errorf("%s was replaced by another file: move that away", path)
	}
	return nil
}
