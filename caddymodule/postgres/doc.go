// Package postgres is the guest store audit_log.stores.postgres: one audit log for any
// number of Caddys, in PostgreSQL. It puts storage/postgres behind the journal of
// storage/spill and gives it a configuration.
//
// It is a package of its own, so that a Caddy that does not need it is built without:
//
//	xcaddy build \
//		--with github.com/caddy-audit-log/caddy-audit-log/caddymodule \
//		--with github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres
package postgres
