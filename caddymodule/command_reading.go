package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// exitNothing is the exit status of a command that has found nothing.
const exitNothing = 3

// exitHelp is what the commands that read the log say of their exit status.
const exitHelp = `
Exit status: 0 if all is well, 1 after an error, 2 if the answer is incomplete, 3 if nothing was found.`

// whereHelp is what they say of where they read.
const whereHelp = `
It asks the running Caddy through its admin endpoint. With --db it reads a SQLite database file itself, and changes
nothing: a Caddy may write to it meanwhile.
`

// readsLog completes a command that reads the log: it takes n arguments, its context ends
// with Ctrl-C, and its errors are said once, with nothing in them that a terminal obeys.
func readsLog(cmd *cobra.Command, n int, run func(context.Context, caddycmd.Flags) (int, error)) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SilenceErrors = true // Command says them
	wrong := func(err error) (int, error) {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("%w: the command is caddy audit-log %s", err, cmd.Use)
	}
	cmd.RunE = Command(func(f caddycmd.Flags) (int, error) {
		if f.NArg() != n {
			return wrong(fmt.Errorf("%d arguments were given, not %d", f.NArg(), n))
		}
		ctx, stop := interruptible()
		defer stop()
		context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process
		return run(ctx, f)
	})
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Command(func(caddycmd.Flags) (int, error) { return wrong(err) })(cmd, nil)
	})
	return cmd
}

// sourceFlags are those that say where the log is.
func sourceFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("db", "", "a database file to read, instead of asking the running Caddy")
	f.String("table", sqlite.DefaultTable, "with --db: the name of the view that shows the log")
	f.String("key-file", "", "with --db and --identifier: the key of keyed hashes (default hash.key beside the database)")
	f.String("address", "", "the admin address of the running Caddy")
	f.StringP("config", "c", "", "the configuration file that names the admin address")
	f.StringP("adapter", "a", "", "the adapter of that file")
	f.String("store", "", storeHelp)
}

// storeHelp is the help of the flag --store.
const storeHelp = "which store of that Caddy, by its file or backend, if it has several open"

// databaseFile is the file of --db, "" for the running Caddy. A file that is named by nothing
// is a mistake, such as a variable that is not set: the running Caddy has another log.
func databaseFile(f caddycmd.Flags) (string, error) {
	if err := noneEmpty(f, "db", "table", "key-file", "address", "config", "adapter", "store"); err != nil {
		return "", err
	}
	db := f.String("db")
	if db != "" && (f.String("address") != "" || f.String("config") != "" || f.String("store") != "") {
		return "", errors.New("--db names a file; --address, --config and --store name a running Caddy: give one of them")
	}
	return db, nil
}

// noneEmpty says which of the flags was given without a value.
func noneEmpty(f caddycmd.Flags, names ...string) error {
	for _, name := range names {
		if found := f.Lookup(name); found != nil && found.Changed && found.Value.String() == "" {
			return fmt.Errorf("--%s is empty: give a value, or leave it out", name)
		}
	}
	return nil
}

// adminAddress is the admin address of the running Caddy that the flags name.
func adminAddress(f caddycmd.Flags) (string, error) {
	if err := noneEmpty(f, "address", "config", "adapter"); err != nil {
		return "", err
	}
	address, err := caddycmd.DetermineAdminAPIAddress(f.String("address"), nil, f.String("config"), f.String("adapter"))
	if err != nil {
		return "", fmt.Errorf("finding the admin address: %w", err)
	}
	return address, nil
}

// openLog reaches the log that the flags name. The caller calls close.
func openLog(ctx context.Context, f caddycmd.Flags) (client *logclient.Client, done func(), err error) {
	db, err := databaseFile(f)
	if err != nil {
		return nil, nil, err
	}
	if db != "" {
		typed := f.Lookup("identifier")
		return openFile(ctx, db, f.String("table"), f.String("key-file"), typed != nil && typed.Value.String() != "")
	}
	address, err := adminAddress(f)
	if err != nil {
		return nil, nil, err
	}
	client, err = adminClient(address)
	if err == nil && f.String("store") != "" {
		client.Common = url.Values{"store": {f.String("store")}}
	}
	return client, func() {}, err
}

