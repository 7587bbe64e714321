package viewer_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestFlow goes the ways that people go, in one tab, so that what a step leaves behind
// is there for the next.
func TestFlow(t *testing.T) {
	entries := madeUp(t, 600, 6)
	s := startSite(t, filled(t, entries))
	b := s.open(t, wide, "")
	b.ready()

	t.Run("the page shows the newest entries, newest first, and the whole in a sentence", func(t *testing.T) {
		b := b.in(t)
		if got := len(b.rows("action")); got != 50 {
			t.Errorf("%d rows, want a page of 50", got)
		}
		if got, want := b.text("#count"), "1–50 of 600"; got != want {
			t.Errorf("the count says %q, want %q", got, want)
		}
		times := js[[]string](b, `[...document.querySelectorAll('#rows time')].map((n) => n.dateTime)`)
		if !slices.IsSortedFunc(times, func(a, b string) int { return strings.Compare(b, a) }) {
			t.Error("they are not sorted")
		}
		if title := js[string](b, `document.querySelector('#rows time').title`); !strings.Contains(title, "(UTC)") {
			t.Errorf("the time's title is %q, without UTC", title)
		}
		b.until("the sentence counts them", `document.querySelector('#summary').textContent.startsWith('600 in the last 7 days: ')`)
		if cells := js[int](b, `document.querySelectorAll('#chart-table tbody tr').length`); cells < 5 {
			t.Errorf("the chart's table has %d rows", cells)
		}
	})

	t.Run("a filter narrows the list and the chart, and stands in the address", func(t *testing.T) {
		b := b.in(t)
		b.choose("status", "failed")
		b.until("only failures are listed", `[...document.querySelectorAll('#rows tr[data-id] .status')].every((n) => n.textContent === 'failed')`)
		if got := b.param("status"); got != "failed" {
			t.Errorf("the address says %q", got)
		}
		want := 0
		for _, e := range entries {
			if e.Status == storage.Failed {
				want++
			}
		}
		b.until("the chart counts the failures", `document.querySelector('#summary').textContent.endsWith(': ' + %s + ' failed')`, want)
	})

	t.Run("an account that was typed is looked for by its hash", func(t *testing.T) {
		b := b.in(t)
		b.fill(`[name="identifier"]`, "Alice@Example.com ")
		b.until("only Alice's are listed", `document.querySelectorAll('#rows tr[data-id]').length > 0 && [...document.querySelectorAll('#rows .who bdi')].every((n) => n.textContent === 'a***@example.com')`)
	})

	t.Run("back and forward mean what they say", func(t *testing.T) {
		b := b.in(t)
		b.do(chromedp.NavigateBack())
		b.until("the account is gone", `document.querySelector('[name="identifier"]').value === '' && document.querySelector('[name="status"]').value === 'failed'`)
		b.do(chromedp.NavigateBack())
		b.until("everything is back", `document.querySelector('#count').textContent === '1–50 of 600'`)
		b.do(chromedp.NavigateForward())
		b.until("the failures are back", `document.querySelector('[name="status"]').value === 'failed' && document.querySelector('#rows tr[data-id] .status').textContent === 'failed'`)
		b.do(chromedp.NavigateBack())
		b.until("everything is back", `document.querySelector('#count').textContent === '1–50 of 600'`)
	})

	t.Run("pages: older, newer, and no entry twice", func(t *testing.T) {
		b := b.in(t)
		ids := func() []string {
			return js[[]string](b, `[...document.querySelectorAll('#rows tr[data-id]')].map((n) => n.dataset.id)`)
		}
		first := ids()
		b.click("#older")
		b.until("the second page comes", `document.querySelector('#count').textContent === '51–100 of 600'`)
		for _, id := range ids() {
			if slices.Contains(first, id) {
				t.Fatalf("%s is on both pages", id)
			}
		}
		b.key("n")
		b.until("the third page comes", `document.querySelector('#count').textContent === '101–150 of 600'`)
		b.key("p")
		b.click("#newer")
		b.until("the first page is back", `document.querySelector('#count').textContent === '1–50 of 600'`)
		if again := ids(); !slices.Equal(first, again) {
			t.Error("it is another one")
		}
	})

	t.Run("brushing the chart zooms, reset goes back", func(t *testing.T) {
		b := b.in(t)
		over := js[[]float64](b, `(() => { scrollTo(0, 0); const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.left, r.top, r.width, r.height] })()`)
		at := func(x float64) float64 { return over[0] + over[2]*x }
		y := over[1] + over[3]/2
		b.do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at(0.4), y), chromedp.MouseEvent(input.DispatchMouseEventTypeMousePressed, at(0.4), y, chromedp.ButtonLeft, chromedp.ClickCount(1)),
			chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at(0.5), y, chromedp.ButtonLeft), chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at(0.6), y, chromedp.ButtonLeft),
			chromedp.MouseEvent(input.DispatchMouseEventTypeMouseReleased, at(0.6), y, chromedp.ButtonLeft, chromedp.ClickCount(1)))
		b.until("the time stands in the address", `new URL(location.href).searchParams.get('range') === 'custom'`)
		from, to := parsed(t, b.param("from")), parsed(t, b.param("to"))
		if wide := to.Sub(from).Hours(); wide < 24 || wide > 44 { // a fifth of seven days is 33.6 hours
			t.Errorf("it zoomed to %.1f hours", wide)
		}
		want := 0
		for _, e := range entries {
			if !e.CreatedAt.Before(from) && !e.CreatedAt.After(to) {
				want++
			}
		}
		b.until("the list is of that time", `document.querySelector('#count').textContent.endsWith(' of ' + %s) && document.querySelector('#summary').textContent.startsWith(%s + ' from ')`, want, want)
		b.click("#zoom-reset")
		b.until("it is seven days again", `document.querySelector('#count').textContent === '1–50 of 600' && location.search === ''`)
	})

	t.Run("an entry opens beside the list and has everything of it", func(t *testing.T) {
		b := b.in(t)
		b.choose("status", "failed")
		b.ready()
		b.choose("class", "sign-in")
		b.until("failed sign-ins are listed", `[...document.querySelectorAll('#rows .action small')].every((n) => n.textContent.startsWith('sign-in'))`)
		b.ready()
		id := js[string](b, `document.querySelector('#rows tr').dataset.id`)
		b.click("#rows tr .time")
		b.until("the entry is open", `document.querySelector('#detail').open && document.querySelector('#detail .tree')`)
		if got := b.param("entry"); got != id {
			t.Errorf("the address says entry %q, want %q", got, id)
		}
		text := b.text("#detail")
		for _, want := range []string{id, "POST", "401", "***@example.com", "requestId", "identifierHash", "UTC", "proxy", "Chrome/140"} {
			if !strings.Contains(text, want) && want != "UTC" && !strings.Contains(text, "GET") {
				t.Errorf("%q is not in the detail:\n%s", want, text)
			}
		}
	})

	t.Run("everything of this account leads to all its attempts", func(t *testing.T) {
		b := b.in(t)
		b.until("the way is there", `[...document.querySelectorAll('#detail .link')].some((n) => n.textContent === 'Everything of this account')`)
		js[bool](b, `([...document.querySelectorAll('#detail .link')].find((n) => n.textContent === 'Everything of this account').click(), true)`)
		b.until("the account's attempts are listed", `!document.querySelector('#detail').open && document.querySelectorAll('#rows tr[data-id]').length > 1`)
		b.ready()
		hash := b.param("identifierHash")
		want := 0
		for _, e := range entries {
			if hash != "" && e.IdentifierHash == hash {
				want++
			}
		}
		b.until("all of them", `document.querySelector('#count').textContent.endsWith(' of ' + %s)`, want)
		if status := b.param("status"); status != "" {
			t.Errorf("the filter for the outcome is still %q", status)
		}
	})
	t.Run("everything of this session leads to all that was done in it", func(t *testing.T) {
		b := b.in(t)
		js[bool](b, `([...document.querySelectorAll('#chips .link')][0].click(), true)`)
		b.until("everything is back", `document.querySelector('#chips').hidden`)
		b.ready()
		b.choose("class", "session")
		b.until("sessions are listed", `document.querySelectorAll('#rows tr[data-id]').length > 1 && [...document.querySelectorAll('#rows .action small')].every((n) => n.textContent.startsWith('session'))`)
		b.ready()
		b.click("#rows tr .time")
		b.until("the way is there", `[...document.querySelectorAll('#detail .link')].some((n) => n.textContent === 'Everything of this session')`)
		js[bool](b, `([...document.querySelectorAll('#detail .link')].find((n) => n.textContent === 'Everything of this session').click(), true)`)
		b.until("the list is of it", `!document.querySelector('#detail').open && document.querySelectorAll('#rows tr[data-id]').length > 1`)
		b.ready()
		want, hash := 0, b.param("q")
		for _, e := range entries {
			if hash != "" && storage.TextIn(e.Metadata, "sessionHash") == hash {
				want++
			}
		}
		b.until("all of them", `document.querySelector('#count').textContent.endsWith(' of ' + %s)`, want)
	})
	t.Run("a copied link shows the same", func(t *testing.T) {
		b := b.in(t)
		query := js[string](b, `location.search`)
		other := s.open(t, wide, query)
		other.ready()
		if a, o := b.text("#rows"), other.text("#rows"); stripAgo(a) != stripAgo(o) {
			t.Errorf("the rows differ:\n%s\n%s", a, o)
		}
	})
	t.Run("clear all clears", func(t *testing.T) {
		b := b.in(t)
		js[bool](b, `([...document.querySelectorAll('#chips .link')][0].click(), true)`)
		b.until("everything is back", `document.querySelector('#count').textContent === '1–50 of 600' && document.querySelector('#chips').hidden`)
	})
}

