package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const exampleDir = "../examples/better-auth"

// TestLive drives a real Better Auth server with its official client through
// Caddy, compares every request with what the log holds of it, and then looks for
// every secret of the run where it must not be.
func TestLive(t *testing.T) {
	requireNode(t)
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	server := startBetterAuth(t, base)
	harness.Load(t, liveConfig(t, dir, port, server.Port))

	run := runClient(t, base, server.MailboxPort)
	api := useAPI(t, base)
	run.Canaries = append(run.Canaries, api.secrets...)
	needles := needlesOf(run.Canaries)
	found := search(t, needles, ownFiles(t, dir)) // with the write-ahead log as it is while Caddy runs
	stop(t)
	found = append(found, search(t, needles, ownFiles(t, dir))...)
	found = append(found, searchIn(needles, "API answers", api.answers)...)

	entries := entriesIn(t, database(dir), time.Time{})
	wrong := compareSteps(t, run.Steps, entries, requestSteps(t, filepath.Join(dir, "access.log")))
	if redacted := countRedacted(entries); redacted < 50 {
		t.Errorf("%d entries have a redacted body: too few for the search to mean anything", redacted)
	}
	codes := searchValues(t, run, needles, entries)
	raw, own := rawLog(t, dir)
	found = append(found, searchIn(needles, "lines of the audit log in an unfiltered debug log", own)...)
	control := searchIn(needles, "raw.log", raw)
	if len(control) == 0 {
		t.Error("the search is blind: Caddy's unfiltered debug log must hold secrets, and none were found")
	}
	checkFiltered(t, dir)
	for _, f := range found {
		t.Errorf("secret found: %s", f)
	}
	t.Logf("TestLive: %d requests, %d entries, %d wrong fields; %d secrets in %d spellings: %d found (%d in the unfiltered log, as a control); %d codes: %d found; API calls %d",
		len(run.Steps), len(entries), wrong, len(run.Canaries), len(needles), len(found), len(control), len(run.Codes), codes, api.calls)
}

// The server and the client.

func requireNode(t *testing.T) {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is missing: install Node.js 20 or newer, this test runs a real Better Auth server", name)
		}
	}
	if _, err := os.Stat(filepath.Join(exampleDir, "node_modules", "better-auth")); err == nil {
		return
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts")
	cmd.Dir = exampleDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing Better Auth: %v; run npm ci --ignore-scripts in examples/better-auth, it needs the npm registry once\n%s", err, out)
	}
}

type betterAuth struct {
	Port        int `json:"port"`
	MailboxPort int `json:"mailboxPort"`
}

// startBetterAuth starts the example server.
func startBetterAuth(t *testing.T, base string) betterAuth {
	t.Helper()
	var ready betterAuth
	startNode(t, exampleDir, &ready, "server.mjs", "PORT=0", "MAILBOX_PORT=0", "EXIT_ON_STDIN_CLOSE=1", "BASE_URL="+base)
	return ready
}

// startNode runs a script of dir with more environment, and reads the line of JSON
// that it prints when it is ready into ready. The script ends when its standard input
// does, so even when this process is killed.
func startNode(t *testing.T, dir string, ready any, script string, env ...string) {
	t.Helper()
	cmd := exec.Command("node", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait() // how it ends is of no interest
	})
	if err := json.NewDecoder(stdout).Decode(ready); err != nil {
		_ = stdin.Close()
		_ = cmd.Wait() // its complaints are complete then
		t.Fatalf("%s/%s did not start: %v\n%s", dir, script, err, complaints.String())
	}
}

// liveConfig is a site as the documentation shows it, with Caddy's debug log and
// access log behind the filter, and one more log without it for comparison.
func liveConfig(t *testing.T, dir string, port, upstream int) string {
	t.Helper()
	filter := logFilter(t)
	return fmt.Sprintf(`%[1]s
{
	persist_config off
	grace_period 10s
	log {
		output file %[2]s/debug.log
		level DEBUG
		import audit_log_filter
	}
	log raw {
		output file %[2]s/raw.log
		level DEBUG
	}
	audit_log {
		store sqlite {
			path %[2]s/audit.db
		}
		key_file %[2]s/hash.key
	}
}
http://127.0.0.1:%[3]d {
	log {
		output file %[2]s/access.log
		level DEBUG
		import audit_log_filter
	}
	audit_log {
		rollup off
		capture {
			request_body on
		}
	}
	reverse_proxy 127.0.0.1:%[4]d
}
`, filter, dir, port, upstream)
}

