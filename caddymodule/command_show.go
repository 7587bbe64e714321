package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
)

func showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <id> [--output table|json] [--db <file> | --address <admin> | --config <file>]",
		Short: "Shows one entry in full",
		Long: `
Shows one entry in full, with its metadata and the user agent.
` + whereHelp + exitHelp,
		Example: `  caddy audit-log show 0199e1a2-7c1b-7d3e-9f00-3b7f6c2a9d10
  caddy audit-log show 0199e1a2-7c1b-7d3e-9f00-3b7f6c2a9d10 --output json`,
	}
	sourceFlags(cmd)
	outputFlags(cmd, outputTable, outputJSON)
	return readsLog(cmd, 1, runShow)
}

func runShow(ctx context.Context, f caddycmd.Flags) (int, error) {
	form, s, err := outputOf(f, outputJSON, outputTable, outputJSON)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	client, done, err := openLog(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer done()
	e, err := client.Get(ctx, f.Arg(0))
	switch {
	case logclient.NotFound(err):
		fmt.Fprintln(os.Stderr, "nothing found: no entry has this id")
		return exitNothing, nil
	case err != nil:
		return caddy.ExitCodeFailedStartup, interrupted(ctx, err, "")
	}
	var whole bytes.Buffer
	if form == outputJSON {
		if err := json.Indent(&whole, e.Raw, "", "\t"); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		_, err := fmt.Fprintln(Stdout(), whole.String())
		return caddy.ExitCodeSuccess, err
	}
	return caddy.ExitCodeSuccess, showEntry(s, &e)
}

// showEntry prints the fields of an entry, one a line, and then its metadata.
func showEntry(s *screen, e *logclient.Entry) error {
	field := func(name, safe string) {
		s.line(s.paint(fmt.Sprintf("%-10s", name), "1"), "  ", safe)
	}
	field("id", oneLine(e.ID))
	field("time", oneLine(e.CreatedAt))
	field("action", oneLine(e.Action))
	field("status", s.word(e.Status))
	field("severity", s.word(e.Severity))
	field("user", oneLine(orDash(e.UserID)))
	field("address", oneLine(orDash(e.IPAddress)))
	field("agent", oneLine(orDash(e.UserAgent)))
	var metadata bytes.Buffer
	if err := json.Indent(&metadata, e.Metadata, "", "  "); err != nil {
		return fmt.Errorf("the metadata cannot be read: %w", err)
	}
	field("metadata", "")
	for line := range strings.SplitSeq(metadata.String(), "\n") {
		s.line("  ", oneLine(line))
	}
	return nil
}
