package recorder_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestNobodyCanTalkUsIntoUnlinking: a request that Better Auth runs as something
// harmless must not be taken for a deletion.
func TestNobodyCanTalkUsIntoUnlinking(t *testing.T) {
	for _, path := range []string{"/admin/remove-user;/../../is-username-available", "/delete-user;/../is-username-available", "/delete-user;/../nothing"} {
		g := newRig(t, nil)
		g.do("POST", "/update-user", `{}`, cookie("s-alice"), answers(200, `{}`))
		g.do("POST", path, `{"userId":"alice"}`, cookie("s-alice"), answers(200, `{"available":true}`))
		must(t, g.writer.Close(t.Context()))
		for _, e := range g.store.Entries() {
			if e.UserID != "alice" || e.Action == "admin:remove-user" {
				t.Errorf("%s: %s by %q", path, e.Action, e.UserID)
			}
		}
	}
	g := newRig(t, nil)
	g.do("POST", "/sign-out;/../admin/set-role", `{"userId":"bob"}`, cookie("s-admin"), answers(200, `{}`))
	if e, m := g.one(); e.Action != "admin:set-role" || m["targetUserId"] != "bob" {
		t.Errorf("%+v %v", e, m)
	}
}

func TestNoSuccessIsClaimedThatNobodySaw(t *testing.T) {
	zipped := func(encode func(b *bytes.Buffer)) string {
		var b bytes.Buffer
		encode(&b)
		return b.String()
	}
	mail := `{"success":true,"message":"Verification email sent"}`
	br := zipped(func(b *bytes.Buffer) { w := brotli.NewWriter(b); _, _ = w.Write([]byte(mail)); _ = w.Close() })
	zl := zipped(func(b *bytes.Buffer) { w := zlib.NewWriter(b); _, _ = w.Write([]byte(mail)); _ = w.Close() })
	gz := zipped(func(b *bytes.Buffer) { w := gzip.NewWriter(b); _, _ = w.Write([]byte(mail)); _ = w.Close() })
	for _, c := range []struct {
		name, path string
		status     int
		body       string
		header     []string
		want       storage.Status
	}{
		{"a redirect that keeps the method", "/delete-user/", 308, ``, []string{"Location", "/api/auth/delete-user"}, storage.Failed},
		{"brotli", "/delete-user", 200, br, []string{"Content-Encoding", "br"}, storage.Pending},
		{"gzip", "/delete-user", 200, gz, []string{"Content-Encoding", "gzip"}, storage.Pending},
		{"deflate", "/delete-user", 200, zl, []string{"Content-Encoding", "deflate"}, storage.Pending},
		{"an encoding that nobody knows", "/delete-user", 200, "????", []string{"Content-Encoding", "x-own"}, storage.Unknown},
		{"more than can be looked at", "/sign-in/email", 200, `{"x":"` + strings.Repeat("y", 70000) + `"}`, nil, storage.Unknown},
	} {
		g := newRig(t, nil)
		g.do("POST", c.path, `{}`, cookie("s-alice"), answers(c.status, c.body, c.header...))
		must(t, g.writer.Close(t.Context()))
		if e, _ := g.one(); e.Status != c.want || e.UserID != "alice" {
			t.Errorf("%s: %s by %q, want %s", c.name, e.Status, e.UserID, c.want)
		}
	}
}

func TestAReturnAddressCannotChangeTheOutcome(t *testing.T) {
	for _, c := range []struct {
		path, location string
		header         []string
		want           storage.Status
	}{
		{"/magic-link/verify?token=x&callbackURL=%2F%3Ferror%3Dx", "/?error=x", []string{"Set-Cookie", "better-auth.session_token=new; Path=/"}, storage.Success},
		{"/delete-user/callback?token=x&callbackURL=%2F%3Ferror%3Dx", "/?error=x", nil, storage.Unknown},
		{"/magic-link/verify?token=x&errorCallbackURL=%2F%3Ferror%3DINVALID_TOKEN", "/?error=INVALID_TOKEN", nil, storage.Unknown},
		{"/magic-link/verify?token=x&callbackURL=%2F%3Ferror%3Dx", "/?error=x&error=INVALID_TOKEN", nil, storage.Failed},
		{"/callback/github?code=x", "/login#top?error=access_denied", nil, storage.Failed},
	} {
		g := newRig(t, nil)
		g.do("GET", c.path, "", nil, answers(302, ``, append(c.header, "Location", c.location)...))
		if e, _ := g.one(); e.Status != c.want {
			t.Errorf("%s to %s: %s, want %s", c.path, c.location, e.Status, c.want)
		}
	}
}

func TestBracesInAStringHideNobody(t *testing.T) {
	braces := strings.Repeat("{", 500)
	if got := profile.LookupString([]byte(`{"name":"`+braces+`","user":{"id":"u"}}`), "/user/id"); got != "u" {
		t.Errorf("got %q", got)
	}
	g := newRig(t, nil)
	g.do("POST", "/admin/set-role", `{"pad":"`+braces+`","userId":"bob"}`, cookie("s-admin"), answers(200, `{}`))
	if _, m := g.one(); m["targetUserId"] != "bob" {
		t.Errorf("%v", m)
	}
}

func TestASpellingOfTheCookieHidesNobody(t *testing.T) {
	g := newRig(t, nil)
	g.server.any = "admin" // the server reads it, whatever it is called
	for _, header := range []string{"better-auth.session_token =s", " better-auth.session_token\t= s", "my_own_name=s"} {
		g.do("POST", "/admin/set-role", `{}`, http.Header{"Cookie": {header}}, answers(200, `{}`))
	}
	for _, e := range g.store.Entries() {
		if e.UserID != "admin" {
			t.Errorf("%+v", e)
		}
	}
}

