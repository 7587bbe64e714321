package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"
)

// plant is an exchange with a secret in one place. In its parts § stands for the secret,
// §j for it within a JSON text, §q within a query, §b for the base64 of "ada:" and it; §h
// is the host of the site.
type plant struct {
	where   string
	request string // method and target
	header  string
	body    string
	answer  string // of the auth server; "" for a sign-in's
	kind    string // of secret: "" a token, digits, hard (whatever escapes change), jwt, hex
	encode  func(string) string
}

const (
	formType  = "Content-Type: application/x-www-form-urlencoded\r\n"
	multipart = "Content-Type: multipart/form-data; boundary=xx\r\n"
	reading   = jsonType + "Cookie: better-auth.session_token=reader\r\nOrigin: http://§h\r\n" // who may use the API
	reset     = "GET /api/auth/reset-password/"
)

// plants are the places in which a secret comes to the log (threats.md D1 to D13).
func plants() []plant {
	return append(append(plantsInHeads(), plantsInBodies()...), plantsInAnswers()...)
}

func plantsInHeads() []plant {
	return []plant{
		{where: "bearer token", request: update, header: "Authorization: Bearer §\r\n", body: typed},
		{where: "basic authorization", request: update, header: "Authorization: Basic §b\r\n", body: typed},
		{where: "an authorization of no scheme", request: update, header: "Authorization: §\r\n", body: typed},
		{where: "proxy authorization", request: update, header: "Proxy-Authorization: Basic §b\r\n", body: typed},
		{where: "session cookie", request: update, header: "Cookie: better-auth.session_token=§.c2ln\r\n", body: typed},
		{where: "another cookie", request: update, header: "Cookie: __Secure-x=§; a=b\r\n", body: typed},
		{where: "cookie of a sign-out", request: "POST /api/auth/sign-out", header: "Cookie: better-auth.session_token=§.c2ln\r\n", body: "{}"},
		{where: "api key", request: update, header: "X-Api-Key: §\r\n", body: typed},
		{where: "referer's query", request: signIn, header: "Referer: https://app.test/x?token=§\r\n", body: typed},
		{where: "referer's path", request: signIn, header: "Referer: https://app.test/reset-password/§\r\n", body: typed},
		{where: "origin with a query", request: signIn, header: "Origin: https://app.test/?token=§\r\n", body: typed},
		{where: "field in the user agent", request: signIn, header: "User-Agent: app/1.0 (token=§)\r\n", body: typed},
		{where: "bearer token in the user agent", request: signIn, header: "User-Agent: app/1.0 Bearer §\r\n", body: typed},
		{where: "csrf token", request: signIn, header: "X-Csrf-Token: §\r\n", body: typed},
		{where: "original URL of a proxy", request: signIn, header: "X-Forwarded-Uri: /verify?token=§\r\n", body: typed},
		{where: "magic link", request: "GET /api/auth/magic-link/verify?token=§"},
		{where: "verification link", request: "GET /api/auth/verify-email?token=§&callbackURL=/x"},
		{where: "code of OAuth", request: "GET /api/auth/callback/google?code=§&state=x"},
		{where: "state of OAuth", request: "GET /api/auth/callback/google?code=x&state=§"},
		{where: "password in a query", request: signIn + "?password=§q", body: typed, kind: "hard"},
		{where: "id_token in a query", request: signIn + "?id_token=§", body: typed, kind: "jwt"},
		{where: "access_token in a query", request: update + "?access_token=§", body: typed},
		{where: "token in a URL in a query", request: "GET /api/auth/magic-link/verify?callbackURL=https%3A%2F%2Fapp.test%2F%3Ftoken%3D§"},
		{where: "encoded name in a query", request: signIn + "?%74ok%65n=§", body: typed},
		{where: "query of an unknown path", request: "POST /api/auth/no-such-route?key=§", body: "{}"},
		{where: "reset token", request: reset + "§?callbackURL=/x"},
		{where: "reset token behind a dot", request: "GET /api/auth/./reset-password/§"},
		{where: "reset token behind two slashes", request: "GET /api/auth//reset-password/§"},
		{where: "reset token in capitals", request: "GET /API/AUTH/Reset-Password/§"},
		{where: "reset token under an encoded name", request: "GET /api/auth/%72eset-password/§"},
		{where: "deletion's token", request: "GET /api/auth/delete-user/callback?token=§"},
		{where: "list of the API", request: "GET /api/auth/audit-log/list?token=§&cursor=§", header: "Authorization: Bearer §\r\n"},
		{where: "session token of the API", request: "GET /api/auth/audit-log/list?from=never", header: "Cookie: better-auth.session_token=§\r\n"},
	}
}

