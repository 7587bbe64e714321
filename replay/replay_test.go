package replay_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// recordings are the servers' recordings and profiles.
var recordings = []struct{ path, profile string }{
	{"better-auth", "better_auth"}, {"gotrue.jsonl", "supabase"}, {"kratos-v26.jsonl", "kratos"}, {"pocketbase.jsonl", "pocketbase"},
	{"casdoor.jsonl", "casdoor"}, {"authelia.jsonl", "authelia"}, {"dex.jsonl", "dex"}, {"hydra.jsonl", "hydra"}, {"oauth2-proxy.jsonl", "oauth2_proxy"},
}

// written are exchanges that were written by hand, from the servers' sources.
var written = []struct{ path, profile string }{
	{"written/keycloak.jsonl", "keycloak"}, {"written/authentik.jsonl", "authentik"}, {"written/logto.jsonl", "logto"},
	{"written/zitadel.jsonl", "zitadel"}, {"written/authjs.jsonl", "authjs"},
}

// TestServersThatDoNotRunHere replays what was written by hand, and recognises it.
func TestServersThatDoNotRunHere(t *testing.T) {
	all, err := profile.Builtins()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range written {
		f := score(t, r.path, r.profile, "auto", all)
		t.Logf("%s: outcome right in %d of %d, and the user in %d; missing %d, noise %d", f.name, f.outcome, f.wanted, f.both, f.missing, f.noise)
		if f.percent(f.both) < 90 || f.noise > 0 {
			t.Errorf("%s: %s", f.name, strings.Join(f.misses, "\n"))
		}
	}
}

// TestALongLineIsRead: the recorder keeps bodies of many MiB if it is told to.
func TestALongLineIsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.jsonl")
	line := `{"flow":"f","seq":1,"response":{"body":"` + strings.Repeat("x", 17<<20) + "\"}}\n"
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := replay.Read(file)
	if err != nil || len(files[0].Exchanges[0].Response.Body) != 17<<20 {
		t.Error(err)
	}
}

// gates are what a way of reading must reach over all recordings, in percent.
var gates = map[string]struct{ outcome, both, noise float64 }{
	"own": {99, 97, 2}, "alone": {99, 90, 2}, "auto": {99, 97, 2}, "generic": {93, 0, 2},
}

// TestEveryServer prints the table of all recordings, read with the server's own
// profile, with it while the session endpoint does not answer (alone), with auto,
// which starts knowing nothing, and with generic.
func TestEveryServer(t *testing.T) {
	all, err := profile.Builtins()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"own", "alone", "auto", "generic"} {
		var table strings.Builder
		w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "server\texchanges\twanted\toutcome right\tuser right\tboth\tmissing\tnoise\t")
		total := figures{name: "total"}
		for _, r := range recordings {
			f := score(t, r.path, r.profile, how, all)
			f.print(w)
			total.add(f)
		}
		total.print(w)
		_ = w.Flush()
		fmt.Fprintf(&table, "by status codes alone the outcome would be right in %d (%.1f %%)\n", total.byStatus, total.percent(total.byStatus))
		t.Logf("%s profile\n%s%s", how, &table, strings.Join(total.misses, "\n"))
		gate := gates[how]
		if got := total.percent(total.outcome); got < gate.outcome {
			t.Errorf("%s: outcome right in %.1f %%, want %.0f", how, got, gate.outcome)
		}
		if got := total.percent(total.both); got < gate.both {
			t.Errorf("%s: outcome and user right in %.1f %%, want %.0f", how, got, gate.both)
		}
		if got := 100 * float64(total.noise) / float64(max(total.exchanges-total.wanted, 1)); got > gate.noise {
			t.Errorf("%s: %.1f %% of what is not worth an entry has one, want at most %.0f", how, got, gate.noise)
		}
	}
}

// figures of one server: exchanges whose outcome the server hides are left out.
type figures struct {
	name                                                   string
	exchanges, wanted, outcome, user, both, missing, noise int
	byStatus                                               int // outcomes that a status code says rightly
	misses                                                 []string
}

