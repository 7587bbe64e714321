package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func TestConformanceEntryIsStoredBeforeTheFirstByteOfTheAnswer(t *testing.T) {
	sse1 := chunkedHead("200 OK", sse) + chunk("data: 1\n\n")
	open, last := chunkedHead("200 OK", jsonType), "0\r\n\r\n"
	tests := []row{
		{name: "held JSON with a length", request: signIn, body: typed, up: stepped(answer("200 OK", jsonType, wantsTOT)), want: signInIs(storage.Pending, 200)},
		{name: "held JSON in chunks, before the last one", request: signIn, body: typed, up: stepped(open+chunk(wantsTOT), last), want: signInIs(storage.Pending, 200)},
		{name: "held JSON above the cap in chunks", request: signIn, body: typed, up: stepped(open+chunk(jsonOf(70_000)), last), want: signInIs(storage.Unknown, 200)},
		{name: "401 after a hint", request: signIn, body: typed, up: stepped(hint + chunked("401 Unauthorized", jsonType, denied)), want: signInIs(storage.Failed, 401)},
		{name: "JSON in chunks, not held", request: update, body: typed, up: stepped(open+chunk(`{"a":`), chunk(`1}`)+last), want: updateIs(storage.Success, 200)},
		{name: "JSON with a length, not held", request: update, body: typed, up: stepped(answer("200 OK", jsonType, wantsTOT)), want: updateIs(storage.Success, 200)},
		{name: "events", request: verify, up: stepped(sse1, last), want: verifyIs(storage.Success, 200)},
		{name: "upgrade", request: verify, header: "Connection: Upgrade\r\nUpgrade: echo\r\n", keep: true, up: func(p *peer) {
			p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			p.waitClient()
			p.close()
		}, want: verifyIs(storage.Success, 101)},
		{name: "auth server that is down", request: signIn, body: typed, up: cut(false, false), want: signInIs(storage.Failed, 502)},
		{name: "account deletion", request: "POST /api/auth/delete-user", body: typed, up: stepped(open+chunk(`{"success":true}`), last), want: []entry{{"delete-user", storage.Success, 200}}},
	}
	up := newUpstream(t)
	for i := range tests {
		up.scripts[fmt.Sprint(i)] = tests[i].up
	}
	dir, s := t.TempDir(), &testSite{directive: pinned}
	startSites(t, fmt.Sprintf("\t\tstore sqlite {\n\t\t\tpath %s/audit.db\n\t\t}\n", dir), up.addr, s)
	j := &journal{store: harness.OpenStore(t, dir), known: map[string]bool{}}
	for i := range tests {
		t.Run(tests[i].name, func(t *testing.T) {
			for range 5 {
				firstByte(t, up, s, j, &tests[i], fmt.Sprint(i))
			}
		})
	}
}

// firstByte reads one byte of the final answer and looks into the store at once.
func firstByte(t *testing.T, up *upstream, s *testSite, j *journal, r *row, do string) {
	t.Helper()
	w := dial(t, s.port, up.begin())
	defer w.close()
	w.send(r.raw(do))
	if strings.Contains(r.name, "hint") {
		w.readHead()
	}
	if _, err := w.in.ReadByte(); err != nil {
		t.Fatal(err)
	}
	fresh := j.fresh(t)
	if len(fresh) != 1 || facts(fresh[0]) != r.want[0] {
		t.Errorf("at the first byte of the answer the store has %d entries %v, want %v", len(fresh), fresh, r.want)
	}
	for _, e := range fresh {
		j.known[e.ID] = true
	}
	w.tellUpstream()
	up.took()
}

// refusalRow is an exchange while the store is down.
type refusalRow struct {
	row
	// allowed is how many writes the store still takes.
	allowed int32
	// status the client must get, and whether the auth server must be called.
	status int
	called bool
}

const secretHeaders = jsonType + "Set-Cookie: better-auth.session_token=s3cret.sig; Path=/\r\nSet-Auth-Token: s3cret\r\nX-Upstream: yes\r\n"

