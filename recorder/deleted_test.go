package recorder_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// of is a rig for a builtin profile, with an entry of a user of before.
func of(t *testing.T, name, user string) *rig {
	t.Helper()
	g := newRig(t, func(o *recorder.Options) {
		p, err := profile.Builtin(name)
		must(t, err)
		p, err = p.WithBasePath("/") // an application shares the site
		must(t, err)
		o.Profile = p
		o.Sessions, err = recorder.NewSessions(p, make([]byte, 32))
		must(t, err)
	})
	if user != "" {
		must(t, g.store.Write(t.Context(), storage.Entry{ID: storage.NewID(), UserID: user, Action: "earlier", Status: storage.Success, CreatedAt: time.Now().Add(-time.Hour)}))
	}
	return g
}

// isThere says whether the user's entry of before is still that.
func (g *rig) isThere(user string) bool {
	for _, e := range g.store.Entries() {
		if e.Action == "earlier" {
			return e.UserID == user
		}
	}
	return false
}

// deletions are the requests by which administrators delete a user, and what carries them out.
var deletions = []struct {
	profile, request, body string
	open                   bool // the server asks for no credential
	status                 int
	contentType, answer    string
}{
	{"kratos", "DELETE /identities/bob", "", true, 204, "", ""},
	{"kratos", "DELETE /admin/identities/bob", "", true, 204, "", ""},
	{"keycloak", "DELETE /admin/realms/r/users/bob", "", false, 204, "", ""},
	{"keycloak", "DELETE /realms/r/scim/v2/Users/bob", "", false, 204, "", ""},
	{"authentik", "DELETE /api/v3/core/users/bob/", "", false, 204, "", ""},
	{"authentik", "DELETE /source/scim/s/v2/Users/bob", "", false, 204, "", ""},
	{"logto", "DELETE /api/users/bob", "", false, 204, "", ""},
	{"zitadel", "DELETE /v2/users/bob", "", false, 200, "application/json", `{"details":{}}`},
	{"zitadel", "DELETE /v2beta/users/bob", "", false, 200, "application/json", `{"details":{"sequence":"1"}}`},
	{"zitadel", "DELETE /management/v1/users/bob", "", false, 200, "application/json", `{"details":{}}`},
	{"zitadel", "POST /zitadel.user.v2.UserService/DeleteUser", `{"userId":"bob"}`, false, 200, "application/json", `{}`},
	{"zitadel", "DELETE /scim/v2/o/Users/bob", "", false, 204, "", ""},
	{"pocketbase", "DELETE /collections/users/records/bob", "", false, 204, "", ""},
	{"pocketbase", "DELETE /collections/_superusers/records/bob", "", false, 204, "", ""},
	{"pocketbase", "DELETE /admins/bob", "", false, 204, "", ""},
	{"supabase", "DELETE /admin/users/bob", "", false, 200, "application/json", `{}`},
	{"casdoor", "POST /delete-user", `{"owner":"org","name":"bob"}`, true, 200, "application/json", `{"status":"ok","data":"Affected"}`},
	{"better_auth", "POST /admin/remove-user", `{"userId":"bob"}`, false, 200, "application/json", `{"success":true}`},
}

// TestAPageOfAnApplicationDeletesNobody: an application on the same site answers whatever it is
// asked, and so anybody could take anybody's id out of the log.
func TestAPageOfAnApplicationDeletesNobody(t *testing.T) {
	for _, c := range deletions {
		method, path, _ := strings.Cut(c.request, " ")
		user := "bob"
		if c.profile == "casdoor" {
			user = "org/bob"
		}
		try := func(name string, header http.Header, status int, contentType, answer string) (*rig, storage.Status) {
			g := of(t, c.profile, user)
			if c.body != "" {
				header.Set("Content-Type", "application/json")
			}
			g.doAt(method, path, c.body, header, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", contentType)
				w.WriteHeader(status)
				_, _ = w.Write([]byte(answer))
			})
			for _, e := range g.store.Entries() {
				if e.Action != "earlier" {
					return g, e.Status
				}
			}
			t.Fatalf("%s, %s, %s: no entry", c.profile, c.request, name)
			return nil, ""
		}
		admin := func() http.Header { return http.Header{"Authorization": {"Bearer s-admin"}} }
		for name, header := range map[string]http.Header{"nobody": {}, "somebody": admin()} {
			g, outcome := try(name, header, 200, "text/html; charset=utf-8", "<!doctype html><title>my app</title>")
			if outcome != storage.Unknown && c.profile != "better_auth" || !g.isThere(user) {
				t.Errorf("%s, %s of %s, answered with a page: %s, still there: %v", c.profile, c.request, name, outcome, g.isThere(user))
			}
		}
		g, outcome := try("admin", admin(), c.status, c.contentType, c.answer)
		if outcome != storage.Success || g.isThere(user) {
			t.Errorf("%s, %s, carried out: %s, still there: %v", c.profile, c.request, outcome, g.isThere(user))
		}
		if g, outcome = try("nobody", http.Header{}, c.status, c.contentType, c.answer); g.isThere(user) == c.open {
			t.Errorf("%s, %s without a credential: %s, still there: %v", c.profile, c.request, outcome, g.isThere(user))
		}
	}
}

// TestARedirectMayHaveAPage: frameworks write one for browsers that do not follow.
func TestARedirectMayHaveAPage(t *testing.T) {
	g := newRig(t, nil)
	g.do("GET", "/delete-user/callback?token=t&callbackURL=/bye", "", cookie("s-alice"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Location", "/bye")
		w.WriteHeader(302)
	})
	must(t, g.writer.Close(t.Context()))
	if e, _ := g.one(); e.Status != storage.Success || e.UserID != "" {
		t.Errorf("%s of %q", e.Status, e.UserID)
	}
}
