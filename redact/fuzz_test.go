package redact

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// FuzzPlantedInJSON and FuzzPlantedInForms are the properties of property_test.go,
// steered by coverage.
func FuzzPlantedInJSON(f *testing.F) { f.Fuzz(rapid.MakeFuzz(noSecretSurvivesInJSON)) }

func FuzzPlantedInForms(f *testing.F) { f.Fuzz(rapid.MakeFuzz(noSecretSurvivesInForms)) }

// planted are names under which every value is secret.
var planted = []string{"password", "new-Password", "TOKEN", "otp", "apiKey", "user[secret]", "backup_codes", "client_secret", "Authorization", "code_verifier"}

// FuzzSecretsByName puts a secret under one of these names, beside text that the fuzzer
// chooses, into every encoding that the package reads.
func FuzzSecretsByName(f *testing.F) {
	var redactors []*Redactor
	for _, s := range []Strategy{Mask, Hash, Remove} {
		redactors = append(redactors, must(f, Options{Strategy: s, Key: testKey, MaxBytes: 300}), must(f, Options{Strategy: s, Key: testKey, MaxDepth: 9}))
	}
	for i, text := range []string{"email", `"`, `{"a":`, "a=1&b", "https://u:p@h/?x#y", "%", "\xff\x00", "Bearer ", "--", "; ", "'x", `\`, "\u2028", "x[]"} {
		f.Add(text, uint8(i), uint8(i/2))
	}
	f.Fuzz(func(t *testing.T, text string, name, nested uint8) {
		if len(text) > 2000 || strings.Contains(strings.ToLower(unescape(text, true)), strings.ToLower(canary)) {
			return
		}
		key := planted[int(name)%len(planted)]
		for _, r := range redactors {
			for media, body := range bodiesWith(text, key, int(nested)%6) {
				out, err := r.Body(media, body)
				if err != nil {
					continue // it is then not kept at all
				}
				checkOutput(t, r, out)
				if bytes.Contains(out, []byte(canary)) {
					t.Fatalf("%s %q\nbecame %q", media, body, out)
				}
			}
			for kind, clean := range linesWith(r, text, key) {
				if strings.Contains(clean, canary) || !utf8.ValidString(clean) {
					t.Fatalf("%s with %q and %s became %q", kind, text, key, clean)
				}
			}
		}
	})
}

// bodiesWith are bodies with a secret under a name.
func bodiesWith(text, key string, depth int) map[string][]byte {
	var document any = map[string]any{text: text, key: canary, "z": []any{text, map[string]any{key: []string{canary}}}}
	for range depth {
		document = map[string]any{"a" + text: []any{document}}
	}
	inner, _ := json.Marshal(document)
	outer, _ := json.Marshal(map[string]any{"json": string(inner), text: 1, string(inner): text})
	parts := new(bytes.Buffer)
	w := multipart.NewWriter(parts)
	for _, p := range [][2]string{{text, text}, {key, canary}, {"json", string(inner)}} {
		h := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + strings.NewReplacer("\r", "", "\n", "", `"`, "%22").Replace(p[0]) + `"`}}
		part, _ := w.CreatePart(h)
		_, _ = part.Write([]byte(p[1]))
	}
	_ = w.Close()
	escaped := url.QueryEscape(text) + "=" + url.QueryEscape(text) + "&" + url.QueryEscape(key) + "=" + canary
	return map[string][]byte{
		"application/json":                                    inner,
		"application/problem+json":                            outer,
		"application/x-www-form-urlencoded":                   []byte(escaped),
		"application/x-www-form-urlencoded; charset=us-ascii": []byte(url.QueryEscape(string(inner)) + "=" + url.QueryEscape(text)),
		"application/x-www-form-urlencoded; charset=utf8":     []byte("a=1&" + url.QueryEscape(string(inner)) + "="),
		"application/x-www-form-urlencoded; charset=utf-8":    []byte(text + "&" + key + "=" + canary + "&a=" + text),
		w.FormDataContentType():                               parts.Bytes(),
	}
}

// linesWith are redacted queries, addresses, headers and texts with a secret in them.
func linesWith(r *Redactor, text, key string) map[string]string {
	pair := url.QueryEscape(key) + "=" + canary
	return map[string]string{
		"a query":                    r.Query(text + "&" + pair),
		"a query, the secret first":  r.Query(pair + "&" + text),
		"an address":                 r.URL("https://h.example/" + url.PathEscape(text) + "?" + pair),
		"an address with a fragment": r.URL("https://h.example/?" + url.QueryEscape(text) + "#" + pair),
		"an address in an address":   r.URL("/login?to=" + url.QueryEscape("https://h.example/"+url.PathEscape(text)+"?"+pair)),
		"user and password":          r.URL("postgres://u:" + canary + "@h/" + url.PathEscape(text)),
		"Authorization":              r.Header("authorization", text+" "+canary),
		"Cookie":                     r.Header("Cookie", text+"; a="+canary),
		"Set-Auth-Token":             r.Header("Set-Auth-Token", canary),
		"Location":                   r.Header("Location", "/x?"+pair+"&"+text),
		"Referer":                    r.Header("Referer", "https://h.example/"+text+"?"+pair),
	}
}