func TestConformanceWhileTheStoreIsDownByDefault(t *testing.T) {
	ok := says(answer("200 OK", secretHeaders, signedIn))
	refusals(t, pinned, []refusalRow{
		{row: row{name: "account deletion is refused", request: "POST /api/auth/delete-user", body: typed, up: ok, want: []entry{{"delete-user", storage.Failed, 503}}}, status: 503},
		{row: row{name: "an administrator's ban is refused", request: "POST /api/auth/admin/ban-user", body: typed, up: ok, want: []entry{{"admin:ban-user", storage.Failed, 503}}}, status: 503},
		{row: row{name: "account deletion whose intent was stored goes through", request: "POST /api/auth/delete-user", body: typed, up: ok, want: []entry{{"delete-user", storage.Success, 200}}}, allowed: 1, status: 200, called: true},
		{row: row{name: "sign-out goes through", request: "POST /api/auth/sign-out", body: "{}", up: ok, want: []entry{{"sign-out", storage.Success, 200}}}, status: 200, called: true},
		{row: row{name: "revocation of a session goes through", request: "POST /api/auth/revoke-session", body: "{}", up: ok, want: []entry{{"revoke-session", storage.Success, 200}}}, status: 200, called: true},
		{row: row{name: "sign-in goes through", request: signIn, body: typed, up: ok, want: signInIs(storage.Success, 200)}, status: 200, called: true},
		{row: row{name: "update goes through", request: update, body: typed, up: ok, want: updateIs(storage.Success, 200)}, status: 200, called: true},
		{row: row{name: "error goes through", request: signIn, body: typed, up: cut(false, false), want: signInIs(storage.Failed, 502)}, status: 502, called: true},
	})
}

func TestConformanceWhileTheStoreIsDownAndFailIsClosed(t *testing.T) {
	endless := func(p *peer) {
		p.send(chunkedHead("200 OK", secretHeaders[len(jsonType):]+sse) + chunk("data: 1\n\n"))
		p.waitClient() // it has its 503 although this answer never ends
		p.send(chunk(strings.Repeat("x", 100_000)))
		p.gone() // and Caddy does not read for ever
	}
	tunnel := func(p *peer) {
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n" + secretHeaders[len(jsonType):] + "\r\n")
		b, _ := io.ReadAll(p.in)
		p.body, p.shut = b, true
	}
	refusals(t, "audit_log {\n\t\tprofile better_auth\n\t\tfail closed\n\t}", []refusalRow{
		{row: row{name: "sign-in with a length, held", request: signIn, body: typed, up: says(answer("200 OK", secretHeaders, signedIn)), want: signInIs(storage.Success, 200)}, status: 503, called: true},
		{row: row{name: "sign-in in chunks, held", request: signIn, body: typed, up: says(chunked("200 OK", secretHeaders, pieces(signedIn, 7)...)), want: signInIs(storage.Success, 200)}, status: 503, called: true},
		{row: row{name: "sign-in above the cap", request: signIn, body: typed, up: says(chunked("200 OK", secretHeaders, pieces(jsonOf(300_000), 30_000)...)), want: signInIs(storage.Success, 200)}, status: 503, called: true},
		{row: row{name: "sign-in with trailers", request: signIn, body: typed, up: says(chunkedHead("200 OK", secretHeaders+"Trailer: X-Sum\r\n") + chunk(signedIn) + "0\r\nX-Sum: 1\r\n\r\n"), want: signInIs(storage.Success, 200)}, status: 503, called: true},
		{row: row{name: "update, not held", request: update, body: typed, up: says(answer("200 OK", secretHeaders, signedIn)), want: updateIs(storage.Success, 200)}, status: 503, called: true},
		{row: row{name: "204", request: update, body: typed, up: says("HTTP/1.1 204 No Content\r\n" + secretHeaders + "\r\n"), want: updateIs(storage.Success, 204)}, status: 503, called: true},
		{row: row{name: "redirect", request: magic, up: says(answer("302 Found", secretHeaders+"Location: /app\r\n", "")), want: []entry{{"magic-link:verify", storage.Success, 302}}}, status: 503, called: true},
		{row: row{name: "handler that writes nothing", request: signIn, body: typed, do: "silent", want: signInIs(storage.Success, 200)}, status: 503},
		{row: row{name: "file", request: verify, do: "file", want: verifyIs(storage.Success, 200)}, status: 503},
		{row: row{name: "auth server that is down", request: signIn, body: typed, up: cut(false, false), want: signInIs(storage.Failed, 502)}, status: 503, called: true},
		{row: row{name: "endless events", request: verify, up: endless, want: verifyIs(storage.Success, 200)}, status: 503, called: true},
		{row: row{name: "tunnel", request: verify, header: "Connection: Upgrade\r\nUpgrade: echo\r\n", keep: true, up: tunnel, want: verifyIs(storage.Success, 101)}, status: 503, called: true},
		{row: row{name: "sign-out goes through", request: "POST /api/auth/sign-out", body: "{}", up: says(answer("200 OK", secretHeaders, "{}")), want: []entry{{"sign-out", storage.Success, 200}}}, status: 200, called: true},
	})
}

