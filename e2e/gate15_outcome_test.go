package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate15OutcomeTruth: the log says how an exchange ended, which the status alone
// does not (threats.md A10, A26, A27, X11). The rows run against a real Better Auth
// server; their control is a log that goes by the status. Then destructive requests
// end in every way there is: each intent has exactly one outcome, and no success that
// the server did not answer. TestLive and the recordings hold the other routes.
func TestGate15OutcomeTruth(t *testing.T) {
	rows, right, naive := outcomeRows(t)
	intents, wrong := endedIntents(t)
	gates.Print(t, 15, "%d of %d rows of X11 right; %d intents, %d without exactly one right outcome; control, by status alone: %d of %d rows wrong",
		right, rows, intents, wrong, naive, rows)
	if right != rows || rows < 30 || wrong > 0 || naive == 0 {
		t.Error("the figures must be all, 0, and more than 0 in the control")
	}
}

// outcomeRow is one exchange and its truth. do makes it with the given header, which
// names the row.
type outcomeRow struct {
	name   string
	action string // "" if it is no event
	status storage.Status
	do     func(name ...string) (status int)
}

func outcomeRows(t *testing.T) (rows, right, naive int) {
	t.Helper()
	t.Run("rows", func(t *testing.T) { // Caddy ends with it
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		base := fmt.Sprintf("http://127.0.0.1:%d", port)
		server := startBetterAuth(t, base)
		harness.Load(t, anyHost(database(dir), "", siteOf(port, singly("unlink off"), fmt.Sprintf("127.0.0.1:%d", server.Port))))
		list := (&outcomeRun{t: t, base: base, mailbox: server.MailboxPort}).rows()
		statuses := make([]int, len(list))
		for i := range list {
			statuses[i] = list[i].do("User-Agent", list[i].name)
		}
		entries := everyEntry(t, database(dir))
		for i, r := range list {
			rows++
			var got, want []string
			for _, e := range entries[r.name] {
				got = append(got, e.Action+" "+string(e.Status))
			}
			if r.action != "" {
				want = []string{r.action + " " + string(r.status)}
			}
			if slices.Equal(got, want) {
				right++
			} else {
				t.Errorf("%s (%d): %q, want %q", r.name, statuses[i], got, want)
			}
			if byStatus := statuses[i] < 400; r.action != "" && byStatus != (r.status == storage.Success) {
				naive++
			}
		}
	})
	return rows, right, naive
}

// outcomeRun is the people of the rows, and their mail.
type outcomeRun struct {
	t       *testing.T
	base    string
	mailbox int
}

// mail is the last mail of a kind that somebody got.
func (o *outcomeRun) mail(to, kind string) (m struct{ Kind, URL, Token, Code string }) {
	o.t.Helper()
	_, body := call(o.t, "GET", fmt.Sprintf("http://127.0.0.1:%d/mailbox?to=%s", o.mailbox, url.QueryEscape(to)), "")
	var box struct {
		Mails []struct{ Kind, URL, Token, Code string }
	}
	if err := json.Unmarshal([]byte(body), &box); err != nil {
		o.t.Fatal(err)
	}
	for _, one := range slices.Backward(box.Mails) {
		if one.Kind == kind {
			return one
		}
	}
	o.t.Fatalf("%s has no mail of kind %s: %s", to, kind, body)
	return m
}

// link is the path and query of a mailed link under the base path.
func (o *outcomeRun) link(mailed string) string {
	o.t.Helper()
	u, err := url.Parse(mailed)
	if err != nil {
		o.t.Fatal(err)
	}
	return strings.TrimPrefix(u.RequestURI(), "/api/auth")
}

const goodPassword = "correct horse battery"

func credential(email, password string) string {
	return fmt.Sprintf(`{"name":"Somebody","email":%q,"password":%q}`, email, password)
}

