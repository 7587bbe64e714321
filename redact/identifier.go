package redact

import (
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
