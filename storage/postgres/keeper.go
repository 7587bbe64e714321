package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// firstWait is how long Keep waits for a server, and openWait how long an attempt to
	// open goes on after that: another process may be making the tables.
	firstWait = 3 * time.Second
	openWait  = migrationTimeout*5/4 + connectTimeout
	// goneFor is how long a Keeper's write tries a server again that is gone: whoever
	// asked has a journal.
	goneFor = 250 * time.Millisecond
	// lookEvery is how often a Keeper asks its server something.
	lookEvery = time.Second
	lookWait  = 500 * time.Millisecond
)

// errNotOpen says that a Keeper has no database yet.
var errNotOpen = errors.New("the audit log's database is not open")

// Keeper is a log that can be had before its server can: Keep succeeds when no server
// answers, and Revive opens it when one does. It is for a store with a journal in front:
// a write to a server that is gone fails at once. Use Keep. It is safe for concurrent
// use.
type Keeper struct {
	log *slog.Logger
	// turn is held while the options are changed and the Store is proved.
	turn sync.Mutex

	// mu protects the fields below.
	mu      sync.RWMutex
	options Options
	store   *Store // nil while there is none
	why     error  // why there is none
	opening *opening
	looked  time.Time // when the server was last asked something
	// notBefore is when it may be opened again, after its tables could not be changed in time.
	notBefore time.Time
	closed    bool
}

// opening is an attempt to open the Store.
type opening struct {
	stop context.CancelFunc
	done chan struct{} // closed when store and err are set
	// store is what was opened; err why not.
	store *Store
	err   error
}

var (
	_ storage.Store    = (*Keeper)(nil)
	_ storage.Lister   = (*Keeper)(nil)
	_ storage.Getter   = (*Keeper)(nil)
	_ storage.Pruner   = (*Keeper)(nil)
	_ storage.Unlinker = (*Keeper)(nil)
	_ storage.Closer   = (*Keeper)(nil)
	_ storage.Sizer    = (*Keeper)(nil)
	_ storage.Counter  = (*Keeper)(nil)
	_ storage.Clock    = (*Keeper)(nil)
)

// Keep opens a log like Open. That no server answers, or not yet, is no error: then
// Revive opens it. What somebody has to change is one: a wrong password, a database that
// is not there, tables that are not ours.
func Keep(ctx context.Context, o Options) (*Keeper, error) {
	if err := Check(o); err != nil {
		return nil, fmt.Errorf("audit log in PostgreSQL: %w", err)
	}
	o = o.withDefaults()
	o.hurried = true
	k := &Keeper{options: o, log: o.Logger}
	ctx, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	err := k.open(ctx)
	if err == nil {
		return k, nil
	}
	if lasting(err) {
		return nil, errors.Join(err, k.Close())
	}
	k.log.Error("the audit log's database cannot be opened yet", "server", k.Path(), "error", err)
	return k, nil
}

// lasting says whether an error stays until somebody does something about it on this
// machine, or on a server that answers.
func lasting(err error) bool {
	var u *unfit
	if errors.As(err, &u) {
		return true
	}
	switch c := code(err); {
	case c == "":
		return false
	default:
		return c[:2] == "28" || c[:2] == "3D" || c[:2] == "3F" || c[:2] == "42" || c[:2] == "0A"
	}
}

// open opens a Store, or waits for the attempt that is under way, until ctx ends. The
// attempt itself goes on.
func (k *Keeper) open(ctx context.Context) error {
	o, err := k.attempt()
	if err != nil {
		return err
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		return &storage.Fault{Reason: storage.Slow, Remedy: "look whether " + k.Path() + " can be reached", Err: fmt.Errorf("opening the audit log's database: %w", ctx.Err())}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.opening == o {
		k.opening = nil
		k.store, k.why = o.store, o.err
		if slow := (*tooSlow)(nil); errors.As(o.err, &slow) {
			k.notBefore = time.Now().Add(slow.pause)
		}
	}
	return o.err
}

// attempt returns the attempt that is under way, or begins one.
func (k *Keeper) attempt() (*opening, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, storage.ErrClosed
	}
	if k.opening == nil && time.Now().Before(k.notBefore) {
		return nil, k.why
	}
	if k.opening == nil {
		k.opening = begun(k.options)
	}
	return k.opening, nil
}

