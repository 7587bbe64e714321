// Package httpapi is the /audit-log API under the auth server's base path: list,
// get and insert as the plugin better-auth-audit-logs answers them, for the user
// that the auth server says is signed in. docs/plugin-differences.md lists where
// it differs on purpose.
//
// Who may read what is decided in one place, access.go, and denied by default.
package httpapi
