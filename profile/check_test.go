package profile_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// clean is a profile without warnings.
const clean = `{
	"name": "x",
	"base_path": "/a",
	"recognize": [{"sets_cookie": "x"}],
	"session": {"path": "/me", "user": "/id"},
	"credentials": {"cookies": ["x"]},
	"outcomes": {
		"default": [
			{"status": "2xx", "outcome": "success"},
			{"outcome": "failed"}
		],
		"mail": [
			{"status": "2xx", "outcome": "pending"}
		]
	},
	"routes": [
		{"method": "POST", "path": "/login", "class": "sign-in", "outcome": "mail"},
		{"method": "POST", "path": "/logout", "class": "sign-out", "timing": "before"},
		{"method": "GET", "path": "/users/:id", "class": "account", "record": "failures"}
	]
}
`

func TestCheckWarnsOfWhatIsProbablyNotMeant(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		want           []string
	}{
		{"nothing", "", "", nil},
		{"no recognize", `"recognize": [{"sets_cookie": "x"}],`, "", []string{"it has no recognize"}},
		{"no session and no credentials", `"session": {"path": "/me", "user": "/id"},` + "\n\t" + `"credentials": {"cookies": ["x"]},`, "", []string{"it has neither session nor credentials"}},
		{"no credentials", `"credentials": {"cookies": ["x"]},`, "", []string{"it has a session but no credentials"}},
		{"nobody signs in", `"class": "sign-in"`, `"class": "custom"`, []string{"it has no route of class sign-in"}},
		{"a list for nobody", `, "outcome": "mail"`, "", []string{`line 12: no route uses the outcomes "mail"`}},
		{"a name twice", `"recognize":`, `"name": "x", "recognize":`, []string{`line 4: "name" is given twice in the profile`}},
		{"a list twice", `"mail": [`, "\"mail\": [],\n\"mail\": [", []string{`line 13: "mail" is given twice in outcomes`}},
		{"a name in another case", `"timing"`, `"Timing"`, []string{`line 18: the format writes "Timing" in lower case`}},
		{"a rule behind one that takes all", `{"status": "2xx", "outcome": "success"},`, "{\"outcome\": \"pending\"},\n{\"status\": \"2xx\", \"outcome\": \"success\"},",
			[]string{`line 10: rule 2 of the outcomes "default" never decides: rule 1`, `line 11: rule 3 of the outcomes "default" never decides: rule 1`}},
		{"a rule behind one of the same status", `{"outcome": "failed"}`, `{"status": "204,200", "json": {"pointer": "/x"}, "outcome": "pending"}, {"outcome": "failed"}`,
			[]string{`line 10: rule 2 of the outcomes "default" never decides: rule 1`}},
		{"a rule behind one with other conditions", `{"status": "2xx", "outcome": "success"},`, `{"status": "2xx", "json": {"pointer": "/x"}, "outcome": "pending"}, {"status": "2xx", "outcome": "success"},`, nil},
		{"the same conditions twice", `{"status": "2xx", "outcome": "success"},`, `{"json": {"pointer": "/x"}, "outcome": "pending"}, {"status": "2xx", "json": {"pointer": "/x"}, "outcome": "success"}, {"status": "2xx", "outcome": "success"},`,
			[]string{`line 9: rule 2 of the outcomes "default"`}},
		{"destructive, and written afterwards", `, "timing": "before"`, "", []string{`line 18: route 2 (POST /logout) sounds destructive`}},
		{"destructive in a word of several", `"path": "/logout", "class": "sign-out", "timing": "before"`, `"path": "/user/removeAccount", "class": "account"`, []string{`line 18: route 2 (POST /user/removeAccount) sounds destructive`}},
		{"destructive, not worth an entry", `"class": "sign-out", "timing": "before"`, `"class": "sign-out", "record": "never"`, nil},
		{"a template behind a wider one", `{"method": "GET", "path": "/users/:id"`, "{\"path\": \"/users/*\", \"class\": \"custom\"},\n{\"method\": \"GET\", \"path\": \"/users/:id\"",
			[]string{"line 20: route 4 (GET /users/:id) never counts: route 3 (/users/*)"}},
		{"a path is found before templates", `{"method": "GET", "path": "/users/:id"`, "{\"path\": \"/*\", \"class\": \"custom\"},\n{\"method\": \"GET\", \"path\": \"/users/me\"", nil},
		{"another method", `{"method": "GET", "path": "/users/:id"`, "{\"method\": \"PUT\", \"path\": \"/users/*\", \"class\": \"custom\"},\n{\"method\": \"GET\", \"path\": \"/users/:id\"", nil},
		{"the same path under a condition, too late", `"timing": "before"},`, "\"timing\": \"before\"},\n{\"method\": \"POST\", \"path\": \"/logout\", \"class\": \"session\", \"timing\": \"before\", \"when\": {\"query:all\": \"*\"}},",
			[]string{"line 19: route 3 (POST /logout) never counts: route 2 (POST /logout)"}},
		{"the same path under a condition, in time", `{"method": "POST", "path": "/logout"`, "{\"method\": \"POST\", \"path\": \"/logout\", \"class\": \"session\", \"timing\": \"before\", \"when\": {\"query:all\": \"*\"}},\n{\"method\": \"POST\", \"path\": \"/logout\"", nil},
		{"words behind shorter ones", `{"method": "GET", "path": "/users/:id", "class": "account", "record": "failures"}`, `{"words": ["login", "/in"], "class": "sign-in"}, {"words": ["/login", "/info"], "class": "custom"}`,
			[]string{"line 19: route 4 (/login /info) never counts: route 3 (login /in)"}},
		{"words behind a template for all", `{"method": "GET", "path": "/users/:id", "class": "account", "record": "failures"}`, `{"words": ["login"], "class": "sign-in"}, {"path": "/*", "class": "custom"}`,
			[]string{"line 19: route 3 (login) never counts: route 4 (/*)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(clean, c.from) {
				t.Fatalf("the profile has no %s", c.from)
			}
			_, got, err := profile.Check([]byte(strings.Replace(clean, c.from, c.to, 1)))
			if err != nil {
				t.Fatal(err)
			}
			same := slices.EqualFunc(got, c.want, func(w profile.Warning, want string) bool { return strings.HasPrefix(w.String(), want) })
			if !same {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
		})
	}
	if _, _, err := profile.Check([]byte("{")); err == nil {
		t.Error("a bad profile was accepted")
	}
}

