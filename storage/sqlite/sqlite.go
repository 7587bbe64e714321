package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	driver "modernc.org/sqlite" // registers the driver "sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// DefaultTable is the name of the view that shows the log.
const DefaultTable = "auditLog"

// applicationID marks a database file as ours ("CALg"), see PRAGMA
// application_id; schemaVersion is in PRAGMA user_version.
const (
	applicationID = 0x43414c67
	schemaVersion = 5
)

// SQLite before 3.51.3 can damage a database whose log begins anew while somebody else writes
// (threats.md E2.11): with a driver that has an older one this does not compile.
const _ = uint(lib.SQLITE_VERSION_NUMBER - 3_051_003)

//go:embed schema.sql
var schema string

// Where there is fdatasync, SQLite commits with it, as the builds of every Linux distribution
// do: fsync also waits for the file's timestamps, which nobody needs after a power cut. It
// is one setting for the process.
func init() { _, _ = driver.Fdatasync(true) } // elsewhere it stays fsync

// Options of a Store.
type Options struct {
	// Path of the database file. Missing folders are made with mode 0700, the
	// file with 0600.
	Path string
	// Table is the name of the view, and the prefix of the tables behind it;
	// empty means DefaultTable. See ValidTable.
	Table string
	// Existing refuses a file that is not there, or has no such log yet.
	Existing bool
	// Logger for what happens in the background; nil discards.
	Logger *slog.Logger
}

// Store is an open database. Use Open. It is safe for concurrent use.
type Store struct {
	view
	path string
	// existing is Options.Existing.
	existing bool
	log      *slog.Logger
	write    *sql.DB // one connection, used by the writer goroutine alone
	read     *sql.DB // read-only connections
	writer   *writer
	ticker   *checkpointer
	files    fileSet // what verify compares with
	closed   sync.Once
	// compacting is held by Compact: one at a time.
	compacting sync.Mutex
	// stopCounting ends keepCounts and waits for its end.
	stopCounting func()
}

