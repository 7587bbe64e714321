package recorder_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// me is authentik: who somebody is, and who acts as them.
type me struct{ user, original string }

func (m *me) Ask(*http.Request) (int, []byte, error) {
	body := `{"user":{"pk":"` + m.user + `"}`
	if m.original != "" {
		body += `,"original":{"pk":"` + m.original + `"}`
	}
	return 200, []byte(body + "}"), nil
}

// TestACookieThatIsSomebodyElsesNowNamesNobodyOfBefore: authentik goes on with the cookie when an
// administrator becomes somebody else, and when that ends.
func TestACookieThatIsSomebodyElsesNowNamesNobodyOfBefore(t *testing.T) {
	g := of(t, "authentik", "")
	is := &me{"admin", ""}
	const session = "authentik_session=eyJhbGciOiJIUzI1NiJ9.eyJzaWQiOiJhYmNkZWYxMjM0NTYifQ.sigsigsigsigsig"
	const users = "/api/v3/core/users/"
	ask := func(method, path string, status int) {
		g.ask = is
		g.doAt(method, path, "", http.Header{"Cookie": {session}}, answers(status, `{"pk":1}`, "Set-Cookie", session+"; Path=/"))
	}
	act := func() { ask("POST", "/api/v3/core/tokens/", 201) }
	g.ask = is
	g.doAt("GET", "/api/v3/flows/executor/default-authentication-flow/?query=", "", nil, answers(200, `{"component":"xak-flow-redirect","to":"/"}`, "Set-Cookie", session+"; Path=/"))
	act()
	ask("POST", users+"9/impersonate/", 403)
	act()
	ask("POST", users+"9/impersonate/", 204)
	*is = me{"bob", "admin"}
	act()
	act()
	ask("GET", users+"impersonate_end/", 204)
	*is = me{"admin", ""}
	act()
	var got []string
	for _, e := range g.store.Entries() {
		by := e.UserID
		if strings.Contains(string(e.Metadata), `"impersonatedBy":"admin"`) {
			by += " by admin"
		}
		if e.Status != storage.Success {
			by += " " + string(e.Status)
		}
		got = append(got, e.Action+" "+by)
	}
	action := got[1][:strings.IndexByte(got[1], ' ')]
	want := []string{got[0], action + " admin", "admin:impersonate-user admin failed", action + " admin", "admin:impersonate-user admin", action + " bob by admin", action + " bob by admin", "admin:stop-impersonating bob by admin", action + " admin"}
	if !strings.HasSuffix(got[0], " admin") || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
