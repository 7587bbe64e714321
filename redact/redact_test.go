package redact

import (
	"encoding/json"
	"errors"
	"runtime/debug"
	"strings"
	"testing"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func must(t testing.TB, o Options) *Redactor {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	jwt   = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
	token = "Zk3vR9xQ2mLp8TnW5cYb7HsD1fGj4KaE"
)

func TestJSON(t *testing.T) {
	deep := strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000)
	for _, c := range []struct{ name, in, want string }{
		{"a password is masked", `{"password":"hunter2","a":1}`, `{"password":"[REDACTED]","a":1}`},
		{"numbers, booleans, null and containers do not show their type", `{"otp":123456,"token":null,"secret":{"a":[1]},"pin":false,"key":[1]}`,
			`{"otp":"[REDACTED]","token":"[REDACTED]","secret":"[REDACTED]","pin":"[REDACTED]","key":"[REDACTED]"}`},
		{"case and separators are ignored", `{"New_Pass-Word":"x","ACCESSTOKEN":1}`, `{"New_Pass-Word":"[REDACTED]","ACCESSTOKEN":"[REDACTED]"}`},
		{"escapes in a name do not hide it", `{"pass\u0077ord":"x"}`, `{"password":"[REDACTED]"}`},
		{"arrays of objects are walked", `[{"items":[{"token":"t"}]}]`, `[{"items":[{"token":"[REDACTED]"}]}]`},
		{"JSON in a string is redacted inside", `{"d":"{\"password\":\"x\",\"a\":1}"}`, `{"d":"{\"password\":\"[REDACTED]\",\"a\":1}"}`},
		{"JSON in JSON in a string is left out", `{"d":"{\"e\":\"{\\\"password\\\":\\\"x\\\"}\"}"}`, `{"d":"{\"e\":\"[TOO DEEP]\"}"}`},
		{"the value of a named secret is masked, as Keycloak's credentials are", `{"type":"password","temporary":false,"value":"hunter2"}`, `{"type":"password","temporary":false,"value":"[REDACTED]"}`},
		{"also where the name comes last, or twice", `[{"value":"a","name":"otp"},{"Name":"x","value":[1],"n\u0061me":"client_secret","values":["b"]}]`, `[{"value":"[REDACTED]","name":"otp"},{"Name":"x","value":"[REDACTED]","name":"client_secret","values":"[REDACTED]"}]`},
		{"also in a JSON Patch", `[{"op":"replace","path":"/password","value":"hunter2"}]`, `[{"op":"replace","path":"/password","value":"[REDACTED]"}]`},
		{"a key that is masked itself still names its value", `{"key":"password","value":"hunter2"}`, `{"key":"[REDACTED]","value":"[REDACTED]"}`},
		{"also where an id names it, as SuperTokens' forms do", `{"formFields":[{"id":"email","value":"a@b.de"},{"id":"password","value":"hunter2!"}]}`, `{"formFields":[{"id":"email","value":"a@b.de"},{"id":"password","value":"[REDACTED]"}]}`},
		{"also where the value is called otherwise", `[{"name":"password","content":"hunter2"},{"k":"password","v":"hunter2"},{"label":"PIN","text":"1234","n":1}]`, `[{"name":"password","content":"[REDACTED]"},{"k":"password","v":"[REDACTED]"},{"label":"PIN","text":"[REDACTED]","n":1}]`},
		{"the value of anything else stays", `{"type":"colour","value":"blue","of":{"name":"password"}}`, `{"type":"colour","value":"blue","of":{"name":"password"}}`},
		{"a short object in base64 is masked", `{"data":"eyJwIjoiaHVudGVyMiJ9","state2":"eyJwIjoxfQ=="}`, `{"data":"[REDACTED]","state2":"[REDACTED]"}`},
		{"duplicates and case twins are kept", `{"token":1,"token":2,"EMAIL":"a","email":"b"}`, `{"token":"[REDACTED]","token":"[REDACTED]","EMAIL":"a","email":"b"}`},
		{"number literals stay as they are", `[1e400,9007199254740993,-0,1.10]`, `[1e400,9007199254740993,-0,1.10]`},
		{"keys are data", `{"__proto__":{"":1},"constructor":2}`, `{"__proto__":{"":1},"constructor":2}`},
		{"NUL and lone surrogates become U+FFFD", `{"a\u0000":"\ud800x\u0000"}`, "{\"a\ufffd\":\"\ufffdx\ufffd\"}"},
		{"a NUL in a name does not hide it", `{"pass\u0000word":"x"}`, "{\"pass\ufffdword\":\"[REDACTED]\"}"},
		{"a byte order mark is accepted", "\ufeff{\"a\":1}", `{"a":1}`},
		{"a JWT under a harmless name is masked", `{"note":"` + jwt + `"}`, `{"note":"[REDACTED]"}`},
		{"a JWT inside prose is masked", `{"note":"got ` + jwt + ` today"}`, `{"note":"got [REDACTED] today"}`},
		{"a long random string is masked", `{"note":"` + token + `"}`, `{"note":"[REDACTED]"}`},
		{"a long random id stays", `{"userId":"` + token + `","ids":["` + token + `"]}`, `{"userId":"` + token + `","ids":["` + token + `"]}`},
		{"a JWT under an id is masked", `{"id":"` + jwt + `"}`, `{"id":"[REDACTED]"}`},
		{"a UUID stays", `{"ref":"550e8400-e29b-41d4-a716-446655440000"}`, `{"ref":"550e8400-e29b-41d4-a716-446655440000"}`},
		{"a URL is masked inside", `{"callbackURL":"https://a.example/x?token=abc&y=1"}`, `{"callbackURL":"https://a.example/x?token=[REDACTED]&y=1"}`},
		{"a cookie-like pair is masked", `{"x":"sess=` + token + `"}`, `{"x":"[REDACTED]"}`},
		{"too deep becomes a marker", `{"a":{"b":{"c":{"d":{"e":1}}}}}`, `{"a":{"b":{"c":{"d":{"e":1}}}}}`},
		{"one deeper becomes a marker", `{"a":{"b":{"c":{"d":{"e":{"password":1}}}}}}`, `{"a":{"b":{"c":{"d":{"e":"[TOO DEEP]"}}}}}`},
		{"a depth bomb is bounded", deep, `[[[[["[TOO DEEP]"]]]]]`},
		{"a scalar is a document", ` "x" `, `"x"`},
		{"white space goes", "{ \"a\" : [ 1 , true ] }", `{"a":[1,true]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer debug.SetMaxStack(debug.SetMaxStack(1 << 20))
			got, err := must(t, Options{}).JSON([]byte(c.in))
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}

// TestNamesHideNothing: a body that a client has escaped twice or not at all comes as a name.
func TestNamesHideNothing(t *testing.T) {
	r := must(t, Options{})
	for typ, bodies := range map[string][]string{
		"application/x-www-form-urlencoded": {
			`%7B%22email%22%3A%22a%40b.c%22%2C%22password%22%3A%22hunter2%22%7D=`, `'{"email":"a@b.c","password":"hunter2="}'`,
			`a=1&password%3Dhunter2`, `a=1&x%22password%22%3A%22hunter2%22=`,
			"--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n--b--\r\n",
			"------WebKitFormBoundaryX\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n------WebKitFormBoundaryX--\r\n",
		},
		"application/json":                {`{"https://h/?token=hunter2":1}`, `{"password=hunter2":1}`, `{"x":{"\"password\": \"hunter2\"":1}}`, `{"factor":"otp","value":"hunter2"}`, `{"field":"password","newValue":"hunter2"}`},
		"multipart/form-data; boundary=b": {"--b\r\nContent-Disposition: form-data; name=\"password=hunter2\"\r\n\r\nx\r\n--b--\r\n"},
	} {
		for _, body := range bodies {
			out, err := r.Body(typ, []byte(body))
			if u := (*Unparsed)(nil); err != nil && !errors.As(err, &u) {
				t.Errorf("%s: %v", body, err)
			}
			if strings.Contains(string(out), "hunter2") || err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s of %s shows %s, %v", typ, body, out, err)
			}
		}
	}
	for body, want := range map[string]string{`a%5Bb%5D=1&c.d=2&e-f=3&g+h=4`: `{"a[b]":"1","c.d":"2","e-f":"3","g h":"4"}`, `=1`: `{"":"1"}`} {
		if out, err := r.Form([]byte(body)); err != nil || string(out) != want {
			t.Errorf("%s became %s, %v", body, out, err)
		}
	}
}

// TestLongNamesCostNoMoreThanOthers: they come from clients. A quadratic look takes minutes here.
func TestLongNamesCostNoMoreThanOthers(t *testing.T) {
	r := must(t, Options{})
	for _, name := range []string{"a" + strings.Repeat("1", 1<<20), "a" + strings.Repeat("1s", 1<<19), strings.Repeat("s", 1<<20)} {
		if _, err := r.Form([]byte(name + "=1")); err != nil {
			t.Error(err)
		}
		if _, err := r.JSON([]byte(`{"` + name + `":1}`)); err != nil {
			t.Error(err)
		}
		r.URL("/api/auth//x?" + name + "=1")
		r.Text(name + "=1")
	}
	if !r.Sensitive("password" + strings.Repeat("1", 1<<20)) {
		t.Error("digits behind a name hide it")
	}
}

func TestStrategies(t *testing.T) {
	in := []byte(`{"password":"x","otp":1,"n":"` + jwt + `","l":["` + jwt + `",2],"z":0}`)
	h := must(t, Options{Strategy: Hash, Key: testKey})
	got, _ := h.JSON(in)
	want := `{"password":"` + h.HashTag("password", "x") + `","otp":"[REDACTED]","n":"` + h.HashTag("n", jwt) + `","l":["` + h.HashTag("l", jwt) + `",2],"z":0}`
	if string(got) != want {
		t.Errorf("hash: %s\nwant  %s", got, want)
	}
	if got, _ = h.JSON([]byte(`{"token":"123456","secret":{"pin":1234},"credentials":["123456"],"password":1234}`)); string(got) != `{"token":"[REDACTED]","secret":"[REDACTED]","credentials":"[REDACTED]","password":"[REDACTED]"}` {
		t.Errorf("a hash of what may be a code: %s", got)
	}
	got, _ = must(t, Options{Strategy: Remove}).JSON(in)
	if string(got) != `{"l":[2],"z":0}` {
		t.Errorf("remove: %s", got)
	}
	if got, _ = must(t, Options{Strategy: Remove}).JSON([]byte(`"` + jwt + `"`)); string(got) != `"[REDACTED]"` {
		t.Errorf("a removed document is still a document: %s", got)
	}
}

func TestHashTag(t *testing.T) {
	a, b := must(t, Options{Key: testKey}), must(t, Options{Key: []byte(strings.Repeat("k", 32))})
	tag := a.HashTag("newPassword", "x")
	if tag != a.HashTag("new_password", "x") || tag == a.HashTag("token", "x") || tag == b.HashTag("newPassword", "x") || tag == a.HashTag("newPassword", "y") {
		t.Error("a tag depends on key, field and value, and on nothing else")
	}
	if parts := strings.Split(tag, ":"); len(parts) != 3 || parts[0] != "hmac-sha256" || len(parts[1]) != 8 || len(parts[2]) != 22 {
		t.Errorf("tag %q", tag)
	}
	if got, want := b.HashTag("newPassword", "x"), "hmac-sha256:a9e63d57:7uRfmJJMyrtIRuA63KP7UQ"; got != want { // by Python's hmac
		t.Errorf("tags that are in databases must stay: %s, want %s", got, want)
	}
	if must(t, Options{}).HashTag("a", "x") != Placeholder {
		t.Error("without a key there must be no hash")
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for _, o := range []Options{
		{Strategy: "sha1"}, {Strategy: Hash}, {Strategy: Hash, Key: testKey[:31]}, {Key: testKey[:5]},
		{MaxBytes: 63}, {MaxBytes: -1}, {MaxDepth: -1}, {MaxDepth: 101}, {Fields: []string{"--"}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestFieldsReplaceAndAddFieldsAdd(t *testing.T) {
	r := must(t, Options{Fields: []string{"e-mail"}, AddFields: []string{"note"}})
	for key, want := range map[string]bool{"EMAIL": true, "Note": true, "password": false} {
		if r.Sensitive(key) != want {
			t.Errorf("%s: want %v", key, want)
		}
	}
	if n := len(DefaultFields()); n < 60 {
		t.Errorf("%d default fields", n)
	}
}

func TestUnparsedNeverQuotesTheBody(t *testing.T) {
	r := must(t, Options{})
	for _, c := range [][2]string{
		{"application/json", `{"password":"hunter2"`}, {"application/json", `{"password":hunter2}`}, {"application/json", ""},
		{"application/json", `{"a":01}`}, {"application/json", `{"a":"\x"}`}, {"application/json", `[1,]`}, {"application/json", `{} hunter2`},
		{"application/x-www-form-urlencoded", `{"password":"hunter2"}`}, {"application/x-www-form-urlencoded", "hunter2"},
		{"multipart/form-data", "hunter2"}, {"multipart/form-data; boundary=b", "--b\r\nhunter2"}, {"text/plain", "hunter2"},
		{"", `{"password":"hunter2"}`}, {"application/json; charset=utf-16", `{"password":"hunter2"}`},
	} {
		got, err := r.Body(c[0], []byte(c[1]))
		if got != nil || !errors.Is(err, ErrUnparsed) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %s, %v", c, got, err)
		}
	}
}

func TestForm(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"fields become members", "email=a%40b.c&password=x+y&n=1", `{"email":"a@b.c","password":"[REDACTED]","n":"1"}`},
		{"a repeated name becomes an array", "a=1&b=2&a=3", `{"a":["1","3"],"b":"2"}`},
		{"bracket names are understood", "user[password]=x&otp[0]=1", `{"user[password]":"[REDACTED]","otp[0]":"[REDACTED]"}`},
		{"an unescaped & does not leak the rest of a password", "password=a&bcd&n=1", `{"password":"[REDACTED]","n":"1"}`},
		{"a broken escape stands for itself", "a=%zz", `{"a":"%zz"}`},
		{"JSON in a field is redacted inside", "d=%7B%22token%22%3A1%7D", `{"d":"{\"token\":\"[REDACTED]\"}"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := must(t, Options{}).Form([]byte(c.in))
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}

func TestMultipartKeepsNoFileContentAndNoFileName(t *testing.T) {
	body := "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n1\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"hunter2.txt\"\r\nContent-Type: text/plain\r\n\r\nhunter2\r\n--b--\r\n"
	got, err := must(t, Options{}).Body("multipart/form-data; boundary=b", []byte(body))
	if want := `{"password":"[REDACTED]","n":"1","f":{"file":true,"bytes":7}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestSizeIsCapped(t *testing.T) {
	r := must(t, Options{MaxBytes: 64})
	for in, want := range map[string]string{
		`["` + strings.Repeat("a b ", 100) + `"]`:               `["[TRUNCATED]"]`,
		`{"a":1,"b":"` + strings.Repeat("a b ", 100) + `"}`:     `{"a":1,"[TRUNCATED]":true}`,
		`{"a":{"b":"` + strings.Repeat("x y", 99) + `"},"c":1}`: `{"a":{"[TRUNCATED]":true}}`,
		`"` + strings.Repeat("a b ", 100) + `"`:                 `"[TRUNCATED]"`,
	} {
		if got, err := r.JSON([]byte(in)); err != nil || string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	got, _ := r.JSON([]byte(`{"` + strings.Repeat("k", 10_000) + `":1}`))
	if !json.Valid(got) || len(got) > 64 {
		t.Errorf("%s", got)
	}
	got, _ = must(t, Options{}).JSON([]byte(`{"` + strings.Repeat("é", 10_000) + `":1}`))
	if len(got) != 256+len(`{"":1}`) {
		t.Errorf("a name has %d bytes", len(got))
	}
}

// TestAPIKeysAreKnownByTheirBeginning: many are too short to be told from an id.
func TestAPIKeysAreKnownByTheirBeginning(t *testing.T) {
	r := must(t, Options{})
	for _, key := range []string{
		"glpat-ABCdef1234567890abcd", "ghp_abcdefghijklmnopqrst", "github_pat_11ABCDEFG0a1b2", "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
		"sk_live_abcdefghijklmnopqrstuvwx", "rk_live_4eC39HqLyj", "sk_test_4eC39HqLyj", "sk-abcdef0123456789", "xoxb-17653672481-19874698323",
		"SG.ngeVfQFYQlKU0ufo8x5d1A.TwL2iGAB", "hvs.CAESIJ1234567890", "npm_a1b2c3d4e5f6", "AIzaSyA1b2c3d4e5", "whsec_a1b2c3d4e5f6", "shpat_a1b2c3d4e5f6",
	} {
		for in, want := range map[string]string{
			`{"note":"` + key + `"}`:                    `{"note":"[REDACTED]"}`,
			`{"id":"` + key + `"}`:                      `{"id":"[REDACTED]"}`,
			`{"note":"it is ` + key + `, is it?"}`:      `{"note":"it is [REDACTED], is it?"}`,
			`{"a":["(` + key + `)"]}`:                   `{"a":["([REDACTED])"]}`,
			`{"u":"https://a.example/x?y=` + key + `"}`: `{"u":"https://a.example/x?y=[REDACTED]"}`,
		} {
			if got, err := r.JSON([]byte(in)); err != nil || string(got) != want {
				t.Errorf("%s became %s, %v", in, got, err)
			}
		}
		if got := r.Text("wrong key: x " + key); got != "wrong key: x [REDACTED]" && got != "wrong key: [REDACTED] [REDACTED]" {
			t.Errorf("%s: %s", key, got)
		}
	}
	for _, text := range []string{"sk-learn-something", "npm_lifecycle_event", "SG.short", "ask-abcdef0123456789", "sk-", "task_live_4eC39H", "Aizawa1234567"} {
		if got, err := r.JSON([]byte(`{"note":"` + text + `"}`)); err != nil || string(got) != `{"note":"`+text+`"}` {
			t.Errorf("%s became %s, %v", text, got, err)
		}
	}
}

func TestErrorCodesStay(t *testing.T) {
	r := must(t, Options{})
	for _, code := range []string{"INVALID_2FA_CODE_PROVIDED", "OAUTH2_PROVIDER_NOT_FOUND", "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL", "ERR_HTTP2_STREAM_CANCEL_NOW"} {
		if got := r.Text(code); got != code {
			t.Errorf("%s became %s", code, got)
		}
	}
	for _, secret := range []string{"A1B2_C3D4_E5F6_G7H8_I9J0", "K7QZ2M9XW4R8T1V5B3N6", "INVALID_K7QZ2M9XW4R8T1V5"} {
		if got := r.Text(secret); got == secret {
			t.Errorf("%s stays", secret)
		}
	}
}
