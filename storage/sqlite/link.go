package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
)

// link is the write connection below database/sql, for what happens all the time: its
// statements are prepared once, and no context is watched, for which the driver would start
// a goroutine with each statement. Only the writer's goroutine uses it.
type link struct {
	begin, commit, rollback, version statement
	insert, update, find, findStray  statement
	findText, newText, unlink        statement
	upto, count, forget, elsewhere   statement

	// Of the indexer.
	unindexed, setUpto, lateRows, nextRows, rowAt                 statement
	addLate, isLate, takeLate, dropLate                           statement
	segments, newSegment, setTarget, setState                     statement
	raise, kill, killAll, dropAllLate, dropSegment                statement
	newBlock, blockAt, lastPlace, setBlock, dropBlock, dropBlocks statement

	// many[n] inserts n entries, and fails if one is there. A statement opens each index
	// once, and closes it again, which is half of what inserting costs.
	many    [maxTogether + 1]statement
	prepare func(query string) (driver.Stmt, error)
	table   string
	args    []driver.NamedValue // of an insert, used again and again
}

// maxTogether is how many entries one statement inserts at most.
const maxTogether = 32

// newLink prepares the statements on a connection that stays open longer than the link.
func newLink(conn *sql.Conn, table string) (*link, error) {
	l := &link{table: table, args: make([]driver.NamedValue, maxTogether*insertArgs)}
	for i := range l.args {
		l.args[i].Ordinal = i + 1
	}
	err := conn.Raw(func(c any) error {
		l.prepare = func(query string) (driver.Stmt, error) {
			return c.(driver.Conn).Prepare(strings.ReplaceAll(query, "%s", table))
		}
		var errs []error
		for to, query := range l.statements() {
			var err error
			to.Stmt, err = l.prepare(query)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// statements are all of them, with their SQL; %s is the table.
func (l *link) statements() map[*statement]string {
	const find = `SELECT key, action, status, severity FROM "%s_entries" WHERE id = ? AND `
	return map[*statement]string{
		&l.begin: "BEGIN IMMEDIATE", &l.commit: "COMMIT", &l.rollback: "ROLLBACK", &l.version: "PRAGMA data_version",
		&l.insert:    insertOf(1) + ` ON CONFLICT DO NOTHING`,
		&l.find:      find + `key = ?`,
		&l.findStray: find + `stray IS NOT NULL`,
		&l.elsewhere: `SELECT 1 FROM "%s_entries" WHERE stray = 3 LIMIT 1`,
		&l.update: `UPDATE "%s_entries" SET user_hash=?, user_id=?, action=?, status=?, severity=?, ip=?, agent=?, metadata=?, identifier_hash=?
			WHERE key=? AND id=?`,
		&l.unlink:   `UPDATE "%s_entries" SET user_id = NULL, user_hash = NULL WHERE key = ? AND user_hash = ? AND user_id = ?`,
		&l.newText:  `INSERT INTO "%s_texts" (text, class) VALUES (?, ?)`,
		&l.findText: `SELECT code FROM "%s_texts" WHERE text = ? AND class IS ?`,
		&l.upto:     `SELECT hour FROM "%s_counted"`,
		&l.count: `INSERT INTO "%s_counts" (hour, kind, status, severity, n) VALUES (?,?,?,?,?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n`,
		&l.forget: `DELETE FROM "%s_counts" WHERE hour=? AND kind=? AND status=? AND severity=? AND n=0`,

		&l.unindexed: `SELECT upto, (SELECT count(*) FROM (SELECT 1 FROM "%s_late" LIMIT ?1)) + (SELECT count(*) FROM (SELECT 1 FROM "%s_entries" WHERE key >= upto LIMIT ?1)) FROM "%s_unindexed"`,
		&l.setUpto:   `UPDATE "%s_unindexed" SET upto = ?`,
		&l.lateRows:  `SELECT ` + indexedColumns + ` FROM "%s_late" LEFT JOIN "%s_entries" USING (key) ORDER BY key LIMIT ?`,
		&l.nextRows:  `SELECT ` + indexedColumns + ` FROM "%s_entries" WHERE key >= ? ORDER BY key LIMIT ?`,
		&l.rowAt:     `SELECT ` + indexedColumns + ` FROM "%s_entries" WHERE key = ?`,
		&l.addLate:   `INSERT OR IGNORE INTO "%s_late" (key) VALUES (?)`,
		&l.isLate:    `SELECT 1 FROM "%s_late" WHERE key = ?`,
		&l.takeLate:  `DELETE FROM "%s_late" WHERE key <= ?`,
		&l.dropLate:  `DELETE FROM "%s_late" WHERE key < ?`,

		&l.segments:   `SELECT segment, level, state, target, first, last, floor FROM "%s_segments" ORDER BY segment`,
		&l.newSegment: `INSERT INTO "%s_segments" (level, state, first, last, floor) VALUES (?, ?, ?, ?, 0)`,
		&l.setTarget:  `UPDATE "%s_segments" SET target = ? WHERE segment = ?`,
		&l.setState:   `UPDATE "%s_segments" SET state = ? WHERE segment = ?`,
		&l.raise:      `UPDATE "%s_segments" SET floor = ?1 WHERE floor < ?1 AND first < ?1`,
		&l.kill: `UPDATE "%s_segments" AS s SET state = 2, target = NULL WHERE last < floor AND
			(target IS NULL OR (SELECT last < floor FROM "%s_segments" AS t WHERE t.segment = s.target))`,
		&l.killAll:     `UPDATE "%s_segments" SET state = 2, target = NULL`,
		&l.dropAllLate: `DELETE FROM "%s_late"`,
		&l.dropSegment: `DELETE FROM "%s_segments" WHERE segment = ?`,
		&l.newBlock:    `INSERT INTO "%s_postings" (segment, place, block) VALUES (?, ?, ?)`,
		&l.blockAt:     blockAt,
		&l.lastPlace:   `SELECT max(place) FROM "%s_postings" WHERE segment = ?`,
		&l.setBlock:    `UPDATE "%s_postings" SET place = ?, block = ? WHERE id = ?`,
		&l.dropBlock:   `DELETE FROM "%s_postings" WHERE id = ?`,
		&l.dropBlocks:  `DELETE FROM "%s_postings" WHERE id IN (SELECT id FROM "%s_postings" WHERE segment = ? LIMIT ?)`,
	}
}

// blockAt finds the first block of a segment whose last posting is at a place or behind it.
const blockAt = `SELECT id, place, block FROM "%s_postings" WHERE segment = ? AND place >= ? ORDER BY place LIMIT 1`

// insertOf inserts n entries.
func insertOf(n int) string {
	row := ",(?" + strings.Repeat(",?", insertArgs-1) + ")"
	return `INSERT INTO "%s_entries" (key, id, user_hash, user_id, action, status, severity, ip, agent, metadata, identifier_hash, stray) VALUES ` +
		strings.Repeat(row, n)[1:]
}

// together is the statement that inserts n entries.
func (l *link) together(n int) (s statement, err error) {
	if l.many[n].Stmt == nil {
		l.many[n].Stmt, err = l.prepare(insertOf(n))
	}
	return l.many[n], err
}

func (l *link) close() error {
	var errs []error
	all := slices.Collect(maps.Keys(l.statements()))
	for i := range l.many {
		all = append(all, &l.many[i])
	}
	for _, s := range all {
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

// first reads the first row into row; ok is false when there is none.
func (s statement) first(row []driver.Value, args ...driver.NamedValue) (ok bool, err error) {
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

// each reads all rows, one after the other, into row, and calls f after each.
func (s statement) each(row []driver.Value, f func() error, args ...driver.NamedValue) error {
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		return err
	}
	for err == nil {
		if err = rows.Next(row); err == nil {
			err = f()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
}

// number is the first column of the first row; ok is false when there is none.
func (s statement) number(args ...driver.NamedValue) (n int64, ok bool, err error) {
	var row [1]driver.Value
	ok, err = s.first(row[:], args...)
	n, _ = row[0].(int64)
	return n, ok, err
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

// code returns the code of a text, making one if it is new. The class need not stay as it is.
func (w *writer) code(t text) (int64, error) {
	code, known := w.texts.Get(t)
	if !known {
		t.class = strings.Clone(t.class)
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
	args := numbered(t.text, nil)
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
