package tap

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

const (
	jwtForm  = `eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){2,4}`
	mailForm = `[A-Za-z0-9._%+-]+(?:@|%40)(?:[A-Za-z0-9-]+\.)*(?:[A-Za-z]{2,24}|localhost)`
	uuidForm = `[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`
	quote    = `(?:\\?"|&quot;|&#34;)`
	// inQuotes is what stands between the quotes of a JSON string, inEscaped the same of one
	// inside of another.
	inQuotes  = `(?:\\[\s\S]|[^"\\])*`
	inEscaped = `(?:[^"\\]|\\[^"\\]|\\\\\\?[\s\S])*`
)

var (
	wholeJWT  = regexp.MustCompile(`^` + jwtForm + `$`)
	anyJWT    = regexp.MustCompile(jwtForm)
	wholeMail = regexp.MustCompile(`^` + mailForm + `$`)
	wordRun   = regexp.MustCompile(`[A-Za-z0-9_-]+`)

	// tagAttribute is one attribute in a tag.
	tagAttribute = regexp.MustCompile(`([A-Za-z_:][\w:.-]*)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)`)
)

// form is something that a text may hold, and how it is written without its secrets.
type form struct {
	// pattern, with capturing groups for write.
	pattern string
	write   func(s *Scrubber, groups []string) string
	// password is true if it may hold a password.
	password bool
	// group is the number of its first group in the pattern of all, and groups how
	// many it has.
	group, groups int
}

// newForms returns the forms, and a pattern for any of them. They are looked for from
// left to right; of those that begin at one place the first counts.
func newForms() ([]form, *regexp.Regexp) {
	forms := allForms()
	patterns := make([]string, len(forms))
	for i, n := 0, 1; i < len(forms); i++ {
		patterns[i] = forms[i].pattern
		forms[i].group, forms[i].groups = n, regexp.MustCompile(forms[i].pattern).NumSubexp()
		n += forms[i].groups
	}
	return forms, regexp.MustCompile(strings.Join(patterns, "|"))
}

func allForms() []form {
	return []form{
		{pattern: `(` + jwtForm + `)`, write: func(s *Scrubber, g []string) string { return s.jwt(g[0]) }},
		{pattern: `(data:[\w.+-]+/[\w.+-]+;base64,)([A-Za-z0-9+/=]+)`, write: func(s *Scrubber, g []string) string { return g[0] + s.stand(g[1]) }},
		{pattern: `(-----BEGIN [A-Z0-9 ]+-----)((?:[^-]|-[^-])*)(-----END [A-Z0-9 ]+-----|$)`, write: func(s *Scrubber, g []string) string { return g[0] + "\n" + s.stand(g[1]) + "\n" + g[2] }},
		{password: true, pattern: `(://)([^/\s:@"'<>]+):([^/\s@"'<>]+)@`, write: func(s *Scrubber, g []string) string {
			return g[0] + s.text(g[1]) + ":" + s.password(g[2]) + "@"
		}},
		{password: true, pattern: `(<(?:input|meta|button|option|param)\b[^<>]*>)`, write: (*Scrubber).tag},
		{password: true, pattern: `(")([\w.$-]+)("\s*:\s*")(` + inQuotes + `)("|\\?$)`, write: func(s *Scrubber, g []string) string {
			return g[0] + s.text(g[1]) + g[2] + s.quoted(g[1], g[3], 1) + g[4]
		}},
		{password: true, pattern: `(\\")([\w.$-]+)(\\"\s*:\s*\\")(` + inEscaped + `)(\\"|\\*$)`, write: func(s *Scrubber, g []string) string {
			return g[0] + s.text(g[1]) + g[2] + s.quoted(g[1], g[3], 2) + g[4]
		}},
		{password: true, pattern: `(` + quote + `)([\w.$-]+)(` + quote + `\s*:\s*` + quote + `)([^\n]*?)(` + quote + `|$)`, write: func(s *Scrubber, g []string) string {
			return g[0] + s.text(g[1]) + g[2] + s.escaped(g[1], g[3]) + g[4]
		}},
		{password: true, pattern: `([A-Za-z_$][\w$-]*)(` + quote + `?\s*:\s*)([0-9]{3,}[\w.@%+/=:-]*)`, write: (*Scrubber).number},
		{password: true, pattern: `([A-Za-z_:][\w:.-]*)="([^"]*)"`, write: func(s *Scrubber, g []string) string { return s.text(g[0]) + `="` + s.escaped(g[0], g[1]) + `"` }},
		{password: true, pattern: `([A-Za-z_:][\w:.-]*)='([^']*)'`, write: func(s *Scrubber, g []string) string { return s.text(g[0]) + `='` + s.escaped(g[0], g[1]) + `'` }},
		{password: true, pattern: `([A-Za-z_$][\w$]*)(\s*:\s*)"([^"\n]*)"`, write: func(s *Scrubber, g []string) string {
			return g[0] + g[1] + `"` + s.named(g[0], g[2], true) + `"`
		}},
		{password: true, pattern: `<([A-Za-z_][\w.:-]*)((?:\s[^<>]*)?)>([^<]*)</`, write: (*Scrubber).element},
		{password: true, pattern: `\b((?i:bearer|basic|dpop|token))( +)([A-Za-z0-9._~+/=-]{8,})`, write: (*Scrubber).credential},
		{pattern: `(%[0-9A-Fa-f]{2})`, write: func(_ *Scrubber, g []string) string { return g[0] }},
		{pattern: `(` + mailForm + `)`, write: func(s *Scrubber, g []string) string { return s.mail(strings.Replace(g[0], "%40", "@", 1)) }},
		{pattern: `(` + uuidForm + `)`, write: func(s *Scrubber, g []string) string { return s.uuid(g[0]) }},
		{password: true, pattern: `([A-Za-z_$][\w$.\[\]-]*)=([^&\s"'<>;,]+)`, write: func(s *Scrubber, g []string) string { return s.text(g[0]) + "=" + s.escapedQuery(g[0], g[1]) }},
		{pattern: `(\+[0-9]{8,15})\b`, write: func(s *Scrubber, g []string) string { return "+" + s.digits(g[0][1:]) }},
		{pattern: `([A-Za-z0-9_-]{16,})`, write: (*Scrubber).run},
	}
}

