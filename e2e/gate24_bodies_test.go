package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf16"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate24Bodies: what the log reads of a body is what a real Better Auth server reads
// of it, or nothing (threats.md A17 to A23, B8, B9, X7); and bodies cost no memory,
// however long or slow they are. The control is a Caddy that is told to buffer them.
//
// The catalogue's 32 MB for 1,000 slow bodies are held of what the module adds: two
// thousand connections alone cost Caddy about 60 MB without it.
func TestGate24Bodies(t *testing.T) {
	bodies, differ, absent, decoded := readBodies(t)
	inserts, wrong := insertBodies(t)
	line := fmt.Sprintf("%d bodies, %d read otherwise than by Better Auth, %d not read; control, encoding/json into a struct: %d read otherwise; %d inserts, %d wrong", bodies, differ, absent, decoded, inserts, wrong)
	if differ+wrong > 0 || bodies < 34 || decoded == 0 || bodies-absent < 10 {
		t.Error("the figures must be at least 34, 0 and 0, and more than 0 in the control")
	}
	if runtime.GOOS != "linux" {
		gates.Print(t, 24, "%s; memory is measured on Linux only", line)
		return
	}
	size := gates.Figure(64, 2048)
	upload, buffered := uploads(t, size)
	slow := gates.Figure(200, 1000)
	plain, audited := slowBodies(t, slow)
	gates.Print(t, 24, "%s; %d MiB uploaded: +%.1f MB; %d slow bodies: +%.1f MB, without the module +%.1f MB; control, 64 MiB in a Caddy that buffers: +%.1f MB",
		line, size, upload, slow, audited, plain, buffered)
	if upload > 8 || audited-plain > 32 || buffered < 32 {
		t.Error("the bounds are 8 MB for the upload, 32 MB more for the slow bodies than without the module, and more than 32 MB in the control")
	}
}

// Bodies.

const (
	realMail  = "real@example.com"
	decoyMail = "decoy@example.org"
)

// bodyRow is a body of a sign-in, with more of its head.
type bodyRow struct{ name, header, body string }

