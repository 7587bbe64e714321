package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// Exit statuses of `caddy audit-log profile`, besides 0 and 1.
const (
	exitUsage  = 2
	exitMissed = 3
)

func profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Checks, lists and shows profiles of auth servers",
	}
	wrong := Command(func(f caddycmd.Flags) (int, error) {
		return exitUsage, fmt.Errorf("what to do with profiles is check, list, show or schema, not %q: see caddy audit-log profile --help", f.Arg(0))
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return wrong(cmd, args)
	}
	cmd.AddCommand(
		profileCheckCommand(),
		simpleCommand("list", "Lists the builtin profiles", 0, listProfiles),
		simpleCommand("show <name>", "Prints a builtin profile, to start one of your own from", 1, showProfile),
		simpleCommand("schema", "Prints the JSON Schema of profiles, for editors", 0, printSchema),
	)
	return cmd
}

func profileCheckCommand() *cobra.Command {
	cmd := simpleCommand("check <file or name> [--traffic <folder or file>]... [--base-path <path>] [--json]", "Checks a profile, and how it understands recorded traffic", 1, checkProfile)
	cmd.Long = `
Checks a profile, a file or a builtin one by its name: whether it can be read, what it has, and what in it is
probably not meant. With --traffic it plays recorded exchanges (see caddy audit-log record) in memory, and says for
each whether the log would be right: the outcome, and who it was. Exchanges whose "truth" is empty are listed with
what the log says of them. The name auto recognises the server by the recorded traffic, as a Caddy with that profile
would, and says of each recording which server it is and by what.

Exit status: 0 if all is well (warnings are no fault), 1 if the profile or a recording cannot be read, 2 if the
command was called wrongly, 3 if the log would be wrong about recorded exchanges.`
	cmd.Flags().StringArray("traffic", nil, "recorded exchanges: a .jsonl file, or a folder of them; may be repeated")
	cmd.Flags().String("base-path", "", "the base path of the recorded server, if it is not the profile's own")
	cmd.Flags().Bool("json", false, "print one JSON object")
	return cmd
}

// simpleCommand is a command that takes n arguments and ends with exitUsage if it is
// called wrongly.
func simpleCommand(use, short string, n int, run caddycmd.CommandFunc) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	wrong := func(err error) (int, error) {
		return exitUsage, fmt.Errorf("%w: the command is caddy audit-log profile %s", err, use)
	}
	cmd.RunE = Command(func(f caddycmd.Flags) (int, error) {
		if f.NArg() != n {
			return wrong(fmt.Errorf("%d arguments were given, not %d", f.NArg(), n))
		}
		return run(f)
	})
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Command(func(caddycmd.Flags) (int, error) { return wrong(err) })(cmd, nil)
	})
	return cmd
}

func listProfiles(caddycmd.Flags) (int, error) {
	t := tabwriter.NewWriter(Stdout(), 0, 0, 2, ' ', 0)
	for _, name := range profile.Names() {
		p, err := profile.Builtin(name)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		fmt.Fprintf(t, "%s\t%s\t%d routes\n", name, p.Title, len(p.Routes))
	}
	return caddy.ExitCodeSuccess, t.Flush()
}

func showProfile(f caddycmd.Flags) (int, error) {
	text, err := profile.Text(f.Arg(0))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	_, err = Stdout().Write(text)
	return caddy.ExitCodeSuccess, err
}

func printSchema(caddycmd.Flags) (int, error) {
	_, err := Stdout().Write(profile.Schema())
	return caddy.ExitCodeSuccess, err
}

// checked is what `profile check` found, and its output under --json.
type checked struct {
	Profile  *profileFacts     `json:"profile"`
	Warnings []profile.Warning `json:"warnings"`
	// Recognised is, with auto, which server each recording gave away.
	Recognised []recognised `json:"recognised,omitempty"`
	// Scores of the recordings, the total last; Misses a line each.
	Scores []recordingScore `json:"scores,omitempty"`
	Misses []string         `json:"misses,omitempty"`
	// Unlabelled exchanges, with what the log says of them.
	Unlabelled []string `json:"unlabelled,omitempty"`

	auto  bool // the profile is the first one only
	table []*replay.Score
}