// text is a text without the secrets in it: those that are known, and what looks like
// one or stands under the name of one.
func (s *Scrubber) text(text string) string {
	if text == "" {
		return ""
	}
	if stands := s.exact(text); stands != text {
		return stands
	}
	pieces := s.pieces(text)
	for i := 0; i < len(pieces); i += 2 {
		if s.again {
			pieces[i] = anyJWT.ReplaceAllStringFunc(pieces[i], s.jwt)
		} else {
			pieces[i] = s.written(pieces[i])
		}
	}
	return s.segments(strings.Join(pieces, ""))
}

// segments replaces what is known as a whole in a path, or an id of several parts.
func (s *Scrubber) segments(text string) string {
	if !strings.Contains(text, "/") || strings.ContainsAny(text, " \t\n<") {
		return text
	}
	parts := strings.Split(text, "/")
	for i, part := range parts {
		parts[i] = s.exact(part)
	}
	return strings.Join(parts, "/")
}

// written is a text with the forms in it as they are written.
func (s *Scrubber) written(text string) string {
	if plain(text) {
		return text
	}
	if s.depth == maxTexts {
		return s.stand(text)
	}
	s.depth++
	defer func() { s.depth-- }()
	var b strings.Builder
	last := 0
	for _, m := range s.anyForm.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(text[last:m[0]])
		last = m[1]
		match := text[m[0]:m[1]]
		f := &s.forms[slices.IndexFunc(s.forms, func(f form) bool { return m[2*f.group] >= 0 })]
		if s.keep && !f.password || whole(match) {
			b.WriteString(match)
			continue
		}
		groups := make([]string, f.groups)
		for i := range groups {
			from, to := m[2*(f.group+i)], m[2*(f.group+i)+1]
			groups[i] = text[from:to]
		}
		b.WriteString(f.write(s, groups))
	}
	b.WriteString(text[last:])
	return b.String()
}

// maxTexts is how many texts may stand in one another, such as a URL in a URL. A body could
// have one in every second byte.
const maxTexts = 8

// plain says for certain, and fast, that no form is in a text: every form has one of
// these characters, or a long run of letters and digits.
func plain(text string) bool {
	run := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			if run++; run >= shortestRun {
				return false
			}
			continue
		case strings.IndexByte("@=%:\"'<+& ;", c) >= 0:
			return false
		}
		run = 0
	}
	return true
}

