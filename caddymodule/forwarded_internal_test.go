package caddymodule

import (
	"net/http"
	"testing"
)

// TestForwardingHeadersStay unless they could move a request: proxies in a chain make lists.
func TestForwardingHeadersStay(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		stay  bool
	}{
		{"X-Forwarded-Proto", []string{"https"}, true},
		{"X-Forwarded-Proto", []string{"https,http"}, true},
		{"X-Forwarded-Proto", []string{"https", "HTTPS, http"}, true},
		{"X-Forwarded-Proto", []string{"https", "http://h/api/auth/delete-user?"}, false},
		{"X-Forwarded-Proto", []string{"https, http://h/x?"}, false},
		{"X-Forwarded-Proto", []string{""}, false},
		{"X-Forwarded-Host", []string{"auth.example.com, edge.internal:8443"}, true},
		{"X-Forwarded-Host", []string{"auth.example.com, h/api/auth/delete-user?"}, false},
		{"X-Forwarded-Host", []string{"a b"}, false},
	} {
		h := http.Header{c.name: c.lines}
		if dropped := sanitizeForwarded(h); (len(h[c.name]) > 0) != c.stay || (dropped == 0) != c.stay {
			t.Errorf("%s %q became %q, %d dropped", c.name, c.lines, h[c.name], dropped)
		}
	}
}
