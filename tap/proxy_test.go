package tap

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// The secrets and persons of the synthetic server.
const (
	plantedPassword = "Corr3ct horse & battery"
	plantedToken    = "tKq83hXz02LmNvB7cRwE"
	plantedSig      = "c2lnbmF0dXJl+b2YvdGhl="
	plantedCode     = "au7h-c0de-4711"
	plantedCSRF     = "csrf9f8e7d"
	plantedUser     = "0f8fad5b-d9cb-469f-a165-70867728950e"
	plantedMail     = "alice.doe@corp.test"
	plantedOTP      = "493021"
	plantedSecret   = "JBSWY3DPEHPK3PXP"
)

// planted must not stand in a recording in any form.
var planted = []string{
	plantedPassword, "Corr3ct", plantedToken, plantedSig, "c2lnbmF0dXJl", plantedCode, "au7h", plantedCSRF, plantedUser, plantedMail, "alice", "Alice",
	plantedOTP, plantedSecret,
}

// synthetic is an auth server that nobody knows.
func synthetic() http.Handler {
	mux := http.NewServeMux()
	cookie := "sid=" + plantedToken + "." + strings.NewReplacer("+", "%2B", "=", "%3D").Replace(plantedSig)
	mux.HandleFunc("GET /auth/login", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<html><title>Sign in</title><form><input type=hidden name="csrf_token" value="%s"><input name="email"></form><script>var c="%[1]s"</script></html>`, plantedCSRF)
	})
	mux.HandleFunc("POST /auth/login", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("password") != plantedPassword {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"code":"invalid_credentials","message":"wrong password for `+r.FormValue("email")+`"}`)
			return
		}
		w.Header().Add("Set-Cookie", cookie+"; Path=/; HttpOnly")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, `{"user":{"id":"`+plantedUser+`","email":"`+plantedMail+`","name":"Alice Doe"},"token":"`+plantedToken+`"}`)
		_ = z.Close()
	})
	mux.HandleFunc("POST /auth/password", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Cookie"), cookie) {
			w.WriteHeader(401)
			return
		}
		w.WriteHeader(204)
	})
	mux.HandleFunc("GET /auth/authorize", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/auth/callback?code="+plantedCode+"&state="+r.FormValue("state"))
		w.WriteHeader(302)
	})
	mux.HandleFunc("POST /auth/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id_token":"`+fakeToken(`{"sub":"`+plantedUser+`","email":"`+plantedMail+`","given_name":"Alice"}`)+`","otp":`+plantedOTP+`}`)
	})
	mux.HandleFunc("GET /auth/totp/"+plantedSecret, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		_, _ = io.WriteString(w, "\x89PNG otpauth://totp/x?secret="+plantedSecret)
	})
	mux.HandleFunc("GET /auth/origin", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host+" "+r.Header.Get("Origin")+" "+r.Header.Get("Referer")+" "+r.Header.Get("X-Forwarded-For"))
	})
	return mux
}

// record records what a client does, and returns the file.
func record(t *testing.T, server http.Handler, keep bool, client func(base, upstream string)) string {
	t.Helper()
	return recordInto(t, server, keep, slog.New(slog.DiscardHandler), client)
}

// recordInto is record with a log.
func recordInto(t *testing.T, server http.Handler, keep bool, log *slog.Logger, client func(base, upstream string)) string {
	t.Helper()
	upstream := httptest.NewServer(server)
	defer upstream.Close()
	to, err := ParseTarget(strings.TrimPrefix(upstream.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.jsonl")
	file, err := Create(path, "synthetic", scrubber(t, keep))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewProxy(to, file, 4096, log).Serve(ctx, l) }()
	client("http://"+l.Addr().String(), upstream.URL)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// send sends one request, and returns status, headers and body.
func send(t *testing.T, method, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// visit does with the synthetic server what somebody would.
func visit(t *testing.T, base, upstream string) {
	const form = "application/x-www-form-urlencoded"
	session := "sid=" + plantedToken + "." + strings.NewReplacer("+", "%2B", "=", "%3D").Replace(plantedSig)
	send(t, "GET", base+"/auth/login", "")
	send(t, "POST", base+"/auth/login", "email="+plantedMail+"&password=wrong&csrf_token="+plantedCSRF, "Content-Type", form)
	status, _, body := send(t, "POST", base+"/auth/login", "email=alice.doe%40corp.test&password=Corr3ct+horse+%26+battery&csrf_token="+plantedCSRF, "Content-Type", form)
	if status != 200 || !strings.Contains(body, plantedToken) {
		t.Fatalf("the client got %d %q", status, body)
	}
	send(t, "POST", base+"/auth/password", `{"current_password":"`+plantedPassword+`","new_password":"N3w horse battery"}`, "Content-Type", "application/json", "Cookie", session)
	_, h, _ := send(t, "GET", base+"/auth/authorize?state=st4te-of-the-client-1&login_hint="+plantedMail, "", "Cookie", session)
	if l := h.Get("Location"); l != base+"/auth/callback?code="+plantedCode+"&state=st4te-of-the-client-1" {
		t.Errorf("the client was sent to %s", l)
	}
	send(t, "POST", base+"/auth/token", `grant_type=authorization_code&code=`+plantedCode, "Content-Type", form, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("app:"+plantedPassword)))
	send(t, "GET", base+"/auth/totp/"+plantedSecret, "")
	send(t, "POST", base+"/auth/otp?x="+plantedToken, strings.Repeat("x", 5000), "Content-Type", form)
	_, _, body = send(t, "GET", base+"/auth/origin", "", "Origin", base, "Referer", base+"/auth/login?code="+plantedCode)
	if host := strings.TrimPrefix(upstream, "http://"); body != host+" "+upstream+" "+upstream+"/auth/login?code="+plantedCode+" " {
		t.Errorf("the server saw %q", body)
	}
}

// ownProfile is what somebody would write for the synthetic server.
const ownProfile = `{
	"name": "synthetic", "base_path": "/auth",
	"credentials": {"cookies": ["sid"], "response_body": ["/token"]},
	"outcomes": {"default": [{"status": "2xx,3xx", "outcome": "success"}, {"outcome": "failed"}]},
	"routes": [
		{"method": "POST", "path": "/login", "class": "sign-in", "user": ["/user/id"], "identifier": ["email"], "anonymous": true},
		{"method": "GET", "path": "/login", "class": "sign-in", "record": "failures"},
		{"method": "POST", "path": "/password", "class": "credential"},
		{"method": "GET", "path": "/authorize", "class": "token", "flow": ["query:state", "header:Location?code"]},
		{"method": "POST", "path": "/token", "class": "token", "anonymous": true, "user": ["/id_token#/sub"], "flow": ["request:/code"]}
	]
}`

func TestARecordingHasNoSecretsAndCanBeReplayed(t *testing.T) {
	path := record(t, synthetic(), false, func(base, upstream string) { visit(t, base, upstream) })
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range planted {
		for _, spelling := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			if at := strings.Index(string(text), spelling); at >= 0 {
				t.Errorf("%q stands in the recording: %s", spelling, text[max(0, at-80):min(len(text), at+80)])
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("files are left: %v, %v", names, err)
	}
	files, err := replay.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Parse([]byte(ownProfile))
	if err != nil {
		t.Fatal(err)
	}
	checkJoins(t, files[0], p)
}

// checkJoins replays the recording: the user of the sign-in is who acts afterwards,
// and its other secrets are the same where they were the same.
func checkJoins(t *testing.T, f *replay.File, p *profile.Profile) {
	t.Helper()
	if len(f.Exchanges) != 9 {
		t.Fatalf("%d exchanges", len(f.Exchanges))
	}
	entries, err := replay.Run(f, replay.Options{Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	signIn := f.Exchanges[2]
	user := profile.LookupString([]byte(signIn.Response.Body), "/user/id")
	if user == "" || user == plantedUser {
		t.Fatalf("%s", signIn.Response.Body)
	}
	for i, want := range []string{"", "login failed by nobody", "login success by " + user, "password success by " + user, "authorize success by " + user, "token success by " + user} {
		if got := replay.Describe(f.Exchanges[i], entries[f.Exchanges[i]]); !strings.HasSuffix(got, want) || i > 0 && len(entries[f.Exchanges[i]]) != 1 {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for i, x := range f.Exchanges {
		if x.Seq != i+1 || x.Labelled() {
			t.Errorf("%+v", x)
		}
	}
	if got := http.Header(signIn.Response.Headers); got.Get("Content-Encoding") != "gzip" || len(signIn.Response.BodyB64) == 0 {
		t.Errorf("the encoding is not kept: %v", got)
	}
	page := f.Exchanges[0].Response.Body
	csrf := page[strings.Index(page, `value="`)+7:]
	csrf = csrf[:strings.IndexByte(csrf, '"')]
	if !strings.HasPrefix(csrf, placeholder) || strings.Count(page, csrf) != 2 || !strings.HasSuffix(f.Exchanges[1].Request.Body, "csrf_token="+csrf) {
		t.Errorf("%s\n%s", page, f.Exchanges[1].Request.Body)
	}
	if body := f.Exchanges[1].Response.Body; body != `{"code":"invalid_credentials","message":"wrong password for user1@example.com"}` {
		t.Errorf("%s", body)
	}
	if body := f.Exchanges[6].Response.Body; !strings.Contains(body, "bytes are left out: image/png") {
		t.Errorf("%s", body)
	}
	if body := f.Exchanges[7].Request.Body; body != "[5000 bytes are left out: longer than --max-body]" {
		t.Errorf("%s", body)
	}
}

