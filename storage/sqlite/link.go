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
	begin, commit, rollback, version  statement
	insert, update, findText, newText statement
	args                              []driver.NamedValue // of insert, used again and again
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
			{&l.update, `UPDATE "%s_entries" SET user_hash=?, user_id=?, action=?, status=?, severity=?, ip=?, agent=?, metadata=?,
				identifier_hash=? WHERE id=?`},
			{&l.newText, `INSERT INTO "%s_texts" (text) VALUES (?)`},
			{&l.findText, `SELECT code FROM "%s_texts" WHERE text = ?`},
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
	for _, s := range []statement{l.begin, l.commit, l.rollback, l.version, l.insert, l.update, l.findText, l.newText} {
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

// number is the first column of the first row; ok is false when there is none.
func (s statement) number(args ...driver.NamedValue) (n int64, ok bool, err error) {
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		return 0, false, err
	}
	var row [1]driver.Value
	switch err = rows.Next(row[:]); {
	case errors.Is(err, io.EOF):
		err = nil
	case err == nil:
		n, ok = row[0].(int64)
	}
	return n, ok, errors.Join(err, rows.Close())
}

// put writes the entries of the jobs.
func (w *writer) put(batch []*job) error {
	version, _, err := w.link.version.number()
	if err != nil {
		return err
	}
	w.notice(version)
	for _, j := range batch {
		for i := range j.entries {
			if err := w.putOne(&j.entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Places of the arguments of insert; those of update are the same without the first two,
// and then the id.
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
	action, err := w.text(e.Action)
	if err != nil {
		return err
	}
	var agent driver.Value
	if e.UserAgent != "" {
		if agent, err = w.text(e.UserAgent); err != nil {
			return err
		}
	}
	args := w.link.args
	id := idValue(e.ID)
	for i, v := range [insertArgs]driver.Value{
		argID: id, argUserHash: hashOrNull(e.UserID), argUserID: textOrNull(e.UserID), argAction: action,
		argStatus: int64(e.Status.Code()), argSeverity: int64(e.Severity), argIP: textOrNull(e.IPAddress),
		argAgent: agent, argMetadata: metadataValue(e), argIdentifier: hashOrNull(e.IdentifierHash),
	} {
		args[i].Value = v
	}
	for key := e.SortKey(); ; key++ {
		args[argKey].Value = key
		if done, err := changes(w.link.insert.exec(args...)); err != nil || done {
			return err
		}
		if done, err := changes(w.link.update.exec(updateArgs(args, id)...)); err != nil || done {
			return err
		}
	}
}

func updateArgs(insert []driver.NamedValue, id driver.Value) []driver.NamedValue {
	args := append(slices.Clone(insert[argUserHash:]), driver.NamedValue{Value: id})
	for i := range args {
		args[i].Ordinal = i + 1
	}
	return args
}

// changes says whether a statement has changed a row.
func changes(res driver.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// text returns the code of a text, making one if it is new.
func (w *writer) text(s string) (int64, error) {
	code, known := w.texts.Get(s)
	if !known {
		var err error
		if code, err = w.link.findOrMake(s); err != nil {
			return 0, err
		}
		w.texts.Add(s, code)
	}
	if w.used != nil {
		w.used[code] = struct{}{}
	}
	return code, nil
}

func (l *link) findOrMake(s string) (int64, error) {
	arg := driver.NamedValue{Ordinal: 1, Value: s}
	code, known, err := l.findText.number(arg)
	if err != nil || known {
		return code, err
	}
	res, err := l.newText.exec(arg)
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