func plantsInBodies() []plant {
	note := func(where, value, kind string) plant {
		return plant{where: where, request: update, header: jsonType, body: `{"note":"` + value + `"}`, kind: kind}
	}
	field := func(where, body, kind string) plant {
		return plant{where: where, request: update, header: jsonType, body: body, kind: kind}
	}
	long := strings.Repeat("x", 70<<10)
	return []plant{
		{where: "password", request: signIn, header: jsonType, body: `{"email":"ada@example.com","password":"§j"}`, kind: "hard"},
		{where: "new password", request: "POST /api/auth/change-password", header: jsonType, body: `{"newPassword":"§","currentPassword":"x"}`},
		{where: "current password", request: "POST /api/auth/change-password", header: jsonType, body: `{"newPassword":"x","currentPassword":"§"}`},
		{where: "password of a deletion", request: "POST /api/auth/delete-user", header: jsonType, body: `{"password":"§"}`},
		{where: "reset token in a body", request: "POST /api/auth/reset-password", header: jsonType, body: `{"newPassword":"x","token":"§"}`},
		field("number", `{"otp":§}`, "digits"),
		field("digits", `{"code":"§"}`, "digits"),
		field("list", `{"backupCodes":["a","§"]}`, ""),
		field("deep down", `{"a":{"b":{"c":{"password":"§"}}}}`, ""),
		field("deeper than the limit", strings.Repeat(`{"a":`, 12)+`{"password":"§"}`+strings.Repeat("}", 12), ""),
		field("list of objects", `{"items":[{"token":"§"}]}`, ""),
		field("JSON in a text", `{"data":"{\"password\":\"§\"}"}`, ""),
		field("capitals", `{"PASS_WORD":"§"}`, ""),
		field("a dash", `{"client-secret":"§j"}`, "hard"),
		field("refresh token", `{"refresh_token":"§"}`, ""),
		field("token within idToken", `{"provider":"google","idToken":{"token":"§"}}`, "jwt"),
		field("two members of a name", `{"password":"x","password":"§"}`, ""),
		field("a name in another member", `{"type":"password","value":"§"}`, ""),
		field("behind a byte order mark", "\ufeff"+`{"password":"§"}`, ""),
		field("broken JSON", `{"password":"§","email":`, ""),
		note("otpauth URI", "otpauth://totp/x:ada?secret=§&issuer=x", ""),
		note("private key", `-----BEGIN PRIVATE KEY-----\n§\n-----END PRIVATE KEY-----`, ""),
		note("JWT", "§", "jwt"),
		note("bearer token in a text", "Bearer §", ""),
		note("hexadecimal", "§", "hex"),
		note("URL with a token", "https://app.test/x?token=§", ""),
		note("URL with a password", "postgres://ada:§@db.test/x", ""),
		{where: "JSON in base64", request: update, header: jsonType, body: `{"blob":"§"}`, encode: func(v string) string { return base64.StdEncoding.EncodeToString([]byte(`{"password":"` + v + `"}`)) }},
		{where: "JSON as plain text", request: update, header: textType, body: `{"password":"§"}`},
		{where: "start of a body that is too long", request: update, header: jsonType, body: `{"password":"§","x":"` + long + `"}`},
		{where: "end of a body that is too long", request: update, header: jsonType, body: `{"x":"` + long + `","password":"§"}`},
		{where: "gzip", request: update, header: gzipped, body: "§", encode: func(v string) string { return zipped(`{"password":"` + v + `"}`) }},
		{where: "UTF-16", request: update, header: "Content-Type: application/json; charset=utf-16le\r\n", body: "§", encode: func(v string) string { return wide(`{"password":"` + v + `"}`) }},
		{where: "form", request: signIn, header: formType, body: "email=ada%40example.com&password=§q", kind: "hard"},
		{where: "form with an encoded name", request: update, header: formType, body: "pass%77ord=§"},
		{where: "form with brackets", request: update, header: formType, body: "user[password]=§"},
		{where: "form declared as JSON", request: update, header: jsonType, body: "password=§"},
		{where: "multipart", request: update, header: multipart, body: "--xx\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n§\r\n--xx--\r\n"},
		{where: "file", request: update, header: multipart, body: "--xx\r\nContent-Disposition: form-data; name=\"f\"; filename=\"id_rsa\"\r\n\r\n§\r\n--xx--\r\n"},
		{where: "multipart without a boundary", request: update, header: "Content-Type: multipart/form-data\r\n", body: "--xx\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n§\r\n--xx--\r\n"},
		{where: "a media type that is none", request: update, header: "Content-Type: application/json;;charset=\"\x80\r\n", body: `{"password":"§"}`},
		{where: "no media type", request: update, body: `{"password":"§"}`},
		{where: "metadata of an insert", request: "POST /api/auth/audit-log/insert", header: reading, body: `{"action":"custom:x","metadata":{"password":"§","a":[{"token":"§"}]}}`},
		{where: "insert with a wrong action", request: "POST /api/auth/audit-log/insert", header: reading, body: `{"action":{"password":"§"},"status":"§","severity":"§","metadata":"§"}`},
		{where: "insert of broken JSON", request: "POST /api/auth/audit-log/insert", header: reading, body: `{"password":"§"`},
	}
}

