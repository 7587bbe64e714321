package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// busyWait is how many milliseconds a Keeper's transaction waits for a lock that
	// somebody else has: less than those who wait for it do, so that they hear why.
	busyWait = 1000
	// lookEvery is how often a Keeper reads something of its database.
	lookEvery = 5 * time.Second
	lookWait  = 500 * time.Millisecond
)

// errNotOpen says that a Keeper has no database.
var errNotOpen = errors.New("the audit log's database is not open")

// Keeper is a database that outlives its file and its disk: when the file was deleted
// or replaced, or an I/O error has made the connection untrustworthy, Revive closes
// the Store and opens another one. What it acknowledges was committed to a file that
// had its name after the commit, over a connection without an I/O error before.
//
// It is the only Keeper of the database in any process; other processes may open the
// database with Open. Use Keep. It is safe for concurrent use.
type Keeper struct {
	options Options
	path    string
	log     *slog.Logger
	lease   *lease

	// turn is held while the Store is opened or given up.
	turn sync.Mutex
	// closing is closed when a Store that was given up is closed; nil if none was. turn
	// protects it, and looked: when something was last read.
	closing chan struct{}
	looked  time.Time

	// mu protects the fields below.
	mu    sync.RWMutex
	store *Store // nil while there is none
	why   error  // why there is none
}

var (
	_ storage.Store     = (*Keeper)(nil)
	_ storage.Lister    = (*Keeper)(nil)
	_ storage.Getter    = (*Keeper)(nil)
	_ storage.Pruner    = (*Keeper)(nil)
	_ storage.Unlinker  = (*Keeper)(nil)
	_ storage.Closer    = (*Keeper)(nil)
	_ storage.Sizer     = (*Keeper)(nil)
	_ storage.Counter   = (*Keeper)(nil)
	_ storage.Compactor = (*Keeper)(nil)

	_ storage.Aggregator = (*Keeper)(nil)
)

// Keep opens a database like Open, and refuses it if another process keeps it. That
// the disk is full or fails is no error: then Revive opens it when it works.
func Keep(ctx context.Context, o Options) (*Keeper, error) {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("audit log database %s: %w", o.Path, err)
	}
	o.Path = path
	k := &Keeper{options: o, path: path, log: o.Logger}
	if err := refuse(ctx, path); err != nil && !k.passing(err) { // before it has a lease beside it
		return nil, fmt.Errorf("audit log database %s: %w", path, err)
	}
	if k.lease, err = takeLease(path); err != nil {
		return nil, fmt.Errorf("audit log database %s: %w", path, err)
	}
	if err = k.open(ctx); err == nil {
		return k, nil
	}
	if !k.passing(err) {
		return nil, errors.Join(err, k.lease.release())
	}
	k.log.Error("the audit log's database cannot be opened yet", "path", path, "error", err)
	return k, nil
}

// refuse says why the file that is there is not to be opened; it makes none.
func refuse(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := &Store{path: path}
	defer s.leave()
	return s.inspect(ctx)
}

// passing says whether the disk is full or fails, which may pass by itself.
func (k *Keeper) passing(err error) bool {
	reason := storage.FaultOf(k.path, faultOf(k.path, err)).Reason
	return reason == storage.DiskFull || reason == storage.IOError
}

