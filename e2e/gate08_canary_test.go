package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/parquet-go/parquet-go"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate08Canary: secrets in every place that one can have come out nowhere
// (threats.md D1 to D13): not in the database's files or the journal, not in Caddy's
// logs, at debug level with the filter of Caddyfile.example, not in what the API, its
// exports, tails and pages, the admin endpoint and the commands say. Bodies are captured,
// with each way to redact.
//
// The controls show that the search would find them: the same without the log's filter,
// and with a list of names to redact that has none of them. Webhooks (D17) do not exist
// yet: they are due here with the surface. What the viewer shows of an entry it has from
// the API; its page has nothing of anybody.
func TestGate08Canary(t *testing.T) {
	ways := []string{"redact mask"}
	if gates.Full() {
		ways = append(ways, "redact hash", "redact remove", "durability commit", "durability async", "fail closed")
	}
	planted, surfaces, found := 0, 0, 0
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			r := plantAll(t, way, true)
			planted, surfaces = len(r.canaries), max(surfaces, len(r.surfaces))
			for _, leak := range r.leaks() {
				found++
				t.Error(leak)
			}
			r.checkSurfaces(t)
		})
	}
	var unfiltered, unredacted []string
	t.Run("without the filter", func(t *testing.T) { unfiltered = plantAll(t, "redact mask", false).leaks() })
	t.Run("without redaction", func(t *testing.T) { unredacted = plantAll(t, "redact mask {\n\t\t\tfields none\n\t\t}", true).leaks() })
	gates.Print(t, 8, "%d secrets x %d surfaces x %d ways to redact and write: %d found; controls: without the log's filter %d, with a list of names that has none of them %d",
		planted, surfaces, len(ways), found, len(unfiltered), len(unredacted))
	if planted < 60 || len(unfiltered) < 20 || len(unredacted) < 10 {
		t.Error("there must be 60 secrets, and the controls must find them")
	}
}

// canaryRig is a Caddy in which secrets were planted.
type canaryRig struct {
	t        *testing.T
	dir      string
	port     int
	admin    string
	canaries []*canary
	// surfaces are everything that anybody may see, by name.
	surfaces map[string][]byte
}

// plantAll runs Caddyfile.example with one more line in audit_log, sends every secret
// while the database works and once more while it is locked, and reads every surface.
func plantAll(t *testing.T, way string, filter bool) *canaryRig {
	t.Helper()
	r := &canaryRig{t: t, dir: t.TempDir(), port: harness.FreePort(t), admin: "127.0.0.1:" + itoa(harness.FreePort(t)), surfaces: map[string][]byte{}}
	answers := map[string]string{}
	up := newBytesUpstream(t, func(name string) string {
		if own, ok := answers[name]; ok {
			return own
		}
		return answer("200 OK", jsonType, signedIn)
	})
	session := newCanary(plant{where: "token of a session that is looked up"}, 0)
	answers[""] = answer("200 OK", jsonType+"Set-Auth-Token: "+session.secret+"\r\n", `{"session":{"token":"`+session.secret+`","userId":"root","expiresAt":"2099-01-01T00:00:00Z"},"user":{"id":"root","role":"admin"}}`)
	r.canaries = []*canary{session}
	for i, p := range plants() {
		c := newCanary(p, i+1)
		if r.canaries = append(r.canaries, c); p.answer != "" {
			answers[c.name] = c.reply()
		}
	}
	harness.Use(t)
	config := r.config(up.address, way, filter)
	if err := caddy.Load(harness.Adapt(t, config), true); err != nil {
		t.Fatal(err)
	}
	r.send("")
	r.awaitEntries()
	lock := spillSite{t: t, dir: r.dir}
	release := lock.lock()
	r.send(" while the database is locked")
	r.look(config)
	release()
	stop(t)
	r.readFiles(" in the end")
	return r
}