// begun begins to open a Store.
func begun(options Options) *opening {
	ctx, stop := context.WithTimeout(context.Background(), openWait)
	o := &opening{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer stop()
		o.store, o.err = Open(ctx, options)
	}()
	return o
}

// end ends the attempt and closes what it has opened.
func (o *opening) end() error {
	o.stop()
	<-o.done
	if o.store == nil {
		return nil
	}
	return o.store.Close()
}

// now returns the Store, or why there is none.
func (k *Keeper) now() (*Store, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.store == nil {
		return nil, cmp.Or(k.why, errNotOpen)
	}
	return k.store, nil
}

// ask asks the Store something.
func ask[T any](k *Keeper, f func(*Store) (T, error)) (T, error) {
	s, err := k.now()
	if err != nil {
		var none T
		return none, err
	}
	return f(s)
}

// Path names the database for people: hosts, port and database.
func (k *Keeper) Path() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	path, err := Target(k.options)
	if err != nil {
		return "PostgreSQL" // Check took the options, so a file has gone meanwhile
	}
	return path
}

// Table is the name of the view that shows the log, with its schema.
func (k *Keeper) Table() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.options.Schema + "." + k.options.Table
}

// Write implements storage.Store.
func (k *Keeper) Write(ctx context.Context, entries ...storage.Entry) error {
	s, err := k.now()
	if err != nil {
		return err
	}
	return s.Write(ctx, entries...)
}

// Unlink implements storage.Unlinker.
func (k *Keeper) Unlink(ctx context.Context, userID string) (int, error) {
	return ask(k, func(s *Store) (int, error) { return s.Unlink(ctx, userID) })
}

// List implements storage.Lister.
func (k *Keeper) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	return ask(k, func(s *Store) (storage.Page, error) { return s.List(ctx, q) })
}

// Histogram implements storage.Aggregator.
func (k *Keeper) Histogram(ctx context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	return ask(k, func(s *Store) ([]storage.Bucket, error) { return s.Histogram(ctx, q, step) })
}

// Tally implements storage.Aggregator.
func (k *Keeper) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	return ask(k, func(s *Store) ([]storage.Tally, error) { return s.Tally(ctx, q) })
}

// Get implements storage.Getter.
func (k *Keeper) Get(ctx context.Context, id string) (storage.Entry, error) {
	return ask(k, func(s *Store) (storage.Entry, error) { return s.Get(ctx, id) })
}

// Prune implements storage.Pruner.
func (k *Keeper) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	return ask(k, func(s *Store) (int, error) { return s.Prune(ctx, before, limit) })
}

// CountBefore implements storage.Counter.
func (k *Keeper) CountBefore(ctx context.Context, before time.Time) (int, error) {
	return ask(k, func(s *Store) (int, error) { return s.CountBefore(ctx, before) })
}

// Time implements storage.Clock.
func (k *Keeper) Time(ctx context.Context) (time.Time, error) {
	return ask(k, func(s *Store) (time.Time, error) { return s.Time(ctx) })
}

// Size implements storage.Sizer.
func (k *Keeper) Size(ctx context.Context) (int64, error) {
	return ask(k, func(s *Store) (int64, error) { return s.Size(ctx) })
}

// Check says whether the server is there: once a second it asks it something. That an
// answer takes long says nothing: writes have their own connections.
func (k *Keeper) Check(ctx context.Context) error {
	s, err := k.now()
	if err != nil || !k.toLook() {
		return err
	}
	return s.look(ctx)
}

// toLook says whether the server is to be asked again.
func (k *Keeper) toLook() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) < lookEvery {
		return false
	}
	k.looked = time.Now()
	return true
}

