package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Live runs of servers with a real one behind Caddy: each is a table of visits, played
// once with the directive alone, so that the server must be recognised by its traffic,
// and once with the profile pinned and request bodies captured.

// visit is one request and what the log must hold of it. Its texts may name values
// that were kept of earlier answers: {alice.id}.
type visit struct {
	name string
	// request is method and path.
	request string
	// as is whose cookies and token are sent; "" for nobody's.
	as string
	// body is JSON if it begins with { or [, else a form.
	body   string
	header map[string]string
	// answer is the status that the server must give, or the request means something
	// else than we think.
	answer int
	// keep says where the answer has values for later visits, as profile.Source writes
	// it. All of them are secret but those that end in ".id".
	keep map[string]string
	// find and mail find such values by the first group of a pattern: in the answer's
	// body, and in the mail that the server sends upon the request.
	find, mail map[string]string
	// want is the entry that the request must leave; nothing for none.
	want wanted
	// deletes is the user whose entries have no user any more at the end.
	deletes string
}

// wanted are the fields of an entry. What is empty must be empty, but for identifier,
// which is only looked at if given.
type wanted struct{ action, class, status, user, target, identifier string }

var nothing wanted

func success(class, action string) wanted {
	return wanted{action: action, class: class, status: "success"}
}

func failed(class, action string) wanted {
	return wanted{action: action, class: class, status: "failed"}
}

func pending(class, action string) wanted {
	return wanted{action: action, class: class, status: "pending"}
}

func (w wanted) by(user string) wanted          { w.user = user; return w }
func (w wanted) on(target string) wanted        { w.target = target; return w }
func (w wanted) typed(identifier string) wanted { w.identifier = identifier; return w }

// tour is a live run in progress.
type tour struct {
	t    *testing.T
	base string
	// tokenHeader carries a person's token, which visits keep as NAME.token.
	tokenHeader string
	mailbox     *mailbox
	// values are what visits kept, and what they begin with: names, addresses and
	// secrets.
	values map[string]string
	jars   map[string]http.CookieJar
	hidden map[string]bool
	client *http.Client
	made   []made
	// found are the secrets that stood in the database while Caddy ran.
	found []string
}

// made is a visit that was made, with Caddy's id of its request.
type made struct {
	visit
	id     string
	result string
}

// server is what a live run starts: it returns the address to proxy to and the
// values that visits may name.
type server struct {
	profile string
	// title is what Caddy's log calls the server once it is recognised.
	title string
	// options are lines of the directive that the pinned run needs besides the profile.
	options     string
	tokenHeader string
	// start starts it for a site at base. proxy are Caddyfile lines.
	start  func(t *testing.T, base string, m *mailbox) (proxy string, values map[string]string)
	visits []visit
}

// live plays a server's visits in both ways.
func live(t *testing.T, s server) {
	t.Run("recognised", func(t *testing.T) {
		dir := t.TempDir()
		s.play(t, dir, "audit_log {\n\t\trollup off\n\t}")
		checkRecognised(t, dir, s.title)
	})
	t.Run("pinned", func(t *testing.T) {
		dir := t.TempDir()
		entries := s.play(t, dir, "audit_log {\n\t\trollup off\n\t\tprofile "+s.profile+"\n\t\t"+s.options+"\n\t\tcapture {\n\t\t\trequest_body on\n\t\t}\n\t}")
		if countRedacted(entries) < 5 {
			t.Error("too few entries have a redacted body for the search to mean anything")
		}
	})
}

// play makes the visits through a site with a directive, and compares.
func (s *server) play(t *testing.T, dir, directive string) []storage.Entry {
	t.Helper()
	began := time.Now()
	r := s.visitAll(t, dir, directive)
	entries := entriesIn(t, database(dir), time.Time{})
	r.t = t
	wrong := r.compare(entries)
	found := slices.Concat(r.found, r.search(t, dir))
	codes := searchValues(t, &liveRun{Codes: r.codes(), Addresses: r.addresses()}, nil, entries)
	for _, f := range found {
		t.Errorf("secret found: %s", f)
	}
	t.Logf("%s: %d requests, %d entries, %d wrong fields; %d secrets: %d found; %d short codes: %d found; %.1f s",
		t.Name(), len(r.made), len(entries), wrong, len(r.secrets()), len(found), len(r.codes()), codes, time.Since(began).Seconds())
	return entries
}

// search looks for the secrets in the database's files, and for what must be found
// there.
func (r *tour) search(t *testing.T, dir string) []string {
	t.Helper()
	files := databaseFiles(t, dir)
	var ids []string
	for _, m := range r.made {
		if m.want.user != "" {
			ids = append(ids, r.fill(m.want.user))
		}
	}
	if len(search(t, needlesOf(ids), files)) == 0 {
		t.Error("the search is blind: the database must hold users' ids, and none were found")
	}
	return search(t, needlesOf(r.secrets()), files)
}