// shortestRun is the least that a form has in one run, if it has no other sign: the
// head of a JWT.
const shortestRun = 9

// whole says whether a match is a placeholder already.
func whole(match string) bool {
	return strings.HasPrefix(match, placeholder) && wordRun.FindString(match) == match
}

// run writes a run of letters and digits that belong together.
func (s *Scrubber) run(groups []string) string {
	if redact.Random(groups[0]) {
		return s.mask(groups[0])
	}
	return groups[0]
}

// credential writes what follows the name of an authentication scheme.
func (s *Scrubber) credential(groups []string) string {
	scheme, space, v := groups[0], groups[1], groups[2]
	switch {
	case strings.EqualFold(scheme, "basic"):
		return scheme + space + s.basic(v)
	case word(v), s.keep:
		return scheme + space + v // prose
	}
	return scheme + space + s.mask(v)
}

// basic writes the credentials of HTTP Basic authentication: who it is stays.
func (s *Scrubber) basic(v string) string {
	raw, err := base64.StdEncoding.DecodeString(v)
	user, pass, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok {
		if word(v) || s.keep {
			return v
		}
		return s.mask(v)
	}
	return base64.StdEncoding.EncodeToString([]byte(s.text(user) + ":" + s.password(pass)))
}

// tag writes a tag of a page that has a name and a value.
func (s *Scrubber) tag(groups []string) string {
	name := ""
	for _, a := range tagAttribute.FindAllStringSubmatch(groups[0], -1) {
		v := strings.Trim(a[2], `"'`)
		switch strings.ToLower(a[1]) {
		case "name", "property":
			name = v
		case "type":
			if strings.EqualFold(v, "password") {
				name = "password"
			}
		}
	}
	return tagAttribute.ReplaceAllStringFunc(groups[0], func(attribute string) string {
		a := tagAttribute.FindStringSubmatch(attribute)
		v, under := strings.Trim(a[2], `"'`), a[1]
		if v == "" {
			return attribute
		}
		if attr := strings.ToLower(a[1]); name != "" && (attr == "value" || attr == "content") {
			under = name
		}
		return strings.Replace(attribute, a[2], strings.Replace(a[2], v, s.escaped(under, v), 1), 1)
	})
}

// element writes an element of XML or of a page that holds text only.
func (s *Scrubber) element(groups []string) string {
	name := groups[0][strings.LastIndexByte(groups[0], ':')+1:]
	text := s.text(groups[2])
	if s.kindOf(name) != harmless {
		text = s.escaped(name, groups[2])
	}
	return "<" + groups[0] + s.text(groups[1]) + ">" + text + "</"
}

// escaped is a named value that is written as in HTML.
func (s *Scrubber) escaped(name, v string) string {
	plain := html.UnescapeString(v)
	if out := s.named(name, plain, true); out != plain {
		return html.EscapeString(out)
	}
	return v
}

// quoted is a named value that is written as in JSON, so many times.
func (s *Scrubber) quoted(name, v string, times int) string {
	plain := v
	for range times {
		if json.Unmarshal([]byte(`"`+plain+`"`), &plain) != nil {
			return s.escaped(name, v)
		}
	}
	out := s.named(name, plain, true)
	if out == plain {
		return v
	}
	for range times {
		out = escapeJSON(out)
	}
	return out
}

// number writes a number under a name.
func (s *Scrubber) number(groups []string) string {
	name, rest := groups[0], strings.TrimLeft(groups[2], "0123456789")
	v := strings.TrimSuffix(groups[2], rest)
	if strings.Trim(rest, ".:%+/=-") != "" { // no number: a UUID, an address, a time
		return s.text(name) + groups[1] + s.text(groups[2])
	}
	if kind := s.kindOf(name); kind == passwordKind || kind != harmless && len(v) >= shortestNumber {
		v = s.digits(v)
	}
	return s.text(name) + groups[1] + v + rest
}

// escapedQuery is a named value that is written as in a query.
func (s *Scrubber) escapedQuery(name, v string) string {
	plain, err := url.QueryUnescape(v)
	if err != nil {
		plain = v
	}
	out := s.named(name, plain, false)
	switch {
	case out == plain:
		return v
	case plain == v && !strings.ContainsAny(out, "&#+% "):
		return out
	}
	return url.QueryEscape(out)
}
