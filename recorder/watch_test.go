package recorder_test

import (
	"net/http"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// TestAWatchHearsOfItsCredentialsAndItsUserAlone: of a sign-out with the same cookie, and
// of an administrator who bans the user.
func TestAWatchHearsOfItsCredentialsAndItsUserAlone(t *testing.T) {
	p, err := profile.Builtin("better_auth")
	if err != nil {
		t.Fatal(err)
	}
	s, err := recorder.NewSessions(p, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	head := func(token string) http.Header {
		return http.Header{"Cookie": {"better-auth.session_token=" + token}}
	}
	alice, bob := s.Watch(head("a"), "alice"), s.Watch(head("b"), "bob")
	recorder.Doubt(s, head("a"))
	if !alice.Doubted() || alice.Doubted() || bob.Doubted() {
		t.Error("a sign-out is heard by others, or more than once")
	}
	recorder.DoubtUser(s, "bob")
	if alice.Doubted() || !bob.Doubted() {
		t.Error("a ban is heard by others")
	}
	bob.Close()
	recorder.DoubtUser(s, "bob")
	alice.Close()
	recorder.Doubt(s, head("a"))
	if bob.Doubted() || alice.Doubted() {
		t.Error("a closed watch hears")
	}
}
