package httpapi

import "github.com/caddy-audit-log/caddy-audit-log/storage"

// ParseQuery is parseQuery for the fuzz test outside the package.
func ParseQuery(raw string) (storage.Query, []string) {
	q, problems := parseQuery(raw)
	return q.Query, problems
}