// in is the tab for a subtest.
func (b *tab) in(t *testing.T) *tab {
	return &tab{t: t, ctx: b.ctx}
}

func parsed(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// stripAgo takes away what changes while one looks.
func stripAgo(text string) string {
	var kept []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.Contains(line, " ago") && !strings.Contains(line, "just now") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

func TestTheExportsFollowTheFilters(t *testing.T) {
	entries := madeUp(t, 200, 6)
	s := startSite(t, filled(t, entries))
	b := s.open(t, wide, "?status=failed")
	b.ready()
	b.until("the menu is offered", `!document.querySelector('#export').hidden`)
	b.click("#export-button")
	b.until("the menu is open", `!document.querySelector('#export-menu').hidden && document.querySelector('#export-button').ariaExpanded === 'true'`)
	want := 0
	for _, e := range entries {
		if e.Status == storage.Failed {
			want++
		}
	}
	for _, format := range []string{"csv", "jsonl", "parquet"} {
		link := js[string](b, `document.querySelector('#export-' + %s).href`, format)
		if !strings.HasPrefix(link, s.URL+base+"/export?") || !strings.Contains(link, "format="+format) || !strings.Contains(link, "status=failed") || !strings.Contains(link, "from=") {
			t.Errorf("the link for %s is %s", format, link)
		}
	}
	res, err := http.Get(js[string](b, `document.querySelector('#export-csv').href`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	rows, err := csv.NewReader(res.Body).ReadAll()
	if err != nil || len(rows) != want+1 || !strings.HasPrefix(res.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%d rows (%v), want %d and a head, as an attachment: %q", len(rows), err, want, res.Header.Get("Content-Disposition"))
	}
	b.key(kb.Escape)
	b.until("the menu is closed, and the focus is on its button", `document.querySelector('#export-menu').hidden && document.activeElement.id === 'export-button'`)
}

func TestTheKeyboardIsEnough(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 60, 6)))
	b := s.open(t, look{width: 1360, height: 900, still: true}, "")
	b.ready()
	focused := `document.activeElement.closest('tr')?.dataset.id`
	nth := func(n int) string {
		return js[string](b, `document.querySelectorAll('#rows tr')[%s].dataset.id`, n)
	}
	b.key("j")
	b.until("j goes to the first entry", focused+` === %s`, nth(0))
	b.key("j")
	b.until("and to the next", focused+` === %s`, nth(1))
	b.key("k")
	b.until("k goes back", focused+` === %s`, nth(0))
	b.key("j")
	b.do(chromedp.KeyEvent("\n"))
	b.until("Enter opens it", `document.querySelector('#detail').open && new URL(location.href).searchParams.get('entry') === %s`, nth(1))
	b.key("j")
	b.until("j goes on in the detail", `new URL(location.href).searchParams.get('entry') === %s`, nth(2))
	b.key(kb.Escape)
	b.until("Escape closes it, and the focus is on the entry", `!document.querySelector('#detail').open && location.search === '' && `+focused+` === %s`, nth(2))
	b.key("/")
	b.until("/ goes to the search", `document.activeElement.id === 'f-q'`)
	b.key("j")
	b.until("where letters are letters", `document.activeElement.value.endsWith('j')`)
	b.key(kb.Escape)
	b.key("?")
	b.until("? shows the keys", `document.querySelector('#help').open`)
	b.key(kb.Escape)
	b.until("Escape closes them", `!document.querySelector('#help').open`)
	b.key("t")
	b.until("t changes the theme", `document.documentElement.dataset.theme === 'light'`)
	b.key("t")
	b.until("t changes it again", `document.documentElement.dataset.theme === 'dark'`)
	if ground := js[string](b, `getComputedStyle(document.body).backgroundColor`); ground != "rgb(15, 18, 22)" {
		t.Errorf("the dark ground is %s", ground)
	}
	b.do(chromedp.Reload())
	b.ready()
	b.until("the theme is kept", `document.documentElement.dataset.theme === 'dark'`)
	js[bool](b, `(document.querySelector('#keys-on').click(), true)`)
	b.key("j")
	if js[bool](b, focused+` !== undefined`) {
		t.Error("the keys are off, and j works")
	}
	if n := js[int](b, `document.getAnimations().length`); n > 0 {
		t.Errorf("%d things move although nothing should", n)
	}
}

// TestEverythingCanBeReachedByTab goes through the page with Tab alone: everything that
// can be operated gets the focus, visibly, and there is no trap.
func TestEverythingCanBeReachedByTab(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 3, 2)))
	b := s.open(t, wide, "?status=success")
	b.ready()
	b.until("the rights have come", `!document.querySelector('#live').hidden`)
	js[bool](b, `(document.querySelector('#chart').scrollIntoView(), document.body.tabIndex = -1, document.body.focus(), true)`)
	seen := map[string]bool{}
	for range 70 {
		b.key(kb.Tab)
		at := js[[]string](b, `(() => { const a = document.activeElement, o = getComputedStyle(a); return [a === document.body ? 'BODY' : a.id || a.name || a.textContent.trim() || a.tagName, o.outlineStyle + ' ' + o.outlineWidth] })()`)
		if at[0] == "" || seen[at[0]] && at[0] != "BODY" {
			continue
		}
		if seen[at[0]] = true; at[0] != "BODY" && (!strings.HasPrefix(at[1], "solid") && !strings.HasPrefix(at[1], "auto")) {
			t.Errorf("%s has the focus, and nobody sees it: %s", at[0], at[1])
		}
	}
	want := js[[]string](b, `[...document.querySelectorAll('main button, main input, main select, main a, .top button')].filter((n) => n.checkVisibility() && !n.disabled && n.tabIndex >= 0).map((n) => n.id || n.name || n.textContent.trim() || n.tagName)`)
	for _, name := range want {
		if !seen[name] {
			t.Errorf("Tab never comes to %q", name)
		}
	}
	if len(want) < 20 {
		t.Errorf("only %d things can be operated: %q", len(want), want)
	}
}

