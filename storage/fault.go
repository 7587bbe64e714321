package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Fault is an error of a store itself, not of what is asked of it, with what to do
// about it.
type Fault struct {
	Reason Reason
	// Remedy says what a person can do, such as "free space on /var/lib/audit"; it
	// may be empty.
	Remedy string
	// Err is what happened.
	Err error
}

// Error says reason, unless it is Unspecified, cause and remedy.
func (f *Fault) Error() string {
	text := f.Err.Error()
	if f.Reason != Unspecified {
		text = fmt.Sprintf("%s: %s", f.Reason, text)
	}
	if f.Remedy != "" {
		text += ": " + f.Remedy
	}
	return text
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// NewFault says what can be done about a failure of a file, for a known reason.
func NewFault(reason Reason, path string, err error) *Fault {
	if path == "" {
		return &Fault{Reason: reason, Err: err}
	}
	remedies := map[Reason]string{
		DiskFull:  "free space on the file system of " + filepath.Dir(path),
		IOError:   "check the disk under " + filepath.Dir(path) + " and the kernel's log",
		Deleted:   "a new one is made; to bring the old one back, move it to " + path,
		Replaced:  "move " + path + " away, or give the audit log another path",
		Locked:    "close the other program that holds " + path,
		Corrupt:   "move " + path + " away, and a new one is made; sqlite3's .recover may read the old one",
		Forbidden: "let the user who runs Caddy write to " + path + " and to its folder",
		Slow:      "look what keeps the disk under " + filepath.Dir(path) + " busy",
	}
	return &Fault{Reason: reason, Remedy: remedies[reason], Err: err}
}

// FaultOf returns the Fault in err, or makes one of what the system says about a
// file.
func FaultOf(path string, err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return NewFault(reasonOf(err), path, err)
}

// reasonOf knows the errors of the operating system.
func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return DiskFull
	case errors.Is(err, syscall.EIO):
		return IOError
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return Forbidden
	case errors.Is(err, context.DeadlineExceeded):
		return Slow
	}
	return Unspecified
}
