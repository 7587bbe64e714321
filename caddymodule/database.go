package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// databases are what this process has open behind a journal, by the journal's path. A
// reload that changes something else of the store, such as its key file, has the same
// database twice for a while; its journal has one owner.
var databases = struct {
	// Held while a database is opened or closed, so that whoever comes meanwhile
	// waits for the end of it.
	sync.Mutex
	open map[string]*database
}{open: map[string]*database{}}

// database is one of them.
type database struct {
	store storage.Store
	users int
}

// Spilled is a database with a journal in front of it, for guest stores.
type Spilled struct {
	// Journal is the journal's file: it says which database it is, too.
	Journal string
	// Limit of the journal in bytes, as spill.Options has it.
	Limit int64
	// Open opens the database.
	Open func() (storage.Store, error)
	// Join hears of a database that is open already, and may change it; nil for nothing
	// to change.
	Join func(storage.Store) error
	// Logger of the journal.
	Logger *slog.Logger
}

// OpenSpilled opens a database, or joins those who have it open in this process; the
// limit of its journal is then the one asked for last. It is closed with its last user.
func OpenSpilled(o Spilled) (storage.Store, error) {
	databases.Lock()
	defer databases.Unlock()
	d, there := databases.open[o.Journal]
	switch {
	case !there:
		store, err := o.open()
		if err != nil {
			return nil, err
		}
		d = &database{store: store}
		databases.open[o.Journal] = d
	case o.Join != nil:
		if err := o.Join(d.store); err != nil {
			return nil, err
		}
		fallthrough
	default:
		if limiter, ok := storage.As[interface{ SetLimit(int64) }](d.store); ok {
			limiter.SetLimit(o.Limit)
		}
	}
	d.users++
	return &databaseUser{Store: d.store, key: o.Journal}, nil
}

// open opens the database and its journal.
func (o *Spilled) open() (storage.Store, error) {
	primary, err := o.Open()
	if err != nil {
		return nil, err
	}
	s, err := spill.New(primary, o.Journal, spill.Options{Limit: o.Limit, Logger: o.Logger})
	if err != nil {
		if c, ok := storage.As[storage.Closer](primary); ok {
			err = errors.Join(err, c.Close())
		}
		return nil, err
	}
	return s, nil
}

// openDatabase opens a SQLite database.
func openDatabase(ctx context.Context, o sqlite.Options, limit int64) (storage.Store, error) {
	o.Table = cmp.Or(o.Table, sqlite.DefaultTable)
	open := func() (storage.Store, error) { return sqlite.Keep(ctx, o) }
	return OpenSpilled(Spilled{Journal: JournalOf(o.Path, o.Table), Limit: limit, Open: open, Logger: o.Logger})
}

// JournalOf is where the journal of a table in a SQLite database is: entries go back to where
// they belong.
func JournalOf(path, table string) string {
	if table == sqlite.DefaultTable {
		return path + ".spill"
	}
	return path + "." + table + ".spill"
}

// databaseUser is the database for one of its users, whose Close is not everybody's.
type databaseUser struct {
	storage.Store
	key    string
	closed sync.Once
}

// Unwrap implements storage.Wrapper.
func (u *databaseUser) Unwrap() storage.Store { return u.Store }

// Close implements storage.Closer.
func (u *databaseUser) Close() error {
	var err error
	u.closed.Do(func() {
		databases.Lock()
		defer databases.Unlock()
		d := databases.open[u.key]
		if d.users--; d.users > 0 {
			return
		}
		delete(databases.open, u.key)
		if c, ok := storage.As[storage.Closer](d.store); ok {
			err = c.Close()
		}
	})
	return err
}

var (
	_ storage.Wrapper = (*databaseUser)(nil)
	_ storage.Closer  = (*databaseUser)(nil)
)
