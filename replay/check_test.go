package replay_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// exchange is a recorded one with a JSON answer.
func exchange(seq int, method, path, cookie string, status int, body string, truth replay.Truth) *replay.Exchange {
	x := &replay.Exchange{
		Flow: "f", Seq: seq, Truth: truth, Request: replay.Request{Method: method, Path: path},
		Response: replay.Response{Status: status, Body: body, Headers: map[string][]string{"Content-Type": {"application/json"}}},
	}
	if cookie != "" {
		x.Request.Headers = map[string][]string{"Cookie": {cookie}}
	}
	return x
}

// check replays exchanges as `profile check` does.
func check(t *testing.T, p *profile.Profile, o replay.Options, exchanges ...*replay.Exchange) (*replay.Score, *replay.File) {
	t.Helper()
	f := &replay.File{Name: "x", Exchanges: exchanges}
	o.Profile = p
	entries, err := replay.Run(f, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range exchanges {
		t.Log(replay.Describe(x, entries[x]))
	}
	return replay.ScoreFile(f, p, entries), f
}

func kinds(s *replay.Score) string {
	var out []string
	for i := range s.Misses {
		out = append(out, s.Misses[i].Kind)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// ours is the profile of a server of our own; USER is where its session endpoint has the user.
const ours = `{
	"name": "ours", "base_path": "/auth", "session": {"path": "/me", "user": "USER"}, "credentials": {"cookies": ["sid"]},
	"outcomes": {"default": [{"status": "2xx", "outcome": "success"}, {"outcome": "failed"}]},
	"routes": [
		{"method": "POST", "path": "/password", "class": "credential"}, {"method": "POST", "path": "/name", "class": "account"},
		{"method": "GET", "path": "/me", "class": "session", "record": "never"},
		{"method": "POST", "path": "/oauth", "class": "token", "outside": true, "anonymous": true}
	]
}`

func ourProfile(t *testing.T, user string) *profile.Profile {
	t.Helper()
	p, err := profile.Parse([]byte(strings.Replace(ours, "USER", user, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWhatIsOutsideIsCompared: a wrong base path loses everything, and some routes are meant
// to be outside.
func TestWhatIsOutsideIsCompared(t *testing.T) {
	p := ourProfile(t, "/id")
	failed := replay.Truth{Event: "token", Outcome: "failed"}
	for name, c := range map[string]struct {
		x    *replay.Exchange
		want string
	}{
		"a lost event":                 {exchange(1, "POST", "/other/token", "", 401, `{}`, failed), "missing"},
		"nothing that is worth it":     {exchange(1, "GET", "/other", "", 404, `{}`, replay.Truth{Outcome: "read"}), ""},
		"a right entry":                {exchange(1, "POST", "/oauth", "", 401, `{}`, failed), ""},
		"a wrong entry":                {exchange(1, "POST", "/oauth", "", 200, `{}`, failed), "wrong"},
		"an entry that nobody needs":   {exchange(1, "POST", "/oauth", "", 200, `{}`, replay.Truth{Event: "none"}), "noise"},
		"one that does not say it all": {exchange(1, "POST", "/other", "", 200, `{}`, replay.Truth{}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if s, _ := check(t, p, replay.Options{}, c.x); kinds(s) != c.want || s.Outside != 1 || s.Exchanges != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestAWrongSessionEndpointIsFound, for the server's own answer counts where there is one.
func TestAWrongSessionEndpointIsFound(t *testing.T) {
	by := replay.Truth{Event: "account", Outcome: "success", User: "u1"}
	recording := func() []*replay.Exchange {
		return []*replay.Exchange{
			exchange(1, "POST", "/auth/name", "sid=s1", 200, `{}`, by),
			exchange(2, "GET", "/auth/me", "", 200, `null`, replay.Truth{Event: "none"}),
			exchange(3, "GET", "/auth/me", "sid=s1", 200, `{"profile":{"uid":"u1"}}`, replay.Truth{Event: "none"}),
			exchange(4, "POST", "/auth/password", "sid=s1", 200, `{}`, by),
		}
	}
	for user, want := range map[string]string{"/profile/uid": "", "/id": "session wrong wrong"} {
		if s, _ := check(t, ourProfile(t, user), replay.Options{}, recording()...); kinds(s) != want {
			t.Errorf("%s: %s, want %q", user, kinds(s), want)
		}
	}
	without := slices.Delete(recording(), 1, 3)
	if s, _ := check(t, ourProfile(t, "/id"), replay.Options{}, without...); kinds(s) != "" {
		t.Errorf("nothing shows that it is wrong: %s", kinds(s))
	}
}

// TestAutoReadsAsCaddyDoes until it is certain, and under the base path that it was given.
func TestAutoReadsAsCaddyDoes(t *testing.T) {
	all, err := profile.Builtins()
	if err != nil {
		t.Fatal(err)
	}
	generic, err := profile.Builtin("generic")
	if err != nil {
		t.Fatal(err)
	}
	failed := replay.Truth{Event: "signin", Outcome: "failed"}
	shape := `{"record":{"id":"u1","collectionId":"c1"}}` // as PocketBase says, and as others could
	t.Run("a likely server blinds nobody", func(t *testing.T) {
		s, _ := check(t, generic, replay.Options{Recognizer: profile.NewRecognizer(all)},
			exchange(1, "POST", "/api/collections/users/auth-with-password", "", 200, shape, replay.Truth{}), exchange(2, "POST", "/auth/login", "", 401, `{}`, failed))
		if kinds(s) != "" {
			t.Errorf("%+v", s.Misses)
		}
	})
	t.Run("the base path is that of the recognised server", func(t *testing.T) {
		under, err := generic.WithBasePath("/x")
		if err != nil {
			t.Fatal(err)
		}
		seen := exchange(1, "POST", "/x/sign-in/email", "", 200, `{}`, replay.Truth{})
		seen.Response.Headers["Set-Cookie"] = []string{"better-auth.session_token=t"} // says nothing of the path
		s, _ := check(t, under, replay.Options{Recognizer: profile.NewRecognizer(all)}, seen, exchange(2, "POST", "/x/sign-in/email", "", 401, `{}`, failed))
		if kinds(s) != "" {
			t.Errorf("%+v", s.Misses)
		}
	})
}