// TestADecoyIsNobodysCredential: a value that only looks like a session, or one
// in the wrong place, must neither be remembered nor believed.
func TestADecoyIsNobodysCredential(t *testing.T) {
	g := newRig(t, nil)
	g.server.any = "bob"
	planted := http.Header{"Cookie": {"zzz_session_token=PLANTED; own=bob"}}
	g.do("POST", "/verify-password", `{}`, planted, answers(400, `{}`))
	g.server.any = "admin"
	g.do("POST", "/update-user", `{}`, http.Header{"Cookie": {"zzz_session_token=PLANTED; own=admin"}}, answers(200, `{}`))
	if e := g.store.Entries()[1]; e.UserID != "admin" {
		t.Errorf("an honest administrator with a planted cookie is logged as %q", e.UserID)
	}
	g = newRig(t, nil)
	g.do("POST", "/sign-in/email", `{}`, nil, answers(200, `{"token":"raw-token-of-bob","user":{"id":"bob"}}`, "Set-Cookie", "better-auth.session_token=cookie-of-bob; Path=/"))
	g.server.any = "admin"
	for _, header := range []string{"x_session_token=raw-token-of-bob; better-auth.session_token=s-admin", "__Secure-better-auth.session_token=cookie-of-bob; better-auth.session_token=s-admin", "x_session_token=cookie-of-bob"} {
		g.do("POST", "/admin/set-role", `{}`, http.Header{"Cookie": {header}}, answers(200, `{}`))
	}
	for _, e := range g.store.Entries()[1:] {
		if e.UserID != "admin" {
			t.Errorf("a decoy made %q of the administrator", e.UserID)
		}
	}
}

// TestAnotherCredentialBesideAKnownOneIsAskedAbout: the server may go by one that only it knows,
// and who acts must not choose under whose name it is logged.
func TestAnotherCredentialBesideAKnownOneIsAskedAbout(t *testing.T) {
	for name, sent := range map[string]http.Header{
		"a name that JavaScript trims":              {"Cookie": {"better-auth.session_token\xa0=s-admin; better-auth.session_token=cookie-of-bob"}},
		"a name that somebody decodes":              {"Cookie": {"better-auth%2Esession_token=s-admin; better-auth.session_token=cookie-of-bob"}},
		"no name":                                   {"Cookie": {"=better-auth.session_token=s-admin; better-auth.session_token=cookie-of-bob"}},
		"a cookie of the server's own, and a token": {"Cookie": {"my_own_name=s-admin"}, "Authorization": {"Bearer raw-token-of-bob"}},
	} {
		g := newRig(t, nil)
		g.do("POST", "/sign-in/email", `{}`, nil, answers(200, `{"token":"raw-token-of-bob","user":{"id":"bob"}}`, "Set-Cookie", "better-auth.session_token=cookie-of-bob; Path=/"))
		g.server.any = "admin"
		g.do("POST", "/admin/set-role", `{}`, sent, answers(200, `{}`))
		if e := g.store.Entries()[1]; e.UserID != "admin" {
			t.Errorf("%s: what the administrator did is logged as %q's", name, e.UserID)
		}
		g.server.any = "" // who has one alone is known
		g.do("POST", "/admin/set-role", `{}`, http.Header{"Cookie": {"theme=dark; better-auth.session_token=cookie-of-bob; _ga=GA1.1; "}}, answers(200, `{}`))
		if e := g.store.Entries()[2]; e.UserID != "bob" {
			t.Errorf("%s: the session's own user is %q afterwards", name, e.UserID)
		}
	}
}

// TestOneRequestWaitsOnceForTheAuthServer, however many places there are to ask: they share one time.
func TestOneRequestWaitsOnceForTheAuthServer(t *testing.T) {
	const three = `{"name":"three","base_path":"/api/auth","outcomes":{"default":[{"status":"2xx","outcome":"success"},{"outcome":"failed"}]},
		"credentials":{"cookies":["*session_token"],"headers":["Authorization"]},"session":[{"path":"/a","user":"/id"},{"path":"/b","user":"/id"},{"path":"/c","user":"/id"}],
		"routes":[{"method":"POST","path":"/sign-out","class":"sign-out","timing":"before"}]}`
	g := rigOf(t, three, nil)
	g.server.err = errors.New("it does not answer")
	g.do("POST", "/sign-out", `{}`, cookie("s-alice"), answers(200, `{}`))
	if g.server.asked != 3 {
		t.Errorf("it was asked %d times before and after, want 3 times before", g.server.asked)
	}
	for _, until := range g.server.until[1:] {
		if !until.Equal(g.server.until[0]) {
			t.Errorf("the questions may take until %v", g.server.until)
		}
	}
	if _, m := g.one(); m["identity"] != "unavailable" {
		t.Errorf("%v", m)
	}
}

// TestATokenNamesItsUserWhereNobodyCanBeAsked, also beside cookies that are no session's.
func TestATokenNamesItsUserWhereNobodyCanBeAsked(t *testing.T) {
	const silent = `{"name":"silent","base_path":"/api/auth","outcomes":{"default":[{"status":"2xx","outcome":"success"},{"outcome":"failed"}]},
		"credentials":{"cookies":["*session_token"],"headers":["Authorization"],"response_body":["/token"]},
		"routes":[{"method":"POST","path":"/sign-in","class":"sign-in","anonymous":true,"user":["/user"]},{"method":"POST","path":"/change","class":"credential"}]}`
	for name, c := range map[string]struct {
		sent http.Header
		want string
	}{
		"alone":              {http.Header{"Authorization": {"Bearer token-of-alice"}}, "alice"},
		"beside a counter's": {http.Header{"Authorization": {"Bearer token-of-alice"}, "Cookie": {"_ga=GA1.2.3"}}, "alice"},
		"beside a session's": {http.Header{"Authorization": {"Bearer token-of-alice"}, "Cookie": {"session_token=x"}}, ""},
		"two of them":        {http.Header{"Authorization": {"Bearer token-of-alice", "Bearer token-of-bob"}}, ""},
	} {
		g := rigOf(t, silent, nil)
		g.do("POST", "/sign-in", `{}`, nil, answers(200, `{"token":"token-of-alice","user":"alice"}`))
		g.do("POST", "/change", `{}`, c.sent, answers(200, `{}`))
		if e := g.store.Entries()[1]; e.UserID != c.want {
			t.Errorf("%s: %q, want %q", name, e.UserID, c.want)
		}
	}
}

