package redact

import (
	"strings"
	"testing"
	"unicode/utf8"
)

type pair struct{ name, in, want string }

func check(t *testing.T, cases []pair, f func(string) string) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := f(c.in)
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if again := f(got); again != got {
				t.Errorf("again %s", again)
			}
		})
	}
}

func TestText(t *testing.T) {
	check(t, []pair{
		{"prose stays", "Invalid email or password, try again", "Invalid email or password, try again"},
		{"a JWT goes", "bad " + jwt + ".", "bad [REDACTED]"},
		{"a bearer token goes", "sent Bearer abc.def today", "sent Bearer [REDACTED] today"},
		{"bearer prose stays", "bearer token expired", "bearer token expired"},
		{"basic credentials go", "Basic dXNlcjpwYXNz", "[REDACTED]"},
		{"key=value goes", "dial: host=db password=hunter2 sslmode=off", "dial: host=db password=[REDACTED] sslmode=off"},
		{"a quoted value goes", `password='a b\' c' x=1`, `password='[REDACTED]' x=1`},
		{"a JSON fragment goes", `near {"password":"hunter2","a":1`, `near {"password":"[REDACTED]","a":1`},
		{"a JSON array goes", `x "backupCodes": ["a1","b2"], "a":1`, `x "backupCodes": [REDACTED], "a":1`},
		{"a block string of GraphQL goes", `mutation { signIn(email: "a", password: """hunter2 abc""", x: 1) }`, `mutation { signIn(email: "a", password: [REDACTED], x: 1) }`},
		{"a block string without an end goes", `password: """hunter2 abc`, `password: [REDACTED]`},
		{"a flag goes", "run --password hunter2 -v", "run --password [REDACTED] -v"},
		{"a header line goes", "Cookie: a=b; c=d\nHost: x", "Cookie: [REDACTED]\nHost: x"},
		{"a DSN loses its userinfo", "parse postgres://u:p@db:5432/x failed", "parse postgres://[REDACTED]@db:5432/x failed"},
		{"a DSN with odd characters too", "parse postgres://u:p/a#s?s@db/x failed", "parse postgres://[REDACTED]@db/x failed"},
		{"otpauth goes", "x otpauth://totp/a?secret=b y", "x [REDACTED] y"},
		{"PEM goes", "k -----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY----- z", "[REDACTED]"},
		{"a random token goes", "no row " + token + " here", "no row [REDACTED] here"},
		{"a UUID stays", "no row 550e8400-e29b-41d4-a716-446655440000", "no row 550e8400-e29b-41d4-a716-446655440000"},
		{"a path with a token loses it", "GET /api/auth/reset-password/AbC123dEf456GhI789 404", "GET /api/auth/reset-password/:redacted 404"},
		{"a path in escaped quotes loses its token", `x \"/reset/AbC123dEf456GhI789\" y`, `x \"/reset/:redacted\" y`},
		{"what is escaped is found", "from=%2Fx%3Ftoken%3Dabc", "from=/x?token=[REDACTED]"},
		{"what Joi repeats goes", `"password" with value "hunter2" fails to match the required pattern: /^[a-z]{9}$/`, `"password" with value "[REDACTED]" fails to match the required pattern: /^[a-z]{9}$/`},
		{"what Spring repeats goes", `error on field 'password': rejected value [hunter2]; codes [Size]`, `error on field 'password': [REDACTED] value [REDACTED]; codes [Size]`},
		{"what PostgreSQL repeats goes", `Key (otp)=(493021) already exists`, `Key (otp)=[REDACTED] already exists`},
		{"of several columns too", `Key (otp, email)=(493 021, a@b.c) already exists`, `Key (otp, email)=[REDACTED] already exists`},
		{"what MySQL repeats goes", `Incorrect integer value: 'hunter2' for column 'otp' at row 1`, `Incorrect integer value: '[REDACTED]' for column 'otp' at row 1`},
		{"what Mongoose repeats goes", "Path `password` (`hunter2`) is shorter, (`x`)", "Path `password` (`[REDACTED]`) is shorter, (`x`)"},
		{"what Pydantic repeats goes", `password: String should be longer [input_value='hunter2', input_type=str]`, `password: [REDACTED] should be longer [input_value='[REDACTED]', input_type=str]`},
		{"a value after a verb goes", "invalid password, the value was: `a b`", "invalid password, the value was: `[REDACTED]`"},
		{"an index before the value goes", `On instance['password']: 'hunter2'`, `On instance['password']: '[REDACTED]'`},
		{"brackets inside of brackets are part of the value", `"token": {"a":"x)y","b":"hunter2"} z`, `"token": [REDACTED] z`},
		{"a value under a harmless name stays", `"colour" with value "blue" is not allowed (code 42)`, `"colour" with value "blue" is not allowed (code 42)`},
		{"values in prose stay", `duplicate key value violates unique constraint "users_password_key"`, `duplicate key value violates unique constraint "users_password_key"`},
		{"what is quoted behind a sensitive word goes", `invalid password 'hunter2' or PIN "4930", code "ABC123"`, `invalid password '[REDACTED]' or PIN "[REDACTED]", code "[REDACTED]"`},
		{"of letters, too, where it can be nothing else", `wrong secret 'hunter', otp "ABCDEF", password '!?', accessToken 'hunter'`, `wrong secret '[REDACTED]', otp "[REDACTED]", password '[REDACTED]', accessToken '[REDACTED]'`},
		{"a random token behind token goes", `unknown token 'aBcDeFgHiJkLmNoPqRsT', key "12 34"`, `unknown token '[REDACTED]', key "[REDACTED]"`},
		{"names behind key stay", `missing key 'email', unknown key 'name' in 'body', unique constraint on key 'users email'`, `missing key 'email', unknown key 'name' in 'body', unique constraint on key 'users email'`},
		{"signs behind token stay", "unexpected token '‹', Expected token \"}\" at 3, Unexpected token `,`", "unexpected token '‹', Expected token \"}\" at 3, Unexpected token `,`"},
		{"words behind code stay", `error code "not found", code 'ECONNREFUSED', code 'INVALID_2FA_CODE'`, `error code "not found", code 'ECONNREFUSED', code 'INVALID_2FA_CODE'`},
		{"a field that is named behind the value counts", `Invalid value "123456" for field code`, `Invalid value "[REDACTED]" for field code`},
		{"also behind for", `Invalid value '123456' for otp.`, `Invalid value '[REDACTED]' for otp.`},
		{"words of programs behind a sensitive word stay", `error code 'USER_NOT_FOUND', unique key "users_email_key"`, `error code 'USER_NOT_FOUND', unique key "users_email_key"`},
		{"an apostrophe is no quote", `the password isn't right, a password 'tis`, `the password isn't right, a password 'tis`},
		{"a value for what is harmless stays", `Invalid value "blue" for field colour`, `Invalid value "blue" for field colour`},
		{"a name in brackets before prose stays", `Invalid field (password): must be longer`, `Invalid field (password): must be longer`},
		{"broken bytes and NUL go", "a\xff\x00", "a\ufffd\ufffd"},
	}, must(t, Options{}).Text)
}

