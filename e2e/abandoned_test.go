package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestWhoListensHearsOfWhatAKilledCaddyHasLeft: the next start tells of the requests whose outcome
// nobody knows, once. A copy elsewhere would lack the very deletion that may have happened.
func TestWhoListensHearsOfWhatAKilledCaddyHasLeft(t *testing.T) {
	reached := make(chan string, 1)
	up := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if !strings.HasSuffix(r.URL.Path, "/delete-user") {
			_, _ = io.WriteString(w, `{"user":{"id":"alice"},"session":{"id":"s","userId":"alice"}}`)
			return
		}
		reached <- r.URL.Path
		<-r.Context().Done() // for as long as Caddy lives
	}))
	dir, port := t.TempDir(), harness.FreePort(t)
	sink, admin := filepath.Join(dir, "sink.json"), "127.0.0.1:"+itoa(harness.FreePort(t))
	config := site(database(dir), port, up, "admin "+admin+"\n\tlog sink {\n\t\tinclude audit_log.entries\n\t\toutput file "+sink+"\n\t}", "durability fsync")
	told := func() (all []string) {
		for _, line := range lines(t, sink) {
			all = append(all, strings.TrimSpace(line.Get("action").Str+" "+line.Get("status").Str+" "+line.Get("userId").Str))
		}
		return all
	}

	cmd := startWithAdmin(t, dir, port, config)
	base := fmt.Sprintf("http://127.0.0.1:%d/api/auth", port)
	if code, body := call(t, http.MethodPost, base+"/update-user", `{"name":"x"}`); code != http.StatusOK {
		t.Fatal(code, body)
	}
	reload(t, admin, strings.Replace(config, "durability fsync", "durability commit", 1)) // a start of its own, but not of a process
	go func() {
		res, err := http.Post(base+"/delete-user", "application/json", strings.NewReader(`{}`))
		if err == nil { // Caddy is killed
			_ = res.Body.Close()
		}
	}()
	select {
	case <-reached:
	case <-time.After(hang):
		t.Fatal("the deletion did not reach the auth server")
	}
	reload(t, admin, config)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if all := strings.Join(told(), "\n"); !strings.Contains(all, "update-user success") || strings.Contains(all, "delete-user") {
		t.Fatalf("before the next start the copy has:\n%s", all)
	}

	for range 2 { // the second start has nothing to tell
		cmd = startWithAdmin(t, dir, port, config)
		n := 0
		for end := time.Now().Add(10 * time.Second); n == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			n = strings.Count(strings.Join(told(), "\n"), "delete-user unknown")
		}
		time.Sleep(100 * time.Millisecond)
		if code, _ := call(t, http.MethodPost, "http://"+admin+"/stop", ""); code != http.StatusOK {
			t.Fatal(code)
		}
		_ = cmd.Wait()
		if all := strings.Join(told(), "\n"); strings.Count(all, "delete-user") != 1 || strings.Count(all, "update-user") != 1 {
			t.Fatalf("the copy has:\n%s", all)
		}
	}
}
