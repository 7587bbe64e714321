package replay

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"sync"
	"text/tabwriter"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Score counts how well the entries of a recording say what happened.
type Score struct {
	// Name of the recording.
	Name string
	// Exchanges that the auth server answered under the audit log's eyes; Outside
	// and Own went elsewhere (see Place). Those outside are compared, too.
	Exchanges, Outside, Own int
	// Unlabelled exchanges do not say what really happened: nothing is compared.
	Unlabelled int
	// Wanted exchanges are worth an entry. Outcome, User and Both of them have
	// one that says it right; Missing have none.
	Wanted, Outcome, User, Both, Missing int
	// Noise is entries of exchanges that are not worth one, Extra those beyond
	// the first of an exchange.
	Noise, Extra int
	// Actions is how many actions could be compared with the plugin's, and
	// SameAction how many are the same.
	Actions, SameAction int
	// Plugin is the plugin's figure on the same exchanges.
	Plugin Figure
	// Misses are all entries that are wrong, missing or too many, and answers of the session
	// endpoint that are misread.
	Misses []Miss
}

// Figure is what the plugin got right of the wanted exchanges of which the
// recording says what it wrote.
type Figure struct{ Wanted, Outcome, User, Both, Missing, Noise int }

// Miss is one exchange whose entry is not as wanted.
type Miss struct {
	File     string
	Exchange *Exchange
	// Kind is "wrong", "missing", "noise", "extra", "action" or "session".
	Kind string
	// Want and Got are "outcome user", actions or, of the session endpoint, users.
	Want, Got string
	// Entry in question; nil if missing.
	Entry *storage.Entry
}

func (m *Miss) String() string {
	r := &m.Exchange.Request
	return fmt.Sprintf("%-8s %s %s: want %s, got %s (%s %.80s -> %d)", m.Kind, m.File, m.Exchange.ID(), m.Want, m.Got, r.Method, r.shown(), m.Exchange.Response.Status)
}

// Describe says what the log has of an exchange, for those that do not say what
// really happened.
func Describe(x *Exchange, entries []storage.Entry) string {
	made := "no entry"
	for i := range entries {
		what := entries[i].Action + " " + say(string(entries[i].Status), entries[i].UserID)
		if made += ", " + what; i == 0 {
			made = what
		}
	}
	return fmt.Sprintf("%s: %s %.80s -> %d: %s", x.ID(), x.Request.Method, x.Request.shown(), x.Response.Status, made)
}

// masks hides what is secret in targets that a person is shown.
var masks = sync.OnceValues(func() (*redact.Redactor, error) { return redact.New(redact.Options{}) })

// shown is the target without secrets: a report is for terminals and for issues.
func (r *Request) shown() string {
	m, err := masks()
	if err != nil { // cannot happen: there are no options to be wrong
		return "(a target)"
	}
	return m.URL(r.Path)
}

// ScoreFile compares the entries of a recording's exchanges, oldest first, with
// the truth.
func ScoreFile(f *File, p *profile.Profile, entries map[*Exchange][]storage.Entry) *Score {
	s := &Score{Name: f.Name}
	for _, x := range f.Exchanges {
		switch x.Place(p) {
		case OwnAPI:
			s.Own++
		case Outside: // an entry there is of a route that says so; without any the base path may be wrong
			s.Outside++
			s.compare(x, entries[x])
		case Inside:
			s.Exchanges++
			s.plugin(x)
			if !x.Labelled() {
				s.Unlabelled++
			}
			s.compare(x, entries[x])
		}
	}
	s.sessions(f, p)
	return s
}

// compare compares the entries of an exchange with its truth, if it says that.
func (s *Score) compare(x *Exchange, entries []storage.Entry) {
	switch {
	case !x.Labelled():
	case x.Wanted():
		s.wanted(x, entries)
	default:
		s.noise(x, entries)
	}
}

// sessions looks for answers of the session endpoint that name a user whom the profile does not
// find in them.
func (s *Score) sessions(f *File, p *profile.Profile) {
	o := NewOracle(p, f)
	for _, q := range o.asked {
		x := q.exchange
		user := o.ownerOf(x, o.sent(http.Header(x.Request.Headers)))
		if user == "" || !mentions(x, user) {
			continue // nobody is signed in, as far as is known
		}
		if got := q.user(); got != user {
			s.miss(x, "session", user, cmp.Or(got, "nobody"), nil)
		}
	}
}

func (s *Score) miss(x *Exchange, kind, want, got string, e *storage.Entry) {
	s.Misses = append(s.Misses, Miss{File: s.Name, Exchange: x, Kind: kind, Want: want, Got: got, Entry: e})
}

