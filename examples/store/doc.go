// Package store is an example of a store of your own: a Caddy module,
// audit_log.stores.http, that sends entries as JSON lines to an HTTP endpoint, such
// as ClickHouse with FORMAT JSONEachRow.
//
// It can only write. So the log is read where the entries go to, and the
// /audit-log API answers 501 to list and get. What it does to be a good store, and
// what it expects of the endpoint, is in README.md.
//
// Use it as it is, or copy it:
//
//	xcaddy build --with github.com/caddy-audit-log/caddy-audit-log/caddymodule \
//		--with github.com/caddy-audit-log/caddy-audit-log/examples/store
package store
