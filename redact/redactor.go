package redact

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
)

// Strategy is what takes the place of a secret in a body.
type Strategy string

const (
	// Mask writes Placeholder. The default.
	Mask Strategy = "mask"
	// Hash writes HashTag, so that equal secrets can be found without being
	// known. One-time codes are masked all the same: see Options.Key.
	Hash Strategy = "hash"
	// Remove drops the member or the array element.
	Remove Strategy = "remove"
)

// What stands in the output where something was left out.
const (
	Placeholder     = "[REDACTED]"  // a secret
	TooDeepMarker   = "[TOO DEEP]"  // an object or array below MaxDepth
	TruncatedMarker = "[TRUNCATED]" // the rest of a body beyond MaxBytes
)

// Limits and defaults of Options.
const (
	DefaultMaxBytes = 64 << 10
	DefaultMaxDepth = 5
	MinMaxBytes     = 64
	MaxMaxDepth     = 100
	MinKeyBytes     = 32

	maxKeyBytes = 256 // longest kept member name, threats.md B10
)

// Options configures New. The zero value masks DefaultFields.
type Options struct {
	// Strategy applies to bodies. Default Mask. Queries, URLs, headers and
	// text are always masked.
	Strategy Strategy
	// Fields replaces DefaultFields, and with them the built-in suffix
	// rules, when it is not empty. Secret shapes are found regardless.
	Fields []string
	// AddFields adds to whichever list is in use.
	AddFields []string
	// Key is the HMAC key of Hash and HashTag, at least MinKeyBytes random
	// bytes from a file of mode 0600. Required for Hash; a plain hash of a
	// six-digit code is reversed in half a second (threats.md X15).
	Key []byte
	// MaxBytes caps the redacted output of one body. 0 means
	// DefaultMaxBytes; the least is MinMaxBytes.
	MaxBytes int
	// MaxDepth is how many objects and arrays may stand in one another.
	// 0 means DefaultMaxDepth; the most is MaxMaxDepth.
	MaxDepth int
}

// Redactor redacts. Make one with New; it does not change afterwards and is
// safe for concurrent use.
type Redactor struct {
	strategy Strategy
	names    map[string]class // normalised field name -> class
	longest  int              // of those names, in bytes
	given    map[string]bool  // those that the options name
	rules    bool             // whether the built-in name rules apply
	keyed    *Keyed           // nil: HashTag has nothing to hash with
	tag      string           // what each tag begins with: it names the key
	maxBytes int
	maxDepth int
}

// New checks o and builds a Redactor. It copies what it keeps. An error says
// which option is wrong and what to do.
func New(o Options) (*Redactor, error) {
	r := &Redactor{strategy: o.Strategy, maxBytes: o.MaxBytes, maxDepth: o.MaxDepth}
	if r.strategy == "" {
		r.strategy = Mask
	}
	if r.maxBytes == 0 {
		r.maxBytes = DefaultMaxBytes
	}
	if r.maxDepth == 0 {
		r.maxDepth = DefaultMaxDepth
	}
	if err := r.check(len(o.Key)); err != nil {
		return nil, err
	}
	if len(o.Key) > 0 {
		r.keyed = NewKeyed(o.Key)
		id := r.keyed.Sum(tagPurpose, "key id", "")
		r.tag = "hmac-sha256:" + hex.EncodeToString(id[:4]) + ":"
	}
	return r, r.setFields(o.Fields, o.AddFields)
}

// check rejects option values that New cannot work with.
func (r *Redactor) check(keyBytes int) error {
	switch r.strategy {
	case Mask, Hash, Remove:
	default:
		return fmt.Errorf("redact: unknown strategy %q; use mask, hash or remove", r.strategy)
	}
	if r.strategy == Hash && keyBytes == 0 {
		return fmt.Errorf("redact: strategy hash needs a key; give at least %d random bytes, for example from `openssl rand 32`, or use mask", MinKeyBytes)
	}
	if keyBytes > 0 && keyBytes < MinKeyBytes {
		return fmt.Errorf("redact: the key has %d bytes; give at least %d random bytes, for example from `openssl rand 32`", keyBytes, MinKeyBytes)
	}
	if r.maxBytes < MinMaxBytes {
		return fmt.Errorf("redact: max bytes is %d; give %d or more, or 0 for %d", r.maxBytes, MinMaxBytes, DefaultMaxBytes)
	}
	if r.maxDepth < 1 || r.maxDepth > MaxMaxDepth {
		return fmt.Errorf("redact: max depth is %d; give 1 to %d, or 0 for %d", r.maxDepth, MaxMaxDepth, DefaultMaxDepth)
	}
	return nil
}

// setFields fills names from the two lists.
func (r *Redactor) setFields(fields, added []string) error {
	r.rules = len(fields) == 0
	if r.rules {
		fields = DefaultFields()
	}
	r.names, r.given = make(map[string]class, len(fields)+len(added)), make(map[string]bool)
	for _, f := range slices.Concat(fields, added) {
		n := string(appendNormal(nil, []byte(f)))
		if n == "" {
			return fmt.Errorf("redact: field name %q has no letters or digits; remove it or correct it", f)
		}
		r.names[n], r.longest = nameClass([]byte(n)), max(r.longest, len(n))
		r.given[n] = !r.rules || slices.Contains(added, f)
	}
	for _, f := range doubtfulFields {
		n := string(appendNormal(nil, []byte(f)))
		if _, there := r.names[n]; r.rules && !there {
			r.names[n], r.longest = doubtful, max(r.longest, len(n))
		}
	}
	return nil
}

// HashTag is the keyed fingerprint of a value:
// "hmac-sha256:<8 hex digits naming the key>:<base64url of 16 bytes>". The
// same key, field and value give the same tag for ever; the field's name
// (ignoring case, "_" and "-") is part of it, so a tag does not show that two
// different fields held the same value. Without a key it is Placeholder:
// there is no unkeyed fallback.
func (r *Redactor) HashTag(field, value string) string {
	if r.keyed == nil {
		return Placeholder
	}
	var room [maxKeyBytes]byte
	name := appendNormal(room[:0], []byte(field)) // never holds a NUL
	sum := r.keyed.Sum(tagPurpose, string(name), value)
	out := append(room[:0], r.tag...)
	return string(base64.RawURLEncoding.AppendEncode(out, sum[:16]))
}

// tagPurpose keeps tags apart from all else that is made of the same key.
const tagPurpose = "caddy-audit-log/redact/v1"
