package recorder_test

import (
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
