package caddymodule

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestWhatForwardAuthWasAnsweredIsNotTheAuthServersAnswer: both are a reverse_proxy, and say what
// they have got under the same names.
func TestWhatForwardAuthWasAnsweredIsNotTheAuthServersAnswer(t *testing.T) {
	repl := caddy.NewReplacer()
	r, err := http.NewRequestWithContext(context.WithValue(t.Context(), caddy.ReplacerCtxKey, repl), http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := func(e *edge, want int) {
		t.Helper()
		if got := e.Answered(); got != want {
			t.Errorf("answered with %d, want %d", got, want)
		}
	}
	proxied := func(status int, took time.Duration) {
		repl.Set(latency, took)
		repl.Set(statusCode, status)
	}
	alone := &edge{nextAsker: nextAsker{origin: r}}
	answered(alone, 0)
	proxied(200, 1234567)
	answered(alone, 200)
	behind := &edge{nextAsker: nextAsker{origin: r}, before: alone.placeholder(latency)}
	answered(behind, 0)
	proxied(401, 2345678)
	answered(behind, 401)
}
