// Package severity says how much an audit entry should worry somebody.
//
// It is pure: the same action, class and outcome always give the same Level.
// The recorder calls Infer for captured exchanges, the API for inserted
// entries; a profile route or a Caddyfile path block may override it.
package severity

import (
	"fmt"
	"strings"
)

// Level is the severity of an entry, ordered from Low to Critical.
// Its text form is what the plugin better-auth-audit-logs stores.
type Level uint8

// The levels. The zero value is Low.
const (
	Low Level = iota
	Medium
	High
	Critical
)

var names = [...]string{Low: "low", Medium: "medium", High: "high", Critical: "critical"}

// String returns "low", "medium", "high" or "critical".
func (l Level) String() string {
	if int(l) < len(names) {
		return names[l]
	}
	return fmt.Sprintf("severity(%d)", uint8(l))
}

// Parse is the inverse of String. It is exact: case and spaces matter.
func Parse(s string) (Level, error) {
	for l, name := range names {
		if s == name {
			return Level(l), nil
		}
	}
	return Low, fmt.Errorf("unknown severity %q: use low, medium, high or critical", s)
}

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) {
	if int(l) >= len(names) {
		return nil, fmt.Errorf("unknown severity %d", uint8(l))
	}
	return []byte(names[l]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Level) UnmarshalText(b []byte) error {
	parsed, err := Parse(string(b))
	if err != nil {
		return err
	}
	*l = parsed
	return nil
}

// Event is what Infer looks at.
type Event struct {
	// Action in the plugin's form, such as "sign-in:email" or "admin:ban-user".
	Action string
	// Class of the event (DESIGN section 1); empty when nobody knows it.
	Class string
	// Failed is true when the exchange did not do what it asked for.
	Failed bool
}

// Infer returns the level of an event. It keeps the table of the plugin's
// README (critical for ban and impersonate, high for delete, revoke and failed
// sign-in, medium for sign-in and sign-out, low for the rest) but compares whole
// segments and words instead of substrings, so that "unban-user" is not a ban;
// and nothing privileged is below High. Infer does not allocate.
func Infer(e Event) Level {
	level := base(e)
	if e.Failed && level == Medium {
		return High
	}
	return level
}

func base(e Event) Level {
	switch {
	case anySegment(e.Action, isCritical):
		return Critical
	case e.Class == "admin", firstSegment(e.Action) == "admin", anyWord(e.Action, isDestructive):
		return High
	case mediumClass(e.Class), anySegment(e.Action, isMedium):
		return Medium
	}
	return Low
}

func isCritical(segment string) bool {
	switch segment {
	case "ban-user", "impersonate-user", "ban", "impersonate":
		return true
	}
	return false
}

func isDestructive(word string) bool {
	switch word {
	case "delete", "remove", "revoke", "unlink", "unenroll", "disable", "deactivate", "suspend", "terminate", "destroy", "ban", "purge", "truncate":
		return true
	}
	return false
}

func isMedium(segment string) bool {
	switch segment {
	case "sign-in", "sign-out", "two-factor", "change-password", "reset-password":
		return true
	}
	return false
}

func mediumClass(class string) bool {
	return class == "sign-in" || class == "sign-out" || class == "mfa"
}

func firstSegment(action string) string {
	segment, _, _ := strings.Cut(action, ":")
	return segment
}

func anySegment(action string, match func(string) bool) bool {
	return anyPart(action, ':', match)
}

// anyWord splits at ':' and '-' alike: "organization:remove-member" has the
// words organization, remove and member.
func anyWord(action string, match func(string) bool) bool {
	for rest := action; rest != ""; {
		var segment string
		segment, rest, _ = strings.Cut(rest, ":")
		if anyPart(segment, '-', match) {
			return true
		}
	}
	return false
}

func anyPart(s string, sep byte, match func(string) bool) bool {
	for {
		i := strings.IndexByte(s, sep)
		if i < 0 {
			return match(s)
		}
		if match(s[:i]) {
			return true
		}
		s = s[i+1:]
	}
}
