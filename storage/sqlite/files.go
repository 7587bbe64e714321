package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// suffixes of the files that a database in use consists of.
var suffixes = [...]string{"", "-wal", "-shm"}

// fileSet are the files of an open database as they were when it was opened; nil for
// one that was not there. They are looked at, never opened (see inUse).
type fileSet [len(suffixes)]fs.FileInfo

// filesAt looks at the files of a database.
func filesAt(path string) (fileSet, error) {
	var set fileSet
	for i, suffix := range suffixes {
		info, err := os.Lstat(path + suffix)
		if err != nil && (i == 0 || !errors.Is(err, fs.ErrNotExist)) {
			return set, err
		}
		if err == nil {
			set[i] = info
		}
	}
	return set, nil
}

// check says how the files that path names differ from those of the set: a
// *storage.Fault, or nil if they are the same. SQLite would write on into a file that
// has no name any more, and report success (threats.md X13).
func (set *fileSet) check(path string) error {
	for i, suffix := range suffixes {
		if set[i] == nil {
			continue
		}
		info, err := os.Lstat(path + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return storage.NewFault(storage.Deleted, path, fmt.Errorf("%s%s was removed while it was in use", path, suffix))
		case err != nil:
			return storage.FaultOf(path, err)
		case !os.SameFile(info, set[i]):
			f := storage.NewFault(storage.Replaced, path, fmt.Errorf("%s%s is another file than the one in use", path, suffix))
			f.Remedy = "none if it is an audit log: it is opened"
			return f
		case i == 0 && info.Size() == 0 && set[i].Size() > 0:
			return storage.NewFault(storage.Corrupt, path, fmt.Errorf("%s was emptied while it was in use", path))
		}
	}
	return nil
}

// moved says whether the database itself, not only one of the files beside it, is
// another one than in the set.
func (set *fileSet) moved(path string) bool {
	info, err := os.Lstat(path)
	return err != nil || set[0] == nil || !os.SameFile(info, set[0])
}

// leftover returns the files beside the database that path names and that are those
// of the set: if the database is another one, they do not belong to it.
func (set *fileSet) leftover(path string) []string {
	var left []string
	for i, suffix := range suffixes {
		info, err := os.Lstat(path + suffix)
		if i > 0 && err == nil && set[i] != nil && os.SameFile(info, set[i]) {
			left = append(left, path+suffix)
		}
	}
	return left
}

// watch notes which files the store has, when all its connections are open.
func (s *Store) watch(ctx context.Context) error {
	if err := errors.Join(s.read.PingContext(ctx), s.ticker.db.PingContext(ctx)); err != nil {
		return err
	}
	files, err := filesAt(s.path)
	if err != nil {
		return err
	}
	inUse.Lock()
	opened := inUse.files[s]
	inUse.Unlock()
	if !os.SameFile(opened, files[0]) {
		return storage.NewFault(storage.Replaced, s.path, errors.New("the file was replaced while it was opened"))
	}
	s.files = files
	s.writer.guard.verify = s.verify
	return nil
}

// verify says whether the files are still those that were opened.
func (s *Store) verify() error { return s.files.check(s.path) }

// abandon closes a store whose files are not those that path names, or whose disk
// failed, so that path can be opened anew. If the database was moved elsewhere, it
// takes with it what is still in the log.
func (s *Store) abandon() error {
	s.stopCounting() // a reader would keep the log from being emptied
	moved := s.files.moved(s.path)
	complete := false
	if moved {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		complete = s.emptyLog(ctx) == nil
		cancel()
	}
	err := s.Close() // SQLite leaves the log of a file that was moved alone
	if !moved {
		return err
	}
	for _, name := range s.files.leftover(s.path) {
		err = errors.Join(err, setAside(name, complete))
	}
	return err
}

// emptyLog moves all of the log into the database.
func (s *Store) emptyLog(ctx context.Context) error {
	var blocked, pages, moved int
	err := s.ticker.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&blocked, &pages, &moved)
	if err == nil && moved < pages {
		err = errors.New("somebody reads the database")
	}
	return err
}

// setAside removes a file that SQLite would take for the log of another database
// than it is of. If something may be in it that is nowhere else, it is kept under
// another name.
func setAside(name string, worthless bool) error {
	if worthless {
		return os.Remove(name)
	}
	return os.Rename(name, fmt.Sprintf("%s.left-%d", name, time.Now().UnixNano()))
}
