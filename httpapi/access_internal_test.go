package httpapi

import (
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// TestWhoOwesAFactorIsNoAdministrator: a thief of the password would read everybody's entries.
func TestWhoOwesAFactorIsNoAdministrator(t *testing.T) {
	for _, c := range []struct {
		session recorder.Session
		is      bool
	}{
		{recorder.Session{UserID: "root"}, true},
		{recorder.Session{UserID: "ann", Roles: []string{"admin"}}, true},
		{recorder.Session{UserID: "root", Partial: true}, false},
		{recorder.Session{UserID: "ann", Roles: []string{"admin"}, Partial: true}, false},
		{recorder.Session{UserID: "root", ImpersonatedBy: "ann"}, false},
		{recorder.Session{}, false},
	} {
		q := &request{API: &API{Options: Options{AdminIDs: []string{"root"}, AdminRoles: []string{"admin"}}}}
		if q.session = c.session; q.administrator() != c.is {
			t.Errorf("%+v: %v", c.session, !c.is)
		}
	}
}
