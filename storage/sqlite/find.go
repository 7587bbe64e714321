package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// lookup is a term that a query looks for, and what has to be true of a posting.
type lookup struct {
	postings.Term
	statuses [storage.StatusCodes]bool
	// where is the term in SQL, with arg, for entries that are not indexed.
	where string
	arg   any
}

// lookups are those of a query; none if no term finds its entries.
func lookups(q *storage.Query) (list []lookup) {
	add := func(kind postings.Kind, text, where string, arg any, statuses ...storage.Status) {
		l := lookup{Term: postings.Term{Kind: kind, Hash: storage.TextHash(text)}, where: where, arg: arg}
		for s := range l.statuses {
			l.statuses[s] = (len(statuses) == 0 || slices.Contains(statuses, storage.StatusOf(s))) && (q.Status == "" || s == q.Status.Code())
		}
		list = append(list, l)
	}
	switch {
	case q.UserID != nil && *q.UserID != "":
		add(postings.User, *q.UserID, "user_hash = ?", storage.TextHash(*q.UserID))
		if q.Widened() {
			add(postings.Identifier, q.IdentifierHash, "identifier_hash = ? AND user_hash IS NULL", storage.TextHash(q.IdentifierHash), storage.Failed, storage.Pending)
		}
	case q.UserID == nil && q.IdentifierHash != "":
		hash := storage.TextHash(q.IdentifierHash)
		add(postings.Identifier, q.IdentifierHash, "identifier_hash = ? AND user_hash IS NULL", hash)
		add(postings.Owned, q.IdentifierHash, "identifier_hash = ? AND user_hash IS NOT NULL", hash)
	case q.IPAddress != "":
		add(postings.Address, q.IPAddress, "ip = ?", q.IPAddress)
	}
	return list
}

// decided says whether postings say all that the query asks of an entry.
func decided(q *storage.Query, k *kinds) bool {
	byAddress := q.UserID == nil && q.IdentifierHash == ""
	return (q.IPAddress == "" || byAddress) && q.Text == "" && len(k.legacy) == 0
}

// finder finds the entries of a query by its terms, in one transaction. It is used once.
type finder struct {
	ctx   context.Context
	view  *view
	list  []lookup
	codes []int64 // of the actions that are asked for, sorted; nil for all
	level int     // -1 for all
	// from and to bound the keys, to exclusive.
	from, to int64
	blockAt  *sql.Stmt
}

// newFinder makes one; it asks the database nothing yet.
func newFinder(ctx context.Context, v *view, q *storage.Query, k kinds) *finder {
	f := &finder{ctx: ctx, view: v, list: lookups(q), level: -1, to: math.MaxInt64}
	if k.asked {
		f.codes = append(append([]int64{}, k.codes...), k.legacy...)
		slices.Sort(f.codes)
	}
	if q.Severity != nil {
		f.level = int(*q.Severity)
	}
	if !q.From.IsZero() {
		f.from = storage.TimeKey(q.From)
	}
	if !q.To.IsZero() {
		f.to = storage.EndKey(q.To)
	}
	return f
}

func (f *finder) close() error {
	if f.blockAt == nil {
		return nil
	}
	return f.blockAt.Close()
}

// wants says whether a group is asked for.
func (f *finder) wants(l *lookup, code uint64) bool {
	g := groupOfCode(code)
	return l.statuses[g.status] && (f.level < 0 || int(g.severity) == f.level) && f.asks(g.kind)
}

func (f *finder) asks(kind int64) bool {
	if f.codes == nil {
		return true
	}
	_, found := slices.BinarySearch(f.codes, kind)
	return found
}

// nextGroup is the first place where a group that is asked for may be, from one on; false
// if none is.
func (f *finder) nextGroup(code uint64) (uint64, bool) {
	if f.codes == nil {
		return code, true
	}
	i, found := slices.BinarySearch(f.codes, groupOfCode(code).kind)
	switch {
	case found:
		return code, true
	case i == len(f.codes):
		return 0, false
	}
	return group{kind: f.codes[i]}.code(), true
}

// stream has the keys of one group in one segment, the highest first.
type stream struct {
	lookup *lookup
	group  uint64
	keys   []int64
	// segment and next are where it goes on; next is nil at the end.
	segment, floor int64
	next           []byte
}

