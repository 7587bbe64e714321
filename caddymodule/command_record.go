package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/tap"
)

// maxRecordedBody is the most that --max-body may be.
const maxRecordedBody = 16 << 20

func recordCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "record --to <address> [--listen <address>] [--output <file>] [--max-body <size>] [--keep-secrets]",
		Short: "Records traffic to make a profile from",
		Long: `
Stands between you and an auth server, and writes every exchange to a file until Ctrl-C. Use the server through it:
sign in, fail to, sign out, reset a password. Then make a profile from the file (docs/profiles.md), or send it to
somebody who does.

Secrets are replaced, the same one by the same placeholder everywhere: passwords, cookies, tokens, codes, keys. JWTs
keep their form. E-mail addresses become user1@example.com and so on. Use a test server and test accounts all the
same, and read the file before you send it: no rule knows every secret, and names of hosts, organizations and people
may still be in it.

--keep-secrets leaves everything but passwords as it is, for throw-away servers.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.String("to", "", "the auth server: host:port, or an http or https URL without a path")
	f.String("listen", "127.0.0.1:8088", "where to listen; beyond this machine only if an address says so")
	f.String("output", "", "the file to write (default recording-<time>.jsonl); it must not be there yet")
	f.String("max-body", "64KiB", "longer bodies are left out; at most 16MiB")
	f.Bool("keep-secrets", false, "replace passwords only")
	cmd.RunE = Command(runRecord)
	return cmd
}

// recordOptions are the flags of `record`, checked.
type recordOptions struct {
	to      *url.URL
	listen  string
	open    bool // beyond this machine
	output  string
	maxBody int64
	keep    bool
}

func parseRecordOptions(f caddycmd.Flags) (o recordOptions, err error) {
	if f.String("to") == "" {
		return o, errors.New("--to is required: the auth server, such as localhost:3000")
	}
	if o.to, err = tap.ParseTarget(f.String("to")); err != nil {
		return o, fmt.Errorf("--to: %w", err)
	}
	if o.listen, o.open, err = tap.ListenAddress(f.String("listen")); err != nil {
		return o, fmt.Errorf("--listen: %w", err)
	}
	size, err := humanize.ParseBytes(f.String("max-body"))
	if err != nil || size == 0 || size > maxRecordedBody {
		return o, fmt.Errorf("--max-body: bad size %q: use one such as 64KiB, up to 16MiB", f.String("max-body"))
	}
	o.maxBody, o.keep = int64(size), f.Bool("keep-secrets")
	if o.output = f.String("output"); o.output == "" {
		o.output = "recording-" + time.Now().Format("20060102-150405") + ".jsonl"
	}
	return o, nil
}

func runRecord(f caddycmd.Flags) (int, error) {
	o, err := parseRecordOptions(f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	scrubber, err := tap.NewScrubber(o.keep)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	ctx, stop := interruptible()
	defer stop()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--listen: %w", err)
	}
	defer func() { _ = l.Close() }() // it is closed already unless something failed
	file, err := tap.Create(o.output, o.to.Host, scrubber)
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--output: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if o.open {
		log.Warn("everybody who reaches this machine can use the server through this address", "listen", o.listen)
	}
	fmt.Printf("recording %s to %s: use the server at http://%s, then press Ctrl-C\n", o.to, o.output, browsable(l.Addr()))
	err = tap.NewProxy(o.to, file, o.maxBody, log).Serve(ctx, l)
	if err = errors.Join(err, file.Close()); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	fmt.Print(farewell(o.output, file, scrubber, o.keep))
	return caddy.ExitCodeSuccess, nil
}

// browsable is an address for a browser: cookies that a server sets for localhost
// need that name.
func browsable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return a.String()
}

// farewell says what was recorded and what to do with it.
func farewell(name string, file *tap.File, s *tap.Scrubber, keep bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d exchanges are in %s\n", file.Len(), name)
	if keep {
		b.WriteString("SECRETS ARE IN IT: only passwords were replaced. Keep it to yourself.\n")
	} else {
		fmt.Fprintf(&b, "%d secrets and %d e-mail addresses were replaced. Read the file before you send it to anybody: no rule\n"+
			"knows every secret, and names of hosts, organizations and people may still be in it.\n", s.Secrets(), s.Addresses())
	}
	fmt.Fprintf(&b, "Say in \"truth\" of each exchange what really happened (docs/profiles.md), then try a profile with\n\tcaddy audit-log profile check <profile> --traffic %s\n", name)
	return b.String()
}
