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
	maxLookup = 2 << 20
	maxDepth  = 200
)

// document is a body in JSON that was read once, for all the rules that look into it. It
// refers to the body, which must not change while anybody looks for something in it; what is
// found is a copy. The zero value is a body that cannot be read.
type document struct {
	text []byte // without white space before it; nil if it cannot be read
	all  string // a copy of text, once somebody asked for the root
	// members of the root in their order, nil if it is no object: most of what rules look
	// for stands there, and a search of its own for each would take the whole body each time.
	members []member
}

// member is one of an object. Its value is parsed when somebody looks at it.
type member struct{ name, raw []byte }

func (m *member) value() gjson.Result { return gjson.ParseBytes(m.raw) }

// readDocument reads a body.
func readDocument(body []byte) document {
	d := document{text: documentIn(body)}
	if d.readable() && d.text[0] == '{' {
		d.members = membersOf(d.text)
	}
	return d
}

// documentIn is the document that a body is, without what may stand before it; nil if it is
// none, or beyond the bounds.
func documentIn(body []byte) []byte {
	text := bytes.TrimLeft(trimBOM(body), " \t\r\n")
	if len(text) == 0 || len(text) > maxLookup || !jsonscan.Valid(text, maxDepth) {
		return nil
	}
	return text
}

// usualMembers is for how many members of an object there is room at first.
const usualMembers = 8

// membersOf are the members of a valid object that begins with its brace.
func membersOf(object []byte) []member {
	members := make([]member, 0, usualMembers)
	for i := jsonscan.SkipSpace(object, 1); object[i] != '}'; i = jsonscan.SkipSpace(object, i) {
		if object[i] == ',' {
			i = jsonscan.SkipSpace(object, i+1)
		}
		end, plain := jsonscan.StringEnd(object, i)
		name := object[i+1 : end-1]
		if !plain {
			name = []byte(gjson.ParseBytes(object[i:end]).Str)
		}
		begin := jsonscan.SkipSpace(object, jsonscan.SkipSpace(object, end)+1)
		i = jsonscan.ValueEnd(object, begin)
		members = append(members, member{name, object[begin:i]})
	}
	return members
}

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
	switch {
	case !d.readable():
		return gjson.Result{}
	case pointer == "" || d.members == nil:
		return valueAt(d.root(), pointer)
	}
	token, rest, more := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	token = unescapePointer(token)
	for i := range slices.Backward(d.members) {
		switch m := &d.members[i]; {
		case string(m.name) != token:
		case more:
			return valueBelow(m.value(), rest)
		default:
			return m.value()
		}
	}
	return gjson.Result{}
}

// Readable says whether Body is JSON that can be looked into.
func (a *Answer) Readable() bool {
	if !a.parsed {
		a.parsed, a.document = true, readDocument(a.Body)
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
func Readable(body []byte) bool { return documentIn(body) != nil }

// Lookup finds the value at a JSON pointer (RFC 6901). Of members with the same
// name the last counts, as in JavaScript; names are compared exactly. A body that
// is no valid JSON has no values.
func Lookup(body []byte, pointer string) gjson.Result {
	d := readDocument(body)
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

// valueAt is Lookup in a value.
func valueAt(v gjson.Result, pointer string) gjson.Result {
	if pointer == "" {
		return v
	}
	return valueBelow(v, strings.TrimPrefix(pointer, "/"))
}

// valueBelow is valueAt for a pointer without its first slash, which has one token at least.
func valueBelow(v gjson.Result, tokens string) gjson.Result {
	for token := range strings.SplitSeq(tokens, "/") {
		if v = child(v, unescapePointer(token)); !v.Exists() {
			break
		}
	}
	return v
}

// unescapePointer decodes one token of a JSON pointer (RFC 6901, section 4).
func unescapePointer(token string) string {
	if strings.IndexByte(token, '~') < 0 {
		return token
	}
	return strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
}

func child(v gjson.Result, token string) gjson.Result {
	var found gjson.Result
	switch {
	case v.IsObject():
		v.ForEach(func(key, value gjson.Result) bool {
			if key.Str == token {
				found = value
			}
			return true
		})
	case v.IsArray():
		if n, err := strconv.Atoi(token); err == nil && n >= 0 && strconv.Itoa(n) == token { // RFC 6901, section 4
			i := 0
			v.ForEach(func(_, value gjson.Result) bool {
				if i == n {
					found = value
				}
				i++
				return i <= n
			})
		}
	}
	return found
}

func trimBOM(b []byte) []byte {
	if len(b) >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF {
		return b[3:]
	}
	return b
}
