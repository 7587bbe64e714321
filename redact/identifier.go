package redact

import (
	"html"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxIdentifierBytes = 128

// Identifier masks what a person typed to sign in, so that an entry can be
// recognised by those who know the account: "alice@example.com" becomes
// "a***@example.com", "+4915112345678" becomes "+49***78", "alice" becomes
// "a***", a single character "***", and nothing stays nothing. A domain is
// kept only if it looks like one: people type passwords into this field.
// The answer has at most 128 bytes of valid UTF-8 without control
// characters. Pure; safe for concurrent use.
func Identifier(s string) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, "\ufffd"))
	if s == "" {
		return ""
	}
	if at := strings.LastIndexByte(s, '@'); at > 0 && isDomain(s[at+1:]) {
		return maskName(s[:at]) + s[at:]
	}
	if masked, ok := maskPhone(s); ok {
		return masked
	}
	return maskName(s)
}

// maskName keeps the first character of a name of two or more.
func maskName(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	if size == len(s) || first == utf8.RuneError || !(unicode.IsLetter(first) || unicode.IsDigit(first) || first == '_') {
		return "***"
	}
	return s[:size] + "***"
}

// maskPhone keeps "+", two digits of the country code and the last two of an
// international number of eight digits or more.
func maskPhone(s string) (string, bool) {
	if s[0] != '+' || len(s) > 40 {
		return "", false
	}
	var number []byte
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case isDigit(c):
			number = append(number, c)
		case strings.IndexByte(" -().", c) < 0:
			return "", false
		}
	}
	if len(number) < 8 {
		return "", false
	}
	return "+" + string(number[:2]) + "***" + string(number[len(number)-2:]), true
}

