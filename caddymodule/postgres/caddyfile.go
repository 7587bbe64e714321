package postgres

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
)

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store postgres {
//		dsn             <dsn>
//		password        <password>
//		schema          <name>
//		table           <name>
//		max_conns       <number>
//		min_conns       <number>
//		tls             <mode> [<root certificates>]
//		tls_client_auth <certificate> <key>
//		spill           off|<size>
//		spill_path      <file>
//	}
func (s *Store) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if d.NextArg() {
		return d.Err("store postgres takes no argument: give the database in a block, as dsn {env.AUDIT_DSN}") // not its value: it may be a secret
	}
	seen := map[string]bool{}
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is there twice", name)
		}
		seen[name] = true
		if err := s.unmarshalOption(d, name); err != nil {
			return err
		}
	}
	if !seen["dsn"] {
		return d.Err("store postgres needs a database, as dsn {env.AUDIT_DSN}")
	}
	return nil
}

// unmarshalOption reads one line. Errors do not repeat values, which may be secret.
func (s *Store) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	texts := map[string]*string{"dsn": &s.DSN, "password": &s.Password, "schema": &s.Schema, "table": &s.Table, "spill_path": &s.SpillPath}
	switch name {
	case "max_conns":
		return number(d, &s.MaxConns, 1)
	case "min_conns":
		return number(d, &s.MinConns, 0)
	case "spill":
		return caddymodule.UnmarshalSpill(d, &s.SpillBytes)
	case "tls":
		if args := d.RemainingArgs(); len(args) == 1 || len(args) == 2 {
			s.TLS, s.TLSRootCert = args[0], append(args, "")[1]
			return nil
		}
		return d.Err("tls takes a mode, such as verify-full, and a file of root certificates if it is not the system's")
	case "tls_client_auth":
		if !d.AllArgs(&s.TLSClientCert, &s.TLSClientKey) {
			return d.Err("tls_client_auth takes the files of a certificate and of its key")
		}
		return nil
	}
	field := texts[name]
	if field == nil {
		return d.Errf("unrecognized postgres subdirective '%s': use dsn, password, schema, table, max_conns, min_conns, tls, tls_client_auth, spill or spill_path", name)
	}
	if !d.AllArgs(field) || *field == "" {
		return d.Errf("%s takes exactly one value", name)
	}
	return nil
}

// number reads a number of connections.
func number(d *caddyfile.Dispenser, into *int, least int) error {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return d.Errf("%s takes a number", name)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		return d.Errf("bad %s '%s': give %d or more connections", name, text, least)
	}
	*into = n
	return nil
}
