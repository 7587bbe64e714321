package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// faults are the rows of the conformance table in which something goes wrong
// (threats.md E5.*, X8).
var faults = []string{
	"auth server closes before an answer", "auth server resets before an answer", "auth server answers garbage", "auth server answers two lengths",
	"a page of handle_errors stands for the 502", "auth server breaks off with a length, held", "auth server breaks off in chunks, held",
	"auth server breaks off a 401 in chunks, held", "auth server breaks off with a length", "auth server breaks off in chunks", "auth server resets in chunks",
	"auth server closes after a 103", "103 twice before a chunked 401, each at once", "client leaves before the head",
	"client leaves in the middle of the answer", "client leaves while JSON is held", "client leaves in the middle of its request",
	"handler panics before the head", "handler panics after the head", "handler panics while JSON is held", "handler returns an error of Caddy",
	"handler writes two heads", "handler writes nothing", "status 099 does what it does to Caddy", "status 999 goes through",
	"upgrade with an echo and a half-close",
}

// maskedRows are faults of a site that hides them (threats.md A31): the client is shown
// a 200 in place of the auth server's 401, or waits no longer than the proxy does.
func maskedRows() []row {
	refuses := says(answer("401 Unauthorized", jsonType, denied))
	return []row{
		{name: "handle_response makes a 200 of a 401", request: signIn, body: typed, do: "masked", up: refuses, want: signInIs(storage.Failed, 200)},
		{name: "intercept makes a 200 of a 401", request: signIn, body: typed, do: "intercepted", up: refuses, want: signInIs(storage.Failed, 200)},
		{name: "auth server takes too long for its head", request: signIn, body: typed, do: "late", up: func(p *peer) { p.readBody(); p.gone() }, want: signInIs(storage.Failed, 504)},
	}
}

// maskedSite are the directives for maskedRows; the parameter is the auth server.
const maskedSite = `
	@masked query do=masked
	handle @masked {
		reverse_proxy %[1]s {
			@refused status 401
			handle_response @refused {
				respond "never mind" 200
			}
			transport http {
				keepalive off
			}
		}
	}
	@intercepted query do=intercepted
	handle @intercepted {
		intercept {
			@refused status 401
			handle_response @refused {
				respond "never mind" 200
			}
		}
		reverse_proxy %[1]s {
			transport http {
				keepalive off
			}
		}
	}
	@late query do=late
	handle @late {
		reverse_proxy %[1]s {
			transport http {
				keepalive off
				response_header_timeout 50ms
			}
		}
	}`

// TestGate07HTTPFaults: each fault makes exactly one entry with the right outcome,
// client and auth server see the bytes that they see without the module, and a panic
// goes on with its value. The control writes its entry when the next handler has
// returned.
func TestGate07HTTPFaults(t *testing.T) {
	rows := faultRows(t)
	up := newUpstream(t)
	for i := range rows {
		if rows[i].do == "" {
			rows[i].do = fmt.Sprint("fault-", i)
		}
		up.scripts[rows[i].do] = rows[i].up
	}
	masked := fmt.Sprintf(maskedSite, up.addr)
	plain := &testSite{name: "plain", directive: "e2e_watch" + masked}
	audited := &testSite{name: "audited", directive: "e2e_watch\n\t" + singly() + masked}
	naive := &testSite{name: "naive", directive: "e2e_watch\n\te2e_naive" + masked}
	dir := t.TempDir()
	startSites(t, fmt.Sprintf("\t\tstore sqlite {\n\t\t\tpath %s/audit.db\n\t\t}\n", dir), up.addr, plain, audited, naive)
	j := &journal{store: harness.OpenStore(t, dir), known: map[string]bool{}}
	g := &faultGate{up: up, journal: j, times: gates.Figure(10, 1000), plainTimes: gates.Figure(2, 20)}
	for i := range rows {
		t.Run(rows[i].name, func(t *testing.T) { g.run(t, &rows[i], plain, audited, naive) })
	}
	gates.Print(t, 7, "%d faults x %d: %d exchanges, %d wrong; %d panics, %d rethrown; control, written after the handler: no entry for %d of %d faults, the wrong outcome for %d",
		len(rows), g.times, g.exchanges, g.wrong, g.panics, g.rethrown, g.naiveNone, len(rows), g.naiveWrong)
	if g.naiveNone == 0 || g.naiveWrong == 0 || g.panics == 0 || g.rethrown != g.panics || g.wrong > 0 {
		t.Error("something is wrong, or the control loses nothing and the faults no longer say anything")
	}
}

func faultRows(t *testing.T) []row {
	t.Helper()
	rows := slices.DeleteFunc(conformanceRows(), func(r row) bool { return !slices.Contains(faults, r.name) })
	if len(rows) != len(faults) {
		t.Fatalf("the conformance table has %d of the %d faults: one was renamed", len(rows), len(faults))
	}
	return append(rows, maskedRows()...)
}

