package pathspell

import (
	"strings"
	"unicode/utf8"
)

// Plain reports that path has exactly one spelling: it begins with "/", has only lower-case letters, digits and
// "-._~" between single slashes, no dot segment and no trailing slash. It is the fast path of Of and allocates nothing.
// It must be asked about u.Path only where u.RawPath and u.Opaque are empty.
func Plain(path string) bool {
	if path == "/" {
		return true
	}
	if path == "" || path[0] != '/' {
		return false
	}
	segment := 1 // where the current segment begins
	for i := 1; i < len(path); i++ {
		switch b := path[i]; {
		case b == '/':
			if i == segment || dots(path[segment:i]) > 0 {
				return false
			}
			segment = i + 1
		case !unreserved(b) || 'A' <= b && b <= 'Z':
			return false
		}
	}
	return segment < len(path) && dots(path[segment:]) == 0
}

// unreserved is RFC 3986, section 2.3.
func unreserved(b byte) bool {
	return 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || b == '-' || b == '.' || b == '_' || b == '~'
}

// hasSigns looks for the signs of A0.4 that stand in the sent bytes.
func hasSigns(sent string) bool {
	if strings.Contains(sent, "//") || strings.IndexByte(sent, ';') >= 0 || hasDotSegment(sent) {
		return true
	}
	for i := strings.IndexByte(sent, '%'); i >= 0 && i < len(sent); i++ {
		if sent[i] != '%' {
			continue
		}
		if b, ok := escaped(sent[i:]); !ok || suspicious(b) {
			return true
		}
	}
	return false
}

// suspicious reports whether an escape of b is a sign: nobody needs to escape an unreserved character, and the others
// are those that some server splits, cuts or decodes again at.
func suspicious(b byte) bool {
	return unreserved(b) || b < 0x20 || b == 0x7f || strings.IndexByte(`/\?#%;`, b) >= 0
}

// oddText reports invalid UTF-8, U+FFFD and C1 control characters in a decoded path. ASCII control characters are
// found by hasSigns, because they are always escaped when sent.
func oddText(decoded string) bool {
	for i := range len(decoded) {
		if decoded[i] >= utf8.RuneSelf {
			return strings.ContainsFunc(decoded[i:], func(r rune) bool {
				return r == utf8.RuneError || 0x80 <= r && r < 0xa0
			})
		}
	}
	return false
}