// TestAnApplicationsPageIsNoAct of the auth server: where only some versions take a path, and where a
// server looks at the query of any path.
func TestAnApplicationsPageIsNoAct(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<html>the application`)
	}
	for name, c := range map[string]struct {
		profile, path string
		answer        http.HandlerFunc
		want          storage.Status
	}{
		"beyond the base path, a page":    {"better_auth", "/x/api/auth/magic-link/verify?token=a", page, ""},
		"beyond the base path, the act":   {"better_auth", "/x/api/auth/magic-link/verify?token=a", answers(200, `{"token":"t"}`), storage.Success},
		"credentials in a query, a page":  {"casdoor", "/?username=built-in/admin&password=x", page, ""},
		"credentials in a query, refused": {"casdoor", "/api/health?username=built-in/admin&password=x", answers(200, `{"status":"error","msg":"wrong"}`), storage.Failed},
		"credentials in a query, taken":   {"casdoor", "/api/health?username=built-in/admin&password=x", answers(200, `{"status":"ok"}`), storage.Success},
	} {
		p, err := profile.Builtin(c.profile)
		must(t, err)
		g := newRig(t, func(o *recorder.Options) {
			sessions, err := recorder.NewSessions(p, make([]byte, 32))
			must(t, err)
			o.Profile, o.Sessions = p, sessions
		})
		g.doAt("GET", c.path, "", nil, c.answer)
		var got storage.Status
		if list := g.store.Entries(); len(list) > 0 {
			got = list[0].Status
		}
		if got != c.want {
			t.Errorf("%s: recorded as %q, want %q", name, got, c.want)
		}
	}
}

// TestCookiesOfOthersTakeNobodysName: a counter's cookie has an odd name on many sites. And a cookie that is
// another's after a sign-in is so whatever stands beside it.
func TestCookiesOfOthersTakeNobodysName(t *testing.T) {
	const silent = `{"name":"silent","base_path":"/api/auth","outcomes":{"default":[{"status":"2xx","outcome":"success"},{"outcome":"failed"}]},
		"credentials":{"cookies":["*session_token"]},
		"routes":[{"method":"POST","path":"/sign-in","class":"sign-in","anonymous":true,"user":["/user"]},{"method":"POST","path":"/change","class":"credential"}]}`
	g := rigOf(t, silent, nil)
	g.do("POST", "/sign-in", `{}`, nil, answers(200, `{"user":"alice"}`, "Set-Cookie", "session_token=0123456789abcdef; Path=/"))
	for cookie, want := range map[string]string{
		"session_token=0123456789abcdef; AMCV_1%40AdobeOrg=1": "alice", "session_token%00=x; session_token=0123456789abcdef": "", "session_token\xa0=x; session_token=0123456789abcdef": "",
	} {
		g.do("POST", "/change", `{}`, http.Header{"Cookie": {cookie}}, answers(200, `{}`))
		if list := g.store.Entries(); list[len(list)-1].UserID != want {
			t.Errorf("%q: %q, want %q", cookie, list[len(list)-1].UserID, want)
		}
	}
	g.do("POST", "/sign-in", `{}`, http.Header{"Cookie": {"session_token=0123456789abcdef; x%=1"}}, answers(200, `{"user":"bob"}`))
	g.do("POST", "/change", `{}`, http.Header{"Cookie": {"session_token=0123456789abcdef"}}, answers(200, `{}`))
	if list := g.store.Entries(); list[len(list)-1].UserID != "" {
		t.Errorf("a cookie that two people had names %q", list[len(list)-1].UserID)
	}
}

func TestAProvenCookieIsRemembered(t *testing.T) {
	g := newRig(t, nil)
	g.server.any, g.server.token = "alice", "tok"
	for range 3 {
		g.do("POST", "/update-user", `{}`, cookie("tok.signature"), answers(200, `{}`))
	}
	if g.server.asked != 1 {
		t.Errorf("the server was asked %d times", g.server.asked)
	}
}

func TestAnUnansweredQuestionIsSaid(t *testing.T) {
	g := newRig(t, nil)
	g.server.err = errors.New("429")
	g.do("POST", "/admin/ban-user", `{"userId":"x"}`, cookie("s-admin"), answers(200, `{}`))
	if e, m := g.one(); e.UserID != "" || m["identity"] != "unavailable" || !strings.HasPrefix(fmt.Sprint(m["sessionHash"]), "hmac-sha256:") {
		t.Errorf("%+v %v", e, m)
	}
	g = newRig(t, nil)
	g.do("POST", "/sign-in/email", `{}`, nil, answers(200, signedIn, "Set-Cookie", "better-auth.session_token=c-of-alice-1; Path=/"))
	g.server.err = errors.New("429")
	g.do("POST", "/sign-out", `{}`, cookie("c-of-alice-1"), answers(200, `{}`))
	if e := g.store.Entries()[1]; e.UserID != "alice" || !strings.Contains(string(e.Metadata), `"identity":"unavailable"`) {
		t.Errorf("what was known before is not used: %+v %s", e, e.Metadata)
	}
}

func TestBodiesThatCannotBeReadAreSaid(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/admin/set-role", `{"userId":"bob"}`, http.Header{"Content-Type": {"application/json; a=1; a=2"}}, answers(200, `{}`))
	g.do("POST", "/admin/set-role", `{"pad":"`+strings.Repeat("x", 70000)+`","userId":"bob"}`, nil, answers(200, `{}`))
	entries := g.store.Entries()
	if !strings.Contains(string(entries[0].Metadata), `"targetUserId":"bob"`) || !strings.Contains(string(entries[1].Metadata), `"bodyUnparsed":"it is longer than the limit"`) {
		t.Errorf("%s\n%s", entries[0].Metadata, entries[1].Metadata)
	}
}

func TestUnknownPathsForgeNothing(t *testing.T) {
	for path, want := range map[string]string{
		"/admin:ban-user":           ":redacted",
		"/Admin/Ban-User":           "admin:ban-user", // another reading of the route, and recorded as it
		"/audit-log:dropped":        ":redacted",
		"/Audit-Log/stopped":        "unknown:Audit-Log:stopped",
		"/verify/123456":            "verify::redacted",
		"/verify/alice@example.com": "verify::redacted",
		"/x/%1b%5b31m":              "x::redacted",
		"/x/%E2%80%AEtxt":           "x::redacted",
		"/admin/ban-user%20":        "admin::redacted",
		"/plain/words-and_more/v2":  "plain:words-and_more:v2",
		"/invite/x7Kp2QzR/accept":   "invite::redacted:accept",
		"/users/alice.miller/edit":  "users::redacted:edit",
	} {
		g := newRig(t, nil)
		r := httptest.NewRequest("POST", "/api/auth"+path, nil)
		if m, ok := g.rec.Profile.Match("POST", r.URL); !ok {
			t.Errorf("%s: %+v", path, m)
		}
		g.do("POST", path, "", nil, answers(404, ``))
		if e, _ := g.one(); e.Action != want {
			t.Errorf("%s: %q, want %q", path, e.Action, want)
		}
	}
}

func TestARefusedRequestLeavesItsTrace(t *testing.T) {
	g := newRig(t, nil)
	g.store.set(true)
	if w := g.do("POST", "/delete-user", `{}`, cookie("s-alice"), answers(200, `{}`)); w.Code != 503 {
		t.Fatalf("status %d", w.Code)
	}
	g.store.set(false)
	must(t, g.writer.Close(t.Context()))
	if e, m := g.one(); e.Status != storage.Failed || e.UserID != "alice" || m["withheld"] != true || m["statusCode"] != 503.0 {
		t.Errorf("%+v %v", e, m)
	}
}

// forms is a server whose sign-in page has a step that is no event, and whose answers
// do not say who has signed in.
const forms = `{"name":"forms","base_path":"/api/auth","outcomes":{
	"default":[{"status":"4xx","outcome":"failed"},{"status":"3xx","location":"error","outcome":"failed"},
		{"status":"2xx","json":{"pointer":"/error"},"outcome":"failed"},{"outcome":"success"}],
	"step":[{"status":"4xx","outcome":"failed"},{"outcome":"none"}]},
	"credentials":{"cookies":["sid"],"headers":["Authorization"]},
	"routes":[
	{"method":"POST","path":"/login","when":{"request:/method":"step"},"action":"step","class":"sign-in","anonymous":true,"outcome":"step"},
	{"method":"POST","path":"/login","when":{"query:kind":"quiet"},"action":"quiet","class":"sign-in","anonymous":true,"record":"never"},
	{"method":"POST","path":"/login","action":"sign-in","class":"sign-in","anonymous":true,"user":["request:/username"],"identifier":["username"]},
	{"method":"POST","path":"/account","class":"account","user":["bearer#/sub"]},
	{"method":"DELETE","path":"/users","class":"admin","timing":"before","unlink":"target","target":["request:/id"],"user":["/by"]},
	{"method":"GET","path":"/assets/*","class":"custom","record":"never"},
	{"method":"GET","path":"/list","class":"custom","record":"failures"}]}`

// rigOf is a rig with a profile of its own.
func rigOf(t *testing.T, text string, change func(*recorder.Options)) *rig {
	t.Helper()
	p, err := profile.Parse([]byte(text))
	must(t, err)
	return rigOfProfile(t, p, change)
}

func rigOfBuiltin(t *testing.T, name string) *rig {
	t.Helper()
	p, err := profile.Builtin(name)
	must(t, err)
	return rigOfProfile(t, p, nil)
}

func rigOfProfile(t *testing.T, p *profile.Profile, change func(*recorder.Options)) *rig {
	t.Helper()
	return newRig(t, func(o *recorder.Options) {
		sessions, err := recorder.NewSessions(p, make([]byte, 32))
		must(t, err)
		o.Profile, o.Sessions = p, sessions
		if change != nil {
			change(o)
		}
	})
}

// TestNoBodyMakesASignInAStepThatIsNoEvent: what decides between two routes must be
// read in the same way by every server, or the route that is recorded counts.
func TestNoBodyMakesASignInAStepThatIsNoEvent(t *testing.T) {
	const form, document = "application/x-www-form-urlencoded", "application/json"
	zipped := new(bytes.Buffer)
	w := gzip.NewWriter(zipped)
	_, _ = w.Write([]byte("method=step&username=alice"))
	_ = w.Close()
	for name, c := range map[string]struct {
		media, path, body string
		header            []string
		want              storage.Status
	}{
		"an honest sign-in":                         {document, "/login", `{"method":"password","username":"alice"}`, nil, storage.Success},
		"a name twice, the last counts for some":    {document, "/login", `{"method":"password","method":"step"}`, nil, storage.Success},
		"a name twice, the first counts for others": {form, "/login", `method=step&method=password`, nil, storage.Success},
		"a name in two cases, as Go reads it":       {document, "/login", `{"method":"step","Method":"password"}`, nil, storage.Success},
		"a name in two styles, as protobuf does":    {document, "/login", `{"method":"step","me_thod":"password"}`, nil, storage.Success},
		"a name in the query and in the form":       {form, "/login?method=password", `method=step`, nil, storage.Success},
		"a condition on the query given twice":      {form, "/login?kind=quiet&kind=loud", `username=alice`, nil, storage.Success},
		"a broken document":                         {document, "/login", `{"method":"step"} x`, nil, storage.Success},
		"a document in a text":                      {"text/plain", "/login", `{"method":"step"}`, nil, storage.Success},
		"more than is kept":                         {document, "/login", `{"pad":"` + strings.Repeat("x", 70000) + `","method":"step"}`, nil, storage.Success},
		"a compressed form":                         {form, "/login", zipped.String(), []string{"Content-Encoding", "gzip"}, storage.Success},
		"a compressed form, said in a second line":  {form, "/login", zipped.String(), []string{"Content-Encoding", "identity", "Content-Encoding", "gzip"}, storage.Success},
		"a document in a form, as Go decodes it":    {form, "/login", `{"a":"&method=step&b=","method":"password"}`, nil, storage.Success},
		"a form in another charset":                 {form + "; charset=utf-7", "/login", `method=step&+AG0-ethod=password`, nil, storage.Success},
		"a document in another charset":             {document + `; charset="UTF-7"`, "/login", `{"method":"step","+AG0-ethod":"password"}`, nil, storage.Success},
		"a type that the server never sees":         {form, "/login", `method=step`, []string{"Connection", "Content-Type"}, storage.Success},
		"two types":                                 {form, "/login", `method=step`, []string{"Content-Type", document}, storage.Success},
	} {
		g := rigOf(t, forms, nil)
		h := http.Header{"Content-Type": {c.media}}
		for i := 0; i < len(c.header); i += 2 {
			h.Add(c.header[i], c.header[i+1])
		}
		g.do("POST", c.path, c.body, h, answers(200, `{}`))
		e, m := g.one()
		if e.Action != "sign-in" || e.Status != c.want {
			t.Errorf("%s: %s %s", name, e.Action, e.Status)
		}
		if said := m["bodyUnparsed"] != nil; said == (name == "an honest sign-in") {
			t.Errorf("%s: the entry says of the body %v", name, m["bodyUnparsed"])
		}
	}
	g := rigOf(t, forms, nil)
	g.do("POST", "/login", `{"method":"step"}`, nil, answers(200, `{}`))
	if n := len(g.store.Entries()); n != 0 {
		t.Errorf("an honest step has %d entries", n)
	}
}

// TestAStepThatIssuesASessionIsASuccess, whatever the request has asked for.
func TestAStepThatIssuesASessionIsASuccess(t *testing.T) {
	g := rigOf(t, forms, nil)
	g.do("POST", "/login", `{"method":"step"}`, nil, answers(200, `{}`, "Set-Cookie", "sid=0123456789abcdef; Path=/"))
	if e, _ := g.one(); e.Action != "step" || e.Status != storage.Success {
		t.Errorf("%s %s", e.Action, e.Status)
	}
}

// TestAUserInARequestIsBelievedOnlyWhereAllReadTheSame: some servers take the first
// name, some the last, some any case.
func TestAUserInARequestIsBelievedOnlyWhereAllReadTheSame(t *testing.T) {
	const form, document = "application/x-www-form-urlencoded", "application/json"
	for name, c := range map[string]struct{ media, path, body, want string }{
		"one name":                           {document, "/login", `{"username":"alice"}`, "alice"},
		"one name in a form":                 {form, "/login", `username=alice&x=%zz`, "alice"},
		"one name, said twice":               {form, "/login", `username=alice&username=alice`, "alice"},
		"two names in a document":            {document, "/login", `{"username":"mallory","username":"alice"}`, ""},
		"two names in a form":                {form, "/login", `username=mallory&username=alice`, ""},
		"two cases":                          {document, "/login", `{"username":"alice","Username":"mallory"}`, ""},
		"a case that only Go reads":          {document, "/login", `{"Username":"mallory"}`, ""},
		"the query and the form":             {form, "/login?username=mallory", `username=alice`, ""},
		"a document in a form":               {form, "/login", `{"x":"&username=alice&y=","username":"mallory"}`, ""},
		"an encoding that some servers undo": {document, "/login", `{"username":"alice"}`, ""},
	} {
		g := rigOf(t, forms, nil)
		h := http.Header{"Content-Type": {c.media}}
		if strings.HasPrefix(name, "an encoding") {
			h.Set("Content-Encoding", "br")
		}
		g.do("POST", c.path, c.body, h, answers(200, `{}`))
		if e, _ := g.one(); e.UserID != c.want {
			t.Errorf("%s: the user is %q, want %q", name, e.UserID, c.want)
		}
	}
}

// TestATokenBesideAnotherCredentialNamesNobody: the server may have gone by the other
// one, and never looked at a token that its sender has made up.
func TestATokenBesideAnotherCredentialNamesNobody(t *testing.T) {
	const forged = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ2aWN0aW0ifQ.c2ln" // {"sub":"victim"}
	for name, c := range map[string]struct {
		header      http.Header
		query, body string
		want        string
	}{
		"the token alone, which the server has accepted": {http.Header{"Authorization": {forged}}, "", "a=b", "victim"},
		"a session beside it":                            {http.Header{"Authorization": {forged}, "Cookie": {"sid=own"}}, "", "a=b", ""},
		"a cookie that only the server knows":            {http.Header{"Authorization": {forged}, "Cookie": {"s_i_d=own"}}, "", "a=b", ""},
		"two tokens":                                     {http.Header{"Authorization": {forged, "Bearer own"}}, "", "a=b", ""},
		"another in the query (RFC 6750 2.3)":            {http.Header{"Authorization": {forged}}, "?access_token=own", "a=b", ""},
		"another in the form (RFC 6750 2.2)":             {http.Header{"Authorization": {forged}}, "", "access_token=own", ""},
		"another, in the spelling of some servers":       {http.Header{"Authorization": {forged}}, "?accessToken=own", "a=b", ""},
	} {
		g := rigOf(t, forms, nil)
		c.header.Set("Content-Type", "application/x-www-form-urlencoded")
		g.do("POST", "/account"+c.query, c.body, c.header, answers(200, `{}`))
		if e, _ := g.one(); e.UserID != c.want {
			t.Errorf("%s: the user is %q, want %q", name, e.UserID, c.want)
		}
	}
}

// TestWhatIsHarmlessToReadIsRecordedWhenWritten: a profile that leaves out a path says
// so for the method that it names.
func TestWhatIsHarmlessToReadIsRecordedWhenWritten(t *testing.T) {
	for request, want := range map[string]int{
		"GET /assets/a.js": 0, "HEAD /assets/a.js": 0, "PUT /assets/a.js": 1, "POST /assets/admin": 1, "GET /list": 0, "DELETE /list": 1,
	} {
		method, path, _ := strings.Cut(request, " ")
		g := rigOf(t, forms, nil)
		g.do(method, path, "", nil, answers(200, `{}`))
		if n := len(g.store.Entries()); n != want {
			t.Errorf("%s has %d entries, want %d", request, n, want)
		}
	}
}

// TestAReturnAddressInABodyOrCookieCannotChangeTheOutcome: servers send back to what
// the form or an earlier cookie names, too.
func TestAReturnAddressInABodyOrCookieCannotChangeTheOutcome(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		header http.Header
		body   string
		want   storage.Status
	}{
		"nobody has asked for it":          {http.Header{"Content-Type": {form}}, "a=b", storage.Failed},
		"a form":                           {http.Header{"Content-Type": {form}}, "return_to=%2F%3Ferror%3Dx", storage.Unknown},
		"a document":                       {nil, `{"to":{"url":"/?error=x"}}`, storage.Unknown},
		"a cookie of an earlier request":   {http.Header{"Content-Type": {form}, "Cookie": {"callback-url=%2F%3Ferror%3Dx"}}, "a=b", storage.Unknown},
		"a body that was not to be seen":   {http.Header{"Content-Type": {form}}, "a=" + strings.Repeat("x", 70000), storage.Unknown},
		"another error than the asked one": {http.Header{"Content-Type": {form}}, "return_to=%2F%3Ferror%3Dy", storage.Failed},
	} {
		g := rigOf(t, forms, nil)
		g.do("POST", "/login", c.body, c.header, answers(302, ``, "Location", "/?error=x"))
		if e, _ := g.one(); e.Status != c.want {
			t.Errorf("%s: %s, want %s", name, e.Status, c.want)
		}
	}
}

// TestAnAnswerThatIsNoDocumentProvesNothing: half of one (a range, a broken answer)
// must not pass for one without an error in it.
func TestAnAnswerThatIsNoDocumentProvesNothing(t *testing.T) {
	g := rigOf(t, forms, nil)
	g.do("POST", "/login", `{}`, nil, answers(200, `{"err`, "Content-Length", "5"))
	if e, _ := g.one(); e.Status != storage.Unknown {
		t.Errorf("%s", e.Status)
	}
}

// TestNobodyIsUnlinkedWhomServersMayReadOtherwise.
func TestNobodyIsUnlinkedWhomServersMayReadOtherwise(t *testing.T) {
	for body, want := range map[string]string{`{"id":"alice"}`: "", `{"id":"alice","ID":"bob"}`: "alice", `{"id":"bob","id":"alice"}`: "alice"} {
		g := rigOf(t, forms, nil)
		g.do("POST", "/login", `{"username":"alice"}`, nil, answers(200, `{}`))
		g.do("DELETE", "/users", body, http.Header{"Authorization": {"Bearer s-admin"}}, answers(200, `{"by":"admin"}`))
		must(t, g.writer.Close(t.Context()))
		if e := g.store.Entries()[0]; e.UserID != want {
			t.Errorf("%s: the sign-in is %q's, want %q", body, e.UserID, want)
		}
	}
}

// TestACookieThatManyHaveIsNobodys: what looks like a session by its name may be a
// language, and the next one who sends it is somebody else.
func TestACookieThatManyHaveIsNobodys(t *testing.T) {
	g := rigOf(t, forms, nil)
	g.do("POST", "/login", `{"username":"alice"}`, nil, answers(200, `{}`, "Set-Cookie", "sid=dark; Path=/"))
	g.do("POST", "/account", `{}`, http.Header{"Cookie": {"sid=dark"}}, answers(200, `{}`))
	if e := g.store.Entries()[1]; e.UserID != "" {
		t.Errorf("a request with the same theme is %q's", e.UserID)
	}
}

func TestABodyThatTheServerDidNotReadIsNoFact(t *testing.T) {
	g := newRig(t, nil)
	body := "--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nalice@example.com\r\n--b--\r\n"
	g.do("POST", "/sign-in/email", body, http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, answers(415, `{"code":"UNSUPPORTED_MEDIA_TYPE"}`))
	if _, m := g.one(); m["identifier"] != nil || m["identifierHash"] != nil || m["bodyUnparsed"] != "the auth server takes no multipart/form-data" {
		t.Errorf("%v", m)
	}
	g = rigOf(t, forms, nil) // where the body was looked at already, to tell routes apart
	g.do("POST", "/login", `{"username":"alice"}`, nil, answers(415, `{}`))
	if _, m := g.one(); m["identifier"] != nil || m["identifierHash"] != nil {
		t.Errorf("%v", m)
	}
}

// TestAHeadRequestDoesNotHideHowItEnded: servers run HEAD as GET, and keep the document
// that says whether it was done.
func TestAHeadRequestDoesNotHideHowItEnded(t *testing.T) {
	for _, answer := range []struct {
		status int
		length string
		want   storage.Status
	}{{200, "20", storage.Unknown}, {200, "", storage.Unknown}, {200, "0", storage.Success}, {403, "20", storage.Failed}} {
		g := rigOf(t, strings.Replace(forms, `{"method":"POST","path":"/account"`, `{"method":"GET","path":"/account"`, 1), nil)
		g.do("HEAD", "/account", "", nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if answer.length != "" {
				w.Header().Set("Content-Length", answer.length)
			}
			w.WriteHeader(answer.status)
		})
		if e, _ := g.one(); e.Status != answer.want {
			t.Errorf("%d with length %q: %s, want %s", answer.status, answer.length, e.Status, answer.want)
		}
	}
}

