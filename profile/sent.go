package profile

import (
	"bytes"
	"io"
	"iter"
	"mime"
	"mime/multipart"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

// Servers do not read a request alike: of names that are given twice some take the
// first value and some the last, Go's encoding/json takes names in any case, protobuf
// in snake_case too, and a body of more than we keep, or of a media type that only
// the server accepts, is nothing to us. So a value that something is decided by is
// read in every way at once: see Source.Sure and condition.holds. What is only shown,
// as what was typed to sign in, is the last value under the exact name, as JavaScript
// and most others read it.

const (
	// maxParts bounds the parts of a multipart body that are looked at.
	maxParts = 64
	// maxReadings bounds how many different values of one place are told apart.
	maxReadings = 8
)

// sentBody is a request's body as far as it can be read.
type sentBody struct {
	json   document    // of JSON
	fields []sentField // of a form, in order
	isForm bool        // a form of a type that is read here
	// whole is false when a server may have read something that cannot be seen here.
	whole bool
}

type sentField struct{ name, value string }

// sentBody reads the request's body, once.
func (x *Exchange) sentBody() *sentBody {
	if x.sent == nil {
		x.sent = readSent(x.SentType, x.Sent)
		if x.Route != nil {
			x.sent.unfold(x.Route.formJSON)
		}
		x.sent.whole = x.sent.whole && !x.SentUnseen
	}
	return x.sent
}

// unfold reads the field of a form that has further ones in it, as JSON.
func (b *sentBody) unfold(name string) {
	if name == "" || !b.isForm {
		return
	}
	for _, f := range b.fields {
		if f.name == name {
			b.whole = b.whole && !b.json.readable() // a second one: who knows which counts
			b.json.read([]byte(f.value))
			b.whole = b.whole && b.json.readable()
		}
	}
}

// readSent reads a body by its declared type. Types that are not read here give an
// empty one that is not whole: most servers do not read them either, but some read
// whatever comes (threats.md X7).
func readSent(contentType string, body []byte) *sentBody {
	if len(body) == 0 {
		return &sentBody{whole: true}
	}
	media, params, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		b := &sentBody{}
		b.json.read(body)
		b.whole = b.json.readable() && !otherCharset(params)
		return b
	case media == "application/x-www-form-urlencoded":
		return &sentBody{fields: formFields(string(body)), isForm: true, whole: !otherCharset(params) && !likeJSON(body)}
	case media == "multipart/form-data":
		fields, whole := multipartFields(contentType, body)
		return &sentBody{fields: fields, isForm: true, whole: whole}
	}
	return &sentBody{}
}

// otherCharset says whether parameters of a media type name a charset that is not
// UTF-8 or a part of it: some servers decode it.
func otherCharset(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, v, _ := strings.Cut(param, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "charset") {
			continue
		}
		switch strings.ToLower(strings.Trim(v, " \t\"'")) {
		case "", "utf-8", "utf8", "us-ascii":
		default:
			return true
		}
	}
	return false
}

// likeJSON says whether a body begins as a document does, whatever it is declared to
// be: servers in Go often decode JSON without a look at the type.
func likeJSON(body []byte) bool {
	body = textOf(body)
	return len(body) > 0 && (body[0] == '{' || body[0] == '[')
}

// CarriesCredential says whether the request has one in its query or a form that the server may
// go by; see Credentials.Query.
func (p *Profile) CarriesCredential(x *Exchange) bool {
	return slices.ContainsFunc(p.Credentials.Query, func(names string) bool {
		for name := range strings.FieldsSeq(names) {
			if !x.fills(name) {
				return false
			}
		}
		return true
	})
}

// fills says whether the request has a parameter of exactly that name that is not empty.
func (x *Exchange) fills(name string) bool {
	return x.anyField(func(f sentField) bool { return f.name == name && f.value != "" })
}

// Carries says whether the request has a parameter of that name, in its query or its
// body, as far as it can be read.
func (x *Exchange) Carries(name string) bool {
	return x.anyField(func(f sentField) bool { return sameName(f.name, name) })
}

// anyField looks through the fields of the query and of a form.
func (x *Exchange) anyField(is func(sentField) bool) bool {
	if x.Answer != nil {
		for f := range eachField(x.Query) {
			if is(f) {
				return true
			}
		}
	}
	return slices.ContainsFunc(x.sentBody().fields, is)
}

