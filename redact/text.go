package redact

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNesting bounds how often text is unwrapped: a URL in a query in a URL.
const maxNesting = 3

// Text masks the secrets in free text such as an error message: JWTs, API keys that are known by
// their beginning, "Bearer ...", otpauth:// URIs, PEM blocks, random tokens of 20 and more
// characters (UUIDs stay), the value in `key=value`, `key: value`,
// `"key":"value"` and `--key value` when the key is sensitive, and in URLs
// what URL masks; what is quoted behind a sensitive word ("invalid password 'hunter2'"; behind "key",
// "token" and "code" only what has digits or looks random), and where a secret
// is named, also behind "value". The answer is
// valid UTF-8 without NUL. It is not cut.
func (r *Redactor) Text(s string) string {
	s, whole := r.clean(s, shortestInText)
	if whole {
		return Placeholder
	}
	return s
}

// clean masks the secrets inside s. whole says that s is one secret from end
// to end, to be replaced as the strategy says. Masking may bring parts
// together that form a new pattern, so it goes on until nothing changes; that
// also makes redaction idempotent.
func (r *Redactor) clean(s string, shortest int) (clean string, whole bool) {
	return untilStable(validText(s), func(s string) (string, bool) {
		trimmed := strings.TrimSpace(s)
		if secretText(s) || secretPair(trimmed) || randomToken(strings.TrimRight(trimmed, "="), shortest) {
			return "", true
		}
		c := cleaner{r: r, s: s, shortest: shortest}
		return c.run(), false
	})
}

// untilStable applies step until it changes nothing, four times at most;
// what is still moving then is hostile and masked as a whole.
func untilStable(s string, step func(string) (string, bool)) (string, bool) {
	for range 4 {
		next, whole := step(s)
		if whole || next == s {
			return s, whole
		}
		s = next
	}
	return s, true
}

// validText replaces what is not UTF-8, and NUL, by U+FFFD.
func validText(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	return strings.ReplaceAll(s, "\x00", "\ufffd")
}

// cleaner is one pass over a text, atom by atom. An atom is a run of
// isAtomByte; everything else is copied.
type cleaner struct {
	r        *Redactor
	s        string
	pos      int
	out      []byte // what is shown of s[:pos]; nil while that is all of it
	shortest int
	level    int // how deep in percent escapes and URLs, at most maxNesting
	// named says whether s names a secret at all; unknown until somebody asks.
	named truth
}

// truth is a bool that may not be known yet.
type truth uint8

const (
	unknown truth = iota
	yes
	no
)

func (c *cleaner) run() string {
	for c.pos < len(c.s) {
		rest := c.s[c.pos:]
		switch {
		case strings.HasPrefix(rest, "-----BEGIN"):
			c.pem(rest)
		case strings.HasPrefix(rest, ")=(") && c.namesSecret(): // the columns and values of PostgreSQL
			c.keep(len(")="))
			c.secretValue("", false)
		case !isAtomByte(rest[0]):
			c.keep(1)
		default:
			c.atom()
		}
	}
	if c.out == nil {
		return c.s
	}
	return string(c.out)
}

// keep copies the next n bytes.
func (c *cleaner) keep(n int) {
	if c.out != nil {
		c.out = append(c.out, c.s[c.pos:c.pos+n]...)
	}
	c.pos += n
}

// emit writes what stands in the place of what comes next.
func (c *cleaner) emit(text string) {
	if c.out == nil {
		c.out = append(make([]byte, 0, len(c.s)+len(text)), c.s[:c.pos]...)
	}
	c.out = append(c.out, text...)
}

// mask writes Placeholder for the next n bytes.
func (c *cleaner) mask(n int) {
	c.emit(Placeholder)
	c.pos += n
}

// pem masks a PEM block, up to the end of the text when it is cut off.
func (c *cleaner) pem(rest string) {
	end := strings.Index(rest, "-----END")
	if end < 0 {
		c.mask(len(rest))
		return
	}
	end += len("-----END")
	if dashes := strings.Index(rest[end:], "-----"); dashes >= 0 {
		c.mask(end + dashes + len("-----"))
		return
	}
	c.mask(len(rest))
}

