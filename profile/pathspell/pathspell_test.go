package pathspell

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell/spelltest"
)

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := spelltest.Parse("POST", raw)
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return u
}

func TestTheFirstCandidateIsTheWHATWGReadingOfTheSentBytes(t *testing.T) {
	for raw, want := range map[string]string{
		"/api/auth/sign-out":                  "/api/auth/sign-out",
		"/api/auth//../sign-out":              "/api/auth/sign-out",
		"/api/auth///../../sign-out":          "/api/auth/sign-out",
		"/api/auth/x/%2E%2e/sign-out":         "/api/auth/sign-out",
		"/api/auth//sign-out":                 "/api/auth//sign-out",
		"/../api/auth/sign-out":               "/api/auth/sign-out",
		"/a/b/..":                             "/a/",
		"/a/.":                                "/a/",
		"/..":                                 "/",
		"//..":                                "/",
		"/a/...":                              "/a/...",
		"/%73ign-out":                         "/%73ign-out",
		"/Sign-Out/":                          "/Sign-Out/",
		`/api/auth/"%2F..%2Fsign-out`:         "/api/auth/sign-out",
		"http://evil/api/auth/./sign-out":     "/api/auth/sign-out",
		"//evil/api/auth/sign-out":            "//evil/api/auth/sign-out",
		"x:http://h/api/auth/./sign-out#x":    "/api/auth/sign-out",
		`x:http://h\api\auth\sign-out`:        "/api/auth/sign-out",
		"*":                                   "*",
		"http://evil":                         "/",
		"/api/auth/callback/..%2f..%2fdelete": "/api/auth/callback/..%2f..%2fdelete",
	} {
		c := Of(mustParse(t, raw))
		if c.At(0) != want {
			t.Errorf("%q: At(0) = %q, want %q", raw, c.At(0), want)
		}
	}
}

func TestEveryRuleOfA0HasItsCandidate(t *testing.T) {
	for name, tc := range map[string]struct{ raw, want string }{
		"dot segments, slashes kept":       {"/a//../b", "/a/b"},
		"path.Clean":                       {"/a//../b", "/b"},
		"decoded once":                     {"/%61/b", "/a/b"},
		"decoded twice":                    {"/%2561/b", "/a/b"},
		"decoded three times":              {"/%252561/b", "/a/b"},
		"decoded but for the slash":        {"/%61/b%2Fc", "/a/b%2Fc"},
		"backslash":                        {`/a\b`, "/a/b"},
		"encoded backslash and dots":       {"/x%5C..%5Ca", "/a"},
		"parameters per segment":           {"/a;x=1/b;y", "/a/b"},
		"parameters before dots":           {"/x/..;/a", "/a"},
		"everything after the semicolon":   {"/a;x/b", "/a"},
		"lower case":                       {"/A/B", "/a/b"},
		"Kelvin sign":                      {"/o%E2%84%AA", "/ok"},
		"trailing slashes":                 {"/a//", "/a"},
		"lower case and trailing slash":    {"/A/", "/a"},
		"remainder after the authority":    {"//evil/a", "/a"},
		"slashes before the authority":     {"////evil/a", "/a"},
		"authority, then dots":             {"//evil/x/%2e%2e/a", "/a"},
		"slashes merged, dots kept":        {"/a//b/..", "/a/b/.."},
		"a left-over %2e is no dot to IIS": {`/a/%252e\..`, "/a"},
		"opaque":                           {"x:http://h/a", "/a"},
		"opaque without slashes":           {"x:http:/a", "/a"},
		"opaque without authority":         {"http:a/b", "/a/b"},
	} {
		if got := list(mustParse(t, tc.raw)); !slices.Contains(got, tc.want) {
			t.Errorf("%s: %q has no candidate %q: %q", name, tc.raw, tc.want, got)
		}
	}
}

