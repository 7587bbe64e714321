package sqlite

import (
	"cmp"
	"database/sql/driver"
	"slices"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// unindexed is an entry as far as postings are made of it.
type unindexed struct {
	key   int64
	group uint64
	// user, address and identifier are hashes, where has says so.
	user, address, identifier int64
	has                       uint8
}

// What an unindexed has.
const (
	hasUser uint8 = 1 << iota
	hasAddress
	hasIdentifier
)

// unindexedOf is that of a row of indexedColumns.
func unindexedOf(row []driver.Value) unindexed {
	var u unindexed
	u.key, _ = row[0].(int64)
	g := groupOf(row[1], row[2], row[3])
	u.group = g.code()
	u.fill(row[4], row[5], row[6])
	return u
}

// unindexed is that of a row which stands at a key.
func (r *row) unindexed(key int64) unindexed {
	u := unindexed{key: key, group: r.code()}
	u.fill(r.args[argUserHash], r.args[argIP], r.args[argIdentifier])
	return u
}

// fill takes what the columns have.
func (u *unindexed) fill(user, address, identifier driver.Value) {
	var ok bool
	if u.user, ok = user.(int64); ok {
		u.has |= hasUser
	}
	if ip, ok := address.(string); ok {
		u.address, u.has = storage.TextHash(ip), u.has|hasAddress
	}
	if u.identifier, ok = identifier.(int64); ok {
		u.has |= hasIdentifier
	}
}

// appendPostings adds those of the entry.
func (u *unindexed) appendPostings(list []postings.Posting) []postings.Posting {
	add := func(kind postings.Kind, hash int64) {
		list = append(list, postings.Posting{Term: postings.Term{Kind: kind, Hash: hash}, Key: u.key, Group: u.group})
	}
	if u.has&hasUser != 0 {
		add(postings.User, u.user)
	}
	if u.has&hasAddress != 0 {
		add(postings.Address, u.address)
	}
	switch {
	case u.has&hasIdentifier == 0:
	case u.has&hasUser != 0:
		add(postings.Owned, u.identifier)
	default:
		add(postings.Identifier, u.identifier)
	}
	return list
}

// recent are the youngest entries, which have no postings yet, as the writer remembers them: to
// read them again costs a fifth of what it costs to write them. The zero value remembers nothing.
type recent struct {
	// rows are in the order in which they were written; of several with one key the last one
	// is true.
	rows []unindexed
	// whole is true if there are no others.
	whole bool
}

// forget makes it the zero value, with the room that it has, unless that is large. What a hash of
// is remembered may be found from it.
func (r *recent) forget() {
	clear(r.rows)
	r.rows, r.whole = r.rows[:0], false
	if cap(r.rows) > maxRoom {
		r.rows = nil
	}
}

// note remembers an entry that was written.
func (r *recent) note(u unindexed) {
	switch {
	case !r.whole:
	case len(r.rows) < maxUnindexed:
		r.rows = append(r.rows, u)
	default:
		r.forget()
	}
}

// arrange sorts the rows by their keys, of which each is there once then.
func (r *recent) arrange() {
	slices.SortStableFunc(r.rows, func(a, b unindexed) int { return cmp.Compare(a.key, b.key) })
	n := 0
	for i := range r.rows {
		if i+1 < len(r.rows) && r.rows[i+1].key == r.rows[i].key {
			continue
		}
		r.rows[n] = r.rows[i]
		n++
	}
	clear(r.rows[n:])
	r.rows = r.rows[:n]
}

// drop forgets the first n rows.
func (r *recent) drop(n int) { r.rows = slices.Delete(r.rows, 0, n) }

// recall makes sure that recent has the oldest entries without postings from upto on, n of them if
// there are so many, in the order of their keys.
func (x *indexer) recall(n int) error {
	if x.recent.whole {
		x.recent.arrange()
		return nil
	}
	x.recent.forget()
	most := n
	if !x.many && x.unindexed < maxUnindexed {
		most = max(n, maxUnindexed)
	}
	var row [7]driver.Value
	err := x.link.nextRows.each(row[:], func() error {
		x.recent.rows = append(x.recent.rows, unindexedOf(row[:]))
		return nil
	}, numbered(x.upto, int64(most))...)
	x.recent.whole = err == nil && len(x.recent.rows) < most
	return err
}
