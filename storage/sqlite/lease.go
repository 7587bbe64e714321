package sqlite

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/filelock"
)

// lease is this process's right to be the one Caddy that writes to a database: a lock
// on a file beside it, which holds the process's number. It ends with the process.
// Keepers of one process share it.
type lease struct {
	path string // of the lock file

	// The fields below are protected by leases.
	file *os.File
	refs int
}

// leases are those that this process holds.
var leases = struct {
	sync.Mutex
	held map[*lease]struct{}
}{held: map[*lease]struct{}{}}

// takeLease takes the lease of a database, and makes the folder if it is not there. A
// file system without locks has none, and takes anybody's word.
func takeLease(database string) (*lease, error) {
	path := database + ".lock"
	leases.Lock()
	defer leases.Unlock()
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if held := leaseOn(f); held != nil {
		held.refs++
		return held, f.Close()
	}
	l := &lease{path: path, refs: 1}
	if l.file, err = l.claim(f); err != nil {
		return nil, err
	}
	leases.held[l] = struct{}{}
	return l, nil
}

// openLock opens the lock file, or makes it, and its folder.
func openLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, storage.FaultOf(path, err)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is a %s, not a regular file: move it away", path, kind(info.Mode()))
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, storage.FaultOf(path, err)
	}
	return f, nil
}

// leaseOn returns the lease that this process holds on an open file. The caller holds
// leases.
func leaseOn(f *os.File) *lease {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	for l := range leases.held {
		if mine, err := l.file.Stat(); err == nil && os.SameFile(info, mine) {
			return l
		}
	}
	return nil
}

// claim locks the file and writes who has it, or closes it.
func (l *lease) claim(f *os.File) (*os.File, error) {
	switch err := filelock.Try(f); {
	case errors.Is(err, filelock.ErrHeld):
		return nil, errors.Join(l.taken(f), f.Close())
	case err != nil && !errors.Is(err, filelock.ErrUnsupported):
		return nil, errors.Join(storage.FaultOf(l.path, err), f.Close())
	}
	// A full disk keeps the number out, not the lock.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, nil
}

// taken says who has the lease.
func (l *lease) taken(f *os.File) error {
	who := "another process"
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, 32)); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			who = fmt.Sprintf("another process (pid %d)", pid)
		}
	}
	database := strings.TrimSuffix(l.path, ".lock")
	fault := storage.NewFault(storage.Locked, database, fmt.Errorf("%s writes to %s: an audit log has one Caddy", who, database))
	fault.Remedy = "stop that one, or give this one another path"
	return fault
}

// renew makes sure that the lock is on the file that others would look at: one that
// was removed is made again.
func (l *lease) renew() error {
	leases.Lock()
	defer leases.Unlock()
	there, err := os.Lstat(l.path)
	if err == nil {
		if mine, err := l.file.Stat(); err == nil && os.SameFile(there, mine) {
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return storage.FaultOf(l.path, err)
	}
	f, err := openLock(l.path)
	if err != nil {
		return err
	}
	if f, err = l.claim(f); err != nil {
		return err
	}
	_ = l.file.Close() // it has no name any more
	l.file = f
	return nil
}

// release gives the lease back. The file stays: whoever removes a lock file takes the
// lock of somebody who has just opened it.
func (l *lease) release() error {
	leases.Lock()
	defer leases.Unlock()
	if l.refs--; l.refs > 0 {
		return nil
	}
	delete(leases.held, l)
	return l.file.Close()
}
