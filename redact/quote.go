package redact

import (
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/redact/jsonscan"
)

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string. NUL and what is not UTF-8 become
// U+FFFD: SQLite stops at the one, PostgreSQL refuses both (threats.md B7).
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0
	for plain < len(s) && s[plain] >= ' ' && s[plain] < utf8.RuneSelf && s[plain] != '"' && s[plain] != '\\' {
		plain++
	}
	dst = append(dst, s[:plain]...)
	for _, v := range s[plain:] {
		switch {
		case v == '"' || v == '\\':
			dst = append(dst, '\\', byte(v))
		case v == 0:
			dst = append(dst, "\ufffd"...)
		case v < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[v>>4], hexDigits[v&15])
		default:
			dst = utf8.AppendRune(dst, v)
		}
	}
	return append(dst, '"')
}

// appendCompact appends the JSON value in without the white space between
// its tokens.
func appendCompact(dst, in []byte) []byte {
	for i := 0; i < len(in); {
		if in[i] == '"' {
			end, _ := jsonscan.StringEnd(in, i)
			dst = append(dst, in[i:end]...)
			i = end
			continue
		}
		if jsonscan.SkipSpace(in, i) == i {
			dst = append(dst, in[i])
		}
		i++
	}
	return dst
}
