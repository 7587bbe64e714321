package tap

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

func scrubber(t testing.TB, keep bool) *Scrubber {
	t.Helper()
	s, err := NewScrubber(keep)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fakeToken is an unsigned JWT with claims.
func fakeToken(claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(`{"alg":"RS256","typ":"JWT","kid":"k1"}`)) + "." + b64([]byte(claims)) + "." + b64([]byte("a signature that was made with the server's key"))
}

func TestWhatIsSecretIsReplacedAndTheRestStays(t *testing.T) {
	jwt := fakeToken(`{"sub":"42","email":"alice@corp.test"}`)
	for name, c := range map[string]struct{ text, gone, stays string }{
		"a query in a text":       {"see /cb?code=s3cr3t-c0de&lang=en", "s3cr3t-c0de", "see /cb?code=REDACTED-"},
		"the rest of the query":   {"see /cb?code=s3cr3t-c0de&lang=en", "s3cr3t", "&lang=en"},
		"a URL inside a query":    {"/x?next=https%3A%2F%2Fa.test%2Fcb%3Fcode%3Ds3cr3t-c0de", "s3cr3t", "/x?next=https%3A%2F%2Fa.test%2Fcb%3Fcode%3DREDACTED-"},
		"a token":                 {"no row AbCd1234EfGh5678Ij here", "AbCd1234", "no row REDACTED-"},
		"words":                   {"oauth2-callback RequiredMfaVerification INVALID_EMAIL_OR_PASSWORD", "\x00", "oauth2-callback RequiredMfaVerification INVALID_EMAIL_OR_PASSWORD"},
		"a JWT":                   {"token " + jwt, jwt[len(jwt)-30:], "token eyJ"},
		"an address":              {"mail to alice@corp.test or bob%40corp.test", "corp.test", "mail to user1@example.com or user2@example.com"},
		"a hidden input":          {`<input type="hidden" name="csrf_token" value="abc123x">`, "abc123x", `<input type="hidden" name="csrf_token" value="REDACTED-`},
		"a password in a page":    {`<input value='open sesame' type=password>`, "sesame", `<input value='REDACTED-`},
		"an input's other values": {`<input name="email" value="alice@corp.test" placeholder="Your e-mail">`, "corp", `value="user1@example.com" placeholder="Your e-mail">`},
		"a meta tag":              {`<meta name="csrf-token" content="abc123x">`, "abc123x", `content="REDACTED-`},
		"an attribute":            {`<a data-token="abc123x" href="/home">`, "abc123x", `href="/home">`},
		"JSON in a page":          {`<script>x = {"access_token":"abc123x","lang":"en"}</script>`, "abc123x", `"lang":"en"}</script>`},
		"escaped JSON in a page":  {`<div data="{&quot;token&quot;:&quot;abc123x&quot;}">`, "abc123x", `:&#34;REDACTED-`},
		"a number in broken JSON": {`{"otp":493021,"n":`, "493021", `{"otp":`},
		"a code in a text":        {"otp: 493021, status: 40400", "493021", ", status: 40400"},
		"a code at the end":       {"Your otp: 493021. Keep it.", "493021", ". Keep it."},
		"a code before a tag":     {`PIN:1234<input name="csrf" value="hunter2-hunter2">`, "hunter2-hunter2", `<input name="csrf" value="`},
		"a UUID after a colon":    {"id: 12345678-0000-4000-8000-000000000001", "8000-000000000001", "id: "},
		"a quote in broken JSON":  {`{"password":"ab\"cdefgh","x":`, "cdefgh", `","x":`},
		"a new line in it":        {"{\"password\":\"ab\ncdefgh\"", "cdefgh", `{"password":"REDACTED-`},
		"a quote in JSON in JSON": {`{"a":"{\"password\":\"ab\\\"cdefgh\",\"x\":1`, "cdefgh", `\",\"x\":1`},
		"a key that is cut off":   {"-----BEGIN EC PRIVATE KEY-----\nMHcC", "MHcC", "-----BEGIN EC PRIVATE KEY-----\nREDACTED-"},
		"broken JSON":             {`{"password":"open ses`, "open", `{"password":"REDACTED-`},
		"GraphQL":                 {`mutation { signIn(email: "a@corp.test", password: "hunter22") { id } }`, "hunter22", `signIn(email: "user1@example.com", password: "REDACTED-`},
		"XML":                     {"<a:Password Type=\"text\">hunter22</a:Password><Lang>en</Lang>", "hunter22", `<a:Password Type="text">REDACTED-`},
		"codes in a page":         {`<li class="x"><code>8f3k-22pq</code></li><p>Don't lose them</p>`, "8f3k", `</code></li><p>Don't lose them</p>`},
		"a script":                {`<script nonce="abc123x">let a = 'it'; f({apiKey: "AbCd1234EfGh5678Ij"})</script>`, "AbCd1234", `let a = 'it'; f({apiKey: "REDACTED-`},
		"a bearer token":          {"Bearer abc123xyz expired", "abc123xyz", "Bearer REDACTED-"},
		"prose about tokens":      {"Bearer authentication is required", "\x00", "Bearer authentication is required"},
		"userinfo of a URL":       {"smtp://mail:hunter2@host:25", "hunter2", "smtp://mail:REDACTED-"},
		"a key in PEM":            {"-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----", "MHcC", "-----BEGIN EC PRIVATE KEY-----\nREDACTED-"},
		"a QR code":               {`{"src":"data:image/png;base64,iVBORw0KGgo="}`, "iVBOR", "data:image/png;base64,REDACTED-"},
		"otpauth":                 {"otpauth://totp/App:alice@corp.test?secret=JBSWY3DP&issuer=App", "JBSWY3DP", "?secret=REDACTED-"},
		"a phone number":          {"sent to +4915112345678.", "15112345678", "sent to +"},
		"percent escapes":         {"a%20b%2Fc", "\x00", "a%20b%2Fc"},
	} {
		t.Run(name, func(t *testing.T) {
			got := scrubber(t, false).text(c.text)
			if strings.Contains(got, c.gone) || !strings.Contains(got, c.stays) {
				t.Errorf("%s\nbecame %s", c.text, got)
			}
		})
	}
}

