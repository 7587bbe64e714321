package caddymodule

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

// identifierField is what was typed to sign in.
const identifierField = "identifier"

// usualFields are those that hash prints unless others are named: what entries keep a hash
// of by themselves, then what bodies have under redact hash.
var usualFields = []string{identifierField, "session", "email", "username", "phone", "token", "apiKey", "password", "ssn", "iban"}

// maxHashed bounds a value.
const maxHashed = 64 << 10

func hashCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hash <value> [--field <name>]... [--key-file <file>] [--find [--db <file> | --address <admin> | --config <file>]]",
		Short: "Finds a known value among the hashes that entries carry",
		Long: `
The log keeps of some values only a hash with a secret key: of what was typed to sign in (metadata.identifierHash), of a
credential whose owner nobody could tell or, with "capture session", of every session (metadata.sessionHash, which
list --text finds), and of secrets in bodies under "redact hash". This prints the hash of a value that you know, for the
usual names of fields or those of --field; with a single --field the hash alone. What is typed to sign in is hashed in
lower case and without spaces around it, all else as it is; a session by the value of its cookie, as browsers send it, or
by its token without "Bearer". --find lists the entries that have the value as identifier.

- instead of the value reads it from standard input, so that it is not in the shell's history.

The key is the file of the option key_file; it is read, never made. Without --key-file it is hash.key beside --db, or in
Caddy's data directory. --find without --db and --key-file lets the running Caddy hash, with its own key.
` + exitHelp,
		Example: `  caddy audit-log hash ann@example.com
  caddy audit-log hash ann@example.com --find --since 30d
  caddy audit-log list --text "$(caddy audit-log hash - --field session < value.txt)"
  caddy audit-log hash - --field ssn --key-file /var/lib/caddy-audit/hash.key`,
	}
	sourceFlags(cmd)
	f := cmd.Flags()
	f.Lookup("key-file").Usage = "the key of keyed hashes"
	f.StringArray("field", nil, "the name of the field that has the value; may be repeated")
	complete(cmd, "field", usualFields...)
	f.Bool("find", false, "list the entries that have it as identifier")
	timeFlags(f)
	listFlags(cmd)
	return readsLog(cmd, 1, runHash)
}

func runHash(ctx context.Context, f caddycmd.Flags) (int, error) {
	fields, err := f.GetStringArray("field")
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if f.Bool("find") && len(fields) > 0 {
		return caddy.ExitCodeFailedStartup, errors.New("--find looks for identifiers: leave --field out; list --text finds the hash of a session, an export those of other fields")
	}
	value, err := valueOf(f.Arg(0))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if f.Bool("find") && f.String("key-file") == "" && f.String("db") == "" {
		return find(ctx, f, identifierField, value) // the running Caddy knows its key
	}
	redactor, err := keyedRedactor(f.String("key-file"), f.String("db"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if f.Bool("find") {
		return find(ctx, f, "identifierHash", hashOf(redactor, identifierField, value))
	}
	if len(fields) == 1 {
		_, err := fmt.Fprintln(Stdout(), hashOf(redactor, fields[0], value))
		return caddy.ExitCodeSuccess, err
	}
	if len(fields) == 0 {
		fields = usualFields
	}
	t := tabwriter.NewWriter(Stdout(), 0, 0, 2, ' ', 0)
	for _, field := range fields {
		fmt.Fprintf(t, "%s\t%s\n", oneLine(field), hashOf(redactor, field, value))
	}
	return caddy.ExitCodeSuccess, t.Flush()
}

// find lists the entries that have a value as identifier, by the parameter that says it.
func find(ctx context.Context, f caddycmd.Flags, parameter, value string) (int, error) {
	q, err := filters(f, time.Now())
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	client, done, err := openLog(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer done()
	return list(ctx, f, client, parameters(q, parameter, value))
}

// hashOf is the hash as entries carry it.
func hashOf(r *redact.Redactor, field, value string) string {
	if field == identifierField {
		value = strings.ToLower(strings.TrimSpace(value))
	}
	return r.HashTag(field, value)
}

// valueOf is the value itself, or the first line of standard input.
func valueOf(arg string) (string, error) {
	if arg == "" {
		return "", errors.New("the value is empty")
	}
	if arg != "-" {
		return arg, nil
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprint(os.Stderr, "value: ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, maxHashed+1)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("standard input: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" || len(line) > maxHashed {
		return "", fmt.Errorf("standard input: give one line with the value, of at most %d bytes", maxHashed)
	}
	return line, nil
}

// keyedRedactor has the key of the file that is named, or of the usual ones.
func keyedRedactor(keyFile, db string) (*redact.Redactor, error) {
	if keyFile == "" && db != "" {
		keyFile = keyBeside(db)
	}
	key, err := readKey(cmp.Or(keyFile, filepath.Join(DataDir(), keyName)))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: name the file of the option key_file with --key-file", err)
	}
	if err != nil {
		return nil, err
	}
	return redact.New(redact.Options{Key: key})
}