// open opens a Store. The caller holds turn, or has the Keeper for itself.
func (k *Keeper) open(ctx context.Context) error {
	s, err := Open(ctx, k.options)
	if err == nil {
		if err = s.hurry(ctx); err != nil {
			err = errors.Join(err, s.Close())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.store, k.why = nil, k.explain(err)
	if err == nil {
		k.store = s
	}
	return err
}

// hurry makes the writer's transactions wait less for others.
func (s *Store) hurry(ctx context.Context) error {
	ctx, done := untimed(ctx) // it may be over, after an upgrade
	defer done()
	return s.writer.submit(ctx, &job{do: func(ctx context.Context, tx *sql.Tx) error {
		s.writer.busyWait = busyWait
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout=%d", busyWait))
		return err
	}})
}

// opened returns the Store. That its files are those that were opened its writer finds out
// with each transaction.
func (k *Keeper) opened() (*Store, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.store == nil {
		return nil, cmp.Or(k.why, errNotOpen)
	}
	return k.store, nil
}

// now returns the Store if its files are those that were opened.
func (k *Keeper) now() (*Store, error) {
	s, err := k.opened()
	if err != nil {
		return nil, err
	}
	// A connection that a reader opened now could mix two databases.
	if err := s.verify(); err != nil {
		s.writer.guard.poison(err)
		return nil, err
	}
	return s, nil
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

// Path returns the absolute path of the database file.
func (k *Keeper) Path() string { return k.path }

// Table is the name of the view that shows the log.
func (k *Keeper) Table() string { return cmp.Or(k.options.Table, DefaultTable) }

// Write implements storage.Store. Its errors are *storage.Fault or storage.ErrRejected
// where the cause is known.
func (k *Keeper) Write(ctx context.Context, entries ...storage.Entry) error {
	s, err := k.opened()
	if err == nil {
		err = s.Write(ctx, entries...)
	}
	return k.explain(err)
}

// Unlink implements storage.Unlinker. Its errors are like those of Write.
func (k *Keeper) Unlink(ctx context.Context, userID string) (int, error) {
	n, err := ask(k, func(s *Store) (int, error) { return s.Unlink(ctx, userID) })
	return n, k.explain(err)
}

func (k *Keeper) explain(err error) error {
	if err == nil {
		return nil
	}
	return faultOf(k.path, err)
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

// Size implements storage.Sizer.
func (k *Keeper) Size(ctx context.Context) (int64, error) {
	return ask(k, func(s *Store) (int64, error) { return s.Size(ctx) })
}

// Compact implements storage.Compactor.
func (k *Keeper) Compact(ctx context.Context) (int, error) {
	return ask(k, func(s *Store) (int, error) { return s.Compact(ctx) })
}

// Check says whether the database is what it was: that its files are those that were
// opened, that nothing has made the connection untrustworthy, that nobody else has
// the lease and, every five seconds (lookEvery), that the file can be read.
func (k *Keeper) Check(ctx context.Context) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	s, err := k.now()
	if err == nil {
		err = s.writer.guard.err()
	}
	if err == nil {
		err = k.lease.renew()
	}
	if err == nil && time.Since(k.looked) >= lookEvery {
		k.looked = time.Now()
		err = s.look(ctx)
	}
	return k.explain(err)
}

// look reads the schema, the oldest and the newest key, from the file: the connection may
// remember pages that are damaged there. Only damage counts: others may be reading so much
// that it does not come to it.
func (s *Store) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return onlyDamage(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.ExecContext(ctx, "PRAGMA shrink_memory"); err != nil {
		return onlyDamage(err)
	}
	var objects int
	var oldest, newest sql.NullInt64
	query := fmt.Sprintf(`SELECT (SELECT count(*) FROM sqlite_schema), (SELECT min(key) FROM "%[1]s_entries"), (SELECT max(key) FROM "%[1]s_entries")`, s.table)
	return onlyDamage(conn.QueryRowContext(ctx, query).Scan(&objects, &oldest, &newest))
}

func onlyDamage(err error) error {
	if damaged(err) {
		return err
	}
	return nil
}

// Revive makes the database work again and proves it with a durable write. A Store
// whose files are not those that were opened, or whose disk has failed, is closed and
// another one opened, in a new file if there is none.
func (k *Keeper) Revive(ctx context.Context) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	return k.explain(k.revive(ctx))
}

func (k *Keeper) revive(ctx context.Context) error {
	if err := k.prove(ctx); err == nil {
		return nil
	} else if s := k.given(); s != nil {
		if s.writer.guard.err() == nil {
			return err // it may still come right
		}
		k.giveUp(s, err)
	}
	if err := k.awaitClosing(ctx); err != nil {
		return err
	}
	if err := k.lease.renew(); err != nil {
		return err
	}
	if err := k.open(ctx); err != nil {
		return err
	}
	k.log.Warn("the audit log's database was opened anew", "path", k.path)
	return k.prove(ctx)
}

// given is the Store, if there is one.
func (k *Keeper) given() *Store {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.store
}

// prove makes sure that the Store works, and writes something that leaves no entry.
func (k *Keeper) prove(ctx context.Context) error {
	s, err := k.now()
	if err != nil {
		return err
	}
	if err := errors.Join(k.lease.renew(), s.look(ctx)); err != nil {
		return err
	}
	return s.probe(ctx)
}

// probe writes the schema's version once more, durably.
func (s *Store) probe(ctx context.Context) error {
	_, err := s.exec(ctx, fmt.Sprintf("PRAGMA user_version=%d", schemaVersion))
	return err
}

// giveUp closes a Store in the background: a disk that does not answer may keep it.
func (k *Keeper) giveUp(s *Store, why error) {
	k.mu.Lock()
	k.store, k.why = nil, why
	k.mu.Unlock()
	s.writer.guard.poison(why)
	done := make(chan struct{})
	k.closing = done
	go func() {
		defer close(done)
		if err := s.abandon(); err != nil {
			k.log.Warn("closing the audit log's database, which is opened anew", "path", k.path, "error", err)
		}
		s.awaitReaders()
	}()
}

// awaitReaders waits until nobody reads any more, a few minutes at most: SQLite shares the memory
// of a file's log within a process, and a new connection would take over what an old one has of a
// log that is gone.
func (s *Store) awaitReaders() {
	const most = 3 * time.Minute // longer than any question may take
	for until := time.Now().Add(most); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if s.read.Stats().OpenConnections+s.write.Stats().OpenConnections == 0 {
			return
		}
	}
	s.log.Warn("somebody still reads the audit log's database, which is opened anew", "path", s.path)
}

// awaitClosing waits for the Store that was given up: two of them could mix their
// work up.
func (k *Keeper) awaitClosing(ctx context.Context) error {
	if k.closing == nil {
		return nil
	}
	select {
	case <-k.closing:
		k.closing = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("closing the audit log's database: %w", ctx.Err())
	}
}

// Close writes what is queued and closes the database.
func (k *Keeper) Close() error {
	k.turn.Lock()
	defer k.turn.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := k.awaitClosing(ctx)
	k.mu.Lock()
	s := k.store
	k.store, k.why = nil, storage.ErrClosed
	k.mu.Unlock()
	if s != nil {
		err = errors.Join(err, s.Close())
	}
	return errors.Join(err, k.lease.release())
}
