package redact

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

const canary = "CANARYhunter2Zq9"

// secretKeys and shapes plant the canary in every way the package promises
// to find.
var secretKeys = rapid.SampledFrom([]string{"password", "new-Password", "TOKEN", "otp", "apiKey", "user[secret]", "backup_codes", "pass\x00word", "Authorization"})

func shape(t *rapid.T) string {
	return rapid.SampledFrom([]string{
		"Bearer " + canary, "x Bearer " + canary + " y", "otpauth://totp/a?secret=" + canary, "eyJhbGciOiJub25lIn0." + canary + ".x",
		"-----BEGIN PRIVATE KEY-----\n" + canary, "https://u:" + canary + "@h.x/", "https://h.x/?token=" + canary,
		"to=%2Fx%3Ftoken%3D" + canary, "password=" + canary, `{"password":"` + canary + `"}`, `{"password":"` + canary,
		"sess=" + canary + "0123456789abcdef", canary + "Q7w8E9r0T1y2U3i4", "/reset/" + canary,
	}).Draw(t, "shape")
}

func document(t *rapid.T, depth int) any {
	switch kind := rapid.IntRange(0, 6).Draw(t, "kind"); {
	case depth > 7 || kind == 0:
		return shape(t)
	case kind == 1:
		return rapid.String().Draw(t, "text")
	case kind == 2:
		return rapid.Float64().Draw(t, "number")
	case kind == 3:
		inner, _ := json.Marshal(document(t, depth+3))
		return string(inner)
	case kind == 4:
		return []any{document(t, depth+1), document(t, depth+1)}
	default:
		return map[string]any{
			rapid.String().Draw(t, "name") + "x": document(t, depth+1),
			secretKeys.Draw(t, "secret name"):    rapid.SampledFrom([]any{canary, []any{canary}, map[string]any{"a": canary}}).Draw(t, "secret"),
		}
	}
}