// SentReadable says whether the request's body is a document or a form that can be looked
// into.
func (x *Exchange) SentReadable() bool {
	body := x.sentBody()
	return body.isForm || body.json.readable()
}

// Unread forgets the request's body: the server has not read it.
func (x *Exchange) Unread() { x.Sent, x.sent = nil, nil }

// value is the last value at a pointer, or of the form's field of that name.
func (b *sentBody) value(pointer string) string {
	if !b.isForm || b.json.readable() {
		if v := text(b.json.find(pointer)); v != "" || !b.isForm {
			return v
		}
	}
	name := strings.TrimPrefix(pointer, "/")
	for _, f := range slices.Backward(b.fields) {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// readings collects what servers may read there.
type readings struct {
	values []string
	// whole is false when there may be others.
	whole bool
}

func (r *readings) add(value string) {
	switch {
	case slices.Contains(r.values, value):
	case len(r.values) < maxReadings:
		r.values = append(r.values, value)
	default:
		r.whole = false
	}
}

// only is the value that all servers read there; "" if they do not agree, or if there
// is none.
func (r *readings) only() string {
	if r.whole && len(r.values) == 1 {
		return r.values[0]
	}
	return ""
}

// sure is the only value that servers may read there; "" if there is none.
func (p *place) sure(x *Exchange) string {
	switch p.kind {
	case inRequest, inQuery, inSentHeader, inBearer, inSentCookie:
		r := p.readings(x)
		return r.only()
	}
	v := p.raw(x) // the server has said it, or there is one way to read it
	if p.param != "" || p.claim != "" {
		v = p.within(v)
	}
	return v
}

// readings are those of one place of the request.
func (p *place) readings(x *Exchange) readings {
	r := readings{whole: true}
	switch p.kind {
	case inRequest:
		x.sentBody().readings(p.name, &r)
		if x.Answer != nil && x.sentBody().isForm { // many servers put query and form together
			addFields(eachField(x.Query), strings.TrimPrefix(p.name, "/"), &r)
		}
	case inQuery:
		if x.Answer != nil {
			addFields(eachField(x.Query), p.name, &r)
		}
	case inSentHeader:
		for _, v := range x.SentHeader.Values(p.name) {
			r.add(v)
		}
	case inBearer:
		for _, v := range x.SentHeader.Values("Authorization") {
			r.add(Bearer(v))
		}
	case inSentCookie:
		addCookies(x.SentHeader, p.name, &r)
	default:
		r.add(p.raw(x))
	}
	if p.param == "" && p.claim == "" {
		return r
	}
	within := readings{whole: r.whole}
	for _, v := range r.values {
		within.add(p.within(v))
	}
	return within
}

// readings adds what stands at a pointer, whatever the case of its names, and "" where
// the exact name is missing while a similar one is there.
func (b *sentBody) readings(pointer string, r *readings) {
	r.whole = r.whole && b.whole
	if b.isForm {
		addFields(slices.Values(b.fields), strings.TrimPrefix(pointer, "/"), r)
		if !b.json.readable() {
			return
		}
	}
	addFrom(&b.json, strings.TrimPrefix(pointer, "/"), r)
}

func addFields(fields iter.Seq[sentField], name string, r *readings) {
	exact, similar := false, false
	for f := range fields {
		switch {
		case f.name == name:
			exact = true
			r.add(f.value)
		case sameName(f.name, name):
			similar = true
			r.add(f.value)
		}
	}
	if similar && !exact {
		r.add("")
	}
}

// addFrom walks to the end of a pointer along every path that some server takes.
func addFrom(d *document, pointer string, r *readings) {
	if d.readable() {
		addBelow(d.text, d.members, pointer, r)
	}
}

// addBelow is addFrom in a value, whose members these are if it is an object.
func addBelow(v []byte, members []jsonscan.Member, pointer string, r *readings) {
	w := newWalk(pointer, r)
	switch v[0] {
	case '[':
		if element := child(v, w.token); element != nil {
			w.goOn(element)
		}
	case '{':
		for _, m := range members {
			if w.takes(nameOf(v, m)) && !w.goOn(v[m.Value:m.End]) {
				break
			}
		}
		w.end()
	}
}

// walk is one step of the way.
type walk struct {
	token, rest    string
	more           bool // there is a rest
	exact, similar bool // names that were met
	r              *readings
}

func newWalk(pointer string, r *readings) walk {
	w := walk{r: r}
	w.token, w.rest, w.more = strings.Cut(pointer, "/")
	w.token = unescapePointer(w.token)
	return w
}

// takes says whether some server takes a member of that name.
func (w *walk) takes(name []byte) bool {
	switch {
	case string(name) == w.token:
		w.exact = true
	case sameName(name, w.token):
		w.similar = true
	default:
		return false
	}
	return true
}

// goOn goes on at a value; false when there is no need to look for more.
func (w *walk) goOn(v []byte) bool {
	if w.more {
		members, _ := jsonscan.AppendMembers(nil, v, 0) // what stands in a document is valid
		addBelow(v, members, w.rest, w.r)
	} else {
		w.r.add(text(parsed(v)))
	}
	return w.r.whole
}

// end ends the step in an object.
func (w *walk) end() {
	if w.similar && !w.exact {
		w.r.add("")
	}
}

// sameName says whether some server takes one name for the other: in another case, or
// with "_" or "-" between its words.
func sameName[T string | []byte](a T, b string) bool {
	if len(a) == 0 || b == "" {
		return false
	}
	for len(a) > 0 && b != "" {
		x, y := a[0], b[0]
		switch {
		case isJoint(x):
			a = a[1:]
		case isJoint(y):
			b = b[1:]
		case x >= utf8.RuneSelf || y >= utf8.RuneSelf: // some letters fold into ASCII
			return strings.EqualFold(joints.Replace(string(a)), joints.Replace(b))
		case x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z'):
			return false
		default:
			a, b = a[1:], b[1:]
		}
	}
	return strings.Trim(string(a), "_-") == "" && strings.Trim(b, "_-") == ""
}

func isJoint(c byte) bool { return c == '_' || c == '-' }

var joints = strings.NewReplacer("_", "", "-", "")

// addCookies adds the values of the cookies whose name fits. Different cookies may fit
// one pattern; they are not two readings of one.
func addCookies(h map[string][]string, pattern string, r *readings) {
	chosen := ""
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			name, v, ok := strings.Cut(pair, "=")
			name = strings.TrimSpace(name)
			if !ok || !fitsPattern(pattern, name) || chosen != "" && name != chosen {
				continue
			}
			chosen = name
			r.add(strings.TrimSpace(v))
		}
	}
}