// TestTheFormatIsThatOfOtherRecordings compares the members with testdata's.
func TestTheFormatIsThatOfOtherRecordings(t *testing.T) {
	path := record(t, synthetic(), true, func(base, upstream string) { visit(t, base, upstream) })
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	var got struct {
		Server, Flow      string
		Seq               int
		Request, Response map[string]any
		Truth             *struct{}
	}
	d := json.NewDecoder(strings.NewReader(first))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil || got.Server != "synthetic" || got.Truth == nil || got.Request["method"] != "GET" || got.Response["status"] != 200.0 {
		t.Errorf("%v: %s", err, first)
	}
	if !strings.Contains(string(text), plantedToken) || strings.Contains(string(text), "Corr3ct") {
		t.Error("--keep-secrets keeps tokens, and no passwords")
	}
}

// TestTheServerSeesTheRequestAsItWasSent: what a proxy tidies up nobody learns from.
func TestTheServerSeesTheRequestAsItWasSent(t *testing.T) {
	const target = "//auth/%2e%2e/./Login;a=b%2Fc?x=%zz&y;z&&w"
	var seen string
	path := record(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.RequestURI }), false, func(base, _ string) {
		c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
	})
	files, err := replay.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := files[0].Exchanges[0].Request.Path; seen != target || got != target {
		t.Errorf("sent %s, the server saw %s, recorded %s", target, seen, got)
	}
}

