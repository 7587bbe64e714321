package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// link is the write connection below database/sql, for what happens all the time: its
// statements are prepared once, and no context is watched, for which the driver would start
// a goroutine with each statement. Only the writer's goroutine uses it.
type link struct {
	begin, commit, rollback, version statement
	insert, update, find             statement
	findText, newText                statement
	upto, count, forget              statement
	args                             []driver.NamedValue // of insert, used again and again
}

// newLink prepares the statements on a connection that stays open longer than the link.
func newLink(conn *sql.Conn, table string) (*link, error) {
	l := &link{args: make([]driver.NamedValue, insertArgs)}
	for i := range l.args {
		l.args[i].Ordinal = i + 1
	}
	err := conn.Raw(func(c any) error {
		var errs []error
		for _, p := range []struct {
			to  *statement
			sql string
		}{
			{&l.begin, "BEGIN IMMEDIATE"}, {&l.commit, "COMMIT"}, {&l.rollback, "ROLLBACK"}, {&l.version, "PRAGMA data_version"},
			{&l.insert, `INSERT INTO "%s_entries" (key, id, user_hash, user_id, action, status, severity, ip, agent, metadata, identifier_hash)
				VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`},
			{&l.find, `SELECT key, action, status, severity FROM "%s_entries" WHERE id=?`},
			{&l.update, `UPDATE "%s_entries" SET user_hash=?, user_id=?, action=?, status=?, severity=?, ip=?, agent=?, metadata=?,
				identifier_hash=? WHERE key=?`},
			{&l.newText, `INSERT INTO "%s_texts" (text, class) VALUES (?, ?)`},
			{&l.findText, `SELECT code FROM "%s_texts" WHERE text = ? AND class IS ?`},
			{&l.upto, `SELECT hour FROM "%s_counted"`},
			{&l.count, `INSERT INTO "%s_counts" (hour, kind, status, severity, n) VALUES (?,?,?,?,?)
				ON CONFLICT DO UPDATE SET n = n + excluded.n`},
			{&l.forget, `DELETE FROM "%s_counts" WHERE hour=? AND kind=? AND status=? AND severity=? AND n=0`},
		} {
			query := strings.ReplaceAll(p.sql, "%s", table)
			stmt, err := c.(driver.Conn).Prepare(query)
			p.to.Stmt = stmt
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *link) close() error {
	var errs []error
	for _, s := range []statement{l.begin, l.commit, l.rollback, l.version, l.insert, l.update, l.find, l.findText, l.newText, l.upto, l.count, l.forget} {
		if s.Stmt != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// transact runs f in a transaction.
func (l *link) transact(f func() error) error {
	if _, err := l.begin.exec(); err != nil {
		return err
	}
	err := f()
	if err == nil {
		_, err = l.commit.exec()
	}
	if err != nil {
		_, _ = l.rollback.exec() // there may be none left
	}
	return err
}

// statement is a prepared one.
type statement struct{ driver.Stmt }

func (s statement) exec(args ...driver.NamedValue) (driver.Result, error) {
	return s.Stmt.(driver.StmtExecContext).ExecContext(context.Background(), args)
}

// numbers reads the columns of the first row, which are numbers; ok is false when there is
// none.
func (s statement) numbers(row []driver.Value, args ...driver.NamedValue) (ok bool, err error) {
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		return false, err
	}
	switch err = rows.Next(row); {
	case errors.Is(err, io.EOF):
		err = nil
	case err == nil:
		ok = true
	}
	return ok, errors.Join(err, rows.Close())
}

// number is the first column of the first row; ok is false when there is none.
func (s statement) number(args ...driver.NamedValue) (n int64, ok bool, err error) {
	var row [1]driver.Value
	ok, err = s.numbers(row[:], args...)
	n, _ = row[0].(int64)
	return n, ok, err
}

// put writes the entries of the jobs.
func (w *writer) put(batch []*job) error {
	version, _, err := w.link.version.number()
	if err != nil {
		return err
	}
	if err := w.notice(version); err != nil {
		return err
	}
	for _, j := range batch {
		for i := range j.entries {
			if err := w.putOne(&j.entries[i]); err != nil {
				return err
			}
		}
	}
	return w.changes.save(w.link)
}

// Places of the arguments of insert; those of update are the same without the first two,
// and then the key.
const (
	argKey = iota
	argID
	argUserHash
	argUserID
	argAction
	argStatus
	argSeverity
	argIP
	argAgent
	argMetadata
	argIdentifier
	insertArgs
)

// putOne inserts, or updates if the id is there, or takes the next key if another entry
// has the same.
func (w *writer) putOne(e *storage.Entry) error {
	kind, err := w.code(text{e.Action, storage.ClassIn(e.Metadata), true})
	if err != nil {
		return err
	}
	var agent driver.Value
	if e.UserAgent != "" {
		if agent, err = w.code(text{text: e.UserAgent}); err != nil {
			return err
		}
	}
	args := w.link.args
	id := idValue(e.ID)
	for i, v := range [insertArgs]driver.Value{
		argID: id, argUserHash: hashOrNull(e.UserID), argUserID: textOrNull(e.UserID), argAction: kind,
		argStatus: int64(e.Status.Code()), argSeverity: int64(e.Severity), argIP: textOrNull(e.IPAddress),
		argAgent: agent, argMetadata: metadataValue(e), argIdentifier: hashOrNull(e.IdentifierHash),
	} {
		args[i].Value = v
	}
	counted := group{kind, int8(e.Status.Code()), int8(e.Severity)}
	for key := e.SortKey(); ; key++ {
		args[argKey].Value = key
		if done, err := changed(w.link.insert.exec(args...)); err != nil || done {
			w.changes.add(hourOf(key), counted, 1)
			return err
		}
		old, there, err := w.link.row(id)
		if err != nil {
			return err
		}
		if !there {
			continue // another entry has the key
		}
		w.changes.add(hourOf(old.key), old.group, -1)
		w.changes.add(hourOf(old.key), counted, 1)
		_, err = w.link.update.exec(updateArgs(args, old.key)...)
		return err
	}
}

// row is what has to be known of an entry that changes.
type row struct {
	key int64
	group
}

func (l *link) row(id driver.Value) (r row, ok bool, err error) {
	var v [4]driver.Value
	ok, err = l.find.numbers(v[:], driver.NamedValue{Ordinal: 1, Value: id})
	if !ok || err != nil {
		return r, false, err
	}
	r.key, _ = v[0].(int64)
	r.group = groupOf(v[1], v[2], v[3])
	return r, true, nil
}

// groupOf is the group of what the database says of an entry.
func groupOf(kind, status, level driver.Value) (g group) {
	g.kind, _ = kind.(int64)
	s, _ := status.(int64)
	l, _ := level.(int64)
	g.status, g.severity = int8(s), int8(l) //nolint:gosec // codes
	return g
}

func updateArgs(insert []driver.NamedValue, key int64) []driver.NamedValue {
	args := append(slices.Clone(insert[argUserHash:]), driver.NamedValue{Value: key})
	for i := range args {
		args[i].Ordinal = i + 1
	}
	return args
}

// changed says whether a statement has changed a row.
func changed(res driver.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// text is one that has a code: an action with its class, or a user agent.
type text struct {
	text, class string
	action      bool
}

// code returns the code of a text, making one if it is new.
func (w *writer) code(t text) (int64, error) {
	code, known := w.texts.Get(t)
	if !known {
		var err error
		if code, err = w.link.findOrMake(t); err != nil {
			return 0, err
		}
		w.texts.Add(t, code)
	}
	if w.used != nil {
		w.used[code] = struct{}{}
	}
	return code, nil
}

func (l *link) findOrMake(t text) (int64, error) {
	args := []driver.NamedValue{{Ordinal: 1, Value: t.text}, {Ordinal: 2}}
	if t.action {
		args[1].Value = t.class
	}
	code, known, err := l.findText.number(args...)
	if err != nil || known {
		return code, err
	}
	res, err := l.newText.exec(args...)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// idValue stores a UUID, as it is usually written, in 16 bytes and any other id as text.
func idValue(id string) driver.Value {
	if len(id) == 36 && !strings.ContainsAny(id, "ABCDEF") {
		if u, err := uuid.Parse(id); err == nil {
			return u[:]
		}
	}
	return id
}

func hashOrNull(s string) driver.Value {
	if s == "" {
		return nil
	}
	return storage.TextHash(s)
}

func textOrNull(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}

func metadataValue(e *storage.Entry) driver.Value {
	if len(e.Metadata) == 0 || string(e.Metadata) == "{}" {
		return nil
	}
	return string(e.Metadata)
}