// grants is a server that issues tokens which say nothing of their user.
const grants = `{"name":"grants","base_path":"/api/auth","outcomes":{"default":[{"status":"4xx","outcome":"failed"},{"outcome":"success"}]},
	"credentials":{"cookies":["*session_token"],"headers":["Authorization"],"response_body":["/access_token"]},
	"session":{"path":"/get-session","user":"/user/id"},
	"routes":[
	{"method":"POST","path":"/authorize","class":"token","user":["/by"],"flow":["/code"]},
	{"method":"POST","path":"/token","class":"token","anonymous":true,"user":["/id_token#/sub"],"flow":["request:/code","request:/refresh_token","/access_token","/refresh_token"]},
	{"method":"POST","path":"/account","class":"account","flow":["bearer"]}]}`

// TestACookieDoesNotMakeAnothersTokenOnesOwn: a token endpoint goes by the code or the
// refresh token; whoever has stolen one can add whatever cookie he likes.
func TestACookieDoesNotMakeAnothersTokenOnesOwn(t *testing.T) {
	g := rigOf(t, grants, nil)
	g.server.sessions["mallory-session"] = "mallory"
	g.do("POST", "/authorize", `{}`, nil, answers(200, `{"by":"alice","code":"code-code-code"}`))
	g.do("POST", "/token", `{"code":"code-code-code"}`, nil, answers(200, `{"access_token":"at-1-at-1-at-1","refresh_token":"rt-1-rt-1-rt-1"}`))
	g.do("POST", "/token", `{"refresh_token":"rt-1-rt-1-rt-1"}`, cookie("mallory-session"), answers(200, `{"access_token":"at-2-at-2-at-2"}`))
	g.do("POST", "/account", `{}`, http.Header{"Authorization": {"Bearer at-2-at-2-at-2"}}, answers(200, `{}`))
	for _, e := range g.store.Entries() {
		if e.UserID != "alice" {
			t.Errorf("%s is %q's", e.Action, e.UserID)
		}
	}
}

