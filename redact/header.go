package redact

import (
	"net/textproto"
	"slices"
	"strings"
)

// secretHeaders are masked whatever Options.Fields says. Caddy itself masks
// only the first four (threats.md X12).
var secretHeaders = map[string]bool{
	"authorization": true, "proxy-authorization": true, "cookie": true, "set-cookie": true, "cookie2": true,
	"set-cookie2": true, "x-api-key": true, "api-key": true, "apikey": true, "set-auth-token": true,
	"set-auth-jwt": true, "x-auth-token": true, "x-access-token": true, "x-refresh-token": true,
	"x-session-token": true, "x-csrf-token": true, "x-xsrf-token": true, "x-amz-security-token": true,
	"x-goog-api-key": true, "x-hub-signature": true, "x-hub-signature-256": true, "x-webhook-secret": true,
	"stripe-signature": true, "x-slack-signature": true, "dpop": true, "authentication-info": true,
	"proxy-authentication-info": true, "x-forwarded-access-token": true, "x-vault-token": true,
	"cf-access-jwt-assertion": true, "x-amzn-oidc-data": true, "x-forwarded-client-cert": true,
	"x-client-cert": true, "ssl-client-cert": true, "x-ssl-client-cert": true, "x-captcha-response": true,
	"private-token": true, "job-token": true, "x-otp": true, "x-totp": true, "x-github-token": true,
	"x-session-cookie": true, "x-auth-request-access-token": true,
}

// answerHeaders are those of secretHeaders, in their canonical form, that auth servers answer with.
var answerHeaders = []string{
	"Set-Cookie", "Set-Auth-Token", "Set-Auth-Jwt", "X-Session-Token", "X-Access-Token", "X-Refresh-Token", "X-Auth-Token", "X-Csrf-Token",
	"X-Auth-Request-Access-Token", "X-Forwarded-Access-Token", "Authorization", "Authentication-Info",
}

// SecretHeaders are the headers of requests and of answers, sorted and in their canonical form, that a log of
// Caddy's must not show: the filter that we bring for such logs knows them all. Those of answers include what
// is no secret but names a user (Gap-Auth) or leads to one (Location, Refresh).
func SecretHeaders() (requests, answers []string) {
	for name := range secretHeaders {
		if !strings.HasPrefix(name, "set-") {
			requests = append(requests, textproto.CanonicalMIMEHeaderKey(name))
		}
	}
	requests = append(requests, "Referer", "X-Forwarded-Uri", "X-Original-Uri", "X-Original-Url", "X-Rewrite-Url")
	answers = append(slices.Clone(answerHeaders), "Location", "Refresh", "Gap-Auth", "X-Auth-Request-Email")
	slices.Sort(requests)
	slices.Sort(answers)
	return requests, answers
}

// urlHeaders hold one URL.
var urlHeaders = map[string]bool{
	"location": true, "content-location": true, "x-forwarded-uri": true, "x-original-uri": true,
	"x-original-url": true, "x-rewrite-url": true, "sec-websocket-location": true,
}

// Header masks the value of a header field; name in any case. Credentials
// (Authorization, Cookie, Set-Cookie, X-Api-Key, Set-Auth-Token, ... and every
// Sensitive name) become Placeholder, after the scheme for Authorization;
// of Referer and Origin only scheme://host is kept; URLs are masked as URL
// does, all else as Text does.
func (r *Redactor) Header(name, value string) string {
	lower := strings.ToLower(strings.TrimSpace(name))
	switch {
	case value == "":
		return ""
	case lower == "authorization" || lower == "proxy-authorization":
		scheme, _, ok := strings.Cut(strings.TrimSpace(value), " ")
		if ok && authScheme(scheme) {
			return scheme + " " + Placeholder
		}
		return Placeholder
	case secretHeaders[lower]:
		return Placeholder
	case lower == "referer" || lower == "referrer" || lower == "origin":
		return origin(value)
	case urlHeaders[lower]:
		return r.URL(value)
	case r.Sensitive(lower):
		return Placeholder
	}
	shortest := shortestInText
	if isIDKey([]byte(lower)) {
		shortest = never
	}
	clean, whole := r.clean(value, shortest)
	if whole {
		return Placeholder
	}
	return clean
}

// origin is scheme://host[:port] of a web URL, "null" for "null", and
// Placeholder for anything else (threats.md D9).
func origin(value string) string {
	value = strings.TrimSpace(value)
	if value == "null" || value == Placeholder {
		return value
	}
	scheme, rest, ok := strings.Cut(value, "://")
	if !ok || !web(scheme) || strings.Contains(value, `\`) {
		return Placeholder
	}
	rest = rest[userinfoEnd(scheme, rest):]
	if n := strings.IndexAny(rest, "/?#"); n >= 0 {
		rest = rest[:n]
	}
	_, port, _ := strings.Cut(rest[strings.LastIndexByte(rest, ']')+1:], ":")
	if rest == "" || len(rest) > 255 || strings.Trim(port, "0123456789") != "" {
		return Placeholder
	}
	for i := range len(rest) {
		if c := rest[i]; !isWordByte(c) && strings.IndexByte(".-_:[]", c) < 0 {
			return Placeholder
		}
	}
	return strings.ToLower(scheme) + "://" + rest
}
