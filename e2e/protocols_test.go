package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// overTLS makes sites of anyHost serve TLS with certificates of Caddy's own authority, which
// it keeps in dir.
func overTLS(config, dir string) string {
	config = strings.Replace(config, "\tpersist_config off\n", "\tpersist_config off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tstorage file_system "+dir+"/caddy\n", 1)
	config = strings.ReplaceAll(config, "\nhttp://:", "\nhttps://127.0.0.1:")
	return strings.ReplaceAll(config, "\tbind 127.0.0.1\n", "\tbind 127.0.0.1\n\ttls internal\n")
}

// speaker sends requests in one protocol.
type speaker struct {
	http.RoundTripper
	close func()
}

// speakers are one for each protocol that Caddy serves with TLS, by its name.
func speakers() map[string]speaker {
	tlsConfig := &tls.Config{InsecureSkipVerify: true}
	all := map[string]speaker{}
	for name, use := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2.0": func(p *http.Protocols) { p.SetHTTP2(true) },
	} {
		tr := &http.Transport{TLSClientConfig: tlsConfig.Clone(), Protocols: new(http.Protocols)}
		use(tr.Protocols)
		all[name] = speaker{tr, tr.CloseIdleConnections}
	}
	quic := &http3.Transport{TLSClientConfig: tlsConfig.Clone()}
	all["HTTP/3.0"] = speaker{quic, func() { _ = quic.Close() }}
	return all
}

// send sends a request and returns its answer.
func (s speaker) send(t *testing.T, ctx context.Context, method, url, cookie, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if cookie != "" {
		r.Header.Set("Cookie", "better-auth.session_token="+cookie)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := s.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// tail opens a tail that lasts until the context ends.
func (s speaker) tail(t *testing.T, ctx context.Context, url, cookie string) *openTail {
	t.Helper()
	res := s.send(t, ctx, http.MethodGet, url, cookie, "")
	return &openTail{status: res.StatusCode, events: eventsOf(res.Body)}
}

// awaitCertificate waits until a site has got its certificate.
func awaitCertificate(t *testing.T, port int) {
	t.Helper()
	for end := time.Now().Add(hang); ; time.Sleep(10 * time.Millisecond) {
		c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestEveryProtocol: what is done over HTTP/1.1, HTTP/2 and HTTP/3 is recorded alike, and
// tails show it at once over each of them. A tail whose client leaves ends, and all end with
// the configuration.
func TestEveryProtocol(t *testing.T) {
	harness.Use(t)
	dir, port, operators := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	up := harness.Upstream(t, &sessionAuth{})
	config := overTLS(anyHost(database(dir), "", siteOf(port, singly(), up), siteOf(operators, "audit_log_api", up)), dir)
	harness.Load(t, config)
	awaitCertificate(t, port)
	awaitCertificate(t, operators)
	site, own, all := fmt.Sprintf("https://127.0.0.1:%d", port), "/api/auth/audit-log/tail", fmt.Sprintf("https://127.0.0.1:%d/audit-log/tail", operators)
	open := map[string]*openTail{}
	for name, s := range speakers() {
		t.Cleanup(s.close)
		t.Run(name, func(t *testing.T) {
			leaving, leave := context.WithCancel(t.Context())
			defer leave()
			user := "user-" + name[len("HTTP/"):len("HTTP/1")]
			open[name+", own"] = s.tail(t, context.WithoutCancel(t.Context()), site+own, user)
			open[name+", operators"] = s.tail(t, context.WithoutCancel(t.Context()), all, "")
			short := s.tail(t, leaving, all, "")
			for who, o := range map[string]*openTail{"own": open[name+", own"], "operators": open[name+", operators"], "short": short} {
				if o.status != http.StatusOK {
					t.Fatalf("%s: %d", who, o.status)
				}
			}
			failed := s.send(t, t.Context(), http.MethodPost, site+"/api/auth/sign-in/email", "", typed)
			body, err := io.ReadAll(failed.Body)
			if failed.StatusCode != http.StatusUnauthorized || string(body) != denied || failed.Proto != name || err != nil {
				t.Errorf("%s: %d %s, %v", failed.Proto, failed.StatusCode, body, err)
			}
			out := s.send(t, t.Context(), http.MethodPost, site+"/api/auth/sign-out", user, "{}")
			_, _ = io.Copy(io.Discard, out.Body)
			for who, o := range map[string]*openTail{"operators": open[name+", operators"], "short": short} {
				if _, ok := o.until(t, func(e tailEvent) bool {
					return strings.Contains(e.data, `"sign-in:email"`) && strings.Contains(e.data, `"127.0.0.1"`)
				}); !ok {
					t.Errorf("%s: the sign-in is not shown", who)
				}
				if _, ok := o.until(t, func(e tailEvent) bool {
					return strings.Contains(e.data, `"sign-out"`) && strings.Contains(e.data, user) && strings.Contains(e.data, `"success"`)
				}); !ok {
					t.Errorf("%s: the sign-out is not shown", who)
				}
			}
			leave()
			for range short.events { // until its body ends
			}
		})
	}
	harness.Load(t, strings.Replace(config, "rollup off", "rollup 5", 1))
	for name, o := range open {
		if strings.HasSuffix(name, ", own") {
			continue // it ended with the session
		}
		if _, ok := o.until(t, isEnd("SHUTDOWN")); !ok {
			t.Errorf("%s: it is not told of the end", name)
		}
		for timeout := time.After(hang); ; {
			select {
			case _, more := <-o.events:
				if more {
					continue
				}
			case <-timeout:
				t.Errorf("%s: it does not end", name)
			}
			break
		}
	}
}