// config is Caddyfile.example for this rig: an admin endpoint, logs into files at debug
// level, captured bodies, an administrator, and ways for handlers to fail.
func (r *canaryRig) config(upstream, way string, filter bool) string {
	r.t.Helper()
	b, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		r.t.Fatal(err)
	}
	for name, value := range map[string]string{
		"SITE": fmt.Sprintf("http://127.0.0.1:%d", r.port), "UPSTREAM": upstream, "AUDIT_DB": database(r.dir), "AUDIT_KEY": filepath.Join(r.dir, "hash.key"),
		"XDG_DATA_HOME": r.dir, "XDG_CONFIG_HOME": r.dir,
	} {
		r.t.Setenv(name, value)
	}
	text := string(b)
	for _, change := range [][2]string{
		{"\n{\n", "\n{\n\tadmin " + r.admin + "\n\tlog entries {\n\t\tinclude audit_log.entries\n\t\toutput file " + r.dir + "/entries.log\n\t}\n"},
		{"\tlog {\n\t\texclude", "\tlog {\n\t\tlevel DEBUG\n\t\toutput file " + r.dir + "/caddy.log\n\t\texclude"},
		{"\tlog {\n\t\timport", "\tlog {\n\t\tlevel DEBUG\n\t\toutput file " + r.dir + "/access.log\n\t\timport"},
		{"\t\tprofile better_auth\n", "\t\tprofile better_auth\n\t\trollup off\n\t\tadmins {\n\t\t\trole admin\n\t\t}\n\t\tcapture {\n\t\t\trequest_body on\n\t\t}\n\t\t" + way + "\n"},
		{"\treverse_proxy {$UPSTREAM", "\t@panic header X-Do panic\n\te2e_panic @panic before\n\t@down header X-Do down\n\treverse_proxy @down 127.0.0.1:1\n\t@error header X-Do error\n\te2e_error @error\n\treverse_proxy {$UPSTREAM"},
	} {
		if !strings.Contains(text, change[0]) {
			r.t.Fatalf("Caddyfile.example has no %q any more: say here how it is now", change[0])
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	if !filter {
		text = strings.ReplaceAll(text, "\t\timport audit_log_filter\n", "")
	}
	return text
}

// send sends every canary. What the clients are told is a surface where it is the audit
// log that speaks.
func (r *canaryRig) send(when string) {
	for _, c := range r.canaries[1:] {
		_, body := once(r.port, c.raw(fmt.Sprintf("127.0.0.1:%d", r.port)))
		if c.answer == "" && bytes.Contains(body, []byte(`"code"`)) || strings.Contains(c.request, "/audit-log/") {
			r.surfaces["answers of the API and errors"+when] = append(r.surfaces["answers of the API and errors"+when], body...)
		}
	}
}

// look reads what a running Caddy shows.
func (r *canaryRig) look(config string) {
	r.readFiles("")
	reader := fmt.Sprintf("Host: 127.0.0.1:%d\r\nCookie: better-auth.session_token=reader\r\n", r.port)
	for n, target := range []string{
		"list?scope=all&limit=100", "list?scope=all&limit=100&offset=100", "list?limit=oh", "no-such-id", "list?scope=all&from=never",
		"access", "tally?scope=all", "histogram?scope=all&step=60000&from=" + strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10),
		"export?scope=all&format=csv", "export?scope=all&format=jsonl", "export?scope=all&format=parquet", "",
	} {
		_, body := once(r.port, raw("GET", "/api/auth/audit-log/"+target, fmt.Sprint("reader-", n), reader, ""))
		if strings.HasSuffix(target, "parquet") {
			body = rowsOfParquet(r.t, body)
		}
		name, _, _ := strings.Cut(target, "&from=")
		r.surfaces["API, "+name] = body
	}
	r.surfaces["API, tail"] = r.tail(reader)
	for _, path := range []string{
		"/config/", "/audit-log/health", "/audit-log/status", "/audit-log/coverage", "/audit-log/doctor", "/metrics",
		"/audit-log/entries/list?limit=500", "/audit-log/entries/export?format=csv",
	} {
		_, body := call(r.t, http.MethodGet, "http://"+r.admin+path, "")
		r.surfaces["admin, "+path] = []byte(body)
	}
	// The command is another program, which has none of the tests' modules.
	ours := regexp.MustCompile(`(?m)^\te2e_.*\n`)
	file, traffic := written(r.t, "Caddyfile", ours.ReplaceAllString(config, "")), r.recording()
	for _, args := range [][]string{
		{"doctor", "--address", r.admin}, {"doctor", "--json", "--address", r.admin}, {"coverage", "--all", "--address", r.admin}, {"coverage", "--all", "--json", "--address", r.admin},
		{"lint", file}, {"profile", "check", "better_auth", "--traffic", traffic}, {"profile", "check", "auto", "--json", "--traffic", traffic},
		{"prune", "--older-than", "90d", "--dry-run", "--address", r.admin},
		{"list", "--all", "--address", r.admin}, {"list", "--all", "--output", "table", "--wide", "--address", r.admin}, {"stats", "--address", r.admin},
		{"export", "--format", "csv", "--output", "-", "--address", r.admin}, {"list", "--all", "--db", database(r.dir)},
	} {
		got := auditLog(r.t, "", args...)
		name := slices.DeleteFunc(args, func(arg string) bool { return strings.ContainsAny(arg, "/:") })
		r.surfaces["command "+strings.Join(name, " ")] = []byte(got.out + got.errors)
	}
}

// tailLength is how many entries a tail has to show, of about ninety.
const tailLength = 80

// awaitEntries waits until so many are in the database, which is locked next.
func (r *canaryRig) awaitEntries() {
	r.t.Helper()
	for end := time.Now().Add(hang); ; time.Sleep(5 * time.Millisecond) {
		var page struct{ Total int }
		_, body := call(r.t, http.MethodGet, "http://"+r.admin+"/audit-log/entries/list?limit=1", "")
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			r.t.Fatalf("%s: %v", body, err)
		}
		if page.Total >= tailLength {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d entries are in the database, want %d", page.Total, tailLength)
		}
	}
}

