package profile_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// asked is a request and the answer to it, and what a profile should make of them.
type asked struct {
	request, body string // "POST /path?query", JSON or a form
	status        int
	answer        string // JSON, or a page if it begins with <
	to            string // Location
	action        string
	outcome       storage.Status
	identifier    string
	target        string
}

// check looks whether it is read so, and returns the route.
func (c *asked) check(t *testing.T, p *profile.Profile) *profile.Route {
	t.Helper()
	method, path, _ := strings.Cut(c.request, " ")
	u := target(t, path)
	m, ok := p.Match(method, u)
	if !ok {
		t.Errorf("%s is nothing of %s", c.request, p.Name)
		return nil
	}
	x := &profile.Exchange{
		Answer: &profile.Answer{Status: c.status, Query: u.RawQuery, Header: http.Header{}, Body: []byte(c.answer)},
		Method: method, Path: m.Path, Sent: []byte(c.body), SentType: "application/x-www-form-urlencoded",
	}
	if strings.HasPrefix(c.body, "{") {
		x.SentType = "application/json"
	}
	if strings.HasPrefix(c.answer, "<") {
		x.Page, x.Body = x.Body, nil
	}
	if c.to != "" {
		x.Header.Set("Location", c.to)
	}
	m = p.Refine(m, x)
	x.Route = m.Route
	say := c.request + " " + c.body + " " + c.answer
	if !m.Method || m.Doubtful || m.Route.ActionName() != c.action {
		t.Errorf("%s: action %q, of the method %v, doubtful %v, want %q", say, m.Route.ActionName(), m.Method, m.Doubtful, c.action)
		return m.Route
	}
	if got := m.Route.Outcome(x); got != c.outcome {
		t.Errorf("%s: %s, want %s", say, got, c.outcome)
	}
	if got := profile.First(m.Route.Identifier, x); got != c.identifier {
		t.Errorf("%s: identifier %q, want %q", say, got, c.identifier)
	}
	if got := profile.First(m.Route.Target, x); got != c.target {
		t.Errorf("%s: target %q, want %q", say, got, c.target)
	}
	return m.Route
}

// destroys says whether the entry is written first, and the user of the target taken out.
func destroys(t *testing.T, p *profile.Profile, request, action string, unlink bool) {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	m, ok := p.Match(method, target(t, path))
	if !ok || m.Route.ActionName() != action || m.Route.Timing != profile.Before || (m.Route.Unlink == "target") != unlink {
		t.Errorf("%s begins as %q, %s, unlinks %q", request, m.Route.ActionName(), m.Route.Timing, m.Route.Unlink)
	}
}

// What authentik asks for next, and what it answers at the end.
const (
	refused  = `{"component":"ak-stage-password","response_errors":{"password":[{"string":"Invalid password","code":"invalid"}]}}`
	mistyped = `{"component":"ak-stage-authenticator-validate","response_errors":{"code":[{"string":"Invalid Token","code":"invalid"}]}}`
	second   = `{"component":"ak-stage-authenticator-validate","device_challenges":[]}`
	done     = `{"component":"xak-flow-redirect","to":"/"}`
	mailed   = `{"component":"ak-stage-email","response_errors":{"non_field_errors":[{"string":"email-sent","code":"email-sent"}]}}`
)

// TestNoComponentHidesASignIn: authentik looks at the stage that it is at, and not at the component
// that its client names.
func TestNoComponentHidesASignIn(t *testing.T) {
	p := builtin(t, "authentik")
	for _, slug := range []string{"default-authentication-flow", "our-own-login"} {
		for _, component := range []string{"", "ak-stage-identification", "ak-stage-password", "ak-stage-consent", "ak-stage-captcha", "ak-stage-authenticator-totp", "ak-provider-oauth2-device-code", "ak-stage-prompt", "ak-stage-email", "x"} {
			flow := "POST /api/v3/flows/executor/" + slug + "/?query="
			add := ""
			if component != "" {
				add = `,"component":"` + component + `"`
			}
			for _, c := range []asked{
				{body: `{"uid_field":"victim","password":"guess"` + add + `}`, answer: refused, outcome: storage.Failed, identifier: "victim"},
				{body: `{"uid_field":"victim","password":"guess"` + add + `}`, answer: done, outcome: storage.Success, identifier: "victim"},
				{body: `{"username":"victim","password":"guess"` + add + `}`, answer: refused, outcome: storage.Failed, identifier: "victim"}, // as the page sends it
				{body: `{"password":"guess","code":"1","remember_me":true` + add + `}`, answer: second, outcome: storage.Pending},
			} {
				c.request, c.status, c.action = flow, 200, "sign-in:password"
				if r := c.check(t, p); r == nil || r.Class != "sign-in" {
					t.Errorf("%s is of another class", c.body)
				}
			}
			guess := asked{request: flow, status: 200, body: `{"code":"000000","username":"victim"` + add + `}`, answer: mistyped, action: "sign-in:second-factor", outcome: storage.Failed, identifier: "victim"}
			if component == "ak-stage-authenticator-totp" {
				guess.action = "mfa:enroll" // authentik may ask for it on the way in
			}
			if r := guess.check(t, p); r == nil || r.Class != "mfa" {
				t.Errorf("%s is of another class", guess.body)
			}
			c := asked{request: flow, status: 200, body: `{"remember_me":false` + add + `}`, answer: done, action: "sign-in", outcome: storage.Success}
			if component != "ak-stage-authenticator-totp" {
				c.check(t, p)
			}
		}
	}
}

