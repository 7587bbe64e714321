package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// TestGate03PoisonValues: no value costs an entry (threats.md A24, B7, E7.8). Every
// byte goes through a real Caddy in each of six fields of a request; random values go
// through the recorder in the process, in every field that a client or an auth server
// can fill, into SQLite. The control is a store that looks at its text as PostgreSQL
// does (X14): shown what came in as it came, it refuses; shown our entries, never.
//
// PostgreSQL itself gets every byte, too.
func TestGate03PoisonValues(t *testing.T) {
	var reached, lost int
	t.Run("SQLite", func(t *testing.T) { reached, lost = everyByteInSQLite(t) })
	inPostgres := "PostgreSQL is not on this machine"
	t.Run("PostgreSQL", func(t *testing.T) {
		reached, lost := everyByteInPostgres(t)
		if inPostgres = fmt.Sprintf("in PostgreSQL %d, %d lost", reached, lost); lost > 0 || reached < 256*3 {
			t.Error("entries are lost, or too few requests came through")
		}
	})
	f := fuzzRecorder(t, gates.Figure(20_000, 1_000_000))
	gates.Print(t, 3, "256 bytes x 6 fields: %d requests reached the handler, %d lost; %s; %d random exchanges, %d lost, %d badly stored; control, unsanitised: a store that checks its text refuses %d, of ours %d",
		reached, lost, inPostgres, f.exchanges, f.lost, f.bad, f.refusable, f.refused.Load())
	if lost+f.lost+f.bad > 0 || f.refused.Load() > 0 {
		t.Error("entries are lost, or hold what not every store takes")
	}
	if f.refusable < f.exchanges/10 || reached < 256*3 {
		t.Error("the values are too harmless to mean anything")
	}
}

// requestIDs makes Caddy tell its id of the request, which metadata.requestId is.
const requestIDs = "header " + requestIDHeader + " {http.request.uuid}\n\t"

// poisoned is a sign-in with one byte in a field.
func poisoned(field, b string) string {
	target, header, body := "/api/auth/sign-in/email", "", `{"email":"ada@example.com","password":"x"}`
	host, agent := "auth.test", "poison"
	switch field {
	case "user agent":
		agent = "a" + b + "z"
	case "path":
		target = "/api/auth/no-route/a" + b + "z"
	case "body":
		body = `{"email":"a` + b + `da@example.com","password":"x"}`
	case "query":
		target += "?a=" + b + "z"
	case "host":
		host = "a" + b + "z.test"
	case "cookie":
		header = "Cookie: better-auth.session_token=a" + b + "z\r\n"
	}
	return raw("POST", target, agent, "Host: "+host+"\r\n"+header+jsonType, body)
}

func everyByteInSQLite(t *testing.T) (reached, lost int) {
	t.Helper()
	dir := t.TempDir()
	reached, lost = everyByte(t, func(site string) string { return anyHost(database(dir), "", site) }, func() storage.Lister { return harness.OpenStore(t, dir) })
	checkColumns(t, database(dir))
	return reached, lost
}

func everyByteInPostgres(t *testing.T) (reached, lost int) {
	t.Helper()
	server, dir := pgtest.Start(t), t.TempDir()
	return everyByte(t, func(site string) string { return inPostgres(anyHost(database(dir), "", site), dir, server.DSN()) },
		func() storage.Lister { return openLog(t, server) })
}

// everyByte returns how many requests got as far as the handler, and how many of them
// have no entry, or one that not every store would take. The log is where config says,
// and opened when Caddy has ended.
func everyByte(t *testing.T, config func(site string) string, open func() storage.Lister) (reached, lost int) {
	t.Helper()
	harness.Use(t)
	port := harness.FreePort(t)
	up := newBytesUpstream(t, always(answer("401 Unauthorized", jsonType, denied)))
	harness.Load(t, config(siteOf(port, requestIDs+singly("capture request_body"), up.address)))
	ids := map[string]string{}
	for _, field := range []string{"user agent", "path", "body", "query", "host", "cookie"} {
		for b := range 256 {
			what := fmt.Sprintf("byte %#x in %s", b, field)
			c, err := connect(port)
			if err != nil {
				t.Fatal(err)
			}
			res, _, err := c.do(poisoned(field, string([]byte{byte(b)})))
			_ = c.Close()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if id := res.Header.Get(requestIDHeader); id != "" {
				ids[id] = what
			}
		}
	}
	stop(t)
	eachEntry(t, open(), func(e *storage.Entry) {
		if problem := unstorable(e); problem != nil {
			t.Errorf("%s: %v", ids[metadataOf(t, e).RequestID], problem)
			lost++
		}
		delete(ids, metadataOf(t, e).RequestID)
		reached++
	})
	for _, what := range ids {
		t.Errorf("%s: it has no entry", what)
		lost++
	}
	return reached + len(ids), lost
}

