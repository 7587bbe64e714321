package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// asker reaches the auth server for one request.
func (h *Handler) asker(e *edge) recorder.Asker {
	if h.endpoint != nil {
		return h.endpoint.forClient(clientIP(e.origin))
	}
	return &e.nextAsker
}

// nextAsker sends a question through the handlers behind ours, so that it reaches
// the same upstream as the request that it is about, and no second address has to
// be configured.
type nextAsker struct {
	origin *http.Request
	next   caddyhttp.Handler
}

// Ask implements recorder.Asker.
func (a *nextAsker) Ask(r *http.Request) (status int, body []byte, err error) {
	server, ok := a.origin.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return 0, nil, errors.New("the request did not come through an HTTP server of Caddy")
	}
	// The context is new: values of the origin's belong to its connection.
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), http.LocalAddrContextKey, a.origin.Context().Value(http.LocalAddrContextKey)))
	defer cancel()
	stop := context.AfterFunc(r.Context(), cancel)
	defer stop()
	r = r.WithContext(ctx)
	r.Host, r.RemoteAddr, r.TLS, r.RequestURI = a.origin.Host, a.origin.RemoteAddr, a.origin.TLS, r.URL.RequestURI()
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
		if v := a.origin.Header[name]; v != nil {
			r.Header[name] = v // kept by reverse_proxy only if the peer is a trusted proxy
		}
	}
	answer := &answerBuffer{header: make(http.Header)}
	r = caddyhttp.PrepareRequest(r, a.replacer(), answer, server)
	copyVars(r.Context(), a.origin.Context())
	defer func() {
		if p := recover(); p != nil { // how reverse_proxy aborts
			err = fmt.Errorf("the auth server broke off: %v", p)
		}
	}()
	if err := a.next.ServeHTTP(answer, r); err != nil {
		return 0, nil, err
	}
	return answer.result()
}

// replacer knows the placeholders that earlier handlers have set (map, vars), but
// none that describe the original request itself.
func (a *nextAsker) replacer() *caddy.Replacer {
	repl := caddy.NewReplacer()
	if origin, ok := a.origin.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(func(key string) (any, bool) {
			if strings.HasPrefix(key, "http.request.") || strings.HasPrefix(key, "http.response.") {
				return nil, false
			}
			return origin.Get(key)
		})
	}
	return repl
}

// copyVars gives the question the variables of the original request that it does
// not have: an upstream may be chosen by them.
func copyVars(to, from context.Context) {
	dst, _ := to.Value(caddyhttp.VarsCtxKey).(map[string]any)
	src, _ := from.Value(caddyhttp.VarsCtxKey).(map[string]any)
	for k, v := range src {
		if _, there := dst[k]; !there && dst != nil {
			dst[k] = v
		}
	}
}

// answerBuffer is an http.ResponseWriter that keeps a bounded answer in memory.
type answerBuffer struct {
	header http.Header
	status int
	body   bytes.Buffer
	over   bool
}

func (b *answerBuffer) Header() http.Header { return b.header }

func (b *answerBuffer) WriteHeader(status int) {
	if b.status == 0 && status >= 200 {
		b.status = status
	}
}

func (b *answerBuffer) Write(p []byte) (int, error) {
	b.WriteHeader(http.StatusOK)
	if b.body.Len()+len(p) > recorder.MaxSessionBody {
		b.over = true
		return 0, errors.New("the answer is too long")
	}
	return b.body.Write(p)
}

func (b *answerBuffer) result() (int, []byte, error) {
	if b.over {
		return 0, nil, fmt.Errorf("its answer is longer than %d bytes", recorder.MaxSessionBody)
	}
	if b.header.Get("Content-Encoding") != "" {
		return 0, nil, errors.New("its answer is encoded although nobody asked for that")
	}
	if b.status == 0 {
		b.status = http.StatusOK
	}
	return b.status, b.body.Bytes(), nil
}

// endpointAsker asks a fixed URL.
type endpointAsker struct {
	url    *url.URL
	client *http.Client
}

func newEndpointAsker(raw string) (*endpointAsker, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("bad session_endpoint %q: give a URL such as http://127.0.0.1:3000/api/auth/get-session", raw)
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("session_endpoint %q would send sessions over the network in clear: use https, or an address of this machine", raw)
	}
	return &endpointAsker{url: u, client: &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (e *endpointAsker) forClient(ip string) recorder.Asker { return &endpointCall{e, ip} }

// endpointCall asks for one client.
type endpointCall struct {
	*endpointAsker
	ip string
}

// Ask implements recorder.Asker.
func (c *endpointCall) Ask(r *http.Request) (int, []byte, error) {
	query := r.URL.RawQuery
	target := *c.url
	if target.RawQuery == "" {
		target.RawQuery = query
	}
	r.URL, r.Host, r.RequestURI = &target, "", ""
	if net.ParseIP(c.ip) != nil {
		r.Header.Set("X-Forwarded-For", c.ip)
	}
	res, err := c.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, recorder.MaxSessionBody+1))
	if err == nil && len(body) > recorder.MaxSessionBody {
		err = fmt.Errorf("its answer is longer than %d bytes", recorder.MaxSessionBody)
	}
	return res.StatusCode, body, err
}
