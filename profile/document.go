package profile

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

const (
	maxLookup = 2 << 20
	maxDepth  = 200
	// usualMembers is for how many members of a document there is room at first.
	usualMembers = 8
)

// document is a body in JSON that was read once, for all the rules that look into it.
// The zero value is a body that cannot be read.
type document struct {
	readable bool
	text     string
	// members of the root in their order, nil if it is no object: most of what rules look
	// for stands there, and a search of its own for each would take the whole body each time.
	members []member
}

// member is one of an object. Its value is parsed when somebody looks at it.
type member struct{ name, raw string }

// readDocument reads a body, of which it keeps a copy.
func readDocument(body []byte) document {
	if !Readable(body) {
		return document{}
	}
	d := document{readable: true, text: string(bytes.TrimLeft(trimBOM(body), " \t\r\n"))}
	if d.text[0] == '{' {
		d.members = membersOf(d.text)
	}
	return d
}

// root is all of it; nothing if it cannot be read.
func (d *document) root() gjson.Result { return gjson.Parse(d.text) }

// find is the value at a JSON pointer, see Lookup.
func (d *document) find(pointer string) gjson.Result {
	if pointer == "" || d.members == nil {
		return find(d.root(), pointer)
	}
	token, rest, more := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	token = unescapePointer(token)
	for i := range slices.Backward(d.members) {
		switch m := &d.members[i]; {
		case m.name != token:
		case more:
			return valueBelow(gjson.Parse(m.raw), rest)
		default:
			return gjson.Parse(m.raw)
		}
	}
	return gjson.Result{}
}

// Readable says whether Body is JSON that can be looked into.
func (a *Answer) Readable() bool {
	if !a.parsed {
		a.parsed, a.document = true, readDocument(a.Body)
	}
	return a.document.readable
}

// Lookup is Lookup in Body, which must not change afterwards.
func (a *Answer) Lookup(pointer string) gjson.Result {
	if !a.Readable() {
		return gjson.Result{}
	}
	return a.document.find(pointer)
}

// LookupString is Lookup for a string value; "" for anything else.
func (a *Answer) LookupString(pointer string) string { return stringOf(a.Lookup(pointer)) }

// Readable says whether a body is JSON that Lookup can look into.
func Readable(body []byte) bool {
	body = trimBOM(body)
	return len(body) > 0 && len(body) <= maxLookup && !tooDeep(body) && gjson.ValidBytes(body)
}

// Lookup finds the value at a JSON pointer (RFC 6901). Of members with the same
// name the last counts, as in JavaScript; names are compared exactly. A body that
// is no valid JSON has no values.
func Lookup(body []byte, pointer string) gjson.Result {
	if !Readable(body) {
		return gjson.Result{}
	}
	return find(gjson.ParseBytes(trimBOM(body)), pointer)
}

// LookupString is Lookup for a string value; "" for anything else.
func LookupString(body []byte, pointer string) string { return stringOf(Lookup(body, pointer)) }

func stringOf(v gjson.Result) string {
	if v.Type == gjson.String {
		return v.Str
	}
	return ""
}

// find is Lookup in a document that is Readable.
func find(v gjson.Result, pointer string) gjson.Result {
	if pointer == "" {
		return v
	}
	return valueBelow(v, strings.TrimPrefix(pointer, "/"))
}

// valueBelow is find for a pointer without its first slash, which has one token at least.
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

// tooDeep guards the recursion of the JSON parser.
func tooDeep(b []byte) bool {
	if bytes.Count(b, []byte{'{'})+bytes.Count(b, []byte{'['}) <= maxDepth {
		return false // nearly every document, and quick to see
	}
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted: // brackets in strings are text
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

func trimBOM(b []byte) []byte {
	if len(b) >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF {
		return b[3:]
	}
	return b
}

// membersOf are the members of an object, which is valid JSON and begins with its brace.
func membersOf(object string) []member {
	members := make([]member, 0, usualMembers)
	for i := skipSpace(object, 1); object[i] != '}'; i = skipSpace(object, i) {
		if object[i] == ',' {
			i = skipSpace(object, i+1)
		}
		end := stringEnd(object, i)
		name := object[i+1 : end-1]
		if strings.IndexByte(name, '\\') >= 0 {
			name = gjson.Parse(object[i:end]).Str
		}
		i = skipSpace(object, skipSpace(object, end)+1) // the colon
		end = valueEnd(object, i)
		members = append(members, member{name, object[i:end]})
		i = end
	}
	return members
}

func skipSpace(s string, i int) int {
	for s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r' {
		i++
	}
	return i
}

// stringEnd is behind the string that begins at i.
func stringEnd(s string, i int) int {
	for i++; ; i++ {
		i += strings.IndexByte(s[i:], '"')
		escapes := 0
		for s[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
}

// valueEnd is behind the value that begins at i, within an object.
func valueEnd(s string, i int) int {
	switch s[i] {
	case '"':
		return stringEnd(s, i)
	case '{', '[':
		depth := 0
		for ; ; i++ {
			switch s[i] {
			case '"':
				i = stringEnd(s, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	return i + strings.IndexAny(s[i:], ",} \t\n\r")
}