// TestASignInIsNotTheUsersWhoseSessionWasThere when the server does not say whose the
// new one is.
func TestASignInIsNotTheUsersWhoseSessionWasThere(t *testing.T) {
	g := newRig(t, nil)
	g.server.sessions["mallory-session"] = "mallory"
	g.do("GET", "/callback/github?code=x", "", cookie("mallory-session"), answers(302, "", "Location", "/", "Set-Cookie", "better-auth.session_token=new-of-alice; Path=/"))
	g.do("POST", "/update-user", `{}`, cookie("new-of-alice"), answers(200, `{}`))
	for _, e := range g.store.Entries() {
		if e.UserID != "" {
			t.Errorf("%s is %q's", e.Action, e.UserID)
		}
	}
}

// TestOnlyWhatTheProxyDropsIsDropped: a client that names a header in Connection, but
// not as the proxy reads it, still sends it to the server.
func TestOnlyWhatTheProxyDropsIsDropped(t *testing.T) {
	for value, want := range map[string]string{
		"close": "alice", "Cookie": "", "close , cOOKIE\t": "", "Coo\u212aie": "alice", "Cookie\u00a0": "alice", "\u0085Cookie": "alice", "Cookie\v": "alice",
	} {
		g := newRig(t, nil)
		h := cookie("s-alice")
		h.Set("Connection", value)
		g.do("POST", "/update-user", `{}`, h, answers(200, `{}`))
		if e, _ := g.one(); e.UserID != want {
			t.Errorf("Connection %q: the user is %q, want %q", value, e.UserID, want)
		}
	}
}

