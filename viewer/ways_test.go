package viewer_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// wayed is a page with entries of one moment each, of which the newest is open.
func wayed(t *testing.T, entries ...storage.Entry) *tab {
	t.Helper()
	for i := range entries {
		entries[i].Sanitize()
	}
	s := startSite(t, filled(t, entries))
	b := s.open(t, wide, "?entry="+entries[len(entries)-1].ID)
	b.until("the entry is open", `document.querySelector('#detail').open && document.querySelector('#detail .tree')`)
	return b
}

// goOn follows a way on from the entry.
func (b *tab) goOn(way string) {
	b.t.Helper()
	b.until("the way is there", `[...document.querySelectorAll('#detail .link')].some((n) => n.textContent === %s)`, way)
	js[bool](b, `([...document.querySelectorAll('#detail .link')].find((n) => n.textContent === %s).click(), true)`, way)
	b.until("the sheet is closed", `!document.querySelector('#detail').open`)
	b.ready()
}

// TestWhatARuleMadeOfAnAddressIsLookedForAsText: it is no address that can be asked for.
func TestWhatARuleMadeOfAnAddressIsLookedForAsText(t *testing.T) {
	for shown, filter := range map[string]string{"203.0.113.9": "ip", "2001:db8::1": "ip", "203.0.113.x": "q"} {
		b := wayed(t, storage.Entry{Action: "sign-out", IPAddress: shown, CreatedAt: time.Now().Add(-time.Minute)})
		b.goOn("Everything of this address")
		b.until("it is listed", `document.querySelectorAll('#rows tr[data-id]').length === 1`)
		if got := b.param(filter); got != shown {
			t.Errorf("%s: the filter %s is %q", shown, filter, got)
		}
	}
}

// button presses a button by its words.
func (b *tab) button(words string) {
	b.t.Helper()
	b.until("there is "+words, `[...document.querySelectorAll('main button')].some((n) => n.textContent === %s && n.checkVisibility())`, words)
	js[bool](b, `([...document.querySelectorAll('main button')].find((n) => n.textContent === %s && n.checkVisibility()).click(), true)`, words)
	b.ready()
}

const toAttempts = "Look for attempts on this account"

// TestATextThatIsAnAccountLeadsToItsAttempts: entries have it masked, so that the text finds none of
// them. Whoever may not ask for those of others is offered nothing.
func TestATextThatIsAnAccountLeadsToItsAttempts(t *testing.T) {
	tagger := redactor(t)
	attempt := func(typed string) storage.Entry {
		hash := tagger.HashTag("identifier", typed)
		return storage.Entry{Action: "sign-in:email", Status: storage.Failed, IdentifierHash: hash, CreatedAt: time.Now().Add(-time.Minute), Metadata: fmt.Appendf(nil, `{"class":"sign-in","identifierHash":%q}`, hash)}
	}
	entries := []storage.Entry{attempt("ada@example.com"), attempt("ada@example.com"), attempt("+4915112345678"), {Action: "update-user", UserID: "of bob@example.com", CreatedAt: time.Now().Add(-time.Minute)}}
	for i := range entries {
		entries[i].Sanitize()
	}
	s := startSite(t, filled(t, entries))
	for typed, want := range map[string]int{"ada@example.com": 2, "+4915112345678": 1} {
		b := s.open(t, wide, "")
		b.ready()
		b.fill("#f-q", typed)
		b.until("nothing is found, and it says why", `document.querySelector('#notice').textContent.includes('masked')`)
		b.button(toAttempts)
		b.until("the attempts are listed", `document.querySelectorAll('#rows tr[data-id]').length === %s`, want)
		if got := b.param("identifier"); got != typed || b.param("q") != "" {
			t.Errorf("%s: the filter is %q, the text %q", typed, got, b.param("q"))
		}
	}

	b := s.open(t, wide, "?q=bob@example.com")
	b.until("what has the text is listed, with the way on", `document.querySelectorAll('#rows tr[data-id]').length === 1 && document.querySelector('#account').checkVisibility()`)
	b.button(toAttempts)
	b.until("nobody tried", `document.querySelector('#notice h3')?.textContent === 'No entries match' && document.querySelector('#account').hidden`)
	b.fill("#f-q", "update")
	b.until("another text is none", `!document.querySelector('main').textContent.includes(%s)`, toAttempts)

	own := startSite(t, filled(t, entries))
	own.answer("/access", answer{status: 200, body: `{"surface":"own","userId":"ada","everything":false,"can":{"histogram":true,"tail":true,"export":true}}`})
	b = own.open(t, wide, "?q=ada@example.com")
	b.until("nothing is found", `document.querySelector('#notice h3')?.textContent === 'No entries match'`)
	b.ready()
	b.until("who is there is known", `document.querySelector('#surface').textContent === 'ada'`)
	if b.text("main") == "" || strings.Contains(b.text("main"), toAttempts) || strings.Contains(b.text("main"), "masked") {
		t.Errorf("it offers what is refused: %s", b.text("main"))
	}
}

// TestEverythingIsOfTheWholeLog, not only of the time that is looked at.
func TestEverythingIsOfTheWholeLog(t *testing.T) {
	tagger, now := redactor(t), time.Now()
	hash, session := tagger.HashTag("identifier", "ada@example.com"), tagger.HashTag("session", "x")
	m := fmt.Appendf(nil, `{"class":"sign-in","identifier":"a***@example.com","identifierHash":%q,"sessionHash":%q}`, hash, session)
	old := storage.Entry{Action: "sign-in:email", UserID: "ada", IPAddress: "203.0.113.9", IdentifierHash: hash, Metadata: m, CreatedAt: now.AddDate(-2, 0, 0)}
	recent := old
	recent.CreatedAt = now.Add(-time.Minute)
	for _, what := range []string{"user", "account", "address", "session"} {
		b := wayed(t, old, storage.Entry{Action: "sign-out", UserID: "bob", CreatedAt: now.AddDate(-1, 0, 0)}, recent)
		b.goOn("Everything of this " + what)
		b.until("the old one is listed, too, and nobody else's", `document.querySelectorAll('#rows tr[data-id]').length === 2`)
		if b.param("range") != "custom" || b.param("from") != "" || b.param("to") != "" {
			t.Errorf("%s: %s", what, js[string](b, "location.search"))
		}
	}
}

// TestBothSecondsCount: the fields show seconds, entries have milliseconds.
func TestBothSecondsCount(t *testing.T) {
	at := time.Now().Add(-time.Hour).Truncate(time.Second).Add(700 * time.Millisecond)
	e := storage.Entry{Action: "sign-out", CreatedAt: at}
	e.Sanitize()
	b := startSite(t, filled(t, []storage.Entry{e})).open(t, wide, "?range=custom")
	b.ready()
	for _, field := range []string{"from", "to"} {
		js[bool](b, `(() => { const f = document.querySelector('#filters').elements[%s], d = new Date(%s); d.setMinutes(d.getMinutes() - d.getTimezoneOffset()); f.value = d.toISOString().slice(0, 19); f.dispatchEvent(new Event('change', { bubbles: true })); return true })()`, field, at.Format(time.RFC3339))
		b.until("it is in the address", `new URL(location.href).searchParams.get(%s)`, field)
		b.ready()
	}
	b.until("the entry is listed", `document.querySelectorAll('#rows tr[data-id]').length === 1`)
	if from, to := parsed(t, b.param("from")), parsed(t, b.param("to")); to.Sub(from) != 999*time.Millisecond {
		t.Errorf("from %s to %s", from, to)
	}
}
