package redact

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

// JSON redacts a JSON document of any type. The answer is compact, valid
// JSON of at most MaxBytes: valid UTF-8 without NUL and lone surrogates,
// members in their order, duplicates kept, number literals byte for byte,
// names cut to 256 bytes. A byte order mark is accepted. Objects and arrays
// below MaxDepth become TooDeepMarker; what does not fit is replaced by one
// TruncatedMarker. The error is always an *Unparsed.
//
// Cost: one check and one pass, both linear, one allocation for a body
// without odd strings.
func (r *Redactor) JSON(body []byte) ([]byte, error) {
	in := bytes.TrimPrefix(body, []byte("\ufeff"))
	if jsonscan.SkipSpace(in, 0) == len(in) {
		return nil, &Unparsed{Reason: "empty", Size: len(body)}
	}
	if !jsonscan.Valid(in, 0) {
		return nil, &Unparsed{Reason: "invalid JSON", Size: len(body)}
	}
	return r.walkJSON(in, false), nil
}

// walkJSON redacts in, which is valid. nested says that it came out of a
// string, where no further JSON is looked for.
func (r *Redactor) walkJSON(in []byte, nested bool) []byte {
	w := r.newWalk(len(in))
	w.in, w.nested = in, nested
	w.pos = jsonscan.SkipSpace(in, 0)
	w.value(0, nil)
	return w.finished()
}

// walk is one pass over one body. It only ever appends to out, and cuts back
// to where a member began when that member turns out not to belong there.
type walk struct {
	r   *Redactor
	in  []byte
	pos int
	out []byte
	// depth counts the containers open in out; their closing bytes and one
	// marker are held back from MaxBytes, see settle.
	depth  int
	nested bool
	full   bool // the value being written does not fit
	marked bool // TruncatedMarker is written: only closing bytes may follow
}

func (r *Redactor) newWalk(size int) *walk {
	return &walk{r: r, out: make([]byte, 0, min(size+size/4, r.maxBytes)+64)}
}

// finished is the output; a scalar that was removed or does not fit still
// needs a document.
func (w *walk) finished() []byte {
	switch {
	case w.depth == 0 && len(w.out) == 0:
		return appendQuoted(w.out, Placeholder)
	case len(w.out) > w.r.maxBytes:
		return appendQuoted(w.out[:0], TruncatedMarker)
	}
	return w.out
}

// room is how long out may be so that the marker (a comma, quotes and
// ":true" included) and all closing bytes still fit.
func (w *walk) room() int {
	return w.r.maxBytes - w.depth - (len(TruncatedMarker) + len(`,"":true`))
}

// value writes the value at pos. start is where out is cut to when the value
// must vanish; key is the name it stands under (an array passes its own on).
func (w *walk) value(start int, key []byte) {
	switch w.in[w.pos] {
	case '{', '[':
		w.container(key)
	case '"':
		w.stringAt(start, key)
	default:
		end, _ := jsonscan.LiteralEnd(w.in, w.pos)
		w.out = append(w.out, w.in[w.pos:end]...)
		w.pos = end
	}
}

// container writes an object or an array. The recursion ends at MaxDepth.
func (w *walk) container(key []byte) {
	if w.depth >= w.r.maxDepth {
		w.out = appendQuoted(w.out, TooDeepMarker)
		w.pos = jsonscan.ValueEnd(w.in, w.pos)
		return
	}
	object := w.in[w.pos] == '{'
	named := nameValue{begin: w.pos}
	if !w.open(object) {
		return
	}
	for w.pos++; ; {
		w.pos = jsonscan.SkipSpace(w.in, w.pos)
		switch w.in[w.pos] {
		case ',':
			w.pos++
			continue
		case jsonscan.Closer(object):
			w.pos++
			w.shut(object)
			return
		}
		start := w.separate()
		if object {
			w.member(start, &named)
		} else {
			w.value(start, key)
		}
		if !w.settle(start, object) {
			w.shut(object)
			return
		}
	}
}

// open begins a container if it fits at all.
func (w *walk) open(object bool) bool {
	if len(w.out)+2 > w.room() {
		w.full = true
		return false
	}
	w.depth++
	w.out = append(w.out, jsonscan.Closer(object)-2) // '{' and '[' lie two below their partners
	return true
}

func (w *walk) shut(object bool) {
	w.depth--
	w.out = append(w.out, jsonscan.Closer(object))
}

// separate writes a comma unless the container was just opened. No value
// ends in an opening bracket, so the last byte tells.
func (w *walk) separate() (start int) {
	start = len(w.out)
	if last := w.out[start-1]; last != '{' && last != '[' {
		w.out = append(w.out, ',')
	}
	return start
}

