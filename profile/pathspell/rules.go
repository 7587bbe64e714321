package pathspell

import (
	"bytes"
	"strings"
)

// Every rule takes a path that begins with "/" and returns one that does. It returns its argument itself, without
// allocating, when it has nothing to do.

// removeDots resolves dot segments as the WHATWG URL standard does (url.spec.whatwg.org, "path state"): "%2e" is a
// dot, an empty segment is a segment like any other, and a dot segment at the end leaves a trailing slash.
func removeDots(p string) string { return withoutDots(p, dots) }

// resolveDots is removeDots for servers that decode first, and to which a "%2e" that is left is an ordinary segment.
func resolveDots(p string) string { return withoutDots(p, plainDots) }

// withoutDots resolves the segments that count, 1 or 2, says are dots.
func withoutDots(p string, count func(segment string) int) string {
	if !hasDotSegment(p) {
		return p
	}
	out := make([]byte, 0, len(p)+1)
	last := 0
	for seg := range strings.SplitSeq(p[1:], "/") {
		switch last = count(seg); last {
		case 0:
			out = append(append(out, '/'), seg...)
		case 2:
			out = out[:max(0, bytes.LastIndexByte(out, '/'))]
		}
	}
	if last > 0 {
		out = append(out, '/')
	}
	return string(out)
}

func hasDotSegment(p string) bool {
	for i := range len(p) {
		if p[i] != '/' {
			continue
		}
		// A dot segment has at most six bytes, so most segments are dismissed by their first byte.
		if rest := p[i+1:]; rest != "" && (rest[0] == '.' || rest[0] == '%') && dots(firstSegment(rest)) > 0 {
			return true
		}
	}
	return false
}

func firstSegment(p string) string {
	if i := strings.IndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return p
}

// dots is 1 for a single-dot segment, 2 for a double-dot segment, in any mix of "." and "%2e", and 0 for all others.
func dots(seg string) int {
	n := 0
	for seg != "" {
		switch {
		case seg[0] == '.':
			seg = seg[1:]
		case len(seg) >= 3 && seg[0] == '%' && seg[1] == '2' && seg[2]|0x20 == 'e':
			seg = seg[3:]
		default:
			return 0
		}
		if n++; n > 2 {
			return 0
		}
	}
	return n
}

func plainDots(seg string) int {
	switch seg {
	case ".":
		return 1
	case "..":
		return 2
	}
	return 0
}

// decode undoes one layer of percent-encoding and leaves what is not a valid escape as it is.
func decode(p string) string { return unescape(p, false) }

// decodeKeepSlash is decode without "%2F", so that segments stay what they are.
func decodeKeepSlash(p string) string { return unescape(p, true) }

func unescape(p string, keepSlash bool) string {
	i := strings.IndexByte(p, '%')
	if i < 0 {
		return p
	}
	out := make([]byte, i, len(p))
	copy(out, p)
	for ; i < len(p); i++ {
		b, ok := escaped(p[i:])
		if !ok || keepSlash && b == '/' {
			out = append(out, p[i])
			continue
		}
		out = append(out, b)
		i += 2
	}
	return string(out)
}

// escaped is the byte that the escape at the start of s stands for, if there is one.
func escaped(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	hi, lo := hexValue(s[1]), hexValue(s[2])
	return hi<<4 | lo, hi < 16 && lo < 16
}

func hexValue(b byte) byte {
	switch {
	case '0' <= b && b <= '9':
		return b - '0'
	case 'a' <= b|0x20 && b|0x20 <= 'f':
		return b | 0x20 - 'a' + 10
	}
	return 255
}

// lower is for routers that ignore case, as Express does. Not only ASCII: some fold the Kelvin sign to "k".
func lower(p string) string { return strings.ToLower(p) }

// trimSlashes drops all trailing slashes but the one that is the whole path.
func trimSlashes(p string) string {
	if t := strings.TrimRight(p, "/"); t != "" {
		return t
	}
	return "/"
}

// mergeSlashes makes one slash of several and leaves dot segments alone, unlike path.Clean.
func mergeSlashes(p string) string {
	i := strings.Index(p, "//")
	if i < 0 {
		return p
	}
	out := make([]byte, i+1, len(p))
	copy(out, p)
	for _, b := range []byte(p[i+1:]) {
		if b != '/' || out[len(out)-1] != '/' {
			out = append(out, b)
		}
	}
	return string(out)
}

// dropAuthority is what `new URL(target, base)` makes of "//host/path": the path after the pseudo-authority. WHATWG
// ignores further slashes before the host ("special authority ignore slashes state").
func dropAuthority(p string) string {
	if !strings.HasPrefix(p, "//") {
		return p
	}
	rest := strings.TrimLeft(p, "/")
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return "/"
}

// dropParams drops ";name=value" from every segment, as servlet containers do.
func dropParams(p string) string {
	if strings.IndexByte(p, ';') < 0 {
		return p
	}
	out := make([]byte, 0, len(p))
	drop := false
	for _, b := range []byte(p) {
		drop = b != '/' && (drop || b == ';')
		if !drop {
			out = append(out, b)
		}
	}
	return string(out)
}

// cutParams drops everything from the first ";" on, as servers do that take it for the start of the query.
func cutParams(p string) string {
	before, _, _ := strings.Cut(p, ";")
	return before
}

// flipBackslashes turns "\" into "/". A raw one is sent as "%5C", so only decoded readings have any.
func flipBackslashes(p string) string {
	return strings.ReplaceAll(p, `\`, "/")
}

// cutScheme drops a leading "scheme:" (RFC 3986, section 3.1).
func cutScheme(s string) (string, bool) {
	for i := range len(s) {
		b := s[i]
		switch {
		case 'a' <= b|0x20 && b|0x20 <= 'z':
		case i > 0 && ('0' <= b && b <= '9' || b == '+' || b == '-' || b == '.'):
		case i > 0 && b == ':':
			return s[i+1:], true
		default:
			return s, false
		}
	}
	return s, false
}
