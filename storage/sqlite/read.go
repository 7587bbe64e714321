package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// columns and joins of one entry; %[1]s is the table.
const entryColumns = `e.key, e.id, e.user_id, a.text, e.status, e.severity, e.ip, u.text, e.metadata`

const entryJoins = `JOIN "%[1]s_texts" a ON a.code = e.action LEFT JOIN "%[1]s_texts" u ON u.code = e.agent`

// Get implements storage.Getter.
func (s *Store) Get(ctx context.Context, id string) (storage.Entry, error) {
	q := fmt.Sprintf(`SELECT `+entryColumns+` FROM "%[1]s_entries" e `+entryJoins+` WHERE e.id = ?`, s.table)
	_, e, err := scan(s.read.QueryRowContext(ctx, q, idValue(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return storage.Entry{}, storage.ErrNotFound
	}
	return e, err
}

// List implements storage.Lister.
func (s *Store) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	where := s.conditions(&q)
	page := storage.Page{Entries: []storage.Entry{}}
	total, err := s.count(ctx, where)
	if err != nil {
		return page, err
	}
	page.Total, page.TotalIsCapped = min(total, storage.MaxTotal), total > storage.MaxTotal
	if q.Cursor != "" {
		key, err := storage.DecodeCursor(q.Cursor)
		if err != nil {
			return page, err
		}
		q.Offset = 0
		where.add("key < ?", key)
	}
	return s.page(ctx, page, where, q.PageLimit(), max(q.Offset, 0))
}

// conditions is a WHERE clause in the making.
type conditions struct {
	terms []string
	args  []any
	// byAction is true when only the action (and time) is asked for: then each
	// status has its own run in the index, in order of time.
	byAction bool
}

func (c *conditions) add(term string, args ...any) {
	c.terms = append(c.terms, term)
	c.args = append(c.args, args...)
}

func (c *conditions) String() string {
	if len(c.terms) == 0 {
		return "1"
	}
	return strings.Join(c.terms, " AND ")
}

func (s *Store) conditions(q *storage.Query) *conditions {
	c := &conditions{byAction: q.Action != "" && q.Status == "" && q.UserID == nil}
	if q.UserID != nil && *q.UserID == "" {
		c.add("user_hash IS NULL")
	} else if q.UserID != nil {
		c.add("user_hash = ? AND user_id = ?", userHash(*q.UserID), *q.UserID)
	}
	if q.Action != "" {
		c.add(fmt.Sprintf(`action = (SELECT code FROM "%s_texts" WHERE text = ?)`, s.table), q.Action)
	}
	if q.Status != "" {
		c.add("status = ?", statusCode(q.Status))
		if q.Status != storage.Success {
			c.add("status <> 0") // lets SQLite see that the partial index holds
		}
	}
	if q.Severity != nil {
		c.add("severity = ?", *q.Severity)
	}
	if !q.From.IsZero() {
		c.add("key >= ?", storage.TimeKey(q.From))
	}
	if !q.To.IsZero() {
		c.add("key < ?", storage.TimeKey(q.To.Add(1e6))) // both ends inclusive, to the millisecond
	}
	return c
}

func (s *Store) count(ctx context.Context, where *conditions) (int, error) {
	var n int
	q := fmt.Sprintf(`SELECT count(*) FROM (SELECT 1 FROM "%s_entries" WHERE %s LIMIT %d)`, s.table, where, storage.MaxTotal+1)
	err := s.read.QueryRowContext(ctx, q, where.args...).Scan(&n)
	return n, err
}

// keys is the query for the keys of one page and of one entry more, which tells
// whether there is a next page.
func (s *Store) keys(where *conditions, limit, offset int) (string, []any) {
	one := fmt.Sprintf(`SELECT key FROM "%s_entries" WHERE %s`, s.table, where)
	if !where.byAction {
		return fmt.Sprintf(`%s ORDER BY key DESC LIMIT %d OFFSET %d`, one, limit+1, offset), where.args
	}
	var parts []string
	var args []any
	for code := range statuses {
		parts = append(parts, fmt.Sprintf(`SELECT key FROM (%s AND status = %d ORDER BY key DESC LIMIT %d)`, one, code, limit+1+offset))
		args = append(args, where.args...)
	}
	return fmt.Sprintf(`SELECT key FROM (%s) ORDER BY key DESC LIMIT %d OFFSET %d`, strings.Join(parts, " UNION ALL "), limit+1, offset), args
}

func (s *Store) page(ctx context.Context, page storage.Page, where *conditions, limit, offset int) (storage.Page, error) {
	keys, args := s.keys(where, limit, offset)
	q := fmt.Sprintf(`SELECT `+entryColumns+` FROM (`+strings.ReplaceAll(keys, "%", "%%")+`) k JOIN "%[1]s_entries" e ON e.key = k.key `+
		entryJoins+` ORDER BY e.key DESC`, s.table)
	rows, err := s.read.QueryContext(ctx, q, args...)
	if err != nil {
		return page, err
	}
	defer func() { _ = rows.Close() }()
	last := int64(0)
	for rows.Next() {
		key, e, err := scan(rows)
		if err != nil {
			return page, err
		}
		if len(page.Entries) == limit {
			page.NextCursor = storage.EncodeCursor(last)
			break
		}
		page.Entries, last = append(page.Entries, e), key
	}
	return page, rows.Err()
}

// scan reads one row of entryColumns.
func scan(row interface{ Scan(...any) error }) (int64, storage.Entry, error) {
	var (
		e                     storage.Entry
		key                   int64
		id                    any
		user, ip, agent, meta sql.NullString
		status, level         int
	)
	if err := row.Scan(&key, &id, &user, &e.Action, &status, &level, &ip, &agent, &meta); err != nil {
		return 0, e, err
	}
	switch v := id.(type) {
	case []byte:
		u, err := uuid.FromBytes(v)
		if err != nil {
			return 0, e, fmt.Errorf("entry with key %d has a damaged id: %w", key, err)
		}
		e.ID = u.String()
	case string:
		e.ID = v
	}
	if status < 0 || status >= len(statuses) {
		status = len(statuses) - 1
	}
	e.Status, e.Severity = statuses[status], severity.Level(level)
	e.UserID, e.IPAddress, e.UserAgent = user.String, ip.String, agent.String
	e.Metadata = []byte("{}")
	if meta.Valid {
		e.Metadata = []byte(meta.String)
	}
	e.CreatedAt = storage.KeyTime(key)
	return key, e, nil
}