func TestTheLiveTail(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 20, 2)))
	b := s.open(t, wide, "?range=24h")
	b.ready()
	b.excuse("ERR_INCOMPLETE_CHUNKED_ENCODING", "status of 401")
	b.until("live is offered", `!document.querySelector('#live').hidden`)
	b.click("#live")
	opened := func(want int) {
		t.Helper()
		s.tailing(t, b, want)
	}
	opened(1)
	made := func(action string, status storage.Status) storage.Entry { return madeNow(action, status, 0) }
	first := `document.querySelector('#rows tr[data-id]')`
	e := made("delete-user", storage.Unknown)
	s.add(e)
	b.until("the entry is on top", first+`.dataset.id === %s && `+first+`.querySelector('.status').textContent === 'unknown'`, e.ID)
	e.Status = storage.Success
	s.add(e)
	b.until("its outcome takes its place", first+`.dataset.id === %s && `+first+`.querySelector('.status').textContent === 'success' && document.querySelectorAll('[data-id="' + %s + '"]').length === 1`, e.ID, e.ID)

	b.click("#pause")
	shown := len(b.rows("action"))
	second, third := made("sign-out", storage.Success), made("sign-out", storage.Success)
	s.add(second)
	s.add(third)
	s.add(second) // comes again
	b.until("what comes is counted", `document.querySelector('#fresh').textContent === '2 new: show'`)
	if got := len(b.rows("action")); got != shown {
		t.Errorf("it paused, and %d rows became %d", shown, got)
	}
	b.click("#fresh")
	b.until("and shown", `document.querySelectorAll('#rows tr[data-id]').length === %s && document.querySelector('#fresh').hidden`, shown+2)

	// What is written while the connection is broken is there afterwards.
	s.say("")
	b.until("it says so", `document.querySelector('#live-state').textContent.startsWith('Disconnected')`)
	missed := made("sign-in:email", storage.Failed)
	if err := s.store.Write(t.Context(), missed); err != nil {
		t.Fatal(err)
	}
	opened(2)
	b.until("what was missed is there", `document.querySelector('[data-id="' + %s + '"]')`, missed.ID)

	// It goes on by itself when the server refuses it for a while.
	s.answer("/tail", answer{status: 429, body: `{"code":"TOO_MANY_REQUESTS","message":"Too many"}`})
	b.excuse("status of 429")
	s.say("")
	b.until("it says so", `document.querySelector('#live').dataset.state === 'lost'`)
	time.Sleep(1500 * time.Millisecond)
	s.forget("/tail")
	opened(3)

	s.say("event: end\ndata: {\"code\":\"UNAUTHORIZED\",\"message\":\"You were signed out\"}\n\n")
	b.until("it stops at the end", `document.querySelector('#live').dataset.state === 'ended' && document.querySelector('#live-state').textContent.includes('You were signed out') && document.querySelector('#live').ariaPressed === 'false'`)
	_, before := s.tailed()
	time.Sleep(1500 * time.Millisecond)
	if _, after := s.tailed(); after != before {
		t.Error("it asked again after the end")
	}
}

