package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// columns and joins of one entry; %[1]s is the table.
const entryColumns = `e.key, e.id, e.user_id, a.text, e.status, e.severity, e.ip, u.text, e.metadata, e.identifier_hash`

const entryJoins = `JOIN "%[1]s_texts" a ON a.code = e.action LEFT JOIN "%[1]s_texts" u ON u.code = e.agent`

// byID looks where the id leads, and among the strays.
const byID = `SELECT ` + entryColumns + ` FROM "%[1]s_entries" e ` + entryJoins + ` WHERE e.id = ?1 AND
	e.key IN (?2, (SELECT key FROM "%[1]s_entries" WHERE id = ?1 AND stray IS NOT NULL))`

// view answers questions from what its db shows.
type view struct {
	db     querier
	table  string
	counts *counts
}

// Get implements storage.Getter.
func (v *view) Get(ctx context.Context, id string) (storage.Entry, error) {
	key, _ := storage.IDKey(id)
	stored := idValue(id)
	_, e, err := scan(v.db.QueryRowContext(ctx, fmt.Sprintf(byID, v.table), stored, key))
	if errors.Is(err, sql.ErrNoRows) {
		return storage.Entry{}, storage.ErrNotFound
	}
	return e, err
}

// List implements storage.Lister.
func (s *Store) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	return ofOneMoment(ctx, s, &q, func(v *view) (storage.Page, error) { return v.List(ctx, q) })
}

// ofOneMoment asks in one transaction if the entries are found by a term: that takes more
// than one step. Numbers of others may be the counts', which are of now, not of the
// moment in which a transaction began.
func ofOneMoment[T any](ctx context.Context, s *Store, q *storage.Query, ask func(*view) (T, error)) (none T, err error) {
	if len(lookups(q)) == 0 {
		return ask(&s.view)
	}
	return mended(ctx, s, func() (T, error) { return ofOneTransaction(ctx, s, ask) })
}

func ofOneTransaction[T any](ctx context.Context, s *Store, ask func(*view) (T, error)) (none T, err error) {
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return none, err
	}
	defer func() { _ = conn.Close() }()
	// The statements obey ctx; a transaction that did would end with an error of its own.
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return none, err
	}
	defer func() { _ = tx.Rollback() }() // nothing was changed
	now := s.view
	now.db = tx
	return ask(&now)
}

// List is Store.List; see ofOneMoment.
func (v *view) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	page := storage.Page{Entries: []storage.Entry{}}
	k, err := v.kinds(ctx, &q)
	if err != nil {
		return page, err
	}
	if len(lookups(&q)) > 0 {
		return v.listFound(ctx, page, q, k)
	}
	if !q.NoTotal {
		if err := v.total(ctx, &page, &q, k); err != nil {
			return page, err
		}
	}
	return v.pageOf(ctx, page, q, k)
}

// total says in the page how many entries there are.
func (v *view) total(ctx context.Context, page *storage.Page, q *storage.Query, k kinds) error {
	total, exact, err := v.exactly(ctx, q, k)
	if err != nil {
		return err
	}
	if exact {
		page.Total = total
		return nil
	}
	total, err = v.count(ctx, v.runs(q, k))
	setTotal(page, total)
	return err
}

// setTotal says in the page what was counted, up to storage.MaxTotal + 1.
func setTotal(page *storage.Page, n int) {
	page.Total, page.TotalIsCapped = min(n, storage.MaxTotal), n > storage.MaxTotal
}

func (v *view) pageOf(ctx context.Context, page storage.Page, q storage.Query, k kinds) (storage.Page, error) {
	runs := v.runs(&q, k)
	if q.Cursor != "" {
		key, err := storage.DecodeCursor(q.Cursor)
		if err != nil {
			return page, err
		}
		q.Offset = 0
		runs = v.before(q, k, key)
	}
	return v.page(ctx, page, runs, q.PageLimit(), max(q.Offset, 0))
}

// before are the runs of a query below a key. Each has one upper bound: of two SQLite
// would go by the first, and read all that is between them.
func (v *view) before(q storage.Query, k kinds, key int64) []run {
	if !q.To.IsZero() {
		key = min(key, storage.EndKey(q.To))
		q.To = time.Time{}
	}
	runs := v.runs(&q, k)
	for i := range runs {
		runs[i].add("key < ?", key)
	}
	return runs
}

