package recorder_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// TestWhoMakesTheLookUpFailLeavesATrace: an administrator who is signed in can use up the limit of the
// session endpoint, and send a cookie that a server may read as the session's.
func TestWhoMakesTheLookUpFailLeavesATrace(t *testing.T) {
	g := newRig(t, nil)
	signIn := func(user string) http.HandlerFunc {
		return answers(200, `{"token":"tok-1-of-`+user+`","user":{"id":"`+user+`"}}`, "Set-Cookie", "better-auth.session_token=cookie-1-of-"+user+"; Path=/")
	}
	g.do("POST", "/sign-in/email", `{}`, nil, signIn("ruth"))
	g.do("POST", "/sign-in/email", `{}`, nil, signIn("alice"))
	g.server.err = errors.New("429")
	hash := g.rec.Redactor.HashTag("user", "ruth")
	for cookies, want := range map[string]struct {
		user string
		hint bool
	}{
		"better-auth.session_token=cookie-1-of-ruth":                                                               {"ruth", false},
		"better-auth.session_token=cookie-1-of-ruth; a%62=1":                                                       {"", true},
		"better-auth.session_token=cookie-1-of-ruth; better-auth%2Esession_token=x":                                {"", true},
		"better-auth.session_token=cookie-1-of-ruth; __Secure-better-auth.session_token=unknown-unknown":           {"", true},
		"better-auth.session_token=cookie-1-of-ruth; __Secure-better-auth.session_token=cookie-1-of-ruth":          {"", true},
		"better-auth.session_token=cookie-1-of-nobody; a%62=1":                                                     {"", false},
		"better-auth.session_token=cookie-1-of-ruth; better-auth.session_token=cookie-1-of-alice; multi%2Dsession": {"", false}, // whose?
	} {
		before := len(g.store.Entries())
		g.do("POST", "/admin/remove-user", `{"userId":"bob"}`, http.Header{"Cookie": {cookies}}, answers(200, `{"success":true}`))
		e := g.store.Entries()[before]
		m := string(e.Metadata)
		if e.UserID != want.user || strings.Contains(m, `"probableUserHash":"`+hash+`"`) != want.hint || strings.Contains(m, "probableUserHash") != want.hint {
			t.Errorf("%s: user %q, %s", cookies, e.UserID, m)
		}
		if !strings.Contains(m, `"identity":"unavailable"`) || !strings.Contains(m, `"sessionHash":"hmac-sha256:`) || want.hint && strings.Contains(m, "ruth") {
			t.Errorf("%s: %s", cookies, m)
		}
	}
}

// TestWhoeverGoesByAnotherCredentialLeavesATrace: a parameter may be the one that counts.
func TestWhoeverGoesByAnotherCredentialLeavesATrace(t *testing.T) {
	g := rigOfBuiltin(t, "casdoor")
	g.doAt("POST", "/api/logout?accessToken=x", "", http.Header{"Cookie": {"casdoor_session_id=0123456789abcdef"}}, answers(200, `{"status":"ok"}`))
	if _, m := g.one(); m["identity"] != "unavailable" || m["sessionHash"] == nil {
		t.Errorf("%v", m)
	}
}

// TestALongSessionIsRead: users choose how long their image is.
func TestALongSessionIsRead(t *testing.T) {
	body := `{"user":{"image":"` + strings.Repeat("x", recorder.MaxSessionBody-200) + `","id":"alice"},"session":{"userId":"alice","expiresAt":"2099-01-01T00:00:00Z"}}`
	p, err := profile.Builtin("better_auth")
	must(t, err)
	s, err := recorder.NewSessions(p, make([]byte, 32))
	must(t, err)
	session, err := s.Authorize(t.Context(), cookie("x"), says(body))
	if err != nil || session.UserID != "alice" || len(body) < 3<<20 {
		t.Errorf("%d bytes: %+v %v", len(body), session, err)
	}
}

// says is an auth server that says one thing.
type says string

func (s says) Ask(*http.Request) (int, []byte, error) { return 200, []byte(s), nil }