// TestTheLiveTailOfTheAPI is against the real one: intent, then outcome.
func TestTheLiveTailOfTheAPI(t *testing.T) {
	s := startRealSite(t, filled(t, madeUp(t, 5, 2)))
	b := s.openLive(t, "?userId=zoe")
	e := storage.Entry{ID: storage.NewID(), UserID: "zoe", Action: "delete-user", Status: storage.Unknown, CreatedAt: time.Now().UTC().Truncate(time.Millisecond), Metadata: json.RawMessage(`{"class":"account"}`)}
	other := e
	other.ID, other.UserID = storage.NewID(), "yara"
	for _, status := range []storage.Status{storage.Unknown, storage.Success} {
		e.Status = status
		if err := s.store.Write(t.Context(), other, e); err != nil {
			t.Fatal(err)
		}
		b.until("it is there as "+string(status), `document.querySelectorAll('#rows tr[data-id]').length === 1 && document.querySelector('[data-id="' + %s + '"] .status').textContent === %s`, e.ID, status)
	}
}

func TestTheTailFollowsTheFilters(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 20, 2)))
	b := s.open(t, wide, "?range=24h&status=failed")
	b.ready()
	b.until("live is offered", `!document.querySelector('#live').hidden`)
	b.key("l")
	b.until("the tail is open", `document.querySelector('#live').dataset.state === 'open'`)
	b.choose("status", "success")
	b.ready()
	b.until("it is open anew", `document.querySelector('#live').dataset.state === 'open'`)
	if got, want := s.askedFor("/tail"), []string{"status=failed", "status=success"}; !slices.Equal(got, want) {
		t.Errorf("the tails were asked for %q, want %q", got, want)
	}
	b.key("l")
	b.until("it is off", `document.querySelector('#live').dataset.state === 'off'`)
}

// TestWhatIsSaidInsteadOfEntries holds what people read when there is no list, and the
// ways that lead on from there.
func TestWhatIsSaidInsteadOfEntries(t *testing.T) {
	for _, row := range []struct {
		name         string
		status       int
		code, says   string
		query, click string // the way that is tried
		want         string // of the page, when the list works again
	}{
		{"nobody is signed in", 401, "UNAUTHORIZED", "Sign in first", "", "Try again", `document.querySelectorAll('#rows tr[data-id]').length === 5 && !document.body.classList.contains('locked')`},
		{"not allowed", 403, "FORBIDDEN", "Not allowed", "?userId=bob", "Show what I may see", `document.querySelectorAll('#rows tr[data-id]').length === 5`},
		{"too slow", 503, "QUERY_TOO_SLOW", "takes too long", "?q=sign", "Take out the text", `new URL(location.href).searchParams.get('q') === null && document.querySelectorAll('#rows tr[data-id]').length === 5`},
		{"too slow, less time", 503, "QUERY_TOO_SLOW", "takes too long", "?userId=x", "Look at the last hour", `new URL(location.href).searchParams.get('range') === '1h'`},
		{"too many", 429, "TOO_MANY_REQUESTS", "Too many requests", "", "Try again", `document.querySelectorAll('#rows tr[data-id]').length === 5`},
		{"broken", 500, "INTERNAL_SERVER_ERROR", "cannot be read", "", "Try again", `document.querySelectorAll('#rows tr[data-id]').length === 5`},
		{"a cursor of another store", 400, "VALIDATION_ERROR", "page is gone", "?cursor=zzz", "Newest", `document.querySelectorAll('#rows tr[data-id]').length === 5 && location.search === ''`},
		{"no json", 502, "", "cannot be read", "", "Try again", `document.querySelectorAll('#rows tr[data-id]').length === 5`},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := startSite(t, filled(t, madeUp(t, 5, 2)))
			s.fails("/list", row.status, row.code, "the server's words")
			if row.code == "" {
				s.answer("/list", answer{status: row.status, body: "<html>Bad gateway"})
			}
			b := s.open(t, wide, row.query)
			b.excuse(fmt.Sprintf("status of %d", row.status))
			b.until("it says so", `document.querySelector('#notice h3')?.textContent.includes(%s)`, row.says)
			b.until("screen readers hear it", `document.querySelector('#announce').textContent.includes(%s)`, row.says)
			s.forget("/list")
			js[bool](b, `([...document.querySelectorAll('#notice .button')].find((n) => n.textContent === %s).click(), true)`, row.click)
			b.until("the way leads on", row.want)
		})
	}
}

func TestTheOwnSurfaceShowsWhatIsAllowed(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 5, 2)))
	s.answer("/access", answer{status: 200, body: `{"surface":"own","userId":"alice","everything":false,"can":{"histogram":false,"tail":false,"export":false}}`})
	b := s.open(t, wide, "?entry="+s.newest().ID)
	b.ready()
	b.until("it says whose it is", `document.querySelector('#surface').textContent === 'alice' && document.title === 'Your activity'`)
	for _, id := range []string{"field-user", "field-identifier", "field-scope", "timeline", "live", "export"} {
		if js[bool](b, `document.getElementById(%s).checkVisibility()`, id) {
			t.Errorf("#%s is shown", id)
		}
	}
	b.until("the entry is open", `document.querySelector('#detail .tree')`)
	if strings.Contains(b.text("#detail"), "Everything of this user") {
		t.Error("it leads to everything of a user")
	}
	s.answer("/access", answer{status: 200, body: `{"surface":"own","userId":"alice","everything":true,"can":{"histogram":true,"tail":true,"export":true}}`})
	admin := s.open(t, wide, "")
	admin.ready()
	admin.until("an administrator may choose", `document.querySelector('#field-scope').checkVisibility() && document.querySelector('#field-user').checkVisibility() && document.querySelector('#live').checkVisibility()`)
	admin.choose("scope", "all")
	admin.ready()
	if asked := s.askedFor("/list"); !strings.Contains(asked[len(asked)-1], "scope=all") {
		t.Errorf("the list was asked for %q", asked[len(asked)-1])
	}
}

