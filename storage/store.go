package storage

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
)

// Store keeps entries. It is the whole contract that a custom store must meet;
// Lister, Getter, Pruner and Unlinker are optional, and the API answers 501 for
// what a store lacks. Callers find them with As, because one store may stand in front
// of another. All methods are safe for concurrent use.
type Store interface {
	// Write stores the entries, or replaces those whose ID is already there
	// (CreatedAt and with it their place in the order stay). All of one call or none of it; the same
	// call again changes nothing. When Write returns nil the entries are as
	// durable as WithDurability asked. Entries have been through Sanitize.
	Write(ctx context.Context, entries ...Entry) error
}

// Lister is a Store that can answer lists.
type Lister interface {
	// List returns a page of entries, newest first (descending SortKey).
	List(ctx context.Context, q Query) (Page, error)
}

// Getter is a Store that can find one entry.
type Getter interface {
	// Get returns the entry with that id, or ErrNotFound.
	Get(ctx context.Context, id string) (Entry, error)
}

// Pruner is a Store that can forget.
type Pruner interface {
	// Prune deletes up to max entries created before the given time, oldest
	// first, and returns how many it deleted. Callers repeat it until it is 0.
	Prune(ctx context.Context, before time.Time, max int) (int, error)
}

// Unlinker is a Store that can keep a deleted user's entries without the user.
type Unlinker interface {
	// Unlink sets UserID to null in every entry of that user and returns how
	// many there were (the plugin's ON DELETE SET NULL).
	Unlink(ctx context.Context, userID string) (int, error)
}

// Aggregator is a Store that can count its entries in groups, for charts and statistics.
// Both methods count exactly, ignore the query's page, and look at as much as they must:
// the caller's context bounds how long.
type Aggregator interface {
	// Histogram counts what q selects by time and status: the buckets that have any,
	// oldest first. They begin at multiples of step since 1970, UTC; step is at least
	// a millisecond.
	Histogram(ctx context.Context, q Query, step time.Duration) ([]Bucket, error)
	// Tally counts what q selects by action, class, status and severity, in the order of
	// CompareTallies.
	Tally(ctx context.Context, q Query) ([]Tally, error)
}

// Bucket is one step of a Histogram.
type Bucket struct {
	// At is its beginning.
	At time.Time
	// Counts of entries by Status.Code.
	Counts [StatusCodes]int
	// Events are how many events these entries stand for, see EventsIn.
	Events [StatusCodes]int
}

// Tally is one group of Aggregator.Tally.
type Tally struct {
	Action, Class string
	Status        Status
	Severity      severity.Level
	// Count of entries, and how many events they stand for, see EventsIn.
	Count, Events int
}

// CompareTallies orders tallies as Aggregator.Tally does: those with the most events first,
// so that a flood stands at the top however few entries tell of it, then those with the most
// entries, equal ones by what they count.
func CompareTallies(a, b Tally) int {
	return cmp.Or(cmp.Compare(b.Events, a.Events), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Class, b.Class),
		cmp.Compare(a.Status.Code(), b.Status.Code()), cmp.Compare(a.Severity, b.Severity))
}

// Closer is a Store that holds resources. Close flushes what Write acknowledged
// and is called once, after the last other call.
type Closer interface {
	Close() error
}

// ErrNotFound says that no entry has the id.
var ErrNotFound = errors.New("audit log entry not found")

// ErrBadCursor says that a cursor did not come from this store.
var ErrBadCursor = errors.New("bad cursor: use the nextCursor of an earlier answer")

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("audit log store is closed")

// Limits of a Query.
const (
	DefaultLimit = 50
	MaxLimit     = 500
	// MaxTotal is how far List counts if it would have to look at each entry.
	MaxTotal = 10000
)

