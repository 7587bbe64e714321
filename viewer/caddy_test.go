package viewer_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// TestThroughCaddy is the page on the auth server's own site, through a real Caddy that
// compresses, with SQLite: nobody is signed in, then Alice is, and sees what she does as
// she does it; an operator sees everybody's on a site of its own.
func TestThroughCaddy(t *testing.T) {
	chromium(t)
	harness.Use(t)
	const cookie = "better-auth.session_token"
	auth := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		c, err := r.Cookie(cookie)
		switch {
		case err == nil:
			user, _, _ := strings.Cut(c.Value, ".")
			_, _ = fmt.Fprintf(w, `{"session":{"userId":%[1]q,"expiresAt":"2099-01-01T00:00:00Z"},"user":{"id":%[1]q,"email":"%[1]s@example.com","emailVerified":true,"role":"user"}}`, user)
		case strings.HasSuffix(r.URL.Path, "/get-session"):
			_, _ = w.Write([]byte("null"))
		default:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"code":"INVALID_EMAIL_OR_PASSWORD","message":"Invalid email or password"}`))
		}
	}))
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	own, operators, named := harness.FreePort(t), harness.FreePort(t), harness.FreePort(t)
	harness.Load(t, fmt.Sprintf(`{
	persist_config off
	log {
		output discard
	}
	audit_log {
		store sqlite {
			path %[1]s/audit.db
		}
		key_file %[1]s/hash.key
	}
}
http://:%[2]d {
	bind 127.0.0.1
	encode
	audit_log {
		profile better_auth
	}
	reverse_proxy %[4]s
}
http://:%[3]d {
	bind 127.0.0.1
	encode
	audit_log_api
}
http://:%[5]d {
	bind 127.0.0.1
	basic_auth {
		olga %[6]s
	}
	audit_log_api
}
`, filepath.ToSlash(t.TempDir()), own, operators, auth, named, hash))
	post := func(user, path, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth%s", own, path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if user != "" {
			r.AddCookie(&http.Cookie{Name: cookie, Value: user + ".signed"})
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	post("", "/sign-in/email", `{"email":"alice@example.com","password":"wrong"}`)
	post("bob", "/update-user", `{"name":"Bob"}`)

	b := open(t, wide, fmt.Sprintf("http://127.0.0.1:%d/api/auth/audit-log", own))
	b.excuse("status of 401")
	b.until("it says to sign in", `document.querySelector('#notice h3')?.textContent === 'Sign in first'`)
	js[bool](b, `(document.cookie = %s, true)`, cookie+"=alice.signed; path=/")
	js[bool](b, `([...document.querySelectorAll('#notice button')].find((n) => n.textContent === 'Try again').click(), true)`)
	b.until("Alice sees the attempt on her account, and nothing of Bob's", `[...document.querySelectorAll('#rows .action a')].map((n) => n.textContent).join() === 'sign-in:email'`)
	b.until("her own name", `document.querySelector('#surface').textContent === 'alice' && document.querySelector('#summary').textContent.startsWith('1 in ')`)
	b.click("#live")
	b.until("the tail is open", `document.querySelector('#live').dataset.state === 'open'`)
	post("alice", "/update-user", `{"name":"Alice"}`)
	post("bob", "/update-user", `{"name":"Bobby"}`)
	b.until("what she does comes by itself", `[...document.querySelectorAll('#rows .action a')].map((n) => n.textContent).join() === 'update-user,sign-in:email'`)

	o := open(t, wide, fmt.Sprintf("http://127.0.0.1:%d/audit-log/?class=account", operators))
	o.until("the operator sees both", `[...document.querySelectorAll('#rows .who')].map((n) => n.textContent).join() === 'bob,alice,bob' && document.querySelector('#surface').textContent === 'operator'`)
	o.ready()

	p := open(t, wide, fmt.Sprintf("http://olga:secret@127.0.0.1:%d/audit-log/?class=account", named))
	p.until("who opens it with a name and a password in its address sees it, too", `[...document.querySelectorAll('#rows .who')].map((n) => n.textContent).join() === 'bob,alice,bob'`)
	p.click("#live")
	p.until("and a tail is open", `document.querySelector('#live').dataset.state === 'open'`)
	p.ready()
}