// TestTenMillionEntries: the page asks for no more of them than it shows.
func TestTenMillionEntries(t *testing.T) {
	s := startSite(t, &endless{newest: time.Now()})
	b := s.open(t, wide, "?range=90d")
	b.ready()
	if got := b.text("#count"); got != "1–50 of more than 10,000" {
		t.Errorf("the count says %q", got)
	}
	for range 3 {
		b.click("#older")
		b.ready()
	}
	b.until("the fourth page", `document.querySelector('#count').textContent === '151–200 of more than 10,000'`)
	if rows := js[int](b, `document.querySelectorAll('#rows tr').length`); rows != 50 {
		t.Errorf("%d rows", rows)
	}
	deep := s.open(t, wide, "?range=90d&cursor=at-5000000")
	deep.ready()
	if got := deep.text("#count"); got != "50 of more than 10,000" {
		t.Errorf("from a link to the middle, the count says %q", got)
	}
}

func TestTheExportThatIsLinkedIsTheAPIs(t *testing.T) {
	// The viewer names endpoints as text: this fails when the API has none of that name.
	store := filled(t, madeUp(t, 3, 1))
	h := httpapi.NewOperator(httpapi.OperatorOptions{}).Handler(store)
	for _, path := range []string{"/list", "/access", "/histogram?from=2026-01-01&step=86400000&to=2026-02-01", "/tally", "/export?format=csv", "/export?format=jsonl"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &recorded{header: http.Header{}}
		h.ServeHTTP(w, r)
		if w.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.status, w.body.String())
		}
	}
}

// recorded is a response that is kept.
type recorded struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *recorded) Header() http.Header { return w.header }
func (w *recorded) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}
func (w *recorded) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// live opens a page with its tail running.
func (s *site) live(t *testing.T, query string) *tab {
	t.Helper()
	_, before := s.tailed()
	b := s.openLive(t, query)
	s.tailing(t, b, before+1)
	return b
}

// openLive is live for a site whose tails are the API's.
func (s *site) openLive(t *testing.T, query string) *tab {
	t.Helper()
	b := s.open(t, wide, query)
	b.ready()
	b.until("live is offered", `!document.querySelector('#live').hidden`)
	b.click("#live")
	b.until("the tail is open", `document.querySelector('#live').dataset.state === 'open'`)
	return b
}

