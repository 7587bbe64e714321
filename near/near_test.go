package near_test

import (
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/near"
)

func TestTheNearestNameIsFound(t *testing.T) {
	names := []string{"status", "severity", "userId", "from"}
	for written, want := range map[string]string{
		"userid": "userId", "usreId": "userId", "STATUS": "status", "sattus": "status", "severty": "severity", "form": "from", "": "", "nothing-like-it": "", "x": "",
	} {
		if got := near.Name(written, names, 3); got != want {
			t.Errorf("%q: %q, want %q", written, got, want)
		}
	}
	if got := near.Name("severty", names, 1); got != "" {
		t.Errorf("beyond the limit: %q", got)
	}
}
