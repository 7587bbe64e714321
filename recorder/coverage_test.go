package recorder_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// covering is a rig with a Coverage.
func covering(t *testing.T) (*rig, *recorder.Coverage) {
	c := new(recorder.Coverage)
	return newRig(t, func(o *recorder.Options) { o.Coverage = c }), c
}

func TestCoverageTalliesOnlyWhatTheProfileDoesNotName(t *testing.T) {
	g, c := covering(t)
	g.do("POST", "/sign-in/email", `{}`, nil, answers(401, `{}`))
	g.do("GET", "/get-session", "", nil, answers(200, `null`))
	g.do("OPTIONS", "/sign-in/email", "", nil, answers(204, ``))
	g.do("HEAD", "/sign-in/email", "", nil, answers(404, ``))
	if routes, others := c.Snapshot(); len(routes) != 0 || others != 0 {
		t.Errorf("%+v, %d others", routes, others)
	}
	g.do("POST", "/orders/17/pay?token=x", `{}`, nil, answers(200, `{}`))
	g.do("POST", "/orders/18/pay", `{}`, nil, answers(403, `{}`))
	g.do("post", "/orders/18/pay/", `{}`, nil, answers(404, `{}`))
	g.do("GET", "/orders/18", "", nil, answers(200, `{}`))
	g.do("PATCH", "/sign-in/email", `{}`, nil, answers(200, `{}`))
	routes, _ := c.Snapshot()
	var got []string
	for i := range routes {
		r := &routes[i]
		got = append(got, fmt.Sprintf("%s %s %s%s %d=%d+%d+%d %v", r.Profile, r.Method, r.BasePath, r.Path, r.Count, r.Succeeded, r.Failed, r.NotFound, r.Served()))
		if r.First.IsZero() || r.Last.Before(r.First) {
			t.Errorf("%s %s: first %s, last %s", r.Method, r.Path, r.First, r.Last)
		}
	}
	want := "better_auth POST /api/auth/orders/:id/pay 3=1+1+1 true\nbetter_auth GET /api/auth/orders/:id 1=1+0+0 true\nbetter_auth PATCH /api/auth/sign-in/email 1=1+0+0 true"
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

func TestCoverageShowsNoSecretsOfPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/":                "/",
		"/a//b/":           "/a/b",
		"/users/42/keys/7": "/users/:id/keys/:id2",
		"/u/550e8400-e29b-41d4-a716-446655440000": "/u/:id",
		"/records/x7k2p9q4z1":                     "/records/:id",
		"/verify/AbC123dEf456GhI789jKl":           "/verify/:token",
		"/verify/" + strings.Repeat("y", 65):      "/verify/:token",
		"/users/alice.miller/x7Kp2QzR":            "/users/:id/:id2",
		"/by/alice@example.com/x":                 "/by/:email/x",
		"/by/%3Cscript%3E":                        "/by/:value",
		"/oauth2/v2/send-verification-otp":        "/oauth2/v2/send-verification-otp",
		"/" + strings.Repeat("a/", 11):            "/a/a/a/a/a/a/a/a/a/a/*",
	} {
		g, c := covering(t)
		g.do("POST", path, "", nil, answers(200, `{}`))
		routes, _ := c.Snapshot()
		if len(routes) != 1 || routes[0].Path != want {
			t.Errorf("%s: %+v, want %s", path, routes, want)
		}
	}
}

func TestCoverageIsBoundedAndKeepsWhatTheServerHas(t *testing.T) {
	g, c := covering(t)
	word := func(i int) string {
		return string(rune('a'+i/676)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26))
	}
	for i := range recorder.MaxCoverage + 50 {
		g.do("GET", "/scan/"+word(i), "", nil, answers(404, ``))
	}
	g.do("POST", "/real/one", "", nil, answers(200, ``))
	g.do("POST", "/real/two", "", nil, answers(403, ``))
	routes, others := c.Snapshot()
	served := 0
	for i := range routes {
		if routes[i].Served() {
			served++
		}
		if routes[i].Path == "/scan/"+word(0) {
			t.Error("the oldest route that was never found did not make room")
		}
	}
	if len(routes) != recorder.MaxCoverage || others != 52 || served != 2 {
		t.Errorf("%d routes, %d others, %d served", len(routes), others, served)
	}
}

func TestCoverageIsSafeForConcurrentUse(t *testing.T) {
	g, c := covering(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				g.do("GET", fmt.Sprintf("/x/%c%c", 'a'+i, 'a'+j%26), "", nil, answers(200, ``))
				c.Snapshot()
			}
		})
	}
	wg.Wait()
	routes, others := c.Snapshot()
	sum := others
	for i := range routes {
		sum += routes[i].Count
	}
	if sum != 200 || len(routes) != 4*26 {
		t.Errorf("%d exchanges of %d routes", sum, len(routes))
	}
	var none *recorder.Coverage
	if routes, others := none.Snapshot(); len(routes) != 0 || others != 0 {
		t.Error("a nil Coverage has something")
	}
}
