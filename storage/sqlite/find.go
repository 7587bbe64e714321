package sqlite

import (
	"container/heap"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
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
	add := func(kind postings.Kind, text, where string, statuses ...storage.Status) *lookup {
		hash := storage.TextHash(text)
		l := lookup{Term: postings.Term{Kind: kind, Hash: hash}, where: where, arg: hash}
		for s := range l.statuses {
			l.statuses[s] = (len(statuses) == 0 || slices.Contains(statuses, storage.StatusOf(s))) && (q.Status == "" || s == q.Status.Code())
		}
		list = append(list, l)
		return &list[len(list)-1]
	}
	switch {
	case q.UserID != nil && *q.UserID != "":
		add(postings.User, *q.UserID, "user_hash = ?")
		if q.Widened() {
			add(postings.Identifier, q.IdentifierHash, "identifier_hash = ? AND user_hash IS NULL", storage.Failed, storage.Pending)
		}
	case q.UserID == nil && q.IdentifierHash != "":
		add(postings.Identifier, q.IdentifierHash, "identifier_hash = ? AND user_hash IS NULL")
		add(postings.Owned, q.IdentifierHash, "identifier_hash = ? AND user_hash IS NOT NULL")
	case q.IPAddress != "":
		add(postings.Address, q.IPAddress, "ip = ?").arg = q.IPAddress
	}
	return list
}

// decided says whether postings say all that the query asks of an entry.
func decided(q *storage.Query, k *kinds) bool {
	byAddress := q.UserID == nil && q.IdentifierHash == ""
	return (q.IPAddress == "" || byAddress) && q.Text == "" && len(k.legacy) == 0
}