// atom handles the atom at pos with what belongs to it.
func (c *cleaner) atom() {
	end := c.pos
	for end < len(c.s) && isAtomByte(c.s[end]) {
		end++
	}
	atom := c.s[c.pos:end]
	switch {
	case strings.HasPrefix(c.s[end:], "://") || atom[0] == '/':
		c.url()
	case hasPrefixFold(c.s[c.pos:], "otpauth:") || hasPrefixFold(c.s[c.pos:], "otpauth-migration:"):
		c.mask(urlEnd(c.s, c.pos) - c.pos)
	case c.scheme(atom, end) || c.pair(atom, end) || c.echo(atom, end):
	default:
		c.word(atom)
	}
}

// url masks inside a URL or an absolute path.
func (c *cleaner) url() {
	end := urlEnd(c.s, c.pos)
	raw := c.s[c.pos:end]
	if clean := c.r.cleanURL(raw, c.level); clean != raw {
		c.emit(clean)
		c.pos = end
		return
	}
	c.keep(len(raw))
}

// scheme masks the credential in "Bearer xyz".
func (c *cleaner) scheme(atom string, end int) bool {
	next := end
	for next < len(c.s) && (c.s[next] == ' ' || c.s[next] == '\t') {
		next++
	}
	if next == end || !authScheme(atom) {
		return false
	}
	stop := wordEnd(c.s, next, "\"'<>")
	if !credential(atom, c.s[next:stop]) {
		return false
	}
	c.keep(next - c.pos)
	c.mask(stop - next)
	return true
}

// pair masks the value that follows a sensitive atom.
func (c *cleaner) pair(atom string, end int) bool {
	start, quoted, found := separator(c.s, end)
	if !found && strings.HasPrefix(atom, "--") {
		start = skipText(c.s, end)
		found = start > end
	}
	if !found {
		return false
	}
	switch c.r.classify([]byte(atom)) {
	case harmless:
		return false
	case doubtful: // "mfa: 493021" is one, "mfa: required" and "2FA: wrong code" are not
		if value := strings.Trim(c.s[start:wordEnd(c.s, start, "&,;}])")], "\"'`"); !hasDigits([]byte(value)) {
			return false
		}
	}
	c.emit(c.shown(atom))
	c.pos = end
	c.keep(start - c.pos)
	c.secretValue(atom, quoted)
	return true
}

// echo masks what a message repeats of a request in a text that names a secret:
// `"password" with value "hunter2" fails ...`, `field 'password': rejected value [hunter2]`,
// "Path `password` (`hunter2`) is shorter ...". Of the words between only a few are known, so
// that prose stays.
func (c *cleaner) echo(atom string, end int) bool {
	const aside = "` (`"
	start, found := end+len(aside)-1, strings.HasPrefix(c.s[end:], aside) && c.r.Sensitive(atom)
	if !found {
		start = skipText(c.s, end)
		found = start > end && c.quotedSecret(atom, start)
	}
	if !found && saysValue(atom) {
		start, found = literal(c.s, end)
		found = found && c.namesSecret()
	}
	if !found {
		return false
	}
	c.keep(start - c.pos)
	c.secretValue("", false)
	return true
}

// quotedSecret says whether a sensitive word has its value behind it in quotes: "invalid password 'hunter2'".
// Under other names than those of passwords are words of programs, too ("error code 'USER_NOT_FOUND'",
// "unique key 'users_email_key'"); behind a key, token or code without more, names and signs ("missing key
// 'email'", "unexpected token '}'").
func (c *cleaner) quotedSecret(atom string, at int) bool {
	if at >= len(c.s) || strings.IndexByte("\"'`", c.s[at]) < 0 || !c.r.Sensitive(atom) {
		return false
	}
	end := quoteEnd(c.s, at)
	if end-at < 3 || c.s[end-1] != c.s[at] {
		return false
	}
	text := c.s[at+1 : end-1]
	switch {
	case NamesPassword(atom):
		return true
	case programWord(atom) && strings.IndexFunc(text, unicode.IsDigit) < 0 && !randomToken(text, shortestInPath):
		return false
	}
	return !strings.Contains(text, "_") || !allToken(text, "") || !ordinaryWords(text, true) && !errorCode(text)
}

// programWord is true for sensitive words that name things of programs as often.
func programWord(atom string) bool {
	for _, s := range [...]string{"key", "keys", "token", "tokens", "code", "codes"} {
		if strings.EqualFold(atom, s) {
			return true
		}
	}
	return false
}

// saysValue is true for names and words that announce a value: value, input_value, rejectedValue.
func saysValue(atom string) bool {
	const value, input = "value", "input"
	return len(atom) >= len(value) && strings.EqualFold(atom[len(atom)-len(value):], value) || strings.EqualFold(atom, input)
}

