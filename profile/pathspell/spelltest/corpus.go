package spelltest

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

//go:embed targets.json
var targetsJSON []byte

//go:embed honest.json
var honestJSON []byte

// Corpus is the corpus of hostile targets.
type Corpus struct {
	// Base is the base path of the Routes.
	Base string `json:"base"`
	// Routes are the templates that the oracle's routers have, static ones first.
	Routes []string `json:"routes"`
	// Targets to send.
	Targets []Target `json:"targets"`
}

// Target is a request target as a client sends it.
type Target struct {
	// Group of threats.md that it is of.
	Group string `json:"group"`
	// Method to send it with; POST if empty.
	Method string `json:"method"`
	// Text of the target; Hex instead where it is not UTF-8.
	Text string `json:"target"`
	Hex  string `json:"hex"`
}

// Raw is the target's bytes.
func (tg *Target) Raw(t testing.TB) string {
	t.Helper()
	if tg.Hex == "" {
		return tg.Text
	}
	b, err := hex.DecodeString(tg.Hex)
	if err != nil {
		t.Fatalf("targets.json: %v", err)
	}
	return string(b)
}

// Load returns the corpus.
func Load(t testing.TB) Corpus {
	t.Helper()
	var c Corpus
	if err := json.Unmarshal(targetsJSON, &c); err != nil {
		t.Fatalf("targets.json: %v", err)
	}
	return c
}

// Honest returns the templates of all routes of a Better Auth server with its
// plugins: what honest clients ask for.
func Honest(t testing.TB) []string {
	t.Helper()
	var routes []string
	if err := json.Unmarshal(honestJSON, &routes); err != nil {
		t.Fatalf("honest.json: %v", err)
	}
	return routes
}

// Parse does what net/http's server does with the second word of a request line.
func Parse(method, raw string) (*url.URL, error) {
	if method == "CONNECT" && !strings.HasPrefix(raw, "/") {
		u, err := url.ParseRequestURI("http://" + raw)
		if err == nil {
			u.Scheme = ""
		}
		return u, err
	}
	return url.ParseRequestURI(raw)
}

// SentBytes is what net/http's transport, and so Caddy's reverse_proxy, writes as the
// request target.
func SentBytes(method string, u *url.URL) string {
	if method == "CONNECT" && u.Path == "" {
		return u.Host
	}
	return u.RequestURI()
}