// TestASecretInTheUserAgentIsNotKept: clients of machines put tokens there.
func TestASecretInTheUserAgentIsNotKept(t *testing.T) {
	g := newRig(t, nil)
	r := httptest.NewRequest("POST", "/api/auth/sign-out", nil)
	r.Header.Set("User-Agent", "robot/1.0 (key=hunter2; Bearer s3cr3t-of-robot)")
	m, _ := g.rec.Profile.Match(r.Method, r.URL)
	x, err := g.rec.Begin(httptest.NewRecorder(), r, m, recorder.Facts{Asker: g.server})
	must(t, err)
	answers(200, `{}`)(x.Writer(), r)
	must(t, x.End(nil, 0, false))
	if e, _ := g.one(); !strings.HasPrefix(e.UserAgent, "robot/1.0 (") || strings.Contains(e.UserAgent, "hunter2") || strings.Contains(e.UserAgent, "s3cr3t") {
		t.Errorf("%q", e.UserAgent)
	}
}

// TestALongQueryIsNotKeptInPieces: anybody may send a query of nearly 1 MiB, and looking
// for a parameter in it must not cost a hundred times that in memory.
func TestALongQueryIsNotKeptInPieces(t *testing.T) {
	g := rigOf(t, forms, nil)
	const size = 900 << 10
	target := "/login?" + strings.Repeat("a&", size/2)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	g.do("POST", target, "a=b", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, answers(302, "", "Location", "/?error=x"))
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 20*size {
		t.Errorf("%d bytes for a query of %d", used, size)
	}
	if e, _ := g.one(); e.Status != storage.Failed {
		t.Errorf("%s", e.Status)
	}
}