// rows are the exchanges, in the order in which they have to be made.
func (o *outcomeRun) rows() []outcomeRow {
	who := map[string]*visitor{}
	as := func(name string) *visitor {
		if who[name] == nil {
			who[name] = newVisitor(o.t, o.base)
		}
		return who[name]
	}
	row := func(name, action string, status storage.Status, person, method, path, body string, header ...string) outcomeRow {
		return outcomeRow{name, action, status, func(agent ...string) int {
			code, _, _ := as(person).do(method, path, body, append(header, agent...)...)
			return code
		}}
	}
	// later is a row whose path and body are known when it is its turn.
	later := func(name, action string, status storage.Status, person, method string, request func() (path, body string)) outcomeRow {
		return outcomeRow{name, action, status, func(agent ...string) int {
			path, body := request()
			code, _, _ := as(person).do(method, path, body, agent...)
			return code
		}}
	}
	ada := "ada@example.com"
	form := url.Values{"email": {ada}, "password": {goodPassword}}.Encode()
	rows := []outcomeRow{
		row("a sign-up", "sign-up:email", storage.Success, "ada", "POST", "/sign-up/email", credential(ada, goodPassword)),
		row("a sign-up with an address that is taken", "sign-up:email", storage.Failed, "other", "POST", "/sign-up/email", credential(ada, goodPassword)),
		row("a sign-in", "sign-in:email", storage.Success, "ada", "POST", "/sign-in/email", credential(ada, goodPassword)),
		row("a sign-in with a wrong password", "sign-in:email", storage.Failed, "other", "POST", "/sign-in/email", credential(ada, "wrong horse")),
		row("a sign-in of nobody", "sign-in:email", storage.Failed, "other", "POST", "/sign-in/email", credential("nobody@example.com", goodPassword)),
		row("a sign-in that is no JSON", "sign-in:email", storage.Failed, "other", "POST", "/sign-in/email", `{"email":`),
		row("a sign-in as text", "sign-in:email", storage.Failed, "other", "POST", "/sign-in/email", credential(ada, goodPassword), "Content-Type", "text/plain"),
		row("a sign-in by a form", "sign-in:email", storage.Success, "form", "POST", "/sign-in/email", form, "Content-Type", "application/x-www-form-urlencoded"),
		row("a request from another site", "change-password", storage.Failed, "ada", "POST", "/change-password", `{}`, "Origin", "https://evil.example"),
		row("a request from nowhere", "change-password", storage.Failed, "ada", "POST", "/change-password", `{}`, "Origin", ""),
		row("no session", "", "", "other", "GET", "/get-session", ""),
		row("a session", "", "", "ada", "GET", "/get-session", ""),
		row("a sign-out by GET", "sign-out", storage.Failed, "ada", "GET", "/sign-out", ""),
		row("a sign-out without a session", "sign-out", storage.Success, "other", "POST", "/sign-out", "{}"),
		row("a sign-out", "sign-out", storage.Success, "form", "POST", "/sign-out", "{}"),
		row("a magic link is asked for", "sign-in:magic-link", storage.Pending, "linked", "POST", "/sign-in/magic-link", `{"email":"linked@example.com","callbackURL":"/welcome"}`),
		row("a bad magic link", "magic-link:verify", storage.Failed, "other", "GET", "/magic-link/verify?token=bad&callbackURL=/welcome", ""),
		later("a good magic link", "magic-link:verify", storage.Success, "linked", "GET", func() (string, string) {
			return o.link(o.mail("linked@example.com", "magic-link").URL), ""
		}),
		later("a magic link again", "magic-link:verify", storage.Failed, "other", "GET", func() (string, string) {
			return o.link(o.mail("linked@example.com", "magic-link").URL), ""
		}),
	}
	return slices.Concat(rows, o.passwordRows(row, later), o.accountRows(row, later))
}

type (
	makeRow  func(name, action string, status storage.Status, person, method, path, body string, header ...string) outcomeRow
	makeRow2 func(name, action string, status storage.Status, person, method string, request func() (path, body string)) outcomeRow
)