// profileFacts is what a profile has.
type profileFacts struct {
	Name     string `json:"name"`
	Title    string `json:"title"`
	Extends  string `json:"extends,omitempty"`
	BasePath string `json:"basePath"`
	// Routes by class.
	Routes      map[string]int      `json:"routes"`
	Session     []string            `json:"session"`
	Credentials profile.Credentials `json:"credentials"`
	Signs       int                 `json:"signs"`
}

// recognised is which server a recording gave away, and by what; all but Name is empty if none.
type recognised struct {
	Name     string `json:"name"`
	Profile  string `json:"profile,omitempty"`
	Title    string `json:"title,omitempty"`
	BasePath string `json:"basePath,omitempty"`
	Sure     bool   `json:"sure"`
	By       string `json:"by,omitempty"`
}

// recordingScore is how well a recording is understood, see replay.Score.
type recordingScore struct {
	Name       string `json:"name"`
	Exchanges  int    `json:"exchanges"`
	Unlabelled int    `json:"unlabelled"`
	Wanted     int    `json:"wanted"`
	Outcome    int    `json:"outcome"`
	User       int    `json:"user"`
	Both       int    `json:"both"`
	Missing    int    `json:"missing"`
	Noise      int    `json:"noise"`
	Extra      int    `json:"extra"`
}