// eachEntry shows every captured entry of a store, page by page.
func eachEntry(t testing.TB, s storage.Lister, show func(*storage.Entry)) {
	t.Helper()
	for q := (storage.Query{Limit: storage.MaxLimit}); ; {
		page, err := s.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range harness.Captured(page.Entries) {
			show(&e)
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			return
		}
	}
}

// unstorable says why a store that checks its text would refuse an entry: PostgreSQL
// takes no NUL (22021, and 22P05 in jsonb), nothing that is not UTF-8 (22021), no key
// of an index above 8,191 bytes, and no JSON that it cannot read.
func unstorable(e *storage.Entry) error {
	for name, s := range map[string]string{"id": e.ID, "userId": e.UserID, "action": e.Action, "ipAddress": e.IPAddress, "userAgent": e.UserAgent, "metadata": string(e.Metadata)} {
		switch {
		case !utf8.ValidString(s):
			return fmt.Errorf("%s is not UTF-8: %.80q", name, s)
		case strings.Contains(s, "\x00"):
			return fmt.Errorf("%s has a NUL: %.80q", name, s)
		case name != "metadata" && len(s) > 8191:
			return fmt.Errorf("%s has %d bytes", name, len(s))
		}
	}
	if !json.Valid(e.Metadata) || strings.Contains(strings.ReplaceAll(string(e.Metadata), `\\`, ""), `\u0000`) {
		return fmt.Errorf("metadata: %.200q", e.Metadata)
	}
	return nil
}

// checkColumns looks at the table itself, beneath the store: SQLite's length() ends at
// a NUL (X13).
func checkColumns(t *testing.T, file string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, column := range []string{"userId", "action", "ipAddress", "userAgent", "metadata"} {
		var n int
		query := fmt.Sprintf(`SELECT count(*) FROM auditLog WHERE instr(CAST(%[1]s AS BLOB), x'00') > 0 OR length(CAST(%[1]s AS TEXT)) = 0 AND length(CAST(%[1]s AS BLOB)) > 0`, column)
		if err := db.QueryRow(query).Scan(&n); err != nil || n > 0 {
			t.Errorf("%d rows have a NUL in %s (%v)", n, column, err)
		}
	}
}

// strictStore is a store that looks at its text as PostgreSQL does, in front of a real
// one.
type strictStore struct {
	*sqlite.Store
	refused *atomic.Int64
}

// Write implements storage.Store.
func (s strictStore) Write(ctx context.Context, entries ...storage.Entry) error {
	for i := range entries {
		if err := unstorable(&entries[i]); err != nil {
			s.refused.Add(1)
			return errors.Join(errors.New("the store refuses an entry"), err)
		}
	}
	return s.Store.Write(ctx, entries...)
}

// poisonFuzz is what came of random exchanges.
type poisonFuzz struct {
	exchanges, lost, bad, refusable int
	refused                         atomic.Int64
}

// fuzzRecorder sends n exchanges with random values through a recorder into SQLite.
func fuzzRecorder(t *testing.T, n int) *poisonFuzz {
	t.Helper()
	f := &poisonFuzz{exchanges: n}
	store, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "audit.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	rec := newPoisonRecorder(t, strictStore{store, &f.refused})
	const seed = 3
	var refusable atomic.Int64
	parallel(64, 64, func(worker int) {
		p := &poisoner{rand.New(rand.NewPCG(seed, uint64(worker)))} //nolint:gosec // repeatable on purpose
		for i := worker; i < n; i += 64 {
			if p.exchange(t, rec, fmt.Sprint(i)) != nil {
				refusable.Add(1)
			}
		}
	})
	if err := rec.Writer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	f.refusable = int(refusable.Load())
	f.check(t, store)
	return f
}

func (f *poisonFuzz) check(t *testing.T, store *sqlite.Store) {
	t.Helper()
	found := make([]bool, f.exchanges)
	eachEntry(t, store, func(e *storage.Entry) {
		var i int
		if _, err := fmt.Sscan(metadataOf(t, e).RequestID, &i); err != nil || i >= f.exchanges || found[i] {
			t.Errorf("an entry too many: %s", e.Metadata)
			return
		}
		found[i] = true
		if problem := unstorable(e); problem != nil {
			f.bad++
			t.Error(problem)
		}
	})
	for i := range found {
		if !found[i] {
			f.lost++
		}
	}
}