func TestWhatAFlowOfAuthentikIsFor(t *testing.T) {
	p := builtin(t, "authentik")
	for _, c := range []asked{
		{request: "default-authentication-flow", body: `{"uid_field":"alice"}`, status: 302, to: "/x", action: "sign-in:identification", outcome: profile.None, identifier: "alice"},
		{request: "default-authentication-flow", body: `{"uid_field":"alice"}`, status: 200, answer: refused, action: "sign-in:identification", outcome: storage.Failed, identifier: "alice"},
		{request: "default-authentication-flow", body: `{"passkey":{"id":"k","type":"public-key"}}`, status: 200, answer: done, action: "sign-in:passkey", outcome: storage.Success},
		{request: "default-authentication-flow", body: `{"webauthn":{"id":"k","type":"public-key"}}`, status: 200, answer: done, action: "sign-in:second-factor", outcome: storage.Success},
		{request: "default-authentication-flow", body: `{}`, status: 200, answer: done, action: "sign-in:step", outcome: storage.Success},
		{request: "default-recovery-flow", body: `{"uid_field":"alice"}`, status: 302, to: "/x", action: "request-password-reset", outcome: storage.Success, identifier: "alice"},
		{request: "default-recovery-flow", body: `{"component":"ak-stage-email"}`, status: 200, answer: mailed, action: "request-password-reset", outcome: storage.Success},
		{request: "default-recovery-flow", body: `{"password":"a","password_repeat":"a"}`, status: 200, answer: done, action: "reset-password", outcome: storage.Success},
		{request: "default-recovery-flow", body: `{"component":"ak-stage-consent","answer":"a"}`, status: 200, answer: refused, action: "reset-password", outcome: storage.Failed},
		{request: "default-recovery-flow", body: `{"code":"1"}`, status: 200, answer: mistyped, action: "sign-in:second-factor", outcome: storage.Failed},
		{request: "default-enrollment-flow", body: `{"username":"bob","email":"b@example.com","password":"a"}`, status: 200, answer: done, action: "sign-up", outcome: storage.Success, identifier: "b@example.com"},
		{request: "default-enrollment-flow", body: `{"component":"ak-stage-email"}`, status: 200, answer: mailed, action: "sign-up", outcome: profile.None},
		{request: "default-password-change", body: `{"password":"a","password_repeat":"a"}`, status: 200, answer: done, action: "user:change-password", outcome: storage.Success},
		{request: "default-authenticator-totp-setup", body: `{"code":"1"}`, status: 200, answer: mistyped, action: "mfa:enroll", outcome: storage.Failed},
		{request: "default-provider-authorization-explicit-consent", body: `{"token":"t"}`, status: 200, answer: `{"component":"xak-flow-redirect","to":"https://a.example/cb?code=c"}`, action: "oauth:consent", outcome: storage.Success},
		{request: "default-provider-authorization-explicit-consent", body: `{"token":"t","password":"p"}`, status: 200, answer: `{"component":"xak-flow-redirect","to":"https://a.example/cb?error=access_denied"}`, action: "sign-in:password", outcome: storage.Failed},
		{request: "our-own", body: `{"x":"y"}`, status: 200, answer: done, action: "flow:step", outcome: storage.Success},
	} {
		c.request = "POST /api/v3/flows/executor/" + c.request + "/?query="
		c.check(t, p)
	}
}