// tailing waits until a tail is open that is at least so many.
func (s *site) tailing(t *testing.T, b *tab, want int) {
	t.Helper()
	b.until("the tail is open", `document.querySelector('#live').dataset.state === 'open'`)
	deadline := time.Now().Add(patience)
	for open, ever := s.tailed(); open != 1 || ever < want; open, ever = s.tailed() {
		if time.Now().After(deadline) {
			t.Fatalf("%d tails are open, there were %d; want 1 and %d", open, ever, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// madeNow is an entry of this moment, or of so long ago.
func madeNow(action string, status storage.Status, ago time.Duration) storage.Entry {
	e := storage.Entry{ID: storage.NewID(), UserID: "zoe", Action: action, Status: status, Severity: 1, CreatedAt: time.Now().Add(-ago).UTC().Truncate(time.Millisecond), Metadata: json.RawMessage(`{"class":"account"}`)}
	e.Sanitize()
	return e
}

// TestALiveListThatFailsSaysSo, and does not leave the entries of other filters there.
func TestALiveListThatFailsSaysSo(t *testing.T) {
	s := startSite(t, filled(t, append(madeUp(t, 20, 2), madeNow("sign-in:email", storage.Failed, time.Hour)))) // one at any hour of the day
	b := s.live(t, "?range=24h")
	b.excuse("status of 503", "ERR_INCOMPLETE_CHUNKED_ENCODING")
	s.answer("/list", answer{hang: true})
	b.choose("status", "failed")
	b.until("the list is on its way", `document.querySelector('#table').ariaBusy === 'true'`)
	s.fails("/list", 503, "QUERY_TOO_SLOW", "It takes too long")
	_, ever := s.tailed()
	s.say("") // the tail is opened anew, which reads the list again, by itself
	s.tailing(t, b, ever+1)
	b.until("it says so", `document.querySelector('#notice h3')?.textContent.includes('takes too long') && document.querySelector('#table').ariaBusy !== 'true' && !document.querySelector('#rows tr[data-id]')`)
	s.add(madeNow("sign-in:email", storage.Failed, 0))
	b.painted()
	if js[bool](b, `document.querySelector('#notice').hidden || document.querySelector('#rows tr[data-id]') !== null`) {
		t.Error("one entry that comes stands for the list that was refused")
	}
	s.forget("/list")
	js[bool](b, `([...document.querySelectorAll('#notice .button')].find((n) => n.textContent === 'Try again').click(), true)`)
	b.until("and it goes on", `document.querySelectorAll('#rows tr[data-id]').length > 1`)

	// What nobody asked for fails in silence.
	s.fails("/list", 503, "STORE_UNAVAILABLE", "Not now")
	rows := len(b.rows("action"))
	_, ever = s.tailed()
	s.say("")
	s.tailing(t, b, ever+1)
	s.add(madeNow("sign-out", storage.Failed, 0))
	b.until("what comes is shown", `document.querySelectorAll('#rows tr[data-id]').length === %s && document.querySelector('#notice').hidden`, rows+1)
}

// TestTheLiveTotal counts what is new, and nothing twice: a tail begins with what the list has already.
func TestTheLiveTotal(t *testing.T) {
	entries := make([]storage.Entry, 120)
	for i := range entries {
		entries[i] = madeNow("sign-out", storage.Success, time.Duration(i+1)*time.Second)
	}
	s := startSite(t, filled(t, entries))
	b := s.live(t, "?range=24h")
	b.until("all are counted", `document.querySelector('#count').textContent === '1–50 of 120'`)
	for _, e := range entries {
		s.add(e)
	}
	s.add(madeNow("sign-out", storage.Success, 0))
	b.until("the new one is counted", `document.querySelector('#count').textContent === '51 of 121'`)

	// Of more than can be held the list is read again.
	b.click("#pause")
	for range 620 {
		s.add(madeNow("sign-in:email", storage.Success, 0))
	}
	b.until("they are counted", `document.querySelector('#fresh').textContent === 'More than 500 new: show'`)
	b.click("#fresh")
	b.until("all are there", `document.querySelector('#count').textContent === '1–50 of 741'`)
	if !js[bool](b, `document.querySelector('#log').contains(document.activeElement)`) {
		t.Error("the button that is gone had the focus, and nothing has it now")
	}
}

// leavesWithItsOutcome opens the first entry, which is an intent, and has it end.
func (s *site) leavesWithItsOutcome(t *testing.T, b *tab, intent storage.Entry) {
	t.Helper()
	b.click(`#rows a.open`)
	b.until("it is open", `document.querySelector('#detail .badge.status')?.textContent === 'unknown'`)
	intent.Status = storage.Success
	if err := s.store.Write(t.Context(), intent); err != nil {
		t.Fatal(err)
	}
	b.until("it is gone, and the sheet shows its outcome", `!document.querySelector('[data-id="' + %s + '"]') && document.querySelector('#detail .badge.status')?.textContent === 'success'`, intent.ID)
}

// TestWhatDoesNotFitAnyMoreGoes: an intent that is looked for as one, and gets its outcome.
func TestWhatDoesNotFitAnyMoreGoes(t *testing.T) {
	s := startRealSite(t, filled(t, madeUp(t, 5, 2)))
	b := s.openLive(t, "?status=unknown&userId=zoe")
	e := madeNow("delete-user", storage.Unknown, 0)
	if err := s.store.Write(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	b.until("it is there", `document.querySelector('[data-id="' + %s + '"]')`, e.ID)
	s.leavesWithItsOutcome(t, b, e)
}

// TestWhatTheTailNeverToldOfGoes: its list had the intent before the tail had heard of it, and the tail heard of its outcome only.
func TestWhatTheTailNeverToldOfGoes(t *testing.T) {
	intent, stays := madeNow("delete-user", storage.Unknown, 0), madeNow("delete-user", storage.Unknown, time.Hour)
	s := startSite(t, filled(t, append(madeUp(t, 5, 2), intent, stays)))
	b := s.live(t, "?status=unknown&userId=zoe")
	b.until("both are there", `document.querySelectorAll('#rows tr[data-id]').length === 2`)
	s.leavesWithItsOutcome(t, b, intent)
	b.key(kb.Escape)
	b.until("it is closed", `!document.querySelector('#detail').open && !location.search.includes('entry=')`)
	if js[bool](b, `document.activeElement === document.body`) {
		t.Error("nothing has the focus: the row that had it is gone")
	}
	asked := len(s.askedFor("/list"))
	time.Sleep(4 * time.Second) // more than the time after which it reads again
	if again := s.askedFor("/list")[asked:]; len(again) > 1 {
		t.Errorf("for what stays it asks again and again: %q", again)
	}
}

// TestWhatTheTailNeverToldOfGoesAtLast, also if the list that was to show it was replaced, or failed.
func TestWhatTheTailNeverToldOfGoesAtLast(t *testing.T) {
	for name, disturb := range map[string]func(s *site, b *tab){
		"replaced": func(s *site, b *tab) {
			asked := len(s.askedFor("/list"))
			b.click("#refresh")
			s.asksAgain(t, "/list", asked)
			b.until("it is read again", `document.querySelector('#table').ariaBusy !== 'true'`)
		},
		"failed": func(s *site, b *tab) {
			b.excuse("status of 503", "ERR_INCOMPLETE_CHUNKED_ENCODING")
			s.fails("/list", 503, "STORE_UNAVAILABLE", "Not now")
			asked := len(s.askedFor("/list"))
			s.say("") // the tail is opened anew, and the list read again
			s.asksAgain(t, "/list", asked)
			s.forget("/list")
		},
	} {
		t.Run(name, func(t *testing.T) {
			intent := madeNow("delete-user", storage.Unknown, 0)
			s := startSite(t, filled(t, append(madeUp(t, 5, 2), intent)))
			b := s.live(t, "?status=unknown&userId=zoe")
			b.until("it is there", `document.querySelectorAll('#rows tr[data-id]').length === 1`)
			disturb(s, b)
			intent.Status = storage.Success
			if err := s.store.Write(t.Context(), intent); err != nil {
				t.Fatal(err)
			}
			b.until("it is gone", `!document.querySelector('#rows tr[data-id]') && document.querySelector('#notice h3')?.textContent === 'No entries match'`)
		})
	}
}

// TestABusyTailDoesNotReadTheListAgainAndAgain: intents come all the time.
func TestABusyTailDoesNotReadTheListAgainAndAgain(t *testing.T) {
	for _, query := range []string{"?range=24h", "?range=24h&status=unknown"} {
		t.Run(query, func(t *testing.T) {
			s := startSite(t, filled(t, madeUp(t, 20, 2)))
			b := s.live(t, query)
			asked := len(s.askedFor("/list"))
			for range 10 {
				s.add(madeNow("delete-user", storage.Unknown, 0))
				time.Sleep(time.Second)
			}
			b.until("all are there", `document.querySelectorAll('#rows tr[data-id]').length >= 10`)
			if again := s.askedFor("/list")[asked:]; len(again) > 2 {
				t.Errorf("it asked %d times more: %q", len(again), again)
			}
		})
	}
}

// TestWhatPausesIsNotReplaced by a connection that breaks, and has the newest versions when it goes on.
func TestWhatPausesIsNotReplaced(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 20, 2)))
	b := s.live(t, "?range=24h")
	b.excuse("ERR_INCOMPLETE_CHUNKED_ENCODING")
	b.click("#pause")
	waits := madeNow("delete-user", storage.Unknown, 0)
	s.add(waits)
	b.until("it waits", `document.querySelector('#fresh').textContent === '1 new: show'`)
	before := b.rows("action")
	_, ever := s.tailed()
	s.say("") // meanwhile there is its outcome, and another one
	waits.Status = storage.Success
	if err := s.store.Write(t.Context(), waits, madeNow("sign-out", storage.Success, 0)); err != nil {
		t.Fatal(err)
	}
	s.tailing(t, b, ever+1)
	time.Sleep(300 * time.Millisecond)
	if now := b.rows("action"); !slices.Equal(now, before) {
		t.Errorf("the list was %q, and is %q", before, now)
	}
	b.click("#pause")
	b.until("both are there as they are now", `document.querySelectorAll('#rows tr[data-id]').length === %s && document.querySelector('[data-id="' + %s + '"] .badge.status').textContent === 'success'`, len(before)+2, waits.ID)
}

// TestWhoIsLockedOutSeesNothing of what had waited.
func TestWhoIsLockedOutSeesNothing(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 20, 2)))
	b := s.live(t, "?range=24h")
	b.excuse("status of 401")
	b.click("#pause")
	s.add(madeNow("sign-out", storage.Success, 0))
	b.until("it waits", `document.querySelector('#fresh').textContent === '1 new: show'`)
	s.fails("/list", 401, "UNAUTHORIZED", "Unauthorized")
	b.click("#refresh")
	b.until("it says so", `document.querySelector('#notice h3')?.textContent === 'Sign in first'`)
	b.painted()
	if js[bool](b, `!document.querySelector('#table').hidden || document.querySelector('#rows tr[data-id]') !== null`) {
		t.Error("there are entries below")
	}
}