// adminClient asks a running Caddy at its admin address.
func adminClient(address string) (*logclient.Client, error) {
	transport, origin, header, err := adminTransport(address)
	if err != nil {
		return nil, err
	}
	return &logclient.Client{Transport: transport, Base: origin + strings.TrimSuffix(adminEntries, "/"), Header: header}, nil
}

// adminTransport reaches a running Caddy at its admin address: URLs begin with origin there, and
// header goes with every request.
func adminTransport(address string) (transport *http.Transport, origin string, header http.Header, err error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil || a.PortRangeSize() > 1 {
		return nil, "", nil, fmt.Errorf("bad admin address %q: give one such as localhost:2019 or unix//run/caddy-admin.sock", address)
	}
	origin, header = "http://127.0.0.1", http.Header{}
	if a.IsUnixNetwork() {
		a.Host, _, _ = strings.Cut(a.Host, "|") // the permissions of the socket
	} else {
		origin = "http://" + a.JoinHostPort(0)
		header.Set("Origin", origin) // as Caddy's own commands do
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, a.Network, a.JoinHostPort(0))
		if err != nil {
			return nil, fmt.Errorf("asking Caddy at %s: %w (when no Caddy runs, name the database with --db)", address, err)
		}
		return c, nil
	}
	return &http.Transport{DialContext: dial}, origin, header, nil
}

// The words that filters know, for checks and completions.
var (
	statuses   = []string{string(storage.Success), string(storage.Failed), string(storage.Pending), string(storage.Unknown)}
	severities = []string{"low", "medium", "high", "critical"}
	classNames = []string{"sign-in", "sign-up", "sign-out", "mfa", "credential", "session", "account", "token", "admin", "organization", "custom"}
)

// filterFlags are those that say which entries.
func filterFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("user", "", `entries of this user id; "" for entries without a user`)
	f.String("action", "", "entries of this action, such as sign-in:email")
	f.String("class", "", "entries of this class, such as sign-in")
	f.String("status", "", "success, failed, pending or unknown")
	f.String("severity", "", "low, medium, high or critical")
	f.String("ip", "", "entries from this address, in any spelling; no network")
	f.String("identifier", "", "attempts on the account that is signed in to with this, such as an e-mail address")
	f.String("identifier-hash", "", "the same, by its hash as entries have it in metadata.identifierHash")
	f.String("text", "", "entries with this in action, user, address, agent, identifier, target user, error code or session hash")
	complete(cmd, "status", statuses...)
	complete(cmd, "severity", severities...)
	complete(cmd, "class", classNames...)
	complete(cmd, "db")
}

// timeFlags bound the time.
func timeFlags(f *pflag.FlagSet) {
	f.String("from", "", "not before this time: ISO 8601 such as 2026-01-31T12:00:00Z, or an age such as 7d")
	f.String("to", "", "not after this time; a second, a minute, a day, a month or a year counts to its end")
	f.String("since", "", "another word for --from")
}

// complete gives a flag's value completions; with no words, files.
func complete(cmd *cobra.Command, flag string, words ...string) {
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(words) == 0 {
		directive = cobra.ShellCompDirectiveDefault
	}
	// It fails for a flag that is not there, or is completed already: then there is nothing to do.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, directive))
}

// parameterOf are the parameters of the flags that filter.
var parameterOf = map[string]string{
	"user": "userId", "action": "action", "class": "class", "status": "status", "severity": "severity", "ip": "ip",
	"identifier": "identifier", "identifier-hash": "identifierHash", "text": "q",
}