func plantsInAnswers() []plant {
	in := func(where, status, header, body string) plant {
		return plant{where: where, request: signIn, header: jsonType, body: typed, answer: answer(status, header, body)}
	}
	return []plant{
		in("token in the answer", "200 OK", jsonType, `{"token":"§","user":{"id":"u-ada","password":"§"},"session":{"token":"§"}}`),
		in("Set-Cookie", "200 OK", jsonType+"Set-Cookie: better-auth.session_token=§.c2ln; Path=/\r\n", signedIn),
		in("Set-Auth-Token", "200 OK", jsonType+"Set-Auth-Token: §\r\n", signedIn),
		in("Set-Auth-Jwt", "200 OK", jsonType+"Set-Auth-Jwt: §\r\n", signedIn),
		in("Location's query", "302 Found", "Location: https://app.test/r?token=§\r\n", ""),
		in("Location's fragment", "302 Found", "Location: https://app.test/r#access_token=§\r\n", ""),
		in("error of a redirect", "302 Found", "Location: https://app.test/r?error=§&error_description=§\r\n", ""),
		in("message of an error", "401 Unauthorized", jsonType, `{"message":"the password § is wrong","code":"INVALID_PASSWORD"}`),
		in("code of an error", "401 Unauthorized", jsonType, `{"message":"no","code":"§"}`),
		in("stack of a failure", "500 Internal Server Error", textType, "Error: token=§\n at login (auth.js:1)"),
		in("page", "400 Bad Request", "Content-Type: text/html\r\n", `<input name="csrf" value="§">`),
		in("text that is no JSON", "401 Unauthorized", jsonType, `{"message":"§`),
		{where: "answer that is cut", request: signIn, header: jsonType, body: typed, answer: "HTTP/1.1 200 OK\r\n" + jsonType + "Connection: close\r\nContent-Length: 500\r\n\r\n" + `{"token":"§"`},
		{where: "auth server that is down", request: "POST /api/auth/sign-in/email?token=§", header: jsonType + "X-Do: down\r\n", body: `{"email":"ada@example.com","password":"§"}`},
		{where: "panic", request: "POST /api/auth/sign-in/email?token=§", header: jsonType + "X-Do: panic\r\nCookie: better-auth.session_token=§.c2ln\r\n", body: `{"email":"ada@example.com","password":"§"}`},
		{where: "panic of a deletion", request: "POST /api/auth/delete-user?token=§", header: jsonType + "X-Do: panic\r\nAuthorization: Bearer §\r\n", body: `{"password":"§"}`},
		{where: "an error of a handler", request: "POST /api/auth/sign-in/email?token=§", header: jsonType + "X-Do: error\r\n", body: `{"email":"ada@example.com","password":"§"}`},
	}
}

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s)) // into memory
	_ = w.Close()
	return b.String()
}

func wide(s string) string {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = append(b, byte(c), byte(c>>8))
	}
	return string(b)
}

// canary is a secret that was planted.
type canary struct {
	plant
	name   string // the case of its request
	secret string
	forms  [][]byte // in which it may come out, see formsOf
}

// newCanary gives a plant a secret that nothing else has.
func newCanary(p plant, n int) *canary {
	c := &canary{plant: p, name: fmt.Sprint("case-", n), secret: "cnry" + rand.Text()}
	switch p.kind {
	case "digits":
		n, _ := rand.Int(rand.Reader, big.NewInt(9e11)) // it never fails
		c.secret = fmt.Sprint(1e11 + n.Int64())
	case "hard":
		c.secret = `p"ä\<&% =+/` + rand.Text()
	case "jwt":
		c.secret = "eyJhbGciOiJIUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+rand.Text()+`"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(rand.Text()))
	case "hex":
		sum := sha256.Sum256([]byte(rand.Text()))
		c.secret = hex.EncodeToString(sum[:])
	}
	c.forms = formsOf(c.secret)
	return c
}

