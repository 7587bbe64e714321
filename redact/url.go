package redact

import (
	"strings"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

// Query masks a raw query: the value of every sensitive key, and values that
// look like a secret. A URL inside a value (callbackURL=...%3Ftoken%3D...) is
// masked inside; only then is that value written anew. All other bytes and
// the order stay, "&" and "=" included. A bare word after a sensitive value is
// taken for the rest of it (an "&" that the client did not escape).
func (r *Redactor) Query(rawQuery string) string {
	s, whole := untilStable(validText(rawQuery), func(s string) (string, bool) {
		return r.cleanQuery(s, 0), false
	})
	if whole {
		return Placeholder
	}
	return s
}

// URL masks a URL or a path: userinfo, secret-shaped path segments (see
// Segment), and the query and the fragment as Query does (OAuth's implicit
// flow answers in #access_token=). otpauth:// is masked whole.
func (r *Redactor) URL(raw string) string {
	s, whole := untilStable(validText(raw), func(s string) (string, bool) {
		return r.cleanURL(s, 0), false
	})
	if whole {
		return Placeholder
	}
	return s
}

func (r *Redactor) cleanURL(raw string, level int) string {
	if level > maxNesting || secretText(raw) {
		return Placeholder
	}
	rest, fragment, hasFragment := strings.Cut(raw, "#")
	scheme, after, absolute := strings.Cut(raw, "://")
	var out []byte
	if absolute && !strings.ContainsAny(scheme, "/?#") {
		info := userinfoEnd(scheme, after)
		out = append(append(out, scheme...), "://"...)
		if info > 0 {
			out = append(append(out, Placeholder...), '@')
			after = after[info:]
		}
		rest, fragment, hasFragment = strings.Cut(after, "#")
		host := strings.IndexAny(rest, "/?")
		if host < 0 {
			host = len(rest)
		}
		out = append(out, rest[:host]...)
		rest = rest[host:]
	}
	if after, ok := strings.CutPrefix(raw, "//"); ok && !absolute && !strings.HasPrefix(after, ":redacted") { // the scheme of the page
		if info := userinfoEnd("https", after); info > 0 {
			out = append(append(append(out, "//"...), Placeholder...), '@')
			rest, fragment, hasFragment = strings.Cut(after[info:], "#")
		}
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	out = append(out, r.cleanPath(path, level)...)
	if hasQuery {
		out = append(append(out, '?'), r.cleanQuery(query, level)...)
	}
	if hasFragment {
		out = append(append(out, '#'), r.cleanFragment(fragment, level)...)
	}
	return string(out)
}

// userinfoEnd is the length of "user:pass@", 0 without. A password with an
// unescaped "/", "?" or "#" hides the "@" from a strict parser, so what looks
// like host:non-port, and any scheme that is not for the web, is searched
// further.
func userinfoEnd(scheme, s string) int {
	authority := s
	if n := strings.IndexAny(s, "/?#"); n >= 0 {
		authority = s[:n]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 && web(scheme) {
		return at + 1
	}
	_, port, hasPort := strings.Cut(authority, ":")
	if web(scheme) && (!hasPort || strings.HasPrefix(authority, "[") || strings.Trim(port, "0123456789") == "") {
		return 0
	}
	return strings.LastIndexByte(s, '@') + 1
}

// web names the schemes whose paths may well hold an "@".
func web(scheme string) bool {
	for _, s := range [...]string{"http", "https", "ws", "wss"} {
		if strings.EqualFold(scheme, s) {
			return true
		}
	}
	return false
}

// cleanPath masks segments and what matrix parameters (";jsessionid=") carry.
func (r *Redactor) cleanPath(path string, level int) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if strings.ContainsAny(s, "=;") {
			segments[i] = r.cleanQuery(s, level)
		} else if c := Segment(s); c != s {
			segments[i] = c
		} else if strings.Contains(s, "%") {
			segments[i] = r.cleanValue(s, shortestInPath, level)
		}
	}
	return strings.Join(segments, "/")
}

// cleanFragment treats "#a=b" like a query, "#/route?x=y" like a URL.
func (r *Redactor) cleanFragment(fragment string, level int) string {
	if strings.ContainsAny(fragment, "/?#") {
		return r.cleanURL(fragment, level+1)
	}
	if !strings.Contains(fragment, "=") {
		return r.cleanPath(fragment, level)
	}
	return r.cleanQuery(fragment, level)
}

func (r *Redactor) cleanQuery(query string, level int) string {
	var out []byte
	continued := false
	for first := true; first || query != ""; first = false {
		part, rest, more := strings.Cut(query, "&")
		out, continued = r.queryPart(out, part, continued, level)
		if more {
			out = append(out, '&')
		}
		query = rest
	}
	return string(out)
}

// queryPart writes what stands between two "&". masked says that a bare word
// in the next part belongs to this one's value.
func (r *Redactor) queryPart(out []byte, part string, continued bool, level int) (_ []byte, masked bool) {
	key, value, ok := strings.Cut(part, "=")
	if !ok {
		if continued && part != "" {
			return append(out, Placeholder...), true
		}
		return append(out, r.cleanValue(part, shortestInText, level)...), false
	}
	out = append(append(out, r.shownKey(key, level)...), '=')
	name := unescape(key, true)
	// What is longer is no code, and is not looked at again at each ";" in it.
	kind := r.classify([]byte(name))
	if kind >= secret || kind == doubtful && len(value) <= 3*maxKeyBytes && looksCode(unescape(value, true)) {
		return append(out, Placeholder...), true
	}
	// "a=1;token=x": some servers split at ";" too.
	value, tail, more := strings.Cut(value, ";")
	shortest := shortestInText
	if isIDKey([]byte(name)) {
		shortest = never
	}
	out = append(out, r.cleanValue(value, shortest, level)...)
	if !more {
		return out, false
	}
	return r.queryPart(append(out, ';'), tail, false, level)
}

// shownKey is a key as it was sent, unless it carries more than a name.
func (r *Redactor) shownKey(key string, level int) string {
	if len(key) > maxKeyBytes {
		return Placeholder
	}
	if strings.ContainsAny(key, "\"':{ ;,%") || looksJWT(key) {
		return r.cleanValue(key, shortestInText, level)
	}
	return key
}

// cleanValue masks inside one percent-encoded value and leaves its spelling
// alone when there is nothing to mask.
func (r *Redactor) cleanValue(raw string, shortest, level int) string {
	plain := validText(unescape(raw, true))
	if secretText(plain) || randomToken(strings.TrimRight(plain, "="), shortest) {
		return Placeholder
	}
	if level >= maxNesting && strings.ContainsAny(plain, "%=:/") && raw != Placeholder {
		return Placeholder
	}
	c := cleaner{r: r, s: plain, shortest: shortest, level: level + 1}
	if clean := c.run(); clean != plain {
		return escapeValue(clean)
	}
	return raw
}

// unescape decodes percent escapes, and "+" when plus is set, as lenient as
// the URL parsers of browsers and Node: a broken escape stands for itself.
func unescape(s string, plus bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' && i+2 < len(s) {
			high, ok1 := jsonscan.HexDigit(s[i+1])
			low, ok2 := jsonscan.HexDigit(s[i+2])
			if ok1 && ok2 {
				c = high<<4 | low
				i += 2
			}
		} else if c == '+' && plus {
			c = ' '
		}
		out = append(out, c)
	}
	return string(out)
}

// escapeValue escapes only what would break the query or the line, so that a
// masked value can be read.
func escapeValue(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c == 0x7f || c >= utf8.RuneSelf || strings.IndexByte(`&#;%+"'<>`, c) >= 0 {
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
			continue
		}
		out = append(out, c)
	}
	return string(out)
}

const upperHex = "0123456789ABCDEF"