func TestJSONKeepsItsFormAndWordsForPrograms(t *testing.T) {
	s := scrubber(t, false)
	got, ok := s.json(`{"code":"invalid_token", "code2": 400,"state":"choose_method","token":null,"session":{"id":17,"token":"abc123def456ghi7"},
		"user":{"email":"alice@corp.test","name":"Alice Doe","roles":["admin"],"verified":true,"password":"x"},"backup_codes":["1234-5678","abcd-ef01"],
		"otp":123456,"note":"{\"token\":\"abc123def456ghi7\"}","ui":{"name":"password"}}`, true)
	if !ok {
		t.Fatal("not read")
	}
	want := `{"code":"invalid_token","code2":400,"state":"choose_method","token":null,"session":{"id":17,"token":"` + s.stand("abc123def456ghi7") +
		`"},"user":{"email":"user1@example.com","name":"` + s.stand("Alice Doe") + `","roles":["admin"],"verified":true,"password":"` + s.stand("x") +
		`"},"backup_codes":["` + s.stand("1234-5678") + `","` + s.stand("abcd-ef01") + `"],"otp":` + s.digits("123456") +
		`,"note":"{\"token\":\"` + s.stand("abc123def456ghi7") + `\"}","ui":{"name":"password"}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if in, _ := s.json(`{"code":"spring","state":"x1y2"}`, false); strings.Contains(in, "spring") || strings.Contains(in, "x1y2") {
		t.Errorf("what a client says is no word of a program: %s", in)
	}
}

// TestWhatAnObjectNamesIsJudgedByThatName, with secrets kept too if it is a password.
func TestWhatAnObjectNamesIsJudgedByThatName(t *testing.T) {
	for _, keep := range []bool{false, true} {
		s := scrubber(t, keep)
		for _, body := range []string{
			`{"type":"password","value":"hunter2","temporary":false}`, `{"credentials":[{"value":"hunter2","type":"password"}]}`,
			`{"formFields":[{"id":"email","value":"a@b.test"},{"id":"password","value":"hunter2"}]}`, `[{"op":"replace","path":"/password","value":"hunter2"}]`,
			`{"password":{"value":"hunter2"}}`, `{"password":{"old":["hunter2"]}}`, `{"loc":["body","password"],"type":"too_short","input":"hunter2"}`,
		} {
			if got, ok := s.json(body, false); !ok || strings.Contains(got, "hunter2") {
				t.Errorf("keeping secrets: %v: %s became %s", keep, body, got)
			}
		}
		if got, _ := s.json(`{"type":"colour","value":"blue"}`, false); got != `{"type":"colour","value":"blue"}` {
			t.Error(got)
		}
	}
}

// TestWhatAnObjectUnderASecretNameHolds is secret, and what it says about itself stays.
func TestWhatAnObjectUnderASecretNameHolds(t *testing.T) {
	s := scrubber(t, false)
	for body, gone := range map[string]string{
		`{"otp":{"value":"493021"}}`: "493021", `{"otp":{"value":493}}`: "493", `{"otp":[4,9,3,0,2,1]}`: "4,9,3,0,2,1", `{"secret":{"data":"hunter2"}}`: "hunter2",
		`{"secret":{"parts":{"a":["hunter2"]}}}`: "hunter2", `{"code":{"value":"493021"}}`: "493021",
	} {
		if got, ok := s.json(body, false); !ok || strings.Contains(got, gone) {
			t.Errorf("%s became %s", body, got)
		}
	}
	for _, body := range []string{`{"token":{"id":17,"user_id":"u1","type":"bearer","revoked":false}}`, `{"code":{"message":"no such user"},"state":{"step":"choose"}}`} {
		if got, _ := s.json(body, true); got != body {
			t.Errorf("%s became %s", body, got)
		}
	}
}

// TestLettersOfOtherAlphabetsAreLetters of secrets, too.
func TestLettersOfOtherAlphabetsAreLetters(t *testing.T) {
	s := scrubber(t, false)
	for _, body := range []string{
		`{"securityAnswer":"Café Москва 7"}`, `{"passwort":"Café Москва"}`, `{"contraseña":"Café Москва"}`, `{"пароль":"Café Москва"}`, `{"user":{"pswd":"Café Москва"}}`,
	} {
		if got, ok := s.json(body, false); !ok || strings.Contains(got, "Москва") || strings.Contains(got, "é") {
			t.Errorf("%s became %s", body, got)
		}
	}
	if got, _ := scrubber(t, true).json(`{"senha":"abc","passConfirm":"abc","пароль":"abc"}`, false); strings.Contains(got, "abc") {
		t.Errorf("with secrets kept: %s", got)
	}
}

// TestSimplePasswordsAreTakenOutOfAnswersToo, which repeat them.
func TestSimplePasswordsAreTakenOutOfAnswersToo(t *testing.T) {
	for password, echo := range map[string]string{
		"letmein": `{"detail":[{"type":"string_too_short","loc":["body"],"input":"letmein"}]}`, "hunter2": `{"message":"\"password\" with value \"hunter2\" fails to match"}`,
		"abc": `{"errors":[{"value":"abc","path":["password"]}]}`, `quo"ted`: `{"message":"refused: {\"p\":\"quo\\\"ted\"}"}`,
	} {
		s := scrubber(t, false)
		typed, err := json.Marshal(map[string]string{"password": password})
		if err != nil {
			t.Fatal(err)
		}
		h := map[string][]string{"Content-Type": {"application/json"}}
		x := &replay.Exchange{Request: replay.Request{Headers: h, Body: string(typed)}, Response: replay.Response{Headers: h, Body: echo}}
		s.Scrub(x)
		if strings.Contains(x.Response.Body, password) || strings.Contains(x.Response.Body, "ted") {
			t.Errorf("%s became %s", echo, x.Response.Body)
		}
	}
	s := scrubber(t, false)
	s.password("password")
	s.password("true")
	if got, _ := s.json(`{"type":"password","ok":"true"}`, true); got != `{"type":"password","ok":"true"}` {
		t.Errorf("words of programs are gone: %s", got)
	}
}

// TestACookieOfFlaskIsNoToken: its claims stand where a JWT has its head.
func TestACookieOfFlaskIsNoToken(t *testing.T) {
	s := scrubber(t, false)
	cookie := base64.RawURLEncoding.EncodeToString([]byte(`{"_user_id":"7","full_name":"Alice Doe","password":"hunter2","totp":"493021"}`)) + ".ZxY1aB.c2lnbmF0dXJlLW9mLWZsYXNr"
	out := s.jwt(cookie)
	raw, err := base64.RawURLEncoding.DecodeString(strings.SplitN(out, ".", 2)[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"Alice", "hunter2", "493021"} {
		if strings.Contains(string(raw), gone) {
			t.Errorf("%q stands in %s", gone, raw)
		}
	}
	if !strings.Contains(string(raw), `"_user_id":"7"`) {
		t.Errorf("%s", raw)
	}
}

func TestATokenStaysAToken(t *testing.T) {
	s := scrubber(t, false)
	in := fakeToken(`{"iss":"https://auth.test","sub":"550e8400-e29b-41d4-a716-446655440000","aud":["app"],"exp":1893456000,"email":"alice@corp.test","email_verified":true,"given_name":"Alice","realm_access":{"roles":["admin"]},"phone":"+4915112345678","nested":{"secret":"abc"}}`)
	out := s.jwt(in)
	if out != s.jwt(in) || out != s.jwt(out) {
		t.Error("it is not the same twice")
	}
	head, rest, _ := strings.Cut(out, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if inHead, _, _ := strings.Cut(in, "."); head != inHead {
		t.Errorf("head %s", head)
	}
	if len(signature) != len(in[strings.LastIndexByte(in, '.')+1:]) || strings.HasSuffix(in, signature) {
		t.Errorf("signature %s", signature)
	}
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["iss"] != "https://auth.test" || claims["sub"] != s.uuid("550e8400-e29b-41d4-a716-446655440000") || claims["exp"] != float64(1893456000) ||
		claims["email"] != "user1@example.com" || claims["email_verified"] != true || !strings.Contains(string(raw), `"realm_access":{"roles":["admin"]}`) {
		t.Errorf("%s", raw)
	}
	for _, gone := range []string{"Alice", "alice", "4915112345678", `"abc"`, "550e8400"} {
		if strings.Contains(string(raw), gone) {
			t.Errorf("%s stands in %s", gone, raw)
		}
	}
}

// TestTheSameSecretIsTheSameEverywhere is what the joins of a recording live on.
func TestTheSameSecretIsTheSameEverywhere(t *testing.T) {
	s := scrubber(t, false)
	token, id := "q7Zk2mXw9rTb4vNc8yLd", "550e8400-e29b-41d4-a716-446655440000"
	x := &replay.Exchange{
		Request: replay.Request{
			Method: "POST", Path: "/a/" + token + "/" + id + "?state=" + token + "&login_hint=Alice%40corp.test",
			Headers: map[string][]string{
				"Cookie": {"a=1; session=" + token + ".c2lnbmF0dXJl%2Bx%3D; theme=dark"}, "Authorization": {"Bearer " + token},
				"Content-Type": {"application/x-www-form-urlencoded"}, "Content-Length": {"5"}, "X-Forwarded-For": {"203.0.113.9"},
			},
			Body: "email=alice%40corp.test&password=open+sesame%21&csrf=" + token,
		},
		Response: replay.Response{
			Status: 302,
			Headers: map[string][]string{
				"Location": {"https://app.test/cb?code=" + token + "&state=" + token}, "Set-Cookie": {"session=" + token + "; Path=/; Expires=Thu, 01 Jan 2037 00:00:00 GMT", "old=; Max-Age=0"},
				"Content-Type": {"application/json"}, "X-Session-Token": {token},
			},
			Body: `{"token":"` + token + `","user":{"id":"` + id + `","email":"ALICE@corp.test"},"echo":"you typed open sesame!"}`,
		},
	}
	s.Scrub(x)
	stands := s.stand(token)
	for name, pair := range map[string][2]string{
		"path":          {x.Request.Path, "/a/" + stands + "/" + s.uuid(id) + "?state=" + stands + "&login_hint=user1%40example.com"},
		"authorization": {x.Request.Headers["Authorization"][0], "Bearer " + stands},
		"body":          {x.Request.Body, "email=user1%40example.com&password=" + s.stand("open sesame!") + "&csrf=" + stands},
		"forwarded":     {x.Request.Headers["X-Forwarded-For"][0], "192.0.2.1"},
		"location":      {x.Response.Headers["Location"][0], "https://app.test/cb?code=" + stands + "&state=" + stands},
		"set-cookie":    {x.Response.Headers["Set-Cookie"][0], "session=" + stands + "; Path=/; Expires=Thu, 01 Jan 2037 00:00:00 GMT"},
		"cleared":       {x.Response.Headers["Set-Cookie"][1], "old=; Max-Age=0"},
		"header":        {x.Response.Headers["X-Session-Token"][0], stands},
		"answer":        {x.Response.Body, `{"token":"` + stands + `","user":{"id":"` + s.uuid(id) + `","email":"user1@example.com"},"echo":"you typed ` + s.stand("open sesame!") + `"}`},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s\ngot  %s\nwant %s", name, pair[0], pair[1])
		}
	}
	if c := x.Request.Headers["Cookie"][0]; !strings.HasPrefix(c, "a=1; session="+stands+".REDACTED-") || !strings.Contains(c, "; theme=REDACTED-") {
		t.Errorf("cookie %s", c)
	}
}

func TestWhatIsKnownLaterIsTakenOutOfEarlierExchanges(t *testing.T) {
	s := scrubber(t, false)
	early := &replay.Exchange{Response: replay.Response{Headers: map[string][]string{"Content-Type": {"text/html"}}, Body: "<p>your key is ab12-cd34</p>"}}
	s.Scrub(early)
	if s.Again(early) {
		t.Error("nothing was known yet")
	}
	s.Scrub(&replay.Exchange{Request: replay.Request{Path: "/use?apikey=ab12-cd34"}})
	if !s.Again(early) || early.Response.Body != "<p>your key is "+s.mask("ab12-cd34")+"</p>" || s.Again(early) {
		t.Errorf("%s", early.Response.Body)
	}
}

func TestKeepingSecretsKeepsNoPasswords(t *testing.T) {
	s := scrubber(t, true)
	jwt := fakeToken(`{"sub":"42"}`)
	x := &replay.Exchange{
		Request: replay.Request{
			Path:    "/a?token=q7Zk2mXw9rTb4vNc8yLd&x=alice@corp.test",
			Headers: map[string][]string{"Content-Type": {"application/json"}, "Cookie": {"s=q7Zk2mXw9rTb4vNc8yLd"}, "Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("client:Hunter2!xyz"))}},
			Body:    `{"email":"alice@corp.test","new_password":"Open sesame 1","token":"` + jwt + `"}`,
		},
		Response: replay.Response{Headers: map[string][]string{"Content-Type": {"text/html"}}, Body: `<input type="password" value="Open sesame 1"> Open sesame 1 550e8400-e29b-41d4-a716-446655440000`},
	}
	s.Scrub(x)
	all, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(all), "sesame") || strings.Contains(string(all), "Hunter2") || strings.Contains(x.Request.Headers["Authorization"][0], "SHVudGVyMiF4eX") {
		t.Errorf("%s", all)
	}
	for _, kept := range []string{"token=q7Zk2mXw9rTb4vNc8yLd", "s=q7Zk2mXw9rTb4vNc8yLd", "alice@corp.test", jwt, "550e8400"} {
		if !strings.Contains(string(all), kept) {
			t.Errorf("%s is gone from %s", kept, all)
		}
	}
}

func TestFormsOfSeveralParts(t *testing.T) {
	s := scrubber(t, false)
	h := map[string][]string{"Content-Type": {"multipart/form-data; boundary=xyz"}}
	got := s.body(h, "--xyz\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\nalice@corp.test\r\n--xyz\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nopen\r\n"+
		"--xyz\r\nContent-Disposition: form-data; name=\"avatar\"; filename=\"alice-doe.png\"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n--xyz--\r\n", false)
	for _, want := range []string{"\r\n\r\nuser1@example.com\r\n", "\r\n\r\n" + s.stand("open") + "\r\n", "[4 bytes are left out: a file]", "--xyz--"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if strings.Contains(got, "alice") {
		t.Errorf("%q", got)
	}
	if got := s.body(h, "--xyz\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nop", false); strings.Contains(got, "op\"") || !strings.Contains(got, "left out") {
		t.Errorf("%q", got)
	}
}

// TestJSONIsReadWhateverItIsCalled by a client that declares it as something else, or not.
func TestJSONIsReadWhateverItIsCalled(t *testing.T) {
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "", "application/json"} {
		for body, gone := range map[string]string{
			`{"otp":493021}`: "493021", "\n{\"password\":\"ab\\\"cdefgh\"}": "cdefgh", `{"password":"x&hunter2"}`: "hunter2", `[{"pin":[4,9,3,0]}]`: "4,9,3,0",
			`{"password":"x&hunter2"`: "hunter2", "\ufeff{\"password\":\"x&hunter2\"}": "hunter2",
		} {
			h := map[string][]string{"Content-Type": {media}}
			if got := scrubber(t, false).body(h, body, false); strings.Contains(got, gone) || !strings.Contains(got, "{") {
				t.Errorf("%q: %s became %s", media, body, got)
			}
		}
	}
	form := map[string][]string{"Content-Type": {"application/x-www-form-urlencoded"}}
	if got := scrubber(t, false).body(form, "[user]p%61ssword=hunter2&a=b", false); strings.Contains(got, "hunter2") || !strings.HasSuffix(got, "&a=b") {
		t.Errorf("a form became %s", got)
	}
}

// TestHostileTextsTakeNoTime: everybody else waits for the Scrubber meanwhile.
func TestHostileTextsTakeNoTime(t *testing.T) {
	for _, part := range []string{"a=", "a='", "<input a=b ", "-----BEGIN A-----a=b ", `"a":"`, `\"a\":\"`, "%41", "a:1111", "<a>", "&#34;a&#34;:&#34;", `{"a":"`} {
		begin := time.Now()
		scrubber(t, false).text(strings.Repeat(part, 100_000/len(part)))
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%q again and again took %v", part, took)
		}
	}
}

func FuzzScrubbingTwoTimesIsTheSame(f *testing.F) {
	f.Add(`{"token":"abc123def456ghi7","x":"/y?code=1"}`, "application/json")
	f.Add(`<input name="csrf" value="a&amp;b">`, "text/html")
	f.Add("a=b&code=%zz&password=%41", "application/x-www-form-urlencoded")
	f.Fuzz(func(t *testing.T, body, media string) {
		s := scrubber(t, false)
		h := map[string][]string{"Content-Type": {media}}
		first := s.body(h, body, true)
		if second := s.body(h, body, true); s.body(h, body, true) != second {
			t.Errorf("%q became %q, then %q", body, first, second)
		}
	})
}

func FuzzPlainTextsHoldNoForm(f *testing.F) {
	f.Add("abc/def.eyJabcdef.x.y")
	f.Add("550e8400-e29b")
	s := scrubber(f, false)
	f.Fuzz(func(t *testing.T, text string) {
		if m := s.anyForm.FindString(text); m != "" && plain(text) {
			t.Errorf("%q is in %q", m, text)
		}
	})
}
