package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

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
	// users have it open, the newest last: its options count.
	users []*databaseUser
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
	// to change. It is called again when a newer user has gone, for a configuration that could
	// not start.
	Join func(context.Context, storage.Store) error
	// Logger of the journal.
	Logger *slog.Logger
}

// OpenSpilled opens a database, or joins those who have it open in this process; the
// limit of its journal is then the one asked for last. It is closed with its last user.
func OpenSpilled(o Spilled) (storage.Store, error) {
	databases.Lock()
	defer databases.Unlock()
	d, there := databases.open[o.Journal]
	if there {
		if err := o.join(d.store); err != nil {
			return nil, err
		}
	} else {
		store, err := o.open()
		if err != nil {
			return nil, err
		}
		d = &database{store: store}
		databases.open[o.Journal] = d
	}
	u := &databaseUser{Store: d.store, options: o}
	d.users = append(d.users, u)
	return u, nil
}

// joinTimeout bounds joining a database that is open.
const joinTimeout = 30 * time.Second

// join makes the options those of a database that is open.
func (o *Spilled) join(open storage.Store) error {
	if o.Join != nil {
		ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
		defer cancel()
		if err := o.Join(ctx, open); err != nil {
			return err
		}
	}
	if limiter, ok := storage.As[interface{ SetLimit(int64) }](open); ok {
		limiter.SetLimit(o.Limit)
	}
	return nil
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
	options Spilled
	closed  sync.Once
}

// Unwrap implements storage.Wrapper.
func (u *databaseUser) Unwrap() storage.Store { return u.Store }

// Close implements storage.Closer.
func (u *databaseUser) Close() error {
	var err error
	u.closed.Do(func() {
		databases.Lock()
		defer databases.Unlock()
		err = databases.open[u.options.Journal].leave(u)
	})
	return err
}

// leave closes the database with its last user, and gives it back the options of the one before
// if the newest leaves.
func (d *database) leave(u *databaseUser) error {
	i := slices.Index(d.users, u)
	d.users = slices.Delete(d.users, i, i+1)
	switch left := len(d.users); {
	case left > 0 && i == left:
		return d.users[left-1].options.join(d.store)
	case left > 0:
		return nil
	}
	delete(databases.open, u.options.Journal)
	if c, ok := storage.As[storage.Closer](d.store); ok {
		return c.Close()
	}
	return nil
}

var (
	_ storage.Wrapper = (*databaseUser)(nil)
	_ storage.Closer  = (*databaseUser)(nil)
)
