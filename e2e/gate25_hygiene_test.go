package e2e

import (
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
)

// TestGate25Hygiene: files that nobody else can read whatever the umask (threats.md
// D14), queries that are never text (B11), nothing left behind (E4.5), and what a
// request costs (E6.4). The race detector is make test's: it runs with it on. Exports,
// backups and spool files are due here when they exist.
func TestGate25Hygiene(t *testing.T) {
	looks, open := modes(t)
	payloads, effects, naive := injections(t)
	before, after, requests := leaks(t)
	p50, p99, n := latency(t)
	gates.Print(t, 25, "%d looks at files and folders under umask 000, 022 and 077, %d open to others; %d SQL injections in two databases, %d with an effect (control, put into the text of a query: %d); goroutines %d -> %d after %d requests; added at 1,000 requests/s (%d, fsync): p50 %+.2f ms, p99 %+.2f ms",
		looks, open, payloads, effects, naive, before, after, requests, n, ms(p50), ms(p99))
	if open+effects > 0 || looks < 100 || payloads < 1000 || naive == 0 {
		t.Error("the figures must be 0 of hundreds, and more than 0 in the control")
	}
	if gates.Full() && (p50 > 2*time.Millisecond || p99 > 25*time.Millisecond) {
		t.Error("the bounds are 2 ms and 25 ms")
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Modes.

// modes runs Caddy with wide umasks in folders that it has to make, and looks at
// everything that it makes while it works.
func modes(t *testing.T) (looks, open int) {
	t.Helper()
	for _, umask := range []int{0, 0o022, 0o077} {
		dir, port := t.TempDir(), harness.FreePort(t)
		made := filepath.Join(dir, "made", "deeper")
		up := harness.Upstream(t, &sessionAuth{})
		old := syscall.Umask(umask)
		cmd := harness.Start(t, dir, port, anyHost(filepath.Join(made, "audit.db"), "", siteOf(port, singly(), up)))
		syscall.Umask(old)
		quit, done := make(chan struct{}), make(chan struct{})
		seen := map[string]bool{}
		go func() {
			defer close(done)
			for ; ; time.Sleep(time.Millisecond) {
				n, bad := lookAt(t, filepath.Join(dir, "made"), seen)
				looks, open = looks+n, open+bad
				select {
				case <-quit:
					return
				default:
				}
			}
		}()
		for i := range 50 {
			once(port, raw("POST", "/api/auth/sign-out", "modes", bearing(fmt.Sprint("user-", i))+jsonType, "{}"))
		}
		_ = cmd.Process.Signal(syscall.SIGTERM) // the log is moved, and its files go
		_, _ = cmd.Process.Wait()
		close(quit)
		<-done
		for _, name := range []string{"audit.db", "audit.db-wal", "audit.db-shm", "hash.key"} {
			if !seen[name] {
				t.Errorf("umask %03o: %s was never there to be looked at", umask, name)
			}
		}
	}
	return looks, open
}

// lookAt looks at the modes of everything below dir, and dir.
func lookAt(t *testing.T, dir string, seen map[string]bool) (looks, open int) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		info, statErr := os.Lstat(path)
		if err != nil || statErr != nil {
			return nil //nolint:nilerr // it went meanwhile
		}
		looks++
		seen[filepath.Base(path)] = true
		if info.Mode().Perm()&0o077 != 0 {
			open++
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return nil
	})
	return looks, open
}

// Injections.

var injected = []string{
	`'`, `"`, "`", `;`, `--`, `/*`, `\`, `%`, `_`, `' OR '1'='1`, `' OR 1=1--`, `" OR ""="`, `') OR ('1'='1`, `1 OR 1=1`, `1; DROP TABLE auditLog`, `'; DROP TABLE auditLog; --`,
	`'; DELETE FROM auditLog; --`, `'; UPDATE auditLog SET userId='alice'; --`, `' UNION SELECT 1,2,3,4,5,6,7,8,9--`, `' UNION ALL SELECT sql FROM sqlite_master--`, `x' AND 1=(SELECT count(*) FROM sqlite_master)--`,
	`'||(SELECT hex(randomblob(100)))||'`, `' AND substr((SELECT userId FROM auditLog LIMIT 1),1,1)='a`, `'; ATTACH DATABASE '/tmp/x' AS x; --`, `'; PRAGMA writable_schema=ON; --`, `' OR userId LIKE '%`, `%' OR '1'='1`, `_%_`,
	`' COLLATE NOCASE--`, `admin'--`, `$1`, `?1`, `:userId`, `@x`, `{{1}}`, `${1}`, `x'00'`, `0x10`, `1e3`, `+5`, ` 5`, `5;`, `NaN`, `9223372036854775808`, `-1`, "\x00", "1\x00' OR 1=1--", `＇ OR 1=1--`, `%27%20OR%201=1`,
}

