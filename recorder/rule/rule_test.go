package rule

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func draft() *recorder.Draft {
	return &recorder.Draft{
		Entry: &storage.Entry{
			ID: "01a208c5-7938-73e0-963d-c09078db4b28", UserID: "user-1", Action: "admin:ban-user", Status: storage.Success, Severity: severity.High,
			IPAddress: "203.0.113.7", UserAgent: "curl/8", CreatedAt: time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC),
			Metadata: json.RawMessage(`{"requestId":"r1","statusCode":401,"class":"admin","error":{"code":"NOPE"},"own":"audit-log:stopped","big":12345678901234567890}`),
		},
		Request: recorder.RequestFacts{
			Method: "POST", Path: "/api/auth/admin/ban-user", Host: "auth.example.com", ClientIP: "203.0.113.7",
			Header: http.Header{"Authorization": {"Bearer s3cret-s3cret-s3cret"}, "X-Tenant": {"red", "blue"}, "Cookie": {"sid=abcdef123456"}},
		},
		Identity: recorder.Session{UserID: "user-1", Roles: []string{"admin", "support"}},
	}
}

func compileSkip(t testing.TB, text string) *Rules {
	t.Helper()
	r, err := Compile(Spec{Skip: []Expr{{Text: text}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func compileSet(t testing.TB, pairs ...string) *Rules {
	t.Helper()
	var spec Spec
	for i := 0; i < len(pairs); i += 2 {
		spec.Set = append(spec.Set, SetExpr{Field: pairs[i], Expr: Expr{Text: pairs[i+1]}})
	}
	r, err := Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSkip(t *testing.T) {
	for text, want := range map[string]bool{
		`entry.userId == "service-account"`:                                    false,
		`entry.userId == "user-1"`:                                             true,
		`entry.action.startsWith("admin:") && entry.status == "success"`:       true,
		`entry.severity in ["low", "medium"]`:                                  false,
		`entry.ipAddress == request.clientIp`:                                  true,
		`entry.createdAt > timestamp("2026-01-01T00:00:00Z")`:                  true,
		`entry.createdAt.getFullYear() == 2026`:                                true,
		`entry.class == "admin"`:                                               true,
		`entry.metadata.statusCode == 401`:                                     true,
		`entry.metadata.error.code == "NOPE"`:                                  true,
		`has(entry.metadata.missing) && entry.metadata.missing == 1`:           false,
		`entry.metadata.missing == 1`:                                          false, // fails, and keeps the entry
		`dyn(entry)["met" + "adata"]["requestId"] == "r1"`:                     true,
		`"blue" in request.headers["x-tenant"]`:                                true,
		`request.headers["authorization"][0] == "Bearer s3cret-s3cret-s3cret"`: true,
		`"x-none" in request.headers`:                                          false,
		`request.method == "POST" && request.host.endsWith(".com") && request.path.matches("^/api/.*user$")`: true,
		`"support" in identity.roles && identity.impersonatedBy == ""`:                                       true,
		`identity.roles.exists(r, r.upperAscii() == "ADMIN")`:                                                true,
		`entry.userAgent.lowerAscii().split("/")[0] == "curl"`:                                               true,
	} {
		t.Run(text, func(t *testing.T) {
			r, d := compileSkip(t, text), draft()
			before, _ := json.Marshal(d.Entry)
			if err := r.BeforeLog(context.Background(), d); err != nil {
				t.Fatal(err)
			}
			if d.Skip != want {
				t.Errorf("skip is %v, want %v", d.Skip, want)
			}
			if after, _ := json.Marshal(d.Entry); string(before) != string(after) {
				t.Errorf("the entry has changed: %s", after)
			}
			s := r.Stats()
			if failed := strings.HasPrefix(text, "entry.metadata.missing"); s.Evaluated != 1 || (s.Skipped == 1) != want || (s.Failed == 1) != failed {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestSet(t *testing.T) {
	type test struct {
		name   string
		rules  []string
		want   func(e *storage.Entry) string // "" if it is as it should be
		failed uint64
	}
	field := func(get func(e *storage.Entry) string, want string) func(e *storage.Entry) string {
		return func(e *storage.Entry) string {
			if got := get(e); got != want {
				return fmt.Sprintf("got %s, want %s", got, want)
			}
			return ""
		}
	}
	level := func(e *storage.Entry) string { return e.Severity.String() }
	action := func(e *storage.Entry) string { return e.Action }
	status := func(e *storage.Entry) string { return string(e.Status) }
	member := func(name string) func(e *storage.Entry) string {
		return func(e *storage.Entry) string {
			var m map[string]json.RawMessage
			if err := json.Unmarshal(e.Metadata, &m); err != nil {
				return err.Error()
			}
			return string(m[name])
		}
	}
	for _, c := range []test{
		{"a severity by condition", []string{"severity", `entry.action.startsWith("admin:") ? "critical" : entry.severity`}, field(level, "critical"), 0},
		{"a severity that does not exist", []string{"severity", `"cata" + "strophic"`}, field(level, "high"), 1},
		{"a status", []string{"status", `"failed"`}, field(status, "failed"), 0},
		{"a status that does not exist", []string{"status", `"bro" + "ken"`}, field(status, "success"), 1},
		{"an action", []string{"action", `entry.action.replace("admin:", "staff:")`}, field(action, "staff:ban-user"), 0},
		{"an empty action", []string{"action", `string(entry.metadata.error.code).substring(4)`}, field(action, "admin:ban-user"), 1},
		{"an action of the log's own", []string{"action", `string(entry.metadata.own)`, "status", `"failed"`}, field(action, "admin:ban-user"), 1},
		{"an action of the log's own in another spelling", []string{"action", `"/" + string(entry.metadata.own).upperAscii().replace(":", "/")`}, field(action, "admin:ban-user"), 1},
		{"an address in part", []string{"ipAddress", `entry.ipAddress.split(".")[0] + ".0.0.0"`}, field(func(e *storage.Entry) string { return e.IPAddress }, "203.0.0.0"), 0},
		{"no user agent", []string{"userAgent", `""`}, field(func(e *storage.Entry) string { return e.UserAgent }, ""), 0},
		{"a text member", []string{"metadata.tenant", `request.headers["x-tenant"][0]`}, field(member("tenant"), `"red"`), 0},
		{"a number member", []string{"metadata.n", `1 + 1`}, field(member("n"), `2`), 0},
		{"a list member", []string{"metadata.roles", `identity.roles`}, field(member("roles"), `["admin","support"]`), 0},
		{"a map of one type", []string{"metadata.m", `{"a": [1, 2]}`}, field(member("m"), `{"a":[1,2]}`), 0},
		{"a time member", []string{"metadata.at", `entry.createdAt`}, field(member("at"), `"2026-11-23T14:00:00.000Z"`), 0},
		{"null removes a member", []string{"metadata.error", `null`}, field(member("error"), ""), 0},
		{"a member in place of another", []string{"metadata.class", `"mine"`}, field(member("class"), `"mine"`), 0},
		{"the others keep their bytes", []string{"metadata.class", `"mine"`}, field(member("big"), `12345678901234567890`), 0},
		{"each sees what those before have changed", []string{"metadata.a", `"x"`, "metadata.b", `entry.metadata.a + "y"`, "action", `string(entry.metadata.b)`}, field(action, "xy"), 0},
		{"one that fails does not stop the others", []string{"action", `string(entry.metadata.none)`, "status", `"failed"`}, field(status, "failed"), 1},
		{"a NaN", []string{"metadata.x", `0.0 / 0.0`}, field(member("x"), ""), 1},
		{"a member of a whole entry", []string{"metadata.x", `dyn(entry)["met" + "adata"]["requestId"]`}, field(member("x"), `"r1"`), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, d := compileSet(t, c.rules...), draft()
			held := string(d.Entry.Metadata)
			raw := d.Entry.Metadata
			if err := r.BeforeLog(context.Background(), d); err != nil {
				t.Fatal(err)
			}
			if wrong := c.want(d.Entry); wrong != "" {
				t.Error(wrong)
			}
			if s := r.Stats(); s.Failed != c.failed || d.Skip {
				t.Errorf("%+v, skip %v", s, d.Skip)
			}
			if string(raw) != held {
				t.Error("the old metadata was changed in place")
			}
		})
	}
}

func TestWhatIsNotTypedAlikeIsStoredToo(t *testing.T) {
	r, d := compileSet(t, "metadata.m", `{"a": dyn([dyn(1.5), dyn(true), dyn(null), dyn({"b": duration("90s")})])}`), draft()
	if err := r.BeforeLog(context.Background(), d); err != nil || !strings.Contains(string(d.Entry.Metadata), `"m":{"a":[1.5,true,null,{"b":"1m30s"}]}`) {
		t.Errorf("%s, %v", d.Entry.Metadata, err)
	}
}

func TestASetCannotCopyASecretOfTheRequest(t *testing.T) {
	r, d := compileSet(t,
		"metadata.a", `request.headers["authorization"][0]`,
		"metadata.b", `request.headers`,
		"metadata.c", `request.headers["cookie"][0].substring(4)`,
		"metadata.d", `request.path`,
		"metadata.e", `dyn(request)["hea" + "ders"]`), draft()
	d.Request.Path = "/api/auth/reset-password/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2VjcmV0LXNlY3JldA"
	if err := r.BeforeLog(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"s3cret", "abcdef", "eyJ"} {
		if strings.Contains(string(d.Entry.Metadata), secret) {
			t.Errorf("%s is in %s", secret, d.Entry.Metadata)
		}
	}
	if !strings.Contains(string(d.Entry.Metadata), `"red"`) {
		t.Errorf("what is no secret is gone: %s", d.Entry.Metadata)
	}
}

func TestMistakesAreFoundWhenTheRulesAreCompiled(t *testing.T) {
	for _, c := range []struct {
		field, text string
		want        []string
	}{
		{"", `entry.usrId == "x"`, []string{"Caddyfile:7: skip", "column 6", "undefined field 'usrId'", "entry has id, userId"}},
		{"", `entry.userId == 5`, []string{"Caddyfile:7: skip", "no matching overload"}},
		{"", "entry.userId == \"a\" ||\n  request.hots == \"b\"", []string{"Caddyfile:8: skip", "line 2", "undefined field 'hots'", "request has method"}},
		{"", `entry.userId`, []string{"Caddyfile:7: skip", "string", "must be bool"}},
		{"", `entry.metadata.x`, []string{"dyn", "must be bool"}},
		{"", `entry.userId ==`, []string{"Caddyfile:7: skip", "Syntax error"}},
		{"", ``, []string{"Caddyfile:7: skip"}},
		{"", `user.id == "x"`, []string{"undeclared reference to 'user'"}},
		{"", `"` + strings.Repeat("x", MaxExpression) + `" == ""`, []string{"Caddyfile:7: skip", "size"}},
		{"severity", `entry.metadata.statusCode`, []string{"Caddyfile:7: set severity", "must be string"}},
		{"severity", `1`, []string{"int", "must be string"}},
		{"severity", `"urgent"`, []string{"Caddyfile:7: set severity", `"urgent"`, "use low, medium, high or critical"}},
		{"severity", `entry.userId == "" ? "low" : entry.status == "failed" ? "urgent" : entry.severity`, []string{`"urgent"`, "use low"}},
		{"status", `"ok"`, []string{"Caddyfile:7: set status", `"ok"`, "use success, failed, pending or unknown"}},
		{"action", `""`, []string{"Caddyfile:7: set action", "an entry needs an action"}},
		{"action", `"audit-log:stopped"`, []string{"Caddyfile:7: set action", "the log's own"}},
		{"id", `"x"`, []string{`no field "id"`, "severity, status, action, ipAddress, userAgent or metadata.<name>"}},
		{"userId", `"x"`, []string{`no field "userId"`}},
		{"metadata", `"x"`, []string{`no field "metadata"`}},
		{"metadata.a.b", `"x"`, []string{`no field "metadata.a.b"`}},
		{"metadata.", `"x"`, []string{`no field "metadata."`}},
		{"metadata.x", `entry`, []string{"which JSON cannot hold"}},
		{"metadata.x", `type(1)`, []string{"which JSON cannot hold"}},
		{"metadata.x", `b"abc"`, []string{"which JSON cannot hold"}},
		{"action", `entry.action.replace("a", entry.userAgent)`, []string{"second argument", "quotes"}},
		{"action", `entry.action.replace("a", "aaaaaaaaaa").replace("a", "aaaaaaaaaa")`, []string{"64 times"}},
		{"action", `["a"].join(entry.userAgent)`, []string{"at most 16 characters"}},
		{"action", `entry.userAgent.format([1])`, []string{"pattern"}},
	} {
		t.Run(c.field+" "+c.text[:min(40, len(c.text))], func(t *testing.T) {
			e, spec := Expr{Text: c.text, File: "Caddyfile", Line: 7}, Spec{}
			if c.field == "" {
				spec.Skip = []Expr{e}
			} else {
				spec.Set = []SetExpr{{Field: c.field, Expr: e}}
			}
			_, err := Compile(spec)
			if err == nil {
				t.Fatal("it compiled")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "rule.") {
				t.Errorf("%q shows a name of ours", err)
			}
		})
	}
}

func TestAnExpressionIsBounded(t *testing.T) {
	r := compileSkip(t, `entry.metadata.l.all(a, entry.metadata.l.all(b, entry.metadata.l.all(c, a + b + c >= 0)))`)
	d := draft()
	d.Entry.Metadata = json.RawMessage(`{"l":[` + strings.Repeat("1,", 5000) + `1]}`)
	began := time.Now()
	if err := r.BeforeLog(context.Background(), d); err != nil || d.Skip || r.Stats().Failed != 1 {
		t.Errorf("%v, %v, %+v", err, d.Skip, r.Stats())
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestANumberCostsNoOtherMember: whoever writes 1e400 into a body must not blind the rules.
func TestANumberCostsNoOtherMember(t *testing.T) {
	e := draft()
	e.Entry.Metadata = json.RawMessage(`{"class":"admin","requestBody":{"n":1e400,"m":[-1e400,2]},"targetUserId":"x"}`)
	for text, want := range map[string]bool{
		`!has(entry.metadata.targetUserId)`:       false,
		`entry.metadata.targetUserId == "x"`:      true,
		`entry.metadata.requestBody.m[1] == 2.0`:  true,
		`has(entry.metadata.requestBody.missing)`: false,
	} {
		if err := compileSkip(t, text).BeforeLog(t.Context(), e); err != nil {
			t.Error(err)
		}
		if e.Skip != want {
			t.Errorf("%s: skip is %v, want %v", text, e.Skip, want)
		}
		e.Skip = false
	}
}

func TestWhatIsNotMentionedIsNotParsed(t *testing.T) {
	for text, want := range map[string]needs{
		`entry.userId == "x"`:                                      {},
		`entry.metadata.x == 1`:                                    {metadata: true},
		`has(entry.metadata.x)`:                                    {metadata: true},
		`entry.class == "x"`:                                       {class: true},
		`entry == entry`:                                           {metadata: true, class: true},
		`request.path == "x" && identity.userId == ""`:             {},
		`"x" in request.headers`:                                   {headers: true},
		`[1].all(x, entry.userId == "" || "x" in request.headers)`: {headers: true},
	} {
		if got := compileSkip(t, text).skip[0].needs; got != want {
			t.Errorf("%s needs %+v, want %+v", text, got, want)
		}
	}
}

func TestAFailureIsLoggedOnceASecondWithoutSecrets(t *testing.T) {
	var out strings.Builder
	r, err := Compile(Spec{
		Skip:   []Expr{{Text: `int(request.headers["authorization"][0].substring(0)) == 1`, File: "Caddyfile", Line: 3}},
		Logger: slog.New(slog.NewTextHandler(&out, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_ = r.BeforeLog(context.Background(), draft())
	}
	if s := out.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "Caddyfile:3: skip") || strings.Contains(s, "s3cret") {
		t.Errorf("%s", s)
	}
	if got := r.Stats().Failed; got != 5 {
		t.Errorf("%d failed", got)
	}
}

func TestARuleThatFailsDoesNotHideThatAnotherDoes(t *testing.T) {
	var out strings.Builder
	r, err := Compile(Spec{
		Set: []SetExpr{
			{Field: "metadata.none", Expr: Expr{Text: `request.headers["x-none"][0]`}},
			{Field: "severity", Expr: Expr{Text: `entry.action`}},
		},
		Logger: slog.New(slog.NewTextHandler(&out, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n := r.BeforeLogParts(t.Context(), draft()); n != 2 {
			t.Errorf("%d failed", n)
		}
	}
	if s := out.String(); strings.Count(s, "\n") != 2 || !strings.Contains(s, "set metadata.none") || !strings.Contains(s, "set severity") {
		t.Errorf("%s", s)
	}
}

// TestTheAdviceOfAFailureCanBeFollowed takes the expressions out of the log line.
func TestTheAdviceOfAFailureCanBeFollowed(t *testing.T) {
	var out strings.Builder
	r := compileSkip(t, `request.headers["x-none"][0] == "x"`)
	r.log = slog.New(slog.NewTextHandler(&out, nil))
	r.BeforeLogParts(t.Context(), draft())
	for _, advice := range []string{`"x-tenant" in request.headers`, `has(entry.metadata.tenant)`} {
		if !strings.Contains(strings.ReplaceAll(out.String(), `\"`, `"`), advice) {
			t.Errorf("%q does not say %s", out.String(), advice)
		}
		for _, bare := range []*recorder.Draft{draft(), {Entry: &storage.Entry{Action: "x"}}} {
			if n := compileSkip(t, advice).BeforeLogParts(t.Context(), bare); n != 0 {
				t.Errorf("%s failed", advice)
			}
		}
	}
}

func FuzzExpressions(f *testing.F) {
	for _, seed := range []string{
		`entry.userId == "service-account"`, `entry.action.startsWith("admin:") ? "critical" : entry.severity`, `entry.metadata.error.code`,
		`request.headers["x-tenant"][0].split(",").map(s, s.trim()).join("-")`, `identity.roles.filter(r, r.matches("^a.*"))`,
		`"%s %d".format([entry.action, 5])`, `timestamp(0) + duration("1h")`, `{"a": [1, 2.5, null]}`, `dyn(entry)["metadata"]["big"] / 0`,
		`entry.userAgent.replace("c", "dd").reverse().charAt(1)`, `-9223372036854775808 / -1`, `has(entry.metadata.x) || [][0]`, `type(entry)`,
		`optional.of(1)`, "entry.`metadata`", `rule.entryView{}`, `size(entry.metadata) > 2u`, `entry.createdAt.getHours("Europe/Berlin")`,
	} {
		f.Add(seed)
	}
	fields := []string{"severity", "status", "action", "ipAddress", "userAgent", "metadata.x"}
	f.Fuzz(func(t *testing.T, text string) {
		specs := []Spec{{Skip: []Expr{{Text: text}}}}
		for _, field := range fields {
			specs = append(specs, Spec{Set: []SetExpr{{Field: field, Expr: Expr{Text: text}}}})
		}
		for _, spec := range specs {
			r, err := Compile(spec)
			if err != nil {
				continue
			}
			d := draft()
			if err := r.BeforeLog(context.Background(), d); err != nil {
				t.Fatal(err)
			}
			if !json.Valid(d.Entry.Metadata) || !d.Entry.Status.Valid() || d.Entry.Action == "" || d.Entry.Severity > severity.Critical {
				t.Fatalf("%s made %+v", text, d.Entry)
			}
		}
	})
}

func BenchmarkBeforeLog(b *testing.B) {
	for name, r := range map[string]*Rules{
		"skip, a field":  compileSkip(b, `entry.userId == "service-account"`),
		"skip, metadata": compileSkip(b, `entry.metadata.requestId == "none"`),
		"skip, headers":  compileSkip(b, `"x-none" in request.headers`),
		"set severity":   compileSet(b, "severity", `entry.action.startsWith("admin:") ? "critical" : entry.severity`),
		"set metadata":   compileSet(b, "metadata.tenant", `request.headers["x-tenant"][0]`),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			d := draft()
			entry := *d.Entry
			for b.Loop() {
				*d.Entry = entry
				_ = r.BeforeLog(context.Background(), d)
			}
		})
	}
}
