package sqlite

import (
	"cmp"
	"container/heap"
	"database/sql/driver"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// shape is how the index of users, addresses and identifiers grows.
type shape struct {
	base  int // a segment is made of so many entries
	slack int // and the youngest of them stay unindexed, since they are still completed
	most  int // one step indexes no more beside writers
	// fanOut segments of a level are merged into one of the next.
	fanOut int
	block  int // bytes of a block: a page has one, with its place and the like
	budget int // postings that one step merges: more than it makes, on all levels
	drop   int // blocks that one step deletes
}

var usualShape = shape{base: 512, slack: 128, most: 2048, fanOut: 16, block: 3900, budget: 8192, drop: 64}

// catchUpMost is shape.most for a database that had no segments.
const catchUpMost = 131_072

// maxLevel is that of the largest segments: two million entries, with the usual shape.
const maxLevel = 3

// clearedAfter is how much time, in the log, the entries have that are gone while a segment
// still has their postings, at most about: it is cleared then, or when it is a quarter.
const clearedAfter = 24 * time.Hour

// level is that of a new segment with n entries.
func (s *shape) level(n int) (level int) {
	for size := s.base * s.fanOut; n >= size && level < maxLevel; size *= s.fanOut {
		level++
	}
	return level
}

// indexer makes and merges segments, in transactions of the writer; see schema.sql.
type indexer struct {
	shape
	link *link
	// upto is what the database says; unindexed is how many entries are, about: if many is
	// true, there are more.
	upto      int64
	unindexed int
	many      bool
	// added are the transaction's under way.
	added int
	// recent are entries from upto on: all of them, if it says so.
	recent recent
	// room is for the postings of a segment.
	room []postings.Posting
	// failed is when segments could last not be made, and tried when it was last tried to forget
	// all, in nanoseconds since 1970; resets is how often they were.
	failed  time.Time
	tried   atomic.Int64
	warning rate.Sometimes
	resets  atomic.Int64
}

// maxRoom is how many postings there stays room for: those of some segments of the least size.
const maxRoom = 8192

// maxUnindexed is how far load counts.
const maxUnindexed = 16_384

// load reads what the database says.
func (x *indexer) load() error {
	var v [2]driver.Value
	ok, err := x.link.unindexed.first(v[:], numbered(int64(maxUnindexed))...)
	if err == nil && !ok {
		err = errors.New("the audit log's table of unindexed entries is empty")
	}
	x.upto, _ = v[0].(int64)
	n, _ := v[1].(int64)
	x.unindexed, x.many = int(n), n >= maxUnindexed
	x.recent.forget()
	x.recent.whole = err == nil && n == 0
	return err
}

// insert notes an entry that is new.
func (x *indexer) insert(u unindexed) error {
	if u.key >= x.upto {
		x.recent.note(u)
	}
	return x.add(u.key)
}

// update notes an entry that was not indexed, and has changed.
func (x *indexer) update(u unindexed) {
	if u.key >= x.upto {
		x.recent.note(u)
	}
}

// add notes that the entry at a key is not indexed, or not any more.
func (x *indexer) add(key int64) (err error) {
	if x.added++; key < x.upto {
		_, err = x.link.addLate.exec(numbered(key)...)
	}
	return ofIndex(err)
}

// done hears how the transaction ended.
func (x *indexer) done(committed bool) {
	if committed {
		x.unindexed += x.added
	} else {
		x.recent.forget()
	}
	x.added = 0
}

// due is how many entries are enough for a segment, and few enough for a step; 0 if there are
// not enough.
func (x *indexer) due() int {
	if x.unindexed < x.base+x.slack {
		return 0
	}
	return min(x.unindexed-x.slack, x.most)
}

// numbered are the arguments of a statement.
func numbered(values ...driver.Value) []driver.NamedValue {
	args := make([]driver.NamedValue, len(values))
	for i, v := range values {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return args
}

// indexedColumns are what postings are made of.
const indexedColumns = `key, action, status, severity, user_hash, ip, identifier_hash`

// How a group is written in a posting: those of an action, and those of an action and an
// outcome, follow each other.
const (
	actionShift = 5
	statusShift = 3
	levelShift  = 1
)

func (g group) code() uint64 {
	return uint64(g.kind)<<actionShift | uint64(g.status)<<statusShift | uint64(g.severity)<<levelShift //nolint:gosec // codes, never negative
}

func groupOfCode(c uint64) group {
	return group{int64(c >> actionShift), int8(c >> statusShift & 3), int8(c >> levelShift & 3)} //nolint:gosec // codes
}

// grow makes a segment of the oldest entries that have none, and says of how many: those that
// are wanted, unless there are fewer.
func (x *indexer) grow(want int) (n int, _ error) {
	list := x.room[:0]
	defer func() { x.keepRoom(list) }()
	var row [7]driver.Value
	first, last := int64(0), int64(0)
	take := func(u *unindexed) {
		if len(list) == 0 || u.key < first {
			first = u.key
		}
		last = max(last, u.key)
		list = u.appendPostings(list)
	}
	late := func() error {
		if n++; row[1] == nil { // somebody has deleted it by hand
			return nil
		}
		u := unindexedOf(row[:])
		take(&u)
		return nil
	}
	if err := x.link.lateRows.each(row[:], late, numbered(int64(want))...); err != nil {
		return n, err
	}
	if n > 0 {
		if _, err := x.link.takeLate.exec(numbered(row[0])...); err != nil {
			return n, ofIndex(err)
		}
	}
	if n < want {
		if err := x.recall(want - n); err != nil {
			return n, err
		}
		next := x.recent.rows[:min(want-n, len(x.recent.rows))]
		for i := range next {
			take(&next[i])
		}
		if len(next) > 0 {
			x.upto = next[len(next)-1].key + 1
			if _, err := x.link.setUpto.exec(numbered(x.upto)...); err != nil {
				return n, ofIndex(err)
			}
		}
		n += len(next)
		x.recent.drop(len(next))
	}
	if n < want { // the number was not exact
		x.unindexed = n
	}
	if x.unindexed -= n; x.many && x.due() == 0 {
		if err := x.load(); err != nil {
			return n, err
		}
	}
	if len(list) == 0 {
		return n, nil
	}
	return n, x.write(segment{level: x.level(n), state: live, first: first, last: last}, list)
}

// write makes a segment of postings, which it sorts.
func (x *indexer) write(s segment, list []postings.Posting) error {
	slices.SortFunc(list, func(a, b postings.Posting) int { return a.Compare(&b) })
	id, err := x.newSegment(s)
	if err != nil {
		return err
	}
	into := blocks{x: x, segment: id}
	for i := range list {
		if err := into.add(&list[i]); err != nil {
			return err
		}
	}
	return into.flush()
}

// keepRoom keeps the room of a list for the next one, unless it is large. Nothing of what was in it
// is kept.
func (x *indexer) keepRoom(list []postings.Posting) {
	clear(list)
	if x.room = list; cap(list) > maxRoom {
		x.room = nil
	}
}

// blocks writes the blocks of a segment.
type blocks struct {
	x       *indexer
	segment int64
	block   postings.Block
}

func (b *blocks) add(p *postings.Posting) error {
	if len(b.block.Bytes()) >= b.x.block {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.block.Add(p)
	return nil
}

// full says whether the next posting begins a block.
func (b *blocks) full() bool { return len(b.block.Bytes()) == 0 || len(b.block.Bytes()) >= b.x.block }

func (b *blocks) flush() error {
	if len(b.block.Bytes()) == 0 {
		return nil
	}
	_, err := b.x.link.newBlock.exec(numbered(b.segment, b.block.Last().Place(), b.block.Bytes())...)
	b.block.Reset()
	return ofIndex(err)
}

// What a segment is; see schema.sql.
const (
	building = iota
	live
	dead
)

type segment struct {
	id           int64
	level, state int
	target       int64
	first, last  int64
	floor        int64
}

func (x *indexer) newSegment(s segment) (int64, error) {
	res, err := x.link.newSegment.exec(numbered(int64(s.level), int64(s.state), s.first, s.last)...)
	if err != nil {
		return 0, ofIndex(err)
	}
	return res.LastInsertId()
}

func (x *indexer) segments() (list []segment, err error) {
	var row [7]driver.Value
	err = x.link.segments.each(row[:], func() error {
		var v [len(row)]int64
		for i := range row {
			v[i], _ = row[i].(int64)
		}
		list = append(list, segment{v[0], int(v[1]), int(v[2]), v[3], v[4], v[5], v[6]})
		return nil
	})
	return list, ofIndex(err)
}

// work does as much of what there is to do for segments, deleting what is dead and merging,
// as so many entries make.
func (x *indexer) work(entries int) error {
	all, err := x.segments()
	if err != nil {
		return err
	}
	left := max(1, x.drop*entries/x.base)
	for _, s := range all {
		if s.state == dead && left > 0 {
			if left, err = x.bury(s.id, left); err != nil {
				return err
			}
		}
	}
	for level := range maxLevel + 1 {
		if all, err = x.begin(all, level); err != nil {
			return err
		}
	}
	// Lower levels first: the more segments there are, the longer it takes to find something.
	left = x.budget * entries / x.base
	slices.SortStableFunc(all, func(a, b segment) int { return cmp.Compare(a.level, b.level) })
	for i := range all {
		if all[i].state != building {
			continue
		}
		if left <= 0 {
			return nil
		}
		var sources []segment
		for _, s := range all {
			if s.target == all[i].id && s.state == live {
				sources = append(sources, s)
			}
		}
		read, err := x.merge(all[i].id, sources, left)
		if err != nil {
			return err
		}
		left -= read
	}
	return nil
}

// bury deletes up to most blocks of a dead segment, and the segment with the last of them.
func (x *indexer) bury(id int64, most int) (left int, err error) {
	res, err := x.link.dropBlocks.exec(numbered(id, int64(most))...)
	if err != nil {
		return 0, ofIndex(err)
	}
	n, err := res.RowsAffected()
	if left = most - int(n); err != nil || left == 0 {
		return 0, err
	}
	_, err = x.link.dropSegment.exec(numbered(id)...)
	return left, ofIndex(err)
}

// stale says whether a segment has enough postings of entries that are gone to be cleared.
func (s *segment) stale() bool {
	gone := s.floor - s.first
	return gone > 0 && (gone >= (s.last-s.first)/4 || storage.KeyTime(s.floor).Sub(storage.KeyTime(s.first)) >= clearedAfter)
}

// begin begins to merge the segments of a level, if they are enough, or else to clear one that
// is stale, unless there is such a target already. It returns all, with the target.
func (x *indexer) begin(all []segment, level int) ([]segment, error) {
	var chosen, stale []int
	for i := range all {
		if s := &all[i]; s.level == level && s.state == live && s.target == 0 {
			chosen = append(chosen, i)
			if s.stale() {
				stale = append(stale, i)
			}
		}
	}
	free := func(level int) bool {
		return !slices.ContainsFunc(all, func(s segment) bool { return s.state == building && s.level == level })
	}
	target := segment{level: level + 1}
	switch {
	case level < maxLevel && len(chosen) >= x.fanOut && free(level+1):
		chosen = chosen[:x.fanOut]
	case len(stale) > 0 && free(level):
		chosen, target.level = stale[:1], level
	default:
		return all, nil
	}
	for n, i := range chosen {
		first := max(all[i].first, all[i].floor)
		if n == 0 || first < target.first {
			target.first = first
		}
		target.last = max(target.last, all[i].last)
	}
	var err error
	if target.id, err = x.newSegment(target); err != nil {
		return nil, err
	}
	for _, i := range chosen {
		all[i].target = target.id
		if _, err := x.link.setTarget.exec(numbered(target.id, all[i].id)...); err != nil {
			return nil, ofIndex(err)
		}
	}
	return append(all, target), nil
}

// source is a segment that is read from a place on.
type source struct {
	segment
	reader postings.Reader
	place  []byte
	next   postings.Posting
	read   int // postings, with those that are gone
}

// advance reads the next posting that is not gone; false at the end.
func (s *source) advance(x *indexer) (bool, error) {
	for {
		for s.reader.Next(&s.next) {
			if s.read++; s.next.Key >= s.floor {
				return true, nil
			}
		}
		if err := s.reader.End(s.place); err != nil {
			return false, err
		}
		b, ok, err := x.blockAt(s.id, postings.Behind(s.place))
		if !ok || err != nil {
			return false, err
		}
		s.reader, s.place = postings.Read(b.bytes), b.place
	}
}

// block is one of the table's.
type block struct {
	id           int64
	place, bytes []byte
}

// blockAt is the first block of a segment whose last posting is at a place or behind it.
func (x *indexer) blockAt(segment int64, place []byte) (b block, ok bool, err error) {
	var row [3]driver.Value
	ok, err = x.link.blockAt.first(row[:], numbered(segment, place)...)
	b.id, _ = row[0].(int64)
	b.place, _ = row[1].([]byte)
	b.bytes, _ = row[2].([]byte)
	return b, ok, ofIndex(err)
}

// merge moves the next postings of the sources into the target, most of them or a few more,
// and says how many it has read.
func (x *indexer) merge(target int64, from []segment, most int) (read int, _ error) {
	var row [1]driver.Value
	if _, err := x.link.lastPlace.first(row[:], numbered(target)...); err != nil {
		return 0, ofIndex(err)
	}
	begun, _ := row[0].([]byte)
	var sources byNext
	for _, segment := range from {
		s := &source{segment: segment}
		more, err := s.start(x, begun)
		if err != nil {
			return 0, err
		}
		read += s.read
		if more {
			sources = append(sources, s)
		}
	}
	heap.Init(&sources)
	into := blocks{x: x, segment: target}
	for len(sources) > 0 && (read < most || !into.full()) {
		s := sources[0]
		if err := into.add(&s.next); err != nil {
			return read, err
		}
		before := s.read
		more, err := s.advance(x)
		if err != nil {
			return read, err
		}
		if read += s.read - before; more {
			heap.Fix(&sources, 0)
		} else {
			heap.Pop(&sources)
		}
	}
	if err := into.flush(); err != nil || len(sources) > 0 {
		return read, err
	}
	for _, s := range from {
		if _, err := x.link.setState.exec(numbered(int64(dead), s.id)...); err != nil {
			return read, ofIndex(err)
		}
	}
	_, err := x.link.setState.exec(numbered(int64(live), target)...)
	return read, ofIndex(err)
}

// start reads the first posting behind a place.
func (s *source) start(x *indexer, place []byte) (bool, error) {
	if len(place) == 0 {
		return s.advance(x)
	}
	begun, err := postings.At(place)
	if err != nil {
		return false, err
	}
	b, ok, err := x.blockAt(s.id, postings.Behind(place))
	if !ok || err != nil {
		return false, err
	}
	for s.reader, s.place = postings.Read(b.bytes), b.place; ; {
		if more, err := s.advance(x); !more || err != nil || s.next.Compare(&begun) > 0 {
			return more, err
		}
	}
}

// byNext is a heap that has the source with the next posting in front.
type byNext []*source

func (h *byNext) Len() int           { return len(*h) }
func (h *byNext) Less(i, j int) bool { return (*h)[i].next.Compare(&(*h)[j].next) < 0 }
func (h *byNext) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }
func (h *byNext) Push(s any)         { *h = append(*h, s.(*source)) }

func (h *byNext) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// forget removes postings, which are sorted, from all segments that have them. Nobody looks into
// dead ones, which may be damaged, and soon they are gone.
func (x *indexer) forget(list []postings.Posting) error {
	all, err := x.segments()
	if err != nil {
		return err
	}
	var mine []postings.Posting
	for _, s := range all {
		if s.state == dead {
			continue
		}
		mine = mine[:0]
		for _, p := range list {
			if p.Key >= s.first && p.Key <= s.last {
				mine = append(mine, p)
			}
		}
		for rest := mine; len(rest) > 0; {
			b, ok, err := x.blockAt(s.id, rest[0].Place())
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if rest, err = x.strike(&b, rest); err != nil {
				return err
			}
		}
	}
	return nil
}

// strike removes from a block what it has of the postings, and returns those that come
// behind it.
func (x *indexer) strike(b *block, list []postings.Posting) ([]postings.Posting, error) {
	end, err := postings.At(b.place)
	if err != nil {
		return nil, err
	}
	var rest postings.Block
	var p postings.Posting
	found := false
	r := postings.Read(b.bytes)
	for r.Next(&p) {
		if _, gone := slices.BinarySearchFunc(list, p, func(a, b postings.Posting) int { return a.Compare(&b) }); gone {
			found = true
			continue
		}
		rest.Add(&p)
	}
	if err := r.End(b.place); err != nil {
		return nil, err
	}
	switch {
	case !found:
	case len(rest.Bytes()) == 0:
		_, err = x.link.dropBlock.exec(numbered(b.id)...)
	default: // the place may be that of one that is gone
		_, err = x.link.setBlock.exec(numbered(rest.Last().Place(), rest.Bytes(), b.id)...)
	}
	if err != nil {
		return nil, ofIndex(err)
	}
	behind := slices.IndexFunc(list, func(p postings.Posting) bool { return p.Compare(&end) > 0 })
	if behind < 0 {
		behind = len(list)
	}
	return list[behind:], nil
}

// indexed says whether the entry at a key has its postings in a segment.
func (x *indexer) indexed(key int64) (bool, error) {
	if key >= x.upto {
		return false, nil
	}
	_, late, err := x.link.isLate.number(numbered(key)...)
	return !late, ofIndex(err)
}

// postings are those of the entry at a key.
func (x *indexer) postings(key int64) ([]postings.Posting, error) {
	var row [7]driver.Value
	there, err := x.link.rowAt.first(row[:], numbered(key)...)
	if !there || err != nil {
		return nil, err
	}
	u := unindexedOf(row[:])
	return u.appendPostings(nil), nil
}

// again has an entry that is indexed, and has changed, indexed once more: before are its
// postings of before.
func (x *indexer) again(keys []int64, before []postings.Posting) error {
	slices.SortFunc(before, func(a, b postings.Posting) int { return a.Compare(&b) })
	if err := x.forget(before); err != nil {
		return err
	}
	for _, key := range keys {
		if err := x.add(key); err != nil {
			return err
		}
	}
	return nil
}

// lately says whether the index was forgotten a moment ago, or could not be: then that does not
// help.
func (x *indexer) lately() bool { return time.Since(time.Unix(0, x.tried.Load())) < rebuildAgain }

// reset leaves all entries unindexed. It needs nothing of the postings, which may be damaged.
func (x *indexer) reset() error {
	for _, s := range []statement{x.link.killAll, x.link.dropAllLate} {
		if _, err := s.exec(); err != nil {
			return err
		}
	}
	_, err := x.link.setUpto.exec(numbered(int64(0))...)
	return err
}

// forgotten hears that all entries are unindexed. How many there are is read at the next
// transaction.
func (x *indexer) forgotten() {
	x.resets.Add(1)
	x.upto, x.unindexed, x.many = 0, maxUnindexed, true
	x.recent.forget()
}

// pruned hears that all entries with keys up to highest are gone, so many more than before.
func (x *indexer) pruned(entries int, highest int64) error {
	for _, s := range []statement{x.link.raise, x.link.dropLate} {
		if _, err := s.exec(numbered(highest + 1)...); err != nil {
			return ofIndex(err)
		}
	}
	if _, err := x.link.kill.exec(); err != nil {
		return ofIndex(err)
	}
	return x.work(entries)
}