type faultGate struct {
	up                *upstream
	journal           *journal
	times, plainTimes int

	exchanges, wrong, panics, rethrown, naiveNone, naiveWrong int
}

// run makes one fault happen, on the site without the module to know what is to be
// seen, and then on the site with it.
func (g *faultGate) run(t *testing.T, r *row, plain, audited, naive *testSite) {
	watched.take()
	client, server := r.run(t, g.up, plain)
	for range g.plainTimes - 1 {
		compare(t, r, g.up, plain, client, server) // or the bytes say nothing
	}
	without := watched.await(t, g.plainTimes)
	for range g.times {
		compare(t, r, g.up, audited, client, server)
		g.journal.await(t, r.want, r.or)
		g.exchanges++
		if t.Failed() {
			g.wrong++
			return
		}
	}
	if with := watched.await(t, g.times); !strings.HasPrefix(r.name, "client leaves") {
		g.compareWatched(t, without, with) // else two ends race in Caddy itself
	}
	naiveLog.take()
	r.run(t, g.up, naive)
	watched.await(t, 1)
	switch status := naiveLog.take(); {
	case status == "":
		g.naiveNone++
	case status != string(r.want[0].status) && (r.or == nil || status != string(r.or[0].status)):
		g.naiveWrong++
	}
}

// compareWatched holds what came out of the handlers with the module against what
// comes out without it.
func (g *faultGate) compareWatched(t *testing.T, without, with []string) {
	t.Helper()
	always, same := without[0], 0
	for _, s := range with {
		if s == always {
			same++
		}
	}
	if same != len(with) || slices.ContainsFunc(without, func(s string) bool { return s != always }) {
		t.Errorf("without the module comes out of the handler %q, with it %d of %d times the same: %.300q", without, same, len(with), with)
		g.wrong++
	}
	if strings.HasPrefix(always, "panic") {
		g.panics += len(with)
		g.rethrown += same
	}
}

// Modules.

func init() {
	caddy.RegisterModule(watchHandler{})
	caddy.RegisterModule(naiveHandler{})
	caddy.RegisterModule(closingHandler{})
	register := func(name string, h caddyhttp.MiddlewareHandler) {
		httpcaddyfile.RegisterHandlerDirective(name, func(d httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
			for d.Next() {
			}
			return h, nil
		})
		// Where audit_log is, and before it: that was registered earlier.
		httpcaddyfile.RegisterDirectiveOrder(name, httpcaddyfile.After, "encode")
	}
	register("e2e_naive", naiveHandler{})
	register("e2e_watch", watchHandler{})
	register("e2e_closing", &closingHandler{})
}

// notes are what handlers noted, in order.
type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, s)
}

// take returns the last note, "" for none, and forgets all.
func (n *notes) take() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := ""
	if len(n.list) > 0 {
		last = n.list[len(n.list)-1]
	}
	n.list = nil
	return last
}

// await waits for so many notes and takes them: handlers may end after their clients
// have everything.
func (n *notes) await(t *testing.T, want int) []string {
	t.Helper()
	eventually(t, fmt.Sprintf("not all of %d handlers have ended", want), func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.list) >= want
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.list
	n.list = nil
	return list
}

// watched is what came out of the handlers behind e2e_watch; naiveLog what the naive
// log holds.
var watched, naiveLog notes

// watchHandler notes how the next handler ends, and ends in the same way.
type watchHandler struct{}

func (watchHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_watch", New: func() caddy.Module { return new(watchHandler) }}
}

func (watchHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			watched.add(fmt.Sprintf("panic %T %v", p, p))
			panic(p)
		}
		watched.add("return " + errorKind(err))
	}()
	return next.ServeHTTP(w, r)
}

// errorKind is an error without its trace id and addresses, which differ each time.
func errorKind(err error) string {
	var e caddyhttp.HandlerError
	if err == nil {
		return "nil"
	}
	if he, ok := err.(caddyhttp.HandlerError); ok { //nolint:errorlint // as Caddy's server looks at it
		e = he
	}
	return fmt.Sprintf("%T %d", err, e.StatusCode)
}

// naiveHandler is an audit log as one would write it first: it watches the status, and
// writes when the next handler has returned.
type naiveHandler struct{}

func (naiveHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_naive", New: func() caddy.Module { return new(naiveHandler) }}
}

func (naiveHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path == "/api/auth/get-session" {
		return next.ServeHTTP(w, r)
	}
	n := &naiveWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	err := next.ServeHTTP(n, r)
	outcome := storage.Success
	if n.status >= 400 {
		outcome = storage.Failed
	}
	naiveLog.add(string(outcome))
	return err
}

type naiveWriter struct {
	*caddyhttp.ResponseWriterWrapper
	status int
}

// WriteHeader implements http.ResponseWriter.
func (n *naiveWriter) WriteHeader(status int) {
	if n.status == 0 {
		n.status = status
	}
	n.ResponseWriterWrapper.WriteHeader(status)
}