// TestACookieOfAFlowIsNobodysForEver: a server may go on with the cookie of whoever was
// signed in before, and then its word counts, not who has had the cookie in a flow.
func TestACookieOfAFlowIsNobodysForEver(t *testing.T) {
	const kept = `{"name":"kept","base_path":"/api/auth","outcomes":{"default":[{"status":"4xx","outcome":"failed"},{"outcome":"success"}]},
		"credentials":{"cookies":["*session_token"]},"session":{"path":"/get-session","user":"/user/id"},
		"routes":[{"method":"POST","path":"/login","class":"sign-in","anonymous":true,"user":["/by"],"flow":["sent-cookie:*session_token"]},
		{"method":"POST","path":"/reset","class":"credential","anonymous":true,"flow":["sent-cookie:*session_token"]}]}`
	g := rigOf(t, kept, nil)
	g.do("POST", "/login", `{}`, cookie("the-same-cookie"), answers(200, `{"by":"alice"}`))
	g.server.sessions["the-same-cookie"] = "bob" // by a way that nobody saw
	g.do("POST", "/reset", `{}`, cookie("the-same-cookie"), answers(200, `{}`))
	if e := g.store.Entries()[1]; e.UserID != "bob" {
		t.Errorf("%s is %q's", e.Action, e.UserID)
	}
}

