package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// listColumns are what scan reads.
const listColumns = `key, id, user_id, action, status, severity, ip, agent, metadata, identifier_hash`

// Get implements storage.Getter.
func (s *Store) Get(ctx context.Context, id string) (storage.Entry, error) {
	if !utf8.ValidString(id) || strings.Contains(id, "\x00") {
		return storage.Entry{}, storage.ErrNotFound // no entry has it, and PostgreSQL would refuse the question
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var e storage.Entry
	err := s.reading(ctx, func(b *pgx.Batch) {
		b.Queue(s.fill(`SELECT `+listColumns+` FROM "{s}"."{t}_entries" WHERE id = $1`), id).QueryRow(func(row pgx.Row) error {
			var err error
			_, e, err = scan(row)
			return err
		})
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return storage.Entry{}, storage.ErrNotFound
	}
	return e, s.explain(caller, err)
}

// List implements storage.Lister. Page and total are of one moment.
func (s *Store) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	page := storage.Page{Entries: []storage.Entry{}}
	runs := s.runs(&q)
	after := runs
	if q.Cursor != "" {
		key, err := storage.DecodeCursor(q.Cursor)
		if err != nil {
			return page, err
		}
		q.Offset = 0
		after = make([]run, len(runs))
		for i := range runs {
			after[i] = runs[i].with("key < ?", key)
		}
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.reading(ctx, func(b *pgx.Batch) {
		page = storage.Page{Entries: []storage.Entry{}} // it may be a second try
		if !q.NoTotal {
			s.queueTotal(b, &page, runs)
		}
		s.queuePage(b, &page, after, q.PageLimit(), max(q.Offset, 0))
	})
	return page, s.explain(caller, err)
}

// run is the WHERE clause, in the making, of a part of the answer, with ? for its
// arguments. A query is cut into runs so that one index gives each run in order of
// time; no entry is in two.
type run struct {
	terms []string
	args  []any
}

func (r *run) add(term string, args ...any) {
	r.terms = append(r.terms, term)
	r.args = append(r.args, args...)
}

// with returns a run that selects less.
func (r *run) with(term string, args ...any) run {
	return run{slices.Concat(r.terms, []string{term}), slices.Concat(r.args, args)}
}

// where appends the run's arguments to args and returns its clause, with their
// numbers.
func (r *run) where(args *[]any) string {
	if len(r.terms) == 0 {
		return "true"
	}
	var b strings.Builder
	n := len(*args)
	for i, part := range strings.Split(strings.Join(r.terms, " AND "), "?") {
		if i > 0 {
			fmt.Fprintf(&b, "$%d", n+i)
		}
		b.WriteString(part)
	}
	*args = append(*args, r.args...)
	return b.String()
}

func (s *Store) runs(q *storage.Query) []run {
	all := filters(q)
	switch {
	case q.UserID == nil && q.Action != "" && q.Status == "":
		var runs []run
		for code := range storage.StatusCodes { // the index on actions has one run for each status
			runs = append(runs, all.with(fmt.Sprintf("status = %d", code)))
		}
		return runs
	case q.UserID == nil:
		return []run{*all}
	case *q.UserID == "":
		return []run{all.with("user_hash IS NULL")}
	}
	own := all.with("user_hash = ? AND user_id = ?", storage.TextHash(*q.UserID), *q.UserID)
	if !askable(*q.UserID) {
		own = all.with("false")
	}
	if !q.Widened() {
		return []run{own}
	}
	return []run{own, all.with(fmt.Sprintf("identifier_hash = ? AND user_hash IS NULL AND status IN (%d, %d)",
		storage.Failed.Code(), storage.Pending.Code()), storage.TextHash(q.IdentifierHash))}
}

// askable says whether PostgreSQL takes the text. Entries have no others.
func askable(text string) bool { return utf8.ValidString(text) && !strings.Contains(text, "\x00") }

// filters are the terms that all runs have. Codes are constants, so that partial
// indexes are found to fit.
func filters(q *storage.Query) *run {
	r := new(run)
	for _, text := range []string{q.Action, q.Class, q.IPAddress, q.Text} {
		if !askable(text) {
			r.add("false")
			return r
		}
	}
	if q.Action != "" {
		r.add("action = ?", q.Action)
	}
	if q.Class != "" {
		r.add("class = ?", q.Class)
	}
	if q.IPAddress != "" {
		r.add("ip = ?", q.IPAddress)
	}
	if q.UserID == nil && q.IdentifierHash != "" {
		r.add("identifier_hash = ?", storage.TextHash(q.IdentifierHash))
	}
	if q.Status != "" {
		r.add(fmt.Sprintf("status = %d", q.Status.Code()))
	}
	if q.Severity != nil {
		r.add(fmt.Sprintf("severity = %d", *q.Severity))
	}
	if !q.From.IsZero() {
		r.add("key >= ?", storage.TimeKey(q.From))
	}
	if !q.To.IsZero() {
		r.add("key < ?", storage.EndKey(q.To)) // both ends inclusive
	}
	if q.Text != "" {
		addText(r, q)
	}
	return r
}

// addText adds the search for q.Text. No index helps it: the call's own limit bounds
// how long it looks. The columns have the collation "C", in which lower changes the
// letters A to Z alone.
func addText(r *run, q *storage.Query) {
	columns := []string{"action", "user_id", "ip", "identifier", "target_user_id", "error_code", "session_hash"}
	if q.TextInAgent {
		columns = append(columns, "agent")
	}
	terms := make([]string, len(columns))
	for i, column := range columns {
		terms[i] = "strpos(lower(" + column + "), lower(?::text COLLATE \"C\")) > 0"
	}
	r.add("("+strings.Join(terms, " OR ")+")", slices.Repeat([]any{q.Text}, len(terms))...)
}

// queueTotal counts what the runs select, up to storage.MaxTotal.
func (s *Store) queueTotal(b *pgx.Batch, page *storage.Page, runs []run) {
	var parts []string
	var args []any
	for i := range runs {
		parts = append(parts, s.fill(`(SELECT 1 FROM "{s}"."{t}_entries" WHERE `)+runs[i].where(&args)+fmt.Sprintf(` LIMIT %d)`, storage.MaxTotal+1))
	}
	sql := fmt.Sprintf(`SELECT least(count(*), %d) FROM (%s) AS found`, storage.MaxTotal+1, strings.Join(parts, " UNION ALL "))
	b.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
		var total int
		err := row.Scan(&total)
		page.Total, page.TotalIsCapped = min(total, storage.MaxTotal), total > storage.MaxTotal
		return err
	})
}

