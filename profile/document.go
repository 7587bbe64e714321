package profile

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

// Bounds of what is read: bytes, and objects and arrays in one another.
const (
	maxLookup = 4 << 20
	maxDepth  = 200
)

// document is a body in JSON that was read once, for all the rules that look into it. It
// refers to the body, which must not change while anybody looks for something in it; what is
// found is a copy. The zero value is a body that cannot be read.
type document struct {
	text []byte // without white space before it; nil if it cannot be read
	all  string // a copy of text, once somebody asked for the root
	// members of the root in their order, if it is an object: most of what rules look for
	// stands there, and a search of its own for each would take the whole body each time.
	members []jsonscan.Member
}

// usualMembers is for how many members of an object there is room at first, maxRoom for how many
// there stays some.
const (
	usualMembers = 4
	maxRoom      = 64
)

// read reads a body. It is readable if it is a document within the bounds.
func (d *document) read(body []byte) {
	text := textOf(body)
	if len(text) == 0 || len(text) > maxLookup {
		return
	}
	members := d.members[:0]
	if text[0] == '{' {
		members = slices.Grow(members, usualMembers)
	}
	if members, ok := jsonscan.AppendMembers(members, text, maxDepth); ok {
		d.text, d.members = text, members
	}
}

// textOf is a body without what may stand before a document.
func textOf(body []byte) []byte { return bytes.TrimLeft(trimBOM(body), " \t\r\n") }

func (d *document) readable() bool { return d.text != nil }

// root is all of it; nothing if it cannot be read.
func (d *document) root() gjson.Result {
	if d.all == "" {
		d.all = string(d.text)
	}
	return gjson.Parse(d.all)
}

// find is the value at a JSON pointer, see Lookup.
func (d *document) find(pointer string) gjson.Result {
	if pointer == "" {
		return d.root()
	}
	return parsed(d.at(strings.TrimPrefix(pointer, "/")))
}

// at is the value at a pointer without its first slash, as it is written; nil if there is none.
func (d *document) at(tokens string) []byte {
	if !d.readable() {
		return nil
	}
	token, rest, more := strings.Cut(tokens, "/")
	token = unescapePointer(token)
	var value []byte
	if d.text[0] == '[' {
		value = child(d.text, token)
	}
	for _, m := range slices.Backward(d.members) {
		if string(nameOf(d.text, m)) == token {
			value = d.text[m.Value:m.End]
			break
		}
	}
	for more && value != nil {
		token, rest, more = strings.Cut(rest, "/")
		value = child(value, unescapePointer(token))
	}
	return value
}

// child is a value in another one, as it is written: the last member of that name of an
// object, or an element of an array; nil if there is none.
func child(v []byte, token string) (found []byte) {
	switch v[0] {
	case '{':
		for m, ok := jsonscan.NextMember(v, 1); ok; m, ok = jsonscan.NextMember(v, m.End) {
			if string(nameOf(v, m)) == token {
				found = v[m.Value:m.End]
			}
		}
	case '[':
		if n, err := strconv.Atoi(token); err == nil && n >= 0 && strconv.Itoa(n) == token { // RFC 6901, section 4
			return jsonscan.Element(v, n)
		}
	}
	return found
}

// nameOf is what a member of an object is called.
func nameOf(object []byte, m jsonscan.Member) []byte {
	if m.Plain {
		return object[m.Name:m.NameEnd]
	}
	return []byte(gjson.ParseBytes(object[m.Name-1 : m.NameEnd+1]).Str)
}

// parsed is a copy of a value as it is written; nothing of nil.
func parsed(value []byte) gjson.Result {
	if value == nil {
		return gjson.Result{}
	}
	return gjson.ParseBytes(value)
}

// Readable says whether Body is JSON that can be looked into.
func (a *Answer) Readable() bool {
	if !a.parsed {
		a.parsed = true
		a.document.read(a.Body)
	}
	return a.document.readable()
}

// Lookup is Lookup in Body, which must not change as long as anybody calls this. What it
// returns is a copy.
func (a *Answer) Lookup(pointer string) gjson.Result {
	a.Readable()
	return a.document.find(pointer)
}

// LookupString is Lookup for a string value; "" for anything else.
func (a *Answer) LookupString(pointer string) string { return stringOf(a.Lookup(pointer)) }

// Readable says whether a body is JSON that Lookup can look into.
func Readable(body []byte) bool {
	text := textOf(body)
	return len(text) <= maxLookup && jsonscan.Valid(text, maxDepth)
}

// Lookup finds the value at a JSON pointer (RFC 6901). Of members with the same
// name the last counts, as in JavaScript; names are compared exactly. A body that
// is no valid JSON has no values.
func Lookup(body []byte, pointer string) gjson.Result {
	var d document
	d.read(body)
	return d.find(pointer)
}

// LookupString is Lookup for a string value; "" for anything else.
func LookupString(body []byte, pointer string) string { return stringOf(Lookup(body, pointer)) }

func stringOf(v gjson.Result) string {
	if v.Type == gjson.String {
		return v.Str
	}
	return ""
}

// unescapePointer decodes one token of a JSON pointer (RFC 6901, section 4).
func unescapePointer(token string) string {
	if strings.IndexByte(token, '~') < 0 {
		return token
	}
	return strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
}

func trimBOM(b []byte) []byte {
	if len(b) >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF {
		return b[3:]
	}
	return b
}
