//go:build !race

package exchange_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
)

// TestObserverAllocations is not for the race detector, which makes sync.Pool
// forget; make test runs it without.
func TestObserverAllocations(t *testing.T) {
	w, request, answer, buf := &plainWriter{http.Header{"Content-Type": {"application/json"}}}, bytes.NewReader(make([]byte, 100)), []byte(`{"token":"t"}`), make([]byte, 512)
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, tt := range []struct {
		name string
		mode exchange.BodyMode
		most float64
	}{{"passed", exchange.Pass, 2}, {"copied", exchange.Copy, 2}, {"held", exchange.Hold, 2}} {
		h := &quiet{tt.mode}
		const own = 1 // the request's body, made by watched
		got := testing.AllocsPerRun(200, func() { watched(w, r, request, h, answer, buf) }) - own
		t.Logf("%s: %v allocations", tt.name, got)
		if got > tt.most {
			t.Errorf("an exchange that is %s allocates %v times, want at most %v", tt.name, got, tt.most)
		}
	}
}
