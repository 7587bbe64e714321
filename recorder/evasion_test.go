package recorder_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
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
		"/verify/123456":            "verify::redacted",
		"/verify/alice@example.com": "verify::redacted",
		"/x/%1b%5b31m":              "x::redacted",
		"/x/%E2%80%AEtxt":           "x::redacted",
		"/admin/ban-user%20":        "admin::redacted",
		"/plain/words-and.dots/v2":  "plain:words-and.dots:v2",
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
