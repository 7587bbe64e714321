package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestWhoHasReadTheLogIsInIt, with `reads on`: an administrator through the users' API, and an
// operator by the name that Caddy knows (threats.md C26). Whoever reads what is their own is not.
func TestWhoHasReadTheLogIsInIt(t *testing.T) {
	harness.Use(t)
	dir, port, operators := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	config := func(reads string) string {
		sites := anyHost(database(dir), trusting, siteOf(port, singly("admins {\n\t\t\trole admin\n\t\t}"), harness.Upstream(t, &sessionAuth{})),
			operatorSite("127.0.0.1", operators, "basic_auth {\n\t\tolga "+string(hash)+"\n\t}", "", "127.0.0.1:9"))
		return strings.Replace(sites, "\t\tkey_file", reads+"\t\tkey_file", 1)
	}
	read := func() {
		t.Helper()
		for i, who := range []string{"alice", "root"} {
			path := "/api/auth/audit-log/list"
			if who == "root" {
				path += "?scope=all"
			}
			for range 2 {
				status, body := 0, []byte(nil)
				for try := 0; status == 0 && try < 5; try++ { // a reload may break a connection, which nobody has seen
					status, body = once(port, raw("GET", path, "reads", from(client(i))+bearing(who), ""))
				}
				if status != http.StatusOK {
					t.Fatalf("%s: %d %s", who, status, body)
				}
			}
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/audit-log/list", operators), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("olga", "secret")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != http.StatusOK {
			t.Fatalf("olga: %d", res.StatusCode)
		}
	}
	harness.Load(t, config(""))
	read()
	harness.Load(t, config("\t\treads on\n"))
	read()
	stop(t)
	var said []string
	for _, e := range all(t, harness.OpenStore(t, dir), storage.Query{Action: "audit-log:read"}) {
		m := gjson.ParseBytes(e.Metadata)
		said = append(said, fmt.Sprintf("%s%s %s %d %s", e.UserID, m.Get("operator").Str, e.Status, m.Get("count").Int(), m.Get("endpoints").Raw))
	}
	slices.Sort(said)
	if want := []string{`olga success 1 {"list":1}`, `root success 2 {"list":2}`}; !slices.Equal(said, want) {
		t.Errorf("the log says %q, want %q", said, want)
	}
}