func anyRedactor(t *rapid.T) *Redactor {
	r, err := New(Options{
		Strategy: rapid.SampledFrom([]Strategy{Mask, Hash, Remove}).Draw(t, "strategy"), Key: testKey,
		MaxBytes: rapid.SampledFrom([]int{64, 200, 0}).Draw(t, "bytes"), MaxDepth: rapid.IntRange(1, 9).Draw(t, "depth"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// escapedNUL is \u0000 behind no or an even number of other backslashes.
var escapedNUL = regexp.MustCompile(`(^|[^\\])(\\\\)*\\u0000`)

// checkOutput holds for whatever went in.
func checkOutput(t rapid.TB, r *Redactor, out []byte) {
	t.Helper()
	if !json.Valid(out) || !utf8.Valid(out) || len(out) > r.maxBytes || escapedNUL.Match(out) {
		t.Fatalf("invalid or too long: %q", out)
	}
	if r.strategy == Mask {
		if again, err := r.JSON(out); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("not idempotent:\n%s\n%s", out, again)
		}
	}
}

func TestNoPlantedSecretSurvivesInJSON(t *testing.T) { rapid.Check(t, noSecretSurvivesInJSON) }

func noSecretSurvivesInJSON(t *rapid.T) {
	r := anyRedactor(t)
	in, _ := json.Marshal(document(t, 0))
	out, err := r.Body("application/json", in)
	if err != nil {
		t.Fatal(err)
	}
	if checkOutput(t, r, out); bytes.Contains(out, []byte(canary)) {
		t.Fatalf("%s\nbecame %s", in, out)
	}
}

func TestNoPlantedSecretSurvivesInForms(t *testing.T) { rapid.Check(t, noSecretSurvivesInForms) }

func noSecretSurvivesInForms(t *rapid.T) {
	r := anyRedactor(t)
	form, parts := url.Values{}, &bytes.Buffer{}
	w := multipart.NewWriter(parts)
	for range rapid.IntRange(1, 5).Draw(t, "fields") {
		name, value := rapid.StringMatching(`[a-c]{1,8}`).Draw(t, "name"), shape(t)
		if rapid.Bool().Draw(t, "by name") {
			name, value = secretKeys.Draw(t, "secret name"), canary
		}
		form.Add(name, value)
		_ = w.WriteField(strings.ReplaceAll(name, "\x00", ""), value)
	}
	_ = w.Close()
	for media, body := range map[string][]byte{"application/x-www-form-urlencoded": []byte(form.Encode()), w.FormDataContentType(): parts.Bytes()} {
		out, err := r.Body(media, body)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(out) || len(out) > r.maxBytes || bytes.Contains(out, []byte(canary)) {
			t.Fatalf("%s\nbecame %s", body, out)
		}
	}
	if q := r.Query(form.Encode()); strings.Contains(q, canary) {
		t.Fatalf("%s\nbecame %s", form.Encode(), q)
	}
}

func FuzzJSON(f *testing.F) {
	r := must(f, Options{})
	for _, s := range []string{`{"password":"x","a":[1,"Bearer x"]}`, `{"d":"{\"token\":1}"}`, `"\ud800\u0000"`, `[1e400]`, "\ufeff{}", `{"u":"http://a:b@c/?token=%41"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := r.JSON(in)
		if ok := json.Valid(bytes.TrimPrefix(in, []byte("\ufeff"))); ok != (err == nil) && len(in) < 10_000 {
			t.Fatalf("%q: encoding/json says valid=%v, we say %v", in, ok, err)
		}
		if err == nil {
			checkOutput(t, r, out)
		}
	})
}

func FuzzForm(f *testing.F) {
	r := must(f, Options{MaxDepth: 9})
	for _, s := range []string{"a=1&password=x", "a=%7B%22token%22%3A1%7D", "a[]=1&a[]=2", "%00=%ff", "x=Bearer+y"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if out, err := r.Form(in); err == nil {
			checkOutput(t, r, out)
		}
	})
}

func FuzzText(f *testing.F) {
	r := must(f, Options{})
	for _, s := range []string{"password=x", "Bearer abc", "http://u:p@h/%3Ftoken%3Dx", jwt, `"token": {"a":1}`, "-----BEGIN X", token} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := r.Text(in)
		if !utf8.ValidString(out) || r.Text(out) != out {
			t.Fatalf("%q became %q, then %q", in, out, r.Text(out))
		}
		if id := Identifier(in); len(id) > 128 || !utf8.ValidString(id) {
			t.Fatalf("identifier %q", id)
		}
	})
}

func FuzzQuery(f *testing.F) {
	r := must(f, Options{})
	for _, s := range []string{"a=1&token=x", "u=https%3A%2F%2Fh%2F%3Ftoken%3Dx", "a=1;token=2", "%%%", "a#b=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		q, u := r.Query(in), r.URL(in)
		if r.Query(q) != q || r.URL(u) != u || !utf8.ValidString(q+u) {
			t.Fatalf("%q became %q, %q", in, q, u)
		}
	})
}

// FuzzSuspicious holds the quick test to what the thorough one finds.
func FuzzSuspicious(f *testing.F) {
	r := must(f, Options{})
	for _, s := range []string{"a Bearer x", "x.eyJhbGciO.x", "2026-01-01T00:00:00Z", "--pin 1", "a.basic X1"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, id bool) {
		for i := range len(s) {
			if s[i] < ' ' || s[i] > 126 {
				return // never plain
			}
		}
		shortest := shortestInBody
		if id {
			shortest = never
		}
		if clean, whole := r.clean(s, shortest); (whole || clean != s) && !suspicious([]byte(s), id) {
			t.Fatalf("%q becomes %q and is not suspicious", s, clean)
		}
	})
}

func BenchmarkJSON2KB(b *testing.B) {
	item := `{"id":"8Xk2vR9xQ2mLp8TnW5cYb7HsD1fGj4Ka","email":"alice@example.com","name":"Alice Example","password":"hunter2","createdAt":"2026-01-01T00:00:00Z","active":true,"count":12345},`
	body := []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(item, 11), ",") + `]}`)
	r := must(b, Options{})
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = r.JSON(body)
	}
}
