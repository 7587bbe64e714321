package tap

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// exchange writes an exchange without its secrets.
func (s *Scrubber) exchange(x *replay.Exchange) {
	x.Request.Path = s.target(x.Request.Path)
	x.Request.Headers = s.headers(x.Request.Headers)
	x.Request.Body = s.body(x.Request.Headers, x.Request.Body, false)
	x.Response.Headers = s.headers(x.Response.Headers)
	x.Response.Body = s.body(x.Response.Headers, x.Response.Body, true)
}

// headers are new headers without secrets.
func (s *Scrubber) headers(h map[string][]string) map[string][]string {
	out := make(map[string][]string, len(h))
	for name, values := range h {
		out[name] = make([]string, len(values))
		for i, v := range values {
			out[name][i] = s.header(name, v)
		}
	}
	return out
}

// asTheyAre are headers that hold no secret and would not work changed.
var asTheyAre = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "Content-Type": true, "Content-Length": true, "Date": true,
	"Host": true, "Transfer-Encoding": true, "Content-Encoding": true, "Expires": true, "Last-Modified": true, "Vary": true,
	"Connection": true, "Cache-Control": true, "Allow": true, "Server": true,
}

// clientAddresses are headers with addresses of clients.
var clientAddresses = map[string]bool{
	"X-Forwarded-For": true, "X-Real-Ip": true, "Forwarded": true, "Cf-Connecting-Ip": true, "True-Client-Ip": true, "X-Client-Ip": true,
}

func (s *Scrubber) header(name, v string) string {
	switch name = http.CanonicalHeaderKey(name); {
	case asTheyAre[name]:
		return v
	case name == "Authorization" || name == "Proxy-Authorization":
		return s.authorization(v)
	case s.keep:
		return s.text(v)
	case name == "Cookie":
		pairs := strings.Split(v, ";")
		for i, pair := range pairs {
			pairs[i] = s.cookie(pair)
		}
		return strings.Join(pairs, ";")
	case name == "Set-Cookie":
		pair, attributes, more := strings.Cut(v, ";")
		if more {
			attributes = ";" + attributes
		}
		return s.cookie(pair) + attributes
	case s.again:
		return s.text(v)
	case clientAddresses[name]:
		return "192.0.2.1"
	case name == "Referer" || name == "Origin" || name == "Location":
		return s.text(v)
	case s.names.Header(name, "x") == redact.Placeholder:
		return s.mask(v)
	}
	return s.named(name, v, true)
}

// authorization is the value of an Authorization header.
func (s *Scrubber) authorization(v string) string {
	scheme, rest, ok := strings.Cut(v, " ")
	switch {
	case s.again:
		return s.text(v)
	case ok && strings.EqualFold(scheme, "Basic"):
		return scheme + " " + s.basic(strings.TrimSpace(rest))
	case s.keep:
		return v
	case !ok:
		return s.mask(v)
	}
	return scheme + " " + s.mask(strings.TrimSpace(rest))
}

// cookie is name=value, with the space before it.
func (s *Scrubber) cookie(pair string) string {
	name, v, ok := strings.Cut(pair, "=")
	if !ok {
		return s.text(pair)
	}
	bare := strings.Trim(strings.TrimSpace(v), `"`)
	plain, err := url.QueryUnescape(strings.ReplaceAll(bare, "+", "%2B"))
	if err != nil {
		plain = bare
	}
	switch strings.ToLower(plain) {
	case "", "deleted", "delete", "true", "false", "null", "none", "expired":
		return pair
	}
	if len(plain) <= 2 {
		return pair
	}
	out := s.mask(plain)
	if plain != bare {
		out = url.QueryEscape(out)
	}
	return name + "=" + strings.Replace(v, bare, out, 1)
}

// body is a body without secrets: JSON, also where it is not declared as such, forms, and texts.
func (s *Scrubber) body(h map[string][]string, body string, answer bool) string {
	if body == "" {
		return ""
	}
	contentType := http.Header(h).Get("Content-Type")
	media, params, _ := mime.ParseMediaType(contentType)
	if media == "multipart/form-data" {
		out, err := s.multipart(body, params["boundary"])
		if err != nil {
			return leftOut(int64(len(body)), "they are no whole form")
		}
		return out
	}
	first := strings.TrimLeft(strings.TrimPrefix(body, "\ufeff"), " \t\r\n")
	object := strings.HasPrefix(first, "{")
	if object || strings.HasPrefix(first, "[") || exchange.IsJSON(media) {
		if out, ok := s.json(body, answer); ok {
			return out
		}
	}
	if media == "application/x-www-form-urlencoded" && !object {
		return s.query(body)
	}
	return s.text(body)
}

