package redact

import (
	"strings"
	"testing"
	"time"
)

// TestHostileTextsTakeLinearTime: who signs in sends what he likes. What takes time by the square of the
// length takes seconds here.
func TestHostileTextsTakeLinearTime(t *testing.T) {
	const size, most = 64 << 10, 500 * time.Millisecond
	r := must(t, Options{})
	for _, pattern := range []string{"sk-", "sk-learn-", "npm_a-", "npm_lifecycle-", "glpat-", "AIza", "AIza-", "SG.", "%40", "a@", "pin=", "'", "password '", "token \"", "a.", "=;", "a=1;", "mfa=1;"} {
		text := strings.Repeat(pattern, size/len(pattern))
		for name, do := range map[string]func(){
			"Text": func() { r.Text(text) },
			"JSON": func() { _, _ = r.JSON(appendQuoted(nil, text)) },
			"JSON of an id": func() {
				_, _ = r.JSON(append(append([]byte(`{"id":`), appendQuoted(nil, text)...), '}'))
			},
			"Addresses": func() { Addresses(text) },
			"Typed":     func() { Typed(text, text[:100]) },
			"URL":       func() { r.URL("/?" + text) },
			"Form":      func() { _, _ = r.Form([]byte("a=" + text)) },
		} {
			start := time.Now()
			if do(); time.Since(start) > most {
				t.Errorf("%s of %q repeated takes %v", name, pattern, time.Since(start))
			}
		}
	}
}
