package postgres

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// row is an entry on its way to its place.
type row struct {
	key   int64
	entry *storage.Entry
}

// newRows gives each id its row, in order of the keys: two stores that write the same
// entries lock them in the same order. Of two entries with one id the last counts, in
// the place of the first.
func newRows(entries []storage.Entry) []*row {
	byID := make(map[string]*row, len(entries))
	rows := make([]*row, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if r, again := byID[e.ID]; again {
			r.entry = e
			continue
		}
		r := &row{e.SortKey(), e}
		byID[e.ID], rows = r, append(rows, r)
	}
	inOrder(rows)
	return rows
}

func inOrder(rows []*row) {
	slices.SortStableFunc(rows, func(a, b *row) int { return cmp.Compare(a.key, b.key) })
}

func monthsOf(rows []*row) []month {
	var months []month
	for _, r := range rows { // in order
		if m := monthOf(storage.KeyTime(r.key)); len(months) == 0 || months[len(months)-1] != m {
			months = append(months, m)
		}
	}
	return months
}

// atHome says whether the id is a UUIDv7 of the month of the key: then it is there in
// another month only if it is among the strays.
func (r *row) atHome() bool {
	u, timed := r.timed()
	if !timed {
		return false
	}
	ms := int64(binary.BigEndian.Uint64(u[:8]) >> 16)
	from, to := monthOf(storage.KeyTime(r.key)).keys()
	return storage.KeyTime(from).UnixMilli() <= ms && ms < storage.KeyTime(to).UnixMilli()
}

// timed returns the id if it says when it was made.
func (r *row) timed() (uuid.UUID, bool) {
	u, err := uuid.Parse(r.entry.ID)
	return u, err == nil && u.Version() == 7
}

// stray says whether somebody who writes the id again could look in the wrong month.
func (r *row) stray() bool {
	_, timed := r.timed()
	return timed && !r.atHome()
}

// place inserts or updates the rows, in the transaction t. thorough looks for every
// id in every month first, not only for those that may be elsewhere.
func (s *Store) place(ctx context.Context, t *tx, rows []*row, thorough bool) error {
	var elsewhere []*row
	for _, r := range rows {
		if thorough || !r.atHome() {
			elsewhere = append(elsewhere, r)
		}
	}
	if err := s.find(ctx, t, elsewhere, func(*row) {}); err != nil {
		return err
	}
	all := rows
	for len(rows) > 0 {
		inOrder(rows)
		distinct, clashing := apart(rows)
		left, err := s.upsert(ctx, t, distinct)
		if err != nil {
			return err
		}
		// Another entry has the key: theirs are elsewhere, or they take the next one.
		var nowhere []string
		err = s.find(ctx, t, left, func(r *row) { r.key++; nowhere = append(nowhere, r.entry.ID) })
		if err == nil && len(nowhere) > 0 {
			err = t.each(ctx, s.fill(staleStrays+` AND s.id = ANY($1)`), []any{nowhere}, nil, func() error { return nil })
		}
		if err != nil {
			return err
		}
		rows = slices.Concat(left, clashing)
	}
	return s.noteStrays(ctx, t, all)
}