// literal finds the quoted or bracketed text after a word that ends at i.
func literal(s string, i int) (start int, found bool) {
	if at, _, ok := separator(s, i); ok {
		i = at
	} else {
		i = skipText(s, i)
		for _, verb := range [...]string{"was", "is", "of"} {
			if rest, ok := strings.CutPrefix(s[i:], verb); ok && rest != "" && !isAtomByte(rest[0]) {
				i = skipText(s, i+len(verb))
				break
			}
		}
		if i < len(s) && s[i] == ':' {
			i = skipText(s, i+1)
		}
	}
	for i < len(s) && s[i] == '\\' {
		i++
	}
	return i, i < len(s) && strings.IndexByte("\"'`[{", s[i]) >= 0
}

// namesSecret says whether a secret is named anywhere in the text: in quotes or brackets, behind "field" or
// "for", or a password without them. Words such as "code" and "key" alone are prose.
func (c *cleaner) namesSecret() bool {
	if c.named == unknown {
		c.named = no
		if c.r.namesSecret(c.s) {
			c.named = yes
		}
	}
	return c.named == yes
}

func (r *Redactor) namesSecret(s string) bool {
	announced := false // by the word before
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && isAtomByte(s[i]) {
			i++
		}
		if start == i {
			announced = announced && isSpace(s[i])
			i++
			continue
		}
		quoted := start > 0 && strings.IndexByte("\"'`[(", s[start-1]) >= 0 && i < len(s) && strings.IndexByte("\"'`]),\\", s[i]) >= 0
		atom := s[start:i]
		if (quoted || announced) && r.Sensitive(strings.TrimRight(atom, ".")) || NamesPassword(atom) {
			return true
		}
		announced = announcesName(atom)
	}
	return false
}

// announcesName is true for words that the name of a field follows.
func announcesName(atom string) bool {
	for _, s := range [...]string{"field", "for", "parameter", "param", "property", "attribute", "argument", "column"} {
		if strings.EqualFold(atom, s) {
			return true
		}
	}
	return false
}

// shown is a sensitive name as it may be printed.
func (c *cleaner) shown(atom string) string {
	if looksJWT(atom) || len(atom) > maxKeyBytes {
		return Placeholder
	}
	return atom
}

// secretValue masks the value at pos. Quotes stay, so that the text remains
// readable; where the end is unclear, more is masked rather than less.
func (c *cleaner) secretValue(atom string, quoted bool) {
	name := string(appendNormal(nil, []byte(atom)))
	if c.pos == len(c.s) {
		return
	}
	switch first := c.s[c.pos]; {
	case strings.HasSuffix(name, "cookie") || strings.HasSuffix(name, "authorization"), first != '"' && first != '\'' && inWords(name):
		c.mask(lineEnd(c.s, c.pos) - c.pos)
	case strings.HasPrefix(c.s[c.pos:], `"""`): // a block string of GraphQL
		end := len(c.s)
		if i := strings.Index(c.s[c.pos+3:], `"""`); i >= 0 {
			end = wordEnd(c.s, c.pos+i+6, "&,;}])")
		}
		c.mask(end - c.pos)
	case first == '"' || first == '\'' || first == '`':
		c.emit(string(first))
		end := quoteEnd(c.s, c.pos)
		stop := wordEnd(c.s, end, "&,;}])")
		c.mask(stop - c.pos)
		c.emit(string(first))
	case first == '{' || first == '[' || first == '(':
		c.mask(wordEnd(c.s, bracketEnd(c.s, c.pos), "&,;}])") - c.pos)
	case quoted:
		c.mask(wordEnd(c.s, c.pos, "&,}]") - c.pos)
	default:
		end := wordEnd(c.s, c.pos, "&")
		if next := skipText(c.s, end); authScheme(c.s[c.pos:end]) && next < len(c.s) {
			end = wordEnd(c.s, next, "&")
		}
		c.mask(end - c.pos)
	}
}

