package audittest

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// T is what is needed of a *testing.T or *testing.B.
type T interface {
	Helper()
	Errorf(format string, args ...any)
}

// Source is a log to look into, such as a *memory.Store.
type Source interface {
	// Entries returns all entries, oldest first.
	Entries() []storage.Entry
}

var _ Source = (*memory.Store)(nil)

// maxShown bounds how many entries a failure lists.
const maxShown = 20

// Expectation says what entries must look like. Make one with Expect, narrow it
// with the methods that return it, and end with Once, Times, Never or All, which
// look into the log. It is for one goroutine.
type Expectation struct {
	t      T
	source Source
	wait   time.Duration
	terms  []term
}

// term is one condition and its words for a person.
type term struct {
	says  string
	holds func(*storage.Entry) bool
}

// Expect returns an expectation of any entry of the log.
func Expect(t T, log Source) *Expectation { return &Expectation{t: t, source: log} }

func (x *Expectation) and(says string, holds func(*storage.Entry) bool) *Expectation {
	x.terms = append(x.terms, term{says, holds})
	return x
}

// Action wants that action, such as "sign-in:email".
func (x *Expectation) Action(action string) *Expectation {
	return x.and(fmt.Sprintf("action %q", action), func(e *storage.Entry) bool { return e.Action == action })
}

// Status wants that status: "success", "failed", "pending" or "unknown".
func (x *Expectation) Status(s storage.Status) *Expectation {
	return x.and(fmt.Sprintf("status %q", s), func(e *storage.Entry) bool { return e.Status == s })
}

// Severity wants that severity.
func (x *Expectation) Severity(l severity.Level) *Expectation {
	return x.and(fmt.Sprintf("severity %q", l), func(e *storage.Entry) bool { return e.Severity == l })
}

// User wants that acting user; "" wants an entry without one.
func (x *Expectation) User(id string) *Expectation {
	return x.and(fmt.Sprintf("user %q", id), func(e *storage.Entry) bool { return e.UserID == id })
}

// IPAddress wants that address of the client; "" wants an entry without one.
func (x *Expectation) IPAddress(ip string) *Expectation {
	return x.and(fmt.Sprintf("address %q", ip), func(e *storage.Entry) bool { return e.IPAddress == ip })
}

// Metadata wants a member of the metadata with that value, written as text: 401
// for a number, true, or a text itself. Names of members in members are joined by
// dots, as in "error.code". The value "" wants that the member is not there.
func (x *Expectation) Metadata(path, value string) *Expectation {
	return x.and(fmt.Sprintf("metadata.%s %q", path, value), func(e *storage.Entry) bool { return gjson.GetBytes(e.Metadata, path).String() == value })
}

// Within waits up to d until there are as many entries as are wanted: with
// durability async, and for clients that left, an entry is written after the
// answer. Never and All look when d is over.
func (x *Expectation) Within(d time.Duration) *Expectation {
	x.wait = d
	return x
}

// Once wants exactly one such entry and returns it; the zero Entry if there is
// none.
func (x *Expectation) Once() storage.Entry {
	x.t.Helper()
	if found := x.Times(1); len(found) > 0 {
		return found[0]
	}
	return storage.Entry{}
}

// Never wants no such entry.
func (x *Expectation) Never() {
	x.t.Helper()
	x.Times(0)
}

// Times wants exactly n such entries and returns those that there are, oldest
// first.
func (x *Expectation) Times(n int) []storage.Entry {
	x.t.Helper()
	all, found := x.look(n)
	if len(found) != n {
		x.t.Errorf("%s: found %d, want %d\n%s", x.says(), len(found), n, listing(all))
	}
	return found
}

// All returns all such entries, oldest first, however many there are.
func (x *Expectation) All() []storage.Entry {
	_, found := x.look(0)
	return found
}

// look returns the log and those entries in it that are wanted, once there are n
// of them or the time is over.
func (x *Expectation) look(n int) (all, found []storage.Entry) {
	for end := time.Now().Add(x.wait); ; time.Sleep(time.Millisecond) {
		all, found = x.source.Entries(), nil
		for i := range all {
			if x.matches(&all[i]) {
				found = append(found, all[i])
			}
		}
		if !time.Now().Before(end) || n > 0 && len(found) >= n {
			return all, found
		}
	}
}

func (x *Expectation) matches(e *storage.Entry) bool {
	for _, term := range x.terms {
		if !term.holds(e) {
			return false
		}
	}
	return true
}

func (x *Expectation) says() string {
	if len(x.terms) == 0 {
		return "entries"
	}
	words := make([]string, len(x.terms))
	for i, term := range x.terms {
		words[i] = term.says
	}
	return "entries with " + strings.Join(words, ", ")
}

// listing shows the newest entries of the log, one on a line.
func listing(all []storage.Entry) string {
	if len(all) == 0 {
		return "the log is empty"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the log has %d:", len(all))
	if over := len(all) - maxShown; over > 0 {
		fmt.Fprintf(&b, " (the newest %d)", maxShown)
		all = all[over:]
	}
	for _, e := range all {
		fmt.Fprintf(&b, "\n  action %q, status %q, severity %q, user %q, address %q, metadata %s", e.Action, e.Status, e.Severity, e.UserID, e.IPAddress, e.Metadata)
	}
	return b.String()
}