// liveStep is one line of the client's output: a request, and what the log must
// hold of it (see live/README.md).
type liveStep struct {
	N      int            `json:"n"`
	Step   string         `json:"step"`
	Expect map[string]any `json:"expect"`
	// Unlinks is a user whom this request deleted: that user's entries, this one
	// included, have no user any more at the end.
	Unlinks string `json:"unlinks"`
}

type liveRun struct {
	Steps     []liveStep `json:"-"`
	Canaries  []string   `json:"canaries"`
	Codes     []string   `json:"codes"`
	Addresses []string   `json:"addresses"`
	Done      bool       `json:"done"`
	Failures  []any      `json:"failures"`
}

func runClient(t *testing.T, base string, mailbox int) *liveRun {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "client.mjs")
	cmd.Dir = "live"
	cmd.Env = append(os.Environ(), "BASE_URL="+base, fmt.Sprintf("MAILBOX_URL=http://127.0.0.1:%d", mailbox))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, runErr := cmd.Output()
	run := new(liveRun)
	for line := range bytes.Lines(out) {
		if !bytes.HasPrefix(line, []byte(`{"n":`)) {
			if err := json.Unmarshal(line, run); err != nil {
				t.Fatalf("the client's line %s: %v", line, err)
			}
			continue
		}
		var s liveStep
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatalf("the client's line %s: %v", line, err)
		}
		run.Steps = append(run.Steps, s)
	}
	if runErr != nil || !run.Done || len(run.Failures) > 0 {
		t.Errorf("the client and the server disagree through Caddy: %v, failures %v\n%s", runErr, run.Failures, complaints.String())
	}
	if len(run.Steps) < 100 || len(run.Canaries) < 100 {
		t.Fatalf("the client made %d steps with %d secrets: too few to mean anything", len(run.Steps), len(run.Canaries))
	}
	return run
}

// The comparison.

// requestSteps reads from the access log which request id belongs to which step:
// the client numbers its requests, and entries carry Caddy's id of the request.
func requestSteps(t *testing.T, accessLog string) map[string]string {
	t.Helper()
	f, err := os.Open(accessLog)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	steps := map[string]string{}
	for lines := json.NewDecoder(f); ; {
		var line struct {
			UUID    string `json:"uuid"`
			Request struct {
				Headers http.Header `json:"headers"`
			} `json:"request"`
		}
		if err := lines.Decode(&line); err == io.EOF {
			return steps
		} else if err != nil {
			t.Fatalf("the access log is not JSON: %v", err)
		}
		if n := line.Request.Headers.Get("X-Request-Step"); n != "" && line.UUID != "" {
			steps[line.UUID] = n
		}
	}
}

// compareSteps holds every step against the log and prints a line for each field that
// is wrong. It returns how many were.
func compareSteps(t *testing.T, steps []liveStep, entries []storage.Entry, stepOf map[string]string) int {
	t.Helper()
	of := map[string][]*storage.Entry{}
	unlink(steps)
	for i := range entries {
		n := stepOf[metadataOf(t, &entries[i]).RequestID]
		of[n] = append(of[n], &entries[i])
	}
	var table []string
	differ := func(s *liveStep, field string, want, got any) {
		table = append(table, fmt.Sprintf("%4d  %-42s %-15s want %-28v got %v", s.N, s.Step, field, want, got))
	}
	for i := range steps {
		s := &steps[i]
		want := 0
		if s.Expect != nil {
			want = 1
		}
		found := of[fmt.Sprint(s.N)]
		if len(found) != want {
			differ(s, "entries", want, len(found))
		}
		if want == 1 && len(found) == 1 {
			got := fieldsOf(t, found[0])
			for field, value := range s.Expect {
				if got[field] != value {
					differ(s, field, value, got[field])
				}
			}
		}
	}
	if len(table) > 0 {
		t.Errorf("%d wrong fields:\n%s", len(table), strings.Join(table, "\n"))
	}
	return len(table)
}

// unlink takes the users whom the run deletes out of what is expected.
func unlink(steps []liveStep) {
	gone := map[any]bool{}
	for i := range steps {
		if steps[i].Unlinks != "" {
			gone[steps[i].Unlinks] = true
		}
	}
	for i := range steps {
		if s := &steps[i]; s.Expect != nil && gone[s.Expect["userId"]] {
			s.Expect["userId"] = nil
		}
	}
}

// fieldsOf are the fields that the client says something about; nil for one that
// the entry does not have.
func fieldsOf(t *testing.T, e *storage.Entry) map[string]any {
	t.Helper()
	m := metadataOf(t, e)
	fields := map[string]any{}
	for name, value := range map[string]string{
		"action": e.Action, "status": string(e.Status), "userId": e.UserID, "severity": e.Severity.String(), "class": m.Class,
		"identifier": m.Identifier, "targetUserId": m.TargetUserID, "impersonatedBy": m.ImpersonatedBy,
	} {
		fields[name] = nil
		if value != "" {
			fields[name] = value
		}
	}
	return fields
}

