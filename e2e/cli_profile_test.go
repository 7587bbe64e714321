package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// ownProfile is a profile that somebody could have written.
const ownProfile = `{
	"name": "own",
	"title": "A server of our own",
	"base_path": "/auth",
	"recognize": [{"sets_cookie": "own_session"}],
	"session": {"path": "/me", "user": "/id"},
	"credentials": {"cookies": ["own_session"], "response_body": ["/token"]},
	"outcomes": {
		"default": [
			{"status": "2xx,3xx", "outcome": "success"},
			{"outcome": "failed"}
		]
	},
	"routes": [
		{"method": "POST", "path": "/login", "class": "sign-in", "user": ["/user/id"], "identifier": ["email"], "anonymous": true},
		{"method": "POST", "path": "/password", "class": "credential"}
	]
}
`

// write makes a file in dir.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProfilesFromTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	good := write(t, dir, "good.json", ownProfile)
	bad := write(t, dir, "bad.json", strings.Replace(ownProfile, `"class": "credential"`, `"class": "password"`, 1))
	odd := write(t, dir, "odd.json", strings.Replace(ownProfile, `"recognize": [{"sets_cookie": "own_session"}],`, "", 1))
	exchange := func(seq int, path string, status int, body, truth string) string {
		return fmt.Sprintf(`{"server":"own","flow":"f","seq":%d,"request":{"method":"POST","path":%q,"headers":{},"body":""},"response":{"status":%d,"headers":{"Content-Type":["application/json"]},"body":%q},"truth":%s}`+"\n", seq, path, status, body, truth)
	}
	fine := write(t, dir, "fine.jsonl", exchange(1, "/auth/login", 200, `{"user":{"id":"u1"}}`, `{"event":"signin","outcome":"success","user":"u1"}`)+exchange(2, "/auth/login", 401, `{}`, `{"event":"signin","outcome":"failed"}`))
	wrong := write(t, dir, "wrong.jsonl", exchange(1, "/auth/login", 200, `{"error":"no"}`, `{"event":"signin","outcome":"failed"}`))
	unlabelled := write(t, dir, "unlabelled.jsonl", exchange(1, "/auth/login", 200, `{"user":{"id":"u1"}}`, `{}`))
	for _, c := range []struct {
		name      string
		args      []string
		status    int
		out, errs string
	}{
		{"a good one", []string{"check", good}, 0, "own (A server of our own), base path /auth\nroutes: 2 (credential 1, sign-in 1)\nsession endpoint: GET /me\ncredentials: cookies own_session; headers none;", ""},
		{"a builtin one", []string{"check", "better_auth"}, 0, "better_auth (Better Auth), base path /api/auth", ""},
		{"one with a bad line", []string{"check", bad}, 1, "", `line 16: route 2 (POST /password): unknown class \"password\": use one of account,`},
		{"one with a likely mistake", []string{"check", odd}, 0, "warning: it has no recognize", ""},
		{"one that is not there", []string{"check", filepath.Join(dir, "no.json")}, 1, "", "no such file"},
		{"a name that nobody knows", []string{"check", "nobody"}, 1, "", "unknown profile"},
		{"with traffic", []string{"check", good, "--traffic", fine}, 0, "fine          2        0        0       2        2     2     2", ""},
		{"with traffic that it gets wrong", []string{"check", good, "--traffic", fine, "--traffic", wrong}, 3, "wrong    wrong f#1: want failed by nobody, got success by nobody (POST /auth/login -> 200)", "the log would be wrong about what was recorded, 1 times"},
		{"with traffic that says nothing", []string{"check", good, "--traffic", unlabelled}, 0, "unlabelled f#1: POST /auth/login -> 200: login success by u1", ""},
		{"with another base path than that of the recording", []string{"check", good, "--traffic", fine, "--base-path", "/other"}, 3, "fine          0        2", "the log would be wrong about what was recorded, 2 times"},
		{"as auto", []string{"check", "auto", "--traffic", "../testdata/traffic/better-auth/core-auth.jsonl"}, 0, "core-auth: recognised as better_auth (Better Auth), base path /api/auth, by ", ""},
		{"as auto, of which nothing gives a server away", []string{"check", "auto", "--traffic", fine}, 0, "fine: no server was recognised", ""},
		{"with traffic that is not there", []string{"check", good, "--traffic", filepath.Join(dir, "no.jsonl")}, 1, "", "--traffic"},
		{"without a name", []string{"check"}, 2, "", "the command is caddy audit-log profile check"},
		{"with a flag that is none", []string{"check", good, "--trafic", fine}, 2, "", "unknown flag: --trafic"},
		{"with a command that is none", []string{"chek", good}, 2, "", "check, list, show or schema"},
		{"the list", []string{"list"}, 0, "better_auth", ""},
		{"a builtin one's text", []string{"show", "better_auth"}, 0, `"name": "better_auth"`, ""},
		{"a text that is not there", []string{"show", "nobody"}, 1, "", "unknown profile"},
		{"the schema", []string{"schema"}, 0, `"$schema": "https://json-schema.org/draft/2020-12/schema"`, ""},
		{"its help says the exit status", []string{"check", "--help"}, 0, "3 if the log would be wrong about recorded exchanges", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, auditLog(t, "", append([]string{"profile"}, c.args...)...), c.status, c.out, c.errs)
		})
	}
	var facts struct {
		Profile struct{ Name string }
		Scores  []struct{ Name string }
		Misses  []string
	}
	got := auditLog(t, "", "profile", "check", good, "--json", "--traffic", wrong)
	if err := json.Unmarshal([]byte(got.out), &facts); err != nil || got.status != 3 || facts.Profile.Name != "own" || len(facts.Scores) != 2 || len(facts.Misses) != 1 {
		t.Errorf("%v: %d %s", err, got.status, got.out)
	}
	var found struct {
		Recognised []struct {
			Name, Profile, BasePath, By string
			Sure                        bool
		}
	}
	got = auditLog(t, "", "profile", "check", "auto", "--json", "--traffic", "../testdata/traffic/better-auth/core-auth.jsonl", "--traffic", fine)
	if err := json.Unmarshal([]byte(got.out), &found); err != nil || len(found.Recognised) != 2 || found.Recognised[1].Profile != "" {
		t.Fatalf("%v: %d %s", err, got.status, got.out)
	}
	if r := found.Recognised[0]; r.Name != "core-auth" || r.Profile != "better_auth" || r.BasePath != "/api/auth" || r.By == "" || !r.Sure {
		t.Errorf("%+v", r)
	}
	shown := write(t, dir, "shown.json", auditLog(t, "", "profile", "show", "better_auth").out)
	expect(t, auditLog(t, "", "profile", "check", shown), 0, "better_auth (Better Auth)", "")
}