// formFields are the fields of a form whose length is bounded.
func formFields(s string) []sentField { return slices.Collect(eachField(s)) }

// eachField reads a query or a form as browsers and Node do (URL standard,
// "application/x-www-form-urlencoded parsing"): nothing in it is an error. A query may be
// as long as a header, so its fields are not kept.
func eachField(s string) iter.Seq[sentField] {
	return func(yield func(sentField) bool) {
		for part := range strings.SplitSeq(s, "&") {
			if part == "" {
				continue
			}
			name, value, _ := strings.Cut(part, "=")
			if !yield(sentField{unescapeForm(name), unescapeForm(value)}) {
				return
			}
		}
	}
}

// unescapeForm decodes "+" and percent escapes; a broken escape stands for itself.
func unescapeForm(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			c = ' '
		} else if c == '%' && i+2 < len(s) {
			high, ok := jsonscan.HexDigit(s[i+1])
			if low, also := jsonscan.HexDigit(s[i+2]); ok && also {
				c, i = high<<4|low, i+2
			}
		}
		out = append(out, c)
	}
	return string(out)
}

// multipartFields are the short fields of a multipart form, as far as its beginning was
// seen, and whether that is all of it.
func multipartFields(contentType string, body []byte) (fields []sentField, whole bool) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return nil, false
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	whole = true
	for range maxParts {
		part, err := parts.NextRawPart()
		if err != nil {
			return fields, whole && err == io.EOF //nolint:errorlint // one that is cut off wraps io.EOF
		}
		if part.FileName() != "" {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(part, maxValue+1))
		if err != nil || len(b) > maxValue {
			whole = false
			continue
		}
		fields = append(fields, sentField{part.FormName(), string(b)})
	}
	return fields, false
}
