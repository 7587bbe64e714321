package recorder

import (
	"net/http"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

func sessionsOf(t *testing.T, name string) (*Sessions, func(cookie string) (string, bool), func(cookie, user string)) {
	t.Helper()
	p, err := profile.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSessions(p, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	const cookie = "app-session"
	owner := func(value string) (string, bool) {
		c := s.credentialsOf(http.Header{"Cookie": {cookie + "=" + value}}, nil)
		owner, known := s.owner(&c)
		return owner.UserID, known
	}
	return s, owner, func(value, user string) { s.learn(token{"cookie " + cookie, value}, Session{UserID: user}) }
}

// TestWhichCookieIsTheSessionsIsAGuess where the server is not known: what anybody could have
// too names nobody.
func TestWhichCookieIsTheSessionsIsAGuess(t *testing.T) {
	_, owner, learn := sessionsOf(t, "generic")
	for value, want := range map[string]bool{
		"node-eu-west-1-a":                                false,
		"backend-server-2":                                false,
		"dark-high-contrast":                              false,
		"en-US,en;q=0.9":                                  false,
		"1764460000000":                                   false,
		"q3o8v5k2m9x7c1z4w6e8r0t2y5u7i9p1":                true,
		"550e8400-e29b-41d4-a716-446655440000":            true,
		"550e8400-e29b-41d4-a716-446655440000.keycloak-0": true,
		"s%3AkX92mfPq7LzT4vRbN8cW1yHd.2fG7jK0aQeSxUvYzB3nM5pRtDwLhCk8":   true,
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.Sf7KxwRJSMeKKF2QT4":   true,
		"BAh7CEkiD3Nlc3Npb25faWQGOgZFVEkiJTQ2--a94a8fe5ccb19ba61c4c0873": true,
	} {
		learn(value, "alice")
		if _, known := owner(value); known != want {
			t.Errorf("%s is remembered: %v, want %v", value, known, want)
		}
	}
}

// TestACookieOfManyPeopleIsNobodys: it was shown to be two people's, and stays nobody's,
// whatever happens then.
func TestACookieOfManyPeopleIsNobodys(t *testing.T) {
	s, owner, learn := sessionsOf(t, "generic")
	const value = "AECDaANoA24IAc9xQ7rT2bV5kL8"
	learn(value, "alice")
	if user, known := owner(value); user != "alice" || !known {
		t.Fatal(user, known)
	}
	learn(value, "bob")
	for _, again := range []string{"alice", "bob", "bob"} {
		if user, known := owner(value); known {
			t.Errorf("it is %s's", user)
		}
		c := s.credentialsOf(http.Header{"Cookie": {"app-session=" + value}}, nil)
		s.forget(&c)
		learn(value, again)
	}
}

// TestASessionMayOweAFactor, of Authelia by the level that it has reached.
func TestASessionMayOweAFactor(t *testing.T) {
	s, _, _ := sessionsOf(t, "authelia")
	for body, partial := range map[string]bool{
		`{"status":"OK","data":{"username":"alice","authentication_level":1}}`: true,
		`{"status":"OK","data":{"username":"alice","authentication_level":2}}`: false,
		`{"status":"OK","data":{"username":"alice"}}`:                          true,
	} {
		got, err := s.read(s.profile.Session[0], &profile.Answer{Status: http.StatusOK, Body: []byte(body)})
		if err != nil || got.UserID != "alice" || got.Partial != partial {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
}
