package recorder_test

import (
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// TestAnAddressIsSomebodysOnlyIfItWasVerified: whoever calls himself like another's address could read
// the failed sign-ins with it.
func TestAnAddressIsSomebodysOnlyIfItWasVerified(t *testing.T) {
	for _, c := range []struct{ profile, answer, want string }{
		{"authentik", `{"user":{"pk":9,"username":"bob"}}`, "bob"},
		{"authentik", `{"user":{"pk":9,"username":"alice@example.com"}}`, ""},
		{"authelia", `{"status":"OK","data":{"username":"alice@example.com"}}`, ""},
		{"better_auth", `{"user":{"id":"a","email":"alice@example.com","emailVerified":true},"session":{"userId":"a"}}`, "alice@example.com"},
		{"better_auth", `{"user":{"id":"a","email":"alice@example.com","emailVerified":false},"session":{"userId":"a"}}`, ""},
		{"better_auth", `{"user":{"id":"a","email":"alice@example.com"},"session":{"userId":"a"}}`, ""},
	} {
		p, err := profile.Builtin(c.profile)
		must(t, err)
		s, err := recorder.NewSessions(p, make([]byte, 32))
		must(t, err)
		h := cookie("x")
		h.Set("Authorization", "Bearer x")
		if session, err := s.Authorize(t.Context(), h, says(c.answer)); err != nil || session.UserID == "" || session.Identifier != c.want {
			t.Errorf("%s: %s is %q of %q (%v), want %q", c.profile, c.answer, session.Identifier, session.UserID, err, c.want)
		}
	}
}

// TestWhatWasTypedIsMaskedInWhatTheServerSaysOfIt: beside its mask, the message would tell it.
func TestWhatWasTypedIsMaskedInWhatTheServerSaysOfIt(t *testing.T) {
	g := newRig(t, nil)
	g.do("POST", "/sign-in/email", `{"email":"alice@example.com","password":"x"}`, nil, answers(401, `{"message":"No account for alice@example.com was found","code":"NO_ALICE"}`))
	g.do("POST", "/sign-in/username", `{"username":"Hunter2!pass","password":"x"}`, nil, answers(401, `{"message":"User 'hunter2!PASS' does not exist","code":"unknown:Hunter2!pass"}`))
	g.do("GET", "/callback/github?state=1", "", nil, answers(302, "", "Location", "https://app/x?error=access_denied&error_description=user+bob%40example.com+unknown"))
	g.do("GET", "/callback/github?state=1", "", nil, answers(302, "", "Location", "https://app/x?error=access_denied&error_description=user+carol%2540example.com+unknown"))
	if n := len(g.store.Entries()); n != 4 {
		t.Fatalf("%d entries", n)
	}
	for _, e := range g.store.Entries() {
		text := strings.ToLower(string(e.Metadata))
		for _, clear := range []string{"alice@", "for alice", "hunter2", "bob", "carol"} {
			if strings.Contains(text, clear) {
				t.Errorf("%s in %s", clear, e.Metadata)
			}
		}
		if !strings.Contains(text, "***") {
			t.Errorf("nobody is masked in %s", e.Metadata)
		}
	}
}
