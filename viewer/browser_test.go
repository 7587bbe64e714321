package viewer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// missing is what a test says that is skipped because there is no browser.
const missing = "Chromium is not on this machine"

// patience is how long something may take in the browser before a test gives up: a
// guard against hanging, not a figure.
const patience = 2 * time.Minute

// chromium finds the browser.
func chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip(missing + ": run make tools-chromium (Debian: apt-get install chromium)")
	return ""
}

var (
	startBrowser sync.Once
	browser      context.Context
	endBrowser   func()
)

func TestMain(m *testing.M) {
	code := m.Run()
	if endBrowser != nil {
		endBrowser()
	}
	os.Exit(code)
}

// browse returns the browser that all tests share, started by the first.
func browse(t testing.TB) context.Context {
	t.Helper()
	path := chromium(t)
	startBrowser.Do(func() {
		options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("headless", "new"),
			chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), chromedp.Flag("lang", "en-US"), chromedp.DisableGPU,
			chromedp.Env("TZ=Europe/Berlin", "LANGUAGE=en"), chromedp.WSURLReadTimeout(patience))
		if os.Geteuid() == 0 {
			options = append(options, chromedp.NoSandbox)
		}
		all, stop := chromedp.NewExecAllocator(context.Background(), options...)
		ctx, cancel := chromedp.NewContext(all)
		endBrowser = func() { cancel(); stop() }
		if err := chromedp.Do(ctx); err != nil {
			t.Fatalf("Chromium does not start: %v", err)
		}
		browser = ctx
	})
	if browser == nil {
		t.Fatal("Chromium did not start")
	}
	return browser
}

// tab is a page in the browser, and what went wrong in it.
type tab struct {
	t   testing.TB
	ctx context.Context
	// excused are failures that a test brings about, as parts of their texts.
	excused []string

	// mu protects the fields below.
	mu       sync.Mutex
	faults   []string // errors of the console, exceptions, violations of the policy
	elsewere []string // requests to other hosts
	received float64  // bytes over the network
	answers  map[network.RequestID]string
}

// look is how a tab is looked at.
type look struct {
	width, height int64
	dark          bool
	still         bool // prefers-reduced-motion
}

var (
	wide  = look{width: 1360, height: 900}
	phone = look{width: 390, height: 844}
)

// watch reports violations of the policy to the console, as errors: the browser's own
// report of them does not say all.
const watch = `addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sample));`

// open opens a page of the site.
func (s *site) open(t testing.TB, how look, query string) *tab {
	t.Helper()
	return open(t, how, s.URL+base+"/"+query)
}

// open opens a page in a tab of its own, which shares no cookies with others.
func open(t testing.TB, how look, address string) *tab {
	t.Helper()
	b := &tab{t: t, answers: map[network.RequestID]string{}}
	origin, _ := url.Parse(address)
	ctx, cancel := chromedp.NewContext(browse(t), chromedp.WithNewBrowserContext(), chromedp.WithListener(func(event any) { b.heard(event, origin.Host) }))
	t.Cleanup(cancel)
	b.ctx = ctx
	scheme, motion := "light", "no-preference"
	if how.dark {
		scheme = "dark"
	}
	if how.still {
		motion = "reduce"
	}
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion}}
	if err := chromedp.Do(ctx); err != nil { // the first call must not have a deadline: the tab would end with it
		t.Fatal(err)
	}
	b.do(command(network.Enable, network.EnableParams{}), command(log.Enable, cdp.Empty{}), command(runtime.Enable, cdp.Empty{}),
		command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: how.width, Height: how.height, DeviceScaleFactor: 1, Mobile: how.width < 500}),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}),
		command(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: watch}),
		chromedp.Navigate(address))
	t.Cleanup(b.blameless)
	return b
}

func (b *tab) heard(event any, host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.faults = append(b.faults, "exception: "+e.ExceptionDetails.Text+" "+said([]*runtime.RemoteObject{e.ExceptionDetails.Exception}))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			b.faults = append(b.faults, "console: "+said(e.Args))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.faults = append(b.faults, "log: "+e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Host != host && u.Scheme != "data" && u.Scheme != "chrome" {
			b.elsewere = append(b.elsewere, e.Request.URL)
		}
	case *network.EventResponseReceived:
		b.answers[e.RequestID] = e.Response.URL
	case *network.EventLoadingFinished:
		b.received += e.EncodedDataLength
	}
}