// settle keeps what was written since start if it leaves room to end the
// document properly. If not, the marker takes its place, and false tells the
// container to close. Every value in out has passed here, so out never
// exceeds MaxBytes.
func (w *walk) settle(start int, object bool) bool {
	if w.marked {
		return false
	}
	if !w.full && len(w.out) <= w.room() {
		return true
	}
	w.out = w.out[:start]
	w.separate()
	w.out = appendQuoted(w.out, TruncatedMarker)
	if object {
		w.out = append(w.out, ":true"...)
	}
	w.marked = true
	return false
}

// naming are the members that name a thing, and holding those that give its value.
var (
	naming = []string{"type", "name", "key", "k", "id", "label", "kind", "field", "fieldName", "path", "property", "attribute"}
	// faint ones name many other things, too: they count beside those of holding that say most.
	faint   = []string{"factor", "method"}
	sure    = []string{"value", "newValue", "new_value", "input"}
	holding = []string{"value", "values", "val", "v", "newValue", "new_value", "oldValue", "old_value", "content", "data", "text", "input"}
)

// HoldsName says whether the member of that name may name the thing that its object gives the
// value of, and HoldsValue whether one gives that value: {"type":"password","value":"..."}.
func HoldsName(member string) bool { return isOneOf([]byte(member), naming...) }

// HoldsValue see HoldsName.
func HoldsValue(member string) bool { return isOneOf([]byte(member), holding...) }

// nameValue is what an object is when it names a thing in one member and gives its value in
// another: {"type":"password","value":"..."}, as Keycloak, SCIM, JSON Patch and SuperTokens do.
type nameValue struct {
	begin int // where the object begins
	known bool
	class class // of the name, once known
	faint class // of a faint one
}

// of looks for the name, once for an object.
func (p *nameValue) of(w *walk) class {
	if p.known {
		return p.class
	}
	p.known = true
	object := w.in[p.begin:]
	for m, ok := jsonscan.NextMember(object, 1); ok; m, ok = jsonscan.NextMember(object, m.End) {
		if object[m.Value] != '"' {
			continue
		}
		switch key := unquoted(object, m.Name-1); {
		case isOneOf(key, naming...):
			p.class = max(p.class, w.r.classify(cutBytes(unquoted(object, m.Value), maxKeyBytes)))
		case isOneOf(key, faint...):
			p.faint = max(p.faint, w.r.classify(cutBytes(unquoted(object, m.Value), maxKeyBytes)))
		}
	}
	return p.class
}

// unquoted is the text of the string at i.
func unquoted(in []byte, i int) []byte {
	end, plain := jsonscan.StringEnd(in, i)
	text := in[i+1 : end-1]
	if plain {
		return text
	}
	return jsonscan.AppendUnquoted(nil, text)
}

func isOneOf(key []byte, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return len(name) == len(key) && strings.EqualFold(name, string(key)) })
}

// member writes one member of an object.
func (w *walk) member(start int, named *nameValue) {
	end, plain := jsonscan.StringEnd(w.in, w.pos)
	key := w.in[w.pos+1 : end-1]
	if !plain {
		key = jsonscan.AppendUnquoted(nil, key)
	}
	w.pos = jsonscan.SkipSpace(w.in, end)
	w.pos = jsonscan.SkipSpace(w.in, w.pos+1)
	found := w.name(key, plain)
	if found == harmless && isOneOf(key, holding...) {
		if found = named.of(w); isOneOf(key, sure...) {
			found = max(found, named.faint)
		}
	}
	if found == harmless {
		w.value(start, key)
		return
	}
	from := w.pos
	end = jsonscan.ValueEnd(w.in, from)
	if found = found.resolve(w.in[from:end]); found == harmless {
		w.value(start, key)
		return
	}
	w.pos = end
	w.secret(start, found, key, w.in[from:w.pos])
}

// name writes `"key":` and says what the key means. A cut key is judged both
// ways, so that judging the output again comes to the same.
func (w *walk) name(key []byte, plain bool) class {
	found := w.r.classify(key)
	if len(key) > maxKeyBytes {
		key = cutBytes(key, maxKeyBytes)
		found = max(found, w.r.classify(key))
	}
	switch {
	case w.r.hidesMore(key):
		w.out = appendQuoted(w.out, Placeholder)
	case plain:
		w.out = append(w.out, '"')
		w.out = append(w.out, key...)
		w.out = append(w.out, '"')
	default:
		w.out = appendQuoted(w.out, string(key))
	}
	w.out = append(w.out, ':')
	return found
}

