package tap

import (
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

// kind says what the name of a value tells about it.
type kind uint8

const (
	harmless kind = iota
	// secret: see redact.
	secret
	// passwordKind: goes whatever was asked for.
	passwordKind
	// personal: a name or number of somebody.
	personal
)

var personalNames = map[string]bool{
	"givenname": true, "familyname": true, "firstname": true, "lastname": true, "middlename": true, "fullname": true,
	"displayname": true, "nickname": true, "username": true, "preferredusername": true, "login": true, "loginname": true,
	"birthdate": true, "birthday": true, "dateofbirth": true, "phone": true, "phonenumber": true, "mobile": true,
	"streetaddress": true, "address": true, "formatted": true, "remoteuser": true, "remotename": true, "xforwardeduser": true,
	"xforwardedpreferredusername": true, "xauthrequestuser": true, "xauthrequestpreferredusername": true,
}

// spoken are names under which auth servers put both secrets and words for programs:
// {"code":"invalid_token"}, {"state":"choose_method"}.
var spoken = map[string]bool{"code": true, "state": true, "key": true, "auth": true}

// normal is a name without case, "-" and "_".
func normal(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, name)
}

// kindOf says what a name tells about its value.
func (s *Scrubber) kindOf(name string) kind {
	switch {
	case redact.NamesPassword(name):
		return passwordKind
	case s.keep:
		return harmless
	case s.names.Sensitive(name):
		return secret
	case personalNames[normal(name)]:
		return personal
	}
	return harmless
}

// named is a value without what its name or its form says is secret. answer is true
// for what a server says.
func (s *Scrubber) named(name, v string, answer bool) string {
	if s.again {
		return s.text(v)
	}
	switch s.kindOf(name) {
	case passwordKind:
		return s.password(v)
	case secret:
		if answer && spoken[normal(name)] && word(v) {
			return v
		}
		return s.mask(v)
	case personal:
		return s.person(v)
	case harmless:
	}
	return s.text(v)
}

// word says whether a text is one of a program's own: "invalid_token", "Not Found",
// "400".
func word(v string) bool {
	if len(v) <= 3 {
		return true
	}
	if len(v) > 60 {
		return false
	}
	for part := range strings.FieldsFuncSeq(v, func(r rune) bool { return strings.ContainsRune("_-. :/", r) }) {
		if len(part) > 20 || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return false
		}
	}
	return true
}
