package spill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// DefaultLimit is how large a journal may become unless told otherwise: some 100,000
// entries.
const DefaultLimit = 64 << 20

const (
	// leastPatience and mostPatience bound how long a call waits for the primary
	// before its entries go to the journal: half of the time that it has.
	leastPatience = time.Second
	mostPatience  = 2 * time.Second
	// sharedPatience is that of calls whose context nothing ends but a deadline that is
	// at least twice as far: they share theirs.
	sharedPatience = 1400 * time.Millisecond
	// maxRounds bounds how often a call turns from the primary to the journal and
	// back, when the one fails and recovers while the other is asked.
	maxRounds = 4
	// startWait bounds how long New waits for what an earlier process left.
	startWait = 10 * time.Second
	// closeWait bounds how long Close waits for a disk.
	closeWait = 5 * time.Second
	// paceEach and longestPace are how long a call waits, for each entry in the journal and
	// at most, while the journal is being written to the primary.
	paceEach    = 20 * time.Microsecond
	longestPace = 25 * time.Millisecond
)

// Options of a Store.
type Options struct {
	// Limit is how large the journal may become, in bytes; 0 means DefaultLimit. Less
	// than 0 means that it takes nothing: the primary is only watched and tried again.
	Limit int64
	// Logger gets a line at each change of state; nil discards.
	Logger *slog.Logger

	// open opens the journal's file; tests have it fail.
	open func(path string) (file, error)
}

// Tended is a primary that knows more about itself than its errors say. Without it a
// primary is tried with entries.
type Tended interface {
	// Check says cheaply whether the store is still what it was. It is called a few
	// times a second.
	Check(ctx context.Context) error
	// Revive makes the store work again if that can be done, and proves it with
	// something durable that leaves no entry.
	Revive(ctx context.Context) error
}

// Store is a primary with a journal. Use New. It is safe for concurrent use.
type Store struct {
	primary storage.Store
	tended  Tended // nil: it is not
	journal *journal
	path    string
	log     *slog.Logger

	// era is the time since the primary works; nil while it does not.
	era    atomic.Pointer[era]
	wake   chan struct{} // tells supervise that it does not
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed by supervise
	closed atomic.Bool
	// replaying is true while the primary works again and is given what is in the journal.
	replaying atomic.Bool

	// refusals counts entries that the primary refused as they were.
	refusals   atomic.Uint64
	refusalLog rate.Sometimes
	// refusedFile is held by whoever writes to the file of those.
	refusedFile sync.Mutex
	lastRefused jsonEntry // what was written there last

	// mu protects the fields below.
	mu     sync.Mutex
	health storage.Health
	// refused is the journal's last failure, at refusedAt; nil when it works.
	refused   error
	refusedAt time.Time
}

// era is a time in which the primary works. Its end ends the waiting of all calls
// that are with the primary.
type era struct {
	ctx context.Context
	end context.CancelFunc
	// deadlines are those of calls that share theirs.
	deadlines *storage.Deadlines
}

// newEra begins an era within ctx.
func newEra(ctx context.Context) *era {
	e := new(era)
	e.ctx, e.end = context.WithCancel(ctx)
	e.deadlines = storage.NewDeadlines(e.ctx, sharedPatience)
	return e
}

// patient is the context for a call with ctx, if it can be one that is shared.
func (e *era) patient(ctx context.Context) (shared context.Context, ok bool) {
	if deadline, _ := ctx.Deadline(); !storage.OnlyDeadline(ctx) || time.Until(deadline) < 2*sharedPatience {
		return nil, false
	}
	return e.deadlines.Context(storage.DurabilityOf(ctx)), true
}