// TestTheSheetFollowsTheList where the tail was not there to tell.
func TestTheSheetFollowsTheList(t *testing.T) {
	intent := madeNow("delete-user", storage.Unknown, 0)
	s := startSite(t, filled(t, append(madeUp(t, 20, 2), intent)))
	b := s.live(t, "?range=24h")
	b.excuse("ERR_INCOMPLETE_CHUNKED_ENCODING")
	b.click(`#rows a.open`)
	b.until("it is open", `document.querySelector('#detail .badge.status')?.textContent === 'unknown'`)
	_, ever := s.tailed()
	intent.Status = storage.Success
	if err := s.store.Write(t.Context(), intent); err != nil {
		t.Fatal(err)
	}
	s.say("")
	s.tailing(t, b, ever+1)
	b.until("both show its outcome", `document.querySelector('[data-id="' + %s + '"] .badge.status').textContent === 'success' && document.querySelector('#detail .badge.status').textContent === 'success'`, intent.ID)
}

// TestWhatLeavesIsGone with all its copies, and an empty list says that it is empty.
func TestWhatLeavesIsGone(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 5, 2)))
	b := s.live(t, "?status=unknown&userId=zoe")
	s.answer("/list", answer{hang: true})
	b.click("#refresh")
	intent := madeNow("delete-user", storage.Unknown, 0)
	s.add(intent)
	s.add(intent)
	s.say(fmt.Sprintf("event: left\ndata: {\"id\":%q}\n\n", intent.ID))
	intent.Status = storage.Success
	if err := s.store.Write(t.Context(), intent); err != nil {
		t.Fatal(err)
	}
	last := madeNow("delete-user", storage.Unknown, 0)
	s.add(last)
	s.forget("/list")
	b.click("#refresh")
	b.until("the other one is there", `document.querySelector('[data-id="' + %s + '"]')`, last.ID)
	b.painted()
	if got := b.rows("action"); len(got) != 1 {
		t.Errorf("there are %q", got)
	}
	s.say(fmt.Sprintf("event: left\ndata: {\"id\":%q}\n\n", last.ID))
	b.until("and it says that there is nothing", `document.querySelector('#table').hidden && document.querySelector('#count').textContent === '' && document.querySelector('#notice h3')?.textContent === 'No entries match'`)
}

// TestAChartThatFailsQuietlyStays: nobody has asked for another one.
func TestAChartThatFailsQuietlyStays(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 20, 2)))
	b := s.live(t, "?range=24h")
	b.excuse("status of 503")
	b.until("it counts", `/\d/.test(document.querySelector('#summary').textContent)`)
	counts := b.text("#summary")
	s.fails("/histogram", 503, "QUERY_TOO_SLOW", "It takes too long")
	asked := len(s.askedFor("/histogram"))
	s.add(madeNow("sign-out", storage.Success, 0))
	s.asksAgain(t, "/histogram", asked)
	time.Sleep(300 * time.Millisecond)
	if now := b.text("#summary"); now != counts {
		t.Errorf("it was %q, and is %q", counts, now)
	}
	s.forget("/histogram")
	b.until("it is counted again", `document.querySelector('#summary').textContent !== %s`, counts)
}

// TestEnterOpensAnEntryBesideASelection: what is selected is somebody's copy, and no click.
func TestEnterOpensAnEntryBesideASelection(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 5, 2)))
	b := s.open(t, wide, "")
	b.ready()
	js[bool](b, `(window.mark = 1, getSelection().selectAllChildren(document.querySelector('#rows .from')), true)`)
	b.key("j")
	b.key(kb.Enter)
	b.until("it is open", `document.querySelector('#detail').open`)
	if !js[bool](b, `window.mark === 1`) {
		t.Error("the page was loaded anew")
	}
}

// TestWhoIsSentAwayIsToldToSignInAgain: a gateway before Caddy ends sessions with a redirect, or with its own page.
func TestWhoIsSentAwayIsToldToSignInAgain(t *testing.T) {
	gateway := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the page has asked another host") }))
	t.Cleanup(gateway.Close)
	for name, sent := range map[string]answer{
		"to another host": {status: 302, header: map[string]string{"Location": gateway.URL}},
		"to a page here":  {status: 302, header: map[string]string{"Location": "/login"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSite(t, filled(t, madeUp(t, 5, 2)))
			b := s.open(t, wide, "")
			b.ready()
			s.answer("/list", sent)
			b.click("#refresh")
			b.until("it says so", `document.querySelector('#notice h3')?.textContent === 'Sign in again'`)
			s.forget("/list")
			b.until("the way is offered", `[...document.querySelectorAll('#notice .button')].find((n) => n.textContent === 'Load the page again')`)
			b.do(chromedp.Reload())
			b.until("it is there again", `document.querySelectorAll('#rows tr[data-id]').length === 5`)
			b.mu.Lock()
			b.elsewere = nil // DevTools tell of a redirect that is not followed, too; the gateway knows
			b.mu.Unlock()
		})
	}
}

