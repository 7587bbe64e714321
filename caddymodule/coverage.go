package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// storeCoverage is what GET /audit-log/coverage says of the handlers that share a
// store.
type storeCoverage struct {
	// Store is its backend, such as sqlite; Path its file, if it has one.
	Store string `json:"store"`
	Path  string `json:"path,omitempty"`
	// Routes that no profile names, since Caddy started; the most frequent first.
	Routes []suggestedRoute `json:"routes"`
	// Others counts the exchanges of routes for which there was no room.
	Others uint64 `json:"others"`
}

// suggestedRoute is a route with the line for it.
type suggestedRoute struct {
	recorder.CoveredRoute
	// Suggestion is a line for the profile, guessed from the words in the path.
	Suggestion profile.Route `json:"suggestion"`
}

func serveCoverage(w http.ResponseWriter, _ *http.Request) error {
	all := []storeCoverage{}
	for _, p := range pooledStores() {
		c := storeCoverage{Store: p.backend(), Path: p.now().path, Routes: []suggestedRoute{}}
		routes, others := p.coverage.Snapshot()
		c.Others = others
		for _, r := range routes {
			c.Routes = append(c.Routes, suggestedRoute{r, profile.Guess(r.Method, r.Path)})
		}
		all = append(all, c)
	}
	return writeJSON(w, map[string]any{"stores": all})
}

func coverageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "coverage [--all] [--json] [--address <admin> | --config <file>]",
		Short: "Lists the routes that no profile names",
		Long: `
Lists what clients have asked the auth server for since Caddy started and what no line of the profile names, with
a line to begin with for each. Such requests are recorded all the same, under their path; with a line the log knows
what they mean. Ids and secrets in paths are shown as :id and :token.

What the server never had (404, 405) is only counted; --all lists it too.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.Bool("all", false, "also list what was always answered with 404 or 405")
	f.Bool("json", false, "print the answer of the admin endpoint as it is")
	f.String("address", "", "the admin address of the running Caddy")
	f.StringP("config", "c", "", "the configuration file that names the admin address")
	f.StringP("adapter", "a", "", "the adapter of that file")
	cmd.RunE = Command(runCoverage)
	return cmd
}

func runCoverage(f caddycmd.Flags) (int, error) {
	address, err := adminAddress(f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, adminCoverage, nil, nil)
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("asking Caddy at %s: %w (the list is in the memory of the running Caddy: start it, or name its --address)", address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if f.Bool("json") {
		_, err := io.Copy(Stdout(), resp.Body)
		return status(err), err
	}
	var answer struct{ Stores []storeCoverage }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("reading the answer of Caddy at %s: %w", address, err)
	}
	if len(answer.Stores) == 0 {
		return caddy.ExitCodeFailedStartup, errors.New("the running configuration has no audit_log")
	}
	for i := range answer.Stores {
		err = errors.Join(err, answer.Stores[i].print(Stdout(), f.Bool("all")))
	}
	return status(err), err
}

// status is the exit status of a command that ended so.
func status(err error) int {
	if err != nil {
		return caddy.ExitCodeFailedStartup
	}
	return caddy.ExitCodeSuccess
}

// print writes it for people: a table, then the lines to paste.
func (c *storeCoverage) print(w io.Writer, all bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "METHOD\tPATH\tCOUNT\tSUCCEEDED\tFAILED\tNOT FOUND\tFIRST\tLAST\tPROFILE")
	var lines []string
	hidden := 0
	for _, r := range c.Routes {
		if !r.Served() && !all {
			hidden++
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", oneLine(r.Method), oneLine(strings.TrimSuffix(r.BasePath, "/")+r.Path), r.Count, r.Succeeded, r.Failed, r.NotFound,
			r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339), oneLine(r.Profile))
		line, err := json.Marshal(r.Suggestion)
		if err != nil {
			return err
		}
		lines = append(lines, string(line))
	}
	where := oneLine(cmp.Or(c.Path, c.Store))
	if len(lines) == 0 {
		fmt.Fprintf(w, "%s: the profiles name everything that was asked for and found\n", where)
	} else {
		fmt.Fprintf(w, "%s: %d routes that no profile names\n", where, len(lines))
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(w, "\nLines for \"routes\" of a profile of your own, guessed from the words in the paths. Check them:\n\t%s\n", strings.Join(lines, ",\n\t"))
	}
	return c.printRest(w, hidden)
}

// printRest says what is not in the table.
func (c *storeCoverage) printRest(w io.Writer, hidden int) (err error) {
	if hidden > 0 {
		_, err = fmt.Fprintf(w, "%d more were always answered with 404 or 405; --all lists them\n", hidden)
	}
	if c.Others > 0 {
		_, err = fmt.Fprintf(w, "%d requests of still other routes, for which there was no room (%d are kept)\n", c.Others, recorder.MaxCoverage)
	}
	return err
}