// Query selects entries. The zero value is the first page of everything.
type Query struct {
	// UserID: nil for any user, a pointer to "" for entries without one.
	UserID *string
	// IdentifierHash widens UserID to attempts on that user's account: also
	// entries without a user, failed or pending, that have this IdentifierHash.
	// When UserID is nil it selects the entries that have it, whosever they are. With
	// entries without a user (a pointer to "") it means nothing.
	IdentifierHash string
	// Action, exact; empty for any.
	Action string
	// Class as metadata.class says it, such as "sign-in"; empty for any.
	Class string
	// IPAddress, exact; empty for any.
	IPAddress string
	// Status, exact; empty for any.
	Status Status
	// Severity, exact; nil for any.
	Severity *severity.Level
	// Text is a part of the action, user, address, or of what metadata says as
	// identifier, targetUserId, error.code or sessionHash; letters A to Z match in either case.
	// Empty for any.
	Text string
	// TextInAgent looks for Text in the user agent too.
	TextInAgent bool
	// From and To bound CreatedAt, both inclusive; zero for open.
	From, To time.Time
	// Limit of the page, 1 to MaxLimit; 0 means DefaultLimit.
	Limit int
	// Offset skips entries; ignored when Cursor is set.
	Offset int
	// Cursor continues after an earlier page: that page's NextCursor.
	Cursor string
	// NoTotal: the page need not say how many there are. Total is then 0, or as without it.
	NoTotal bool
}

// PageLimit is q.Limit within its bounds.
func (q *Query) PageLimit() int {
	switch {
	case q.Limit <= 0:
		return DefaultLimit
	case q.Limit > MaxLimit:
		return MaxLimit
	}
	return q.Limit
}

// Matches says whether the entry is selected, without regard to the page.
func (q *Query) Matches(e *Entry) bool {
	switch {
	case q.UserID != nil && e.UserID != *q.UserID && !q.attempted(e),
		q.UserID == nil && q.IdentifierHash != "" && e.IdentifierHash != q.IdentifierHash,
		q.Action != "" && e.Action != q.Action,
		q.Class != "" && ClassIn(e.Metadata) != q.Class,
		q.IPAddress != "" && e.IPAddress != q.IPAddress,
		q.Status != "" && e.Status != q.Status,
		q.Severity != nil && e.Severity != *q.Severity,
		!q.From.IsZero() && e.CreatedAt.Before(q.From.Truncate(time.Millisecond)),
		!q.To.IsZero() && e.CreatedAt.After(q.To),
		q.Text != "" && !q.contains(e):
		return false
	}
	return true
}

// attempted says whether the entry is an attempt on the account that
// IdentifierHash names.
func (q *Query) attempted(e *Entry) bool {
	return q.Widened() && e.UserID == "" && e.IdentifierHash == q.IdentifierHash && (e.Status == Failed || e.Status == Pending)
}

// Widened says whether IdentifierHash has a meaning in this query.
func (q *Query) Widened() bool {
	return q.IdentifierHash != "" && q.UserID != nil && *q.UserID != ""
}

// Page is one answer of List.
type Page struct {
	Entries []Entry
	// Total counts the matches of the query before paging: up to MaxTotal, or exactly if
	// the store knows it without counting.
	Total int
	// TotalIsCapped is true when there are more matches than Total, which is MaxTotal.
	TotalIsCapped bool
	// NextCursor asks for the page after this one; empty on the last page.
	NextCursor string
}

// Durability is what must be true of an entry when Write returns.
type Durability uint8

// The durabilities. The zero value, Fsync, is the strongest.
const (
	// Fsync: on disk, survives a power cut.
	Fsync Durability = iota
	// Commit: committed, survives a killed process but not a power cut.
	Commit
)

type durabilityKey struct{}

// WithDurability asks the next Write for less than Fsync. A store that cannot
// weaken its promise ignores it.
func WithDurability(ctx context.Context, d Durability) context.Context {
	return context.WithValue(ctx, durabilityKey{}, d)
}

// DurabilityOf returns what WithDurability asked for, Fsync if nothing did.
func DurabilityOf(ctx context.Context) Durability {
	d, _ := ctx.Value(durabilityKey{}).(Durability)
	return d
}