// ambiguity is what threats.md A0.4 flags, and what honest clients send and must not be flagged.
var ambiguity = map[string]bool{
	"/":                          false,
	"/api/auth/sign-out":         false,
	"/api/auth/sign-out/":        false,
	"/API/Auth/Sign-Out":         false,
	"/callback/a.b-c_d~e":        false,
	"/callback/..x/...":          false,
	"/callback/a%20b":            false,
	"/callback/a%40b":            false,
	"/callback/%C3%A9":           false,
	"/callback/%c3%a9":           false,
	"/callback/it's(1)!*":        false,
	"/callback/a:b@c+d,e=f$&":    false,
	"/callback/a%3Ab%2B%3D%26":   false,
	"/a?b//../c;d%2F#e":          false,
	"http://evil/a":              false,
	"/%73ign-out":                true,
	"/sign%2dout":                true,
	"/sign%5fout":                true,
	"/a%2Fb":                     true,
	"/a%5cb":                     true,
	`/a\b`:                       true,
	"/a%3Fb":                     true,
	"/a#b":                       true,
	"/a%23b":                     true,
	"/a%25b":                     true,
	"/a%3Bb":                     true,
	"/a;b":                       true,
	"/a//b":                      true,
	"/a/":                        false,
	"/a//":                       true,
	"//":                         true,
	"/./a":                       true,
	"/a/..":                      true,
	"/a/%2e":                     true,
	"/a/.%2E/b":                  true,
	"/a%00":                      true,
	"/a%0a":                      true,
	"/a%7F":                      true,
	"/a%C2%85":                   true,
	"/a%EF%BF%BD":                true,
	"/a%ff":                      true,
	"/é":                         true,
	`/"`:                         true,
	"*":                          true,
	"x:http://h/a":               true,
	"http:a":                     true,
	strings.Repeat("/a;b//.", 9): true,
}

func TestWhatIsAmbiguous(t *testing.T) {
	for raw, want := range ambiguity {

		c := Of(mustParse(t, raw))
		if c.Ambiguous() != want {
			t.Errorf("%q: Ambiguous() = %v, want %v", raw, c.Ambiguous(), want)
		}
	}
}

// The figure of threats.md section I, row 2: 0 honest routes are flagged.
func TestNoHonestRouteIsAmbiguous(t *testing.T) {
	routes := spelltest.Honest(t)
	values := []string{
		"github", "GitHub", "AbC123dEf456GhI7", "x7Hk-29_aa.B~c", "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.s5T-_x", "a%20b", "ada%40example.com", "caf%C3%A9", "..x", "a!b'c(d)*", "a:b",
	}
	checked := 0
	for _, route := range routes {
		for _, value := range values {
			segments := strings.Split(route, "/")
			for i, s := range segments {
				if strings.HasPrefix(s, ":") {
					segments[i] = value
				}
			}
			for _, suffix := range []string{"", "?token=a%2Fb&x=//..;#"} {
				raw := "/api/auth" + strings.Join(segments, "/") + suffix
				c := Of(mustParse(t, raw))
				checked++
				if c.Ambiguous() {
					t.Errorf("%q is ambiguous", raw)
				}
				if want, _, _ := strings.Cut(raw, "?"); c.At(0) != want {
					t.Errorf("%q: At(0) = %q", raw, c.At(0))
				}
			}
			if !strings.Contains(route, ":") {
				break
			}
		}
	}
	t.Logf("%d honest routes, %d targets, 0 ambiguous", len(routes), checked)
}

func TestPlain(t *testing.T) {
	for p, want := range map[string]bool{
		"/": true, "/a": true, "/api/auth/sign-in/email": true, "/a.b/..c/d~_-9": true, "/...": true,
		"": false, "a": false, "*": false, "/a/": false, "//": false, "/a//b": false, "/.": false, "/a/..": false,
		"/../a": false, "/./a": false, "/A": false, "/a%20": false, "/a b": false, "/a;b": false, "/é": false, "/a:b": false,
		"/a\x00": false, "/a\\b": false,
	} {
		if Plain(p) != want {
			t.Errorf("Plain(%q) = %v", p, !want)
		}
	}
}

