package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate12Access: nobody gets a byte of an entry that is not theirs, and an entry of
// somebody else is answered as one that is not there (threats.md C1 to C3). Package
// httpapi has the same matrix without a server (access_test.go); here it is SQLite, a
// real Caddy, and an auth server that is asked. What counts, exports and follows shows
// the same entries as the list.
func TestGate12Access(t *testing.T) {
	surfaces, shownBy, leaks := accessOfSurfaces(t)
	g := newAccessGate(t)
	for name, token := range map[string]string{"a stranger": "", "alice": "alice", "bob": "bob", "an administrator": "root"} {
		for class, e := range g.entries {
			for endpoint, request := range g.requests(e.ID, e) {
				g.look(t, name, token, class, endpoint, request)
			}
		}
	}
	shapes, wrong := g.roles(t)
	foreign, missing, n := g.timing(t)
	gates.Print(t, 12, "4 identities x %d ids x 5 endpoints: %d answers, %d foreign bytes, %d shown rightly, %d foreign ones answered as missing ones, %d differ; %d shapes of roles, %d wrong; median of a foreign id %v, of a missing one %v (n=%d); counts, exports and tails: %d answers, %d show what they may, %d foreign bytes",
		len(g.entries), g.answers, g.foreign, g.shown, g.same, g.differ, shapes, wrong, foreign.Round(time.Microsecond), missing.Round(time.Microsecond), n, surfaces, shownBy, leaks)
	if shownBy != surfaces || leaks > 0 {
		t.Error("counts, exports and tails show too little, or too much")
	}
	if apart := (foreign - missing).Abs(); gates.Full() && apart > time.Millisecond {
		t.Errorf("the median times are %v apart, the bound is 1 ms", apart)
	}
	if g.shown != 16 || g.same < 20 || g.foreign+g.differ+wrong > 0 {
		t.Error("the matrix shows too little, or too much")
	}
}

// accessGate is the log of several people behind a running Caddy.
type accessGate struct {
	port    int
	auth    *sessionAuth
	entries map[string]storage.Entry // by class
	cursor  string                   // from a page that only administrators have
	clients int

	answers, foreign, shown, same, differ int
}

// whose are the classes of ids, and who may read them besides administrators.
var whose = map[string]string{
	"alice's": "alice", "bob's": "bob", "an administrator's": "", "nobody's": "", "an attempt on bob's account": "bob",
	"pruned": "", "never there": "", "malformed": "",
}

