package recorder_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// heard keeps the final entries of one exchange.
type heard struct{ entries []storage.Entry }

func (h *heard) EntryWritten(e storage.Entry)           { h.entries = append(h.entries, e) }
func (h *heard) WriteFailed(_ error, _ []storage.Entry) {}

// fuzzRoutes are requests that are recorded always.
var fuzzRoutes = []struct{ profile, method, target string }{
	{"better_auth", "POST", "/api/auth/sign-in/email"}, {"better_auth", "POST", "/api/auth/delete-user"}, {"better_auth", "POST", "/api/auth/admin/ban-user"},
	{"better_auth", "POST", "/api/auth/admin/impersonate-user"}, {"better_auth", "GET", "/api/auth/reset-password/AbC123dEf456GhI789jKl?callbackURL=%2F"},
	{"better_auth", "POST", "/api/auth/nobody/knows/8sbERK1x1WXmHo5OxKDH6Kyf"}, {"better_auth", "POST", "/x/../api/auth//sign-out"},
	{"authelia", "POST", "/api/firstfactor"}, {"casdoor", "POST", "/api/login?x"}, {"zitadel", "POST", "/v2/users/human"}, {"hydra", "POST", "/oauth2/token"},
}

// fuzzRecorder is a recorder of one profile whose server knows everybody.
func fuzzRecorder(f *testing.F, name string, h *heard) *recorder.Recorder {
	f.Helper()
	p, err := profile.Builtin(name)
	must(f, err)
	key := make([]byte, 32)
	sessions, err := recorder.NewSessions(p, key)
	must(f, err)
	redactor, err := redact.New(redact.Options{Key: key, AddFields: p.Secrets})
	must(f, err)
	w := recorder.NewWriter(memory.New(16), quiet)
	f.Cleanup(func() { must(f, w.Close(f.Context())) })
	rec, err := recorder.New(recorder.Options{
		Profile: p, Sessions: sessions, Writer: w, Redactor: redactor, Logger: quiet, Observer: h, KeepUsers: true,
		Capture: recorder.Capture{IPAddress: true, UserAgent: true, RequestBody: true}, Coverage: new(recorder.Coverage),
	})
	must(f, err)
	return rec
}

// FuzzExchange: whatever a client and a server send, there is one entry of it, which
// every store takes, and the client gets what the server has sent.
func FuzzExchange(f *testing.F) {
	h := new(heard)
	recorders := make(map[string]*recorder.Recorder)
	for _, r := range fuzzRoutes {
		if recorders[r.profile] == nil {
			recorders[r.profile] = fuzzRecorder(f, r.profile, h)
		}
	}
	long := strings.Repeat("x", 66<<10)
	for i, s := range [][4]string{
		{`{"email":"a@b.c","userId":"u"}`, "application/json", signedIn, "Set-Cookie: better-auth.session_token=aaaaaaaaaaaa; Path=/"},
		{"{\"email\":\"\xff\\u0000\\ud800\",\"userId\":{\"a\":1}}", "application/json; charset=\xff", "{\"code\":\"\\u0000\",\"message\":\"\xff\u202e\"}", "Content-Encoding: gzip"},
		{"username=\x00&username=b&%ff=%zz", "application/x-www-form-urlencoded", "null", "Location: /?error=\x00#error_description=\xff"},
		{"--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nv\r\n--x--", "multipart/form-data; boundary=x", "<form", "Content-Type: text/html"},
		{`{"userId":"` + long + `"}`, "application/json", `{"user":{"id":"` + long + `"}}`, "Content-Length: 3"},
		{strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300), "application/json", strings.Repeat("[", 300), "Content-Encoding: br"},
		{"", "", "", "Transfer-Encoding: chunked"},
	} {
		for route := range fuzzRoutes {
			f.Add(uint8(route), []byte(s[0]), s[1], "better-auth.session_token=s; a=\"", []byte(s[2]), s[3], 200+i*100%400)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte, media, sent string, answer []byte, header string, status int) {
		if status < 200 || status > 599 {
			return // net/http panics on some, and 1xx are no answers
		}
		route := fuzzRoutes[int(which)%len(fuzzRoutes)]
		u, err := url.ParseRequestURI(route.target)
		must(t, err)
		r := httptest.NewRequest(route.method, "http://auth.example.com/", strings.NewReader(string(body)))
		r.URL, r.RequestURI = u, route.target
		r.Header = http.Header{"Content-Type": {media}, "Cookie": {sent}, "User-Agent": {sent}, "Authorization": {"Bearer " + sent}, "Connection": {media}}
		rec := recorders[route.profile]
		m, mine := rec.Profile.Match(r.Method, r.URL)
		if !mine {
			t.Fatalf("%s is not recorded", route.target)
		}
		h.entries = nil
		w := httptest.NewRecorder()
		x, err := rec.Begin(w, r, m, recorder.Facts{ClientIP: sent, RequestID: media, Asker: &server{any: media}})
		must(t, err)
		name, value, _ := strings.Cut(header, ":")
		answers(status, string(answer), http.CanonicalHeaderKey(name), strings.TrimSpace(value))(x.Writer(), r)
		must(t, x.End(nil, 0, false))
		if w.Code != status || w.Body.String() != string(answer) {
			t.Errorf("the client gets %d and %d bytes, the server sent %d and %d", w.Code, w.Body.Len(), status, len(answer))
		}
		checkEntries(t, route.target, h.entries, body, answer)
	})
}

// checkEntries holds for the entries of any exchange of fuzzRoutes.
func checkEntries(t *testing.T, target string, entries []storage.Entry, body, answer []byte) {
	t.Helper()
	if len(entries) != 1 {
		t.Fatalf("%s has %d entries", target, len(entries))
	}
	e := entries[0]
	for name, v := range map[string]string{"user": e.UserID, "action": e.Action, "address": e.IPAddress, "agent": e.UserAgent, "metadata": string(e.Metadata)} {
		if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			t.Errorf("%s: the %s is no text: %q", target, name, v)
		}
	}
	if !json.Valid(e.Metadata) || len(e.Metadata) > recorder.DefaultMaxMetadata || strings.Contains(string(e.Metadata), `\u0000`) {
		t.Errorf("%s: %d bytes of metadata: %.300q", target, len(e.Metadata), e.Metadata)
	}
	if !e.Status.Valid() || e.Action == "" || len(e.Action) > storage.MaxAction || len(e.UserID) > storage.MaxUserID || len(e.UserAgent) > storage.MaxUserAgent {
		t.Errorf("%s: %+v", target, e)
	}
	for _, secret := range []string{"8sbERK1x1WXmHo5OxKDH6Kyf", "AbC123dEf456GhI789jKl"} {
		if strings.Contains(e.Action+string(e.Metadata), secret) && !strings.Contains(string(body)+string(answer), secret) {
			t.Errorf("%s: the path's secret is in the entry: %s %s", target, e.Action, e.Metadata)
		}
	}
}