// fields are where they go; text says that the field is one that an entry could have.
var fields = []struct {
	name string
	text bool
}{
	{"userId", true}, {"action", true}, {"q", true}, {"status", false}, {"severity", false}, {"from", false}, {"to", false}, {"limit", false}, {"offset", false}, {"cursor", false}, {"id", true},
}

// injections sends every payload in every field, as somebody without entries and as an
// administrator, to a log in each of the databases. A payload has an effect if it finds
// anything, changes anything, or breaks anything.
func injections(t *testing.T) (payloads, effects, naive int) {
	t.Helper()
	t.Run("injections", func(t *testing.T) { // Caddy ends with it
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		config := anyHost(database(dir), trusting, siteOf(port, singly("admins {\n\t\t\trole admin\n\t\t}"), harness.Upstream(t, &sessionAuth{})))
		harness.Load(t, config)
		payloads, effects = injectAll(t, port, harness.OpenStore(t, dir), "sqlite", database(dir), "SELECT coalesce(sql, name) FROM sqlite_master ORDER BY 1")
		naive = concatenated(t, database(dir))
		server := pgtest.Start(t)
		harness.Load(t, inPostgres(config, dir, server.DSN()))
		n, bad := injectAll(t, port, openLog(t, server), "pgx", server.DSN(), "SELECT table_name || '.' || column_name || data_type FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1")
		payloads, effects = payloads+n, effects+bad
	})
	return payloads, effects, naive
}

