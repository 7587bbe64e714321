// Package postings is the form in which the SQLite store keeps its index of users,
// addresses and identifiers: sorted blocks of postings, of which each says that an entry
// has a term (the words are those of inverted indexes and of log-structured merge trees).
// It knows nothing of SQL. Nothing in it is safe for concurrent use.
package postings

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
)

// Kind is what a Term is a hash of.
type Kind uint8

// The kinds.
const (
	User       Kind = iota // an entry's user
	Address                // its IP address
	Identifier             // its identifier, if it has no user
	Owned                  // its identifier, if it has a user
	kinds
)

// Term is what entries are found by.
type Term struct {
	Kind Kind
	Hash int64
}

// Posting says that the entry with a sort key has a term.
type Posting struct {
	Term
	// Group is what else is known of the entry, in a form whose order the store chooses:
	// postings of one group stand together, the newest first. Its highest bit is 0.
	Group uint64
	Key   int64 // storage.Entry.SortKey, never negative
}

// Compare says which of two comes first: by kind, hash, group, and then the higher key.
func (p *Posting) Compare(q *Posting) int {
	switch {
	case p.Term != q.Term:
		return p.Term.compare(q.Term)
	case p.Group != q.Group:
		return cmp.Compare(p.Group, q.Group)
	}
	return cmp.Compare(q.Key, p.Key)
}

func (t Term) compare(u Term) int {
	if t.Kind != u.Kind {
		return cmp.Compare(t.Kind, u.Kind)
	}
	return cmp.Compare(uint64(t.Hash), uint64(u.Hash)) //nolint:gosec // an order of bits
}

// After says whether the term comes after another one.
func (t Term) After(u Term) bool { return t.compare(u) > 0 }

// maxGroup is the highest group of a posting.
const maxGroup = math.MaxUint64 >> 1

// placeSize is the length of a place.
const placeSize = 1 + 8 + 8 + 8

// Place is where a posting stands, in bytes that compare as postings do.
func (p *Posting) Place() []byte {
	b := append(make([]byte, 0, placeSize), byte(p.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Hash)) //nolint:gosec // its bits
	b = binary.BigEndian.AppendUint64(b, p.Group)
	return binary.BigEndian.AppendUint64(b, ^uint64(p.Key)) //nolint:gosec // its bits
}

// Behind is the first place behind another one.
func Behind(place []byte) []byte { return append(place[:len(place):len(place)], 0) }

// ErrDamaged is what reading something else than a block or a place ends with.
var ErrDamaged = errors.New("the audit log's index of users and addresses is damaged")

// At is the posting that stands at a place.
func At(place []byte) (p Posting, err error) {
	if len(place) != placeSize || place[0] >= byte(kinds) {
		return p, ErrDamaged
	}
	p.Kind, p.Hash = Kind(place[0]), int64(binary.BigEndian.Uint64(place[1:])) //nolint:gosec // its bits
	p.Group = binary.BigEndian.Uint64(place[9:])
	p.Key = int64(^binary.BigEndian.Uint64(place[17:])) //nolint:gosec // its bits
	if p.Key < 0 || p.Group > maxGroup {
		return p, ErrDamaged
	}
	return p, nil
}

// How a posting differs from the one before it; newTerm and more is newTerm + its kind.
const (
	sameGroup = iota
	sameTerm
	newTerm
)

// Block is one in the making. The zero value is empty.
type Block struct {
	bytes []byte
	last  Posting
}

// Add adds a posting that comes after those that are there.
func (b *Block) Add(p *Posting) {
	switch {
	case len(b.bytes) == 0 || p.Term != b.last.Term:
		b.bytes = binary.BigEndian.AppendUint64(append(b.bytes, newTerm+byte(p.Kind)), uint64(p.Hash)) //nolint:gosec // its bits
		b.bytes = binary.AppendUvarint(b.bytes, p.Group)
		b.bytes = binary.AppendVarint(b.bytes, p.Key-b.last.Key)
	case p.Group != b.last.Group:
		b.bytes = binary.AppendUvarint(append(b.bytes, sameTerm), p.Group-b.last.Group)
		b.bytes = binary.AppendVarint(b.bytes, p.Key-b.last.Key)
	default:
		b.bytes = binary.AppendUvarint(append(b.bytes, sameGroup), uint64(b.last.Key-p.Key)) //nolint:gosec // the last is higher
	}
	b.last = *p
}

// Bytes are the block; they are valid until Add or Reset.
func (b *Block) Bytes() []byte { return b.bytes }

// Last is the posting that was added last.
func (b *Block) Last() *Posting { return &b.last }

// Reset empties the block.
func (b *Block) Reset() { b.bytes, b.last = b.bytes[:0], Posting{} }

// Reader reads a block.
type Reader struct {
	rest []byte
	last Posting
	err  error
}

// Read begins to read a block.
func Read(block []byte) Reader { return Reader{rest: block} }

// Next reads the next posting into p; false at the end, and when Err has something to say.
func (r *Reader) Next(p *Posting) bool {
	if len(r.rest) == 0 || r.err != nil {
		return false
	}
	tag := r.rest[0]
	r.rest = r.rest[1:]
	switch {
	case tag == sameGroup:
		r.older()
	case tag == sameTerm:
		r.last.Group += r.uvarint()
		r.last.Key += r.varint()
	case tag < newTerm+byte(kinds) && len(r.rest) >= 8:
		r.last.Kind, r.last.Hash = Kind(tag-newTerm), int64(binary.BigEndian.Uint64(r.rest)) //nolint:gosec // its bits
		r.rest = r.rest[8:]
		r.last.Group = r.uvarint()
		r.last.Key += r.varint()
	default:
		r.err = ErrDamaged
	}
	if r.last.Key < 0 || r.last.Group > maxGroup {
		r.err = ErrDamaged
	}
	*p = r.last
	return r.err == nil
}

// NextOfGroup reads the key of the next posting if it has the term and the group of the last
// one; false if not, at the end, and when Err has something to say. Most postings of a term
// that is in many entries are read so.
func (r *Reader) NextOfGroup(key *int64) bool {
	if len(r.rest) == 0 || r.rest[0] != sameGroup || r.err != nil {
		return false
	}
	r.rest = r.rest[1:]
	r.older()
	*key = r.last.Key
	return r.err == nil
}

// older goes to a key of the same group: to a lower one.
func (r *Reader) older() {
	if v := r.uvarint(); v <= uint64(r.last.Key) { //nolint:gosec // never negative
		r.last.Key -= int64(v) //nolint:gosec // no larger than the key
	} else {
		r.err = ErrDamaged
	}
}

// Err is why reading ended before the end of the block.
func (r *Reader) Err() error { return r.err }

// End says, when Next has said false, whether the block was one whose last posting is at a
// place; without one, whether there was no block.
func (r *Reader) End(place []byte) error {
	switch end, err := At(place); {
	case r.err != nil:
		return r.err
	case len(place) == 0 && r.last == Posting{}:
		return nil
	case err != nil || end != r.last:
		return ErrDamaged
	}
	return nil
}

func (r *Reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *Reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *Reader) skip(n int) {
	if n <= 0 {
		r.err = ErrDamaged
		return
	}
	r.rest = r.rest[n:]
}