func checkProfile(f caddycmd.Flags) (int, error) {
	traffic, err := f.GetStringArray("traffic")
	if err != nil {
		return exitUsage, err
	}
	c := checked{Warnings: []profile.Warning{}, auto: f.Arg(0) == auto}
	p, recognizer, err := c.check(f.Arg(0), f.String("base-path"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	for _, path := range traffic {
		if err := c.replay(path, p, recognizer); err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--traffic: %w", err)
		}
	}
	c.sum()
	if f.Bool("json") {
		e := json.NewEncoder(Stdout())
		e.SetIndent("", "\t")
		err = e.Encode(c)
	} else {
		c.print(Stdout())
	}
	if len(c.Misses) > 0 {
		return exitMissed, errors.Join(err, fmt.Errorf("the log would be wrong about what was recorded, %d times", len(c.Misses)))
	}
	return caddy.ExitCodeSuccess, err
}

// check reads the profile of that name or file.
func (c *checked) check(name, base string) (*profile.Profile, *profile.Recognizer, error) {
	var recognizer *profile.Recognizer
	file := name
	if name == auto {
		all, err := profile.Builtins()
		if err != nil {
			return nil, nil, err
		}
		recognizer, file = profile.NewRecognizer(all), "generic"
	}
	text, err := profile.File(file)
	if err != nil {
		return nil, nil, err
	}
	p, warnings, err := profile.Check(text)
	if err == nil && base != "" {
		p, err = p.WithBasePath(base)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if c.Profile = factsOf(p); recognizer == nil {
		c.Warnings = append(c.Warnings, warnings...)
	}
	return p, recognizer, nil
}

func factsOf(p *profile.Profile) *profileFacts {
	facts := &profileFacts{
		Name: p.Name, Title: p.Title, Extends: p.Extends, BasePath: cmp.Or(p.Base(), "/"), Routes: make(map[string]int),
		Session: []string{}, Credentials: p.Credentials, Signs: len(p.Recognize),
	}
	for _, r := range p.Routes {
		facts.Routes[r.Class]++
	}
	for _, s := range p.Session {
		target := s.Path
		if s.Query != "" {
			target += "?" + s.Query
		}
		facts.Session = append(facts.Session, cmp.Or(s.Method, "GET")+" "+target)
	}
	return facts
}

// replay plays recordings.
func (c *checked) replay(path string, p *profile.Profile, recognizer *profile.Recognizer) error {
	files, err := replay.Read(path)
	if err != nil {
		return err
	}
	for _, f := range files {
		of := recognised{Name: f.Name}
		entries, err := replay.Run(f, replay.Options{Profile: p, Recognizer: recognizer, Recognised: func(found profile.Recognition) {
			of = recognised{f.Name, found.Profile.Name, found.Profile.Title, cmp.Or(found.Profile.Base(), "/"), found.Certainty == profile.Certain, found.Why}
		}})
		if err != nil {
			return err
		}
		if recognizer != nil {
			c.Recognised = append(c.Recognised, of)
		}
		c.table = append(c.table, replay.ScoreFile(f, p, entries))
		for _, x := range f.Exchanges {
			if !x.Labelled() && x.Place(p) == replay.Inside {
				c.Unlabelled = append(c.Unlabelled, f.Name+" "+replay.Describe(x, entries[x]))
			}
		}
	}
	return nil
}

// sum adds the scores up.
func (c *checked) sum() {
	if len(c.table) == 0 {
		return
	}
	for _, s := range append(slices.Clone(c.table), replay.Total(c.table)) {
		c.Scores = append(c.Scores, recordingScore{
			s.Name, s.Exchanges, s.Unlabelled, s.Wanted, s.Outcome, s.User, s.Both, s.Missing, s.Noise, s.Extra,
		})
	}
	for _, s := range c.table {
		for i := range s.Misses {
			c.Misses = append(c.Misses, s.Misses[i].String())
		}
	}
}

// print writes it for people.
func (c *checked) print(w io.Writer) {
	if c.auto {
		fmt.Fprintln(w, "auto: the server is recognised by its traffic; until then paths are read with")
	}
	c.Profile.print(w)
	for _, warning := range c.Warnings {
		fmt.Fprintln(w, "warning:", oneLine(fmt.Sprint(warning)))
	}
	if len(c.table) == 0 {
		return
	}
	fmt.Fprintln(w)
	for _, of := range c.Recognised {
		of.print(w)
	}
	replay.Print(w, c.table)
	for _, miss := range c.Misses {
		fmt.Fprintln(w, oneLine(miss))
	}
	if len(c.Unlabelled) > 0 {
		fmt.Fprintf(w, "\n%d exchanges do not say in \"truth\" what really happened. The log says:\n", len(c.Unlabelled))
	}
	for _, line := range c.Unlabelled {
		fmt.Fprintln(w, oneLine(line))
	}
}

func (r *recognised) print(w io.Writer) {
	if r.Profile == "" {
		fmt.Fprintf(w, "%s: no server was recognised\n", oneLine(r.Name))
		return
	}
	unsure := ""
	if !r.Sure {
		unsure = "; other servers may have this sign too"
	}
	fmt.Fprintf(w, "%s: recognised as %s (%s), base path %s, by %s%s\n", oneLine(r.Name), oneLine(r.Profile), oneLine(r.Title), oneLine(r.BasePath), oneLine(r.By), unsure)
}

func (p *profileFacts) print(w io.Writer) {
	fmt.Fprintf(w, "%s (%s), base path %s", oneLine(p.Name), oneLine(cmp.Or(p.Title, "no title")), oneLine(p.BasePath))
	if p.Extends != "" {
		fmt.Fprintf(w, ", extends %s", p.Extends)
	}
	total, classes := 0, []string{}
	for _, class := range slices.Sorted(maps.Keys(p.Routes)) {
		total += p.Routes[class]
		classes = append(classes, fmt.Sprintf("%s %d", class, p.Routes[class]))
	}
	fmt.Fprintf(w, "\nroutes: %d (%s)\n", total, joined(classes))
	fmt.Fprintf(w, "session endpoint: %s\n", joined(p.Session))
	c := &p.Credentials
	fmt.Fprintf(w, "credentials: cookies %s; headers %s; issued in headers %s, in the body at %s\n",
		joined(c.Cookies), joined(c.Headers), joined(c.ResponseHeaders), joined(c.ResponseBody))
	fmt.Fprintf(w, "signs to recognise it by: %d\n", p.Signs)
}

// joined joins texts, and says so when there are none.
func joined(texts []string) string { return cmp.Or(strings.Join(texts, ", "), "none") }
