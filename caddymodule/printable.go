package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// obeyed says whether a terminal or a viewer obeys a rune instead of showing it: control
// characters (those of C1, too), what turns the direction of text, and line separators
// that are not line feeds.
func obeyed(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// printable writes what would be obeyed as \u escapes, and bytes that are no text, which
// some terminals take for control characters, too. In a JSON document it changes only
// how strings are written. kept are left as they are.
func printable(s, kept string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || obeyed(r) && !strings.ContainsRune(kept, r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case obeyed(r) && !strings.ContainsRune(kept, r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// oneLine is a value for a line of a command's output: it makes no line of its own.
func oneLine(s string) string { return printable(s, "") }

// console is where commands print: whatever is in what they print, a terminal obeys
// none of it but lines and tabs.
type console struct {
	w    io.Writer
	rest []byte // of a rune that is not complete
}

// Stdout is standard output for a command: what a terminal would obey is written out, but
// for line feeds and tabs.
func Stdout() io.Writer { return &console{w: os.Stdout} }

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	text := append(c.rest, p...) //nolint:gocritic // rest is replaced below
	end := len(text)
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				end -= n
			}
			break
		}
	}
	c.rest = append([]byte(nil), text[end:]...)
	if _, err := io.WriteString(c.w, printable(string(text[:end]), "\n\t")); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Command wraps what a command runs as Caddy does; what it fails with is printable, too.
func Command(run caddycmd.CommandFunc) func(*cobra.Command, []string) error {
	return caddycmd.WrapCommandFuncForCobra(func(f caddycmd.Flags) (int, error) {
		status, err := run(f)
		if err != nil {
			err = errors.New(printable(err.Error(), "\n\t"))
		}
		return status, err
	})
}