func (s *Score) noise(x *Exchange, entries []storage.Entry) {
	for i := range entries {
		s.Noise++
		s.miss(x, "noise", "no entry", say(string(entries[i].Status), entries[i].UserID)+" "+entries[i].Action, &entries[i])
	}
}

func (s *Score) wanted(x *Exchange, entries []storage.Entry) {
	s.Wanted++
	want := say(x.Truth.Outcome, x.Truth.User)
	if len(entries) == 0 {
		s.Missing++
		s.miss(x, "missing", want, "no entry", nil)
		return
	}
	e := &entries[0]
	outcome, user := x.outcomeIs(string(e.Status)), e.UserID == x.Truth.User
	count(&s.Outcome, outcome)
	count(&s.User, user)
	count(&s.Both, outcome && user)
	if !outcome || !user {
		s.miss(x, "wrong", want, say(string(e.Status), e.UserID), e)
	}
	for i := range entries[1:] {
		s.Extra++
		s.miss(x, "extra", "one entry", say(string(entries[i+1].Status), entries[i+1].UserID)+" "+entries[i+1].Action, &entries[i+1])
	}
	if len(x.Plugin) == 0 {
		return
	}
	s.Actions++
	count(&s.SameAction, e.Action == x.Plugin[0].Action)
	if e.Action != x.Plugin[0].Action {
		s.miss(x, "action", x.Plugin[0].Action, e.Action, e)
	}
}

// outcomeIs accepts more than one status where nobody can see the outcome: a
// noop was answered with a success, and so was what a server hides.
func (x *Exchange) outcomeIs(status string) bool {
	if status == x.Truth.Outcome {
		return true
	}
	if x.Truth.Event == "signin.challenge" && status == "pending" {
		return true // the first factor was right and another one is due (DESIGN section 1)
	}
	return (x.Truth.Outcome == "noop" || x.Truth.Indistinguishable) && (status == "success" || status == "pending")
}

// plugin scores what the plugin wrote in the same way.
func (s *Score) plugin(x *Exchange) {
	if x.Plugin == nil {
		return // the recording does not say
	}
	f := &s.Plugin
	if !x.Wanted() {
		f.Noise += len(x.Plugin)
		return
	}
	f.Wanted++
	if len(x.Plugin) == 0 {
		f.Missing++
		return
	}
	outcome, user := x.outcomeIs(x.Plugin[0].Status), x.Plugin[0].UserID == x.Truth.User
	count(&f.Outcome, outcome)
	count(&f.User, user)
	count(&f.Both, outcome && user)
}

func count(n *int, yes bool) {
	if yes {
		*n++
	}
}

func say(outcome, user string) string {
	if user == "" {
		user = "nobody"
	}
	return outcome + " by " + user
}

// Total adds the scores up.
func Total(scores []*Score) *Score {
	t := &Score{Name: "total"}
	for _, s := range scores {
		for _, sum := range [...]struct {
			to   *int
			from int
		}{
			{&t.Exchanges, s.Exchanges},
			{&t.Outside, s.Outside},
			{&t.Own, s.Own},
			{&t.Unlabelled, s.Unlabelled},
			{&t.Wanted, s.Wanted},
			{&t.Outcome, s.Outcome},
			{&t.User, s.User},
			{&t.Both, s.Both},
			{&t.Missing, s.Missing},
			{&t.Noise, s.Noise},
			{&t.Extra, s.Extra},
			{&t.Actions, s.Actions},
			{&t.SameAction, s.SameAction},
			{&t.Plugin.Wanted, s.Plugin.Wanted},
			{&t.Plugin.Outcome, s.Plugin.Outcome},
			{&t.Plugin.User, s.Plugin.User},
			{&t.Plugin.Both, s.Plugin.Both},
			{&t.Plugin.Missing, s.Plugin.Missing},
			{&t.Plugin.Noise, s.Plugin.Noise},
		} {
			*sum.to += sum.from
		}
		t.Misses = append(t.Misses, s.Misses...)
	}
	return t
}

// Print writes a table of the scores, the total last.
func Print(w io.Writer, scores []*Score) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer func() { _ = t.Flush() }()
	fmt.Fprintln(t, "file\texchanges\toutside\town API\twanted\toutcome\tuser\tboth\tmissing\tnoise\textra\tsame action\t|\tplugin: outcome\tuser\tboth\tmissing\tnoise\t")
	for _, s := range append(scores[:len(scores):len(scores)], Total(scores)) {
		p := &s.Plugin
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d/%d\t|\t%d/%d\t%d\t%d\t%d\t%d\t\n",
			s.Name, s.Exchanges, s.Outside, s.Own, s.Wanted, s.Outcome, s.User, s.Both, s.Missing, s.Noise, s.Extra, s.SameAction, s.Actions,
			p.Outcome, p.Wanted, p.User, p.Both, p.Missing, p.Noise)
	}
}