// newServer is an auth server that has more routes than its profile names.
func newServer(t testing.TB) string {
	return harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasPrefix(r.URL.Path, "/api/auth/wallets/"):
			_, _ = io.WriteString(w, `{}`)
		case r.URL.Path == "/api/auth/keys/remove":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/api/auth/get-session":
			_, _ = io.WriteString(w, "null")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
}

func TestCoverageFromTheCommandLine(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	config := site(database(dir), port, newServer(t), "admin "+admin, "profile better_auth")
	cmd := startWithAdmin(t, dir, port, config)
	base := fmt.Sprintf("http://127.0.0.1:%d/api/auth", port)
	expect(t, auditLog(t, "", "coverage", "--address", admin), 0, database(dir)+": the profiles name everything that was asked for and found\n", "")
	for _, id := range []string{"17", "18", "550e8400-e29b-41d4-a716-446655440000"} {
		call(t, http.MethodPost, base+"/wallets/"+id+"/sign?token=x", `{}`)
	}
	call(t, http.MethodPost, base+"/keys/remove", `{}`)
	call(t, http.MethodGet, base+"/wp-login.php", "")
	call(t, http.MethodPost, base+"/sign-in/email", `{}`)
	reload(t, admin, strings.Replace(config, "profile better_auth", "profile better_auth\n\t\tfail open", 1))
	call(t, http.MethodGet, base+"/wallets/AbC123dEf456GhI789jKl", "")

	got := auditLog(t, "", "coverage", "--config", filepath.Join(dir, "Caddyfile"))
	expect(t, got, 0, "3 routes that no profile names", "")
	for _, want := range []string{
		"POST    /api/auth/wallets/:id/sign  3      3          0       0", "GET     /api/auth/wallets/:token    1      1          0       0",
		"POST    /api/auth/keys/remove       1      0          1       0",
		"\n\t" + `{"method":"POST","path":"/wallets/:id/sign","class":"custom"},` + "\n", `{"method":"POST","path":"/keys/remove","class":"custom","timing":"before"}`,
		`{"method":"GET","path":"/wallets/:token","class":"custom","record":"failures"}`, "1 more were always answered with 404 or 405; --all lists them",
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	expect(t, auditLog(t, "", "coverage", "--all", "--address", admin), 0, "/api/auth/wp-login.php", "")
	var answer struct {
		Stores []struct {
			Routes []struct {
				Path       string
				Count      int
				Suggestion struct{ Path string }
			}
		}
	}
	got = auditLog(t, "", "coverage", "--json", "--address", admin)
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || len(answer.Stores) != 1 || len(answer.Stores[0].Routes) != 4 || answer.Stores[0].Routes[0].Count != 3 || answer.Stores[0].Routes[0].Suggestion.Path != "/wallets/:id/sign" {
		t.Errorf("%v: %s", err, got.out)
	}
	if code, _ := call(t, http.MethodPost, "http://"+admin+"/audit-log/coverage", "{}"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST was answered with %d", code)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait()
	expect(t, auditLog(t, "", "coverage", "--address", admin), 1, "", "the list is in the memory of the running Caddy")
}

// TestRecordFromTheCommandLine records a sign-in, and uses the recording.
func TestRecordFromTheCommandLine(t *testing.T) {
	const password, token, mail = "Corr3ct-horse-battery", "tKq83hXz02LmNvB7cRwE", "alice.doe@corp.test"
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/auth/password" && strings.Contains(r.Header.Get("Cookie"), "own_session="+token) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		http.SetCookie(w, &http.Cookie{Name: "own_session", Value: token, Path: "/"})
		_, _ = io.WriteString(w, `{"user":{"id":"u-1","email":"`+mail+`"},"token":"`+token+`"}`)
	}))
	dir, port := t.TempDir(), harness.FreePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	file := filepath.Join(dir, "r.jsonl")
	cmd := exec.Command(harness.Binary(t), "audit-log", "record", "--to", upstream, "--listen", address, "--output", file)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	harness.WaitFor(t, address)
	post := func(path, body, cookie string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if code := post("/auth/login?hint="+mail, `{"email":"`+mail+`","password":"`+password+`"}`, ""); code != http.StatusOK {
		t.Fatal(code)
	}
	if code := post("/auth/password", `{"old_password":"`+password+`","new_password":"n3w"}`, "own_session="+token); code != http.StatusNoContent {
		t.Fatal(code)
	}
	waitForLines(t, file, 2) // the answer is through before its line is written
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	for _, want := range []string{"recording http://" + upstream, "2 exchanges are in " + file, "Read the file before you send it", "1 e-mail addresses", "profile check <profile> --traffic " + file} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, &out)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{password, token, mail, "alice", "n3w"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q stands in %s", secret, text)
		}
	}
	got := auditLog(t, "", "profile", "check", write(t, dir, "own.json", ownProfile), "--traffic", file)
	expect(t, got, 0, "r recording#2: POST /auth/password -> 204: password success by u-1", "")
}

// waitForLines waits until a file has n lines.
func waitForLines(t testing.TB, file string, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(file); err == nil && bytes.Count(b, []byte("\n")) >= n {
			return
		}
	}
	t.Fatalf("%s has not %d lines after 10 s", file, n)
}

func TestRecordSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	there := write(t, dir, "there.jsonl", "")
	for _, c := range []struct {
		name string
		args []string
		errs string
	}{
		{"no server", nil, "--to is required"},
		{"a server that is none", []string{"--to", "ftp://x"}, "--to: bad address"},
		{"everybody by accident", []string{"--to", "localhost:1", "--listen", ":0"}, "say 0.0.0.0:0 if you mean that"},
		{"a size that is none", []string{"--to", "localhost:1", "--max-body", "many"}, "--max-body: bad size"},
		{"a file that is there", []string{"--to", "localhost:1", "--listen", "127.0.0.1:0", "--output", there}, "is there already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, auditLog(t, "", append([]string{"record"}, c.args...)...), 1, "", c.errs)
		})
	}
}