func TestAddressesAreReadAsTheyAreMeant(t *testing.T) {
	for text, want := range map[string]string{
		"localhost:3000": "http://localhost:3000", ":3000": "http://localhost:3000", "https://auth.test/": "https://auth.test", "http://[::1]:80": "http://[::1]:80",
		"ftp://x": "", "http://x/path": "", "http://u:p@x": "", "": "",
	} {
		u, err := ParseTarget(text)
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("%q: %v, %v", text, u, err)
		}
	}
	for text, want := range map[string][2]bool{
		"127.0.0.1:8088": {true, false}, "localhost:0": {true, false}, "[::1]:1": {true, false}, "0.0.0.0:8088": {true, true}, "192.0.2.1:80": {true, true},
		":8088": {false, false}, "8088": {false, false}, "example.com:80": {false, false},
	} {
		_, open, err := ListenAddress(text)
		if (err == nil) != want[0] || open != want[1] {
			t.Errorf("%q: open %v, %v", text, open, err)
		}
	}
}

func TestAServerThatDoesNotAnswerIsSaidSo(t *testing.T) {
	to, err := ParseTarget("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.jsonl")
	file, err := Create(path, "x", scrubber(t, false))
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	w := httptest.NewRecorder()
	NewProxy(to, file, 100, slog.New(slog.NewTextHandler(&log, nil))).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 502 || !strings.Contains(log.String(), "is it running?") || file.Len() != 0 {
		t.Errorf("%d, %s, %d exchanges", w.Code, &log, file.Len())
	}
	if _, err := Create(path, "x", scrubber(t, false)); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
	file.Add(&replay.Exchange{})
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// TestWhatBreaksOffIsNotRecordedAsWhole: the server dies in the middle of an answer, or the
// client leaves. Without any answer there is nothing to record.
func TestWhatBreaksOffIsNotRecordedAsWhole(t *testing.T) {
	var log bytes.Buffer
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/dies":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half of it")
			_ = http.NewResponseController(w).Flush() // what goes wrong shows below
			panic(http.ErrAbortHandler)
		case "/silent":
			panic(http.ErrAbortHandler)
		case "/slow":
			_, _ = io.WriteString(w, "half of it")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	path := recordInto(t, server, false, slog.New(slog.NewTextHandler(&log, nil)), func(base, _ string) {
		for _, path := range []string{"/dies", "/silent", "/slow"} {
			c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
	files, err := replay.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, x := range files[0].Exchanges {
		got[x.Request.Path] = x.Response.Body
	}
	if broken := "[10 bytes are left out: it broke off]"; len(got) != 2 || got["/dies"] != broken || got["/slow"] != broken {
		t.Errorf("%q", got)
	}
	half := body{limit: 100}
	if _, err := half.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	for length, want := range map[string]string{"9": "[4 bytes are left out: it broke off]", "": "[4 bytes are left out: it broke off]", "4": "half"} {
		if got := half.text(http.Header{"Content-Length": {length}}); got != want {
			t.Errorf("of %s bytes: %q", length, got)
		}
	}
	if !strings.Contains(log.String(), "requests without an answer are not in the recording\" requests=1") {
		t.Error(log.String())
	}
}

func TestEncodingsAreUndoneAndDone(t *testing.T) {
	plain := []byte(strings.Repeat("hello ", 100))
	for _, encoding := range []string{"gzip", "deflate", "br", "zstd"} {
		wire, ok := encode(encoding, plain)
		back, ok2 := decode(encoding, wire, 1000)
		if !ok || !ok2 || !slices.Equal(back, plain) {
			t.Errorf("%s: %v, %v, %q", encoding, ok, ok2, back)
		}
		if _, ok := decode(encoding, wire, 10); ok {
			t.Errorf("%s: more than the limit", encoding)
		}
		if _, ok := decode(encoding, []byte("nonsense"), 1000); ok {
			t.Errorf("%s: nonsense was read", encoding)
		}
	}
	if _, ok := decode("compress", plain, 1000); ok {
		t.Error("an unknown encoding was read")
	}
}