var (
	_ storage.Store     = (*Store)(nil)
	_ storage.Lister    = (*Store)(nil)
	_ storage.Getter    = (*Store)(nil)
	_ storage.Pruner    = (*Store)(nil)
	_ storage.Unlinker  = (*Store)(nil)
	_ storage.Closer    = (*Store)(nil)
	_ storage.Sizer     = (*Store)(nil)
	_ storage.Counter   = (*Store)(nil)
	_ storage.Compactor = (*Store)(nil)

	_ storage.Aggregator = (*Store)(nil)
)

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,47}$`)

// ValidTable says why name cannot be the name of the view; nil if it can.
func ValidTable(name string) error {
	if !tableName.MatchString(name) || strings.HasPrefix(strings.ToLower(name), "sqlite_") {
		return fmt.Errorf("bad table name %q: use 1 to 48 letters, digits and underscores, not starting with a digit or sqlite_", name)
	}
	return nil
}

// Open opens the database, making it if it is not there. It refuses a file that
// is not a database of this package, and leaves one as it is.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.Table = cmp.Or(o.Table, DefaultTable)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if err := ValidTable(o.Table); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("audit log database %s: %w", o.Path, err)
	}
	s := &Store{view: view{table: o.Table, counts: &counts{}}, path: path, existing: o.Existing, log: o.Logger, stopCounting: func() {}}
	if err := s.open(ctx); err != nil {
		s.leave()
		return nil, fmt.Errorf("audit log database %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if !s.existing {
		if err := s.makeFile(); err != nil {
			return err
		}
	}
	if err := s.inspect(ctx); err != nil {
		return err
	}
	if err := tighten(s.path); err != nil {
		return err
	}
	log, err := os.Stat(s.path + "-wal")
	left := err == nil && log.Size() > 0
	if s.write, err = openDB(s.path, 1, "journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(50000)",
		"journal_size_limit(67108864)", "secure_delete(ON)"); err != nil {
		return err
	}
	if s.read, err = openDB(s.path, 4, "query_only(ON)"); err != nil {
		return errors.Join(err, s.write.Close())
	}
	s.db = s.read
	if s.isEarlier(ctx) { // its upgrade takes as long as it takes: without it there is no log
		free, done := untimed(ctx)
		defer done()
		ctx = free
	}
	upgraded, err := s.migrate(ctx)
	if err = cmp.Or(err, s.readLegacy(ctx)); err != nil {
		return errors.Join(explain(err), s.read.Close(), s.write.Close())
	}
	if s.writer, err = newWriter(ctx, s.write, s.table, s.counts, s.log, upgraded); err != nil {
		return errors.Join(explain(err), s.read.Close(), s.write.Close())
	}
	if s.ticker, err = startCheckpointer(s, left); err != nil {
		return errors.Join(err, s.writer.close(), s.read.Close(), s.write.Close())
	}
	if err := s.watch(ctx); err != nil {
		return errors.Join(explain(err), s.Close())
	}
	s.startCounting()
	return nil
}

// Check looks, without changing anything, whether Open could work: it is for
// configuration checks such as caddy validate.
func Check(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkParent(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	if err := checkKind(path, info); err != nil {
		return err
	}
	return checkHeader(path)
}

// Where SQLite's file format has what checkHeader looks at (sqlite.org/fileformat.html,
// section 1.3).
const (
	headerSize   = 100
	headerMagic  = "SQLite format 3\x00"
	headerUser   = 60 // user_version, 4 bytes, big-endian
	headerOwner  = 68 // application_id
	unknownOwner = 0  // also that of a new database whose first page is still in the log
)

// inUse are the database files that this process has open. Closing any second
// descriptor of such a file would silently drop all of the process's locks on it
// (POSIX; threats.md X13), and a sqlite3 shell could then remove the log from
// under us. So checkHeader leaves these files alone: they are open, which is
// proof enough.
var inUse = struct {
	sync.Mutex
	files map[*Store]fs.FileInfo
}{files: make(map[*Store]fs.FileInfo)}

// use registers a store's file before its first connection is made.
func (s *Store) use() error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	inUse.Lock()
	defer inUse.Unlock()
	inUse.files[s] = info
	return nil
}

// leave forgets the store's file after its last connection is closed.
func (s *Store) leave() {
	inUse.Lock()
	defer inUse.Unlock()
	delete(inUse.files, s)
}

// checkHeader finds out by reading what Open would refuse. It matters before Open
// does: a configuration may serve its first requests before its store is opened.
func checkHeader(path string) error {
	inUse.Lock()
	defer inUse.Unlock() // held while the file is open: nobody may begin to use it
	if info, err := os.Stat(path); err == nil {
		for _, open := range inUse.files {
			if os.SameFile(open, info) {
				return nil
			}
		}
	}
	return readHeader(path)
}

func readHeader(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil // perhaps another user checks than will run Caddy
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := make([]byte, headerSize)
	switch n, err := io.ReadFull(f, h); {
	case n == 0 && errors.Is(err, io.EOF):
		return nil // a new file
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("audit log database %s: %w", path, err)
	case n < headerSize || string(h[:len(headerMagic)]) != headerMagic:
		return fmt.Errorf("audit log database %s: file is not a database: it is damaged or something else; move it away, or give another path", path)
	}
	owner, version := int(binary.BigEndian.Uint32(h[headerOwner:])), int(binary.BigEndian.Uint32(h[headerUser:]))
	if owner == unknownOwner {
		return nil
	}
	if err := judge(owner, version, 1); err != nil {
		return fmt.Errorf("audit log database %s: %w", path, err)
	}
	return nil
}

// checkParent walks up to the first folder that exists.
func checkParent(dir string) error {
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is not a folder: the audit log database cannot be made in it", dir)
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return err
		}
		dir = filepath.Dir(dir)
	}
}

func checkKind(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is a %s, not a regular file: give the path of the file itself", path, kind(info.Mode()))
	}
	return nil
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "folder"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	}
	return "special file"
}

// makeFile makes the file with mode 0600, if it is not there, before SQLite would make it
// 0644 (its -wal and -shm files inherit the mode). What stands beside a new file is of another one,
// that was moved away after a crash, and may have entries that are nowhere else: SQLite would delete it.
func (s *Store) makeFile() error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	var beside fileSet // before the file is there: later ones may be of whoever has opened it meanwhile
	for i, suffix := range suffixes[1:] {
		beside[i+1], _ = os.Lstat(s.path + suffix)
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		_, there := os.Lstat(s.path)
		if there != nil {
			return errors.Join(err, there)
		}
		return nil
	}
	err = f.Close()
	for _, name := range beside.leftover(s.path) {
		if err == nil {
			err = setAside(name, strings.HasSuffix(name, "-shm"))
			s.log.Warn("beside the new database stood a file of another one, which was moved away: its log is kept under another name, and has the last entries of the other one if you put both together again",
				"file", name, "error", err)
		}
	}
	if err != nil { // the next try is to find them, too
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// tighten lets nobody but the owner read a file that was made with another mode.
func tighten(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	for _, suffix := range suffixes {
		if err := os.Chmod(path+suffix, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("others can read it, and its mode cannot be changed to 0600: %w", err)
		}
	}
	return nil
}

// busyTimeout is how long a connection waits for a lock.
const busyTimeout = 5 * time.Second

var busyPragma = fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())

func openDB(path string, conns int, pragmas ...string) (*sql.DB, error) {
	return openURL(path, conns, url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{busyPragma, "temp_store(MEMORY)"}, pragmas...)})
}

// openReadOnly makes no file and changes none.
func openReadOnly(path string) (*sql.DB, error) {
	return openURL(path, 1, url.Values{"mode": {"ro"}, "_pragma": {busyPragma, "query_only(ON)"}})
}

// openURL opens a file by its absolute path: of a relative one a URL would begin with a host.
func openURL(path string, conns int, q url.Values) (*sql.DB, error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// inspect begins to use the file and looks whose it is, over a connection that changes
// nothing: the connections of a Store switch the file to WAL mode.
func (s *Store) inspect(ctx context.Context) error {
	info, err := os.Lstat(s.path)
	if err != nil {
		return err
	}
	if err := checkKind(s.path, info); err != nil {
		return err
	}
	if err := s.use(); err != nil {
		return err
	}
	db, err := openURL(s.path, 1, url.Values{"mode": {"rw"}, "_pragma": {busyPragma, "temp_store(MEMORY)", "query_only(ON)"}})
	if err != nil {
		return err
	}
	err = checkOwner(ctx, db)
	if err == nil && s.existing {
		err = hasLog(ctx, db, s.table)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return explain(err)
	}
	return nil
}

// hasLog says that a database has no log of that name.
func hasLog(ctx context.Context, db querier, table string) error {
	var tables int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE name = ? COLLATE NOCASE`, table+"_entries").Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		return fmt.Errorf("it has no audit log named %s: name the table", table)
	}
	return nil
}

