package storage

import (
	"errors"
	"time"
)

// State says whether a store takes entries.
type State string

// The states.
const (
	// Healthy: entries go where they belong.
	Healthy State = "healthy"
	// Degraded: the database fails, and entries are kept, as durably, in its place.
	Degraded State = "degraded"
	// Refusing: entries are not taken, and the fail policy of each route decides.
	Refusing State = "refusing"
)

// States lists all of them, the best first.
func States() []State { return []State{Healthy, Degraded, Refusing} }

// Reason says why a store is not healthy, in one of few words.
type Reason string

// The reasons.
const (
	DiskFull  Reason = "disk full"
	IOError   Reason = "I/O error"
	Deleted   Reason = "database deleted"
	Replaced  Reason = "database replaced"
	Locked    Reason = "locked by another process"
	Corrupt   Reason = "database corrupt"
	Forbidden Reason = "permission denied"
	Slow      Reason = "no answer in time"
	// LimitReached: what entries are kept in meanwhile has its full size.
	LimitReached Reason = "spill limit reached"
	// Unspecified: the error says more.
	Unspecified Reason = "other"
)

// ErrRejected says that the store works but will never take this entry.
var ErrRejected = errors.New("the store cannot keep this entry")

// Health is how a store is.
type Health struct {
	State State
	// Reason and Remedy say why it is not healthy and what to do; empty when it is.
	Reason Reason
	Remedy string
	// Since is when the State began.
	Since time.Time
	// Waiting is how many entries wait to be written to the database, and
	// WaitingBytes how much room they take of at most LimitBytes.
	Waiting                  int
	WaitingBytes, LimitBytes int64
	// Damaged counts what waited and could not be read again, since the store was
	// opened.
	Damaged uint64
	// Refused counts entries that the database would never take as they were, since the store
	// was opened: they are there without their metadata, and whole in a file beside the journal.
	Refused uint64
	// Err is the last error, which stays when the store is healthy again; nil for
	// none yet.
	Err error
}

// Reporter is a Store that knows how it is.
type Reporter interface {
	// Health returns at once; it does not try anything.
	Health() Health
}
