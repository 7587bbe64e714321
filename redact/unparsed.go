package redact

import (
	"errors"
	"strconv"
)

// ErrUnparsed is what errors.Is finds in every error that JSON, Form,
// Multipart and Body return.
var ErrUnparsed = errors.New("body not parsed")

// Unparsed says why a body could not be turned into redacted JSON. It never
// holds a byte of the body, so it is safe to log and to store: a parser's own
// message may quote its input, which is how secrets reached logs elsewhere
// (Vault, CVE-2025-4166).
type Unparsed struct {
	// Reason is one of a few fixed phrases: "empty", "invalid JSON",
	// "invalid form", "invalid multipart", "content type".
	Reason string
	// MediaType is the declared type without parameters, at most 64 bytes of
	// [a-z0-9/+.-]; empty when none was declared or Body was not used.
	MediaType string
	// Size is the length of the body in bytes.
	Size int
}

// Error is "body not parsed: <reason> (<n> bytes)".
func (u *Unparsed) Error() string {
	return ErrUnparsed.Error() + ": " + u.Reason + " (" + strconv.Itoa(u.Size) + " bytes)"
}

// Is reports whether target is ErrUnparsed.
func (u *Unparsed) Is(target error) bool { return target == ErrUnparsed }