func said(args []*runtime.RemoteObject) string {
	var words []string
	for _, a := range args {
		words = append(words, string(a.Value)+a.Description)
	}
	return strings.Join(words, " ")
}

// blameless fails the test for anything that went wrong in the tab.
func (b *tab) blameless() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		if !b.excuses(fault) {
			b.t.Errorf("in the browser: %s", fault)
		}
	}
	if len(b.elsewere) > 0 {
		b.t.Errorf("requests to other hosts: %q", b.elsewere)
	}
}

func (b *tab) excuses(fault string) bool {
	for _, part := range b.excused {
		if strings.Contains(fault, part) {
			return true
		}
	}
	return false
}

func (b *tab) excuse(parts ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.excused = append(b.excused, parts...)
}

// command is a command of the protocol as an action.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// do runs actions, and ends the test when one fails.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	run(b, chromedp.Steps(actions...))
}

// run runs an action, and ends the test when it fails or hangs.
func run[T any](b *tab, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatal(err)
	}
	return value
}

// js evaluates an expression.
func js[T any](b *tab, expression string, args ...any) T {
	b.t.Helper()
	if len(args) > 0 {
		literals := make([]any, len(args))
		for i, a := range args {
			text, _ := json.Marshal(a)
			literals[i] = string(text)
		}
		expression = fmt.Sprintf(expression, literals...)
	}
	return run(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// until waits until an expression is true.
func (b *tab) until(what, expression string, args ...any) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !js[bool](b, "!!("+expression+")", args...) {
		if time.Now().After(deadline) {
			b.shot(filepath.Join(b.t.TempDir(), "stuck.png"))
			b.t.Fatalf("never: %s\n%s\n%s", what, js[string](b, "location.href"), js[string](b, "document.querySelector('main').innerText.slice(0, 1500)"))
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// ready waits until the list, the chart and the rights have come.
func (b *tab) ready() {
	b.t.Helper()
	b.until("the page is ready", `document.querySelector('#table').ariaBusy !== 'true' && !document.querySelector('[aria-busy]') && (document.querySelector('#rows tr[data-id]') || !document.querySelector('#notice').hidden)`)
}

// painted waits until what has come is shown.
func (b *tab) painted() {
	b.t.Helper()
	time.Sleep(200 * time.Millisecond) // of the connection
	js[bool](b, `(window.drawn = 0, requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = 1; })), true)`)
	b.until("it is painted", `window.drawn === 1`)
}

// key presses a key.
func (b *tab) key(key string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(key))
}

// click clicks on what a selector finds first, as a mouse does.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.until(selector+" can be clicked", `document.querySelector(%s)?.checkVisibility() && !document.querySelector(%s).disabled`, selector, selector)
	at := js[[]float64](b, `(() => { const n = document.querySelector(%s); n.scrollIntoView({ block: 'center' }); const r = n.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2] })()`, selector)
	b.do(chromedp.MouseClickXY(at[0], at[1]))
}

// fill types into a field, and leaves it with Enter.
func (b *tab) fill(selector, text string) {
	b.t.Helper()
	js[bool](b, `(document.querySelector(%s).focus(), true)`, selector)
	b.do(chromedp.KeyEvent(text + "\n"))
}

// choose takes an option of a select.
func (b *tab) choose(name, value string) {
	b.t.Helper()
	js[bool](b, `(() => { const f = document.querySelector('#filters').elements[%s]; f.value = %s; f.dispatchEvent(new Event('change', { bubbles: true })); return true })()`, name, value)
}

// rows returns the texts of a column's cells.
func (b *tab) rows(column string) []string {
	b.t.Helper()
	return js[[]string](b, `[...document.querySelectorAll('#rows tr[data-id] .' + %s)].map((n) => n.textContent)`, column)
}

func (b *tab) text(selector string) string {
	b.t.Helper()
	return js[string](b, `document.querySelector(%s).innerText`, selector)
}

// param is a parameter of the page's address.
func (b *tab) param(name string) string {
	b.t.Helper()
	return js[string](b, `new URL(location.href).searchParams.get(%s) ?? ''`, name)
}

// shot writes what is seen into a PNG.
func (b *tab) shot(file string) {
	b.t.Helper()
	if err := os.WriteFile(file, run(b, chromedp.CaptureScreenshot()), 0o600); err != nil {
		b.t.Fatal(err)
	}
}