func refusals(t *testing.T, directive string, rows []refusalRow) {
	t.Helper()
	up := newUpstream(t)
	for i := range rows {
		if rows[i].do == "" {
			rows[i].do = fmt.Sprintf("r%d", i)
			up.scripts[rows[i].do] = rows[i].up
		}
	}
	sw, s := newFailingStore(t), &testSite{directive: directive}
	startSites(t, "\t\tstore e2e_failing "+t.Name()+"\n", up.addr, s)
	j := &journal{store: sw, known: map[string]bool{}}
	for i := range rows {
		t.Run(rows[i].name, func(t *testing.T) { rows[i].whileDown(t, up, sw, s, j) })
	}
}

func (r *refusalRow) whileDown(t *testing.T, up *upstream, sw *storeSwitch, s *testSite, j *journal) {
	sw.ok.Store(r.allowed)
	sw.failures.Store(0)
	sw.down.Store(true)
	w := dial(t, s.port, up.begin())
	defer w.close()
	began := time.Now()
	w.send(r.raw(r.do))
	head := w.answer()
	if got := status(head); got != r.status {
		t.Errorf("status %d, want %d", got, r.status)
	}
	w.send("through the tunnel?") // nobody may be there
	w.tellUpstream()
	w.close()
	checkRefusal(t, head, w.log.String(), r.status == 503)
	if seen := up.took(); (len(seen) > 0) != r.called {
		t.Errorf("the auth server was called %d times, want that to be %v", len(seen), r.called)
	} else if strings.Contains(strings.Join(seen, ""), "tunnel?") {
		t.Error("there is a tunnel without an entry")
	}
	for _, e := range j.fresh(t) {
		if f := facts(e); r.allowed == 0 || f.status != storage.Unknown {
			t.Errorf("the store is down but has %v", f)
		}
	}
	if len(r.want) > 0 { // the request's own write failed, and the background's
		sw.awaitFailures(t, 2)
	}
	sw.down.Store(false)
	j.await(t, r.want, nil)
	t.Logf("%v until the entry was there", time.Since(began).Round(time.Millisecond))
}

func (sw *storeSwitch) awaitFailures(t *testing.T, n int32) {
	t.Helper()
	for end := time.Now().Add(hang); sw.failures.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the store was tried %d times, want %d", sw.failures.Load(), n)
		}
	}
}

func checkRefusal(t *testing.T, head, all string, refused bool) {
	t.Helper()
	if strings.Contains(all, "AUDIT_UNAVAILABLE") != refused {
		t.Errorf("want a refusal to be %v, got\n%s", refused, all)
	}
	if !refused {
		return
	}
	for _, secret := range []string{"Set-Cookie", "Set-Auth-Token", "X-Upstream", "Location", "s3cret", "Trailer", "t0k3n"} {
		if strings.Contains(all, secret) {
			t.Errorf("the refusal shows %s:\n%s", secret, all)
		}
	}
	if field(head, "Retry-After") == "" || field(head, "Cache-Control") != "no-store" {
		t.Errorf("the refusal lacks Retry-After or Cache-Control: no-store:\n%s", head)
	}
}

var _ storage.Lister = (*storeSwitch)(nil)
