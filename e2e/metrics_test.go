package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

func itoa(n int) string { return strconv.Itoa(n) }

// call sends a request and returns status and body.
func call(t testing.TB, method, url, body string) (int, string) {
	t.Helper()
	resp, err := again(func() (*http.Response, error) { return tryCall(t, method, url, body) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// again sends a request until nobody breaks its connection: at a reload Linux does, for
// what waits at the socket of the old configuration (see checkLoad), and nobody has seen it.
func again(send func() (*http.Response, error)) (resp *http.Response, err error) {
	for range 5 {
		if resp, err = send(); err == nil || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			break
		}
	}
	return resp, err
}

func tryCall(t testing.TB, method, url, body string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true // a reload closes idle connections, and a POST is not sent again
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return http.DefaultClient.Do(r)
}

// authServer answers every sign-in with 401 and knows nobody's session.
func authServer(t testing.TB) string {
	return harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/get-session") {
			_, _ = io.WriteString(w, "null")
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"code":"INVALID_EMAIL_OR_PASSWORD","message":"Invalid email or password"}`)
	}))
}

var sample = regexp.MustCompile(`(?m)^(caddy_audit_log_[a-z_]+(?:\{[^}]*\})?) (\S+)$`)

// scrape returns the module's metrics as the admin endpoint shows them.
func scrape(t testing.TB, admin string) map[string]float64 {
	t.Helper()
	_, text := call(t, http.MethodGet, "http://"+admin+"/metrics", "")
	all := map[string]float64{}
	for _, m := range sample.FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		all[m[1]] = v
	}
	return all
}

// TestMetrics looks at the metrics of a running Caddy, and again after a reload.
func TestMetrics(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	upstream := authServer(t)
	config := func(directive string) string {
		return site(database(dir), port, upstream, "admin "+admin, directive)
	}
	startWithAdmin(t, dir, port, config("durability fsync"))
	signIn := func() {
		if status, body := call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"a@example.com","password":"x"}`); status != http.StatusUnauthorized {
			t.Fatal(status, body)
		}
	}
	for range 3 {
		signIn()
	}
	const written = "caddy_audit_log_written_total"
	check := func(when string, want map[string]float64) {
		t.Helper()
		got := scrape(t, admin)
		for end := time.Now().Add(hang); got[written] < want[written] && time.Now().Before(end); got = scrape(t, admin) { // that the log has started is written in the background
			time.Sleep(10 * time.Millisecond)
		}
		for name, value := range want {
			if v, ok := got[name]; !ok || v != value {
				t.Errorf("%s: %s is %v (there: %v), want %v", when, name, v, ok, value)
			}
		}
		if got["caddy_audit_log_store_bytes"] < 4096 || got["caddy_audit_log_write_seconds_sum"] <= 0 {
			t.Errorf("%s: %v bytes, writes took %v s", when, got["caddy_audit_log_store_bytes"], got["caddy_audit_log_write_seconds_sum"])
		}
	}
	check("after 3 sign-ins", map[string]float64{
		`caddy_audit_log_entries_total{class="sign-in",outcome="failed"}`:  3,
		`caddy_audit_log_entries_total{class="sign-in",outcome="success"}`: 0,
		`caddy_audit_log_lookups_total{result="failed"}`:                   0,
		written:                               4, // with audit-log:started
		"caddy_audit_log_write_seconds_count": 4,
		`caddy_audit_log_write_seconds_bucket{le="3"}`:         4,
		"caddy_audit_log_queue_length":                         0,
		"caddy_audit_log_dropped_total":                        0,
		"caddy_audit_log_write_errors_total":                   0,
		"caddy_audit_log_refused_total":                        0,
		"caddy_audit_log_unknown_routes_total":                 0,
		"caddy_audit_log_hook_failures_total":                  0,
		"caddy_audit_log_suppressed_total":                     0,
		"caddy_audit_log_events_dropped_total":                 0,
		"caddy_audit_log_forwarding_headers_dropped_total":     0,
		"caddy_audit_log_retention_deleted_total":              0,
		"caddy_audit_log_retention_last_run_timestamp_seconds": 0,
		"caddy_audit_log_retention_failed":                     0,
	})
	reload(t, admin, config("durability commit"))
	signIn()
	check("after a reload", map[string]float64{
		`caddy_audit_log_entries_total{class="sign-in",outcome="failed"}`: 4,
		written:                               6, // it has started with other options
		"caddy_audit_log_write_seconds_count": 6,
	})
}

// TestTheAdminAPI asks for the status and prunes through it.
func TestTheAdminAPI(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	seed(t, dir, 200, 100*day, 0)
	config := site(database(dir), port, authServer(t), "admin "+admin, "durability fsync")
	startWithAdmin(t, dir, port, strings.Replace(config, "\taudit_log {\n", "\taudit_log {\n\t\tretention 365d\n", 1))
	type status struct {
		Stores []struct {
			Store, Path string
			Open        bool
			Bytes       int
			Written     int
			Deleted     int
			Retention   *struct{ Keep, Every, LastRun, NextRun, Error string }
		}
	}
	get := func() (s status) {
		code, body := call(t, http.MethodGet, "http://"+admin+"/audit-log/status", "")
		if err := json.Unmarshal([]byte(body), &s); code != http.StatusOK || err != nil || len(s.Stores) != 1 {
			t.Fatal(code, body, err)
		}
		return s
	}
	for end := time.Now().Add(hang); get().Stores[0].Retention == nil && time.Now().Before(end); { // Caddy listens before it has started all of it
		time.Sleep(5 * time.Millisecond)
	}
	if s := get().Stores[0]; s.Store != "sqlite" || s.Path != database(dir) || !s.Open || s.Bytes < 4096 || s.Retention == nil ||
		s.Retention.Keep != "8760h0m0s" || s.Retention.Every != "1h0m0s" || s.Retention.NextRun == "" {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"POST", "/audit-log/prune", `{"olderThan":"90d","dryRun":true}`, 200, `"matched": 200,`},
		{"POST", "/audit-log/prune", `{"olderThan":"90d"}`, 200, `"deleted": 200`},
		{"POST", "/audit-log/prune", `{"olderThan":"90d"}`, 200, `"deleted": 0`},
		{"POST", "/audit-log/prune", `{"olderThan":"5m"}`, 400, "at least 1h0m0s"},
		{"POST", "/audit-log/prune", `{"dryRun":true}`, 400, "bad age"},
		{"POST", "/audit-log/prune", `{"olderthan":"90d","typo":1}`, 400, "the body must be like"},
		{"POST", "/audit-log/prune", ``, 400, "the body must be like"},
		{"GET", "/audit-log/prune", ``, 405, "use POST"},
		{"POST", "/audit-log/status", `{}`, 405, "use GET"},
	} {
		if code, body := call(t, c.method, "http://"+admin+c.path, c.body); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s %s %s: %d %s, want %d %s", c.method, c.path, c.body, code, body, c.code, c.want)
		}
	}
	if s := get().Stores[0]; s.Deleted != 200 {
		t.Errorf("%d deleted, want 200", s.Deleted)
	}
}