// injectAll sends them to one log.
func injectAll(t *testing.T, port int, store interface {
	storage.Store
	storage.Lister
}, driver, source, schema string) (payloads, effects int) {
	t.Helper()
	awaitStart(t, store)
	for i := range 50 {
		e := storage.Entry{UserID: "victim" + string(rune('a'+i%5)), Action: "marker", Status: storage.Success, Severity: severity.Low}
		e.Sanitize()
		if err := store.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	before := digest(t, driver, source, schema)
	for _, payload := range injected {
		for _, field := range fields {
			payloads++
			for _, user := range []string{"mallory", "root"} {
				if problem := inject(port, payloads, user, field.name, payload, field.text); problem != "" {
					effects++
					t.Errorf("%s: %s: %s=%q: %s", driver, user, field.name, payload, problem)
				}
			}
		}
	}
	if digest(t, driver, source, schema) != before {
		effects++
		t.Errorf("%s: the database is not what it was", driver)
	}
	return payloads, effects
}

// concatenated puts the payloads into the text of a query, over a connection that
// cannot write, and returns how many find something or break it.
func concatenated(t *testing.T, file string) (effects int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, payload := range injected {
		var n int
		err := db.QueryRow("SELECT count(*) FROM auditLog WHERE userId = '" + payload + "'").Scan(&n) //nolint:gosec // that is the point
		if err != nil || n > 0 {
			effects++
		}
	}
	return effects
}

// inject sends one payload and says what effect it had; "" for none.
func inject(port, n int, user, field, payload string, text bool) string {
	target := "/api/auth/audit-log/list?limit=10&" + field + "=" + url.QueryEscape(payload)
	switch {
	case field == "limit":
		target = "/api/auth/audit-log/list?limit=" + url.QueryEscape(payload)
	case field == "id":
		target = "/api/auth/audit-log/" + url.PathEscape(payload)
	case user == "root" && field != "userId":
		target += "&scope=all"
	}
	status, body := once(port, raw("GET", target, "injection", from(client(n))+bearing(fmt.Sprintf("%s-%d", user, n)), ""))
	if status == 0 || status >= 500 {
		return fmt.Sprintf("status %d %s", status, body)
	}
	var page struct{ Entries []json.RawMessage }
	if json.Unmarshal(body, &page) != nil && field != "id" {
		return string(body)
	}
	// Numbers and dates may be valid, and then an administrator sees a page.
	if len(page.Entries) > 0 && (text || user != "root") || field == "id" && status == http.StatusOK {
		return fmt.Sprintf("it finds %d entries: %.200s", len(page.Entries), body)
	}
	return ""
}

// digest is a hash of the schema, as a query tells it, and of everything in the view.
func digest(t *testing.T, driver, source, schema string) string {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	view := `SELECT id || '/' || coalesce("userId", '-') || action || status || severity || CAST(metadata AS TEXT) || CAST("createdAt" AS TEXT) FROM "auditLog" ORDER BY 1`
	sum := sha256.New()
	for _, query := range []string{schema, view} {
		if err := eachText(db, query, func(s string) { _, _ = io.WriteString(sum, s+"\n") }); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// eachText calls f with each row of a query for one text.
func eachText(db *sql.DB, query string, f func(string)) error {
	rows, err := db.Query(query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		f(s)
	}
	return rows.Err()
}

// Leaks.

// leaks sends what may leave something behind, ends Caddy, and looks what is left.
func leaks(t *testing.T) (before, after, requests int) {
	t.Helper()
	t.Run("leaks", func(t *testing.T) {
		harness.Use(t)
		dir, port := t.TempDir(), harness.FreePort(t)
		auth := &sessionAuth{}
		up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			switch r.Header.Get("X-Case") {
			case "aborted":
				panic(http.ErrAbortHandler)
			case "half":
				_, _ = io.WriteString(w, `{"half":`)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			auth.ServeHTTP(w, r)
		}))
		config := anyHost(database(dir), "", siteOf(port, singly("durability commit"), up))
		use := func(n int) {
			parallel(n, 8, func(i int) { leave(port, i) })
		}
		for range 2 { // what Caddy and SQLite start once for the process
			harness.Load(t, config)
			use(16)
			stop(t)
		}
		at := settle(leftovers{})
		harness.Load(t, config)
		requests = gates.Figure(400, 20_000)
		use(requests)
		stop(t)
		left := checkLeftovers(t, at, dir)
		before, after = at.goroutines, left.goroutines
	})
	return before, after, requests
}

// leave makes the i-th exchange, in one of several ways.
func leave(port, i int) {
	user := bearing(fmt.Sprint("user-", i%50))
	switch i % 8 {
	case 0:
		once(port, raw("POST", "/api/auth/sign-out", "aborted", user+jsonType, "{}"))
	case 1:
		once(port, raw("POST", "/api/auth/update-user", "half", user+jsonType, "{}"))
	case 2:
		once(port, raw("GET", "/api/auth/audit-log/list", "read", user, ""))
	case 3:
		if c, err := connect(port); err == nil { // a client that leaves
			_, _ = io.WriteString(c, raw("POST", "/api/auth/update-user", "gone", user+jsonType+"Content-Length: 50\r\n", ""))
			_ = c.Close()
		}
	case 4:
		once(port, raw("POST", "/api/auth/sign-in/email", "sign-in", jsonType, typed))
	default:
		once(port, raw("POST", "/api/auth/update-user", "update", user+jsonType, "{}"))
	}
}

// Latency.

// latency is what the log adds to a sign-in at 1,000 requests a second, with the
// default durability.
func latency(t *testing.T) (p50, p99 time.Duration, n int) {
	t.Helper()
	up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "better-auth.session_token=t0k3n; Path=/")
		_, _ = io.WriteString(w, signedIn)
	}))
	n = 1000 * gates.Figure(2, 20)
	measure := func(directive string) []time.Duration {
		s := startSized(t, directive, "reverse_proxy "+up)
		paced(t, s.port, 500)
		return paced(t, s.port, n)
	}
	plain, audited := measure(""), measure(singly())
	at := func(times []time.Duration, percent int) time.Duration { return times[len(times)*percent/100] }
	t.Logf("p50 %v without the module, %v with it; p99 %v and %v", at(plain, 50), at(audited, 50), at(plain, 99), at(audited, 99))
	return at(audited, 50) - at(plain, 50), at(audited, 99) - at(plain, 99), n
}

// paced sends n sign-ins at 1,000 a second over 64 connections, and returns how long
// each took, sorted.
func paced(t *testing.T, port, n int) []time.Duration {
	t.Helper()
	const conns = 64
	times := make([]time.Duration, n)
	began := time.Now()
	var wg sync.WaitGroup
	for worker := range conns {
		wg.Go(func() {
			c, err := connect(port)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			for i := worker; i < n; i += conns {
				time.Sleep(time.Until(began.Add(time.Duration(i) * time.Millisecond)))
				sent := time.Now()
				if res, _, err := c.do(raw("POST", "/api/auth/sign-in/email", "paced", jsonType, typed)); err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("%v, %v", res, err)
					return
				}
				times[i] = time.Since(sent)
			}
		})
	}
	wg.Wait()
	slices.Sort(times)
	return times
}
