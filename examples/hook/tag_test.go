package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func TestTheLongestPrefixDecides(t *testing.T) {
	tag := Tag{Teams: map[string]string{"": "everybody", "admin:": "platform", "admin:ban": "safety"}}
	for _, c := range []struct{ action, metadata, want string }{
		{"admin:ban-user", `{"a":1}`, `{"a":1,"team":"safety"}`},
		{"admin:list-users", `{ }`, `{"team":"platform"}`},
		{"sign-out", ``, `{"team":"everybody"}`},
		{"sign-out", `{"team":"mine"}`, `{"team":"mine"}`},
	} {
		e, err := tag.BeforeLog(context.Background(), &storage.Entry{Action: c.action, Metadata: json.RawMessage(c.metadata)})
		if err != nil || string(e.Metadata) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.action, e.Metadata, err, c.want)
		}
	}
	if e, err := (&Tag{Teams: map[string]string{"admin:": "x"}}).BeforeLog(context.Background(), &storage.Entry{Action: "sign-out"}); err != nil || len(e.Metadata) != 0 {
		t.Errorf("an action without a team: %s, %v", e.Metadata, err)
	}
}

// TestTheReadme runs the Caddyfile of the README.
func TestTheReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	directive := regexp.MustCompile("(?s)\taudit_log \\{.*?\n\t\\}\n").FindString(string(readme))
	auth := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"token":null,"user":{"id":"ann"}}`)
	}))
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	harness.Load(t, harness.Site(dir, port, directive+"\treverse_proxy "+auth))
	res, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), "application/json", strings.NewReader(`{"email":"ann@example.com","password":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	page, err := harness.OpenStore(t, dir).List(context.Background(), storage.Query{})
	if entries := harness.Captured(page.Entries); err != nil || len(entries) != 1 || gjson.GetBytes(entries[0].Metadata, "team").Str != "identity" {
		t.Errorf("%+v, %v", page, err)
	}
}
