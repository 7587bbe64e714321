package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate22OriginsAndCaches: no other site can write to the log with a visitor's
// session, nor read it, and no cache keeps it (threats.md C10, C11, C18). A shared cache
// in front is not among our dependencies: what it may keep is decided by the headers
// that are held here.
func TestGate22OriginsAndCaches(t *testing.T) {
	g := newOriginGate(t)
	writes := 0
	for _, r := range crossSite {
		if g.inserts(t, r) {
			writes++
		}
	}
	reads := g.cors(t)
	kept := g.caches(t)
	gates.Print(t, 22, "%d of %d rows of CSRF right, %d of 12 of CORS, %d of %d of caching", writes, len(crossSite), reads, kept, len(cacheRows))
	if writes != len(crossSite) || len(crossSite) < 24 || reads != 12 || kept != len(cacheRows) || len(cacheRows) < 10 {
		t.Error("every row has to be right")
	}
}

// originGate is a log with a trusted origin. The site itself is auth.test.
type originGate struct {
	port, clients int
	store         storage.Lister
}

const trustedOrigin = "https://app.example.com"

func newOriginGate(t *testing.T) *originGate {
	t.Helper()
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	harness.Load(t, anyHost(database(dir), trusting, siteOf(port, singly("trusted_origins "+trustedOrigin), harness.Upstream(t, &sessionAuth{}))))
	return &originGate{port: port, store: harness.OpenStore(t, dir)}
}

