package caddymodule

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("audit_log_api", parseOperatorAPI)
	httpcaddyfile.RegisterDirectiveOrder("audit_log_api", httpcaddyfile.After, "metrics")
}

func parseOperatorAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	api := new(OperatorAPI)
	if err := api.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return api, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	audit_log_api [<matcher>] {
//		store        <name> { ... }
//		allow_header <names...>
//	}
func (o *OperatorAPI) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': audit_log_api takes a block", d.Val())
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "store":
			if err := unmarshalStore(d, &o.StoreRaw); err != nil {
				return err
			}
		case "allow_header":
			if err := values(d, &o.AllowHeaders); err != nil {
				return err
			}
			for _, name := range o.AllowHeaders {
				if !isHeaderName(name) {
					return d.Errf("bad allow_header '%s': give the name of a header, such as Remote-User", name)
				}
			}
		default:
			return d.Errf("unrecognized audit_log_api subdirective '%s': use store or allow_header", d.Val())
		}
	}
	return nil
}

// unmarshalStore reads a store module into its field.
func unmarshalStore(d *caddyfile.Dispenser, raw *json.RawMessage) error {
	if *raw != nil {
		return d.Err("store is there twice: an audit log has one")
	}
	if !d.NextArg() {
		return d.Err("store needs a name, such as sqlite")
	}
	name := d.Val()
	if _, err := caddy.GetModule("audit_log.stores." + name); err != nil {
		return d.Errf("unknown store '%s': use one of %s, or build Caddy with the module audit_log.stores.%[1]s", name, strings.Join(storeNames(), ", "))
	}
	module, err := caddyfile.UnmarshalModule(d, "audit_log.stores."+name)
	if err != nil {
		return err
	}
	_, factory := module.(StoreModule)
	_, store := module.(storage.Store)
	if !factory && !store {
		return d.Errf("module audit_log.stores.%s is no audit log store: it must implement caddymodule.StoreModule or storage.Store", name)
	}
	*raw = caddyconfig.JSONModuleObject(module, "backend", name, nil)
	return nil
}

var _ caddyfile.Unmarshaler = (*OperatorAPI)(nil)