func newPoisonRecorder(t *testing.T, store storage.Store) *recorder.Recorder {
	t.Helper()
	key := bytes.Repeat([]byte("k"), 32)
	p, err := profile.Builtin("better_auth")
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := recorder.NewSessions(p, key)
	if err != nil {
		t.Fatal(err)
	}
	redactor, err := redact.New(redact.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rec, err := recorder.New(recorder.Options{
		Profile: p, Sessions: sessions, Writer: recorder.NewWriter(store, log), Redactor: redactor, Logger: log,
		Capture: recorder.Capture{IPAddress: true, UserAgent: true, RequestBody: true}, Durability: recorder.Commit, KeepUsers: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// poisoner makes values that stores choke on. It is an auth server, too, whose answers
// are no better.
type poisoner struct{ *rand.Rand }

// nasty are values that were each found to erase an entry somewhere (X13, X14), or to
// show it wrongly.
var nasty = []string{
	"\x00", "\xff", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\ufffe", "\uffff", "\u202e", "\u2028", "\x1b[31m", "\r\n", "\u0085",
	`\u0000`, `\ud800`, `\\u0000`, `\`, `"`, `'; DROP TABLE auditLog; --`, "1e400", "{env.HOME}", "%00", "%ff", "\xe2\x80", "é", "😀",
}

// value is a random text that is likely to be poison.
func (p *poisoner) value() string {
	var b strings.Builder
	for range 1 + p.IntN(4) {
		switch p.IntN(6) {
		case 0:
			b.WriteString("plain")
		case 1:
			for range p.IntN(20) {
				b.WriteByte(byte(p.IntN(256)))
			}
		case 2:
			b.WriteString(strings.Repeat(nasty[p.IntN(len(nasty))], 1+p.IntN(3)))
		case 3:
			b.WriteRune(rune(p.IntN(0x110000)))
		default:
			b.WriteString(nasty[p.IntN(len(nasty))])
		}
	}
	if p.IntN(50) == 0 {
		return strings.Repeat(b.String(), 1+9000/(b.Len()+1)) // longer than any index takes
	}
	return b.String()
}

// document is a JSON body, or what looks like one.
func (p *poisoner) document() string {
	if p.IntN(100) == 0 {
		return `{"email":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`
	}
	text := func() string {
		if p.IntN(2) == 0 {
			return `"` + p.value() + `"`
		}
		b, _ := json.Marshal(p.value()) // a string
		return string(b)
	}
	return fmt.Sprintf(`{"email":%s,"userId":%s,%s:%s,"n":1e%d,"user":{"id":%s},"code":%s,"message":%s}`,
		text(), text(), text(), text(), p.IntN(500), text(), text(), text())
}

// Ask implements recorder.Asker: the session endpoint's answer is poison, too.
func (p *poisoner) Ask(*http.Request) (status int, body []byte, err error) {
	return 200, []byte(p.document()), nil
}

var poisonRoutes = []string{"/sign-in/email", "/sign-up/email", "/admin/set-role", "/delete-user", "/reset-password/", "/callback/", "/no-route/", "/"}

// exchange makes one exchange, and returns why a store that checks its text would have
// refused what came in, had it been kept as it came.
func (p *poisoner) exchange(t *testing.T, rec *recorder.Recorder, id string) error {
	var path, agent string
	for path == "" || !p.is(rec, path) {
		path = "/api/auth" + poisonRoutes[p.IntN(len(poisonRoutes))]
		if strings.HasSuffix(path, "/") {
			path += p.value()
		}
	}
	agent, sent, said := p.value(), p.document(), p.document()
	r := &http.Request{
		Method: []string{"POST", "PATCH", p.value()}[p.IntN(3)], URL: &url.URL{Path: path, RawQuery: p.value()}, RequestURI: path, Host: p.value(),
		Header: http.Header{"User-Agent": {agent}, "Content-Type": {[]string{"application/json", "application/x-www-form-urlencoded", p.value()}[p.IntN(3)]}},
		Body:   io.NopCloser(strings.NewReader(sent)),
	}
	if p.IntN(4) == 0 {
		r.Header.Set("Cookie", "better-auth.session_token="+p.value())
	}
	m, _ := rec.Profile.Match(r.Method, r.URL)
	address := []string{"192.0.2.1", p.value()}[p.IntN(2)]
	x, err := rec.Begin(httptest.NewRecorder(), r.WithContext(t.Context()), m, recorder.Facts{ClientIP: address, RequestID: id, Asker: p})
	if err != nil {
		t.Errorf("exchange %s was refused: %v", id, err)
		return nil
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w := x.Writer()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", "/?error="+p.value())
	w.WriteHeader([]int{200, 302, 400, 401, 500}[p.IntN(5)])
	_, _ = io.WriteString(w, said)
	if err := x.End(nil, http.StatusOK, false); err != nil {
		t.Errorf("exchange %s: %v", id, err)
	}
	return unstorable(&storage.Entry{Action: strings.TrimPrefix(path, "/api/auth/"), UserAgent: agent, IPAddress: address, Metadata: json.RawMessage(`{"requestBody":` + sent + `}`)})
}

// is says whether a path is to be recorded whatever comes of it.
func (p *poisoner) is(rec *recorder.Recorder, path string) bool {
	m, mine := rec.Profile.Match("POST", &url.URL{Path: path})
	return mine && m.Route.Record == profile.Always
}
