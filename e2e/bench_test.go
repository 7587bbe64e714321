package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// signInAnswer is what Better Auth answers to a sign-in, 600 bytes.
var signInAnswer = fmt.Sprintf(`{"redirect":false,"token":%q,"user":{"id":"u5Jb3QF2mZ0xRr8HkLwT","email":"ada@example.com","name":"Ada","image":%q,"emailVerified":true,"createdAt":"2026-01-02T03:04:05.678Z","updatedAt":"2026-01-02T03:04:05.678Z"}}`,
	strings.Repeat("t0k3n", 7), "https://example.com/"+strings.Repeat("p", 330))

// writer is a client's connection that keeps nothing.
type writer struct{ header http.Header }

func (w *writer) Header() http.Header         { return w.header }
func (w *writer) Write(b []byte) (int, error) { return len(b), nil }
func (w *writer) WriteHeader(int)             {}

// BenchmarkHandler is what a request costs inside of a real Caddy, without network and
// proxy: what is there without the directive, and with it for each kind of request.
// Allocations of the others less those of plain are the handler's own.
func BenchmarkHandler(b *testing.B) {
	const body = `{"email":"ada@example.com","password":"correct horse battery staple"}`
	for _, c := range []struct{ name, directive, method, path string }{
		{"plain", "", "POST", "/api/auth/sign-in/email"},
		{"not-mine", "audit_log {\n profile better_auth\n}", "POST", "/assets/app.js"},
		{"ignored", "audit_log {\n profile better_auth\n}", "GET", "/api/auth/get-session"},
		{"audited/sign-out", "audit_log {\n profile better_auth\n durability async\n}", "POST", "/api/auth/sign-out"},
		{"audited/async", "audit_log {\n profile better_auth\n durability async\n}", "POST", "/api/auth/sign-in/email"},
		{"audited/fsync", "audit_log {\n profile better_auth\n}", "POST", "/api/auth/sign-in/email"},
		{"audited/async,body", "audit_log {\n profile better_auth\n durability async\n capture {\n request_body on\n}\n}", "POST", "/api/auth/sign-in/email"},
	} {
		b.Run(c.name, func(b *testing.B) {
			harness.Use(b)
			dir := b.TempDir()
			harness.Load(b, anyHost(filepath.Join(dir, "audit.db"), "", fmt.Sprintf("http://:%d {\n\tbind 127.0.0.1\n\troute {\n%s\nheader Content-Type application/json\nrespond `%s`\n}\n}\n", harness.FreePort(b), c.directive, signInAnswer)))
			app, err := caddy.ActiveContext().App("http")
			if err != nil {
				b.Fatal(err)
			}
			server := app.(*caddyhttp.App).Servers["srv0"]
			request := func() *http.Request {
				body := body
				if c.method == "GET" {
					body = ""
				}
				r, err := http.NewRequest(c.method, "http://auth.test"+c.path, io.NopCloser(bytes.NewReader([]byte(body))))
				if err != nil {
					b.Fatal(err)
				}
				r.RequestURI, r.RemoteAddr, r.ContentLength = c.path, "203.0.113.7:1234", int64(len(body))
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
				return r
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					server.ServeHTTP(&writer{http.Header{}}, request())
				}
			})
		})
	}
}
