package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestTheAdminEndpointHasTheWholeLog, of the store that the request names, and ends what
// lasts when the configuration ends.
func TestTheAdminEndpointHasTheWholeLog(t *testing.T) {
	dir, port, address := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db := database(dir)
	config := site(db, port, authServer(t), "admin "+address, "durability fsync")
	startWithAdmin(t, dir, port, config)
	once(port, raw("POST", "/api/auth/sign-in/email", "somebody's agent", "Host: 127.0.0.1:"+itoa(port)+"\r\n"+jsonType, typed))
	entries := "http://" + address + "/audit-log/entries/"
	for path, want := range map[string]string{
		"list": `"userAgent":"somebody's agent"`, "list?store=sqlite": `"total":2`, "list?store=" + url.QueryEscape(db): `"total":2`, "access": `"surface":"operator"`, "tally": `"count":1`,
		"export?format=jsonl": `"sign-in:email"`, "export?format=csv": "sign-in:email",
	} {
		if code, body := call(t, http.MethodGet, entries+path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for path, want := range map[string]int{"list?store=postgres": 404, "": 404, "viewer/x.js": 404, "no-such-id": 404} {
		if code, body := call(t, http.MethodGet, entries+path, ""); code != want {
			t.Errorf("%q: %d %s, want %d", path, code, body, want)
		}
	}
	if code, body := call(t, http.MethodPost, entries+"list", "{}"); code != 405 {
		t.Errorf("%d %s", code, body)
	}
	o := tail(t, adminPort(address), "/audit-log/entries/tail", "Host: "+address+"\r\n")
	if _, ok := o.until(t, func(e tailEvent) bool { return strings.Contains(e.data, "sign-in:email") }); !ok {
		t.Errorf("a tail shows nothing: %d", o.status)
	}
	other := strings.Replace(db, "audit.db", "other.db", 1)
	two := strings.Replace(config, "durability fsync", "durability commit", 1)
	two += fmt.Sprintf("http://127.0.0.1:%d {\n\taudit_log_api {\n\t\tstore sqlite {\n\t\t\tpath %s\n\t\t}\n\t}\n}\n", harness.FreePort(t), other)
	reload(t, address, two)
	if _, ok := o.until(t, isEnd("SHUTDOWN")); !ok {
		t.Error("the tail does not end with the configuration")
	}
	if code, body := call(t, http.MethodGet, entries+"list", ""); code != 409 || !strings.Contains(body, db) || !strings.Contains(body, "?store=") {
		t.Errorf("two stores: %d %s", code, body)
	}
	if code, body := call(t, http.MethodGet, entries+"list?store="+url.QueryEscape(db), ""); code != 200 || !strings.Contains(body, `"total":3`) { // it has started twice
		t.Errorf("one of two stores: %d %s", code, body)
	}
}

func adminPort(address string) (port int) {
	_, _ = fmt.Sscanf(address, "127.0.0.1:%d", &port)
	return port
}

// TestAReloadEndsTails and waits for none, however long requests may take.
func TestAReloadEndsTails(t *testing.T) {
	harness.Use(t)
	dir, port, operators := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	up := harness.Upstream(t, &sessionAuth{})
	config := strings.Replace(anyHost(database(dir), trusting, siteOf(port, singly(), up), siteOf(operators, "audit_log_api", up)), "\tgrace_period 10s\n", "", 1)
	harness.Load(t, config)
	own := tail(t, port, "/api/auth/audit-log/tail", bearing("user-1"))
	all := tail(t, operators, "/audit-log/tail", "Host: localhost\r\n")
	harness.Load(t, strings.Replace(config, "rollup off", "rollup 5", 1))
	for name, o := range map[string]*openTail{"the own surface": own, "the operators' surface": all} {
		if _, ok := o.until(t, isEnd("SHUTDOWN")); !ok || o.status != 200 {
			t.Errorf("%s: %d, and the tail does not end", name, o.status)
		}
		hung := time.After(2 * hang)
		for open := true; open; { // its reader ends with the connection
			select {
			case e, more := <-o.events:
				if open = more; more {
					t.Errorf("%s: %+v after the end", name, e)
				}
			case <-hung:
				t.Fatalf("%s: the connection stays open", name)
			}
		}
	}
}

// TestAStoreOfTheOperatorsSurfaceIsHealthyBeforeAnybodyAsksForIt: a load balancer must not take a
// node away because nobody has looked at a page.
func TestAStoreOfTheOperatorsSurfaceIsHealthyBeforeAnybodyAsksForIt(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	config := site(database(dir), port, authServer(t), "admin "+admin, "profile better_auth") +
		fmt.Sprintf("http://127.0.0.1:%d {\n\taudit_log_api {\n\t\tstore sqlite {\n\t\t\tpath %s/other.db\n\t\t}\n\t}\n}\n", harness.FreePort(t), dir)
	startWithAdmin(t, dir, port, config)
	code, body := call(t, http.MethodGet, "http://"+admin+"/audit-log/health", "")
	if code != http.StatusOK || strings.Count(body, `"state": "healthy"`) != 3 {
		t.Errorf("%d %s", code, body)
	}
}
