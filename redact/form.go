package redact

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"
)

// maxFormFields bounds the fields of a form, as threats.md B6 does.
const maxFormFields = 1000

// Body redacts a body by its declared media type: application/json and
// +json, application/x-www-form-urlencoded, multipart/form-data. Anything
// else, also a missing type, is an *Unparsed with the reason "content type":
// an auth server ignores such a body, so a log must not read facts from it
// (threats.md X7). Charsets other than UTF-8 are not decoded.
func (r *Redactor) Body(contentType string, body []byte) ([]byte, error) {
	media, params, err := mime.ParseMediaType(contentType)
	var out []byte
	switch {
	case errors.Is(err, mime.ErrInvalidMediaParameter), err == nil:
		out, err = r.dispatch(media, params, body)
	default:
		err = &Unparsed{Reason: "content type", Size: len(body)}
	}
	if u, ok := errors.AsType[*Unparsed](err); ok {
		u.MediaType = shownMedia(media)
	}
	return out, err
}

func (r *Redactor) dispatch(media string, params map[string]string, body []byte) ([]byte, error) {
	charset := strings.ToLower(params["charset"])
	known := charset == "" || charset == "utf-8" || charset == "utf8" || charset == "us-ascii"
	switch {
	case known && (media == "application/json" || strings.HasSuffix(media, "+json")):
		return r.JSON(body)
	case known && media == "application/x-www-form-urlencoded":
		return r.Form(body)
	case media == "multipart/form-data":
		return r.Multipart(body, params["boundary"])
	}
	return nil, &Unparsed{Reason: "content type", Size: len(body)}
}

// shownMedia is a media type that may be stored: it is the client's text.
func shownMedia(media string) string {
	keep := func(v rune) rune {
		if v < 0x80 && (isWordByte(byte(v)) || strings.ContainsRune("/+.-", v)) {
			return v
		}
		return -1
	}
	media = strings.Map(keep, media)
	return media[:min(len(media), 64)]
}

// field is one name of a form with all its values, in the order sent.
type field struct {
	name   string
	values []string
	files  []int // sizes of file parts
}

// fields groups values by name; the order is that of the first of each.
type fields struct {
	list  []field
	index map[string]int
}

func (f *fields) at(name string) *field {
	i, ok := f.index[name]
	if !ok {
		if f.index == nil {
			f.index = make(map[string]int)
		}
		i = len(f.list)
		f.index[name] = i
		f.list = append(f.list, field{name: name})
	}
	return &f.list[i]
}

// Form redacts a urlencoded body to a JSON object: {"k":"v"}, or
// {"k":["v1","v2"]} for a repeated key. Limits are those of JSON, and 1,000
// fields. A body that starts like JSON, has no "=" at all or a control character
// is not a form (curl -d sends JSON under this type, some clients multipart); the error is
// an *Unparsed.
func (r *Redactor) Form(body []byte) ([]byte, error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	if len(text) == 0 {
		return nil, &Unparsed{Reason: "empty", Size: len(body)}
	}
	if !likeForm(text) {
		return nil, &Unparsed{Reason: "invalid form", Size: len(body)}
	}
	var all fields
	continued, n := false, 0
	for part := range strings.SplitSeq(string(text), "&") {
		key, value, ok := strings.Cut(part, "=")
		if part == "" || (!ok && continued) {
			continue // the rest of a secret whose "&" was not escaped
		}
		if n++; n > maxFormFields {
			return nil, &Unparsed{Reason: "invalid form", Size: len(body)}
		}
		f := all.at(unescape(key, true))
		f.values = append(f.values, unescape(value, true))
		continued = r.Sensitive(f.name)
	}
	return r.object(all.list, len(text)), nil
}

