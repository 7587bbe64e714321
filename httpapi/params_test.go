package httpapi_test

import (
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// TestAMisspeltFilterSelectsNothing: it would select everything. The plugin's own paths ignore what
// they do not know, as the plugin does.
func TestAMisspeltFilterSelectsNothing(t *testing.T) {
	store := memory.New(0)
	many(t, store, 3)
	s, streams := following(t, store, t.Context())
	users := newAPI(t, store)
	users.Streams = streams
	for _, c := range []struct{ path, want string }{
		{"/list?user=nobody&since=24h", "[query.since] Unknown parameter: did you mean from?; [query.user] Unknown parameter: did you mean userId?"},
		{"/list?staus=failed", "[query.staus] Unknown parameter: did you mean status?"},
		{"/list?userid=u_123", "did you mean userId?"},
		{"/list?STATUS=failed", "did you mean status?"},
		{"/list?step=1", "[query.step] Unknown parameter"},
		{"/list?store=audit.db", "[query.store] Unknown parameter"},
		{"/list?_=1796147725000", "[query._] Unknown parameter: there are action, class, "},
		{"/list?=x", "[query.] Unknown parameter"},
		{"/list?%00%ff=x", "Unknown parameter"},
		{"/export?format=csv&user=u_123", "did you mean userId?"},
		{"/export?formatt=csv&format=csv", "did you mean format?"},
		{"/tally?sevrity=high", "did you mean severity?"},
		{"/histogram?from=2026-01-01&to=2026-01-02&step=3600000&stepp=1", "did you mean step?"},
		{"/tail?stauts=failed", "did you mean status?"},
	} {
		if status, body := fetch(t, s.URL+c.path); status != 400 || !strings.Contains(body, c.want) || !strings.Contains(body, "VALIDATION_ERROR") {
			t.Errorf("operators %s: %d %s, want %s", c.path, status, body, c.want)
		}
		want := 400
		if strings.HasPrefix(c.path, "/list") {
			want = 200
		}
		if got := users.do(t, get(c.path), "user-1", "192.0.2.1"); got.Code != want {
			t.Errorf("users %s: %d %s, want %d", c.path, got.Code, got.Body, want)
		}
		users.Limiter, _ = httpapi.NewLimiter()
	}
	for _, path := range []string{"/list-audit-logs?user=x", "/list?query=x"} { // of the plugin's client
		if got := users.do(t, get(path), "user-1", "192.0.2.1"); got.Code != 200 {
			t.Errorf("%s: %d %s", path, got.Code, got.Body)
		}
	}
	if status, body := fetch(t, s.URL+"/access?x=y"); status != 200 { // it has no filters
		t.Errorf("access: %d %s", status, body)
	}
}