// finder finds the entries of a query by its terms, in one transaction.
type finder struct {
	ctx   context.Context
	view  *view
	list  []lookup
	codes []int64 // of the actions that are asked for, sorted; nil for all
	level int     // -1 for all
	// from and to bound the keys, to exclusive; a cursor lowers to. end is what it was when all
	// parts were listed.
	from, to, end int64
	all           []*part
	singly        int // parts that were looked into one by one
	blockAt       *sql.Stmt
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

// part is what a lookup finds in one segment, or among the entries that are in none.
type part struct {
	lookup *lookup
	// keys are those of each group that is asked for, the highest first, of entries that are
	// in no segment.
	keys map[uint64][]int64
	// segment is 0 without one.
	segment     int64
	lowest, top int64 // it has no other keys
	// first is its first block that may have the term, if it has one, once somebody has looked.
	// See finder.first.
	first  placed
	looked bool
}

// placed is a block and its place.
type placed struct{ place, bytes []byte }

// parts are all that a query has.
func (f *finder) parts() (all []*part, err error) {
	if f.from >= f.to || f.codes != nil && len(f.codes) == 0 {
		return nil, nil
	}
	for i := range f.list {
		l := &f.list[i]
		young, err := f.unindexed(l)
		if err != nil {
			return nil, err
		}
		all = append(all, young)
		if all, err = f.segments(all, l); err != nil {
			return nil, err
		}
	}
	f.all, f.end = all, f.to
	return all, nil
}

// unindexed is the part of entries that are in no segment.
func (f *finder) unindexed(l *lookup) (*part, error) {
	query := strings.NewReplacer("{t}", f.view.table, "{where}", l.where).Replace(
		`SELECT key, action, status, severity FROM "{t}_entries" WHERE key >= max((SELECT upto FROM "{t}_unindexed"), ?) AND key < ? AND {where}
		UNION ALL SELECT key, action, status, severity FROM "{t}_late" CROSS JOIN "{t}_entries" USING (key) WHERE key >= ? AND key < ? AND {where}`)
	rows, err := f.view.db.QueryContext(f.ctx, query, f.from, f.to, l.arg, f.from, f.to, l.arg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	p := &part{lookup: l, keys: map[uint64][]int64{}}
	for rows.Next() {
		var key int64
		var g group
		if err := rows.Scan(&key, &g.kind, &g.status, &g.severity); err != nil {
			return nil, err
		}
		if code := g.code(); f.wants(l, code) {
			p.keys[code] = append(p.keys[code], key)
			p.top = max(p.top, key)
		}
	}
	for _, keys := range p.keys {
		slices.Sort(keys)
		slices.Reverse(keys)
	}
	return p, rows.Err()
}

// segments adds the parts of all segments.
func (f *finder) segments(all []*part, l *lookup) ([]*part, error) {
	query := strings.ReplaceAll(segmentsOf, "{t}", f.view.table)
	rows, err := f.view.db.QueryContext(f.ctx, query, f.from, f.to)
	if err != nil {
		return nil, ofIndex(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		p := &part{lookup: l}
		if err := rows.Scan(&p.segment, &p.lowest, &p.top); err != nil {
			return nil, err
		}
		p.lowest = max(p.lowest, f.from)
		all = append(all, p)
	}
	return all, ofIndex(rows.Err())
}

// segmentsOf are the segments that have keys of a span, those from before first.
const segmentsOf = `SELECT segment, max(floor, first), last FROM "{t}_segments" WHERE state = 1 AND last >= max(floor, ?) AND first < ? ORDER BY segment`

// maxSingly is how many parts are looked into one by one: most questions about what is in many
// entries are answered by few segments. Others are about little, and need all.
const maxSingly = 8

// first is the first block of a part that may have what is asked for; without a place if
// there is none. It is read when somebody looks into the part.
func (f *finder) first(p *part) (b placed, err error) {
	if p.segment == 0 || p.looked {
		return p.first, nil
	}
	group, ok := f.nextGroup(0)
	if !ok {
		return b, nil
	}
	if f.singly++; f.singly > maxSingly {
		return p.first, f.firsts(p, group)
	}
	if p.first, err = f.block(p.segment, f.place(p.lookup, group, math.MaxInt64)); err == nil {
		p.looked = true
	}
	return p.first, err
}

// firsts reads the first blocks of all parts of a part's lookup into which nobody has looked.
func (f *finder) firsts(of *part, group uint64) error {
	query := strings.ReplaceAll(`SELECT s.segment, p.place, p.block FROM (`+segmentsOf+`) s JOIN "{t}_postings" p ON p.id =
		(SELECT id FROM "{t}_postings" WHERE segment = s.segment AND place >= ? ORDER BY place LIMIT 1)`, "{t}", f.view.table)
	rows, err := f.view.db.QueryContext(f.ctx, query, f.from, f.end, f.place(of.lookup, group, math.MaxInt64))
	if err != nil {
		return ofIndex(err)
	}
	defer func() { _ = rows.Close() }()
	found := map[int64]placed{}
	for rows.Next() {
		var segment int64
		var b placed
		if err := rows.Scan(&segment, &b.place, &b.bytes); err != nil {
			return err
		}
		found[segment] = b
	}
	if err := rows.Err(); err != nil {
		return ofIndex(err)
	}
	for _, p := range f.all {
		if p.lookup == of.lookup && p.segment != 0 && !p.looked {
			p.first, p.looked = found[p.segment], true
		}
	}
	return nil
}

func (f *finder) place(l *lookup, group uint64, key int64) []byte {
	p := postings.Posting{Term: l.Term, Group: group, Key: key}
	return p.Place()
}

// walk calls do with all that a part has, until do returns false. It reads one block after
// the other, and steps over those that have nothing that is asked for.
func (f *finder) walk(p *part, do func(group uint64, key int64) bool) error {
	for group, keys := range p.keys {
		for _, key := range keys {
			if key < f.to && !do(group, key) {
				return nil
			}
		}
	}
	b, err := f.first(p)
	for b.place != nil && err == nil {
		more, err := f.eachIn(p, b, 0, do)
		if !more || err != nil {
			return err
		}
		end, err := postings.At(b.place)
		if err != nil || end.Term != p.lookup.Term {
			return err
		}
		next := postings.Behind(b.place)
		switch {
		case !f.wants(p.lookup, end.Group) || end.Key <= p.lowest:
			group, ok := f.nextGroup(end.Group + 1)
			if !ok {
				return nil
			}
			next = f.place(p.lookup, group, math.MaxInt64)
		case end.Key > f.to:
			next = f.place(p.lookup, end.Group, f.to-1)
		}
		if b, err = f.block(p.segment, next); err != nil {
			return err
		}
	}
	return err
}

// eachIn calls do with what a block has of the groups from one on; false if nothing comes
// behind it, or do has returned false.
func (f *finder) eachIn(p *part, b placed, from uint64, do func(group uint64, key int64) bool) (bool, error) {
	var at postings.Posting
	r := postings.Read(b.bytes)
	for r.Next(&at) {
		if at.After(p.lookup.Term) {
			return false, nil
		}
		wanted := at.Term == p.lookup.Term && at.Group >= from && f.wants(p.lookup, at.Group)
		for more := true; more; more = r.NextOfGroup(&at.Key) {
			if wanted && at.Key >= p.lowest && at.Key < f.to && !do(at.Group, at.Key) {
				return false, nil
			}
		}
	}
	return true, r.End(b.place)
}

// stream has the keys of one group in a part, the highest first.
type stream struct {
	part  *part
	group uint64
	keys  []int64
	next  []byte // the place where it goes on; nil at the end
	// closed is true of one that stands for a part into which nobody has looked: its key is
	// one that none of the part is above.
	closed bool
}

// streams are those of a part, each with its first keys. What a group has behind the first of
// its blocks is stepped over.
func (f *finder) streams(p *part) (all []*stream, err error) {
	for group, keys := range p.keys {
		if n := slices.IndexFunc(keys, func(key int64) bool { return key < f.to }); n >= 0 {
			all = append(all, &stream{part: p, group: group, keys: keys[n:]})
		}
	}
	b, err := f.first(p)
	from, _ := f.nextGroup(0)
	for b.place != nil && err == nil {
		here := len(all)
		more, err := f.eachIn(p, b, from, func(group uint64, key int64) bool {
			if len(all) == here || all[len(all)-1].group != group {
				all = append(all, &stream{part: p, group: group})
			}
			s := all[len(all)-1]
			s.keys = append(s.keys, key)
			return true
		})
		if !more || err != nil {
			return all, err
		}
		end, err := postings.At(b.place)
		if err != nil || end.Term != p.lookup.Term {
			return all, err
		}
		if end.Group >= from && end.Key > p.lowest && f.wants(p.lookup, end.Group) {
			if len(all) == here || all[len(all)-1].group != end.Group {
				all = append(all, &stream{part: p, group: end.Group})
			}
			all[len(all)-1].next = f.place(p.lookup, end.Group, min(end.Key, f.to)-1)
		}
		var ok bool
		if from, ok = f.nextGroup(max(from, end.Group+1)); !ok {
			return all, nil
		}
		if b, err = f.block(p.segment, f.place(p.lookup, from, math.MaxInt64)); err != nil {
			return nil, err
		}
	}
	return all, err
}

// block is the first one of a segment whose last posting is at a place or behind it; without
// a place if there is none.
func (f *finder) block(segment int64, place []byte) (b placed, err error) {
	if f.blockAt == nil {
		if f.blockAt, err = f.view.db.PrepareContext(f.ctx, strings.ReplaceAll(blockAt, "%s", f.view.table)); err != nil {
			return b, err
		}
	}
	var id int64
	if err = f.blockAt.QueryRowContext(f.ctx, segment, place).Scan(&id, &b.place, &b.bytes); errors.Is(err, sql.ErrNoRows) {
		return placed{}, nil
	}
	return b, ofIndex(err)
}

// more reads the next keys of a stream that has none left; at its end there are no more.
func (f *finder) more(s *stream) error {
	for s.next != nil && len(s.keys) == 0 {
		b, err := f.block(s.part.segment, s.next)
		s.next = nil
		if b.place == nil || err != nil {
			return err
		}
		_, err = f.eachIn(s.part, b, s.group, func(group uint64, key int64) bool {
			if group == s.group {
				s.keys = append(s.keys, key)
			}
			return group == s.group
		})
		if err != nil {
			return err
		}
		end, err := postings.At(b.place)
		if err != nil {
			return err
		}
		if end.Term == s.part.lookup.Term && end.Group == s.group && end.Key > s.part.lowest {
			s.next = f.place(s.part.lookup, s.group, min(end.Key, f.to)-1)
		}
	}
	return nil
}

// each calls do with all that is found, in no order.
func (f *finder) each(do func(group uint64, key int64)) error {
	all, err := f.parts()
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := f.walk(p, func(group uint64, key int64) bool { do(group, key); return true }); err != nil {
			return err
		}
	}
	return nil
}

// newest gives keys in their order, the highest first. A segment is looked into when a key may
// come from it.
type newest struct {
	f   *finder
	all byKey
}

// byKey is a heap that has the stream with the highest key in front.
type byKey []*stream

func (h *byKey) Len() int           { return len(*h) }
func (h *byKey) Less(i, j int) bool { return (*h)[i].keys[0] > (*h)[j].keys[0] }
func (h *byKey) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }
func (h *byKey) Push(s any)         { *h = append(*h, s.(*stream)) }

func (h *byKey) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (f *finder) newest(all []*part) *newest {
	n := &newest{f: f}
	for _, p := range all {
		if p.segment == 0 || p.lowest < f.to {
			n.all = append(n.all, &stream{part: p, closed: true, keys: []int64{min(p.top, f.to)}})
		}
	}
	heap.Init(&n.all)
	return n
}

// take takes up to limit keys.
func (n *newest) take(limit int) (keys []int64, err error) {
	for len(keys) < limit && len(n.all) > 0 && err == nil {
		s := n.all[0]
		if s.closed {
			heap.Pop(&n.all)
			err = n.open(s.part)
			continue
		}
		keys, s.keys = append(keys, s.keys[0]), s.keys[1:]
		if err = n.f.more(s); len(s.keys) > 0 {
			heap.Fix(&n.all, 0)
		} else {
			heap.Pop(&n.all)
		}
	}
	return keys, err
}

// open adds the streams of a part.
func (n *newest) open(p *part) error {
	all, err := n.f.streams(p)
	for _, s := range all {
		if err == nil {
			err = n.f.more(s)
		}
		if len(s.keys) > 0 {
			heap.Push(&n.all, s)
		}
	}
	return err
}

// listFound is List for a query whose entries are found by a term.
func (v *view) listFound(ctx context.Context, page storage.Page, q storage.Query, k kinds) (_ storage.Page, err error) {
	f := newFinder(ctx, v, &q, k)
	defer func() { err = errors.Join(err, f.close()) }()
	all, err := f.parts()
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
		f.to = min(f.to, key)
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
	if keys, err = v.take(ctx, f.newest(all), &q, k, false); err != nil || len(keys) == 0 {
		return page, err
	}
	return v.page(ctx, page, []run{v.among(&q, k, keys)}, q.PageLimit(), 0)
}

// countFound counts up to storage.MaxTotal + 1, or a little more. Hashes of 64 bits are as
// good as what they are made of but for those that somebody has looked for: counts go by
// them.
func (v *view) countFound(ctx context.Context, f *finder, all []*part, q *storage.Query, k kinds, exact bool) (n int, err error) {
	if exact {
		for _, p := range all {
			if err := f.walk(p, func(uint64, int64) bool { n++; return n <= storage.MaxTotal }); n > storage.MaxTotal || err != nil {
				return n, err
			}
		}
		return n, nil
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
	for len(found) < want {
		keys, err := from.take(partLength)
		if len(keys) == 0 || err != nil {
			return found, err
		}
		query, args := v.keys([]run{v.among(q, k, keys)}, len(keys), 0)
		if found, err = appendNumbers(ctx, v.db, found, query, args...); err != nil {
			return nil, err
		}
		skipped := min(skip, len(found))
		skip, found = skip-skipped, found[skipped:]
	}
	return found[:want], nil
}

// partLength is how many keys are looked at together.
const partLength = 1000

// errEnough ends inParts.
var errEnough = errors.New("enough")

// inParts calls do with all keys, some at a time.
func (v *view) inParts(f *finder, all []*part, do func(keys []int64) error) (err error) {
	keys := make([]int64, 0, partLength)
	for _, p := range all {
		failed := f.walk(p, func(_ uint64, key int64) bool {
			if keys = append(keys, key); len(keys) == partLength {
				err = do(keys)
				keys = keys[:0]
			}
			return err == nil
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return do(keys)
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
	all, err := f.parts()
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
