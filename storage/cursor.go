package storage

import (
	"encoding/base64"
	"encoding/binary"
)

// cursorVersion marks the form of a cursor, so that a later form can be told
// from this one.
const cursorVersion = 1

// EncodeCursor makes an opaque cursor of the sort key of a page's last entry.
func EncodeCursor(key int64) string {
	var b [9]byte
	b[0] = cursorVersion
	binary.BigEndian.PutUint64(b[1:], uint64(key))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// DecodeCursor is the inverse of EncodeCursor; it returns ErrBadCursor for
// anything else.
func DecodeCursor(s string) (int64, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 9 || b[0] != cursorVersion {
		return 0, ErrBadCursor
	}
	key := int64(binary.BigEndian.Uint64(b[1:]))
	if key < 0 {
		return 0, ErrBadCursor
	}
	return key, nil
}
