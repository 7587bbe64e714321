package redact

import (
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

// From which length a random-looking run of letters and digits counts as a
// secret. A body's ids (Better Auth: 32, nanoid: 21, ULID: 26) make up most
// of its strings, so only 32 and more fire there; see also isIDKey.
const (
	shortestInBody = 32
	shortestInText = 20
	shortestInPath = 16
	never          = 1 << 30
)

// suspicious is a quick test whether clean might change or mask s. It must
// never be false for a secret: FuzzSuspicious holds it to that.
func suspicious(s []byte, id bool) bool {
	if len(s) >= shortestInBody && !id {
		return !isTimestamp(s)
	}
	if holdsKey(s) {
		return true
	}
	for i, c := range s {
		switch c {
		case ':':
			return !isTimestamp(s)
		case '=', '/', '%', '{', '[', '"':
			return true
		case '-':
			if i+1 < len(s) && s[i+1] == '-' {
				return true
			}
		case 'e':
			if i+2 < len(s) && s[i+1] == 'y' && s[i+2] == 'J' {
				return true
			}
		case ' ', '\t':
			if endsInScheme(s[:i]) {
				return true
			}
		}
	}
	return false
}

// endsInScheme is true when the last letters of s name an authentication
// scheme, whatever stands before them.
func endsInScheme(s []byte) bool {
	i := len(s)
	for i > 0 && isWordByte(s[i-1]) {
		i--
	}
	return authScheme(string(s[i:]))
}

// isTimestamp matches the shape of RFC 3339, which is in most bodies.
func isTimestamp(s []byte) bool {
	if len(s) < 20 || len(s) > 35 || s[4] != '-' || s[10] != 'T' || s[13] != ':' {
		return false
	}
	for i, c := range s {
		if !isDigit(c) && i != 10 && c != '-' && c != ':' && c != '.' && c != '+' && (c != 'Z' || i != len(s)-1) {
			return false
		}
	}
	return true
}

// secretText reports whether s as a whole is a secret by its shape: a JWT, a JSON
// object in base64 (nobody looks inside), an otpauth:// URI, a PEM block, "Bearer ...".
func secretText(s string) bool {
	s = strings.TrimSpace(s)
	if strings.Contains(s, "-----BEGIN") || hasPrefixFold(s, "otpauth:") || hasPrefixFold(s, "otpauth-migration:") {
		return true
	}
	if word, rest, ok := strings.Cut(s, " "); ok && authScheme(word) {
		return credential(word, strings.TrimSpace(rest)) && !strings.Contains(strings.TrimSpace(rest), " ")
	}
	return looksJWT(s) && !strings.ContainsAny(s, " \t\r\n") || base64Object(s) || apiKey(s)
}

// keyPrefixes are what services begin their API keys with, so that such are known at a glance.
var keyPrefixes = []string{
	"glpat-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "sk_live_", "rk_live_", "sk_test_", "sk-",
	"xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-", "SG.", "hvs.", "npm_", "AIza", "whsec_", "shpat_",
}

// shortestKey is how many characters behind such a prefix are a key.
const shortestKey = 10

// tokenRun is a run of characters that keys are made of, judged once for all keys that may begin in it.
type tokenRun struct {
	end int // where it ends
	key int // where a key in it ends: a "." behind belongs to the sentence
	odd int // where the last of its parts between "-", "_" and "." begins that is no word; -1 without
}

// runAt judges the run that goes on at i, where a part begins.
func runAt[T string | []byte](s T, i int) tokenRun {
	run := tokenRun{end: i, odd: -1}
	for run.end < len(s) {
		stop := partEnd(s, run.end)
		if !ordinaryWord(string(s[run.end:stop]), true) {
			run.odd = run.end
		}
		if run.end = stop; stop == len(s) || !separatesParts(s[stop]) {
			break
		}
		run.end++
	}
	for run.key = run.end; run.key > i && s[run.key-1] == '.'; {
		run.key--
	}
	return run
}

// hasKey says whether an API key begins at i in the run. What goes on in words ("sk-learn-something",
// "npm_lifecycle_event") is none.
func hasKey[T string | []byte](s T, i int, run tokenRun) bool {
	for _, prefix := range keysFrom[s[i]] {
		rest := i + len(prefix)
		if run.key-rest < shortestKey || string(s[i:rest]) != prefix {
			continue
		}
		if run.odd >= rest || !ordinaryWord(string(s[rest:partEnd(s, rest)]), true) {
			return true
		}
	}
	return false
}

// partEnd is where the letters and digits that go on at i end.
func partEnd[T string | []byte](s T, i int) int {
	for i < len(s) && isWordByte(s[i]) {
		i++
	}
	return i
}

func separatesParts(c byte) bool { return c == '-' || c == '_' || c == '.' }

// keysFrom are keyPrefixes by their first byte.
var keysFrom = func() (from [256][]string) {
	for _, p := range keyPrefixes {
		from[p[0]] = append(from[p[0]], p)
	}
	return from
}()

// apiKey says whether s as a whole is one.
func apiKey(s string) bool {
	if s == "" || keysFrom[s[0]] == nil {
		return false
	}
	run := runAt(s, 0)
	return run.end == len(s) && hasKey(s, 0, run)
}

// holdsKey says whether an API key begins at some word of s. It is linear: texts come from clients.
func holdsKey[T string | []byte](s T) bool {
	var run tokenRun
	for i := range len(s) {
		if keysFrom[s[i]] == nil || i > 0 && isWordByte(s[i-1]) {
			continue
		}
		if i >= run.end {
			run = runAt(s, i)
		}
		if hasKey(s, i, run) {
			return true
		}
	}
	return false
}

// base64Object matches `{"...` in base64 or base64url.
func base64Object(s string) bool {
	return len(s) >= 8 && strings.HasPrefix(s, "eyJ") && allToken(strings.TrimRight(s, "="), "+/")
}

// secretPair matches a cookie-like `name=<32+ token>`.
func secretPair(s string) bool {
	name, value, ok := strings.Cut(s, "=")
	return ok && name != "" && !strings.ContainsAny(name, " /?&:") && !isIDKey([]byte(name)) &&
		randomToken(strings.TrimRight(value, "="), shortestInBody)
}

// looksJWT matches a JWS or JWE, also a truncated one: base64url parts
// between dots, the first of which decodes to `{"...`.
func looksJWT(s string) bool {
	at := strings.Index(s, "eyJ")
	if at < 0 {
		return false
	}
	head, rest, ok := strings.Cut(s[at:], ".")
	return ok && len(head) >= 8 && allToken(head, "") && allToken(strings.TrimRight(rest, "="), ".")
}

// randomToken reports whether s is at least shortest letters, digits, "_" and
// "-" with two kinds of letters or digits among them, and neither a UUID nor
// words nor a camelCase name.
func randomToken(s string, shortest int) bool {
	if len(s) < shortest || !allToken(s, "") || isUUID(s) {
		return false
	}
	lower, upper, digit := count(s)
	if kinds(lower, upper, digit) < 2 {
		return false
	}
	if digit == 0 && upper*4 <= len(s) {
		return false
	}
	return !ordinaryWords(s, true) && !errorCode(s)
}

// errorCode matches INVALID_2FA_CODE_PROVIDED: words in capitals, and one short part with a digit.
func errorCode(s string) bool {
	words, short := 0, 0
	for part := range strings.SplitSeq(s, "_") {
		lower, upper, digit := count(part)
		switch {
		case lower > 0 || upper+digit < len(part) || upper > 15:
			return false
		case digit == 0 && upper >= 2:
			words++
		case digit > 0 && len(part) <= 5:
			short++
		default:
			return false
		}
	}
	return words >= 2 && short <= 1
}

// Random reports whether s looks like a random token: 16 and more letters, digits, "_"
// and "-" of at least two kinds, and neither a UUID, nor words, nor a camelCase name.
// Pure; safe for concurrent use.
func Random(s string) bool { return randomToken(s, shortestInPath) }

func allToken(s, more string) bool {
	for i := range len(s) {
		if c := s[i]; !isWordByte(c) && c != '_' && c != '-' && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

func count(s string) (lower, upper, digit int) {
	for i := range len(s) {
		switch c := s[i]; {
		case isDigit(c):
			digit++
		case 'a' <= c && c <= 'z':
			lower++
		case 'A' <= c && c <= 'Z':
			upper++
		}
	}
	return lower, upper, digit
}

func kinds(counts ...int) (n int) {
	for _, c := range counts {
		n += min(c, 1)
	}
	return n
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (s[i] == '-') {
			return false
		} else if _, ok := jsonscan.HexDigit(s[i]); !dash && !ok {
			return false
		}
	}
	return true
}

// ordinaryWords reports whether all parts of s between "-", "_" and "." are
// words, perhaps with a short number ("oauth2-callback", "BACKUP_2026_01").
// Without capitals only lower-case words pass, and there must be two.
func ordinaryWords(s string, capitals bool) bool {
	if !capitals && !strings.ContainsAny(s, "-_.") {
		return false
	}
	for part := range strings.FieldsFuncSeq(s, func(v rune) bool { return v == '-' || v == '_' || v == '.' }) {
		if !ordinaryWord(part, capitals) {
			return false
		}
	}
	return true
}

func ordinaryWord(s string, capitals bool) bool {
	letters := strings.TrimRight(s, "0123456789")
	number := len(s) - len(letters)
	lower, upper, digit := count(letters)
	switch {
	case digit > 0 || len(letters) > 15 || number > 4 || (!capitals && (upper > 0 || (letters != "" && number > 2))):
		return false
	case upper == 0 || lower == 0:
		return true
	}
	return upper == 1 && letters[0] <= 'Z'
}

// Segment returns ":redacted" for a path segment that looks like a secret,
// else s: a JWT, or 16 and more characters of [A-Za-z0-9_.-] with at least
// two of lower case, upper case and digits. Ordinary hyphenated lower-case
// words ("send-verification-otp", "oauth2-callback") are not. A UUID counts
// as a secret here: reset links use them. Percent escapes are decoded for
// the test. Pure; safe for concurrent use. Rule: threats.md A0, item 7.
func Segment(s string) string {
	plain := unescape(s, false)
	if looksJWT(plain) {
		return ":redacted"
	}
	bare := strings.TrimRight(plain, "=")
	if len(bare) < shortestInPath || !allToken(bare, ".+~") {
		return s
	}
	if kinds(count(bare)) < 2 || ordinaryWords(bare, false) {
		return s
	}
	return ":redacted"
}

// authScheme reports whether word names an HTTP authentication scheme whose
// credential follows after a space.
func authScheme(word string) bool {
	for _, s := range [...]string{"bearer", "basic", "digest", "dpop", "negotiate", "apikey"} {
		if strings.EqualFold(word, s) {
			return true
		}
	}
	return false
}

// credential reports whether next, which follows an authentication scheme,
// is a credential and not prose ("bearer token expired", "basic auth").
func credential(scheme, next string) bool {
	if next == "" || next == Placeholder {
		return false
	}
	for _, s := range [...]string{"token", "tokens", "auth", "authentication", "authorization", "scheme", "realm", "header", "is", "was", "and", "or"} {
		if strings.EqualFold(strings.TrimRight(next, ".,:;!?"), s) {
			return false
		}
	}
	if strings.EqualFold(scheme, "bearer") || strings.EqualFold(scheme, "dpop") || strings.EqualFold(scheme, "apikey") {
		return true
	}
	_, upper, digit := count(next)
	return digit > 0 || upper > 1 || strings.HasSuffix(next, "=")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
