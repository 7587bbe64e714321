// Command caddy is the Caddy of the benchmarks: with the audit log, with a handler that
// does nothing (what any handler costs), and with coraza's middleware and its audit log
// (coraza-caddy is that in a Caddy handler).
package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/corazawaf/coraza/v3"
	txhttp "github.com/corazawaf/coraza/v3/http"

	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres"
)

func main() {
	caddy.RegisterModule(nothing{})
	caddy.RegisterModule(&waf{})
	httpcaddyfile.RegisterHandlerDirective("bench_nothing", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return nothing{}, nil
	})
	httpcaddyfile.RegisterHandlerDirective("bench_coraza", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		w := new(waf)
		return w, w.UnmarshalCaddyfile(h.Dispenser)
	})
	caddycmd.Main()
}

// nothing calls the next handler.
type nothing struct{}

func (nothing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_nothing", New: func() caddy.Module { return nothing{} }}
}

func (nothing) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// waf runs coraza without rules but with its audit log, to a file.
type waf struct {
	Log string `json:"log"`

	waf coraza.WAF
}

func (*waf) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_coraza", New: func() caddy.Module { return new(waf) }}
}

func (m *waf) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if !d.Next() || !d.AllArgs(&m.Log) {
		return d.ArgErr()
	}
	return nil
}

func (m *waf) Provision(caddy.Context) (err error) {
	if err := os.WriteFile(m.Log, nil, 0o600); err != nil {
		return err
	}
	m.waf, err = coraza.NewWAF(coraza.NewWAFConfig().WithDirectives(fmt.Sprintf(`
SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess On
SecResponseBodyMimeType application/json
SecAuditEngine On
SecAuditLogParts ABCFHZ
SecAuditLogType Serial
SecAuditLogFormat JSON
SecAuditLog %s
`, m.Log)))
	return err
}

func (m *waf) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	var err error
	txhttp.WrapHandler(m.waf, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err = next.ServeHTTP(w, r)
	})).ServeHTTP(w, r)
	return err
}