// hidesMore says whether a name has a secret in it: whole bodies come as names, when a client
// escapes twice or not at all.
func (r *Redactor) hidesMore(key []byte) bool {
	if len(key) >= 16 && secretText(string(key)) || holdsMember(key) && !r.showsWhole(key) {
		return true
	}
	if !bytes.ContainsAny(key, "=:'/ \t%;,&") {
		return false
	}
	clean, whole := r.clean(string(key), shortestInBody)
	return whole || clean != string(key)
}

// showsWhole says whether the text ends in an object of which nothing has to be hidden.
func (r *Redactor) showsWhole(text []byte) bool {
	i := bytes.IndexByte(text, '{')
	return i >= 0 && !holdsMember(text[:i]) && jsonscan.Valid(text[i:], 0) && bytes.Equal(r.walkJSON(text[i:], true), text[i:])
}

// holdsMember says whether a text has a quote with a colon behind it, as members of JSON have.
func holdsMember(text []byte) bool {
	for rest := text; ; {
		i := bytes.IndexAny(rest, "\"'`")
		if i < 0 {
			return false
		}
		rest = bytes.TrimLeft(rest[i+1:], " \t\r\n")
		if len(rest) > 0 && rest[0] == ':' {
			return true
		}
	}
}

// secret writes what stands for a secret. raw is its JSON literal.
func (w *walk) secret(start int, found class, key, raw []byte) {
	switch {
	case w.r.strategy == Remove:
		w.out = w.out[:start]
	case w.r.strategy == Hash && found != oneTime && (w.r.given[string(appendNormal(nil, key))] || hashable(raw)):
		w.out = appendQuoted(w.out, w.r.HashTag(string(key), plainText(raw)))
	default:
		w.out = appendQuoted(w.out, Placeholder)
	}
}

// hashable says whether the hash of a value is worth having: what is short and of digits alone
// is a code, whatever its name, and whoever has the key could try them all; in an object or a
// list there may be one.
func hashable(raw []byte) bool {
	if raw[0] != '"' {
		return false
	}
	inside := raw[1 : len(raw)-1]
	return len(inside) > maxCode || bytes.IndexFunc(inside, func(v rune) bool { return v < '0' || v > '9' }) >= 0
}

// maxCode is how many digits a one-time code has at most.
const maxCode = 12

// plainText is what HashTag is taken over: the characters of a string, so
// that a form and a JSON body agree, and the compact literal of all else.
func plainText(raw []byte) string {
	if raw[0] == '"' {
		return string(jsonscan.AppendUnquoted(nil, raw[1:len(raw)-1]))
	}
	return string(appendCompact(nil, raw))
}

// stringAt writes the string at pos.
func (w *walk) stringAt(start int, key []byte) {
	end, plain := jsonscan.StringEnd(w.in, w.pos)
	raw := w.in[w.pos:end]
	w.pos = end
	if inside := raw[1 : len(raw)-1]; !plain {
		w.text(start, key, string(jsonscan.AppendUnquoted(nil, inside)))
	} else if suspicious(inside, isIDKey(key)) {
		w.text(start, key, string(inside))
	} else {
		w.out = append(w.out, raw...)
	}
}

// text writes a decoded string under a harmless key.
func (w *walk) text(start int, key []byte, s string) {
	if looksJSON(s) && jsonscan.Valid([]byte(s), 0) {
		if w.nested {
			w.out = appendQuoted(w.out, TooDeepMarker)
			return
		}
		w.out = appendQuoted(w.out, string(w.r.walkJSON([]byte(s), true)))
		return
	}
	shortest := shortestInBody
	if isIDKey(key) {
		shortest = never
	}
	clean, whole := w.r.clean(s, shortest)
	if whole || (clean != s && looksJSON(clean) && jsonscan.Valid([]byte(clean), 0)) {
		quoted := appendQuoted(nil, s)
		w.secret(start, secret, key, quoted)
		return
	}
	w.out = appendQuoted(w.out, clean)
}

// looksJSON is a cheap test for an object or array that was sent as a
// string, once or twice encoded.
func looksJSON(s string) bool {
	s = strings.TrimLeft(s, " \t\r\n")
	if len(s) < 2 {
		return false
	}
	return s[0] == '{' || s[0] == '[' || (s[0] == '"' && strings.ContainsAny(s, "{["))
}

// cutBytes cuts valid UTF-8 to at most n bytes between two characters.
func cutBytes(b []byte, n int) []byte {
	if len(b) <= n {
		return b
	}
	for n > 0 && !utf8.RuneStart(b[n]) {
		n--
	}
	return b[:n]
}