// run is the WHERE clause, in the making, of a part of the answer. A query is cut
// into runs so that one index gives each run in order of time; no entry is in two.
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

func (r *run) String() string {
	if len(r.terms) == 0 {
		return "1"
	}
	return strings.Join(r.terms, " AND ")
}

// kinds are what a query's Action and Class select.
type kinds struct {
	// asked is false when they select everything.
	asked bool
	// codes of the actions, sorted.
	codes []int64
	// legacy are those of entries whose own metadata has to say the class.
	legacy []int64
	class  string
	// many is true when so many entries are of them that a page of them is found soonest
	// by walking through all.
	many bool
}

// kinds looks up what Action and Class select.
func (v *view) kinds(ctx context.Context, q *storage.Query) (k kinds, err error) {
	if k.class, k.asked = q.Class, q.Action != "" || q.Class != ""; k.asked {
		err = v.findKinds(ctx, q, &k)
	}
	return k, err
}

func (v *view) findKinds(ctx context.Context, q *storage.Query, k *kinds) error {
	var where run
	if q.Action != "" {
		where.add("text = ?", q.Action)
	}
	switch {
	case q.Class == "":
	case v.counts.old():
		where.add(fmt.Sprintf(`(class = ? OR class IS NULL AND EXISTS (SELECT 1 FROM "%s_entries" WHERE action = code))`, v.table), q.Class)
	default:
		where.add("class = ?", q.Class)
	}
	rows, err := v.db.QueryContext(ctx, fmt.Sprintf(`SELECT code, class FROM "%s_texts" WHERE %s`, v.table, &where), where.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var code int64
		var class sql.NullString
		if err := rows.Scan(&code, &class); err != nil {
			return err
		}
		if q.Class == "" || class.Valid {
			k.codes = append(k.codes, code)
		} else {
			k.legacy = append(k.legacy, code)
		}
	}
	slices.Sort(k.codes)
	k.many = v.counts.many(k.codes)
	return rows.Err()
}

// maxRuns bounds the runs of a query.
const maxRuns = 64

// runs are those of a query whose entries no term finds.
func (v *view) runs(q *storage.Query, k kinds) []run {
	all := v.filters(q)
	switch {
	case q.UserID != nil:
		return []run{k.filter(all.with("user_hash IS NULL"))}
	case k.asked && !k.many && len(k.legacy) == 0 && len(k.codes)*storage.StatusCodes <= maxRuns:
		return k.runs(all, q.Status)
	}
	return []run{k.filter(all)}
}

// orNothing stands for no runs: a query needs one.
func orNothing(runs []run) []run {
	if len(runs) == 0 {
		return []run{{terms: []string{"0"}}}
	}
	return runs
}

// runs are one for each kind and status, in the order of the index on both.
func (k *kinds) runs(all run, status storage.Status) []run {
	runs := []run{}
	for _, code := range k.codes {
		if status != "" {
			runs = append(runs, all.with("action = ?", code))
			continue
		}
		for s := range storage.StatusCodes {
			runs = append(runs, all.with("action = ? AND status = ?", code, s))
		}
	}
	return orNothing(runs)
}

// filter adds the kinds to a run, and keeps SQLite from taking the index on them.
func (k *kinds) filter(r run) run {
	if !k.asked {
		return r
	}
	in := func(codes []int64) (string, []any) {
		list, args := oneOf(codes)
		return "+action IN " + list, args
	}
	term, args := in(k.codes)
	if len(k.legacy) == 0 {
		return r.with(term, args...)
	}
	old, more := in(k.legacy)
	return r.with("("+term+" OR "+old+" AND "+legacyClass+" = ?)", slices.Concat(args, more, []any{k.class})...)
}

// maxListed is how many codes a statement has as arguments of their own. A class may have as
// many actions as somebody has made up, and SQLite takes 32,766 arguments.
const maxListed = 100

// oneOf is a list of codes for IN, with its arguments.
func oneOf(codes []int64) (string, []any) {
	if len(codes) > maxListed {
		b, err := json.Marshal(codes)
		if err != nil {
			b = []byte("[]") // cannot happen: numbers
		}
		return "(SELECT value FROM json_each(?))", []any{string(b)}
	}
	args := make([]any, len(codes))
	for i, code := range codes {
		args[i] = code
	}
	return "(-1" + strings.Repeat(",?", len(codes)) + ")", args
}