// The API.

// apiUse is what a signed-in user got to see of the log.
type apiUse struct {
	t       *testing.T
	base    string
	client  *http.Client
	answers []byte
	secrets []string
	calls   int
}

func (a *apiUse) call(method, path, body string, want int) []byte {
	a.t.Helper()
	r, err := http.NewRequest(method, a.base+"/api/auth"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Origin", a.base)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := a.client.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	out, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		a.t.Errorf("%s %s: %d, want %d (%v)\n%s", method, path, res.StatusCode, want, err, out)
	}
	a.calls++
	if strings.HasPrefix(path, "/audit-log") {
		a.answers = append(a.answers, out...)
	}
	return out
}

func (a *apiUse) list(query string) []storage.Entry {
	a.t.Helper()
	var page struct {
		Entries []storage.Entry `json:"entries"`
	}
	if err := json.Unmarshal(a.call("GET", "/audit-log/list"+query, "", 200), &page); err != nil {
		a.t.Error(err)
	}
	return page.Entries
}

// useAPI signs a user of its own up and in, does what carries secrets, and reads
// the log as that user.
func useAPI(t *testing.T, base string) *apiUse {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &apiUse{t: t, base: base, client: &http.Client{Jar: jar, Timeout: 30 * time.Second}}
	defer a.client.CloseIdleConnections()
	a.secrets = []string{"canary-go-first-71c2e8a9", "canary-go-second-5b0d3f64", "canary-go-wrong-ae9920d1", "canary-go-inserted-0c77d5e2"}
	sign := fmt.Sprintf(`{"name":"Gopher","email":"gopher@example.com","password":%q}`, a.secrets[0])
	var signed struct {
		User struct {
			ID string `json:"id"`
		} `json:"user"`
	}
	a.call("POST", "/sign-up/email", sign, 200)
	if err := json.Unmarshal(a.call("POST", "/sign-in/email", sign, 200), &signed); err != nil || signed.User.ID == "" {
		t.Fatalf("signing in: %v", err)
	}
	change := `{"currentPassword":%q,"newPassword":%q}`
	a.call("POST", "/change-password", fmt.Sprintf(change, a.secrets[2], a.secrets[1]), 400)
	a.call("POST", "/change-password", fmt.Sprintf(change, a.secrets[0], a.secrets[1]), 200)
	a.keepCookies(jar)

	a.call("POST", "/audit-log/insert", fmt.Sprintf(`{"action":"custom:exported","metadata":{"rows":3,"password":%q}}`, a.secrets[3]), 200)
	entries := a.list("")
	var actions []string
	for _, e := range entries {
		actions = append(actions, e.Action+" "+string(e.Status))
		if e.UserID != signed.User.ID {
			t.Errorf("list shows an entry of user %q to user %q", e.UserID, signed.User.ID)
		}
	}
	want := []string{"custom:exported success", "change-password success", "change-password failed", "sign-in:email success", "sign-up:email success"}
	if !slices.Equal(actions, want) {
		t.Errorf("list: %q, want %q", actions, want)
	}
	if len(entries) > 0 {
		var one storage.Entry
		if err := json.Unmarshal(a.call("GET", "/audit-log/"+entries[0].ID, "", 200), &one); err != nil || one.ID != entries[0].ID {
			t.Errorf("get: %v, id %q, want %q", err, one.ID, entries[0].ID)
		}
	}
	a.call("GET", "/audit-log/list?userId=somebody-else", "", 403)
	a.call("GET", "/audit-log/"+storage.NewID(), "", 404)
	a.call("POST", "/audit-log/insert", `{"action":"admin:ban-user"}`, 400)
	if after := a.list(""); len(after) != len(entries) {
		t.Errorf("reading the log made entries in it: %d, then %d", len(entries), len(after))
	}
	return a
}

func (a *apiUse) keepCookies(jar http.CookieJar) {
	u, err := url.Parse(a.base)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, c := range jar.Cookies(u) {
		if strings.Contains(c.Name, "session_token") {
			plain, err := url.PathUnescape(c.Value)
			if err != nil {
				a.t.Fatal(err)
			}
			a.secrets = append(a.secrets, c.Value, plain, strings.Split(plain, ".")[0])
		}
	}
}

// The search.