func bodyRows() []bodyRow {
	js, form := jsonType, "Content-Type: application/x-www-form-urlencoded\r\n"
	pair := func(a, b string) string { return fmt.Sprintf(`{%s,"password":"x",%s}`, a, b) }
	mail, decoy := `"email":"`+realMail+`"`, `"EMAIL":"`+decoyMail+`"`
	with := func(pad string) string { return pair(mail, `"pad":`+pad) }
	nested := func(n int) string { return with(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	const boundary = "Content-Type: multipart/form-data; boundary=b\r\n"
	return []bodyRow{
		{"plain", js, pair(mail, `"a":1`)},
		{"space around", js, " \r\n\t" + pair(mail, `"a":1`) + " \n"},
		{"decoy in capitals after", js, pair(mail, decoy)},
		{"decoy in capitals before", js, pair(decoy, mail)},
		{"decoy in title case", js, pair(mail, `"Email":"`+decoyMail+`"`)},
		{"decoy that folds (Kelvin sign)", js, pair(mail, `"emai\u006c":"`+decoyMail+`"`)},
		{"key twice", js, pair(`"email":"`+decoyMail+`"`, mail)},
		{"key twice, the last escaped", js, pair(`"email":"`+decoyMail+`"`, `"\u0065mail":"`+realMail+`"`)},
		{"key twice, the last a number", js, pair(mail, `"email":7`)},
		{"key twice, the last null", js, pair(mail, `"email":null`)},
		{"key of the prototype", js, pair(`"__proto__":{"email":"`+decoyMail+`"}`, mail)},
		{"only in the prototype", js, `{"__proto__":{"email":"` + decoyMail + `"},"password":"x"}`},
		{"in an object within", js, `{"user":{"email":"` + decoyMail + `"},"email":"` + realMail + `","password":"x"}`},
		{"an object for a string", js, `{"email":{"email":"` + decoyMail + `"},"password":"x"}`},
		{"a list for a string", js, `{"email":["` + decoyMail + `"],"password":"x"}`},
		{"a number for a string", js, `{"email":12345,"password":"x"}`},
		{"a list", js, `[{"email":"` + decoyMail + `"}]`},
		{"a string", js, `"` + decoyMail + `"`},
		{"null", js, `null`},
		{"byte order mark", js, "\ufeff" + pair(mail, `"a":1`)},
		{"1e400", js, with("1e400")}, {"1e200000", js, with("1e200000")}, {"2^53+1", js, with("9007199254740993")}, {"minus zero", js, with("-0")},
		{"depth 6", js, nested(6)}, {"depth 10,001", js, nested(10_001)}, {"depth 30,000", js, nested(30_000)},
		{"lone surrogate beside", js, with(`"\ud800"`)}, {"lone surrogate", js, `{"email":"\ud800@example.com","password":"x"}`},
		{"escaped NUL", js, `{"email":"a\u0000b@example.com","password":"x"}`}, {"raw NUL", js, "{\"email\":\"a\x00b@example.com\",\"password\":\"x\"}"},
		{"bad UTF-8 beside", js, with("\"\xff\"")}, {"bad UTF-8", js, "{\"email\":\"\xffx@example.com\",\"password\":\"x\"}"},
		{"spaces and capitals", js, `{"email":"  ReaL@Example.com ","password":"x"}`},
		{"trailing comma", js, `{` + mail + `,"password":"x",}`}, {"comment", js, `{/* a */` + mail + `,"password":"x"}`},
		{"single quotes", js, `{'email':'` + decoyMail + `','password':'x'}`}, {"NaN", js, with("NaN")}, {"leading zero", js, with("01")},
		{"something behind", js, pair(mail, `"a":1`) + "x"}, {"two documents", js, pair(mail, `"a":1`) + pair(`"email":"`+decoyMail+`"`, `"a":1`)},
		{"cut short", js, `{` + mail + `,"pass`}, {"nothing", js, ""},
		{"no media type", "", pair(mail, `"a":1`)}, {"text", "Content-Type: text/plain\r\n", pair(mail, `"a":1`)}, {"text/json", "Content-Type: text/json\r\n", pair(mail, `"a":1`)},
		{"media type in capitals", "Content-Type: APPLICATION/JSON\r\n", pair(mail, `"a":1`)}, {"+json", "Content-Type: application/vnd.api+json\r\n", pair(mail, `"a":1`)},
		{"media type with odd parameters", "Content-Type: application/json; a=1; a=2; charset=\r\n", pair(mail, `"a":1`)},
		{"octets", "Content-Type: application/octet-stream\r\n", pair(mail, `"a":1`)},
		{"two media types", "Content-Type: application/json\r\nContent-Type: text/plain\r\n", pair(mail, `"a":1`)},
		{"gzip", gzipped, gz(pair(mail, `"a":1`))}, {"said to be gzip", gzipped, pair(mail, `"a":1`)},
		{"UTF-16", "Content-Type: application/json; charset=utf-16\r\n", utf16le(pair(mail, `"a":1`))},
		{"said to be UTF-16", "Content-Type: application/json; charset=utf-16\r\n", pair(mail, `"a":1`)},
		{"form", form, url.Values{"email": {realMail}, "password": {"x"}}.Encode()},
		{"form, key twice", form, "email=" + decoyMail + "&email=" + realMail + "&password=x"},
		{"form, decoy in capitals", form, "EMAIL=" + decoyMail + "&email=" + realMail + "&password=x"},
		{"form, key of a list", form, "email[]=" + decoyMail + "&password=x"},
		{"form, bad escape", form, "email=%zz" + realMail + "&password=x"}, {"form, semicolons", form, "email=" + realMail + ";password=x"},
		{"form that is JSON", form, pair(mail, `"a":1`)}, {"JSON that is a form", js, "email=" + decoyMail + "&password=x"},
		{"multipart", boundary, "--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\n" + realMail + "\r\n--b--\r\n"},
		{"behind 70,000 bytes", js, pair(`"pad":"`+strings.Repeat("x", 70_000)+`"`, mail)},
		{"before 70,000 bytes", js, pair(mail, `"pad":"`+strings.Repeat("x", 70_000)+`"`)},
	}
}

func utf16le(s string) string {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// readBodies sends sign-ins to a server that tells what it read of them, and compares
// the identifier of the entry with it.
func readBodies(t *testing.T) (bodies, differ, absent, decoded int) {
	t.Helper()
	t.Run("bodies", func(t *testing.T) { // Caddy ends with it
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		server := startWitness(t, fmt.Sprintf("http://127.0.0.1:%d", port))
		harness.Load(t, anyHost(database(dir), "", siteOf(port, singly("capture request_body"), server.address())))
		rows := bodyRows()
		for i, r := range rows {
			if status, _ := once(port, raw("POST", "/api/auth/sign-in/email", fmt.Sprint("body-", i), r.header+"Connection: close\r\n", r.body)); status == 0 || status >= 500 {
				t.Errorf("%s: status %d", r.name, status)
			}
		}
		seen, entries := server.seen(), everyEntry(t, database(dir))
		for i, r := range rows {
			bodies++
			name := fmt.Sprint("body-", i)
			if len(entries[name]) != 1 {
				t.Errorf("%s: %d entries", r.name, len(entries[name]))
				continue
			}
			want, got := readAs(seen[name].Email), metadataOf(t, &entries[name][0]).Identifier
			switch {
			case got == "":
				absent++
			case got != want:
				differ++
				t.Errorf("%s: the log has %q, Better Auth read %v", r.name, got, seen[name].Email)
			}
			var naive struct{ Email string }
			if json.Unmarshal([]byte(r.body), &naive) == nil && naive.Email != "" && redact.Identifier(naive.Email) != want {
				decoded++
			}
		}
	})
	return bodies, differ, absent, decoded
}

// readAs is the masked form of what the server read, which may be a number.
func readAs(email any) string {
	switch email.(type) {
	case string, float64:
		return redact.Identifier(fmt.Sprint(email))
	}
	return ""
}

// insertBodies inserts metadata that parsers trip over, and looks what is kept of it.
func insertBodies(t *testing.T) (inserts, wrong int) {
	t.Helper()
	metadata := func(m string) string { return `{"action":"custom:x","metadata":` + m + `}` }
	key := strings.Repeat("k", 300)
	for _, r := range []struct {
		name, body string
		status     int
		kept       string
	}{
		{"numbers", metadata(`{"a":9007199254740993,"b":1e400,"c":-0,"d":1E5}`), 200, `"a":9007199254740993,"b":1e400,"c":-0,"d":1E5`},
		{"depth 200,000", metadata(strings.Repeat(`{"a":`, 200_000) + "1" + strings.Repeat("}", 200_000)), 413, ""},
		{"depth 50,000", metadata(strings.Repeat(`{"a":`, 50_000) + "1" + strings.Repeat("}", 50_000)), 400, ""},
		{"depth 20,000 of lists", metadata(`{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`), 400, ""},
		{"names of the prototype", metadata(`{"__proto__":{"a":1},"constructor":2,"":3}`), 200, `"__proto__":{"a":1},"constructor":2,"":3`},
		{"a long key", metadata(`{"` + key + `":1}`), 200, key[:256]},
		{"a lone surrogate and a NUL", metadata(`{"a":"\ud800 \u0000"}`), 200, ``},
		{"a megabyte", metadata(`{"a":"` + strings.Repeat("x", 1<<20) + `"}`), 413, ""},
		{"100 KiB", metadata(`{"a":"` + strings.Repeat("x", 100<<10) + `"}`), 400, ""},
		{"a list", `[]`, 400, ""}, {"no JSON", `{"action":`, 400, ""}, {"two documents", metadata(`{}`) + metadata(`{}`), 400, ""},
	} {
		inserts++
		t.Run("insert "+r.name, func(t *testing.T) {
			entries, last := recordedBy(t, pinned, act{"POST", "/audit-log/insert", r.body, "alice"})
			stored := len(entries) == 1 && unstorable(&entries[0]) == nil && strings.Contains(string(entries[0].Metadata), r.kept)
			if last.status != r.status || stored != (r.status == 200) {
				wrong++
				t.Errorf("%d %.200s, %d entries %.300s; want %d", last.status, last.body, len(entries), entries, r.status)
			}
		})
	}
	return inserts, wrong
}

// Memory, of a Caddy in a process of its own.

// sized is a running Caddy of which the memory is measured.
type sized struct {
	pid, port int
	dir       string
}

// startSized starts a Caddy with one site; the upstream discards what it gets.
func startSized(t *testing.T, directive, proxy string) *sized {
	t.Helper()
	s := &sized{dir: t.TempDir(), port: harness.FreePort(t)}
	cmd := harness.Start(t, s.dir, s.port, anyHost(database(s.dir), "", fmt.Sprintf("http://:%d {\n\tbind 127.0.0.1\n\t%s\n\t%s\n}\n", s.port, directive, proxy)))
	s.pid = cmd.Process.Pid
	return s
}

// memory returns a figure of /proc/<pid>/status in megabytes: VmRSS, what the process
// has, or VmHWM, the most it had since forget.
func (s *sized) memory(t *testing.T, name string) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return float64(kib) * 1024 / 1e6
		}
	}
	t.Fatalf("/proc/%d/status has no %s", s.pid, name)
	return 0
}