// isDomain accepts names of letters (of any script), digits, "-" and ".",
// with at least two letters at the end. "localhost" is one, "ssw0rd!" is not.
func isDomain(s string) bool {
	if s == "" || len(s) > maxIdentifierBytes-len("x***@")-utf8.UTFMax {
		return false
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	if utf8.RuneCountInString(last) < 2 || (last == s && s != "localhost") {
		return false
	}
	for _, v := range s {
		if !unicode.IsLetter(v) && !unicode.IsDigit(v) && v != '.' && v != '-' {
			return false
		}
	}
	if strings.IndexFunc(last, unicode.IsUpper) >= 0 && strings.IndexFunc(s, unicode.IsLower) >= 0 {
		return false // people write all of a domain large or nothing: this is the rest of a password
	}
	return strings.IndexFunc(last, unicode.IsDigit) < 0 || strings.HasPrefix(last, "xn--")
}

// maxTyped is how much of what was typed is looked for, in bytes.
const maxTyped = 256

// Typed masks in a message what somebody typed to sign in, as Identifier does: servers say
// "No account for alice@example.com was found", and people type passwords into that field. Also its
// part before the "@", if that has three characters or more, and the spellings of URLs and HTML, and with
// backslashes before punctuation; in any case, where it is no part of a word. Pure; safe for concurrent use.
func Typed(message, typed string) string {
	typed = strings.TrimSpace(strings.ToValidUTF8(typed, "\ufffd"))
	if typed == "" || message == "" {
		return message
	}
	masked := Identifier(typed)
	spellings := []string{typed}
	add := func(s string) {
		if s != "" && !slices.Contains(spellings, s) {
			spellings = append(spellings, s)
		}
	}
	for _, escape := range [...]func(string) string{url.QueryEscape, url.PathEscape, html.EscapeString} {
		add(escape(typed))
	}
	add(strings.ReplaceAll(typed, "@", "%40"))
	if _, phone := maskPhone(typed); phone {
		add(strings.Map(func(v rune) rune {
			if v != '+' && !unicode.IsDigit(v) {
				return -1
			}
			return v
		}, typed))
	}
	for _, s := range spellings {
		message = replaceWord(message, s, masked)
	}
	if at := strings.LastIndexByte(typed, '@'); at > 0 && utf8.RuneCountInString(typed[:at]) >= 3 {
		message = replaceWord(message, typed[:at], maskName(typed[:at]))
	}
	return message
}

// replaceWord replaces each occurrence of old that begins and ends between words, in any case. Of a very
// long old the beginning is looked for, and the rest of s goes with it.
func replaceWord(s, old, by string) string {
	long := len(old) > maxTyped
	if long {
		old = old[:maxTyped]
	}
	var out []byte
	shown, before := 0, ' '
	for i := 0; i < len(s); {
		v, size := utf8.DecodeRuneInString(s[i:])
		n := prefixFold(s[i:], old, false)
		if n == 0 {
			n = prefixFold(s[i:], old, true)
		}
		if first, _ := utf8.DecodeRuneInString(old); n > 0 && !(inWord(before) && inWord(first)) {
			after, _ := utf8.DecodeRuneInString(s[i+n:])
			if last, _ := utf8.DecodeLastRuneInString(old); long || !(i+n < len(s) && inWord(after) && inWord(last)) {
				out = append(append(out, s[shown:i]...), by...)
				if i += n; long {
					return string(out)
				}
				shown, before = i, '*'
				continue
			}
		}
		before = v
		i += size
	}
	if out == nil {
		return s
	}
	return string(append(out, s[shown:]...))
}

// prefixFold is the length of the beginning of s that is prefix in any case; 0 for none. If escaped is set,
// punctuation in it may be escaped, each character in another way.
func prefixFold(s, prefix string, escaped bool) int {
	n := 0
	for _, want := range prefix {
		size := 0
		if escaped {
			size = escapeOf(s[n:], want)
		}
		if size == 0 {
			var v rune
			if v, size = utf8.DecodeRuneInString(s[n:]); size == 0 || !sameFold(v, want) {
				return 0
			}
		}
		n += size
	}
	return n
}

// longestEntity is that of punctuation in HTML: "&#x0027;", with some zeros more.
const longestEntity = 12

// escapeOf is the length of the escape of a punctuation mark that s begins with: `\'`, "&#x27;", "&quot;"; 0
// for none.
func escapeOf(s string, mark rune) int {
	if len(s) < 2 || s[0] != '\\' && s[0] != '&' || mark >= utf8.RuneSelf || isWordByte(byte(mark)) {
		return 0
	}
	if s[0] == '\\' {
		if rune(s[1]) == mark {
			return 2
		}
		return 0
	}
	end := strings.IndexByte(s[:min(len(s), longestEntity)], ';') + 1
	if end > 0 && html.UnescapeString(s[:end]) == string(mark) {
		return end
	}
	return 0
}

func sameFold(a, b rune) bool {
	for v := unicode.SimpleFold(a); v != a && a != b; v = unicode.SimpleFold(v) {
		if v == b {
			return true
		}
	}
	return a == b
}

// inWord says whether a character goes on a word, in those scripts that have spaces between words.
func inWord(v rune) bool {
	const thai = 0x0E00
	return v == '_' || v < thai && (unicode.IsLetter(v) || unicode.IsDigit(v))
}

// Addresses masks the mail addresses in a message as Identifier does, also where the "@" is
// escaped as in URLs. It is linear. Pure; safe for concurrent use.
func Addresses(message string) string {
	var out []byte
	shown, begin := 0, 0 // begin is where what can be before an "@" begins
	for i := 0; i < len(message); {
		sign := 1
		if hasPrefixFold(message[i:], "%40") {
			sign = len("%40")
		} else if v, size := utf8.DecodeRuneInString(message[i:]); v != '@' {
			if i += size; !isLocal(v) {
				begin = i
			}
			continue
		}
		domain := domainAt(message[i+sign:])
		if begin == i || domain == "" {
			if message[i] == '@' {
				begin = i + 1
			}
			i++
			continue
		}
		out = append(append(out, message[shown:begin]...), Identifier(message[begin:i]+"@"+domain)...)
		shown = i + sign + len(domain)
		i, begin = shown, shown
	}
	if out == nil {
		return message
	}
	return string(append(out, message[shown:]...))
}

// domainAt is what a text begins with that can be the domain of a mail address, also an IP address; "" without.
func domainAt(s string) string {
	if n := strings.IndexFunc(s, func(v rune) bool { return !unicode.IsLetter(v) && !unicode.IsDigit(v) && v != '.' && v != '-' }); n >= 0 {
		s = s[:n]
	}
	s = strings.TrimRight(s, ".-")
	if _, err := netip.ParseAddr(s); err != nil && strings.IndexFunc(s, unicode.IsLetter) < 0 {
		return "" // a version
	}
	return s
}

// isLocal says whether a character can be of the part of a mail address before the "@", or of a
// mask of it.
func isLocal(v rune) bool {
	return unicode.IsLetter(v) || unicode.IsDigit(v) || strings.ContainsRune("._%+-*", v)
}