// needlesOf are the spellings in which a secret could lie somewhere, and the
// secret that each belongs to.
func needlesOf(secrets []string) map[string]string {
	needles := map[string]string{}
	for _, s := range secrets {
		quoted, err := json.Marshal(s)
		if err != nil {
			continue // cannot happen: a string
		}
		spellings := []string{s, url.QueryEscape(s), url.PathEscape(s), strings.Trim(string(quoted), `"`)}
		if plain, err := url.QueryUnescape(s); err == nil {
			spellings = append(spellings, plain)
		}
		if plain, err := url.PathUnescape(s); err == nil {
			spellings = append(spellings, plain)
		}
		for _, spelling := range spellings {
			needles[spelling] = s
		}
	}
	return needles
}

// searchIn returns what it found in text, as lines for a person.
func searchIn(needles map[string]string, where string, text []byte) []string {
	var found []string
	for needle := range needles {
		if at := bytes.Index(text, []byte(needle)); at >= 0 {
			from, to := max(0, at-80), min(len(text), at+len(needle)+20)
			found = append(found, fmt.Sprintf("in %s: %q in ...%q", where, needle, text[from:to]))
		}
	}
	return found
}

// ownFiles are all files of the run but the unfiltered log.
func ownFiles(t *testing.T, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(files(t, dir), func(path string) bool { return filepath.Base(path) == "raw.log" })
}

func search(t *testing.T, needles map[string]string, paths []string) []string {
	t.Helper()
	var found, looked []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		looked = append(looked, fmt.Sprintf("%s (%d)", filepath.Base(path), len(text)))
		found = append(found, searchIn(needles, filepath.Base(path), text)...)
	}
	t.Logf("searched, bytes: %s", strings.Join(looked, ", "))
	return found
}

// rawLog reads the unfiltered debug log, and those of its lines that are ours.
func rawLog(t *testing.T, dir string) (raw, own []byte) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "raw.log"))
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		var line struct {
			Logger string `json:"logger"`
		}
		if err := json.Unmarshal(s.Bytes(), &line); err == nil && strings.Contains(line.Logger, "audit_log") {
			own = append(append(own, s.Bytes()...), '\n')
		}
	}
	return raw, own
}

func countRedacted(entries []storage.Entry) int {
	n := 0
	for _, e := range entries {
		if bytes.Contains(e.Metadata, []byte(`"requestBody":`)) && bytes.Contains(e.Metadata, []byte("[REDACTED]")) {
			n++
		}
	}
	return n
}

// checkFiltered looks whether the filter left what an operator needs.
func checkFiltered(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"debug.log", "access.log"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`/api/auth/reset-password/REDACTED?REDACTED"`, `/api/auth/magic-link/verify?REDACTED"`, `"User-Agent":["caddy-audit-log-live/1"]`} {
			if !bytes.Contains(text, []byte(want)) {
				t.Errorf("%s has no %s: the filter takes away too much, or nothing", name, want)
			}
		}
	}
}

// logFilter is the snippet (audit_log_filter) that Caddyfile.example ships.
func logFilter(t *testing.T) string {
	t.Helper()
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(example), "(audit_log_filter) {\n")
	body, _, ended := strings.Cut(rest, "\n}\n")
	if !found || !ended {
		t.Fatal("Caddyfile.example has no snippet (audit_log_filter)")
	}
	return "(audit_log_filter) {\n" + body + "\n}\n"
}

// searchValues looks for secrets, codes and whole mail addresses in the values of
// the entries' metadata: numbers of six digits occur by chance in ids and hashes.
// It returns how many codes it found.
func searchValues(t *testing.T, run *liveRun, needles map[string]string, entries []storage.Entry) int {
	t.Helper()
	codes := 0
	for i := range entries {
		e := &entries[i]
		var m map[string]any
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			t.Fatal(err)
		}
		for name, value := range m {
			if name == "requestId" || name == "identifierHash" || name == "durationMs" {
				continue
			}
			text := strings.Join(values(value), "\n")
			for _, found := range searchIn(needles, e.Action+" "+name, []byte(text)) {
				t.Errorf("secret found: %s", found)
			}
			for _, code := range run.Codes {
				if strings.Contains(text, code) {
					codes++
					t.Errorf("code %s found in %s of %s: %s", code, name, e.Action, text)
				}
			}
			for _, address := range run.Addresses {
				if name != "requestBody" && address != "" && strings.Contains(text, address) {
					t.Errorf("address %s found in %s of %s: %s", address, name, e.Action, text)
				}
			}
		}
	}
	return codes
}

// values are the leaves of a JSON value, and its names.
func values(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			out = append(append(out, name), values(value)...)
		}
	case []any:
		for _, value := range v {
			out = append(out, values(value)...)
		}
	default:
		out = append(out, fmt.Sprint(v))
	}
	return out
}