// inWords says whether the value under a normalised name is several words.
func inWords(name string) bool {
	for _, end := range [...]string{"mnemonic", "seed", "phrase", "words"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return strings.Contains(name, "passphrase")
}

// word writes an atom that stands for itself, or masks it.
func (c *cleaner) word(atom string) {
	switch {
	case looksJWT(atom), holdsKey(atom), c.random(atom):
		c.mask(len(atom))
	case strings.Contains(atom, "%"):
		c.escaped(atom)
	default:
		c.keep(len(atom))
	}
}

// random reports whether one part of the atom, or all of it as base64, is a
// random token.
func (c *cleaner) random(atom string) bool {
	if len(atom) < c.shortest {
		return false
	}
	if strings.ContainsAny(atom, "+/") && !strings.ContainsAny(atom, ".@%") {
		if strings.Contains(atom, "+") || strings.HasPrefix(c.s[c.pos+len(atom):], "=") {
			solid := strings.NewReplacer("+", "", "/", "").Replace(atom)
			if randomToken(solid, c.shortest) {
				return true
			}
		}
	}
	for atom != "" {
		part := atom
		if end := strings.IndexAny(atom, "./+~@%$"); end >= 0 {
			part, atom = atom[:end], atom[end+1:]
		} else {
			atom = ""
		}
		if randomToken(part, c.shortest) {
			return true
		}
	}
	return false
}

// escaped looks behind percent escapes; the atom is replaced by its decoded
// form only if there was something to mask.
func (c *cleaner) escaped(atom string) {
	plain := validText(unescape(atom, false))
	if plain == atom {
		c.keep(len(atom))
		return
	}
	if c.level >= maxNesting {
		c.mask(len(atom))
		return
	}
	inner := cleaner{r: c.r, s: plain, shortest: c.shortest, level: c.level + 1}
	clean := inner.run()
	switch {
	case secretText(plain) || secretPair(plain):
		c.mask(len(atom))
	case clean == plain:
		c.keep(len(atom))
	default:
		c.emit(clean)
		c.pos += len(atom)
	}
}

// separator finds ":" or "=" after a name that ends at i, perhaps behind the
// name's closing quotes, brackets and spaces. start is where the value begins.
func separator(s string, i int) (start int, quoted, found bool) {
	for i < len(s) && s[i] == '\\' {
		i++
	}
	aside := false // "(password): " begins prose
	for i < len(s) && strings.IndexByte("\"'`])", s[i]) >= 0 {
		quoted, aside = true, s[i] == ')'
		i++
	}
	i = skipText(s, i)
	if i >= len(s) || s[i] != '=' && (s[i] != ':' || aside) {
		return i, quoted, false
	}
	for i < len(s) && (s[i] == '=' || s[i] == ':' || s[i] == '>') {
		i++
	}
	i = skipText(s, i)
	value := i
	for value < len(s) && s[value] == '\\' {
		value++
	}
	if value < len(s) && s[value] == '"' {
		i = value
	}
	return i, quoted, true
}

func skipText(s string, i int) int {
	for i < len(s) && isSpace(s[i]) {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// wordEnd is the index of the next white space or byte of stops.
func wordEnd(s string, i int, stops string) int {
	for i < len(s) && !isSpace(s[i]) && strings.IndexByte(stops, s[i]) < 0 {
		i++
	}
	return i
}

func lineEnd(s string, i int) int {
	if n := strings.IndexAny(s[i:], "\r\n"); n >= 0 {
		return i + n
	}
	return len(s)
}

// urlEnd is where a URL in a text stops. Backslashes at its end belong to an
// escaped quote.
func urlEnd(s string, i int) int {
	end := wordEnd(s, i, "\"'`<>")
	for end > i+1 && s[end-1] == '\\' {
		end--
	}
	return end
}

// quoteEnd is the index after the quoted text that opens at i.
func quoteEnd(s string, i int) int {
	quote := s[i]
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case quote:
			return i + 1
		}
	}
	return len(s)
}

// bracketEnd is the index after the bracket that closes the one at i. Round ones are a pair of
// their own.
func bracketEnd(s string, i int) int {
	open, closing := "{[", "}]"
	if s[i] == '(' {
		open, closing = "(", ")"
	}
	for depth := 0; i < len(s); i++ {
		switch {
		case strings.IndexByte(open, s[i]) >= 0:
			depth++
		case strings.IndexByte(closing, s[i]) >= 0:
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

func isAtomByte(c byte) bool { return atomBytes[c] }

var atomBytes = func() (is [256]bool) {
	for c := range is {
		is[c] = isWordByte(byte(c)) || c >= utf8.RuneSelf || strings.IndexByte("_.-~%+/@$", byte(c)) >= 0
	}
	return is
}()
