package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func init() {
	caddy.RegisterModule(HTTP{})
}

// HTTP sends entries as JSON lines to an HTTP endpoint. Use it with `durability
// async`, or every request of the auth server waits for the endpoint.
type HTTP struct {
	// Where to POST to: https, or http to this machine. Placeholders are replaced.
	Endpoint string `json:"endpoint,omitempty"`

	// Headers of the request, such as Authorization. Placeholders in values are
	// replaced.
	Headers map[string]string `json:"headers,omitempty"`

	// How long one request may take. Default: 2s; the recorder gives up after 3s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (HTTP) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.stores.http", New: func() caddy.Module { return new(HTTP) }}
}

// Provision replaces placeholders. It connects to nothing.
func (h *HTTP) Provision(caddy.Context) (err error) {
	repl := caddy.NewReplacer()
	if h.Endpoint, err = repl.ReplaceOrErr(h.Endpoint, true, true); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	for name, value := range h.Headers {
		if h.Headers[name], err = repl.ReplaceOrErr(value, true, true); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	if h.Timeout == 0 {
		h.Timeout = caddy.Duration(DefaultTimeout)
	}
	return nil
}

// Validate checks the configuration.
func (h *HTTP) Validate() error {
	if h.Timeout < 0 {
		return fmt.Errorf("timeout %s: it must be positive, or 0 for the default", time.Duration(h.Timeout))
	}
	return checkEndpoint(h.Endpoint)
}

// Identity implements caddymodule.StoreModule: a reload that changes nothing of
// the store keeps it, and what is queued for it. It is a hash, because headers are
// secret.
func (h *HTTP) Identity() string {
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Sprintf("http|%p", h) // cannot happen: texts and a number
	}
	return fmt.Sprintf("http|%x", sha256.Sum256(b))
}

// OpenStore implements caddymodule.StoreModule. That the endpoint is away is no
// reason not to start.
func (h *HTTP) OpenStore(context.Context, *slog.Logger) (storage.Store, error) {
	return newClient(h.Endpoint, h.Headers, time.Duration(h.Timeout)), nil
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store http <endpoint> {
//		header  <name> <value>
//		timeout <duration>
//	}
func (h *HTTP) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if !d.AllArgs(&h.Endpoint) {
		return d.Err("store http takes the endpoint's URL")
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "header":
			var name, value string
			if !d.AllArgs(&name, &value) {
				return d.Err("header takes a name and a value")
			}
			if h.Headers == nil {
				h.Headers = map[string]string{}
			}
			h.Headers[name] = value
		case "timeout":
			var text string
			if !d.AllArgs(&text) {
				return d.Err("timeout takes a duration")
			}
			timeout, err := caddy.ParseDuration(text)
			if err != nil || timeout <= 0 {
				return d.Errf("bad timeout '%s': give a duration such as 2s", text)
			}
			h.Timeout = caddy.Duration(timeout)
		default:
			return d.Errf("unrecognized http store subdirective '%s': use header or timeout", d.Val())
		}
	}
	return nil
}

var (
	_ caddymodule.StoreModule = (*HTTP)(nil)
	_ caddy.Provisioner       = (*HTTP)(nil)
	_ caddy.Validator         = (*HTTP)(nil)
	_ caddyfile.Unmarshaler   = (*HTTP)(nil)
)