// multipart is a form of several parts; files are left out.
func (s *Scrubber) multipart(body, boundary string) (string, error) {
	b := new(bytes.Buffer)
	w := multipart.NewWriter(b)
	if err := w.SetBoundary(boundary); err != nil {
		return "", err
	}
	for r := multipart.NewReader(strings.NewReader(body), boundary); ; {
		part, err := r.NextPart()
		if err == io.EOF { //nolint:errorlint // one that is cut off wraps io.EOF
			err = w.Close()
			return b.String(), err
		}
		if err != nil {
			return "", err
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return "", err
		}
		text := s.named(part.FormName(), string(content), false)
		if part.FileName() != "" {
			text = leftOut(int64(len(content)), "a file")
			part.Header.Set("Content-Disposition", fmt.Sprintf("form-data; name=%q; filename=%q", part.FormName(), "file"))
		}
		to, err := w.CreatePart(part.Header)
		if err != nil {
			return "", err
		}
		if _, err := io.WriteString(to, text); err != nil {
			return "", err
		}
	}
}

// body is what was seen of a body, up to a limit. It is safe for concurrent use: a
// server may answer before all of a request was read.
type body struct {
	limit int64

	// mu protects the fields below.
	mu   sync.Mutex
	seen []byte
	size int64
	// ended says that its end was seen; without it the body broke off.
	ended bool
}

// Write implements io.Writer. It never fails.
func (b *body) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size += int64(len(p))
	if room := b.limit - int64(len(b.seen)); room > 0 {
		b.seen = append(b.seen, p[:min(int64(len(p)), room)]...)
	}
	return len(p), nil
}

// end says that a body is whole.
func (b *body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// brokeOff says whether a body is not all of what was announced. Whoever has read as much as
// that need not have seen the end. The caller holds mu.
func (b *body) brokeOff(h http.Header) bool {
	return !b.ended && h.Get("Content-Length") != strconv.FormatInt(b.size, 10)
}

// readable are the media types that say what an auth server does; images, scripts and
// the like do not.
func readable(media string) bool {
	switch media {
	case "", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "application/jwt", "application/samlassertion+xml", "application/problem+json":
		return true
	case "text/css", "text/javascript":
		return false
	}
	return exchange.IsJSON(media) || strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+xml")
}

// text is a body as text, or what stands for one that is not kept.
func (b *body) text(h http.Header) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.brokeOff(h) {
		return leftOut(b.size, "it broke off")
	}
	if b.size == 0 {
		return ""
	}
	media := exchange.MediaType(h.Get("Content-Type"))
	raw := b.seen
	switch {
	case !readable(media):
		return leftOut(b.size, media)
	case b.size > b.limit:
		return leftOut(b.size, "longer than --max-body")
	}
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		plain, ok := decode(encoding, raw, b.limit)
		if !ok {
			return leftOut(b.size, "they cannot be read as "+strconv.Quote(encoding)+", or are longer than --max-body")
		}
		raw = plain
	}
	if !utf8.Valid(raw) {
		return leftOut(b.size, "they are no text")
	}
	return string(raw)
}

// fit makes the headers of a message fit the body that was written for it, and returns
// the bytes on the wire where they differ from it.
func fit(h http.Header, text string) (wire []byte) {
	encoding := h.Get("Content-Encoding")
	size := len(text)
	if encoding != "" && text != "" {
		var ok bool
		if wire, ok = encode(encoding, []byte(text)); !ok {
			h.Del("Content-Encoding")
		} else {
			size = len(wire)
		}
	}
	if h.Get("Content-Length") != "" && text != "" {
		h.Set("Content-Length", strconv.Itoa(size))
	}
	return wire
}

// copyOf copies headers.
func copyOf(h http.Header) http.Header {
	out := maps.Clone(h)
	for name, values := range out {
		out[name] = append([]string(nil), values...)
	}
	return out
}