func TestAPlainPathCostsNoAllocation(t *testing.T) {
	u := mustParse(t, "/api/auth/sign-in/email")
	n := testing.AllocsPerRun(100, func() {
		c := Of(u)
		if c.Len() != 1 || c.Ambiguous() || c.At(0) != u.Path {
			t.Fatal("not one plain candidate")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestURLsThatNoServerParsed(t *testing.T) {
	for name, u := range map[string]*url.URL{
		"zero":                  {},
		"CONNECT":               {Host: "h:443"},
		"relative":              {Path: "api/auth"},
		"invalid UTF-8":         {Path: "/\xff\xfe/../a"},
		"NUL":                   {Path: "/a\x00"},
		"RawPath of another":    {Path: "/a", RawPath: "/b"},
		"RawPath not an escape": {Path: "/a", RawPath: "/%zz"},
		"only RawPath":          {RawPath: "/a"},
		"opaque nothing":        {Opaque: "#"},
		"opaque authority":      {Scheme: "x", Opaque: "//h"},
	} {
		c := Of(u)
		if c.Len() == 0 || c.At(0) == "" || c.At(0)[0] != '/' {
			t.Errorf("%s: %q", name, list(u))
		}
	}
}

func TestAFullSetIsAmbiguousAndKeepsWhatKnownServersRead(t *testing.T) {
	u := mustParse(t, "/%2e%2e/;a/../API/x%5C../auth%2fRe%73et-password//x/.%2E/A;B%255c/")
	c := Of(u)
	if c.Len() != maxCandidates || !c.Ambiguous() {
		t.Fatalf("%d candidates, ambiguous %v: choose a target that fills the set", c.Len(), c.Ambiguous())
	}
	var known Candidates
	known.known(u.EscapedPath(), u.Path)
	for i := range known.Len() {
		if !slices.Contains(list(u), known.At(i)) {
			t.Errorf("%q was pushed out", known.At(i))
		}
	}
}

// FuzzOf holds what must be true of every target that a server hands over.
func FuzzOf(f *testing.F) {
	for _, raw := range []string{
		"/api/auth/sign-out", "/api/auth//../sign-out", `/a/"%2F..%2Fb`, "//evil/a", "x:http://h/a", "*", "/%2561;x/..%5C",
		"/A/%C3%A9/", "/\xff%2e", "http:", "/a;/../%252e", "x:y:z", "/%", "http://h?x",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		c, all := Of(u), list(u)
		if c.Len() < 1 || c.Len() > maxCandidates {
			t.Fatalf("%d candidates", c.Len())
		}
		if again := Of(u); again.At(0) != c.At(0) || again.Len() != c.Len() || again.Ambiguous() != c.Ambiguous() {
			t.Fatal("not stable")
		}
		if u.Opaque != "" || u.Path == "*" {
			return
		}
		if cleaned := path.Clean("/" + u.Path); !slices.Contains(all, cleaned) {
			t.Fatalf("%q lacks path.Clean's %q: %q", raw, cleaned, all)
		}
		if !c.Ambiguous() {
			holdsClosed(t, all)
		}
		if u.RawPath == "" && Plain(u.Path) && (c.Len() != 1 || c.Ambiguous()) {
			t.Fatalf("plain %q has %q", raw, all)
		}
	})
}

// holdsClosed checks the short cut of Of: no rule finds anything new in a target without a sign.
func holdsClosed(t *testing.T, all []string) {
	t.Helper()
	for _, p := range all {
		for _, rule := range []func(string) string{
			removeDots, resolveDots, path.Clean, decode, decodeKeepSlash, flipBackslashes, dropParams, cutParams,
			dropAuthority, mergeSlashes, trimSlashes,
		} {
			if got := lower(trimSlashes(rule(p))); !slices.Contains(all, got) {
				t.Fatalf("%q is not ambiguous, but a rule makes %q of it: %q", p, got, all)
			}
		}
	}
}