func newAccessGate(t *testing.T) *accessGate {
	t.Helper()
	harness.Use(t)
	dir := t.TempDir()
	g := &accessGate{port: harness.FreePort(t), auth: &sessionAuth{}, entries: map[string]storage.Entry{}}
	harness.Load(t, anyHost(database(dir), trusting, siteOf(g.port, singly("admins {\n\t\t\trole admin\n\t\t}"), harness.Upstream(t, g.auth))))
	store := harness.OpenStore(t, dir)
	// The recorder makes the attempt, with its own key's hash of the account.
	once(g.port, raw("POST", "/api/auth/sign-in/email", "marker-attempt", jsonType+from(client(1)), `{"email":"bob@example.com","password":"x"}`))
	eachEntry(t, store, func(e *storage.Entry) { g.entries["an attempt on bob's account"] = *e })
	for class, user := range map[string]string{"alice's": "alice", "bob's": "bob", "an administrator's": "root", "nobody's": "", "pruned": "bob", "never there": "bob"} {
		e := storage.Entry{UserID: user, Action: "marker:" + strings.ReplaceAll(storage.NewID(), "-", ""), Status: storage.Success, Severity: severity.Low, IPAddress: "192.0.2.77"}
		if class == "pruned" {
			e.CreatedAt = time.Now().Add(-1000 * time.Hour)
		}
		e.Sanitize()
		g.entries[class] = e
		if class == "never there" {
			continue
		}
		if err := store.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.Prune(t.Context(), time.Now().Add(-time.Hour), 100); err != nil || n != 1 {
		t.Fatalf("pruned %d: %v", n, err)
	}
	page, err := store.List(t.Context(), storage.Query{Limit: 1})
	if err != nil || page.NextCursor == "" {
		t.Fatalf("no second page: %v", err)
	}
	g.cursor = page.NextCursor
	g.entries["malformed"] = storage.Entry{ID: `..%2f%00"`, UserID: "bob", Action: "marker:malformed"}
	return g
}

// requests are the five ways to ask for an entry, by an id or by what else it has.
func (g *accessGate) requests(asked string, e storage.Entry) map[string]string {
	id := fmt.Sprintf("%q", asked)
	return map[string]string{
		"get":                     raw("GET", "/api/auth/audit-log/"+asked, "reader", "%s", ""),
		"get by body":             raw("POST", "/api/auth/audit-log/get-audit-log", "reader", "%s"+jsonType, `{"params":{"id":`+id+`}}`),
		"list of its user":        raw("GET", "/api/auth/audit-log/list?userId="+e.UserID, "reader", "%s", ""),
		"list of everybody":       raw("GET", "/api/auth/audit-log/list?scope=all&q="+strings.TrimPrefix(e.Action, "marker:"), "reader", "%s", ""),
		"an administrator's page": raw("GET", "/api/auth/audit-log/list?cursor="+g.cursor, "reader", "%s", ""),
	}
}

// ask sends a request with a token, from a client of its own.
func (g *accessGate) ask(request, token string) (string, []byte) {
	g.clients++
	head := from(client(100+g.clients)) + bearing(token) + "Origin: http://auth.test\r\n"
	c, err := connect(g.port)
	if err != nil {
		return err.Error(), nil
	}
	defer func() { _ = c.Close() }()
	res, body, err := c.do(strings.Replace(request, "%s", head, 1))
	if err != nil {
		return err.Error(), nil
	}
	res.Header.Del("Date")
	var headers bytes.Buffer
	_ = res.Header.Write(&headers) // memory
	return res.Status + "\n" + headers.String(), body
}

func (g *accessGate) look(t *testing.T, name, token, class, endpoint, request string) {
	t.Helper()
	head, body := g.ask(request, token)
	g.answers++
	for other, e := range g.entries {
		if (token == "root" || token != "" && whose[other] == token) || other == "malformed" {
			continue
		}
		if bytes.Contains(body, []byte(e.Action+`"`)) && other != "an attempt on bob's account" || bytes.Contains(body, []byte(e.ID)) {
			g.foreign++
			t.Errorf("%s asks with %s for %s and is shown %s: %s", name, endpoint, class, other, body)
		}
	}
	if !strings.HasPrefix(endpoint, "get") {
		return
	}
	exists := class != "pruned" && class != "never there" && class != "malformed"
	if exists && (token == "root" || token != "" && whose[class] == token) {
		if !strings.HasPrefix(head, "200") || !bytes.Contains(body, []byte(g.entries[class].ID)) {
			t.Errorf("%s asks with %s for %s and gets %s %s", name, endpoint, class, head, body)
			return
		}
		g.shown++
		return
	}
	if strings.HasPrefix(head, "200") {
		g.differ++
		t.Errorf("%s asks with %s for %s and gets %s %s", name, endpoint, class, head, body)
		return
	}
	if class == "malformed" || class == "never there" {
		return // an answer that says something of the request alone; the comparison's own other side
	}
	missingHead, missing := g.ask(g.requests(storage.NewID(), g.entries[class])[endpoint], token)
	if head != missingHead || !bytes.Equal(body, missing) {
		g.differ++
		t.Errorf("%s asks with %s for %s and gets %s%s, for what is not there %s%s", name, endpoint, class, head, body, missingHead, missing)
		return
	}
	g.same++
}

// accessOfSurfaces asks for what counts, exports and follows, as each identity. right
// answers have the status and the own entry that they should.
func accessOfSurfaces(t *testing.T) (answers, right, leaks int) {
	t.Helper()
	t.Run("surfaces", func(t *testing.T) { // Caddy ends with it
		g := newAccessGate(t)
		for token, own := range map[string]string{"": "", "alice": "alice's", "bob": "bob's", "root": "an administrator's"} {
			for _, target := range []string{
				"access", "histogram?from=2026-01-01&step=86400000000", "histogram?from=2026-01-01&step=8640000000", "tally", "export?format=csv", "export?format=jsonl", "tail",
				"tally?scope=all", "export?format=jsonl&scope=all", "tail?scope=all", "tally?userId=alice", "export?format=csv&userId=bob", "tail?userId=bob", "tally?identifier=bob@example.com", "export?format=jsonl&identifier=bob@example.com",
			} {
				ok, leaked := g.surface(t, token, own, target)
				answers++
				if ok {
					right++
				}
				leaks += leaked
			}
		}
	})
	return answers, right, leaks
}

// surface asks for one.
func (g *accessGate) surface(t *testing.T, token, own, target string) (ok bool, leaked int) {
	t.Helper()
	g.clients++
	head := from(client(20_000+g.clients)) + bearing(token)
	foreign := strings.Contains(target, "scope=all") || strings.Contains(target, "identifier=") || strings.Contains(target, "userId=") && !strings.Contains(target, "userId="+token)
	want := http.StatusOK
	switch {
	case token == "":
		want = http.StatusUnauthorized
	case foreign && token != "root":
		want = http.StatusForbidden
	case strings.HasSuffix(target, "step=86400000000"):
		want = http.StatusBadRequest // longer than a year
	}
	var status int
	var body []byte
	if strings.HasPrefix(target, "tail") {
		status, body = g.tailed(t, token, own, target, head, want)
	} else {
		status, body = once(g.port, raw("GET", "/api/auth/audit-log/"+target, "reader", head, ""))
	}
	for class, e := range g.entries {
		if token != "root" && (token == "" || whose[class] != token) && class != "malformed" && class != "an attempt on bob's account" && bytes.Contains(body, []byte(e.Action)) {
			leaked++
			t.Errorf("%q asks for %s and is shown %s", token, target, class)
		}
	}
	shows := bytes.Contains(body, []byte(g.entries[own].Action))
	counted := strings.HasPrefix(target, "access") || strings.HasPrefix(target, "histogram") || foreign
	if status != want || want == http.StatusOK && !counted && !shows {
		t.Errorf("%q asks for %s: %d %s, want %d", token, target, status, body, want)
		return false, leaked
	}
	return true, leaked
}

// tailed is the status of a tail, and what it shows until the own entry has come.
func (g *accessGate) tailed(t *testing.T, token, own, target, head string, want int) (int, []byte) {
	t.Helper()
	o := tail(t, g.port, "/api/auth/audit-log/"+target, head+"Last-Event-ID: "+storage.EncodeCursor(storage.TimeKey(time.Now()))+"\r\n")
	defer func() { _ = o.Close() }()
	if o.status != http.StatusOK || want != http.StatusOK {
		return o.status, nil
	}
	if strings.Contains(target, "userId=bob") {
		own = "bob's"
	}
	var body []byte
	o.until(t, func(e tailEvent) bool {
		body = append(body, e.data...)
		return strings.Contains(e.data, g.entries[own].Action)
	})
	return o.status, body
}

// roles asks for everybody's entries with sessions whose role the auth server tells in
// many shapes, and with claims that the request makes itself.
func (g *accessGate) roles(t *testing.T) (shapes, wrong int) {
	t.Helper()
	shape := map[string]bool{
		`"admin"`: true, `"user,admin"`: true, `"admin,user"`: true, `["admin"]`: true, `["user","admin"]`: true, `" admin "`: true,
		`"Admin"`: false, `"ADMIN"`: false, `"administrator"`: false, `"superadmin"`: false, `"admin2"`: false, `"not-admin"`: false, `"user"`: false,
		`""`: false, `null`: false, `true`: false, `1`: false, `{"admin":true}`: false, `["Admin"]`: false, `"user;admin"`: false, `"admin\u0000"`: false, ``: false,
	}
	g.auth.roles = map[string]string{}
	ask := func(token, header string, may bool) {
		shapes++
		head, body := g.ask(raw("GET", "/api/auth/audit-log/list?scope=all", "reader", "%s"+header, ""), token)
		if strings.HasPrefix(head, "200") != may {
			wrong++
			t.Errorf("role %s of %s, header %q: %s%s", g.auth.roles[token], token, header, head, body)
		}
	}
	n := 0
	for role, may := range shape {
		n++
		token := fmt.Sprint("shape-", n)
		g.auth.roles[token] = role
		ask(token, "", may)
	}
	ask("root-as-mallory", "", false)
	for _, claim := range []string{"X-Role: admin\r\n", "Role: admin\r\n", "X-Audit-Admin: true\r\n", "X-User-Id: root\r\n", "X-Forwarded-User: root\r\n"} {
		ask("mallory", claim, false)
	}
	return shapes, wrong
}

// timing is the median time of an answer for somebody else's entry and for none.
func (g *accessGate) timing(t *testing.T) (foreign, missing time.Duration, n int) {
	t.Helper()
	n = gates.Figure(200, 2000)
	var times [2][]time.Duration
	for user := 0; len(times[0]) < n; user++ {
		c, err := connect(g.port)
		if err != nil {
			t.Fatal(err)
		}
		head := from(client(5000+user)) + bearing(fmt.Sprint("timing-", user))
		for i := range 50 { // fewer than the limiter allows one user
			id := g.entries["bob's"].ID
			if i%2 == 1 {
				id = storage.NewID()
			}
			began := time.Now()
			res, _, err := c.do(raw("GET", "/api/auth/audit-log/"+id, "reader", head, ""))
			if err != nil || res.StatusCode != http.StatusNotFound {
				t.Fatalf("%v, %v", res, err)
			}
			if i > 1 { // the first asks the auth server
				times[i%2] = append(times[i%2], time.Since(began))
			}
		}
		_ = c.Close()
	}
	return median(times[0]), median(times[1]), n
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