func (o *outcomeRun) passwordRows(row makeRow, later makeRow2) []outcomeRow {
	ada := "ada@example.com"
	return []outcomeRow{
		row("a reset is asked for", "request-password-reset", storage.Pending, "other", "POST", "/request-password-reset", `{"email":"ada@example.com","redirectTo":"/reset"}`),
		row("a reset for nobody", "request-password-reset", storage.Pending, "other", "POST", "/request-password-reset", `{"email":"nobody@example.com","redirectTo":"/reset"}`),
		row("a bad reset link", "reset-password::token", storage.Failed, "other", "GET", "/reset-password/bad?callbackURL=/reset", ""),
		later("a good reset link", "reset-password::token", storage.Pending, "other", "GET", func() (string, string) {
			return o.link(o.mail(ada, "reset-password").URL), ""
		}),
		row("a reset with a bad token", "reset-password", storage.Failed, "other", "POST", "/reset-password", `{"newPassword":"another horse battery","token":"bad"}`),
		later("a reset", "reset-password", storage.Success, "other", "POST", func() (string, string) {
			return "/reset-password", fmt.Sprintf(`{"newPassword":%q,"token":%q}`, goodPassword, o.mail(ada, "reset-password").Token)
		}),
		row("a change of the password with a wrong one", "change-password", storage.Failed, "ada", "POST", "/change-password", `{"currentPassword":"wrong horse","newPassword":"another horse battery"}`),
		row("a change of the password", "change-password", storage.Success, "ada", "POST", "/change-password", `{"currentPassword":"`+goodPassword+`","newPassword":"`+goodPassword+`"}`),
		row("a wrong password is shown", "verify-password", storage.Failed, "ada", "POST", "/verify-password", `{"password":"wrong horse"}`),
		row("a second factor is begun", "two-factor:enable", storage.Pending, "ada", "POST", "/two-factor/enable", `{"password":"`+goodPassword+`"}`),
		row("a code is asked for", "two-factor:send-otp", storage.Pending, "ada", "POST", "/two-factor/send-otp", `{}`),
		later("a second factor is set up", "two-factor:verify-otp", storage.Success, "ada", "POST", func() (string, string) {
			return "/two-factor/verify-otp", fmt.Sprintf(`{"code":%q}`, o.mail(ada, "two-factor-otp").Code)
		}),
		row("a sign-in that needs a second factor", "sign-in:email", storage.Pending, "second", "POST", "/sign-in/email", credential(ada, goodPassword)),
		row("a code for the second factor", "two-factor:send-otp", storage.Pending, "second", "POST", "/two-factor/send-otp", `{}`),
		row("a wrong second factor", "two-factor:verify-otp", storage.Failed, "second", "POST", "/two-factor/verify-otp", `{"code":"000000"}`),
		later("a right second factor", "two-factor:verify-otp", storage.Success, "second", "POST", func() (string, string) {
			return "/two-factor/verify-otp", fmt.Sprintf(`{"code":%q}`, o.mail(ada, "two-factor-otp").Code)
		}),
	}
}

func (o *outcomeRun) accountRows(row makeRow, later makeRow2) []outcomeRow {
	eve := "eve@example.com"
	return []outcomeRow{
		row("another account", "sign-up:email", storage.Success, "eve", "POST", "/sign-up/email", credential(eve, goodPassword)),
		row("a mail to verify the address", "send-verification-email", storage.Pending, "eve", "POST", "/send-verification-email", `{"email":"eve@example.com","callbackURL":"/welcome"}`),
		row("a bad link to verify the address", "verify-email", storage.Failed, "other", "GET", "/verify-email?token=bad&callbackURL=/welcome", ""),
		later("a link to verify the address", "verify-email", storage.Success, "eve", "GET", func() (string, string) {
			return o.link(o.mail(eve, "verify-email").URL), ""
		}),
		row("an OAuth callback that was refused", "callback::id", storage.Failed, "other", "GET", "/callback/github?error=access_denied&state=none", ""),
		row("a path that is not there", "no:such-route", storage.Failed, "eve", "POST", "/no/such-route", "{}"),
		row("a ban by somebody who is no administrator", "admin:ban-user", storage.Failed, "eve", "POST", "/admin/ban-user", `{"userId":"somebody"}`),
		row("a revocation without a session", "revoke-sessions", storage.Failed, "other", "POST", "/revoke-sessions", "{}"),
		row("a revocation", "revoke-other-sessions", storage.Success, "eve", "POST", "/revoke-other-sessions", "{}"),
		row("a deletion without a session", "delete-user", storage.Failed, "other", "POST", "/delete-user", `{"password":"`+goodPassword+`"}`),
		row("a deletion with a wrong password", "delete-user", storage.Failed, "eve", "POST", "/delete-user", `{"password":"wrong horse"}`),
		row("a deletion with a bad link", "delete-user:callback", storage.Failed, "eve", "GET", "/delete-user/callback?token=bad", ""),
		row("a deletion", "delete-user", storage.Success, "eve", "POST", "/delete-user", `{"password":"`+goodPassword+`"}`),
		row("a deletion of who is gone", "delete-user", storage.Failed, "eve", "POST", "/delete-user", `{"password":"`+goodPassword+`"}`),
	}
}