// legacyClass is metadata.class as storage.ClassIn reads it.
const legacyClass = `CASE WHEN json_valid(metadata) AND json_type(metadata, '$.class') = 'text' THEN json_extract(metadata, '$.class') ELSE '' END`

// filters are the terms that all runs have.
func (v *view) filters(q *storage.Query) run {
	var r run
	if q.Status != "" {
		r.add("status = ?", q.Status.Code())
		if q.Status != storage.Success {
			r.add("status <> 0") // lets SQLite see that the partial index holds
		}
	}
	if q.Severity != nil {
		r.add("severity = ?", *q.Severity)
		if *q.Severity >= severity.High {
			r.add("severity >= 2") // the same for the partial index of severities that are rare
		}
	}
	if !q.From.IsZero() {
		r.add("key >= ?", storage.TimeKey(q.From))
	}
	if !q.To.IsZero() {
		r.add("key < ?", storage.EndKey(q.To)) // both ends inclusive
	}
	if q.Text != "" {
		v.addText(&r, q)
	}
	return r
}

// addText adds the search for q.Text. No index helps it: the caller's context
// bounds how long it looks. Texts with codes are compared once, not in each entry.
func (v *view) addText(r *run, q *storage.Query) {
	const like = ` LIKE ? ESCAPE '\'`
	coded := fmt.Sprintf(` IN (SELECT code FROM "%s_texts" WHERE text`+like+`)`, v.table)
	terms := []string{"action" + coded, "user_id" + like, "ip" + like}
	if q.TextInAgent {
		terms = append(terms, "agent"+coded)
	}
	for _, path := range storage.TextPaths() {
		terms = append(terms, fmt.Sprintf(`CASE WHEN json_valid(metadata) AND json_type(metadata, '$.%[1]s') = 'text'
			THEN json_extract(metadata, '$.%[1]s')`+like+` ELSE 0 END`, path))
	}
	pattern := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(q.Text) + "%"
	r.add("("+strings.Join(terms, " OR ")+")", slices.Repeat([]any{pattern}, len(terms))...)
}

// count counts up to storage.MaxTotal + 1.
func (v *view) count(ctx context.Context, runs []run) (n int, err error) {
	var rows []string
	var args []any
	for i := range runs {
		rows = append(rows, fmt.Sprintf(`SELECT 1 FROM "%s_entries" WHERE %s`, v.table, &runs[i]))
		args = append(args, runs[i].args...)
	}
	err = v.db.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM (%s LIMIT %d)`, strings.Join(rows, " UNION ALL "), storage.MaxTotal+1), args...).Scan(&n)
	return n, err
}

// keys is the query for the keys of one page and of one entry more, which tells
// whether there is a next page.
func (v *view) keys(runs []run, limit, offset int) (string, []any) {
	// SQLite merges the runs: it reads no more of each than the page has.
	var parts []string
	var args []any
	for i := range runs {
		parts = append(parts, fmt.Sprintf(`SELECT key FROM "%s_entries" WHERE %s`, v.table, &runs[i]))
		args = append(args, runs[i].args...)
	}
	return fmt.Sprintf(`%s ORDER BY key DESC LIMIT %d OFFSET %d`, strings.Join(parts, " UNION ALL "), limit+1, offset), args
}

func (v *view) page(ctx context.Context, page storage.Page, runs []run, limit, offset int) (storage.Page, error) {
	keys, args := v.keys(runs, limit, offset)
	q := fmt.Sprintf(`SELECT `+entryColumns+` FROM (%[2]s) k JOIN "%[1]s_entries" e ON e.key = k.key `+
		entryJoins+` ORDER BY e.key DESC`, v.table, keys)
	rows, err := v.db.QueryContext(ctx, q, args...)
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
		identifier            sql.NullInt64
	)
	if err := row.Scan(&key, &id, &user, &e.Action, &status, &level, &ip, &agent, &meta, &identifier); err != nil {
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
	e.Status, e.Severity = storage.StatusOf(status), severity.Level(level)
	e.UserID, e.IPAddress, e.UserAgent = user.String, ip.String, agent.String
	e.Metadata = []byte("{}")
	if meta.Valid {
		e.Metadata = []byte(meta.String)
	}
	if tag := storage.IdentifierHashIn(e.Metadata); identifier.Valid && storage.TextHash(tag) == identifier.Int64 {
		e.IdentifierHash = tag
	}
	e.CreatedAt = storage.KeyTime(key)
	return key, e, nil
}
