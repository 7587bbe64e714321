package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// oldestVersion is the oldest server that works, as server_version_num says it.
const oldestVersion = 140000

// closeTimeout bounds how long Close waits for connections of a server that does not
// answer.
const closeTimeout = 3 * time.Second

// Store is an open log. Use Open. It is safe for concurrent use, and any number of
// stores, in as many processes, may have the same tables.
type Store struct {
	namer
	// texts are SQL with the names filled in.
	texts struct{ upsert, find string }
	// target names the database in messages, without user and password.
	target string
	log    *slog.Logger
	// goneFor is how long a call tries a server again that is gone.
	goneFor time.Duration
	// write is for the writer alone; read for all else. They are the same if only one
	// connection is allowed.
	write, read *pgxpool.Pool
	writer      *writer
	parts       partitions
	stopAhead   context.CancelFunc
	aheadDone   chan struct{}
	// options are those that it was opened with. written says to tell that something was
	// written, with late, and toldAll is closed when tell has ended.
	options Options
	written chan struct{}
	late    storage.Late
	toldAll chan struct{}
	closed  sync.Once
}

var (
	_ storage.Store    = (*Store)(nil)
	_ storage.Lister   = (*Store)(nil)
	_ storage.Getter   = (*Store)(nil)
	_ storage.Pruner   = (*Store)(nil)
	_ storage.Unlinker = (*Store)(nil)
	_ storage.Closer   = (*Store)(nil)
	_ storage.Sizer    = (*Store)(nil)
	_ storage.Counter  = (*Store)(nil)
	_ storage.Clock    = (*Store)(nil)
)

// Open connects, and makes the tables if they are not there. It fails with what to do
// when the server is too old or cannot be reached, when the role may not make the
// tables, or when they are not ours.
func Open(ctx context.Context, o Options) (*Store, error) {
	c, err := o.parse()
	if err != nil {
		return nil, fmt.Errorf("audit log in PostgreSQL: %w", err)
	}
	o = o.withDefaults()
	s := &Store{namer: namer{o.Schema, o.Table}, target: target(c.ConnConfig), log: o.Logger, options: o, aheadDone: make(chan struct{}), written: make(chan struct{}, 1), toldAll: make(chan struct{})}
	s.goneFor = callTimeout
	if o.hurried {
		s.goneFor = goneFor
	}
	s.texts.upsert, s.texts.find = s.fill(upsertSQL), s.fill(findSQL)
	// The pools outlive ctx.
	if s.write, s.read, err = pools(context.WithoutCancel(ctx), c, o.MaxConns, o.MinConns); err != nil {
		return nil, fmt.Errorf("audit log in PostgreSQL at %s: %w", s.target, err)
	}
	if err := s.prepare(ctx, unprotected(c.ConnConfig)); err != nil {
		s.closePools()
		return nil, fmt.Errorf("audit log in PostgreSQL at %s: %w", s.target, s.explain(ctx, err))
	}
	s.writer = newWriter(s)
	background, stop := context.WithCancel(context.Background())
	s.stopAhead = stop
	go s.keepAhead(background)
	go s.tell(background)
	return s, nil
}

// prepare looks at the server and makes what is missing.
func (s *Store) prepare(ctx context.Context, unprotected bool) error {
	server, err := s.inspect(ctx)
	if err != nil {
		return err
	}
	if err := server.judge(); err != nil {
		return err
	}
	for _, warning := range server.warnings() {
		s.log.Error("the database server does not keep what it promises", "server", s.target, "problem", warning)
	}
	if unprotected {
		s.log.Warn("the connection to PostgreSQL goes over a network and does not make sure of the server: add sslmode=verify-full and sslrootcert to the DSN", "server", s.target)
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.lookForPartitions(ctx); err != nil {
		return err
	}
	s.ensure(ctx, monthsOfNow(), ddlTimeout)
	return nil
}

// server is what matters of the server's settings.
type server struct {
	number                          int
	version, encoding, fsync, pages string
	replica                         bool
}

func (s *Store) inspect(ctx context.Context) (server, error) {
	var v server
	err := s.read.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'),
		current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery()`).
		Scan(&v.number, &v.version, &v.encoding, &v.fsync, &v.pages, &v.replica)
	return v, err
}

// judge says why a server cannot have the log.
func (v server) judge() error {
	switch {
	case v.number < oldestVersion:
		return unfitf("the server is PostgreSQL %s: 14 or newer is needed", v.version)
	case v.encoding != "UTF8":
		return unfitf("the database has the encoding %s, in which some entries have no form: make one with createdb -E UTF8 -T template0", v.encoding)
	case v.replica:
		return errors.New("the server is a standby, which only reads: name the primary, or both, in the DSN")
	}
	return nil
}

// unfit is an error that says itself what somebody has to do before the database can
// have the log.
type unfit struct{ err error }

// Error implements error.
func (u *unfit) Error() string { return u.err.Error() }

// Unwrap returns the cause.
func (u *unfit) Unwrap() error { return u.err }

func unfitf(format string, args ...any) error { return &unfit{fmt.Errorf(format, args...)} }

// warnings are settings that void what durability promises (threats.md E7.5). A
// synchronous_commit that is off is none: every transaction sets its own.
func (v server) warnings() []string {
	var w []string
	if v.fsync == "off" {
		w = append(w, "fsync is off: a power cut can lose entries that were acknowledged, and the whole database")
	}
	if v.pages == "off" {
		w = append(w, "full_page_writes is off: a power cut can damage the database")
	}
	return w
}

// Path names the database for people: host, port and database.
func (s *Store) Path() string { return s.target }

// Write implements storage.Store. Entries that were not sanitised are: a value that
// PostgreSQL refuses must not cost the entry.
func (s *Store) Write(ctx context.Context, entries ...storage.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	own := append([]storage.Entry(nil), entries...)
	for i := range own {
		own[i].Sanitize()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.explain(ctx, s.writer.submit(ctx, &job{entries: own, durability: storage.DurabilityOf(ctx)}))
}

// Close writes what is queued and closes the connections. When the server does not
// answer it gives up after some seconds.
func (s *Store) Close() error {
	s.closed.Do(func() {
		s.stopAhead()
		<-s.aheadDone
		<-s.toldAll
		s.writer.close()
		s.closePools()
	})
	return nil
}

// closePools closes the connections in the background if that takes long.
func (s *Store) closePools() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.write.Close()
		s.read.Close()
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
}
