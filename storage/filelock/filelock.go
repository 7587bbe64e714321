// Package filelock keeps two owners from using one file: an advisory lock that ends
// with the descriptor or the process, however the process ends (flock(2)).
//
// Never lock a file of SQLite with it: not because of the lock, but because closing
// the descriptor would drop SQLite's own locks (threats.md X13).
package filelock

import "errors"

// ErrHeld says that somebody else holds the lock: another process, or another
// descriptor of this one.
var ErrHeld = errors.New("the file is locked by somebody else")

// ErrUnsupported says that the system or the file system knows no such lock.
var ErrUnsupported = errors.New("the file cannot be locked here")
