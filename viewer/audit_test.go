package viewer_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// budget bounds what the page costs to load, over the network: all of it, headers and
// the first answers included. What is needed to paint is less.
const (
	budget      = 100_000
	paintBudget = 40_000
)

func TestThePageIsLight(t *testing.T) {
	s := startSite(t, filled(t, madeUp(t, 10, 2)))
	b := s.open(t, wide, "")
	b.ready()
	b.until("the chart is drawn", `document.querySelector('#chart canvas')`)
	b.mu.Lock()
	total := b.received
	b.mu.Unlock()
	if total == 0 || total > budget {
		t.Errorf("%.0f bytes came, want at most %d", total, budget)
	}
	paint := js[int](b, `performance.getEntriesByType('resource').filter((e) => /viewer\//.test(e.name) && !/uPlot/.test(e.name)).reduce((sum, e) => sum + e.transferSize, performance.getEntriesByType('navigation')[0].transferSize)`)
	if paint == 0 || paint > paintBudget {
		t.Errorf("%d bytes are needed to paint, want at most %d", paint, paintBudget)
	}
	t.Logf("%.0f bytes in all, %d of them to paint", total, paint)
}

// TestNoBarriers looks at every state of the page with axe-core, in light and dark, wide
// and narrow: WCAG 2.2 AA and its best practices, no exceptions.
func TestNoBarriers(t *testing.T) {
	axe, err := os.ReadFile(filepath.Join(npm(t), "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	full, none, locked := startSite(t, filled(t, madeUp(t, 120, 6))), startSite(t, filled(t, nil)), startSite(t, filled(t, nil))
	for _, path := range []string{"/list", "/access", "/histogram"} {
		locked.fails(path, 401, "UNAUTHORIZED", "Unauthorized")
	}
	for _, state := range []struct {
		name  string
		site  *site
		query string
		then  string // is done before the look
	}{
		{"list", full, "?status=failed&range=custom&from=2026-01-01T00:00:00Z", `document.querySelector('#more').click()`},
		{"detail", full, "?entry=" + full.newest().ID, ``},
		{"export", full, "", `document.querySelector('#export-button').click()`},
		{"help", full, "", `document.querySelector('#help-button').click()`},
		{"empty", none, "?q=x", ``},
		{"locked", locked, "", ``},
	} {
		for _, how := range []look{wide, {width: 1360, height: 900, dark: true}, phone, {width: 390, height: 844, dark: true}} {
			how.still = true // a colour on its way has no contrast of its own
			b := state.site.open(t, how, state.query)
			b.excuse("status of 401")
			b.do(command(page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true})) // for axe, which is not of the page
			b.ready()
			if state.then != "" {
				js[bool](b, "("+state.then+", true)")
			}
			js[bool](b, string(axe)+";true")
			found := js[[]struct {
				ID, Help string
				Nodes    []struct{ HTML, FailureSummary string }
			}](b, `axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }).then((r) => r.violations)`)
			for _, v := range found {
				t.Errorf("%s, %d wide, dark %t: %s: %s\n%+v", state.name, how.width, how.dark, v.ID, v.Help, v.Nodes)
			}
		}
	}
}

// htmlPayloads are texts that a page must not take for its own (threats.md B3, and
// gate 23).
func htmlPayloads() (list []string) {
	for _, js := range []string{"alert(1)", "fetch('//evil.test')", "top.name"} {
		for _, form := range []string{
			"<script>%s</script>", "</script><script>%s</script>", "<ScRiPt>%s</sCrIpT>", "<script src=//evil.test/%s></script>", "<img src=x onerror=%s>", "\"><img src=x onerror=%s>", "'><svg/onload=%s>", "<svg><script>%s</script></svg>",
			"<body onload=%s>", "<iframe srcdoc='<script>%s</script>'>", "<iframe src=\"javascript:%s\">", "<a href=\"javascript:%s\">x</a>", "<a href='data:text/html,<script>%s</script>'>x</a>", "<form action=\"javascript:%s\"><button>x</button></form>", "<math href=\"javascript:%s\">x</math>",
			"<details open ontoggle=%s>", "<video><source onerror=%s></video>", "<input autofocus onfocus=%s>", "<marquee onstart=%s>", "<object data=\"javascript:%s\">", "<embed src=\"javascript:%s\">", "<style>@import '//evil.test/%s'</style>", "<link rel=stylesheet href='//evil.test/%s'>", "<meta http-equiv=refresh content=\"0;url=javascript:%s\">",
			"<base href='//evil.test/%s/'>", "<template><script>%s</script></template>", "<noscript><p title=\"</noscript><script>%s</script>\">", "<!--><script>%s</script-->", "<![CDATA[<script>%s</script>]]>", "<xml><x onclick=%s></xml>", "&lt;script&gt;%s&lt;/script&gt;", "&#60;script>%s&#60;/script>",
			"\u2028<script>%s</script>", "<scr\u202eipt>%s</scr\u202eipt>", "<svg><animate onbegin=%s attributeName=x>", "<button formaction=\"javascript:%s\">x</button>", "<isindex action=\"javascript:%s\">", "<table background=\"javascript:%s\">", "<div style=\"background:url(javascript:%s)\">", "{{constructor.constructor('%s')()}}<b>",
			"<textarea></textarea><script>%s</script>", "<p>{env.HOME}{http.request.header.Cookie}%s", "javascript:%s", "__proto__%s",
		} {
			list = append(list, fmt.Sprintf(form, js))
		}
	}
	return append(list, "__proto__", "constructor", "toString", "hasOwnProperty", "null", "undefined", "../list", "..", "\x1b[31mred", "a\u200bb")
}

// shownAs is how the page shows a text: what would not be seen is spelled out.
func shownAs(s string) string {
	return strings.NewReplacer("\u2028", `\u2028`, "\u202e", `\u202e`, "\x1b", `\u001b`, "\u200b", `\u200b`).Replace(s)
}

// TestGate23Viewer has hostile texts in every field of an entry, in keys and
// values of metadata, in the address of the page, in what a live tail sends and in the
// words of errors: none runs, none makes an element or an attribute, each is shown as it
// is.
func TestGate23Viewer(t *testing.T) {
	payloads := htmlPayloads()
	if len(payloads) < 120 {
		t.Fatalf("%d payloads, want 120", len(payloads))
	}
	var entries []storage.Entry
	for i, p := range payloads {
		key, _ := json.Marshal(p)
		e := storage.Entry{ID: storage.NewID(), Action: p, UserID: p, IPAddress: p, UserAgent: p, Status: storage.Failed, Severity: 1, CreatedAt: time.Now().UTC().Add(-time.Duration(i) * time.Second).Truncate(time.Millisecond)}
		if i%3 == 0 {
			e.UserID = "" // what was typed is shown in its place
		}
		e.Metadata = json.RawMessage(fmt.Sprintf(`{"class":%[1]s,"method":%[1]s,"path":%[1]s,"requestId":%[1]s,"source":%[1]s,"identifier":%[1]s,"identifierHash":%[1]s,"targetUserId":%[1]s,"impersonatedBy":%[1]s,"error":{"code":%[1]s,"message":%[1]s},%[1]s:{%[1]s:[%[1]s,1e400,9007199254740993]}}`, key))
		if json.Valid(e.Metadata) {
			entries = append(entries, e)
		}
	}
	s := startSite(t, filled(t, entries))
	s.answer("/"+entries[0].ID, answer{status: 404, body: `{}`})
	b := s.open(t, look{width: 1360, height: 900, still: true}, "")
	js[bool](b, `(window.alert = window.fetched = () => { throw new Error('it ran') }, true)`)
	lost := 0
	shows := func(where, text, payload string) {
		t.Helper()
		if !strings.Contains(text, shownAs(payload)) {
			lost++
			t.Errorf("%s does not show %q", where, payload)
		}
	}
	seen := map[string]bool{}
	for page := 0; ; page++ {
		b.ready()
		for _, row := range js[[][]string](b, `[...document.querySelectorAll('#rows tr[data-id]')].map((n) => [n.dataset.id, ...['action', 'who', 'from'].map((c) => n.querySelector('.' + c).textContent)])`) {
			e, err := s.store.(storage.Getter).Get(t.Context(), row[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, cell := range row[1:] {
				shows("a row", cell, e.Action)
			}
			seen[row[0]] = true
		}
		if js[bool](b, `document.querySelector('#older').disabled`) {
			break
		}
		js[bool](b, `(document.querySelector('#older').click(), true)`)
		b.until("the next page", `history.state?.trail?.length === %s && document.querySelector('#table').ariaBusy !== 'true'`, page+1)
	}
	if len(seen) != len(entries) {
		t.Errorf("%d of %d entries were shown", len(seen), len(entries))
	}
	// Every entry in the detail, one after the other.
	details := 0
	for i := 0; i < len(entries); i += gates.Figure(9, 1) {
		e := &entries[i]
		if i == 0 {
			continue // it is said not to be there
		}
		t.Run(fmt.Sprint("detail ", i), func(t *testing.T) { // the tab is closed at its end: a hundred of them need many gigabytes
			b := s.open(t, look{width: 1360, height: 900, still: true}, "?entry="+e.ID+"&q="+url.QueryEscape(e.Action)+"&userId="+url.QueryEscape(e.Action))
			b.until("the entry is open", `document.querySelector('#detail .tree')`)
			text := js[string](b, `document.querySelector('#detail').textContent`)
			shows("a detail", text, e.Action)
			if n := strings.Count(text, shownAs(e.Action)); n < 8 {
				t.Errorf("a detail shows %q %d times", e.Action, n)
			}
			if !strings.Contains(text, "9007199254740993") || !strings.Contains(text, "1e400") {
				t.Errorf("numbers were changed: %s", text)
			}
			strange(t, b)
		})
		details++
	}
	// The words of errors, and what the tail sends.
	s.fails("/list", 500, "X", payloads[4])
	refused := s.open(t, wide, "")
	refused.excuse("status of 500")
	refused.until("the error is said", `!document.querySelector('#notice').hidden`)
	shows("an error", refused.text("#notice"), payloads[4])
	strange(t, refused)
	s.forget("/list")
	refused.until("live is offered", `!document.querySelector('#live').hidden`)
	js[bool](refused, `([...document.querySelectorAll('#notice .button')][0].click(), true)`)
	refused.ready()
	refused.click("#live")
	refused.until("the tail is open", `document.querySelector('#live').dataset.state === 'open'`)
	late := entries[5]
	late.ID, late.CreatedAt = storage.NewID(), time.Now().UTC().Truncate(time.Millisecond)
	s.add(late)
	refused.until("the entry came", `document.querySelector('[data-id="' + %s + '"]')`, late.ID)
	end, _ := json.Marshal(map[string]string{"code": "FORBIDDEN", "message": payloads[5]})
	s.say("event: end\ndata: " + string(end) + "\n\n")
	refused.until("the end is said", `document.querySelector('#live-state').textContent.includes(%s)`, payloads[5])
	strange(t, refused)
	strange(t, b)
	gates.Print(t, 23, "the viewer: %d payloads for HTML in every field of an entry, in keys and values of metadata, the page's address, errors and the live tail, %d of them opened: 0 ran, %d were not shown as they are; 0 violations of the page's policy", len(payloads), details, lost)
}

// strange fails the test for elements and attributes that the page does not make.
func strange(t *testing.T, b *tab) {
	t.Helper()
	found := js[[]string](b, `[...document.querySelectorAll('*')].flatMap((n) => [
		...(['SCRIPT', 'IFRAME', 'OBJECT', 'EMBED', 'IMG', 'VIDEO', 'STYLE', 'BASE', 'TEMPLATE', 'MATH', 'MARQUEE', 'TEXTAREA', 'FRAME'].includes(n.tagName.toUpperCase()) && !n.src?.startsWith(new URL('viewer/', location.href)) ? [n.outerHTML] : []),
		...[...n.attributes].filter((a) => /^on/.test(a.name) || /^(href|src|action|formaction)$/.test(a.name) && /^\s*(javascript|data):/i.test(a.value)).map((a) => n.tagName + ' ' + a.name)])`)
	for _, f := range found {
		t.Errorf("the page has %s", f)
	}
}