func (f *figures) percent(n int) float64 { return 100 * float64(n) / float64(f.wanted) }

func (f *figures) add(o *figures) {
	f.exchanges, f.wanted, f.outcome, f.user = f.exchanges+o.exchanges, f.wanted+o.wanted, f.outcome+o.outcome, f.user+o.user
	f.both, f.missing, f.noise = f.both+o.both, f.missing+o.missing, f.noise+o.noise
	f.byStatus += o.byStatus
	f.misses = append(f.misses, o.misses...)
}

func (f *figures) print(w *tabwriter.Writer) {
	fmt.Fprintf(w, "%s\t%d\t%d\t%d (%.1f %%)\t%d\t%d (%.1f %%)\t%d\t%d\t\n", f.name, f.exchanges, f.wanted,
		f.outcome, f.percent(f.outcome), f.user, f.both, f.percent(f.both), f.missing, f.noise)
}

// score replays a server's recordings one way.
func score(t *testing.T, path, name, how string, all []*profile.Profile) *figures {
	t.Helper()
	files, err := replay.Read("../testdata/traffic/" + path)
	if err != nil {
		t.Fatal(err)
	}
	own, err := profile.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	if name == "authjs" { // @auth/express, not Next.js
		if own, err = own.WithBasePath("/auth"); err != nil {
			t.Fatal(err)
		}
	}
	first, recognizer := own, (*profile.Recognizer)(nil)
	if how == "auto" || how == "generic" {
		if first, err = profile.Builtin("generic"); err != nil {
			t.Fatal(err)
		}
	}
	if how == "auto" {
		recognizer = profile.NewRecognizer(all)
	}
	out := &figures{name: name}
	for _, f := range files {
		f.Exchanges = visible(f.Exchanges, own)
		entries, err := replay.Run(f, replay.Options{Profile: first, Recognizer: recognizer, Alone: how == "alone"})
		if err != nil {
			t.Fatal(err)
		}
		findSecrets(t, f, entries)
		s := replay.ScoreFile(f, own, entries)
		out.add(&figures{exchanges: s.Exchanges, wanted: s.Wanted, outcome: s.Outcome, user: s.User, both: s.Both, missing: s.Missing, noise: s.Noise + s.Extra, byStatus: byStatus(f)})
		for i := range s.Misses {
			if m := &s.Misses[i]; m.Kind != "action" && how != "generic" && how != "alone" {
				out.misses = append(out.misses, m.String())
			}
		}
	}
	return out
}

// byStatus counts the events whose outcome is what the status code says.
func byStatus(f *replay.File) int {
	n := 0
	for _, x := range f.Exchanges {
		says := "success"
		if x.Response.Status >= 400 {
			says = "failed"
		}
		if x.Wanted() && (says == x.Truth.Outcome || says == "success" && x.Truth.Outcome == "noop") {
			n++
		}
	}
	return n
}

// visible leaves out what the log's own API answers and what a server hides from
// everybody.
func visible(exchanges []*replay.Exchange, p *profile.Profile) []*replay.Exchange {
	var out []*replay.Exchange
	for _, x := range exchanges {
		if x.Place(p) != replay.OwnAPI && !x.Truth.Indistinguishable {
			out = append(out, x)
		}
	}
	return out
}

// findSecrets looks for what the recording keeps secret in what was stored.
func findSecrets(t *testing.T, f *replay.File, entries map[*replay.Exchange][]storage.Entry) {
	t.Helper()
	var stored bytes.Buffer
	for _, list := range entries {
		for _, e := range list {
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			stored.Write(b)
		}
	}
	for _, x := range f.Exchanges {
		for secret, where := range x.Secrets() {
			if secret == "password" {
				continue // a bad password, which is a word of actions too
			}
			if bytes.Contains(stored.Bytes(), []byte(secret)) {
				t.Errorf("%s %s: the %s %q stands in an entry", f.Name, x.ID(), where, secret)
			}
		}
	}
}
