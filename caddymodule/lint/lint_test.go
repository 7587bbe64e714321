package lint_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/caddymodule/lint"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

// quiet is a global block without findings of its own; it has five lines.
const quiet = `{
	log {
		output discard
	}
}
`

// brief is a finding as the tables below write it.
func brief(f lint.Finding) string { return fmt.Sprintf("%d %s %s", f.Line, f.Rule, f.Severity) }

func check(t *testing.T, config string) []lint.Finding {
	t.Helper()
	findings, err := lint.Caddyfile("Caddyfile", []byte(config), lint.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	for _, f := range findings {
		if f.File != "Caddyfile" || f.Text == "" || f.Remedy == "" || f.Path == "" {
			t.Errorf("incomplete: %+v", f)
		}
	}
	return findings
}

func TestCaddyfilesAndWhatIsWrongWithThem(t *testing.T) {
	for _, c := range []struct {
		name, site string
		want       []string // line, rule and severity
	}{
		{"one line in front of the whole site", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}", nil},
		{"no audit_log at all", "a.example {\n\treverse_proxy /api/auth/* localhost:3000\n}", nil},

		{"a path matcher", "a.example {\n\taudit_log /api/auth/*\n\treverse_proxy localhost:3000\n}", []string{"7 scoped-handler high"}},
		{"a path matcher that everything fits", "a.example {\n\taudit_log /*\n\treverse_proxy localhost:3000\n}", nil},
		{"a named path matcher", "a.example {\n\t@auth path_regexp ^/api/auth/\n\taudit_log @auth\n\treverse_proxy localhost:3000\n}", []string{"8 scoped-handler high"}},
		{"a path in an expression", "a.example {\n\t@auth expression `path('/api/auth/*')`\n\taudit_log @auth\n\treverse_proxy localhost:3000\n}", []string{"8 scoped-handler high"}},
		{"a path that is left out", "a.example {\n\t@rest not path /static/*\n\taudit_log @rest\n\treverse_proxy localhost:3000\n}", []string{"8 scoped-handler high"}},
		{"handle with a path, the server behind it alone", "a.example {\n\thandle /api/auth/* {\n\t\taudit_log\n\t\treverse_proxy localhost:3000\n\t}\n\thandle {\n\t\treverse_proxy localhost:8080\n\t}\n}", []string{"8 scoped-handler medium"}},
		{"handle with a path, the server behind both", "a.example {\n\thandle /api/auth/* {\n\t\taudit_log\n\t\treverse_proxy localhost:3000\n\t}\n\thandle {\n\t\treverse_proxy localhost:3000\n\t}\n}", []string{"8 scoped-handler high", "12 unaudited-route high"}},
		{"handle_path", "a.example {\n\thandle_path /api/auth/* {\n\t\taudit_log\n\t\treverse_proxy localhost:3000\n\t}\n}", []string{"8 scoped-handler medium"}},
		{"a route block with a path", "a.example {\n\troute /api/auth/* {\n\t\taudit_log\n\t\treverse_proxy localhost:3000\n\t}\n}", []string{"8 scoped-handler medium"}},
		{"a route block without one", "a.example {\n\troute {\n\t\taudit_log\n\t\treverse_proxy localhost:3000\n\t}\n}", nil},

		{"another site without it", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\nb.example {\n\treverse_proxy localhost:3000\n}", []string{"11 unaudited-route high"}},
		{"another site with another name of the same machine", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\nb.example {\n\treverse_proxy http://127.0.0.1:3000\n}", []string{"11 unaudited-route high"}},
		{"another site with another server", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\nb.example {\n\treverse_proxy localhost:3001\n}", nil},
		{"another port with the same server among others", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\n:8080 {\n\treverse_proxy {\n\t\tto localhost:9000 localhost:3000\n\t}\n}", []string{"12 unaudited-route high"}},
		{"both sites with it", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\nb.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}", nil},
		{"forward_auth asks the server itself", "a.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\nb.example {\n\tforward_auth localhost:3000 {\n\t\turi /api/verify\n\t}\n\treverse_proxy localhost:9000\n}", nil},
		{"a matcher of its own for the handler", "a.example {\n\taudit_log @post\n\t@post method POST\n\treverse_proxy localhost:3000\n}", []string{"9 unaudited-route high"}},
		{"the same matcher for both", "a.example {\n\t@post method POST\n\taudit_log @post\n\treverse_proxy @post localhost:3000\n}", nil},
		{"a part of the site that another proxy serves", "a.example {\n\taudit_log\n\treverse_proxy /app/* localhost:8080\n\treverse_proxy localhost:3000\n}", nil},
		{"switched off", "a.example {\n\taudit_log {\n\t\tenabled off\n\t}\n\treverse_proxy localhost:3000\n}", nil},

		{"behind the proxy", "a.example {\n\troute {\n\t\treverse_proxy localhost:3000\n\t\taudit_log\n\t}\n}", []string{"9 handler-order high"}},
		{"twice", "a.example {\n\troute {\n\t\taudit_log\n\t\taudit_log\n\t\treverse_proxy localhost:3000\n\t}\n}", []string{"9 handler-order low"}},

		{"async and a path that fails closed", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tdurability async\n\t\tpath /delete-user {\n\t\t\tfail closed\n\t\t}\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 async-closed medium"}},
		{"async and intents", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tnon_blocking\n\t\tbefore /sign-out\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 async-closed low"}},
		{"async and no intents", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tnon_blocking\n\t\tbefore off\n\t}\n\treverse_proxy localhost:3000\n}", nil},

		{"roles where sessions have none", "a.example {\n\taudit_log {\n\t\tprofile kratos\n\t\tadmins {\n\t\t\trole admin\n\t\t}\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 admin-role medium"}},
		{"ids where sessions have no roles", "a.example {\n\taudit_log {\n\t\tprofile kratos\n\t\tadmins {\n\t\t\tid abc\n\t\t}\n\t}\n\treverse_proxy localhost:3000\n}", nil},
		{"administrators without a session endpoint", "a.example {\n\taudit_log {\n\t\tprofile zitadel\n\t\tadmins {\n\t\t\tid abc\n\t\t}\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 admin-role medium"}},
		{"roles where sessions have them", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tadmins {\n\t\t\trole admin\n\t\t}\n\t}\n\treverse_proxy localhost:3000\n}", nil},
		{"routes for a server that is not known yet", "a.example {\n\taudit_log {\n\t\tpath /sign-*\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 auto-routes low"}},
		{"a mistyped path", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tpath /delete-user/\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 unknown-path medium"}},
		{"a mistyped path in two options, once", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tpath /delete-usr\n\t\tbefore /delete-usr\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 unknown-path medium"}},
		{"a path of one's own", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tpath /our/own/thing\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 unknown-path low"}},
		{"a path for a server that is not known yet", "a.example {\n\taudit_log {\n\t\tpath /delete-usr\n\t}\n\treverse_proxy localhost:3000\n}", []string{"7 auto-routes low"}},
		{"routes for a server that is named", "a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\tpath /sign-*\n\t}\n\treverse_proxy localhost:3000\n}", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range check(t, quiet+c.site) {
				got = append(got, brief(f))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q\n%s", got, c.want, quiet+c.site)
			}
		})
	}
}

func TestAMistypedPathIsNamedWithTheNearestRoute(t *testing.T) {
	for path, want := range map[string]string{
		"/delete-user/":              "/delete-user",
		"/delete-usr":                "/delete-user",
		"/Delete-User":               "/delete-user",
		"/api/auth/delete-user":      "/delete-user",
		"/sign-in/emial":             "/sign-in/email",
		"/reset-password/:tok":       "/reset-password/:token",
		"/our/own/thing":             "",
		"/x":                         "",
		"/delete-user":               "no finding",
		"/delete-*":                  "no finding",
		"/admin/remove-user":         "no finding",
		"/sign-in/email /delete-usr": "/delete-user", // of before
	} {
		option := "path"
		if strings.Contains(path, " ") {
			option = "before"
		}
		findings := check(t, quiet+"a.example {\n\taudit_log {\n\t\tprofile better_auth\n\t\t"+option+" "+path+"\n\t}\n\treverse_proxy localhost:3000\n}")
		switch {
		case want == "no finding":
			if len(findings) != 0 {
				t.Errorf("%s: %+v", path, findings)
			}
		case len(findings) != 1:
			t.Errorf("%s: %+v", path, findings)
		case want == "" && (strings.Contains(findings[0].Text, "nearest") || !strings.HasSuffix(findings[0].Text, "path "+path+" is no route of profile better_auth: it counts as a path of your own")),
			want != "" && !strings.HasSuffix(findings[0].Text, "the nearest is "+want):
			t.Errorf("%s: %s", path, findings[0].Text)
		}
	}
}

func TestProxiesThatLetClientsChooseTheirAddress(t *testing.T) {
	for _, c := range []struct {
		servers string
		want    []string
	}{
		{"servers {\n\t\ttrusted_proxies static private_ranges\n\t}", []string{"6 client-address high"}},
		{"servers {\n\t\ttrusted_proxies static 203.0.113.7\n\t}", []string{"6 client-address medium"}},
		{"servers {\n\t\ttrusted_proxies static private_ranges\n\t\ttrusted_proxies_strict\n\t}", nil},
		{"servers {\n\t\ttrusted_proxies static 0.0.0.0/0\n\t\ttrusted_proxies_strict\n\t}", []string{"6 client-address high"}},
		{"servers {\n\t\ttrusted_proxies static 203.0.113.7 2000::/3\n\t\ttrusted_proxies_strict\n\t}", []string{"6 client-address high"}},
		{"servers {\n\t\ttrusted_proxies static 203.0.113.7\n\t\ttrusted_proxies_strict\n\t\tclient_ip_headers X-Forwarded-For X-Real-IP\n\t}", []string{"6 client-address low"}},
		{"servers {\n\t\tclient_ip_headers X-Real-IP\n\t}", []string{"6 client-address low"}},
		{"servers :8080 {\n\t\ttrusted_proxies static 0.0.0.0/0\n\t}\n\tservers :8081 {\n\t\ttrusted_proxies static 0.0.0.0/0\n\t}", []string{"9 client-address high"}},
	} {
		config := "{\n\tlog {\n\t\toutput discard\n\t}\n\t" + c.servers + "\n}\n:8081 {\n\taudit_log\n\treverse_proxy localhost:3000\n}\n:8080 {\n\trespond hi\n}\n"
		var got []string
		for _, f := range check(t, config) {
			got = append(got, brief(f))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("got %q, want %q\n%s", got, c.want, config)
		}
	}
}

const site = "a.example {\n\t%s\n\taudit_log {\n\t\tprofile better_auth\n\t}\n\treverse_proxy localhost:3000\n}\n"

func TestLogsThatShowSecrets(t *testing.T) {
	exclude := "exclude audit_log.entries\n"
	for _, c := range []struct {
		name, global, site string
		want               []string
		shows, hides       string // in the text of the last finding
	}{
		{"no log configured", "", "", []string{"1 entries-in-log medium", "1 unfiltered-log high"}, "?token= (request>uri)", "Set-Auth-Token"},
		{"the default log, unfiltered", "log {\n" + exclude + "}", "", []string{"2 unfiltered-log high"}, "/reset-password/<token> (request>uri), ?token", "resp_headers"},
		{"the default log with debug lines", "log {\nlevel DEBUG\n" + exclude + "}", "", []string{"2 unfiltered-log high"}, "Set-Auth-Token (headers>Set-Auth-Token)", "resp_headers"},
		{"the default log at its own level only", "log {\nlevel PANIC\n}", "", nil, "", ""},
		{"an access log beside it", "log {\noutput discard\n}", "log {\noutput file /tmp/x.log\n}", []string{"7 unfiltered-log high"}, "Set-Auth-Token (resp_headers>Set-Auth-Token)", "Cookie"},
		{"an access log with a name", "log {\noutput discard\n}", "log mine {\noutput file /tmp/x.log\n}", []string{"7 unfiltered-log high"}, "the log mine", ""},
		{"an access log with credentials", "log {\noutput discard\n}\nservers {\nlog_credentials\n}", "log {\noutput file /tmp/x.log\n}", []string{"10 unfiltered-log high"}, "Cookie (request>headers>Cookie)", "nothing of this"},
		{"an access log that drops headers and the uri", "log {\noutput discard\n}", "log {\nformat filter {\nrequest>headers delete\nresp_headers delete\nrequest>uri delete\n}\n}", nil, "", ""},
		{"an access log that drops queries only", "log {\noutput discard\n}", "log {\nformat filter {\nrequest>headers delete\nresp_headers delete\nrequest>uri regexp [?].*$ ?\n}\n}", []string{"7 unfiltered-log high"}, "/reset-password/<token> (request>uri)", "?token="},
		{"a log of another site", "log {\noutput discard\n}", "}\nb.example {\nlog {\noutput file /tmp/x.log\n}\nrespond hi\n}\n" + "c.example {", nil, "", ""},
		{"a log of admin requests only", "log {\noutput discard\n}\nlog admin {\ninclude admin.api\n}", "", nil, "", ""},
		{"a log of its own for entries", "log {\noutput discard\n}\nlog entries {\ninclude audit_log.entries\n}", "", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			findings := check(t, "{\n"+c.global+"\n}\n"+fmt.Sprintf(site, c.site))
			var got []string
			for _, f := range findings {
				got = append(got, brief(f))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if len(findings) == 0 {
				return
			}
			last := findings[len(findings)-1].Text
			if !strings.Contains(last, c.shows) || c.hides != "" && strings.Contains(last, c.hides) {
				t.Errorf("%s\nwant %q, not %q", last, c.shows, c.hides)
			}
		})
	}
}

// TestTheExampleIsClean also with what it has as a comment.
func TestTheExampleIsClean(t *testing.T) {
	b, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, config := range []string{text, strings.NewReplacer("# servers {", "servers {", "#\ttrusted", "\ttrusted", "# }", "}").Replace(text)} {
		for _, f := range check(t, config) {
			t.Errorf("line %d: %s", f.Line, f.Text)
		}
	}
}

func TestAFindingInAnImportedFileNamesThatFile(t *testing.T) {
	dir := t.TempDir()
	snippet := filepath.Join(dir, "auth.caddy")
	if err := os.WriteFile(snippet, []byte("# The auth server.\naudit_log /api/auth/*\nreverse_proxy localhost:3000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "Caddyfile")
	findings, err := lint.Caddyfile(main, []byte(quiet+"a.example {\n\timport auth.caddy\n}\n"), lint.Options{})
	if err != nil || len(findings) != 1 || findings[0].File != snippet || findings[0].Line != 2 {
		t.Errorf("%+v, %v", findings, err)
	}
}

func TestASnippetThatIsUsedTwiceIsNamedAtItsOwnLine(t *testing.T) {
	findings := check(t, "(auth) {\n\taudit_log /api/auth/*\n\treverse_proxy localhost:3000\n}\n"+quiet+"a.example {\n\timport auth\n}\nb.example {\n\timport auth\n}\n")
	if len(findings) != 2 || findings[0].Line != 2 || findings[1].Line != 2 || findings[0].Path == findings[1].Path {
		t.Errorf("%+v", findings)
	}
}

func TestJSONIsCheckedTooAndNamesPaths(t *testing.T) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, _, err := adapter.Adapt([]byte(quiet+"&(shared) {\n\treverse_proxy localhost:3000\n}\na.example {\n\taudit_log\n\treverse_proxy localhost:3000\n}\nb.example {\n\tinvoke shared\n}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	findings, err := lint.Check(config, lint.Options{})
	if err != nil || len(findings) != 1 || findings[0].Rule != lint.UnauditedRoute || findings[0].Path != "apps/http/servers/srv0/named_routes/shared/handle/0" || findings[0].Line != 0 {
		t.Errorf("%+v, %v", findings, err)
	}
	if _, err := lint.Check([]byte("{"), lint.Options{}); err == nil {
		t.Error("no error for half a configuration")
	}
}

// TestHandWrittenJSONIsUnderstood has what no Caddyfile makes.
func TestHandWrittenJSONIsUnderstood(t *testing.T) {
	const audited = `{"handler":"audit_log","profile":"better_auth"},{"handler":"reverse_proxy","upstreams":[{"dial":"10.0.0.5:3000"}]}`
	for _, c := range []struct {
		name, routes string
		want         []lint.Rule
	}{
		{"handlers in one route", `[{"handle":[` + audited + `]}]`, nil},
		{"an error route to the same server", `[{"handle":[` + audited + `]}]},"more":{"errors":{"routes":[{"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"10.0.0.5:3000"}]}]}]}`, []lint.Rule{lint.UnauditedRoute}},
		{"a matcher set that everything fits", `[{"match":[{"path":["/x"]},{}],"handle":[` + audited + `]}]`, nil},
		{"nested subroutes", `[{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"audit_log"}]}]},{"handler":"reverse_proxy","upstreams":[{"dial":"10.0.0.5:3000"}]}]}]`, nil},
		{"a handler nobody knows, with the same names otherwise", `[{"handle":[{"handler":"odd","upstreams":"x","routes":3},` + audited + `]}]`, nil},
		{"a way around through handle_response", `[{"handle":[{"handler":"reverse_proxy","rewrite":{"uri":"/verify"},"upstreams":[{"dial":"10.0.0.6:1"}],"handle_response":[{"routes":[{"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"10.0.0.5:3000"}]}]}]}]},` + audited + `]}]`, []lint.Rule{lint.UnauditedRoute}},
	} {
		config := `{"logging":{"logs":{"default":{"writer":{"output":"discard"}}}},"apps":{"http":{"servers":{"s":{"routes":` + c.routes + `}}}}}`
		findings, err := lint.Check([]byte(config), lint.Options{})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got []lint.Rule
		for _, f := range findings {
			got = append(got, f.Rule)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRoutesThatInvokeThemselvesEnd(t *testing.T) {
	loop := `{"handle":[{"handler":"invoke","name":"a"},{"handler":"invoke","name":"a"},{"handler":"audit_log"}]}`
	config := `{"apps":{"http":{"servers":{"s":{"named_routes":{"a":` + loop + `},"routes":[` + loop + `]}}}}}`
	if _, err := lint.Check([]byte(config), lint.Options{}); err != nil {
		t.Error(err)
	}
}

func TestACaddyfileThatCannotBeAdaptedIsAnError(t *testing.T) {
	for _, config := range []string{"a.example {", "a.example {\n\taudit_log {\n\t\tdurabilty fsync\n\t}\n}", "a.example {\n\tno_such_directive\n}"} {
		if _, err := lint.Caddyfile("Caddyfile", []byte(config), lint.Options{}); err == nil {
			t.Errorf("no error for %q", config)
		}
	}
}

// TestTheFilterThatWeBringHidesEveryServersHeaders: from the list in redact, which has those of all profiles.
func TestTheFilterThatWeBringHidesEveryServersHeaders(t *testing.T) {
	requests, answers := redact.SecretHeaders()
	raw, err := os.ReadFile("../log_filter.json")
	if err != nil {
		t.Fatal(err)
	}
	var filter struct {
		Fields map[string]struct{ Filter string }
	}
	if err := json.Unmarshal(raw, &filter); err != nil {
		t.Fatal(err)
	}
	for place, names := range map[string][]string{"request>headers>": requests, "resp_headers>": answers, "headers>": answers} {
		for _, name := range names {
			if filter.Fields[place+name].Filter != "delete" {
				t.Errorf("log_filter.json and Caddyfile.example keep %s%s: add a line that deletes it", place, name)
			}
		}
	}

	example, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(example), "(audit_log_filter) {\n")
	snippet, _, found := strings.Cut(rest, "\n}\n")
	if !found {
		t.Fatal("Caddyfile.example has no snippet")
	}
	names := profile.Names()
	if len(names) < 10 {
		t.Errorf("profiles %q", names)
	}
	for _, name := range names {
		p, err := profile.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range p.Credentials.Headers {
			if !slices.Contains(requests, h) {
				t.Errorf("%s: redact.SecretHeaders does not know the request's %s", name, h)
			}
		}
		for _, h := range p.Credentials.ResponseHeaders {
			if !slices.Contains(answers, h) {
				t.Errorf("%s: redact.SecretHeaders does not know the answer's %s", name, h)
			}
		}
		for _, f := range check(t, "(f) {\n"+snippet+"\n}\n{\nlog {\nlevel DEBUG\nexclude audit_log.entries\nimport f\n}\nservers {\nlog_credentials\n}\n}\na.example {\nlog {\nimport f\n}\naudit_log {\nprofile "+name+"\n}\nreverse_proxy localhost:3000\n}") {
			if f.Rule == lint.UnfilteredLog {
				t.Errorf("%s: %s", name, f.Text)
			}
		}
	}
}
