package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// databases are the SQLite databases that this process has open, by path and table. A
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

// openDatabase opens a database, or joins those who have it open; the limit of its
// journal is then the one asked for last.
func openDatabase(ctx context.Context, o sqlite.Options, limit int64) (storage.Store, error) {
	o.Table = cmp.Or(o.Table, sqlite.DefaultTable)
	key := o.Path + "|" + o.Table
	databases.Lock()
	defer databases.Unlock()
	d, there := databases.open[key]
	if !there {
		store, err := newDatabase(ctx, o, limit)
		if err != nil {
			return nil, err
		}
		d = &database{store: store}
		databases.open[key] = d
	} else if limiter, ok := storage.As[interface{ SetLimit(int64) }](d.store); ok {
		limiter.SetLimit(limit)
	}
	d.users++
	return &databaseUser{Store: d.store, key: key}, nil
}

// newDatabase opens the database and its journal.
func newDatabase(ctx context.Context, o sqlite.Options, limit int64) (storage.Store, error) {
	k, err := sqlite.Keep(ctx, o)
	if err != nil {
		return nil, err
	}
	s, err := spill.New(k, journalOf(o), spill.Options{Limit: limit, Logger: o.Logger})
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return s, nil
}

// journalOf is where the journal of a table is: entries go back to where they belong.
func journalOf(o sqlite.Options) string {
	if o.Table == sqlite.DefaultTable {
		return o.Path + ".spill"
	}
	return o.Path + "." + o.Table + ".spill"
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
