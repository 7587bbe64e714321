package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// spillSite is a Caddy of its own whose database things happen to.
type spillSite struct {
	t         *testing.T
	dir       string
	port      int
	admin     string
	up        string
	directive string // lines of audit_log
	cmd       *exec.Cmd
}

func startSpillSite(t *testing.T, sqlite string) *spillSite {
	t.Helper()
	s := &spillSite{t: t, dir: t.TempDir(), up: authServer(t), directive: "fail closed"}
	s.start(sqlite)
	return s
}

// start has more lines in the block of the store.
func (s *spillSite) start(sqlite string) {
	s.t.Helper()
	s.port, s.admin = harness.FreePort(s.t), "127.0.0.1:"+itoa(harness.FreePort(s.t))
	s.cmd = startWithAdmin(s.t, s.dir, s.port, s.config(sqlite, "hash.key"))
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, body := call(s.t, http.MethodGet, "http://"+s.admin+"/audit-log/health", ""); strings.Contains(body, database(s.dir)) && scrape(s.t, s.admin)["caddy_audit_log_written_total"] > 0 {
			return // Caddy answers before it has opened its stores; the log says that it has started
		}
	}
}

func (s *spillSite) config(sqlite, key string) string {
	c := site(database(s.dir), s.port, s.up, "admin "+s.admin, s.directive)
	c = strings.Replace(c, "output discard", "output stderr\n\t\tlevel WARN\n\t\texclude audit_log.entries", 1) // shown when a test fails
	c = strings.Replace(c, "/hash.key", "/"+key, 1)
	return strings.Replace(c, "\t\t\tpath ", "\t\t\t"+sqlite+"\n\t\t\tpath ", 1)
}

// signIn returns the status of the answer and how long it took.
func (s *spillSite) signIn() (int, time.Duration) {
	began := time.Now()
	res, err := again(func() (*http.Response, error) {
		return tryCall(s.t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", s.port), `{"email":"a@example.com"}`)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	_ = res.Body.Close() // its status says it all
	return res.StatusCode, time.Since(began)
}

// record signs in, which must be recorded, in time.
func (s *spillSite) record(n int) {
	s.t.Helper()
	for range n {
		if code, took := s.signIn(); code != http.StatusUnauthorized || took > 3*time.Second {
			s.t.Errorf("a sign-in was answered %d after %v", code, took)
		}
	}
}

// spillHealth is what the admin endpoint says.
type spillHealth struct {
	State  string
	Stores []struct {
		Store, Path, State, Reason, Remedy, LastError string
		Waiting                                       int
		Since                                         time.Time
	}
}

func (s *spillSite) health() (int, spillHealth) {
	s.t.Helper()
	code, body := call(s.t, http.MethodGet, "http://"+s.admin+"/audit-log/health", "")
	var h spillHealth
	if err := json.Unmarshal([]byte(body), &h); err != nil || len(h.Stores) != 1 || h.Stores[0].Path != database(s.dir) {
		s.t.Fatalf("%d %s: %v", code, body, err)
	}
	return code, h
}

// await waits for a state.
func (s *spillSite) await(state string) spillHealth {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, h := s.health()
		if h.State == state {
			return h
		}
		if time.Now().After(end) {
			s.t.Fatalf("it is still %+v", h)
		}
	}
}

func (s *spillSite) lock() (release func()) {
	s.t.Helper()
	return lockDatabase(s.t, database(s.dir))
}

// lockDatabase takes the write lock of a database until release is called.
func lockDatabase(t *testing.T, file string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err == nil {
		_, err = conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		_, _ = conn.ExecContext(context.Background(), "ROLLBACK")
		_, _ = conn.Close(), db.Close()
	}
}

func TestSpillEntriesWaitWhileTheDatabaseIsLocked(t *testing.T) {
	s := startSpillSite(t, "spill 8MiB")
	s.record(2)
	if code, h := s.health(); code != http.StatusOK || h.State != "healthy" || h.Stores[0].Waiting != 0 {
		t.Errorf("%d %+v", code, h)
	}
	release := s.lock()
	s.record(20)
	code, h := s.health()
	if st := h.Stores[0]; code != http.StatusOK || h.State != "degraded" || st.Reason != "locked by another process" || st.Waiting != 20 ||
		!strings.Contains(st.Remedy, database(s.dir)) || st.LastError == "" || time.Since(st.Since) > time.Minute {
		t.Errorf("%d %+v", code, h)
	}
	m := scrape(t, s.admin)
	if m["caddy_audit_log_spilled_entries"] != 20 || m[`caddy_audit_log_health{state="degraded"}`] != 1 || m[`caddy_audit_log_health{state="healthy"}`] != 0 || m["caddy_audit_log_write_errors_total"] != 0 {
		t.Errorf("%v", m)
	}
	// Other options of the store have the same database and the same journal.
	reload(t, s.admin, s.config("spill 16MiB", "other.key"))
	s.record(5)
	waiting := func() spillHealth { _, h := s.health(); return h }
	for end := time.Now().Add(hang); waiting().Stores[0].Waiting < 27 && time.Now().Before(end); { // with the stop of one and the start of the other
		time.Sleep(10 * time.Millisecond)
	}
	if h := waiting(); h.State != "degraded" || h.Stores[0].Waiting != 27 {
		t.Errorf("after a reload %+v", h)
	}
	release()
	began := time.Now()
	s.await("healthy")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("well again after %v", took)
	}
	s.record(1)
	if n := len(entriesIn(t, database(s.dir), time.Time{})); n != 28 {
		t.Errorf("%d entries, want 28", n)
	}
}

func TestSpillOffRefusesWhileTheDatabaseIsLocked(t *testing.T) {
	s := startSpillSite(t, "spill off")
	s.record(1)
	if _, err := os.Stat(database(s.dir) + ".spill"); err == nil {
		t.Error("there is a journal")
	}
	release := s.lock()
	if code, took := s.signIn(); code != http.StatusServiceUnavailable || took > 4*time.Second {
		t.Errorf("%d after %v", code, took)
	}
	if code, h := s.health(); code != http.StatusServiceUnavailable || h.State != "refusing" || h.Stores[0].Reason != "locked by another process" {
		t.Errorf("%d %+v", code, h)
	}
	release()
	s.await("healthy")
	s.record(1)
}

func TestSpillADatabaseThatIsRemovedIsMadeAnew(t *testing.T) {
	s := startSpillSite(t, "spill 8MiB")
	s.record(3)
	if err := os.Remove(database(s.dir)); err != nil {
		t.Fatal(err)
	}
	s.record(10)
	s.await("healthy")
	s.record(1)
	if n := len(entriesIn(t, database(s.dir), time.Time{})); n != 11 {
		t.Errorf("%d entries, want the 11 since then", n)
	}
	checkIntegrity(t, database(s.dir))
}

// TestSpillIsReadByTheNextStart kills Caddy while entries wait.
func TestSpillIsReadByTheNextStart(t *testing.T) {
	s := startSpillSite(t, "spill 8MiB")
	s.record(1)
	release := s.lock()
	s.record(10)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait() // it was killed
	release()
	s.cmd = startWithAdmin(t, s.dir, s.port, s.config("spill 8MiB", "hash.key"))
	if _, h := s.health(); h.State != "healthy" || h.Stores[0].Waiting != 0 {
		t.Errorf("%+v", h)
	}
	if n := len(entriesIn(t, database(s.dir), time.Time{})); n != 11 {
		t.Errorf("%d entries, want 11", n)
	}
}