// New returns a store that writes to primary, and to a journal at path when it
// fails. What an earlier process left in the journal is written to the primary
// first. The result is a storage.Unlinker if primary is one; other optional
// interfaces are found with storage.As. Its Close closes primary too.
//
// It is an error if the journal's file is somebody else's or in use. A primary or
// disk that fails is none: the store begins degraded.
func New(primary storage.Store, path string, o Options) (storage.Store, error) {
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	if o.open == nil {
		o.open = openFile
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	s := &Store{primary: primary, path: path, log: o.Logger, wake: make(chan struct{}, 1), done: make(chan struct{}), refusalLog: rate.Sometimes{Interval: time.Second}}
	s.tended, _ = storage.As[Tended](primary)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.health.State, s.health.Since = storage.Healthy, time.Now()
	var err error
	if s.journal, err = openJournal(path, max(0, o.Limit), o, func() bool { return s.era.Load() != nil }); err != nil {
		s.cancel()
		return nil, err
	}
	s.begin()
	go s.supervise()
	if _, ok := storage.As[storage.Unlinker](primary); ok {
		return &unlinker{s}, nil
	}
	return s, nil
}

// begin is the first try of the primary.
func (s *Store) begin() {
	ctx, cancel := context.WithTimeout(s.ctx, startWait)
	defer cancel()
	waiting, _ := s.journal.left()
	err := s.check(ctx)
	if err == nil {
		err = s.replay(ctx)
	}
	switch {
	case err != nil:
		s.down(nil, err)
	case waiting > 0:
		s.log.Info("audit log entries that an earlier process left in the journal are in the database now", "journal", s.path, "entries", waiting)
	}
}

// Unwrap implements storage.Wrapper.
func (s *Store) Unwrap() storage.Store { return s.primary }

// Journal is the journal's file.
func (s *Store) Journal() string { return s.path }

// Write implements storage.Store. It waits for the primary for a second or two at
// most, and not at all while it fails.
func (s *Store) Write(ctx context.Context, entries ...storage.Entry) error {
	if len(entries) == 0 {
		return ctx.Err()
	}
	_, err := s.submit(ctx, change{entries: entries})
	return err
}

// unlinker is a Store whose primary is a storage.Unlinker.
type unlinker struct{ *Store }

// Unlink implements storage.Unlinker. While the primary fails it is done later, and
// the number of entries is 0. A user with many entries may take longer than a call waits: then
// so many as it returns are done, with an error, and another call goes on.
func (u *unlinker) Unlink(ctx context.Context, userID string) (int, error) {
	if userID == "" {
		return 0, nil
	}
	return u.submit(ctx, change{unlink: userID})
}

// submit has the primary or the journal take the change, and returns how many entries
// were unlinked.
func (s *Store) submit(ctx context.Context, c change) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	for range maxRounds {
		if s.closed.Load() {
			return 0, storage.ErrClosed
		}
		if e := s.era.Load(); e != nil {
			n, err := s.try(ctx, e, c)
			if err == nil || ctx.Err() != nil || n > 0 || errors.Is(err, storage.ErrRejected) {
				return n, err // a primary that has unlinked some entries of many works
			}
			s.down(e, err)
		}
		if err := s.spill(ctx, c); !errors.Is(err, errDirect) {
			return 0, err
		}
	}
	return 0, &storage.Fault{Reason: storage.Unspecified, Err: errors.New("the audit log's database fails and recovers too fast")}
}

// try asks the primary, until the call's patience or the era ends.
func (s *Store) try(ctx context.Context, e *era, c change) (int, error) {
	if shared, ok := e.patient(ctx); ok {
		return s.apply(shared, c)
	}
	ctx, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	return s.apply(ctx, c)
}

// patience is how long a call with this context waits for the primary.
func patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return mostPatience
	}
	return max(leastPatience, min(time.Until(deadline)/2, mostPatience))
}

// spill appends the change to the journal.
func (s *Store) spill(ctx context.Context, c change) error {
	if s.journal.limit.Load() == 0 {
		return s.whyDown()
	}
	record, err := encode(c)
	if err != nil {
		return fmt.Errorf("%w: %w", storage.ErrRejected, err)
	}
	err = s.journal.append(ctx, record, c.weight(), c.unlink != "" || storage.DurabilityOf(ctx) == storage.Fsync)
	if !errors.Is(err, errDirect) && !errors.Is(err, context.Canceled) {
		s.journaled(err)
	}
	if err == nil {
		s.pace(ctx)
	}
	return err
}

// pace has a caller whose entry is in the journal wait a little while that is being written
// to the primary: under a load that is higher than what the primary takes with the journal's
// entries before it, the journal would never come to its end.
func (s *Store) pace(ctx context.Context) {
	if !s.replaying.Load() {
		return
	}
	waiting, _ := s.journal.left()
	wait := time.NewTimer(min(time.Duration(waiting)*paceEach, longestPace))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done(): // it is durable all the same
	case <-s.ctx.Done():
	}
}

// Close closes the primary, and leaves what it does not have in the journal for the
// next time.
func (s *Store) Close() error {
	s.closed.Store(true)
	s.cancel()
	var err error
	select {
	case <-s.done:
	case <-time.After(closeWait):
		err = errors.New("the audit log's disk does not answer")
	}
	return errors.Join(err, s.closeJournal(), s.closePrimary())
}

// closePrimary closes it, if its disk answers: otherwise it is left alone, and closed when the
// disk does.
func (s *Store) closePrimary() error {
	c, ok := storage.As[storage.Closer](s.primary)
	if !ok {
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeWait):
		return errors.New("the audit log's database is not closed: its disk does not answer")
	}
}

func (s *Store) closeJournal() error {
	err := s.journal.close(closeWait)
	if waiting, _ := s.journal.left(); waiting > 0 {
		s.log.Warn("audit log entries stay in the journal: the next start writes them to the database", "journal", s.path, "entries", waiting)
	}
	return err
}

var (
	_ storage.Wrapper  = (*Store)(nil)
	_ storage.Reporter = (*Store)(nil)
	_ storage.Closer   = (*Store)(nil)
	_ storage.Unlinker = (*unlinker)(nil)
)