// endings are the ways in which a destructive request ends, and what its entry may say
// then.
var endings = []struct {
	name string
	may  []storage.Status
	end  func(w http.ResponseWriter)
}{
	{"200", []storage.Status{storage.Success}, func(w http.ResponseWriter) { _, _ = fmt.Fprint(w, `{"success":true}`) }},
	{"401", []storage.Status{storage.Failed}, func(w http.ResponseWriter) { w.WriteHeader(401); _, _ = fmt.Fprint(w, denied) }},
	{"404", []storage.Status{storage.Failed}, func(w http.ResponseWriter) { w.WriteHeader(404) }},
	{"500", []storage.Status{storage.Failed}, func(w http.ResponseWriter) { w.WriteHeader(500) }},
	{"302 with an error", []storage.Status{storage.Failed}, func(w http.ResponseWriter) { w.Header().Set("Location", "/?error=no"); w.WriteHeader(302) }},
	{"no answer", []storage.Status{storage.Failed}, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
	{"half an answer", []storage.Status{storage.Success, storage.Unknown}, func(w http.ResponseWriter) {
		_, _ = fmt.Fprint(w, `{"success":`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}},
	{"nobody waits", []storage.Status{storage.Success, storage.Unknown, storage.Failed}, func(w http.ResponseWriter) { _, _ = fmt.Fprint(w, `{"success":true}`) }},
}

// endedIntents makes destructive requests end in all ways, some at a time.
func endedIntents(t *testing.T) (intents, wrong int) {
	t.Helper()
	t.Run("intents", func(t *testing.T) {
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		routes := []string{"sign-out", "delete-user", "revoke-sessions", "admin/ban-user", "two-factor/disable", "organization/delete"}
		var reached sync.Map
		up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			var i int
			if _, err := fmt.Sscanf(r.Header.Get("X-Case"), "intent-%d", &i); err != nil {
				_, _ = fmt.Fprint(w, "null") // the question whose session it is
				return
			}
			reached.Store(r.Header.Get("X-Case"), true)
			endings[i%len(endings)].end(w)
		}))
		harness.Load(t, anyHost(database(dir), "", siteOf(port, singly(), up)))
		intents = gates.Figure(240, 4000)
		parallel(intents, 16, func(i int) {
			request := raw("POST", "/api/auth/"+routes[i%len(routes)], fmt.Sprint("intent-", i), jsonType+bearing("somebody"), "{}")
			if endings[i%len(endings)].name != "nobody waits" {
				once(port, request)
				return
			}
			if c, err := connect(port); err == nil {
				_, _ = c.Write([]byte(request))
				_ = c.Close()
			}
		})
		entries := everyEntry(t, database(dir))
		for i := range intents {
			name, ending := fmt.Sprint("intent-", i), &endings[i%len(endings)]
			e := entries[name]
			if _, did := reached.Load(name); !did && len(e) == 0 && ending.name == "nobody waits" {
				continue // Caddy saw that the client had gone before it read the request
			}
			if len(e) != 1 || !slices.Contains(ending.may, e[0].Status) {
				wrong++
				t.Errorf("%s of %s: %s, want one of %q", ending.name, routes[i%len(routes)], summary(e), ending.may)
			}
		}
	})
	return intents, wrong
}
