package recorder

import "strings"

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

// dotted says whether there is a "." between letters that begins no ending of a file and is in no
// name of a service ("zitadel.user.v2.UserService").
func dotted(s string) bool {
	last := strings.LastIndexByte(s, '.')
	if last < 0 || strings.HasSuffix(s, "Service") {
		return false
	}
	if endings[strings.ToLower(s[last+1:])] {
		s = s[:last]
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

// routeWord says whether a part of a segment can be a word of a route: of letters, in camelCase, with one short
// number ("v2", "oauth2", "2fa", "sha256", "oauth2callback"), or a short number.
func routeWord(s string) bool {
	begin := strings.IndexAny(s, "0123456789")
	if begin < 0 {
		return camelCase(s)
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