// streams are all that there are, each with its first keys.
func (f *finder) streams() ([]*stream, error) {
	var all []*stream
	if f.from >= f.to || f.codes != nil && len(f.codes) == 0 {
		return nil, nil
	}
	for i := range f.list {
		young, err := f.unindexed(&f.list[i])
		if err != nil {
			return nil, err
		}
		old, err := f.inSegments(&f.list[i])
		if err != nil {
			return nil, err
		}
		all = append(append(all, young...), old...)
	}
	return all, nil
}

// unindexed are the streams of entries that are in no segment yet.
func (f *finder) unindexed(l *lookup) ([]*stream, error) {
	query := strings.NewReplacer("{t}", f.view.table, "{where}", l.where).Replace(
		`SELECT key, action, status, severity FROM "{t}_entries" WHERE key >= max((SELECT upto FROM "{t}_unindexed"), ?) AND key < ? AND {where}
		UNION ALL SELECT key, action, status, severity FROM "{t}_late" CROSS JOIN "{t}_entries" USING (key) WHERE key >= ? AND key < ? AND {where}`)
	rows, err := f.view.db.QueryContext(f.ctx, query, f.from, f.to, l.arg, f.from, f.to, l.arg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	found := map[uint64]*stream{}
	for rows.Next() {
		var key int64
		var g group
		if err := rows.Scan(&key, &g.kind, &g.status, &g.severity); err != nil {
			return nil, err
		}
		if code := g.code(); f.wants(l, code) {
			s := found[code]
			if s == nil {
				s = &stream{lookup: l, group: code}
				found[code] = s
			}
			s.keys = append(s.keys, key)
		}
	}
	all := slices.Collect(maps.Values(found))
	for _, s := range all {
		slices.Sort(s.keys)
		slices.Reverse(s.keys)
	}
	return all, rows.Err()
}

// inSegments are the streams of all segments.
func (f *finder) inSegments(l *lookup) ([]*stream, error) {
	first, ok := f.nextGroup(0)
	if !ok {
		return nil, nil
	}
	query := strings.ReplaceAll(`SELECT s.segment, s.floor, p.place, p.block FROM "{t}_segments" s JOIN "{t}_postings" p ON p.id =
		(SELECT id FROM "{t}_postings" WHERE segment = s.segment AND place >= ? ORDER BY place LIMIT 1)
		WHERE s.state = 1 AND s.last >= max(s.floor, ?) AND s.first < ?`, "{t}", f.view.table)
	rows, err := f.view.db.QueryContext(f.ctx, query, f.place(l, first, math.MaxInt64), f.from, f.to)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	type start struct {
		segment, floor int64
		place, bytes   []byte
	}
	var starts []start
	for rows.Next() {
		var s start
		if err := rows.Scan(&s.segment, &s.floor, &s.place, &s.bytes); err != nil {
			return nil, err
		}
		starts = append(starts, s)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	var all []*stream
	for i := range starts {
		s := &starts[i]
		if all, err = f.inSegment(all, l, s.segment, s.floor, s.place, s.bytes); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (f *finder) place(l *lookup, group uint64, key int64) []byte {
	p := postings.Posting{Term: l.Term, Group: group, Key: key}
	return p.Place()
}

// inSegment adds the streams of a segment, from a block on. Groups that do not end in a
// block are stepped over.
func (f *finder) inSegment(all []*stream, l *lookup, segment, floor int64, place, bytes []byte) ([]*stream, error) {
	next, _ := f.nextGroup(0)
	for {
		here := len(all)
		var p postings.Posting
		for r := postings.Read(bytes); ; {
			if !r.Next(&p) {
				if err := r.Err(); err != nil {
					return nil, err
				}
				break
			}
			if p.Term != l.Term {
				if p.After(l.Term) {
					return all, nil
				}
				continue
			}
			if len(all) == here || all[len(all)-1].group != p.Group {
				if p.Group < next || !f.wants(l, p.Group) {
					continue
				}
				all = append(all, &stream{lookup: l, group: p.Group, segment: segment, floor: max(floor, f.from)})
			}
			if s := all[len(all)-1]; p.Key < f.to && p.Key >= s.floor {
				s.keys = append(s.keys, p.Key)
			}
		}
		end, err := postings.At(place)
		if err != nil || end.Term != l.Term {
			return all, err
		}
		if f.wants(l, end.Group) && end.Key > max(floor, f.from) {
			s := &stream{lookup: l, group: end.Group, segment: segment, floor: max(floor, f.from)}
			if len(all) > here && all[len(all)-1].group == end.Group {
				s = all[len(all)-1]
			} else {
				all = append(all, s)
			}
			s.next = f.place(l, end.Group, min(end.Key, f.to)-1)
		}
		var ok bool
		if next, ok = f.nextGroup(end.Group + 1); !ok {
			return all, nil
		}
		if place, bytes, err = f.block(segment, f.place(l, next, math.MaxInt64)); err != nil || bytes == nil {
			return all, err
		}
	}
}

// block is the first one of a segment whose last posting is at a place or behind it; nil if
// there is none.
func (f *finder) block(segment int64, place []byte) (_, bytes []byte, err error) {
	if f.blockAt == nil {
		if f.blockAt, err = f.view.db.PrepareContext(f.ctx, strings.ReplaceAll(blockAt, "%s", f.view.table)); err != nil {
			return nil, nil, err
		}
	}
	var id int64
	err = f.blockAt.QueryRowContext(f.ctx, segment, place).Scan(&id, &place, &bytes)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, nil
	}
	if bytes == nil {
		bytes = []byte{}
	}
	return place, bytes, err
}

// more reads the next keys of a stream; there are none at its end.
func (f *finder) more(s *stream) error {
	for s.keys = s.keys[:0]; s.next != nil && len(s.keys) == 0; {
		place, bytes, err := f.block(s.segment, s.next)
		s.next = nil
		if err != nil || bytes == nil {
			return err
		}
		var p postings.Posting
		r := postings.Read(bytes)
		for r.Next(&p) {
			if p.Term == s.lookup.Term && p.Group == s.group && p.Key < f.to && p.Key >= s.floor {
				s.keys = append(s.keys, p.Key)
			}
		}
		end, err := postings.At(place)
		if err = errors.Join(err, r.Err()); err != nil {
			return err
		}
		if end.Term == s.lookup.Term && end.Group == s.group && end.Key > s.floor {
			s.next = f.place(s.lookup, s.group, min(end.Key, f.to)-1)
		}
	}
	return nil
}

// each calls do with all that is found, in no order.
func (f *finder) each(do func(group uint64, key int64)) error {
	_, err := f.upTo(math.MaxInt, do)
	return err
}

// upTo is each, but ends soon after limit, and counts.
func (f *finder) upTo(limit int, do func(group uint64, key int64)) (n int, err error) {
	all, err := f.streams()
	if err != nil {
		return 0, err
	}
	return f.drain(all, limit, do)
}

// drain reads streams to their ends, unless there is more in them than limit. Their first
// keys and places stay as they are.
func (f *finder) drain(all []*stream, limit int, do func(group uint64, key int64)) (n int, err error) {
	for _, s := range all {
		for rest := *s; len(rest.keys) > 0 || rest.next != nil; {
			for _, key := range rest.keys {
				do(s.group, key)
			}
			if n += len(rest.keys); n > limit {
				return n, nil
			}
			rest.keys = nil
			if err := f.more(&rest); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// newest gives keys in their order, the highest first.
type newest struct {
	f   *finder
	all []*stream // a heap
	err error
}

func (f *finder) newest(all []*stream) *newest {
	n := &newest{f: f}
	for _, s := range all {
		if n.fill(s) {
			n.all = append(n.all, s)
		}
	}
	for i := len(n.all)/2 - 1; i >= 0; i-- {
		n.down(i)
	}
	return n
}

// fill makes sure that a stream has a key; false at its end.
func (n *newest) fill(s *stream) bool {
	if len(s.keys) == 0 && s.next != nil && n.err == nil {
		n.err = n.f.more(s)
	}
	return len(s.keys) > 0 && n.err == nil
}

func (n *newest) down(i int) {
	for {
		highest := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(n.all); c++ {
			if n.all[c].keys[0] > n.all[highest].keys[0] {
				highest = c
			}
		}
		if highest == i {
			return
		}
		n.all[i], n.all[highest] = n.all[highest], n.all[i]
		i = highest
	}
}

// take takes up to limit keys.
func (n *newest) take(limit int) (keys []int64, err error) {
	for len(keys) < limit && len(n.all) > 0 && n.err == nil {
		s := n.all[0]
		keys, s.keys = append(keys, s.keys[0]), s.keys[1:]
		if !n.fill(s) {
			last := len(n.all) - 1
			n.all[0] = n.all[last]
			n.all = n.all[:last]
		}
		n.down(0)
	}
	return keys, n.err
}

// below leaves the keys that are lower than key.
func (f *finder) below(all []*stream, key int64) {
	f.to = min(f.to, key)
	for _, s := range all {
		n := slices.IndexFunc(s.keys, func(k int64) bool { return k < key })
		switch {
		case n >= 0:
			s.keys = s.keys[n:]
		case s.next != nil:
			s.keys, s.next = nil, f.place(s.lookup, s.group, f.to-1)
		default:
			s.keys = nil
		}
	}
}

// listFound is List for a query whose entries are found by a term.
func (v *view) listFound(ctx context.Context, page storage.Page, q storage.Query, k kinds) (_ storage.Page, err error) {
	f := newFinder(ctx, v, &q, k)
	defer func() { err = errors.Join(err, f.close()) }()
	all, err := f.streams()
	if err != nil {
		return page, err
	}
	exact := decided(&q, &k)
	if !q.NoTotal {
		n, err := v.countFound(ctx, f, all, &q, k, exact)
		if err != nil {
			return page, err
		}
		setTotal(&page, n)
	}
	if q.Cursor != "" {
		key, err := storage.DecodeCursor(q.Cursor)
		if err != nil {
			return page, err
		}
		q.Offset = 0
		f.below(all, key)
	}
	keys, err := v.take(ctx, f.newest(all), &q, k, exact)
	if err != nil || len(keys) == 0 {
		return page, err
	}
	found, err := v.page(ctx, page, []run{v.among(&q, k, keys)}, q.PageLimit(), 0)
	if err != nil || !exact || len(found.Entries) == min(len(keys), q.PageLimit()) && (found.NextCursor != "") == (len(keys) > q.PageLimit()) {
		return found, err
	}
	// Another user has the same hash: each entry is looked at.
	again := newFinder(ctx, v, &q, k)
	defer func() { err = errors.Join(err, again.close()) }()
	again.to = f.to
	if all, err = again.streams(); err != nil {
		return page, err
	}
	if keys, err = v.take(ctx, again.newest(all), &q, k, false); err != nil || len(keys) == 0 {
		return page, err
	}
	return v.page(ctx, page, []run{v.among(&q, k, keys)}, q.PageLimit(), 0)
}

// countFound counts up to storage.MaxTotal + 1, or a little more. Hashes of 64 bits are as
// good as what they are made of but for those that somebody has looked for: counts go by
// them.
func (v *view) countFound(ctx context.Context, f *finder, all []*stream, q *storage.Query, k kinds, exact bool) (n int, err error) {
	if exact {
		return f.drain(all, storage.MaxTotal, func(uint64, int64) {})
	}
	err = v.inParts(f, all, func(keys []int64) error {
		if n > storage.MaxTotal {
			return errEnough
		}
		part, err := v.count(ctx, []run{v.among(q, k, keys)})
		n += part
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return n, err
}

// take takes the keys of a page and one more, which tells whether there is a next page.
func (v *view) take(ctx context.Context, from *newest, q *storage.Query, k kinds, exact bool) ([]int64, error) {
	want, skip := q.PageLimit()+1, max(q.Offset, 0)
	if exact {
		for skip > 0 {
			skipped, err := from.take(min(skip, partLength))
			if len(skipped) == 0 || err != nil {
				return nil, err
			}
			skip -= len(skipped)
		}
		return from.take(want)
	}
	var found []int64
	for len(found) < skip+want {
		keys, err := from.take(partLength)
		if len(keys) == 0 || err != nil {
			return found[min(skip, len(found)):], err
		}
		query, args := v.keys([]run{v.among(q, k, keys)}, len(keys), 0)
		if found, err = appendNumbers(ctx, v.db, found, query, args...); err != nil {
			return nil, err
		}
	}
	return found[skip : skip+want], nil
}

// partLength is how many keys are looked at together.
const partLength = 1000

// errEnough ends inParts.
var errEnough = errors.New("enough")

// inParts calls do with all keys of streams, some at a time.
func (v *view) inParts(f *finder, all []*stream, do func(keys []int64) error) error {
	part := make([]int64, 0, partLength)
	for _, s := range all {
		for rest := *s; len(rest.keys) > 0 || rest.next != nil; {
			for len(rest.keys) > 0 {
				n := min(len(rest.keys), partLength-len(part))
				part, rest.keys = append(part, rest.keys[:n]...), rest.keys[n:]
				if len(part) < partLength {
					continue
				}
				if err := do(part); err != nil {
					return err
				}
				part = part[:0]
			}
			rest.keys = nil
			if err := f.more(&rest); err != nil {
				return err
			}
		}
	}
	if len(part) == 0 {
		return nil
	}
	return do(part)
}

// appendNumbers adds the numbers that a query finds.
func appendNumbers(ctx context.Context, db querier, list []int64, query string, args ...any) ([]int64, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, rows.Err()
}

// eachRun calls do with runs that together select what the query does.
func (v *view) eachRun(ctx context.Context, q *storage.Query, k kinds, do func(run) error) (err error) {
	if len(lookups(q)) == 0 {
		for _, r := range v.runs(q, k) {
			if err := do(r); err != nil {
				return err
			}
		}
		return nil
	}
	f := newFinder(ctx, v, q, k)
	defer func() { err = errors.Join(err, f.close()) }()
	all, err := f.streams()
	if err != nil {
		return err
	}
	return v.inParts(f, all, func(keys []int64) error { return do(v.among(q, k, keys)) })
}

// eachFound calls do with each entry, if the query's entries are found by a term and
// postings say all of them; otherwise it does nothing and ok is false.
func (v *view) eachFound(ctx context.Context, q *storage.Query, k kinds, do func(g group, key int64)) (ok bool, err error) {
	if len(lookups(q)) == 0 || !decided(q, &k) {
		return false, nil
	}
	f := newFinder(ctx, v, q, k)
	defer func() { err = errors.Join(err, f.close()) }()
	return true, f.each(func(code uint64, key int64) { do(groupOfCode(code), key) })
}

// keyList is a JSON array: one argument for any number of keys.
func keyList(keys []int64) string {
	b, err := json.Marshal(keys)
	if err != nil {
		return "[]" // numbers are always written
	}
	return string(b)
}

// among is the run of those of the entries with these keys that the query selects.
func (v *view) among(q *storage.Query, k kinds, keys []int64) run {
	r := run{[]string{"key IN (SELECT value FROM json_each(?))"}, []any{keyList(keys)}}
	switch {
	case q.Widened():
		r.add("(+user_hash = ? AND +user_id = ? OR +user_hash IS NULL AND +identifier_hash = ? AND +status IN (?, ?))", storage.TextHash(*q.UserID), *q.UserID,
			storage.TextHash(q.IdentifierHash), storage.Failed.Code(), storage.Pending.Code())
	case q.UserID != nil && *q.UserID != "":
		r.add("+user_hash = ? AND +user_id = ?", storage.TextHash(*q.UserID), *q.UserID)
	case q.UserID != nil:
		r.add("+user_hash IS NULL")
	}
	if q.UserID == nil && q.IdentifierHash != "" {
		r.add("+identifier_hash = ?", storage.TextHash(q.IdentifierHash))
	}
	if q.IPAddress != "" {
		r.add("+ip = ?", q.IPAddress)
	}
	if q.Status != "" {
		r.add("+status = ?", q.Status.Code())
	}
	if q.Severity != nil {
		r.add("+severity = ?", *q.Severity)
	}
	if q.Text != "" {
		v.addText(&r, q)
	}
	return k.filter(r)
}