// queuePage reads one page and one entry more, which tells whether there is a next
// page.
func (s *Store) queuePage(b *pgx.Batch, page *storage.Page, runs []run, limit, offset int) {
	sql, args := s.pageSQL(runs, limit, offset)
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		defer rows.Close()
		last := int64(0)
		for rows.Next() {
			key, e, err := scan(rows)
			if err != nil {
				return err
			}
			if len(page.Entries) == limit {
				page.NextCursor = storage.EncodeCursor(last)
				break
			}
			page.Entries, last = append(page.Entries, e), key
		}
		rows.Close()
		return rows.Err()
	})
}

func (s *Store) pageSQL(runs []run, limit, offset int) (string, []any) {
	var args []any
	if len(runs) == 1 {
		where := runs[0].where(&args)
		args = append(args, limit+1, offset)
		return s.fill(`SELECT `+listColumns+` FROM "{s}"."{t}_entries" WHERE `) + where +
			fmt.Sprintf(` ORDER BY key DESC LIMIT $%d OFFSET $%d`, len(args)-1, len(args)), args
	}
	var parts []string
	for i := range runs {
		where := runs[i].where(&args)
		args = append(args, limit+1+offset)
		parts = append(parts, s.fill(`(SELECT `+listColumns+` FROM "{s}"."{t}_entries" WHERE `)+where+fmt.Sprintf(` ORDER BY key DESC LIMIT $%d)`, len(args)))
	}
	args = append(args, limit+1, offset)
	return `SELECT ` + listColumns + ` FROM (` + strings.Join(parts, " UNION ALL ") + fmt.Sprintf(`) AS found ORDER BY key DESC LIMIT $%d OFFSET $%d`, len(args)-1, len(args)), args
}

// scan reads one row of listColumns.
func scan(row pgx.Row) (int64, storage.Entry, error) {
	var (
		e                     storage.Entry
		key                   int64
		user, ip, agent, meta *string
		status, level         int16
		identifier            *int64
	)
	if err := row.Scan(&key, &e.ID, &user, &e.Action, &status, &level, &ip, &agent, &meta, &identifier); err != nil {
		return 0, e, err
	}
	e.Status, e.Severity = storage.StatusOf(int(status)), severity.Level(level)
	e.UserID, e.IPAddress, e.UserAgent = orEmpty(user), orEmpty(ip), orEmpty(agent)
	e.Metadata = []byte("{}")
	if meta != nil {
		e.Metadata = []byte(*meta)
	}
	if tag := storage.IdentifierHashIn(e.Metadata); identifier != nil && storage.TextHash(tag) == *identifier {
		e.IdentifierHash = tag
	}
	e.CreatedAt = storage.KeyTime(key)
	return key, e, nil
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
