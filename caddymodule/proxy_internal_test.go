package caddymodule

import (
	"net/url"
	"strings"
	"testing"
)

// TestLocalhostIsServedToThisMachineAlone: whoever tries the log out does not open his auth server
// to the network.
func TestLocalhostIsServedToThisMachineAlone(t *testing.T) {
	for from, want := range map[string]struct {
		listen  string
		matches bool
	}{
		"http://localhost:8080": {"127.0.0.1:8080", false},
		"http://127.0.0.1:8080": {"127.0.0.1:8080", false},
		":8080":                 {":8080", false},
		"auth.example.com":      {":443", true},
		"localhost":             {"127.0.0.1:443", true}, // its certificate has a name
	} {
		a, err := parseFrom(from)
		if err != nil {
			t.Fatal(err)
		}
		s := (&proxyOptions{from: a, to: &url.URL{Scheme: "http", Host: "localhost:3000"}, handler: new(Handler)}).proxy()
		if s.Listen[0] != want.listen || len(s.Routes[0].MatcherSetsRaw) > 0 != want.matches {
			t.Errorf("%s listens on %q, with a matcher: %v", from, s.Listen, !want.matches)
		}
		for _, more := range s.Listen[1:] {
			if !strings.HasPrefix(more, "[::1]:") {
				t.Errorf("%s listens on %s", from, more)
			}
		}
	}
}