func (c *canary) fill(s string) string {
	value := c.secret
	if c.encode != nil {
		value = c.encode(value)
	}
	b, _ := json.Marshal(value) // a text
	return strings.NewReplacer("§j", string(b[1:len(b)-1]), "§q", url.QueryEscape(value), "§b", base64.StdEncoding.EncodeToString([]byte("ada:"+value)), "§", value).Replace(s)
}

// reply is the auth server's answer, with the length that it has now.
func (c *canary) reply() string {
	s := c.fill(c.answer)
	head, body, _ := strings.Cut(s, "\r\n\r\n")
	if strings.Contains(head, "Connection: close") {
		return s // one that is cut
	}
	return length.ReplaceAllString(head, fmt.Sprint("Content-Length: ", len(body))) + "\r\n\r\n" + body
}

var length = regexp.MustCompile(`Content-Length: \d+`)

// raw is the request as it goes over the wire.
func (c *canary) raw(host string) string {
	method, target, _ := strings.Cut(c.fill(c.request), " ")
	header := strings.ReplaceAll(c.header, "§h", host)
	r := raw(method, target, c.name, "Host: "+host+"\r\n"+c.fill(header), c.fill(c.body))
	if strings.Contains(c.header, "User-Agent") {
		r = strings.Replace(r, "User-Agent: "+c.name+"\r\n", "", 1)
	}
	return r
}

// formsOf are the forms in which a secret may come out: as it is, its first and its last
// half, escaped for JSON (twice, too), for URLs, in hexadecimal, in base64 wherever in a
// longer text it stood, and as a hash that anybody can guess. All but base64 are in
// small letters.
func formsOf(secret string) [][]byte {
	forms := map[string]bool{}
	texts := []string{secret}
	if len(secret) > 16 {
		texts = append(texts, secret[:len(secret)/2], secret[len(secret)/2:])
	}
	for _, s := range texts {
		once, _ := json.Marshal(s)
		twice, _ := json.Marshal(string(once[1 : len(once)-1]))
		sum := sha256.Sum256([]byte(s))
		percent := "%" + strings.Join(pairs(hex.EncodeToString([]byte(s))), "%")
		for _, form := range []string{s, string(once[1 : len(once)-1]), string(twice[1 : len(twice)-1]), url.QueryEscape(s), url.PathEscape(s), percent, hex.EncodeToString([]byte(s)), hex.EncodeToString(sum[:])} {
			forms[strings.ToLower(form)] = true
		}
		for shift := range 3 {
			inner := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + s))
			inner = inner[(shift*8+5)/6 : len(inner)-1] // without what its neighbours change
			forms[inner] = true
			forms[strings.NewReplacer("+", "-", "/", "_").Replace(inner)] = true
		}
	}
	var list [][]byte
	for form := range forms {
		if len(form) >= 8 {
			list = append(list, []byte(form))
		}
	}
	return list
}

func pairs(s string) (list []string) {
	for i := 0; i < len(s); i += 2 {
		list = append(list, s[i:i+2])
	}
	return list
}

// standsIn says whether a canary is in a text, in any of its forms; small is the text in
// small letters.
func (c *canary) standsIn(text, small []byte) bool {
	for _, form := range c.forms {
		if bytes.Contains(small, form) || bytes.Contains(text, form) {
			return true
		}
	}
	return false
}

// TestASecretIsFoundInWhateverForm: the search of gate 8 finds a secret in whatever form.
func TestASecretIsFoundInWhateverForm(t *testing.T) {
	c := newCanary(plant{where: "test", kind: "hard"}, 0)
	inJSON, _ := json.Marshal(map[string]string{"x": c.secret})
	again, _ := json.Marshal(string(inJSON))
	for name, text := range map[string]string{
		"plain": c.secret, "capitals": strings.ToUpper(c.secret), "JSON": string(inJSON), "JSON in JSON": string(again), "query": url.Values{"a": {c.secret}}.Encode(), "path": url.PathEscape(c.secret),
		"hexadecimal": strings.ToUpper(hex.EncodeToString([]byte(c.secret))), "base64": base64.StdEncoding.EncodeToString([]byte(c.secret)),
		"base64 of more": base64.URLEncoding.EncodeToString(inJSON), "cut": c.secret[:len(c.secret)/2+1],
	} {
		if text := []byte("before" + text + "after"); !c.standsIn(text, bytes.ToLower(text)) {
			t.Errorf("%s: %s is not found", name, text)
		}
	}
	if text := []byte("nothing of the kind"); c.standsIn(text, text) {
		t.Error("it is found everywhere")
	}
}
