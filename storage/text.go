package storage

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// MaxText bounds Query.Text, in bytes.
const MaxText = 100

// identifierHashPath is where metadata has the hash of the identifier.
const identifierHashPath = "identifierHash"

// textPaths are the members of metadata that Query.Text looks at.
var textPaths = [...]string{"identifier", "targetUserId", "error.code", "sessionHash"}

// TextPaths returns the members of metadata that Query.Text looks at, as names
// joined by dots.
func TextPaths() []string { return slices.Clone(textPaths[:]) }

// IdentifierHashIn returns metadata.identifierHash: what a store that keeps no
// more than whether there is an IdentifierHash reads it back from.
func IdentifierHashIn(m json.RawMessage) string { return TextIn(m, identifierHashPath) }

// MaxClass bounds a class, in bytes; what is longer is none.
const MaxClass = 64

// ClassIn returns metadata.class: the kind of event, "" if there is none.
func ClassIn(m json.RawMessage) string {
	if class := TextIn(m, "class"); len(class) <= MaxClass {
		return class
	}
	return ""
}

// TextIn returns the text at a path of the metadata, names joined by dots, "" for anything
// but a text. Of members with one name the first counts, as in SQLite.
func TextIn(m json.RawMessage, path string) string {
	if v := gjson.GetBytes(m, path); v.Type == gjson.String {
		return v.Str
	}
	return ""
}

// contains says whether the entry has q.Text where it may look for it.
func (q *Query) contains(e *Entry) bool {
	text := lowerASCII(q.Text)
	has := func(s string) bool { return strings.Contains(lowerASCII(s), text) }
	if has(e.Action) || has(e.UserID) || has(e.IPAddress) || q.TextInAgent && has(e.UserAgent) {
		return true
	}
	for _, path := range textPaths {
		if v := TextIn(e.Metadata, path); v != "" && has(v) {
			return true
		}
	}
	return false
}

// lowerASCII makes the letters A to Z small and leaves all others, as SQLite's
// LIKE does.
func lowerASCII(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' }) < 0 {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