// likeForm says whether a text can be a urlencoded form: JSON that was escaped as one name is
// none, nor is what a browser would have escaped.
func likeForm(text []byte) bool {
	name, _, ok := strings.Cut(string(text), "=")
	name = strings.TrimLeft(unescape(name, true), " \t\r\n'`")
	return ok && (name == "" || strings.IndexByte("{[\"", name[0]) < 0) && !bytes.HasPrefix(text, []byte("--")) &&
		bytes.IndexFunc(text, func(v rune) bool { return v < ' ' || v == 0x7f }) < 0
}

// Multipart redacts a multipart/form-data body to a JSON object like Form
// does. A part with a file name becomes {"file":true,"bytes":n}; neither its
// content nor its name is kept. A body that is cut off or broken anywhere is
// an *Unparsed.
func (r *Redactor) Multipart(body []byte, boundary string) ([]byte, error) {
	bad := &Unparsed{Reason: "invalid multipart", Size: len(body)}
	if len(body) == 0 {
		bad.Reason = "empty"
		return nil, bad
	}
	if boundary == "" || len(boundary) > 70 {
		return nil, bad
	}
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	var all fields
	for n := 0; ; n++ {
		part, err := reader.NextPart()
		if err == io.EOF {
			return r.object(all.list, len(body)), nil
		}
		if err != nil || n >= maxFormFields || readPart(&all, part) != nil {
			return nil, bad
		}
	}
}

// readPart adds one part. What has a file name, or no readable disposition,
// counts as a file.
func readPart(all *fields, part *multipart.Part) error {
	content, err := io.ReadAll(part)
	if err != nil {
		return err
	}
	_, params, unreadable := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	f := all.at(params["name"])
	_, isFile := params["filename"]
	asFile := isFile || unreadable != nil || binaryPart(part.Header.Get("Content-Type"))
	if asFile {
		f.files = append(f.files, len(content))
		return nil
	}
	f.values = append(f.values, string(content))
	return nil
}

func binaryPart(contentType string) bool {
	media, _, _ := mime.ParseMediaType(contentType)
	return contentType != "" && !strings.HasPrefix(media, "text/") &&
		media != "application/json" && !strings.HasSuffix(media, "+json")
}

// object writes the fields as one redacted JSON object.
func (r *Redactor) object(list []field, size int) []byte {
	w := r.newWalk(size)
	w.open(true)
	for i := range list {
		start := w.separate()
		w.field(start, &list[i])
		if !w.settle(start, true) {
			break
		}
	}
	w.shut(true)
	return w.out
}

func (w *walk) field(start int, f *field) {
	key := []byte(validText(f.name))
	found := w.name(key, false)
	if found == doubtful {
		found = found.resolve(f.literal())
	}
	switch {
	case found != harmless:
		w.secret(start, found, key, f.literal())
	case len(f.values)+len(f.files) != 1:
		w.list(f, key)
	case len(f.files) == 1:
		w.out = appendFile(w.out, f.files[0])
	default:
		w.text(start, key, f.values[0])
	}
}

// list writes the values of a repeated key, then its files.
func (w *walk) list(f *field, key []byte) {
	if w.depth >= w.r.maxDepth {
		w.out = appendQuoted(w.out, TooDeepMarker)
		return
	}
	if !w.open(false) {
		return
	}
	defer w.shut(false)
	for _, v := range f.values {
		start := w.separate()
		w.text(start, key, v)
		if !w.settle(start, false) {
			return
		}
	}
	for _, n := range f.files {
		start := w.separate()
		w.out = appendFile(w.out, n)
		if !w.settle(start, false) {
			return
		}
	}
}

// literal is the field as JSON, for HashTag.
func (f *field) literal() []byte {
	if len(f.values) == 1 && len(f.files) == 0 {
		return appendQuoted(nil, f.values[0])
	}
	out := []byte{'['}
	for i, v := range f.values {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendQuoted(out, v)
	}
	return append(out, ']')
}

func appendFile(out []byte, n int) []byte {
	out = append(out, `{"file":true,"bytes":`...)
	return append(strconv.AppendInt(out, int64(n), 10), '}')
}
