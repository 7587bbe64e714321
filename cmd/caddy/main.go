// Command caddy is Caddy with the audit log inside.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres"
)

func main() {
	caddycmd.Main()
}
