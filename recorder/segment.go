package recorder

import (
	"regexp"
	"slices"
	"strings"
)

// shortestPersonal is from how many characters a segment of an unknown path can be of one person.
const shortestPersonal = 6

// personal says whether a segment of a path that no route names is rather of one person than a route's:
// a short token ("x7Kp2QzR"), a name ("alice.miller"). Words as routes have them stay: "changePassword",
// "oauth2-callback", "wp-login.php".
func personal(segment string) bool {
	if len(segment) < shortestPersonal {
		return false
	}
	if dotted(segment) {
		return true
	}
	for part := range strings.FieldsFuncSeq(segment, func(v rune) bool { return v == '-' || v == '_' || v == '.' }) {
		if !routeWord(part) {
			return true
		}
	}
	return false
}

// endings of files that clients ask auth servers for, most of them in vain.
var endings = map[string]bool{
	"php": true, "html": true, "htm": true, "js": true, "mjs": true, "css": true, "map": true, "json": true, "xml": true, "txt": true, "md": true,
	"pdf": true, "ico": true, "png": true, "jpg": true, "jpeg": true, "gif": true, "svg": true, "webp": true, "woff": true, "ttf": true,
	"wasm": true, "webmanifest": true, "asp": true, "aspx": true, "jsp": true, "cgi": true, "do": true, "action": true, "env": true,
	"ini": true, "yml": true, "yaml": true, "sql": true, "zip": true, "gz": true, "tar": true, "bak": true, "log": true, "pem": true,
	"rss": true, "atom": true, "git": true,
}

// dottedWords are those between which a "." is nobody's name: "reset.password".
var dottedWords = map[string]bool{
	"account": true, "accounts": true, "api": true, "auth": true, "change": true, "code": true, "confirm": true, "create": true, "delete": true,
	"email": true, "forgot": true, "get": true, "list": true, "login": true, "logout": true, "oauth": true, "oidc": true, "password": true,
	"passwords": true, "refresh": true, "register": true, "reset": true, "revoke": true, "saml": true, "send": true, "session": true,
	"sessions": true, "set": true, "signin": true, "signout": true, "signup": true, "token": true, "tokens": true, "update": true,
	"user": true, "users": true, "verify": true,
}

// dotted says whether there is a "." between letters that begins no ending of a file and is in no
// name of a service or method ("zitadel.user.v2.UserService", "zitadel.user.v2beta.Users", "reset.password").
func dotted(s string) bool {
	last := strings.LastIndexByte(s, '.')
	if last < 0 || strings.HasSuffix(s, "Service") {
		return false
	}
	if endings[strings.ToLower(s[last+1:])] {
		s = s[:last]
	}
	parts := strings.Split(s, ".")
	if len(parts) >= 3 && slices.ContainsFunc(parts, version.MatchString) {
		return false
	}
	if !slices.ContainsFunc(parts, func(p string) bool { return !dottedWords[p] && !version.MatchString(p) }) {
		return false
	}
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '.' && isLetter(s[i-1]) && isLetter(s[i+1]) {
			return true
		}
	}
	return false
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// Words of routes with digits in them, and versions: alone, and at the beginning and the end of camelCase.
const (
	numeronyms = `(?:[uU]2[fF]|[iI]18[nN]|[lL]10[nN]|[kK]8[sS]|[bB]2[bBcC]|[oO][aA]uth2|OAUTH2|(?:[sS]aml|SAML)2(?:[pP]\d)?)`
	versions   = `\d{1,3}(?:(?:[aA]lpha|[bB]eta|[rR][cC])\d{0,2})?`
)

var (
	version   = regexp.MustCompile(`^[vV]` + versions + `$`)
	known     = regexp.MustCompile(`^(?:2[fF][aA]|` + numeronyms + `|[vV]` + versions + `)$`)
	knownHead = regexp.MustCompile(`^(?:2[fF][aA]|` + numeronyms + `|[vV]` + versions + `)([A-Z][A-Za-z]+)$`)
	knownTail = regexp.MustCompile(`^([A-Za-z]{3,})(?:2[fF][aA]|V` + versions + `)$`)
)

// routeWord says whether a part of a segment can be a word of a route: of letters, in camelCase, with one short
// number ("v2", "oauth2", "2fa", "sha256", "oauth2callback"), or a short number; also what is known with more
// of them ("v1beta1", "u2fRegister", "signInV2", "disable2fa").
func routeWord(s string) bool {
	begin := strings.IndexAny(s, "0123456789")
	if begin < 0 {
		return camelCase(s)
	}
	if knownWord(s) {
		return true
	}
	end := begin
	for end < len(s) && isDigit(s[end]) {
		end++
	}
	before, after, digits := s[:begin], s[end:], end-begin
	switch {
	case strings.ContainsAny(after, "0123456789"):
		return false
	case before == "" && after == "":
		return digits <= 4
	case after == "":
		return digits <= 3 && camelCase(before)
	case before == "":
		return digits == 1 && camelCase(after)
	}
	return digits == 1 && len(before) >= 3 && len(after) >= 3 && camelCase(before) && camelCase(after)
}

// knownWord says whether s is one of the known words with digits, or camelCase that begins or ends with one.
func knownWord(s string) bool {
	if known.MatchString(s) {
		return true
	}
	if head := knownHead.FindStringSubmatch(s); head != nil {
		return camelCase(head[1])
	}
	tail := knownTail.FindStringSubmatch(s)
	return tail != nil && camelCase(tail[1])
}

// camelCase says whether letters are one word or words with capitals at their beginnings, and acronyms:
// "users", "USERS", "changePassword", "verifyOTP", "getURLOf".
func camelCase(s string) bool {
	words, capitals := 1, 0
	for i := 1; i < len(s); i++ {
		if upper := s[i] < 'a'; upper {
			capitals++
			if s[i-1] >= 'a' || i+1 < len(s) && s[i+1] >= 'a' {
				words++
			}
		}
	}
	return capitals == 0 || capitals == len(s)-1 && s[0] < 'a' || 2*len(s) >= 5*words
}
