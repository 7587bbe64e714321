// Package caddymodule puts the audit log into Caddy. It is the only package that
// imports Caddy, and thin: what it does itself is configuration, life cycle, and
// handing a request to the packages below.
//
// It registers
//
//	audit_log                     the app: owns the store (global option audit_log)
//	http.handlers.audit_log       the handler (directive audit_log)
//	audit_log.stores.sqlite       the default store
//	audit_log.stores.memory       a store for trying out
//	admin.api.audit_log           status, facts for the doctor, pruning on the admin endpoint
//
// A guest is a package of its own that registers a store with what is exported here
// (StoreModule, OpenSpilled, RegisterCommand): postgres, beside this one.
//
// Life cycle: Provision checks and opens nothing, so that caddy adapt and caddy
// validate leave no trace. The app's Start opens the store. The open store lives
// in a pool that outlasts configurations: each request takes a lease on it, and
// the last one after a reload closes it. So no entry is lost in a reload.
//
// Build it into Caddy with
//
//	xcaddy build --with github.com/caddy-audit-log/caddy-audit-log/caddymodule
package caddymodule