// tail follows the log from its beginning until what is there has come.
func (r *canaryRig) tail(reader string) []byte {
	r.t.Helper()
	o := tail(r.t, r.port, "/api/auth/audit-log/tail?scope=all", reader+"Last-Event-ID: "+storage.EncodeCursor(storage.TimeKey(time.Now()))+"\r\n")
	defer func() { _ = o.Close() }()
	var text []byte
	for n := range tailLength {
		e, ok := o.until(r.t, func(tailEvent) bool { return true })
		if !ok {
			r.t.Fatalf("the tail has ended after %d events", n)
		}
		text = append(append(text, e.id+e.name...), e.data...)
	}
	return text
}

// rowsOfParquet writes out what is in a file.
func rowsOfParquet(t *testing.T, file []byte) []byte {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatalf("%v: %.300s", err, file)
	}
	var text []byte
	for _, group := range f.RowGroups() {
		rows := group.Rows()
		buf := make([]parquet.Row, 100)
		for {
			n, err := rows.ReadRows(buf)
			for _, row := range buf[:n] {
				for _, v := range row {
					text = append(append(text, v.String()...), '\n')
				}
			}
			if err != nil {
				break
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return text
}

// recording writes what was planted as recorded traffic that says of nothing what it
// really was, and returns the file.
func (r *canaryRig) recording() string {
	type message struct {
		Method  string              `json:"method,omitempty"`
		Path    string              `json:"path,omitempty"`
		Status  int                 `json:"status,omitempty"`
		Headers map[string][]string `json:"headers"`
		Body    string              `json:"body"`
	}
	var b strings.Builder
	for n, c := range r.canaries[1:] {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(c.raw("auth.test"))))
		if err != nil {
			continue // none that a recorder would have seen
		}
		sent, _ := io.ReadAll(req.Body)
		said := message{Status: 200, Headers: http.Header{"Content-Type": {"application/json"}}, Body: signedIn}
		if res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(c.reply())), nil); err == nil {
			body, _ := io.ReadAll(res.Body) // one is cut off
			said = message{Status: res.StatusCode, Headers: res.Header, Body: string(body)}
		}
		line, _ := json.Marshal(map[string]any{
			"server": "better-auth", "flow": "planted", "seq": n,
			"request": message{Method: req.Method, Path: req.RequestURI, Headers: req.Header, Body: string(sent)}, "response": said, "truth": struct{}{},
		})
		b.Write(append(line, '\n'))
	}
	return written(r.t, "planted.jsonl", b.String())
}

// readFiles reads everything in the folder, in another process: to close a file of
// SQLite drops its locks.
func (r *canaryRig) readFiles(when string) {
	for _, file := range files(r.t, r.dir) {
		if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		b, err := exec.Command("cat", file).Output() //nolint:gosec // it is ours
		if err != nil {
			r.t.Fatal(err)
		}
		name, _ := filepath.Rel(r.dir, file)
		r.surfaces["file "+name+when] = b
	}
}

// leaks are the secrets that stand in surfaces.
func (r *canaryRig) leaks() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(r.surfaces)) {
		text := r.surfaces[name]
		small := bytes.ToLower(text)
		for _, c := range r.canaries {
			if c.standsIn(text, small) {
				list = append(list, fmt.Sprintf("%s: the secret %q (%s)", name, c.secret, c.where))
			}
		}
	}
	return list
}

// checkSurfaces says which surfaces have nothing to look through.
func (r *canaryRig) checkSurfaces(t *testing.T) {
	t.Helper()
	for name, least := range map[string]int{
		"file audit.db": 1, "file audit.db-wal": 4096, "file audit.db-shm": 1, "file audit.db.spill": 10_000, "file caddy.log": 50_000, "file access.log": 50_000, "file entries.log": 20_000,
		"file audit.db in the end": 50_000, "answers of the API and errors": 500, "API, list?scope=all&limit=100": 5000, "admin, /config/": 500, "admin, /audit-log/health": 100,
		"admin, /metrics": 500, "command doctor --address": 200, "command profile check better_auth --traffic": 1000, "command coverage --all --address": 100, "command lint": 10,
		"API, export?scope=all&format=csv": 20_000, "API, export?scope=all&format=jsonl": 20_000, "API, export?scope=all&format=parquet": 20_000, "API, tail": 20_000,
		"API, tally?scope=all": 500, "API, histogram?scope=all&step=60000": 100, "API, ": 5000, "admin, /audit-log/entries/list?limit=500": 20_000,
		"admin, /audit-log/entries/export?format=csv": 20_000, "command list --all --address": 20_000, "command list --all --output table --wide --address": 10_000,
		"command stats --address": 300, "command export --format csv --output - --address": 20_000, "command list --all --db": 20_000,
	} {
		if n := len(r.surfaces[name]); n < least {
			t.Errorf("%s has %d bytes, which says nothing: %.300s", name, n, r.surfaces[name])
		}
	}
}

func init() {
	caddy.RegisterModule(errorHandler{})
	httpcaddyfile.RegisterHandlerDirective("e2e_error", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return errorHandler{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("e2e_error", httpcaddyfile.Before, "reverse_proxy")
}

// errorHandler is a handler that fails.
type errorHandler struct{}

func (errorHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_error", New: func() caddy.Module { return new(errorHandler) }}
}

func (errorHandler) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	return caddyhttp.Error(http.StatusBadGateway, errStoreDown)
}