// look asks the server something.
func (s *Store) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	err := s.again(ctx, lookWait, func() error {
		_, err := s.read.Exec(ctx, "SELECT 1")
		return err
	})
	if !gone(err) || ctx.Err() != nil || pgconn.Timeout(err) {
		return nil
	}
	return s.explain(ctx, err)
}

// Revive makes the log work again, and proves it with a durable write. Tables that were
// dropped are made again, empty.
func (k *Keeper) Revive(ctx context.Context) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	s, err := k.now()
	if err != nil {
		if err := k.open(ctx); err != nil {
			return err
		}
		if s, err = k.now(); err != nil {
			return err
		}
		k.log.Info("the audit log's database is open", "server", k.Path())
	}
	err = s.probe(ctx)
	if c := code(err); c == undefinedTable || c == noSchema {
		k.log.Error("somebody has dropped tables of the audit log: they are made again", "server", k.Path(), "schema", s.schema, "table", s.table)
		if err = s.prepare(ctx, false); err == nil {
			err = s.probe(ctx)
		}
	} else if err == nil {
		if err := s.mend(ctx); err != nil { // what no probe needs: most entries go in without
			k.log.Warn("what somebody has dropped of the audit log's tables is not made again", "server", k.Path(), "error", err)
		}
	}
	return s.explain(ctx, err)
}

// probe writes something durably and takes it back.
func (s *Store) probe(ctx context.Context) error {
	source := "probe " + storage.NewID()
	return s.writer.submit(ctx, &job{do: func(ctx context.Context, t *tx) error {
		none := func() error { return nil }
		if err := t.each(ctx, s.fill(`INSERT INTO "{s}"."{t}_moves" (source, key) VALUES ($1, 0)`), []any{source}, nil, none); err != nil {
			return err
		}
		for _, table := range []string{"entries", "strays"} { // they must be there
			var key *int64 // of the newest one
			if err := t.each(ctx, s.fill(`SELECT max(key) FROM "{s}"."{t}_`+table+`"`), nil, []any{&key}, none); err != nil {
				return err
			}
		}
		return t.each(ctx, s.fill(`DELETE FROM "{s}"."{t}_moves" WHERE source = $1`), []any{source}, nil, none)
	}})
}

// Use goes over to other options, such as a password that has changed. What is being
// written is finished before; until then Write fails. When a server that answers does
// not take the options, the old ones stay.
func (k *Keeper) Use(ctx context.Context, o Options) error {
	if err := Check(o); err != nil {
		return err
	}
	k.turn.Lock()
	defer k.turn.Unlock()
	o = o.withDefaults()
	o.hurried, o.Logger = true, k.log
	k.mu.RLock()
	same, closed := o == k.options, k.closed
	k.mu.RUnlock()
	if same || closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	next := begun(o)
	select {
	case <-next.done:
		if lasting(next.err) {
			return errors.Join(next.err, next.end())
		}
	case <-ctx.Done():
	}
	return k.swap(o, next)
}

// swap puts what is being opened in the place of what was.
func (k *Keeper) swap(o Options, next *opening) error {
	k.mu.Lock()
	old, before := k.store, k.opening
	k.options, k.store, k.opening, k.why, k.notBefore = o, nil, next, errNotOpen, time.Time{}
	k.mu.Unlock()
	var err error
	if before != nil {
		err = before.end()
	}
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	select {
	case <-next.done: // else Revive waits for it
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.opening == next {
			k.opening, k.store, k.why = nil, next.store, next.err
		}
	default:
	}
	return err
}

// Close writes what is queued and closes the connections.
func (k *Keeper) Close() error {
	k.mu.Lock()
	s, o := k.store, k.opening
	k.store, k.opening, k.why, k.closed = nil, nil, storage.ErrClosed, true
	k.mu.Unlock()
	var err error
	if o != nil {
		err = o.end()
	}
	if s != nil {
		err = errors.Join(err, s.Close())
	}
	return err
}