// filters are the parameters that the flags mean.
func filters(f caddycmd.Flags, now time.Time) (url.Values, error) {
	q := url.Values{}
	for flag, parameter := range parameterOf {
		found := f.Lookup(flag)
		if found == nil || !found.Changed {
			continue
		}
		if found.Value.String() == "" && flag != "user" { // a variable that is not set must not mean all
			return nil, fmt.Errorf("--%s is empty: give a value, or leave it out", flag)
		}
		q.Set(parameter, found.Value.String())
	}
	if err := oneOf("--status", q.Get("status"), statuses); err != nil {
		return nil, err
	}
	if err := oneOf("--severity", q.Get("severity"), severities); err != nil {
		return nil, err
	}
	if text := q.Get("q"); len(text) > storage.MaxText {
		return nil, fmt.Errorf("--text has %d bytes: give at most %d", len(text), storage.MaxText)
	}
	return q, times(f, q, now)
}

// sayHowAccountsAreFound says on standard error that --text does not find what was typed to sign in,
// when that is what was looked for, or may be, since nothing was found.
func sayHowAccountsAreFound(q url.Values, nothing bool) {
	text := strings.TrimSpace(q.Get("q"))
	switch {
	case isAccount(text):
		fmt.Fprintf(os.Stderr, "--text does not find what was typed to sign in, which entries have masked (%s): --identifier %q finds the attempts on that account\n", oneLine(redact.Identifier(text)), text)
	case nothing && text != "":
		fmt.Fprintln(os.Stderr, "--text does not find what was typed to sign in, which entries have masked: --identifier finds the attempts on an account by all of it")
	}
}

// isAccount recognises an e-mail address and a telephone number, by how entries mask them.
func isAccount(text string) bool {
	masked := redact.Identifier(text)
	return !strings.ContainsAny(text, "* ") && strings.Contains(masked, "@") || strings.HasPrefix(masked, "+") && !strings.Contains(text, "*")
}

// times reads the flags of timeFlags, if the command has them.
func times(f caddycmd.Flags, q url.Values, now time.Time) error {
	if f.Lookup("from") == nil {
		return nil
	}
	if f.String("from") != "" && f.String("since") != "" {
		return errors.New("--from and --since mean the same: give one of them")
	}
	var from, to time.Time
	for _, bound := range []struct {
		flag, parameter string
		at              *time.Time
	}{{"from", "from", &from}, {"since", "from", &from}, {"to", "to", &to}} {
		text := f.String(bound.flag)
		if text == "" {
			if f.Lookup(bound.flag).Changed {
				return fmt.Errorf("--%s is empty: give a time, or leave it out", bound.flag)
			}
			continue
		}
		t, err := parseTime(text, now)
		if err == nil && bound.flag == "to" {
			t = endOf(text, t)
		}
		if t = t.UTC(); err == nil && (t.Year() < 1970 || t.Year() > 9999) {
			err = fmt.Errorf("%s is in the year %d: give a time from 1970 to 9999", text, t.Year())
		}
		if err != nil {
			return fmt.Errorf("--%s: %w", bound.flag, err)
		}
		*bound.at = t
		q.Set(bound.parameter, t.Format(storage.TimeLayout))
	}
	if !from.IsZero() && !to.IsZero() && from.After(to) {
		flag, text := "from", f.String("from")
		if text == "" {
			flag, text = "since", f.String("since")
		}
		return fmt.Errorf("--%s %s is after --to %s: nothing is between them", flag, text, f.String("to"))
	}
	return nil
}

// timeLayouts are the forms of ISO 8601 that flags may have; without a zone it is UTC.
var timeLayouts = []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02", "2006-01", "2006"}

// parseTime reads a time, or an age before now.
func parseTime(text string, now time.Time) (time.Time, error) {
	if age, err := caddy.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if t, ok := numbered(text); ok {
		return time.Time{}, fmt.Errorf("bad time %q: seconds and milliseconds since 1970 are not taken, since one looks like the other: give ISO 8601, such as %s if that is meant", text, t.Format(time.RFC3339))
	}
	return time.Time{}, fmt.Errorf("bad time %q: give ISO 8601 such as 2026-01-31T12:00:00Z or 2026-01-31, or an age such as 7d or 24h", text)
}

