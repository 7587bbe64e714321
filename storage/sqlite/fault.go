package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// code is SQLite's extended result code in err; 0 if there is none.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return lib.SQLITE_OK
}

// primary is the result code without its extension (sqlite.org/rescode.html).
func primary(code int) int { return code & 0xff }

// faultOf says what an error is about: a *storage.Fault of the database, or an entry
// that no database takes (storage.ErrRejected). What is no error of SQLite or of
// the system stays as it is.
func faultOf(path string, err error) error {
	if f := (*storage.Fault)(nil); errors.As(err, &f) {
		return err
	}
	c := code(err)
	var reason storage.Reason
	switch primary(c) {
	case lib.SQLITE_OK:
		if errors.Is(err, errForeign) || errors.Is(err, errNewer) {
			return storage.NewFault(storage.Replaced, path, err)
		}
		if f := storage.FaultOf(path, err); f.Reason != storage.Unspecified {
			return f
		}
		return err
	case lib.SQLITE_FULL:
		reason = storage.DiskFull
	case lib.SQLITE_IOERR:
		reason = storage.IOError
		if free, known := freeBytes(filepath.Dir(path)); known && free < 64<<10 {
			reason = storage.DiskFull // it cannot make its files longer
		}
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		reason = storage.Corrupt
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		reason = storage.Locked
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM, lib.SQLITE_AUTH:
		reason = storage.Forbidden
		if free, known := freeBytes(filepath.Dir(path)); known && free < 64<<10 {
			reason = storage.DiskFull
		}
	case lib.SQLITE_CONSTRAINT: // our tables have none that an entry could violate
		return &storage.Fault{Reason: storage.Forbidden, Remedy: "somebody has added a trigger or a constraint to the tables in " + path + ", which refuses entries: take it away", Err: err}
	case lib.SQLITE_TOOBIG, lib.SQLITE_MISMATCH, lib.SQLITE_RANGE:
		return fmt.Errorf("%w: %w", storage.ErrRejected, err)
	default:
		reason = storage.Unspecified
	}
	return storage.NewFault(reason, path, err)
}

// poisons says whether an error leaves a connection that must not be used again:
// after an fsync that failed the next one succeeds, and the data are gone (threats.md
// X13 and E2.2). Memory that cannot be had and files that cannot be made longer
// leave nothing behind.
func poisons(err error) bool {
	c := code(err)
	switch c {
	case lib.SQLITE_IOERR_NOMEM, lib.SQLITE_IOERR_SHMSIZE, lib.SQLITE_IOERR_SHMMAP:
		return false
	}
	return primary(c) == lib.SQLITE_IOERR
}

// busy says whether somebody else has the database.
func busy(err error) bool { return primary(code(err)) == lib.SQLITE_BUSY }

// damaged says whether the file is not, or not wholly, a database.
func damaged(err error) bool {
	c := primary(code(err))
	return c == lib.SQLITE_CORRUPT || c == lib.SQLITE_NOTADB
}