// TestDatesAreTakenWhenTheyAreWhole: browsers tell of each digit of a year.
func TestDatesAreTakenWhenTheyAreWhole(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 5, 2)))
	b := s.open(t, wide, "?range=custom&from=%2B275760-09-13T00:00:00Z")
	b.excuse("status of 400")
	b.until("the page is alive", `document.querySelector('#notice h3') && document.querySelector('[data-range="custom"]').ariaPressed === 'true'`)
	asked := len(s.askedFor("/list"))
	for _, year := range []string{"0002", "0020", "0202"} {
		js[bool](b, `(() => { const f = document.querySelector('#filters').elements.from; f.focus(); f.value = %s; f.dispatchEvent(new Event('change', { bubbles: true })); return true })()`, year+"-11-03T10:00:00")
	}
	js[bool](b, `(() => { const f = document.querySelector('#filters').elements.from; f.value = '2026-11-03T10:00:00'; f.dispatchEvent(new Event('change', { bubbles: true })); return true })()`)
	b.until("it is in the address", `new URL(location.href).searchParams.get('from') === '2026-11-03T09:00:00.000Z'`) // Europe/Berlin
	b.until("and was asked for", `document.querySelector('#table').ariaBusy !== 'true'`)
	if got := s.askedFor("/list")[asked:]; len(got) != 1 {
		t.Errorf("it asked %d times: %q", len(got), got)
	}
}

// TestTheFocusStays where somebody is, when what is around changes.
func TestTheFocusStays(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 20, 2)))
	b := s.live(t, "?range=24h&status=success&userId=zoe")
	e := madeNow("delete-user", storage.Unknown, 0)
	e.Metadata = json.RawMessage(`{"class":"account","long":"` + strings.Repeat("x ", 8000) + `"}`)
	s.add(e)
	b.until("it is there", `document.querySelector('[data-id="' + %s + '"]')`, e.ID)
	b.click("#rows a.open")
	b.until("it is open", `document.querySelector('#detail').open`)
	b.do(chromedp.KeyEvent(kb.Tab))
	js[bool](b, `(() => { const d = document.querySelector('#detail'); [...d.querySelectorAll('button')].find((n) => n.textContent === 'Copy as JSON').focus(); d.scrollTop = 150; return true })()`)
	top := js[float64](b, `document.querySelector('#detail').scrollTop`)
	e.Status = storage.Success
	s.add(e)
	b.until("its outcome is there", `document.querySelector('#detail .badge.status').textContent === 'success'`)
	if at := js[string](b, `document.activeElement.textContent`); at != "Copy as JSON" || js[float64](b, `document.querySelector('#detail').scrollTop`) != top {
		t.Errorf("the focus is on %q, and it has scrolled from %v to %v", at, top, js[float64](b, `document.querySelector('#detail').scrollTop`))
	}
	b.key(kb.Escape)
	b.until("it is closed, and out of the address", `!document.querySelector('#detail').open && !location.search.includes('entry=')`)
	js[bool](b, `(document.querySelector('#chips .chip button').focus(), document.activeElement.click(), true)`)
	b.until("the focus is on the next chip", `document.activeElement.closest('#chips .chip') && document.querySelectorAll('#chips .chip').length === 1`)

	b.until("the tail is open again", `document.querySelector('#live').dataset.state === 'open'`)
	b.click("#pause")
	s.say("event: end\ndata: {\"code\":\"FORBIDDEN\",\"message\":\"Not any more\"}\n\n")
	b.until("the tail has ended", `document.querySelector('#pause').hidden`)
	if at := js[string](b, `document.activeElement.id`); at != "live" {
		t.Errorf("the focus of a button that is gone is on %q", at)
	}
}

// TestAFloodIsDrawnAsItsEvents: rolled up it has fewer entries than a quiet hour.
func TestAFloodIsDrawnAsItsEvents(t *testing.T) {
	at := time.Now().Add(-30 * time.Minute)
	var entries []storage.Entry
	for i := range 21 {
		e := storage.Entry{Action: "sign-in:email", Status: storage.Failed, Severity: severity.High, Metadata: []byte(`{"class":"sign-in"}`), CreatedAt: at}
		if i == 20 {
			e.Action, e.Metadata = storage.RolledUp+"sign-in", []byte(`{"count":480,"class":"sign-in"}`)
		}
		e.Sanitize()
		entries = append(entries, e)
	}
	s := startSite(t, filled(t, entries))
	b := s.open(t, wide, "?range=1h")
	b.ready()
	b.until("the sentence tells of both", `document.querySelector('#summary').textContent === '500 events in 21 entries in the last hour: 500 failed'`)
	table := js[[]string](b, `[...document.querySelectorAll('#chart-table caption, #chart-table thead th, #chart-table tbody td')].map((n) => n.textContent)`)
	if want := []string{"Events over time, and the entries that tell of them", "Time", "success", "pending", "failed", "unknown", "entries", "0", "0", "500", "0", "21"}; !slices.Equal(table, want) {
		t.Errorf("the table has %q, want %q", table, want)
	}
	over := js[[]float64](b, `(() => { const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.left, r.top, r.width, r.height] })()`)
	said := ""
	for x := over[2] * 0.4; x < over[2]*0.6 && !strings.Contains(said, "failed"); x++ {
		b.do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, over[0]+x, over[1]+over[3]/2))
		said = b.text("#hover")
	}
	if !strings.HasSuffix(said, ": 500 failed (21 entries)") {
		t.Errorf("the bar under the mouse is %q", said)
	}
}