func TestQuery(t *testing.T) {
	check(t, []pair{
		{"sensitive values go, the rest stays", "a=1&token=abc&b=%20x", "a=1&token=[REDACTED]&b=%20x"},
		{"an escaped key is understood", "%74oken=abc", "%74oken=[REDACTED]"},
		{"a nested URL is masked inside", "callbackURL=https%3A%2F%2Fa.b%2Fx%3Ftoken%3Dabc", "callbackURL=https://a.b/x?token=[REDACTED]"},
		{"a nested path is masked inside", "to=%2Fx%3Fcode%3Dabc%26y%3D1", "to=/x?code=[REDACTED]%26y=1"},
		{"semicolons separate too", "a=1;token=x&b=2", "a=1;token=[REDACTED]&b=2"},
		{"a random value goes", "t=" + token, "t=[REDACTED]"},
		{"a random id stays", "userId=" + token, "userId=" + token},
		{"a bare JWT goes", jwt, "[REDACTED]"},
		{"the rest of a value goes", "password=a&bcd&n=1", "password=[REDACTED]&[REDACTED]&n=1"},
		{"empty stays", "", ""},
		{"odd ampersands stay", "&&a=&", "&&a=&"},
	}, must(t, Options{}).Query)
}

func TestURL(t *testing.T) {
	check(t, []pair{
		{"query, fragment and userinfo go", "https://u:p@h.x/a?code=1#access_token=t&token_type=b", "https://[REDACTED]@h.x/a?code=[REDACTED]#access_token=[REDACTED]&token_type=b"},
		{"a secret segment goes", "/reset-password/AbC123dEf456GhI789?x=1", "/reset-password/:redacted?x=1"},
		{"a plain URL stays", "https://h.x:8443/api/auth/two-factor/generate-backup-codes", "https://h.x:8443/api/auth/two-factor/generate-backup-codes"},
		{"a matrix parameter goes", "/a;jsessionid=12/b", "/a;jsessionid=[REDACTED]/b"},
		{"an @ in a web path stays", "https://h.x/@alice", "https://h.x/@alice"},
		{"otpauth goes", "otpauth://totp/x?secret=y", "[REDACTED]"},
		{"userinfo with a # and without a scheme", "//ann:pa#ss@host/", "//[REDACTED]@host/"},
		{"userinfo without a scheme goes", "//u:pass@host/a?code=1", "//[REDACTED]@host/a?code=[REDACTED]"},
		{"a password alone too", "//:pass@host/a", "//[REDACTED]@host/a"},
		{"a path that begins with two slashes keeps its rules", "//AbC123dEf456GhI789/@alice", "//:redacted/@alice"},
	}, must(t, Options{}).URL)
}