// isEarlier says whether an earlier version made the database.
func (s *Store) isEarlier(ctx context.Context) bool {
	var version int
	err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
	return err == nil && version > 0 && version < schemaVersion // what fails fails in migrate, too
}

// untimed is ctx without its deadline: it ends when ctx is cancelled, and with done.
func untimed(ctx context.Context) (free context.Context, done func()) {
	free, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	return free, func() {
		stop()
		cancel()
	}
}

// migrate makes the schema in one transaction, and says whether an earlier version had made
// one.
func (s *Store) migrate(ctx context.Context) (upgraded bool, err error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return false, err
	}
	if upgraded = version > 0 && version < schemaVersion; upgraded {
		// An earlier version that goes on writing would not keep the indexes of this one.
		l, failed := takeLease(s.path)
		if failed != nil {
			return false, fmt.Errorf("the database is of an earlier version, and its lease cannot be had; if a Caddy of that version still writes to it, start that anew with this version first: %w", failed)
		}
		defer func() { err = errors.Join(err, l.release()) }()
		s.log.Info("the database is of an earlier version and gets the indexes of this one: some seconds for each million entries",
			"path", s.path, "schema", version, "becomes", schemaVersion)
	}
	if err := upgrade(ctx, tx, s.table); err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, strings.ReplaceAll(schema, "{t}", s.table)); err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id=%d; PRAGMA user_version=%d", applicationID, schemaVersion)); err != nil {
		return false, err
	}
	return upgraded, tx.Commit()
}

func checkOwner(ctx context.Context, db querier) error {
	var app, version, objects int
	row := db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)`)
	if err := row.Scan(&app, &version, &objects); err != nil {
		return err
	}
	return judge(app, version, objects)
}

// What judge may say.
var (
	errForeign = errors.New("this SQLite file belongs to another program: give the audit log a file of its own")
	errNewer   = errors.New("written by a newer version of caddy-audit-log")
)

// judge says why a file with these marks and so many tables is not to be opened.
func judge(app, version, objects int) error {
	switch {
	case app != applicationID && objects > 0:
		return errForeign
	case version > schemaVersion:
		return fmt.Errorf("%w (schema %d, this one knows %d): upgrade, or use another file", errNewer, version, schemaVersion)
	}
	return nil
}

// explain adds a remedy to errors whose cause a person can mend.
func explain(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "file is not a database"):
		return fmt.Errorf("%w: it is damaged or something else; move it away, or give another path", err)
	case strings.Contains(text, "unable to open database file"), strings.Contains(text, "readonly"):
		return fmt.Errorf("%w: check that the user who runs Caddy may read and write the file and its folder", err)
	case strings.Contains(text, "locked"):
		return fmt.Errorf("%w: another program holds it; close that program", err)
	}
	return err
}

// Path returns the absolute path of the database file.
func (s *Store) Path() string { return s.path }

// Write implements storage.Store.
func (s *Store) Write(ctx context.Context, entries ...storage.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	return s.writer.write(ctx, storage.DurabilityOf(ctx), entries)
}

// exec runs one statement in the writer's next transaction.
func (s *Store) exec(ctx context.Context, query string, args ...any) (int, error) {
	return s.changed(ctx, s.writer.submit, storage.Fsync, func(ctx context.Context, tx *sql.Tx) (int64, error) {
		return affected(tx.ExecContext(ctx, query, args...))
	})
}

// affected is how many rows a statement has changed.
func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// changed has the writer run something that takes content away, and returns how many rows that
// changed.
func (s *Store) changed(ctx context.Context, submit func(context.Context, *job) error, d storage.Durability, run func(context.Context, *sql.Tx) (int64, error)) (int, error) {
	var n atomic.Int64 // the writer may still be at it when ctx has ended
	j := &job{durability: d, do: func(ctx context.Context, tx *sql.Tx) error {
		rows, err := run(ctx, tx)
		n.Store(rows)
		return err
	}}
	j.then = func() {
		if n.Load() > 0 {
			s.ticker.deleted()
		}
	}
	if err := submit(ctx, j); err != nil {
		return 0, err // it was rolled back, or nobody knows
	}
	return int(n.Load()), nil
}

// Close writes what is queued and closes the database.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() {
		s.stopCounting()
		err = s.ticker.stop()
		err = errors.Join(err, s.writer.close(), s.read.Close(), s.write.Close())
		s.leave()
	})
	return err
}