// visitAll runs server and Caddy for as long as the visits take.
func (s *server) visitAll(t *testing.T, dir, directive string) *tour {
	t.Helper()
	var r *tour
	t.Run("visits", func(t *testing.T) { // both end with the subtest
		harness.Use(t)
		port := harness.FreePort(t)
		r = newTour(t, fmt.Sprintf("http://127.0.0.1:%d", port))
		r.tokenHeader, r.mailbox = s.tokenHeader, newMailbox(t)
		proxy, values := s.start(t, r.base, r.mailbox)
		for name, v := range values {
			r.keepValue(name, v)
		}
		harness.Load(t, harness.Site(dir, port, fmt.Sprintf("\theader %s {http.request.uuid}\n\t%s\n\t%s", requestIDHeader, directive, proxy)))
		for _, v := range s.visits {
			r.make(v)
		}
		r.found = r.search(t, dir) // with the write-ahead log as it is while Caddy runs
	})
	if t.Failed() {
		t.FailNow()
	}
	return r
}

func newTour(t *testing.T, base string) *tour {
	t.Helper()
	return &tour{
		t: t, base: base, values: map[string]string{"base": base}, jars: map[string]http.CookieJar{}, hidden: map[string]bool{},
		client: &http.Client{
			Timeout:       30 * time.Second,
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

var placeholder = regexp.MustCompile(`\{[a-z0-9_]+(\.[a-z0-9_]+)*\}`)

// fill puts values into a text.
func (r *tour) fill(text string) string { return r.fillAs(text, func(v string) string { return v }) }

// fillAs does so in a spelling.
func (r *tour) fillAs(text string, spell func(string) string) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		v, known := r.values[strings.Trim(name, "{}")]
		if !known {
			r.t.Fatalf("%s names a value that no answer had: %q", name, text)
		}
		return spell(v)
	})
}

// make sends one request and keeps what it is asked to.
func (r *tour) make(v visit) {
	r.t.Helper()
	request := r.newRequest(&v)
	mails := r.mailbox.count()
	r.client.Jar = r.jarOf(v.as)
	res, err := r.client.Do(request)
	if err != nil {
		r.t.Fatalf("%s: %v", v.name, err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		r.t.Fatalf("%s: %v", v.name, err)
	}
	if res.StatusCode != v.answer {
		r.t.Fatalf("%s: the server answers %d, want %d (Location %q)\n%s", v.name, res.StatusCode, v.answer, res.Header.Get("Location"), body)
	}
	for _, c := range res.Cookies() {
		r.hide(c.Value)
	}
	r.made = append(r.made, made{visit: v, id: res.Header.Get(requestIDHeader), result: res.Status + " " + res.Header.Get("Location")})
	r.keepOf(&v, &profile.Answer{Status: res.StatusCode, Header: res.Header, Body: body}, mails)
}

func (r *tour) newRequest(v *visit) *http.Request {
	method, path, _ := strings.Cut(r.fill(v.request), " ")
	body, media := r.fillAs(v.body, url.QueryEscape), "application/x-www-form-urlencoded"
	if strings.HasPrefix(v.body, "{") || strings.HasPrefix(v.body, "[") {
		body, media = r.fill(v.body), "application/json"
	}
	request, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatalf("%s: %v", v.name, err)
	}
	if body != "" {
		request.Header.Set("Content-Type", media)
	}
	if token := r.values[v.as+".token"]; token != "" && r.tokenHeader != "" {
		request.Header.Set(r.tokenHeader, token)
	}
	for name, value := range v.header {
		request.Header.Set(name, r.fill(value))
	}
	return request
}

// jarOf is a person's browser; nobody's forgets.
func (r *tour) jarOf(name string) http.CookieJar {
	if name == "" {
		return nil
	}
	if r.jars[name] == nil {
		jar, err := cookiejar.New(nil)
		if err != nil {
			r.t.Fatal(err)
		}
		r.jars[name] = jar
	}
	return r.jars[name]
}

func (r *tour) keepOf(v *visit, a *profile.Answer, mails int) {
	for name, place := range v.keep {
		s, err := profile.NewSource(place)
		if err != nil {
			r.t.Fatal(err)
		}
		value := s.Value(&profile.Exchange{Answer: a})
		if value == "" {
			r.t.Fatalf("%s: the answer has no %s\n%s", v.name, place, a.Body)
		}
		r.keepValue(name, value)
	}
	r.findIn(v, string(a.Body), v.find)
	if len(v.mail) > 0 {
		r.findIn(v, r.mailbox.await(r.t, mails), v.mail)
	}
}

