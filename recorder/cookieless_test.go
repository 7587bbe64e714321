package recorder_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

// jwt is a token with those claims.
func jwt(claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"HS512"}`)) + "." + e([]byte(claims)) + "." + strings.Repeat("s", 43)
}

// TestACookieHidesNobodyWhereTheTokenCounts: an administrator could act without a name by sending a
// cookie of any name beside the token.
func TestACookieHidesNobodyWhereTheTokenCounts(t *testing.T) {
	token := "Bearer " + jwt(`{"sub":"eve","id":"eve","iat":1}`)
	for _, c := range []struct {
		profile, request string
		status           int
		answer           string
		named            bool
	}{
		{"keycloak", "DELETE /admin/realms/r/users/bob", 204, "", true},
		{"keycloak", "PUT /admin/realms/r/users/bob", 204, "", true},
		{"keycloak", "PATCH /realms/r/scim/v2/Users/bob", 200, "{}", true},
		{"keycloak", "DELETE /realms/r/account/credentials/7", 204, "", true},
		{"supabase", "DELETE /admin/users/bob", 200, "{}", true},
		{"pocketbase", "DELETE /collections/_superusers/records/bob", 204, "", true},
		{"keycloak", "POST /realms/r/clients-registrations/default", 201, "{}", false}, // nobody has said so of it
	} {
		method, path, _ := strings.Cut(c.request, " ")
		for _, cookies := range [][]string{nil, {"a=b"}, {"a%62=b"}, {"KEYCLOAK_IDENTITY=" + jwt(`{"sub":"mallory"}`)}, {" =x; a=b"}} {
			g := of(t, c.profile, "")
			g.server.sessions = nil // it does not know the token's audience
			h := http.Header{"Authorization": {token}}
			if cookies != nil {
				h["Cookie"] = cookies
			}
			g.doAt(method, path, "", h, answers(c.status, c.answer))
			if e, _ := g.one(); (e.UserID == "eve") != (c.named || cookies == nil) {
				t.Errorf("%s, %s with cookies %q is %q's", c.profile, c.request, cookies, e.UserID)
			}
		}
		g := of(t, c.profile, "") // two tokens
		g.doAt(method, path, "", http.Header{"Authorization": {token, "Bearer " + jwt(`{"sub":"bob","id":"bob"}`)}, "Cookie": {"a=b"}}, answers(c.status, c.answer))
		if e, _ := g.one(); e.UserID != "" {
			t.Errorf("%s, %s with two tokens is %q's", c.profile, c.request, e.UserID)
		}
	}
}