func TestHeader(t *testing.T) {
	r := must(t, Options{})
	for _, c := range [][3]string{
		{"Authorization", "Bearer abc", "Bearer [REDACTED]"}, {"authorization", "abc", "[REDACTED]"},
		{"Cookie", "a=b", "[REDACTED]"}, {"Set-Auth-Token", "x", "[REDACTED]"}, {"X-API-Key", "x", "[REDACTED]"},
		{"X-My-Secret", "x", "[REDACTED]"}, {"Referer", "https://u:p@h.x/a?token=b", "https://h.x"},
		{"Origin", "null", "null"}, {"Origin", "javascript:x", "[REDACTED]"}, {"Referer", `https://h.x\@e?t`, "[REDACTED]"},
		{"Location", "/x?token=a", "/x?token=[REDACTED]"}, {"X-Request-Id", token, token},
		{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (X11; Linux x86_64)"}, {"Accept", "", ""},
	} {
		if got := r.Header(c[0], c[1]); got != c[2] {
			t.Errorf("%s: %s: got %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestSegment(t *testing.T) {
	for _, s := range []string{"send-verification-otp", "generate-authenticate-options", "oauth2-callback-v2-final", "sign-in", "", ":token", "abc", "openid-configuration"} {
		if got := Segment(s); got != s {
			t.Errorf("%s became %s", s, got)
		}
	}
	for _, s := range []string{jwt, token, "550e8400-e29b-41d4-a716-446655440000", "abcdefgh12345678", "AbCdEfGhIjKlMnOp", "AbC123dEf%3456GhI789"} {
		if got := Segment(s); got != ":redacted" {
			t.Errorf("%s became %s", s, got)
		}
	}
}

func TestIdentifier(t *testing.T) {
	for in, want := range map[string]string{
		"alice@example.com": "a***@example.com", "+4915112345678": "+49***78", "alice": "a***", "": "", "a": "***", " ": "",
		"a@example.com": "***@example.com", "P@ssw0rd!": "P***", "p@hunter": "p***", "+49 151 1234-5678": "+49***78",
		"é@b.de": "***@b.de", "\x00\x01": "***", "@x.de": "***", "\xff\xfe": "***",
	} {
		if got := Identifier(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := Identifier("ab@" + strings.Repeat("a", 300) + ".com"); got != "a***" || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}

func TestTyped(t *testing.T) {
	for _, c := range [][3]string{ // message, typed, what is shown
		{"No account for alice@example.com was found", "alice@example.com", "No account for a***@example.com was found"},
		{"User 'Hunter2!pass' does not exist", "Hunter2!pass", "User 'H***' does not exist"},
		{"ALICE@EXAMPLE.COM, that is Alice, is locked", " alice@example.com ", "a***@example.com, that is a***, is locked"},
		{"malice and alice_b are no part of it", "alice@example.com", "malice and alice_b are no part of it"},
		{"al is too short to mean anything", "al@example.com", "al is too short to mean anything"},
		{"+491511234567 is unknown", "+49 151 1234567", "+49***67 is unknown"},
		{"user=alice%40example.com", "alice@example.com", "user=a***@example.com"},
		{"a&lt;b&gt;c is none", "a<b>c", "a*** is none"},
		{"a+b+c%21 is none", "a b c!", "a*** is none"},
		{`O&#x27;Brien, o&#39;brien, o&apos;brien, o\'brien`, "o'brien", "o***, o***, o***, o***"},
		{`o&#x27;brien&#x2F;a@x.de, o\'brien\/a@x.de, o&#X27;brien/a is locked`, "o'brien/a@x.de", "o***@x.de, o***@x.de, o*** is locked"},
		{`{\"hunter\\2\"}, hunter\2`, `"hunter\2"`, `{***}, hunter\2`},
		{"a&amp;b and a&b and a&amp;amp;b", "a&b", "a*** and a*** and a***"},
		{"a&amp;b and a&amp;amp;b", "a&amp;b", "a*** and a***"},
		{"用户张三丰不存在", "张三丰", "用户张***不存在"},
		{"USER_NOT_FOUND", "user", "USER_NOT_FOUND"},
		{"x " + strings.Repeat("ab", 200) + " y", strings.Repeat("ab", 200), "x a***"},
		{"nothing was typed", "", "nothing was typed"},
	} {
		if got := Typed(c[0], c[1]); got != c[2] {
			t.Errorf("%q of who typed %q became %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"user alice@example.com unknown, ask bob.b@example.org.": "user a***@example.com unknown, ask b***@example.org.",
		"user+alice%40example.com+unknown":                       "u***@example.com+unknown",
		"é@example.com":                                          "***@example.com",
		"“alice@example.com”":                                    "“a***@example.com”",
		"alice@corp":                                             "a***",
		"alice@127.0.0.1, bob%40127.0.0.1.":                      "a***, b***.",
		"no 1.2@127.0.0, pkg@1.2.3":                              "no 1.2@127.0.0, pkg@1.2.3",
		"a***@example.com":                                       "a***@example.com",
		"pkg@1.2, @home, 5 @ 3, x@":                              "pkg@1.2, @home, 5 @ 3, x@",
	} {
		got := Addresses(in)
		if got != want || Addresses(got) != got {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzTypedAndAddresses(f *testing.F) {
	f.Add("No account for alice@example.com", "alice@example.com")
	f.Add("用户张三丰%40x.de\xff", "\xff@")
	f.Fuzz(func(t *testing.T, message, typed string) {
		out := Addresses(Typed(strings.ToValidUTF8(message, ""), typed))
		if !utf8.ValidString(out) {
			t.Fatalf("%q and %q became %q", message, typed, out)
		}
	})
}