func TestBuiltinProfilesHaveNoMistakes(t *testing.T) {
	for _, name := range profile.Names() {
		text, err := profile.Text(name)
		if err != nil {
			t.Fatal(err)
		}
		_, warnings, err := profile.Check(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range warnings {
			if w.Line > 0 && (strings.Contains(w.Text, "never counts") || strings.Contains(w.Text, "never decides") || strings.Contains(w.Text, "twice")) {
				t.Errorf("%s, %s", name, w)
			}
		}
	}
}

func TestInheritedRoutesAreNoMistakes(t *testing.T) {
	_, warnings, err := profile.Check([]byte(`{"name": "x", "extends": "better_auth", "recognize": [{"header": "X"}], "routes": [{"path": "/admin/*", "class": "admin"}]}`))
	if err != nil || len(warnings) > 0 {
		t.Error(warnings, err)
	}
}

// TestARouteThatNeverCountsIsNeverMatched makes random profiles, and sends every
// request to a route of which Check says that it never counts.
func TestARouteThatNeverCountsIsNeverMatched(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	paths := []string{`"path": "/a"`, `"path": "/:x"`, `"path": "/a/:x"`, `"path": "/:x/b"`, `"path": "/a/b"`, `"path": "/a/*"`, `"path": "/:x/*"`, `"path": "/*"`, `"words": ["a"]`, `"words": ["/ab", "b"]`, `"words": ["ab/"]`}
	methods := []string{"", `"method": "GET", `, `"method": "POST", `}
	conditions := []string{"", "", `, "when": {"query:q": "1"}`, `, "when": {"query:q": "*"}`, `, "when": {"query:q": ["1", "2"], "query:r": ""}`}
	requests := []string{"/", "/a", "/b", "/ab", "/xab", "/a/", "/a/b", "/a/c", "/c/b", "/c/ab", "/a/b/c", "/c/b/a", "/c/d/e"}
	claims := 0
	for range 3000 {
		var routes []string
		for i := range 2 + random.IntN(5) {
			routes = append(routes, fmt.Sprintf(`{%s%s%s, "class": "custom", "action": "r%d"}`,
				methods[random.IntN(len(methods))], paths[random.IntN(len(paths))], conditions[random.IntN(len(conditions))], i+1))
		}
		p, warnings, err := profile.Check([]byte(`{"name": "x", "base_path": "/", "outcomes": {"default": [{"outcome": "success"}]}, "routes": [` + strings.Join(routes, ",\n") + `]}`))
		if err != nil {
			continue // the same route twice
		}
		for _, w := range warnings {
			n := 0
			if _, err := fmt.Sscanf(w.Text, "route %d", &n); err != nil || !strings.Contains(w.Text, "never counts") {
				continue
			}
			claims++
			for _, method := range []string{"GET", "POST", "PUT"} {
				for _, path := range requests {
					for _, query := range []string{"", "?q=1", "?q=2", "?q=3", "?q=1&r=1", "?r=1"} {
						if m, _ := p.Match(method, target(t, path+query)); m.Route.ActionName() == fmt.Sprintf("r%d", n) && m.Method {
							t.Fatalf("%s %s%s is route %d of\n%s\nbut %s", method, path, query, n, strings.Join(routes, "\n"), w)
						}
					}
				}
			}
		}
	}
	t.Logf("%d claims hold", claims)
	if claims < 500 {
		t.Errorf("only %d claims were made", claims)
	}
}

func TestGuessReadsTheWordsOfAPath(t *testing.T) {
	for _, c := range []struct {
		method, path, class string
		timing              profile.Timing
		record              profile.Record
	}{
		{"POST", "/login", "sign-in", "", ""},
		{"POST", "/v2/sign-in/magic-link", "sign-in", "", ""},
		{"POST", "/users/signUp", "sign-up", "", ""},
		{"GET", "/log-out", "sign-out", "before", ""},
		{"POST", "/mfa/totp/verify", "mfa", "", ""},
		{"DELETE", "/admin/users/:id", "admin", "before", ""},
		{"POST", "/password/reset", "credential", "", ""},
		{"POST", "/sessions/:id/revoke", "session", "before", ""},
		{"POST", "/oauth2/token", "token", "", ""},
		{"GET", "/teams", "organization", "", "failures"},
		{"PATCH", "/user", "account", "", ""},
		{"POST", "/:login/x", "custom", "", ""},
		{"POST", "/catalogin", "custom", "", ""},
	} {
		r := profile.Guess(c.method, c.path)
		if r.Class != c.class || r.Timing != c.timing || r.Record != c.record || r.Method != c.method || r.Path != c.path {
			t.Errorf("%s %s: %+v", c.method, c.path, r)
		}
	}
}
