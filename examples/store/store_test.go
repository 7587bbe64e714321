package store

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// collector is an endpoint that keeps what it accepts, by id, and can be told how
// to behave.
type collector struct {
	*httptest.Server

	// mu protects the fields below.
	mu      sync.Mutex
	status  int           // what it answers; 0 means 200
	hang    chan struct{} // closed when it may answer; nil for at once
	entries map[string]storage.Entry
	header  http.Header
	tries   int
}

func newCollector(t *testing.T) *collector {
	c := &collector{entries: map[string]storage.Entry{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Server.Close)
	return c
}

func (c *collector) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	c.tries++
	c.header = r.Header
	status, hang := c.status, c.hang
	c.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-r.Context().Done():
			return
		}
	}
	if status != 0 || err != nil {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(cmp.Or(status, http.StatusBadRequest))
		_, _ = w.Write([]byte("no: " + string(body)))
		return
	}
	c.keep(body)
}

func (c *collector) keep(body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for lines := bufio.NewScanner(strings.NewReader(string(body))); lines.Scan(); {
		var e storage.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			panic(err) // net/http turns it into a broken connection, and the test fails
		}
		c.entries[e.ID] = e
	}
}

// behave sets what the collector answers from now on.
func (c *collector) behave(status int, hang chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.hang = status, hang
}

func (c *collector) triesSoFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries
}

// wait waits until what has arrived, in words and sorted, is what done wants.
func (c *collector) wait(t *testing.T, done func(ended []string) bool) {
	t.Helper()
	var ended []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		ended = nil
		for _, e := range c.entries {
			if e.Action == "audit-log:started" {
				continue
			}
			ended = append(ended, e.Action+" "+string(e.Status)+" "+e.UserID)
		}
		c.mu.Unlock()
		if slices.Sort(ended); done(ended) {
			return
		}
	}
	t.Fatalf("%d entries have arrived: %q", len(ended), ended)
}

func many(n int) func([]string) bool {
	return func(ended []string) bool { return len(ended) == n }
}

func exactly(want ...string) func([]string) bool {
	return func(ended []string) bool { return slices.Equal(ended, want) }
}

// authServer answers as Better Auth does.
func authServer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	const session = `"session":{"userId":"u1","expiresAt":"2099-01-01T00:00:00Z"}`
	switch {
	case r.URL.Path == "/api/auth/get-session":
		_, _ = fmt.Fprintf(w, `{%s,"user":{"id":"u1"}}`, session)
	case r.URL.Path == "/api/auth/sign-in/email":
		_, _ = w.Write([]byte(`{"token":"t","user":{"id":"u1"}}`))
	default:
		_, _ = w.Write([]byte(`{"success":true}`))
	}
}

// site loads Caddy with the store and returns the address of the auth server
// behind it.
func site(t *testing.T, c *collector, durability string) string {
	t.Helper()
	harness.Use(t)
	dir, port := t.TempDir(), harness.FreePort(t)
	harness.Load(t, fmt.Sprintf(`{
	persist_config off
	log {
		output discard
	}
	audit_log {
		store http %s/?query=INSERT+INTO+audit+FORMAT+JSONEachRow {
			header Authorization "Bearer planted-secret"
			timeout 1s
		}
		key_file %s/hash.key
	}
}
http://127.0.0.1:%d {
	audit_log {
		durability %s
	}
	reverse_proxy %s
}
`, c.URL, dir, port, durability, harness.Upstream(t, http.HandlerFunc(authServer))))
	return fmt.Sprintf("http://127.0.0.1:%d/api/auth", port)
}

// send sends a request of a signed-in browser and returns the status and how long
// it took.
func send(t *testing.T, method, url, body string) (int, time.Duration) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cookie", "better-auth.session_token=x")
	began := time.Now()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, time.Since(began)
}

