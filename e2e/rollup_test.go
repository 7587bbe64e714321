package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestAFloodThroughARealCaddyRollsUp sends floods of each kind from several clients, reloads
// in the middle, stops, and counts: no event may be missing, and none twice.
func TestAFloodThroughARealCaddyRollsUp(t *testing.T) {
	const clients, each = 4, 150
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	upstream := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"code":"NO"}`)) // the client may be gone
	}))
	config := harness.Site(dir, port, "\taudit_log {\n\t\tprofile better_auth\n\t\trollup 10\n\t}\n\treverse_proxy "+upstream)
	config = strings.Replace(config, "\tpersist_config off\n", "\tpersist_config off\n\tservers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t}\n", 1)

	base := fmt.Sprintf("http://127.0.0.1:%d/api/auth", port)
	flood := func(client int) {
		for n := range each / 2 {
			for _, q := range []struct{ method, path string }{
				{"GET", fmt.Sprintf("/junk-%d.php", n)}, {"GET", "/list-sessions"}, {"POST", "/sign-in/email"}, {"POST", "/admin/ban-user"},
			} {
				r, err := http.NewRequestWithContext(t.Context(), q.method, base+q.path, strings.NewReader(fmt.Sprintf(`{"email":"u%d@example.com"}`, n%7)))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", client))
				r.Header.Set("Content-Type", "application/json")
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				_ = res.Body.Close()
				if res.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s %s: %d", q.method, q.path, res.StatusCode)
				}
			}
		}
	}
	for _, limit := range []string{"rollup 10", "rollup 11"} { // what is counted outlives a reload
		harness.Load(t, strings.Replace(config, "rollup 10", limit, 1))
		var wg sync.WaitGroup
		for client := range clients {
			wg.Go(func() { flood(client) })
		}
		wg.Wait()
	}
	stop(t)
	checkFlood(t, database(dir), clients, each)
}

// checkFlood adds up what the log holds. A minute may end within the flood, so the number
// of roll-ups is only bounded.
func checkFlood(t *testing.T, file string, clients, each int) {
	t.Helper()
	single, rolled, rows := map[string]int{}, map[string]int{}, 0
	for _, e := range entriesIn(t, file, time.Time{}) {
		kind, isRollUp := strings.CutPrefix(e.Action, "audit-log:rolled-up:")
		if !isRollUp {
			single[metadataOf(t, &e).Class]++
			continue
		}
		var m struct{ Count, Identifiers int }
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			t.Fatal(err)
		}
		rolled[kind] += m.Count
		if rows++; e.IPAddress == "" || m.Count == 0 || (m.Identifiers > 0) != (kind == "sign-in") {
			t.Errorf("%+v %s", e, e.Metadata)
		}
	}
	for kind, class := range map[string]string{"unknown": "custom", "check": "session", "sign-in": "sign-in"} {
		if sum := single[class] + rolled[kind]; sum != clients*each || single[class] > 11*clients {
			t.Errorf("%s: %d single and %d rolled up, want %d together and at most %d single", kind, single[class], rolled[kind], clients*each, 11*clients)
		}
	}
	if single["admin"] != clients*each || rows > 3*clients*4 {
		t.Errorf("%d entries of administrators, want %d; %d roll-ups", single["admin"], clients*each, rows)
	}
}