func (r *tour) findIn(v *visit, text string, patterns map[string]string) {
	for name, pattern := range patterns {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if len(m) < 2 {
			r.t.Fatalf("%s: nothing fits %s in\n%s", v.name, pattern, text)
		}
		r.keepValue(name, m[1])
	}
}

// minSecret is the length below which a secret would be found by chance; such codes
// are looked for in the values of entries only.
const minSecret = 8

// hide remembers a value that the log must not hold, and of a JWT its signature too.
func (r *tour) hide(v string) {
	r.hidden[v] = true
	if parts := strings.Split(v, "."); len(parts) == 3 && len(parts[2]) >= 20 {
		r.hidden[parts[2]] = true
	}
}

// keepValue keeps a value for later visits. It is secret unless its name says that it
// is an id.
func (r *tour) keepValue(name, v string) {
	r.values[name] = v
	if !strings.HasSuffix(name, ".id") {
		r.hide(v)
	}
}

// secrets are all values that are to be hidden, but for codes, which are the short
// ones.
func (r *tour) secrets() []string { return r.hiddenOf(minSecret, math.MaxInt) }

func (r *tour) codes() []string { return r.hiddenOf(4, minSecret-1) }

func (r *tour) hiddenOf(shortest, longest int) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.hidden)), func(v string) bool { return len(v) < shortest || len(v) > longest })
}

// addresses are the mail addresses that the visits name.
func (r *tour) addresses() []string {
	found := map[string]bool{}
	for _, m := range r.made {
		for _, a := range regexp.MustCompile(`[a-z0-9]+@example\.test`).FindAllString(strings.ReplaceAll(m.body, "%40", "@"), -1) {
			found[a] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// compare holds every visit against the log and returns how many fields are wrong.
func (r *tour) compare(entries []storage.Entry) int {
	of := map[string][]*storage.Entry{}
	for i := range entries {
		id := metadataOf(r.t, &entries[i]).RequestID
		of[id] = append(of[id], &entries[i])
	}
	gone := r.deleted()
	var table []string
	for i := range r.made {
		m := &r.made[i]
		for _, wrong := range m.differences(r, of[m.id], gone) {
			table = append(table, fmt.Sprintf("%4d  %-50s %s", i+1, m.name, wrong))
		}
		delete(of, m.id)
	}
	for _, extra := range of {
		table = append(table, fmt.Sprintf("      %-50s %s %s", "an entry of no visit", extra[0].Action, extra[0].Metadata))
	}
	if len(table) > 0 {
		r.t.Errorf("%d wrong fields:\n%s", len(table), strings.Join(table, "\n"))
	}
	return len(table)
}

// deleted are the users whom the run has deleted.
func (r *tour) deleted() map[string]bool {
	gone := map[string]bool{}
	for _, m := range r.made {
		if m.deletes != "" {
			gone[r.fill(m.deletes)] = true
		}
	}
	return gone
}

// differences says what is wrong about the entries of a visit.
func (m *made) differences(r *tour, found []*storage.Entry, gone map[string]bool) []string {
	count := 1
	if m.want == nothing {
		count = 0
	}
	if len(found) != count {
		wrong := []string{fmt.Sprintf("want %d entries, got %d (answer %s)", count, len(found), m.result)}
		for _, e := range found {
			wrong = append(wrong, fmt.Sprintf("  such as %s %s", e.Action, e.Metadata))
		}
		return wrong
	}
	if count == 0 {
		return nil
	}
	user := r.fill(m.want.user)
	if gone[user] {
		user = ""
	}
	var wrong []string
	got := fieldsOf(r.t, found[0])
	for field, want := range map[string]string{
		"action": m.want.action, "class": m.want.class, "status": m.want.status, "userId": user,
		"targetUserId": r.fill(m.want.target), "identifier": m.want.identifier,
	} {
		value, _ := got[field].(string)
		if value != want && (field != "identifier" || want != "") {
			wrong = append(wrong, fmt.Sprintf("%-12s want %-28q got %q", field, want, value))
		}
	}
	return wrong
}

// databaseFiles are those of the log.
func databaseFiles(t *testing.T, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(files(t, dir), func(path string) bool { return !strings.HasPrefix(path, database(dir)) })
}

// checkRecognised looks for the one line that says what server was recognised.
func checkRecognised(t *testing.T, dir, title string) {
	t.Helper()
	log, err := os.ReadFile(dir + "/caddy.log")
	if err != nil {
		t.Fatal(err)
	}
	var servers []string
	for line := range strings.Lines(string(log)) {
		var said struct {
			Msg, Server string
			Sure        bool
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "the auth server was recognised" {
			servers = append(servers, cmp.Or(said.Server, "?")+fmt.Sprintf(" sure=%v", said.Sure))
		}
	}
	if want := []string{title + " sure=true"}; !slices.Equal(servers, want) {
		t.Errorf("recognised: %q, want %q", servers, want)
	}
}