// forget makes VmHWM begin anew (proc(5), clear_refs).
func (s *sized) forget(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid), []byte("5"), 0o200); err != nil {
		t.Fatal(err)
	}
}

// upload sends so many MiB to a recorded route.
func (s *sized) upload(t *testing.T, name string, mib int) {
	t.Helper()
	c, err := connect(s.port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	size := int64(mib) << 20
	head := raw("POST", "/api/auth/update-user", name, jsonType+fmt.Sprintf("Content-Length: %d\r\n", size), "")
	if _, err := io.WriteString(c, head); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(c, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	if res, _, err := c.answer(); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", res, err)
	}
}

// zeros is /dev/zero.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// uploads returns how much a Caddy grows while it passes an upload on, and how much
// one that is told to buffer.
func uploads(t *testing.T, mib int) (grown, buffered float64) {
	t.Helper()
	up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"success":true}`)
	}))
	measure := func(s *sized, mib int) float64 {
		for range 3 { // what buffers and connections take once
			s.upload(t, "warm-up", 8)
		}
		before := s.memory(t, "VmRSS")
		s.forget(t)
		s.upload(t, "upload", mib)
		return s.memory(t, "VmHWM") - before
	}
	audited := startSized(t, singly("capture request_body"), "reverse_proxy "+up)
	grown = measure(audited, mib)
	checkUpload(t, audited)
	control := startSized(t, "", "reverse_proxy "+up+" {\n\t\trequest_buffers 64MiB\n\t}")
	return grown, measure(control, 64)
}

// checkUpload looks for the entry of the upload: it says why the body is not there.
func checkUpload(t *testing.T, s *sized) {
	t.Helper()
	eachEntry(t, harness.OpenStore(t, s.dir), func(e *storage.Entry) {
		if !strings.Contains(string(e.Metadata), "longer than the limit") {
			t.Errorf("the entry of a long body does not say so: %s", e.Metadata)
		}
	})
}

// slowBodies opens so many requests whose bodies never come to an end, and returns how
// much a Caddy grows by them, without the module and with it.
func slowBodies(t *testing.T, n int) (plain, audited float64) {
	t.Helper()
	var begun atomic.Int64
	up := harness.Upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		first := make([]byte, 1)
		if _, err := io.ReadFull(r.Body, first); err == nil {
			begun.Add(1) // before the client has sent the next one
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	measure := func(directive string) float64 {
		s := startSized(t, directive, "reverse_proxy "+up)
		s.upload(t, "warm-up", 8)
		before := s.memory(t, "VmRSS")
		begun.Store(0)
		conns := make([]*conn, n)
		for i := range conns {
			var err error
			if conns[i], err = connect(s.port); err != nil {
				t.Fatal(err)
			}
			head := raw("POST", "/api/auth/update-user", fmt.Sprint("slow-", i), jsonType+"Content-Length: 1000\r\n", "")
			if _, err := io.WriteString(conns[i], head+"{"); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the auth server has not the first byte of every slow body", func() bool { return begun.Load() == int64(n) })
		grown := s.memory(t, "VmRSS") - before
		for _, c := range conns {
			_ = c.Close()
		}
		if directive != "" {
			store := harness.OpenStore(t, s.dir)
			eventually(t, "not every slow body has its entry", func() bool { return countSlow(t, store) == n })
		}
		return grown
	}
	return measure(""), measure(singly("capture request_body"))
}

// countSlow counts the entries of slow bodies.
func countSlow(t *testing.T, store storage.Lister) (n int) {
	t.Helper()
	eachEntry(t, store, func(e *storage.Entry) {
		if strings.HasPrefix(e.UserAgent, "slow-") {
			n++
		}
	})
	return n
}