// noteStrays notes which of the rows are strays.
func (s *Store) noteStrays(ctx context.Context, t *tx, rows []*row) error {
	var ids []string
	var keys []int64
	for _, r := range rows {
		if r.stray() {
			ids, keys = append(ids, r.entry.ID), append(keys, r.key)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return t.each(ctx, s.fill(`INSERT INTO "{s}"."{t}_strays" SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT (id) DO NOTHING`),
		[]any{ids, keys}, nil, func() error { return nil })
}

// apart returns the rows whose keys are different, and those that share one with them:
// one statement cannot touch a row twice.
func apart(rows []*row) (distinct, clashing []*row) {
	for _, r := range rows { // in order
		if n := len(distinct); n > 0 && distinct[n-1].key == r.key {
			clashing = append(clashing, r)
			continue
		}
		distinct = append(distinct, r)
	}
	return distinct, clashing
}

// find gives the rows whose ids are there the keys that they have there, and calls
// absent for the others.
func (s *Store) find(ctx context.Context, t *tx, rows []*row, absent func(*row)) error {
	if len(rows) == 0 {
		return nil
	}
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.entry.ID
	}
	keys := make(map[string]int64, len(rows))
	var id string
	var key int64
	err := t.each(ctx, s.texts.find, []any{ids}, []any{&id, &key}, func() error {
		keys[id] = key
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		if key, there := keys[r.entry.ID]; there {
			r.key = key
		} else {
			absent(r)
		}
	}
	return nil
}

// upsertSQL writes rows whose keys are different. It leaves a row alone, and does not
// return its id, when another entry has the key, or its id is a stray's. Where an id is
// there with another key of the month the unique index on ids makes it fail.
const upsertSQL = `INSERT INTO "{s}"."{t}_entries" AS e (key, ` + rowColumns + `)
	SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::smallint[], $7::smallint[], $8::text[], $9::text[],
		$10::text[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[]) AS n (key, ` + rowColumns + `)
	WHERE NOT EXISTS (SELECT FROM "{s}"."{t}_strays" AS s WHERE s.id = n.id AND s.key <> n.key)
	ON CONFLICT (key) DO UPDATE SET user_hash = EXCLUDED.user_hash, user_id = EXCLUDED.user_id, action = EXCLUDED.action, status = EXCLUDED.status,
		severity = EXCLUDED.severity, ip = EXCLUDED.ip, agent = EXCLUDED.agent, metadata = EXCLUDED.metadata, identifier_hash = EXCLUDED.identifier_hash,
		identifier = EXCLUDED.identifier, target_user_id = EXCLUDED.target_user_id, error_code = EXCLUDED.error_code,
		session_hash = EXCLUDED.session_hash, class = EXCLUDED.class
	WHERE e.id = EXCLUDED.id
	RETURNING id`

// staleStrays forgets strays that are not there any more: somebody has taken their entries away
// by hand, and upsertSQL would leave such ids alone for ever. Entries and their strays are
// written in one transaction, so that one statement sees both or neither.
const staleStrays = `DELETE FROM "{s}"."{t}_strays" AS s WHERE NOT EXISTS (SELECT FROM "{s}"."{t}_entries" AS e WHERE e.key = s.key AND e.id = s.id)`

// findSQL looks for ids in every month.
const findSQL = `SELECT id, key FROM "{s}"."{t}_entries" WHERE id = ANY($1)`

// rowColumns are the columns of a row but its key, in the order of columns.
const rowColumns = `id, user_hash, user_id, action, status, severity, ip, agent, metadata, identifier_hash, identifier, target_user_id, error_code, session_hash, class`

// upsert returns the rows that it did not write because another entry has their key.
func (s *Store) upsert(ctx context.Context, t *tx, rows []*row) ([]*row, error) {
	done := make(map[string]bool, len(rows))
	var id string
	err := t.each(ctx, s.texts.upsert, columns(rows), []any{&id}, func() error {
		done[id] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(done) == len(rows) {
		return nil, nil
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r *row) bool { return done[r.entry.ID] }), nil
}

// columns turns rows into the arrays that upsertSQL takes.
func columns(rows []*row) []any {
	n := len(rows)
	var (
		keys                         = make([]int64, n)
		ids, actions                 = make([]string, n), make([]string, n)
		userHashes, identifierHashes = make([]*int64, n), make([]*int64, n)
		users, ips, agents, metadata = make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
		statusCodes, levels          = make([]int16, n), make([]int16, n)
		classes                      = make([]*string, n)
		texts                        [4][]*string // of storage.TextPaths
	)
	for i := range texts {
		texts[i] = make([]*string, n)
	}
	for i, r := range rows {
		e := r.entry
		keys[i], ids[i], actions[i] = r.key, e.ID, e.Action
		userHashes[i], identifierHashes[i] = hashOrNull(e.UserID), hashOrNull(e.IdentifierHash)
		users[i], ips[i], agents[i], metadata[i] = textOrNull(e.UserID), textOrNull(e.IPAddress), textOrNull(e.UserAgent), metadataOrNull(e)
		statusCodes[i], levels[i] = int16(e.Status.Code()), int16(e.Severity)
		classes[i] = textOrNull(storable(storage.ClassIn(e.Metadata)))
		for k, path := range storage.TextPaths() {
			texts[k][i] = textOrNull(storable(storage.TextIn(e.Metadata, path)))
		}
	}
	return []any{keys, ids, userHashes, users, actions, statusCodes, levels, ips, agents, metadata, identifierHashes, texts[0], texts[1], texts[2], texts[3], classes}
}

// storable is a text without what PostgreSQL refuses.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func hashOrNull(s string) *int64 {
	if s == "" {
		return nil
	}
	h := storage.TextHash(s)
	return &h
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func metadataOrNull(e *storage.Entry) *string {
	if len(e.Metadata) == 0 || string(e.Metadata) == "{}" {
		return nil
	}
	text := string(e.Metadata)
	return &text
}