func TestAuthentikIsProvisionedBySCIM(t *testing.T) {
	p := builtin(t, "authentik")
	const scim = " /source/scim/hr/v2/"
	for _, c := range []asked{
		{request: "POST" + scim + "Users", body: `{"userName":"bob"}`, status: 201, answer: `{"id":"u-1"}`, action: "admin:create-user", outcome: storage.Success, identifier: "bob", target: "u-1"},
		{request: "POST" + scim + "Users", body: `{"userName":"bob"}`, status: 409, action: "admin:create-user", outcome: storage.Failed, identifier: "bob"},
		{request: "PUT" + scim + "Users/u-1", body: `{"userName":"bob"}`, status: 200, action: "admin:update-user", outcome: storage.Success, target: "u-1"},
		{request: "PATCH" + scim + "Users/u-1", body: `{}`, status: 200, action: "admin:update-user", outcome: storage.Success, target: "u-1"},
		{request: "DELETE" + scim + "Users/u-1", status: 204, action: "admin:delete-user", outcome: storage.Success, target: "u-1"},
		{request: "POST" + scim + "Groups", body: `{}`, status: 201, action: "admin:create-group", outcome: storage.Success},
		{request: "PUT" + scim + "Groups/g-1", body: `{}`, status: 200, action: "admin:update-group", outcome: storage.Success},
		{request: "DELETE" + scim + "Groups/g-1", status: 204, action: "admin:delete-group", outcome: storage.Success},
	} {
		if r := c.check(t, p); r != nil && (r.Class != "admin" || r.Record != profile.Always) {
			t.Errorf("%s: class %s, record %s", c.request, r.Class, r.Record)
		}
	}
	destroys(t, p, "DELETE"+scim+"Users/u-1", "admin:delete-user", true)
	destroys(t, p, "DELETE"+scim+"Groups/g-1", "admin:delete-group", false)
	for _, request := range []string{"GET" + scim + "Users", "GET" + scim + "Users/u-1", "GET" + scim + "Schemas", "GET /source/oauth/callback/github"} {
		method, path, _ := strings.Cut(request, " ")
		if m, ok := p.Match(method, target(t, path)); !ok || m.Route.Record != profile.Failures {
			t.Errorf("%s: record %s", request, m.Route.Record)
		}
	}
}

func TestWhoeverIsMadeInactiveIsBanned(t *testing.T) {
	p := builtin(t, "authentik")
	for _, method := range []string{"PUT", "PATCH"} {
		request := method + " /api/v3/core/users/9/"
		for body, action := range map[string]string{
			`{"is_active":false}`: "admin:ban-user", `{"is_active":"no"}`: "admin:ban-user", `{"is_active":0}`: "admin:ban-user",
			`{"is_active":true,"name":"B"}`: "admin:update-user", `{"name":"B"}`: "admin:update-user", `{}`: "admin:update-user",
		} {
			c := asked{request: request, body: body, status: 200, answer: `{"pk":9}`, action: action, outcome: storage.Success, target: "9"}
			r := c.check(t, p)
			if want := action == "admin:ban-user"; r == nil || (severity.Infer(severity.Event{Action: r.ActionName(), Class: r.Class}) == severity.Critical) != want {
				t.Errorf("%s %s is of another severity", request, body)
			}
		}
		destroys(t, p, request, "admin:update-user", false) // it is not known to be a ban yet
	}
}

func TestReadsOfAuthentikThatAct(t *testing.T) {
	p := builtin(t, "authentik")
	for _, c := range []asked{
		{request: "GET /api/v3/crypto/certificatekeypairs/7/view_private_key/?download=", status: 200, action: "admin:view-private-key", outcome: storage.Success},
		{request: "GET /api/v3/crypto/certificatekeypairs/7/view_private_key/", status: 403, action: "admin:view-private-key", outcome: storage.Failed},
		{request: "GET /api/v3/core/users/9/recovery/", status: 200, answer: `{"link":"x"}`, action: "admin:create-recovery-link", outcome: storage.Success, target: "9"},
		{request: "GET /api/v3/core/users/9/recovery_email/?email_stage=1", status: 204, action: "admin:send-recovery-email", outcome: storage.Success, target: "9"},
	} {
		if r := c.check(t, p); r != nil && r.Record != profile.Always {
			t.Errorf("%s: record %s", c.request, r.Record)
		}
	}
}
