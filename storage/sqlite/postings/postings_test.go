package postings_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// some draws postings of few terms and groups, or of any.
func some(t *rapid.T) []postings.Posting {
	few := rapid.Bool().Draw(t, "few")
	list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) postings.Posting {
		p := postings.Posting{Term: postings.Term{Kind: postings.Kind(rapid.IntRange(0, 3).Draw(t, "kind")), Hash: rapid.Int64().Draw(t, "hash")},
			Group: rapid.Uint64Max(math.MaxInt64).Draw(t, "group"), Key: rapid.Int64Min(0).Draw(t, "key")}
		if few {
			p.Hash, p.Group = p.Hash%3, p.Group%3
		}
		return p
	}), 0, 50).Draw(t, "postings")
	slices.SortFunc(list, func(a, b postings.Posting) int { return a.Compare(&b) })
	return slices.Compact(list)
}

// read reads a block, and looks whether it ends where it should.
func read(t interface{ Fatal(...any) }, block []byte) (list []postings.Posting) {
	var p postings.Posting
	r := postings.Read(block)
	for r.Next(&p) {
		list = append(list, p)
	}
	if byGroup, err := readByGroup(block); err != nil || !slices.Equal(byGroup, list) {
		t.Fatal("read by groups", byGroup, "and one by one", list, err)
	}
	var end, other []byte
	if len(list) > 0 {
		end, other = list[len(list)-1].Place(), (&postings.Posting{Key: 7, Group: 5}).Place()
	}
	if err := errors.Join(r.Err(), r.End(end)); err != nil {
		t.Fatal(err)
	}
	if err := r.End(other); len(list) > 0 && !bytes.Equal(end, other) && !errors.Is(err, postings.ErrDamaged) {
		t.Fatal("a block that ends elsewhere", err)
	}
	return list
}

// readByGroup reads a block as those do who look for one term.
func readByGroup(block []byte) (list []postings.Posting, err error) {
	var p postings.Posting
	r := postings.Read(block)
	for r.Next(&p) {
		for more := true; more; more = r.NextOfGroup(&p.Key) {
			list = append(list, p)
		}
	}
	return list, r.Err()
}

func TestABlockHasWhatWasAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b postings.Block
		for range 2 { // it can be used again
			b.Reset()
			list := some(t)
			for i := range list {
				b.Add(&list[i])
			}
			if got := read(t, b.Bytes()); !slices.Equal(got, list) {
				t.Fatalf("%v, want %v", got, list)
			}
			if len(list) > 0 && *b.Last() != list[len(list)-1] {
				t.Fatalf("the last is %v", *b.Last())
			}
		}
	})
}

func TestPlacesCompareAsPostingsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := some(t)
		for i := range list {
			place := list[i].Place()
			if p, err := postings.At(place); err != nil || p != list[i] {
				t.Fatalf("%v at its place: %v, %v", list[i], p, err)
			}
			if i == 0 {
				continue
			}
			before := list[i-1].Place()
			if bytes.Compare(before, place) >= 0 || bytes.Compare(postings.Behind(before), place) > 0 || bytes.Compare(before, postings.Behind(before)) >= 0 {
				t.Fatalf("%v does not come before %v", before, place)
			}
		}
	})
}

// FuzzRead: what is no block is refused, and never more is read than there is.
func FuzzRead(f *testing.F) {
	var b postings.Block
	b.Add(&postings.Posting{Term: postings.Term{Kind: postings.Address, Hash: 7}, Group: 33, Key: 1 << 60})
	b.Add(&postings.Posting{Term: postings.Term{Kind: postings.Address, Hash: 7}, Group: 33, Key: 1 << 59})
	f.Add(b.Bytes())
	f.Add([]byte{1, 0x80})
	f.Fuzz(func(t *testing.T, block []byte) {
		var p postings.Posting
		n := 0
		r := postings.Read(block)
		for r.Next(&p) {
			if n++; p.Key < 0 {
				t.Fatal(p)
			}
		}
		if n > len(block) {
			t.Fatalf("%d postings in %d bytes", n, len(block))
		}
		list, err := readByGroup(block)
		if len(list) < n || (err == nil) != (r.Err() == nil) {
			t.Fatalf("%d postings and %v, by groups %d and %v", n, r.Err(), len(list), err)
		}
		_, _ = postings.At(block)
	})
}