func TestEntriesArriveAndTheAPISaysWhatItCannotDo(t *testing.T) {
	for _, durability := range []string{"fsync", "async"} {
		t.Run(durability, func(t *testing.T) {
			c := newCollector(t)
			base := site(t, c, durability)
			for _, path := range []string{"/sign-in/email", "/update-user", "/sign-out"} {
				if status, _ := send(t, "POST", base+path, `{"email":"a@example.com","password":"hunter2"}`); status != 200 {
					t.Errorf("%s: %d", path, status)
				}
			}
			c.wait(t, exactly("sign-in:email success u1", "sign-out success u1", "update-user success u1"))
			for _, path := range []string{"/list", "/some-id"} {
				if status, _ := send(t, "GET", base+"/audit-log"+path, ""); status != 501 {
					t.Errorf("GET %s: %d, want 501", path, status)
				}
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.header.Get("Authorization") != "Bearer planted-secret" || c.header.Get("Content-Type") != "application/x-ndjson" {
				t.Errorf("headers %v", c.header)
			}
		})
	}
}

// TestAHangingEndpointDelaysNobody is what `durability async` is for. Nothing is
// lost: what is queued arrives when the endpoint works again.
func TestAHangingEndpointDelaysNobody(t *testing.T) {
	const requests = 60
	c := newCollector(t)
	base := site(t, c, "async")
	measure := func(pause time.Duration) []time.Duration {
		var took []time.Duration
		for range requests {
			time.Sleep(pause)
			status, d := send(t, "POST", base+"/sign-in/email", `{"email":"a@example.com","password":"x"}`)
			if status != 200 {
				t.Errorf("status %d", status)
			}
			took = append(took, d)
		}
		slices.Sort(took)
		return took
	}
	healthy := measure(0)
	c.wait(t, many(requests))
	hang := make(chan struct{})
	c.behave(0, hang)
	before := c.triesSoFar()
	hanging := measure(25 * time.Millisecond) // longer than the endpoint's timeout
	tries := c.triesSoFar() - before
	c.behave(503, nil)
	close(hang)
	failing := measure(0)
	if worst := max(hanging[requests-1], failing[requests-1]); worst > 500*time.Millisecond { // the endpoint's timeout is 1 s
		t.Errorf("a request took %v while the endpoint hung or failed", worst)
	}
	c.behave(0, nil)
	c.wait(t, many(3*requests))
	if tries < 2 {
		t.Errorf("the endpoint was tried %d times: it did not hang", tries)
	}
	t.Logf("a sign-in, median and worst: %v %v; endpoint hangs: %v %v; endpoint fails: %v %v", healthy[requests/2], healthy[requests-1],
		hanging[requests/2], hanging[requests-1], failing[requests/2], failing[requests-1])
}

func TestWithFsyncRequestsWaitForTheEndpoint(t *testing.T) {
	c := newCollector(t)
	base := site(t, c, "fsync")
	hang := make(chan struct{})
	c.behave(0, hang)
	status, took := send(t, "POST", base+"/sign-in/email", `{}`)
	if status != 200 || took < 900*time.Millisecond || took > 4*time.Second {
		t.Errorf("%d after %v: a request waits as long as the timeout, and then goes on", status, took)
	}
	if status, _ := send(t, "POST", base+"/delete-user", `{}`); status != 503 {
		t.Errorf("deleting an account: %d, want 503, since it fails closed", status)
	}
	close(hang)
	c.behave(0, nil)
	// What timed out may have been stored all the same: nobody can know.
	c.wait(t, func(ended []string) bool { return slices.Contains(ended, "sign-in:email success u1") })
}

func TestOneWriteIsOneTryAndSaysNoSecrets(t *testing.T) {
	e := storage.Entry{Action: "x", UserID: "planted-user"}
	e.Sanitize()
	for _, status := range []int{301, 307, 400, 429, 500, 503} {
		c := newCollector(t)
		c.behave(status, nil)
		s := newClient(c.URL+"/?password=planted-secret", map[string]string{"X-Key": "planted-key"}, time.Second)
		err := s.Write(t.Context(), e)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) || strings.Contains(err.Error(), "planted") || c.tries != 1 {
			t.Errorf("%d: %v after %d tries", status, err, c.tries)
		}
		c.Server.Close()
		if err := s.Write(t.Context(), e); err == nil || strings.Contains(err.Error(), "planted") {
			t.Errorf("an endpoint that is down: %v", err)
		}
	}
	c := newCollector(t)
	s := newClient(c.URL, nil, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Write(ctx, e); !errors.Is(err, context.Canceled) || c.tries != 0 {
		t.Errorf("a cancelled context: %v", err)
	}
	if err := errors.Join(s.Write(t.Context()), s.Write(t.Context(), e, e), s.Write(t.Context(), e)); err != nil || c.tries != 2 || len(c.entries) != 1 {
		t.Errorf("%v, %d tries, %d entries", err, c.tries, len(c.entries))
	}
}

func TestAnAnswerWithoutEndIsCut(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	began := time.Now()
	e := storage.Entry{Action: "x"}
	e.Sanitize()
	if err := newClient(endless.URL, nil, 5*time.Second).Write(t.Context(), e); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"store http", "takes the endpoint"}, {"store http https://a https://b", "takes the endpoint"}, {"store http ftp://a", "http or https"},
		{"store http http://example.com", "in clear"}, {"store http https://u:p@example.com", "as a header"}, {"store http {env.AUDIT_NOT_SET}", "endpoint"},
		{"store http https://a {\n header A\n}", "name and a value"}, {"store http https://a {\n timeout 0\n}", "bad timeout"}, {"store http https://a {\n retry 2\n}", "use header or timeout"},
	} {
		err := validate(t, fmt.Sprintf("{\n audit_log {\n %s\n }\n}\nhttp://127.0.0.1:%d {\n audit_log\n}\n", c.config, harness.FreePort(t)))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
}

// validate adapts and checks a configuration, and runs nothing.
func validate(t *testing.T, config string) error {
	t.Helper()
	adapted, _, err := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}.Adapt([]byte(config), nil)
	if err != nil {
		return err
	}
	var cfg caddy.Config
	if err := json.Unmarshal(adapted, &cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&cfg)
}

func TestTheCaddyfileOfTheReadmeIsValid(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, config, _ := strings.Cut(string(text), "```caddyfile\n")
	config, _, found := strings.Cut(config, "```")
	t.Setenv("CLICKHOUSE_KEY", "x")
	if err := validate(t, config); err != nil || !found {
		t.Error(err)
	}
	if formatted := caddyfile.Format([]byte(config)); string(formatted) != config {
		t.Errorf("it is not formatted; caddy fmt gives\n%s", formatted)
	}
}

func TestAReloadKeepsTheStoreUnlessItChanges(t *testing.T) {
	a := &HTTP{Endpoint: "https://a", Headers: map[string]string{"K": "planted"}}
	same := &HTTP{Endpoint: "https://a", Headers: map[string]string{"K": "planted"}}
	if a.Identity() != same.Identity() || strings.Contains(a.Identity(), "planted") {
		t.Error(a.Identity(), same.Identity())
	}
	for _, other := range []*HTTP{{Endpoint: "https://b", Headers: a.Headers}, {Endpoint: "https://a"}, {Endpoint: "https://a", Headers: a.Headers, Timeout: 1}} {
		if other.Identity() == a.Identity() {
			t.Errorf("%+v has the identity of %+v", other, a)
		}
	}
}