// send makes a request of a new client and user, so that no limit counts.
func (g *originGate) send(t *testing.T, method, path, header, body string) (*http.Response, string) {
	t.Helper()
	g.clients++
	c, err := connect(g.port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	head := from(client(g.clients)) + strings.ReplaceAll(header, "USER", fmt.Sprint("user-", g.clients))
	if _, err := c.Write([]byte(raw(method, "/api/auth/audit-log"+path, "origin", head, body))); err != nil {
		t.Fatal(err)
	}
	if method == http.MethodHead {
		res, err := http.ReadResponse(c.in, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		return res, ""
	}
	res, answer, err := c.answer()
	if err != nil {
		t.Fatal(err)
	}
	return res, string(answer)
}

// count looks at the entries: totals are Caddy's, which writes, to know at once.
func (g *originGate) count(t *testing.T) int {
	t.Helper()
	return len(everyOf(t, g.store, time.Time{}))
}

// Heads of the rows.
const (
	asCookie = "Cookie: better-auth.session_token=USER\r\n"
	asBearer = "Authorization: Bearer USER\r\n"
	ownSite  = "Origin: http://auth.test\r\n"
)

// originRow is one request, and the status of its answer.
type originRow struct {
	name, method, path, header string
	status                     int
}

// crossSite are the ways in which another site, or a client that is no browser, sends
// an insert, and how it is answered.
var crossSite = []originRow{
	{"same origin", "POST", "/insert", asCookie + ownSite + jsonType, 200},
	{"same origin behind a TLS terminator", "POST", "/insert", asCookie + "Origin: https://auth.test\r\n" + jsonType, 200},
	{"same origin in other letters", "POST", "/insert", asCookie + "Origin: http://AUTH.TEST\r\n" + jsonType, 200},
	{"trusted origin", "POST", "/insert", asCookie + "Origin: " + trustedOrigin + "\r\n" + jsonType, 200},
	{"no origin", "POST", "/insert", asCookie + jsonType, 403},
	{"no origin, cross-site by Fetch metadata", "POST", "/insert", asCookie + "Sec-Fetch-Site: cross-site\r\n" + jsonType, 403},
	{"null origin", "POST", "/insert", asCookie + "Origin: null\r\n" + jsonType, 403},
	{"empty origin", "POST", "/insert", asCookie + "Origin: \r\n" + jsonType, 403},
	{"foreign origin", "POST", "/insert", asCookie + "Origin: https://evil.example\r\n" + jsonType, 403},
	{"sibling domain", "POST", "/insert", asCookie + "Origin: https://x.auth.test\r\nSec-Fetch-Site: same-site\r\n" + jsonType, 403},
	{"parent domain", "POST", "/insert", asCookie + "Origin: http://test\r\n" + jsonType, 403},
	{"own name as the beginning of another", "POST", "/insert", asCookie + "Origin: http://auth.test.evil.example\r\n" + jsonType, 403},
	{"own name as a user's", "POST", "/insert", asCookie + "Origin: http://auth.test@evil.example\r\n" + jsonType, 403},
	{"own name, other port", "POST", "/insert", asCookie + "Origin: http://auth.test:8443\r\n" + jsonType, 403},
	{"trusted name, other scheme", "POST", "/insert", asCookie + "Origin: http://app.example.com\r\n" + jsonType, 403},
	{"trusted name, other port", "POST", "/insert", asCookie + "Origin: https://app.example.com:444\r\n" + jsonType, 403},
	{"a file", "POST", "/insert", asCookie + "Origin: file://\r\n" + jsonType, 403},
	{"a referrer in place of an origin", "POST", "/insert", asCookie + "Referer: http://auth.test/\r\n" + jsonType, 403},
	{"text", "POST", "/insert", asCookie + ownSite + "Content-Type: text/plain\r\n", 415},
	{"text that mentions JSON", "POST", "/insert", asCookie + ownSite + "Content-Type: text/plain; application/json\r\n", 415},
	{"a form", "POST", "/insert", asCookie + ownSite + "Content-Type: application/x-www-form-urlencoded\r\n", 415},
	{"a form with files", "POST", "/insert", asCookie + ownSite + "Content-Type: multipart/form-data; boundary=x\r\n", 415},
	{"no media type", "POST", "/insert", asCookie + ownSite, 415},
	{"almost JSON", "POST", "/insert", asCookie + ownSite + "Content-Type: application/jsonp\r\n", 415},
	{"JSON with a charset", "POST", "/insert", asCookie + ownSite + "Content-Type: Application/JSON; charset=utf-8\r\n", 200},
	{"a bearer token, no origin", "POST", "/insert", asBearer + jsonType, 200},
	{"nobody", "POST", "/insert", ownSite + jsonType, 401},
	{"GET does not write", "GET", "/insert", asCookie + ownSite + jsonType, 404},
	{"nor does a GET that asks for POST", "GET", "/insert", asCookie + ownSite + "X-HTTP-Method-Override: POST\r\n" + jsonType, 404},
	{"nor PUT", "PUT", "/insert", asCookie + ownSite + jsonType, 404},
}

// inserts sends one row, and says whether answer and log are as they must be.
func (g *originGate) inserts(t *testing.T, r originRow) bool {
	t.Helper()
	before := g.count(t)
	res, body := g.send(t, r.method, r.path, r.header, `{"action":"custom:x"}`)
	stored := g.count(t) - before
	if res.StatusCode != r.status || (stored == 1) != (r.status == 200) || stored > 1 {
		t.Errorf("%s: %d %s, %d entries, want %d", r.name, res.StatusCode, body, stored, r.status)
		return false
	}
	return true
}

// cors sends preflights, reads and inserts from four origins, and returns how many of
// the twelve answers allow what they must and nothing else.
func (g *originGate) cors(t *testing.T) (right int) {
	t.Helper()
	for origin, trusted := range map[string]bool{trustedOrigin: true, "https://evil.example": false, "null": false, "http://auth.test": false} {
		for _, kind := range []string{"preflight", "read", "insert"} {
			head := "Origin: " + origin + "\r\n"
			method, path, body := "GET", "/list", ""
			switch kind {
			case "preflight":
				method, path, head = "OPTIONS", "/insert", head+"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
			case "insert":
				method, path, head, body = "POST", "/insert", head+asCookie+jsonType, `{"action":"custom:x"}`
			default:
				head += asCookie
			}
			res, _ := g.send(t, method, path, head, body)
			want := ""
			if trusted {
				want = origin
			}
			got, credentials := res.Header.Get("Access-Control-Allow-Origin"), res.Header.Get("Access-Control-Allow-Credentials")
			if got != want || (credentials == "true") != trusted || kind == "preflight" && (res.StatusCode == http.StatusNoContent) != trusted {
				t.Errorf("%s from %s: %d, allowed %q, credentials %q", kind, origin, res.StatusCode, got, credentials)
				continue
			}
			right++
		}
	}
	return right
}

// cacheRows are requests that caches, and those who abuse them, make.
var cacheRows = []originRow{
	{"a plain read", "GET", "/list", asCookie, 200},
	{"a read with a condition", "GET", "/list", asCookie + "If-None-Match: *\r\n", 200},
	{"a read if it changed", "GET", "/list", asCookie + "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n", 200},
	{"a part of a read", "GET", "/list", asCookie + "Range: bytes=0-9\r\n", 200},
	{"a read from the cache only", "GET", "/list", asCookie + "Cache-Control: only-if-cached\r\n", 200},
	{"a read that looks like a style sheet by its query", "GET", "/list?x.css", asCookie, 200},
	{"a read that looks like one by its name", "GET", "/list.css", asCookie, 404},
	{"a read that looks like one below it", "GET", "/list/x.css", asCookie, 404},
	{"an export", "GET", "/export?format=csv", asCookie, 200},
	{"an export that another site starts", "GET", "/export?format=csv", asCookie + "Sec-Fetch-Site: cross-site\r\n", 403},
	{"a tail that another site starts", "GET", "/tail", asCookie + "Sec-Fetch-Site: cross-site\r\n", 403},
	{"a histogram", "GET", "/histogram?from=2026-01-01&step=86400000", asCookie, 200},
	{"a tally", "GET", "/tally", asCookie, 200},
	{"what may be read", "GET", "/access", asCookie, 200},
	{"nobody's tail", "GET", "/tail", "", 401},
	{"the head of a read", "HEAD", "/list", asCookie, 404},
	{"nobody's read", "GET", "/list", "", 401},
	{"an entry that is not there", "GET", "/" + "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", asCookie, 404},
	{"a refused insert", "POST", "/insert", asCookie + jsonType, 403},
}

// caches holds that no answer may be kept or shared.
func (g *originGate) caches(t *testing.T) (right int) {
	t.Helper()
	for _, r := range cacheRows {
		res, body := g.send(t, r.method, r.path, r.header, "")
		control, vary := res.Header.Get("Cache-Control"), strings.Join(res.Header.Values("Vary"), ", ")
		if res.StatusCode != r.status || control != "no-store, private" || !strings.Contains(vary, "Cookie, Authorization") || res.Header.Get("ETag") != "" {
			t.Errorf("%s: %d %s, Cache-Control %q, Vary %q, want %d", r.name, res.StatusCode, body, control, vary, r.status)
			continue
		}
		right++
	}
	return right
}
