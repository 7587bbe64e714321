package plugintable

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxLine bounds one JSON line.
const maxLine = 4 << 20

// Row is one row of the table: an entry, or why it cannot be one.
type Row struct {
	// Number of the row or line, from 1.
	Number int
	Entry  storage.Entry
	// Err says what is wrong with this row; the others can still be read.
	Err error
}

// Count returns how many rows a table in SQLite has, and whether it is there.
func Count(ctx context.Context, db *sql.DB, table string) (int, error) {
	var there, n int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type IN ('table','view') AND name = ?", table).Scan(&there)
	if err == nil && there == 0 {
		return 0, fmt.Errorf("it has no table %q: name the one that the plugin uses (schema.auditLog.modelName)", table)
	}
	if err == nil {
		err = db.QueryRowContext(ctx, "SELECT count(*) FROM "+quote(table)).Scan(&n)
	}
	return n, err
}

// SQLite reads a table. The second value ends the sequence when it is an error of
// the database.
func SQLite(ctx context.Context, db *sql.DB, table string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		rows, err := db.QueryContext(ctx, "SELECT * FROM "+quote(table))
		if err != nil {
			yield(Row{}, err)
			return
		}
		defer func() { _ = rows.Close() }()
		columns, err := rows.Columns()
		for n := 1; err == nil && rows.Next(); n++ {
			var r row
			if r, err = scan(rows, columns); err != nil {
				break
			}
			if !yield(made(n, r), nil) {
				return
			}
		}
		if err := errors.Join(err, rows.Err()); err != nil {
			yield(Row{}, err)
		}
	}
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func scan(rows *sql.Rows, columns []string) (row, error) {
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		return nil, err
	}
	r := make(row, len(columns))
	for i, column := range columns {
		r.put(column, values[i])
	}
	return r, nil
}

func made(n int, r row) Row {
	e, err := r.entry()
	return Row{Number: n, Entry: e, Err: err}
}

// JSONLines reads one JSON object from each line; empty lines are passed over.
func JSONLines(in io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		lines := bufio.NewScanner(in)
		lines.Buffer(make([]byte, 64<<10), maxLine)
		n := 0
		for lines.Scan() {
			n++
			line := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\ufeff")))
			if len(line) == 0 {
				continue
			}
			r, err := fromJSON(line)
			next := Row{Number: n, Err: err}
			if err == nil {
				next = made(n, r)
			}
			if !yield(next, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Row{}, fmt.Errorf("line %d: %w", n+1, err))
		}
	}
}

func fromJSON(line []byte) (row, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber() // milliseconds and ids must not become 1.7e12
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	if rest := bytes.Trim(line[d.InputOffset():], " \t\r\n,"); len(rest) > 0 {
		return nil, errors.New("something stands behind the JSON object: give one of them on each line")
	}
	r := make(row, len(object))
	for name, value := range object {
		if name == "_id" { // MongoDB's, which counts only where there is no id
			r["id$"] = value
			continue
		}
		r.put(name, value)
	}
	return r, nil
}
