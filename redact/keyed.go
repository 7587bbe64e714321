package redact

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"slices"
	"sync"
)

// Keyed makes keyed fingerprints (HMAC-SHA256, RFC 2104) of texts that must not be kept, so
// that equal ones can be found. Make one with NewKeyed; it is safe for concurrent use.
type Keyed struct{ pool sync.Pool }

// keyedState is used again and again: keying a hash costs as much as hashing a short text.
type keyedState struct {
	hash hash.Hash
	text []byte
	sum  [sha256.Size]byte
}

// maxKeyedText is the longest text, in bytes, whose memory is used again.
const maxKeyedText = 4 << 10

// NewKeyed returns a Keyed. key is a secret of at least MinKeyBytes random bytes; it is
// copied.
func NewKeyed(key []byte) *Keyed {
	key = slices.Clone(key)
	return &Keyed{pool: sync.Pool{New: func() any { return &keyedState{hash: hmac.New(sha256.New, key)} }}}
}

// Sum is the fingerprint of a text for a purpose. The parts of the text are joined by NUL:
// whoever calls sees to it that they cannot be parted in another way, ("a\x00", "b") and
// ("a", "\x00b").
func (k *Keyed) Sum(purpose string, text ...string) [sha256.Size]byte {
	s := k.pool.Get().(*keyedState) //nolint:forcetypeassert // nothing else is put there
	s.hash.Reset()
	s.text = append(s.text[:0], purpose...)
	for _, part := range text {
		s.text = append(append(s.text, 0), part...)
	}
	_, _ = s.hash.Write(s.text) // a hash never fails
	sum := [sha256.Size]byte(s.hash.Sum(s.sum[:0]))
	if clear(s.text); len(s.text) <= maxKeyedText {
		k.pool.Put(s)
	}
	return sum
}
