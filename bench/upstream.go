package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/valyala/fasthttp"
	"golang.org/x/crypto/bcrypt"
)

// answer is what a sign-in of Better Auth answers, about 600 bytes.
var answer = fmt.Sprintf(`{"redirect":false,"token":%q,"user":{"id":"u5Jb3QF2mZ0xRr8HkLwT","email":"ada@example.com","name":"Ada","image":%q,"emailVerified":true,"createdAt":"2026-01-02T03:04:05.678Z","updatedAt":"2026-01-02T03:04:05.678Z"}}`,
	strings.Repeat("t0k3n", 7), "https://example.com/"+strings.Repeat("p", 330))

// upstreamCommand is the auth server of the benchmarks: it answers at once, or after a
// bcrypt of about 60 ms at /api/auth/sign-in/username.
func upstreamCommand() *cobra.Command {
	return &cobra.Command{
		Use: "upstream PORT", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s := &fasthttp.Server{Handler: func(c *fasthttp.RequestCtx) {
				if strings.HasSuffix(string(c.Path()), "/sign-in/username") {
					_, _ = bcrypt.GenerateFromPassword([]byte("correct horse battery staple"), bcrypt.DefaultCost)
				}
				c.SetContentType("application/json")
				body := answer
				if n, err := strconv.Atoi(string(c.QueryArgs().Peek("bytes"))); err == nil {
					body = `{"user":{"id":"u5Jb3QF2mZ0xRr8HkLwT"},"more":"` + strings.Repeat("m", max(0, n-50)) + `"}`
				}
				c.SetBodyString(body)
			}, MaxRequestBodySize: 64 << 20}
			defer context.AfterFunc(c.Context(), func() { os.Exit(0) })() // whatever connections are open
			return s.ListenAndServe("127.0.0.1:" + args[0])
		},
	}
}
