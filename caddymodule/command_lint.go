package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule/lint"
)

// exitFindings is the exit status of a lint that has found something.
const exitFindings = 1

func lintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lint <Caddyfile> [--adapter <name>] [--json]   (or --config <Caddyfile>)",
		Short: "Finds what makes the log incomplete, or lets secrets out beside it",
		Long: `
Looks through a Caddyfile, or the JSON of a configuration, for what makes the audit log incomplete or lets secrets
out beside it: audit_log behind a path matcher, another way to the auth server, logs of Caddy that show tokens,
proxies that let clients choose their address, options that do nothing. Each finding has file and line (of a
Caddyfile) or the path in the configuration (of JSON), and what to do. Nothing is started.

What of it Caddy can see by itself is logged as warnings at every start, too.

Exit status: 0 if there is nothing to say, or only of paths of your own, 1 if there are findings, 2 if the command was called wrongly or the file
cannot be read.`,
	}
	cmd.Flags().StringP("config", "c", "", "the file, as Caddy's other commands name it")
	cmd.Flags().StringP("adapter", "a", "", "the adapter of the file: caddyfile, or json for none; found out from its name if not given")
	cmd.Flags().Bool("json", false, "print one JSON object")
	return calledWith(cmd, func(f caddycmd.Flags) int {
		if f.String("config") != "" {
			return 0
		}
		return 1
	}, runLint)
}

// calledWith lets a command take as many arguments as wanted says, and end with exitUsage
// if it is called wrongly.
func calledWith(cmd *cobra.Command, wanted func(caddycmd.Flags) int, run caddycmd.CommandFunc) *cobra.Command {
	wrong := func(err error) (int, error) {
		return exitUsage, fmt.Errorf("%w: the command is caddy audit-log %s", err, cmd.Use)
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = Command(func(f caddycmd.Flags) (int, error) {
		if n := wanted(f); f.NArg() != n {
			return wrong(fmt.Errorf("%d arguments were given, not %d", f.NArg(), n))
		}
		return run(f)
	})
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Command(func(caddycmd.Flags) (int, error) { return wrong(err) })(cmd, nil)
	})
	return cmd
}

func runLint(f caddycmd.Flags) (int, error) {
	file := cmp.Or(f.String("config"), f.Arg(0))
	findings, err := lintFile(file, f.String("adapter"))
	if err != nil {
		return exitUsage, err
	}
	if f.Bool("json") {
		err = printJSON(Stdout(), map[string]any{"findings": append([]lint.Finding{}, findings...)})
	} else {
		err = printFindings(Stdout(), file, findings)
	}
	switch {
	case err != nil:
		return exitUsage, err
	case slices.ContainsFunc(findings, func(f lint.Finding) bool { return f.Rule != lint.UnknownPath || f.Severity != lint.Low }): // a path of one's own may be meant
		return exitFindings, fmt.Errorf("%s: %d findings", file, len(findings))
	}
	return caddy.ExitCodeSuccess, nil
}

// lintFile reads a file as its adapter says.
func lintFile(file, adapter string) ([]lint.Finding, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	options := lint.Options{Profile: loadProfile}
	if adapter == "" && strings.EqualFold(filepath.Ext(file), ".json") {
		adapter = "json"
	}
	switch adapter {
	case "", "caddyfile":
		findings, err := lint.Caddyfile(file, body, options)
		if err != nil {
			return nil, fmt.Errorf("adapting %s: %w", file, err)
		}
		return findings, nil
	case "json":
		return lint.Check(body, options)
	}
	a := caddyconfig.GetAdapter(adapter)
	if a == nil {
		return nil, fmt.Errorf("unknown adapter %q: use caddyfile, json, or one that this Caddy was built with", adapter)
	}
	adapted, _, err := a.Adapt(body, map[string]any{"filename": file})
	if err != nil {
		return nil, fmt.Errorf("adapting %s: %w", file, err)
	}
	return lint.Check(adapted, options)
}

// printFindings writes them for people, in the form that editors jump to.
func printFindings(w io.Writer, file string, findings []lint.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintf(w, "%s: nothing to say\n", oneLine(file))
		return err
	}
	var errs []error
	for _, f := range findings {
		at := f.Path
		if f.File != "" {
			at = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		_, err := fmt.Fprintf(w, "%s: %s: %s [%s]\n\t%s\n", oneLine(at), f.Severity, oneLine(f.Text), f.Rule, oneLine(f.Remedy))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(v)
}