// numbered is the time that a number of seconds or, from twelve digits on, milliseconds since 1970 means.
func numbered(text string) (time.Time, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil || n < 1e8 || n >= 1e14:
		return time.Time{}, false
	case n < 1e11:
		return time.Unix(n, 0).UTC(), true
	}
	return time.UnixMilli(n).UTC(), true
}

// ends are the next beginnings of what layouts name that have no fraction of a second.
var ends = map[string]func(time.Time) time.Time{
	"2006":                   func(t time.Time) time.Time { return t.AddDate(1, 0, 0) },
	"2006-01":                func(t time.Time) time.Time { return t.AddDate(0, 1, 0) },
	time.DateOnly:            func(t time.Time) time.Time { return t.AddDate(0, 0, 1) },
	"2006-01-02T15:04Z07:00": nextMinute, "2006-01-02T15:04": nextMinute, "2006-01-02 15:04": nextMinute,
	time.RFC3339: nextSecond, "2006-01-02T15:04:05": nextSecond, time.DateTime: nextSecond,
}

func nextMinute(t time.Time) time.Time { return t.Add(time.Minute) }
func nextSecond(t time.Time) time.Time { return t.Add(time.Second) }

// endOf is the last moment of the year, month, day, minute or second that text names and t begins;
// t if it names a moment, as one with a fraction of a second or an age does.
func endOf(text string, t time.Time) time.Time {
	if strings.ContainsAny(text, ".,") { // layouts take a fraction that they do not name
		return t
	}
	for layout, next := range ends {
		if _, err := time.Parse(layout, text); err == nil {
			return next(t).Add(-time.Millisecond)
		}
	}
	return t
}

// oneOf says that a flag's value is none of a few words.
func oneOf(flag, value string, words []string) error {
	if value == "" || slices.Contains(words, value) {
		return nil
	}
	return fmt.Errorf("%s: unknown word %q: use %s or %s", flag, value, strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
}

// parameters are those of q with others.
func parameters(q url.Values, pairs ...string) url.Values {
	all := url.Values{}
	for name, v := range q {
		all[name] = v
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			all.Set(pairs[i], pairs[i+1])
		}
	}
	return all
}

// pages asks for page after page until limit entries were given to do; 0 for all. It
// returns the last page, without its entries, and how many there were.
func pages(ctx context.Context, c *logclient.Client, q url.Values, cursor string, limit int, do func([]logclient.Entry) error) (last logclient.Page, n int, err error) {
	for {
		size := storage.MaxLimit
		if limit > 0 {
			size = min(size, limit-n)
		}
		last, err = c.List(ctx, parameters(q, "limit", strconv.Itoa(size), "cursor", cursor))
		if err != nil {
			return last, n, err
		}
		n += len(last.Entries)
		if err := do(last.Entries); err != nil {
			return last, n, err
		}
		if cursor = last.NextCursor; cursor == "" || limit > 0 && n >= limit {
			return last, n, nil
		}
	}
}

// interrupted is a better error for what Ctrl-C did, and for what the surface says of a
// parameter.
func interrupted(ctx context.Context, err error, remedy string) error {
	if err != nil && ctx.Err() != nil {
		return errors.New(cmp.Or(remedy, "interrupted"))
	}
	return ofFlags(err)
}

// ofFlags says what is wrong with parameters by the flags that they came from.
func ofFlags(err error) error {
	var e *logclient.Error
	if !errors.As(err, &e) || e.Code != "VALIDATION_ERROR" {
		return err
	}
	if strings.HasPrefix(e.Message, "[query.step] Too small") { // stats has chosen the longest that it knows
		return errors.New("--from and --to are too far apart to be counted over time: give less than 2,000 years")
	}
	text := strings.ReplaceAll(e.Message, "[query.cursor] ", "--cursor: ")
	for flag, parameter := range parameterOf {
		text = strings.ReplaceAll(text, "[query."+parameter+"] ", "--"+flag+": ")
	}
	return errors.New(text)
}