// People whose long ids begin alike stay apart, in the log and for who reads it (threats.md B6).
func TestALongIDIsOnePersons(t *testing.T) {
	long := strings.Repeat("u", storage.MaxUserID)
	g := newRig(t, nil)
	g.server.sessions = map[string]string{"s-1": long + "1", "s-2": long + "2"}
	seen := map[string]bool{}
	for token := range g.server.sessions {
		g.do("POST", "/update-user", `{}`, cookie(token), answers(200, `{}`))
		session, err := g.rec.Sessions.Authorize(t.Context(), cookie(token), g.server)
		must(t, err)
		entries := g.store.Entries()
		if id := entries[len(entries)-1].UserID; id != session.UserID || id == "" || seen[id] {
			t.Errorf("%s: the entry has %q, the reader is %q, others are %v", token, id, session.UserID, seen)
		}
		seen[session.UserID] = true
	}
}

// TestAPreflightProvesNothing: servers answer what browsers ask before a request of another origin
// without a look at who asks (CORS): it is no act, and its token names nobody.
func TestAPreflightProvesNothing(t *testing.T) {
	victim := "Bearer " + unsigned(`{"sub":"victim"}`)
	for _, c := range []struct {
		profile, path string
		header        http.Header
	}{
		{"oidc", "/oauth2/userinfo", http.Header{"Authorization": {victim}}},
		{"dex", "/dex/userinfo", http.Header{"Authorization": {victim}}},
		{"keycloak", "/realms/m/authz/protection/permission", http.Header{"Authorization": {victim}}},
		{"generic", "/api/logout", nil}, {"generic", "/api/admin/users", nil}, {"generic", "/api/reset-password", nil}, {"casdoor", "/scim/Users", nil},
	} {
		for _, cors := range []bool{true, false} {
			g := rigOfBuiltin(t, c.profile)
			answer := []string{}
			if cors {
				answer = []string{"Access-Control-Allow-Origin", "https://app.example", "Access-Control-Allow-Methods", "POST"}
			}
			g.doAt("OPTIONS", c.path, "", c.header, answers(204, "", answer...))
			must(t, g.writer.Close(t.Context()))
			for _, e := range g.store.Entries() {
				if e.UserID != "" || cors && e.Status != storage.Pending {
					t.Errorf("%s: OPTIONS %s, CORS %v: %s %s of %q", c.profile, c.path, cors, e.Action, e.Status, e.UserID)
				}
			}
		}
	}
	g := rigOfBuiltin(t, "oauth2_proxy") // takes any method to sign somebody out
	g.doAt("OPTIONS", "/oauth2/sign_out", "", nil, answers(200, "", "Access-Control-Allow-Origin", "*", "Set-Cookie", "_oauth2_proxy=; Max-Age=0"))
	if e, _ := g.one(); e.Status != storage.Success {
		t.Errorf("a sign-out by OPTIONS is %s", e.Status)
	}
}

// TestACodeInAMisspeltPathIsNotKept: which name of the route it stands for is seen in another case.
func TestACodeInAMisspeltPathIsNotKept(t *testing.T) {
	g := newRig(t, nil)
	g.doAt("GET", "/api/auth//Reset-Password/Ab3dE9zK", "", nil, answers(200, `{}`))
	if e, _ := g.one(); strings.Contains(strings.ToLower(string(e.Metadata)), "ab3de9zk") {
		t.Errorf("%s", e.Metadata)
	}
}

// unsigned is a JSON Web Token that anybody could make.
func unsigned(claims string) string {
	encoded := base64.RawURLEncoding.EncodeToString
	return encoded([]byte(`{"alg":"none"}`)) + "." + encoded([]byte(claims)) + "."
}

// held is an auth server that keeps its answer back.
type held struct {
	*server
	asked   chan struct{}
	release chan struct{}
}

func (h *held) Ask(r *http.Request) (int, []byte, error) {
	status, body, err := h.server.Ask(r)
	h.asked <- struct{}{}
	<-h.release
	return status, body, err
}

// TestAnOldAnswerLetsNobodyRead: who asks after a sign-out does not get the answer to a question that
// was asked before it.
func TestAnOldAnswerLetsNobodyRead(t *testing.T) {
	g := newRig(t, nil)
	g.server.sessions["s-other"] = "alice"
	slow, done := &held{g.server, make(chan struct{}, 1), make(chan struct{})}, make(chan struct{})
	go func() {
		defer close(done)
		_, _ = g.rec.Sessions.Authorize(context.Background(), cookie("s-alice"), slow)
	}()
	<-slow.asked
	g.do("POST", "/revoke-sessions", `{}`, cookie("s-other"), func(w http.ResponseWriter, r *http.Request) {
		delete(g.server.sessions, "s-alice")
		answers(200, `{"status":true}`)(w, r)
	})
	late := make(chan recorder.Session, 1)
	go func() {
		session, _ := g.rec.Sessions.Authorize(context.Background(), cookie("s-alice"), g.server)
		late <- session
	}()
	select {
	case session := <-late:
		if session.UserID != "" {
			t.Errorf("after the sign-out the log is read as %q", session.UserID)
		}
	case <-time.After(5 * time.Second):
		t.Error("a question waits for the answer to an older one")
	}
	close(slow.release)
	<-done
}
