package e2e

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

const day = 24 * time.Hour

// seed writes n entries of each age into the database in dir.
func seed(t testing.TB, dir string, n int, ages ...time.Duration) {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: database(dir)})
	if err != nil {
		t.Fatal(err)
	}
	for _, age := range ages {
		var batch []storage.Entry
		for range n {
			e := storage.Entry{Action: "sign-out", Status: storage.Success, UserAgent: "seed", CreatedAt: time.Now().Add(-age)}
			e.Sanitize()
			batch = append(batch, e)
		}
		if err := s.Write(context.Background(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// keeping is harness.Site with a retention.
func keeping(dir string, port int, retention, directives string) string {
	return strings.Replace(harness.Site(dir, port, directives), "\taudit_log {\n", "\taudit_log {\n\t\tretention "+retention+"\n", 1)
}

// left waits until the store has want captured entries, and returns how many it has.
func left(t testing.TB, s *sqlite.Store, want int) int {
	t.Helper()
	n := -1
	for end := time.Now().Add(30 * time.Second); n != want && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		if n, err = s.CountBefore(context.Background(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		n -= ownOf(t, s)
	}
	return n
}

// TestRetention runs Caddy with a retention on a database with old entries, and
// reloads it with others, one of them in a configuration that does not start.
func TestRetention(t *testing.T) {
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	seed(t, dir, 500, 100*day, 40*day, 5*day, 0)
	const directives = "\t" + pinned + "\n\trespond 401"
	harness.Load(t, keeping(dir, port, "90d", directives))
	s := harness.OpenStore(t, dir)
	if n := left(t, s, 1500); n != 1500 {
		t.Fatalf("retention 90d leaves %d entries, want 1500", n)
	}

	taken := harness.FreePort(t)
	blocker := &http.Server{Addr: "127.0.0.1:" + itoa(taken), ReadHeaderTimeout: time.Minute}
	go func() { _ = blocker.ListenAndServe() }() // ends with Close below
	t.Cleanup(func() { _ = blocker.Close() })
	harness.WaitFor(t, blocker.Addr)
	if err := harness.TryLoad(t, keeping(dir, taken, "1h", directives)); err == nil {
		t.Fatal("a configuration on a port that is taken was loaded")
	}
	resp, err := http.Post("http://127.0.0.1:"+itoa(port)+"/api/auth/sign-in/email", "application/json", strings.NewReader(`{"email":"a@example.com"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	time.Sleep(11 * time.Second) // a run of the retention that failed would have come
	if n := left(t, s, 1501); n != 1501 {
		t.Errorf("after a reload that failed %d entries are left, want 1501", n)
	}

	harness.Load(t, keeping(dir, port, "30d", directives))
	if n := left(t, s, 1001); n != 1001 {
		t.Errorf("retention 30d leaves %d entries, want 1001", n)
	}
	// A run ends, and is logged, a rest after its last deletion.
	runs := 0
	for end := time.Now().Add(30 * time.Second); runs < 2 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		log, err := os.ReadFile(filepath.Join(dir, "caddy.log"))
		if err != nil {
			t.Fatal(err)
		}
		runs = strings.Count(string(log), "retention: old audit log entries deleted")
	}
	if runs < 2 {
		t.Errorf("%d runs are in Caddy's log, want at least 2", runs)
	}
	stop(t)
	checkIntegrity(t, database(dir))
}
