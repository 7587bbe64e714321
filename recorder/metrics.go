package recorder

import (
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Metrics counts what a monitoring system asks for. Its methods cost an atomic
// addition and may be called on a nil pointer, which counts nothing. Everything
// that it tells apart has few, fixed values: no users, no addresses, no paths.
type Metrics struct {
	entries       [len(metricClasses)][len(metricOutcomes)]atomic.Uint64
	lookups       [len(metricLookups)]atomic.Uint64
	refused       atomic.Uint64
	unknownRoutes atomic.Uint64
	hookFailures  atomic.Uint64
	suppressed    atomic.Uint64
	rolledUp      [len(rollUpKinds)]atomic.Uint64

	writes       [len(writeBounds) + 1]atomic.Uint64 // the last is beyond all bounds
	writtenNanos atomic.Int64
}

// The classes of entries; the last stands for all others.
var metricClasses = [...]string{
	"sign-in", "sign-up", "sign-out", "mfa", "credential", "session", "account", "token", "admin", "organization", "custom", "other",
}

var metricOutcomes = [...]storage.Status{storage.Success, storage.Failed, storage.Pending, storage.Unknown}

// LookupResult is how a question to the auth server ended.
type LookupResult uint8

// The results of a look-up.
const (
	// LookupUser: somebody is signed in.
	LookupUser LookupResult = iota
	// LookupNobody: nobody is.
	LookupNobody
	// LookupFailed: the auth server did not say.
	LookupFailed
)

var metricLookups = [...]string{LookupUser: "user", LookupNobody: "nobody", LookupFailed: "failed"}

// writeBounds are the upper bounds of the histogram of writes, in seconds.
var writeBounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3}

// Entry counts a finished entry of a class (see profile) with an outcome; also one that
// is then rolled up.
func (m *Metrics) Entry(class string, outcome storage.Status) {
	if m == nil {
		return
	}
	m.entries[indexOf(metricClasses[:], class)][indexOf(metricOutcomes[:], outcome)].Add(1)
}

// indexOf returns the place of v, the last one if it is not there.
func indexOf[T comparable](list []T, v T) int {
	for i, known := range list {
		if v == known {
			return i
		}
	}
	return len(list) - 1
}

// RolledUp counts an event that Entry has counted and that stands in a roll-up.
func (m *Metrics) RolledUp(kind RollUpKind) {
	if m != nil {
		m.rolledUp[kind].Add(1)
	}
}

// Refused counts a request that was answered with 503.
func (m *Metrics) Refused() {
	if m != nil {
		m.refused.Add(1)
	}
}

// Lookup counts a question to the auth server.
func (m *Metrics) Lookup(result LookupResult) {
	if m != nil && int(result) < len(m.lookups) {
		m.lookups[result].Add(1)
	}
}

// lookupResult is the result of a question that ended so.
func lookupResult(s Session, err error) LookupResult {
	switch {
	case err != nil:
		return LookupFailed
	case s.UserID == "":
		return LookupNobody
	}
	return LookupUser
}

// UnknownRoute counts a request under the base path that no route describes.
func (m *Metrics) UnknownRoute() {
	if m != nil {
		m.unknownRoutes.Add(1)
	}
}

// HookFailed counts a hook that failed.
func (m *Metrics) HookFailed() {
	if m != nil {
		m.hookFailures.Add(1)
	}
}

// Suppressed counts an entry that a hook has suppressed.
func (m *Metrics) Suppressed() {
	if m != nil {
		m.suppressed.Add(1)
	}
}

// WriteDuration counts a write to the store and how long it took.
func (m *Metrics) WriteDuration(d time.Duration) {
	if m == nil {
		return
	}
	i := 0
	for i < len(writeBounds) && d.Seconds() > writeBounds[i] {
		i++
	}
	m.writes[i].Add(1)
	m.writtenNanos.Add(int64(d))
}

// MetricsSnapshot is what a Metrics has counted.
type MetricsSnapshot struct {
	// Entries by class and outcome, every pair that there is.
	Entries map[string]map[storage.Status]uint64
	// Lookups by result: user, nobody, failed.
	Lookups map[string]uint64
	// RolledUp events by kind: unknown, check, sign-in.
	RolledUp map[string]uint64
	// Refused requests, UnknownRoutes, HookFailures and Suppressed as the methods count them.
	Refused, UnknownRoutes, HookFailures, Suppressed uint64
	// Writes is the histogram of WriteDuration: how many took at most so many
	// seconds, WriteCount of all, and their sum in seconds.
	Writes     map[float64]uint64
	WriteCount uint64
	WriteSum   float64
}

// Snapshot returns what was counted so far; zeros on a nil pointer.
func (m *Metrics) Snapshot() MetricsSnapshot {
	if m == nil {
		m = new(Metrics)
	}
	s := MetricsSnapshot{
		Entries: make(map[string]map[storage.Status]uint64), Lookups: make(map[string]uint64), Writes: make(map[float64]uint64),
		Refused: m.refused.Load(), UnknownRoutes: m.unknownRoutes.Load(), HookFailures: m.hookFailures.Load(), Suppressed: m.suppressed.Load(),
		WriteSum: time.Duration(m.writtenNanos.Load()).Seconds(),
	}
	for c, class := range metricClasses {
		s.Entries[class] = make(map[storage.Status]uint64)
		for o, outcome := range metricOutcomes {
			s.Entries[class][outcome] = m.entries[c][o].Load()
		}
	}
	s.RolledUp = make(map[string]uint64)
	for i, kind := range rollUpKinds {
		s.RolledUp[kind] = m.rolledUp[i].Load()
	}
	for i, result := range metricLookups {
		s.Lookups[result] = m.lookups[i].Load()
	}
	for i := range m.writes {
		s.WriteCount += m.writes[i].Load()
		if i < len(writeBounds) {
			s.Writes[writeBounds[i]] = s.WriteCount
		}
	}
	return s
}
