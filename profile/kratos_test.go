package profile_test

import (
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestKratosSendsToItsOtherPort: what is asked of the wrong port is not done, and answered with the
// address of the other one.
func TestKratosSendsToItsOtherPort(t *testing.T) {
	p, err := profile.Builtin("kratos")
	if err != nil {
		t.Fatal(err)
	}
	const admin, public = "http://127.0.0.1:4434", "http://127.0.0.1:4433"
	for _, c := range []asked{
		{request: "DELETE /admin/identities/5", status: 307, to: admin + "/admin/identities/5", action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "DELETE /admin/identities/5", status: 204, action: "admin:delete-user", outcome: storage.Success, target: "5"},
		{request: "POST /admin/recovery/code", body: `{"identity_id":"5"}`, status: 307, to: admin + "/admin/recovery/code", action: "admin:recovery-code", outcome: storage.Failed, target: "5"},
		{request: "DELETE /admin/identities/5/sessions", status: 308, to: admin + "/admin/identities/5/sessions", action: "admin:revoke-user-sessions", outcome: storage.Failed, target: "5"},
		{request: "DELETE /admin//identities/5", status: 301, to: "/admin/identities/5", action: "admin:delete-user", outcome: storage.Failed, target: "5"},
		{request: "GET /self-service/logout?token=x", status: 307, to: public + "/self-service/logout?token=x", action: "sign-out", outcome: storage.Failed},
	} {
		c.check(t, p)
	}
}
