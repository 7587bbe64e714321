package httpapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/near"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// filterParams are the parameters that all endpoints with filters know.
var filterParams = []string{"action", "class", "cursor", "from", "identifier", "identifierHash", "ip", "limit", "offset", "q", "scope", "severity", "status", "to", "userId"}

// moreParams are those that one endpoint has besides.
var moreParams = map[string]string{"/export": "format", "/histogram": "step"}

// otherWords are what people call a parameter who come from the command line, an entry, or the page.
var otherWords = map[string]string{
	"user": "userId", "text": "q", "search": "q", "since": "from", "until": "to", "address": "ip", "ipaddress": "ip",
	"email": "identifier", "account": "identifier", "outcome": "status", "kind": "class", "page": "cursor",
}

// pluginPaths are those of the own surface that the plugin has too. Whatever its clients add to a
// query, Better Auth's server ignores.
var pluginPaths = []string{"/list", "/list-audit-logs"}

// unknown says which parameters nobody knows here: a misspelt filter would select everything.
func (q *request) unknown() (list []string) {
	if !q.operator && slices.Contains(pluginPaths, q.Path) {
		return nil
	}
	known := slices.Clone(filterParams)
	if more, ok := moreParams[q.Path]; ok {
		known = append(known, more)
	}
	for _, name := range slices.Sorted(maps.Keys(q.r.URL.Query())) {
		if slices.Contains(known, name) || slices.Contains(q.Params, name) {
			continue
		}
		meant, shown := otherWords[strings.ToLower(name)], storage.Clean(name, 64)
		if meant == "" {
			meant = near.Name(shown, known, len(shown)/3+1)
		}
		if meant != "" {
			list = append(list, fmt.Sprintf("[query.%s] Unknown parameter: did you mean %s?", shown, meant))
		} else {
			list = append(list, fmt.Sprintf("[query.%s] Unknown parameter: there are %s", shown, strings.Join(slices.Sorted(slices.Values(known)), ", ")))
		}
		if len(list) == maxUnknown {
			break
		}
	}
	return list
}

// maxUnknown bounds how many of them an answer names.
const maxUnknown = 5
