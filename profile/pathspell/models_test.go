package pathspell

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/profile/pathspell/spelltest"
)

// models are the oracle's routers once more, in Go and without any of this package's
// rules, so that a fuzzer can ask them a million times a minute. They take the bytes
// that are sent, in origin-form, and return the template that they run, or "".
// TestTheModelsRunWhatTheOracleRuns holds them to the oracle.
type models struct {
	corpus spelltest.Corpus
	mux    *http.ServeMux
	ran    string // by mux
}

func newModels(t testing.TB) *models {
	t.Helper()
	m := &models{corpus: spelltest.Load(t), mux: http.NewServeMux()}
	for _, route := range m.corpus.Routes {
		pattern := strings.NewReplacer(":id", "{id}", ":token", "{token}").Replace(m.corpus.Base + route)
		m.mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) { m.ran = route })
	}
	return m
}

// all is every model by its name in the oracle.
func (m *models) all() map[string]func(sent string) string {
	same := func(s string) string { return s }
	lowered := func(p string) string { return strings.ToLower(withoutSlash(p)) }
	return map[string]func(string) string{
		"better-auth": func(s string) string { return m.match(whatwgPath(s), same, false) },
		"better-auth skipTrailingSlashes": func(s string) string {
			return m.match(withoutSlash(whatwgPath(s)), same, false)
		},
		"new URL(url, base)": func(s string) string { return m.match(whatwgPath(afterHost(s)), same, false) },
		"hono":               func(s string) string { return m.match(uriDecoded(whatwgPath(s), true), same, false) },
		"hono strict:false":  func(s string) string { return m.match(withoutSlash(uriDecoded(whatwgPath(s), true)), same, false) },
		"express":            func(s string) string { return m.match(lowered(s), same, false) },
		"express 4 mounted":  func(s string) string { return m.mounted(s, true) },
		"express 5 mounted":  func(s string) string { return m.mounted(s, false) },
		"fastify 5":          func(s string) string { return m.match(uriDecoded(s, false), same, true) },
		"fastify 4":          func(s string) string { return m.match(uriDecoded(beforeSemicolon(s), false), same, true) },
		"fastify lenient":    func(s string) string { return m.match(lowered(uriDecoded(oneSlash(s), false)), same, true) },
		"go mux":             m.serveMux,
		"go chi":             func(s string) string { return m.match(s, same, false) },
		"go gin":             func(s string) string { return m.match(byteDecoded(s, ""), same, false) },
		"go gin clean":       func(s string) string { return m.match(path.Clean(byteDecoded(s, "")), same, false) },
		"servlet":            m.servlet,
		"nginx":              func(s string) string { return m.match(path.Clean(byteDecoded(s, "")), same, false) },
		"kestrel":            func(s string) string { return m.match(lowered(noDots(byteDecoded(s, "/"), false)), same, false) },
		"iis": func(s string) string {
			return m.match(lowered(noDots(strings.ReplaceAll(byteDecoded(s, ""), `\`, "/"), false)), same, false)
		},
	}
}

func (m *models) match(p string, segment func(string) string, emptyParameter bool) string {
	got := strings.Split(p, "/")
	for _, route := range m.corpus.Routes {
		want := strings.Split(m.corpus.Base+route, "/")
		fits := len(want) == len(got)
		for i := 0; fits && i < len(want); i++ {
			if strings.HasPrefix(want[i], ":") {
				fits = got[i] != "" || emptyParameter
			} else {
				fits = segment(got[i]) == want[i]
			}
		}
		if fits {
			return route
		}
	}
	return ""
}

// serveMux is the router of the standard library in person.
func (m *models) serveMux(s string) string {
	u, err := url.ParseRequestURI(s)
	if err != nil {
		return ""
	}
	m.ran = ""
	m.mux.ServeHTTP(httptest.NewRecorder(), &http.Request{Method: "POST", URL: u, RequestURI: s})
	return m.ran
}

func (m *models) mounted(s string, eatsSlash bool) string {
	if len(s) < len(m.corpus.Base) || !strings.EqualFold(s[:len(m.corpus.Base)], m.corpus.Base) {
		return ""
	}
	rest := s[len(m.corpus.Base):]
	if eatsSlash && strings.HasPrefix(rest, "//") {
		rest = rest[1:]
	}
	if rest != "" && rest[0] != '/' {
		return ""
	}
	return m.match(strings.ToLower(withoutSlash(m.corpus.Base+rest)), func(s string) string { return s }, false)
}

func (m *models) servlet(s string) string {
	low := strings.ToLower(s)
	for _, refused := range []string{"%2f", "%5c", "%00", `\`} {
		if strings.Contains(low, refused) {
			return ""
		}
	}
	segments := strings.Split(s, "/")
	for i, seg := range segments {
		segments[i], _, _ = strings.Cut(seg, ";")
	}
	return m.match(path.Clean(byteDecoded(strings.Join(segments, "/"), "")), func(s string) string { return s }, false)
}

// whatwgPath is the pathname of new URL("http://localhost" + s).
func whatwgPath(s string) string { return noDots(s, true) }

// noDots resolves dot segments without merging slashes; escaped says whether "%2e" is
// a dot.
func noDots(p string, escaped bool) string {
	segments := strings.Split(p, "/")[1:]
	var out []string
	for i, seg := range segments {
		name := seg
		if escaped {
			name = strings.NewReplacer("%2e", ".", "%2E", ".").Replace(seg)
		}
		last := i == len(segments)-1
		switch name {
		case "..":
			out = out[:max(0, len(out)-1)]
			if last {
				out = append(out, "")
			}
		case ".":
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, seg)
		}
	}
	return "/" + strings.Join(out, "/")
}

// afterHost is the rest of a target that begins with "//", which a base URL's reader
// takes for an authority.
func afterHost(s string) string {
	if !strings.HasPrefix(s, "//") {
		return s
	}
	_, rest, _ := strings.Cut(strings.TrimLeft(s, "/"), "/")
	return "/" + rest
}

func withoutSlash(p string) string {
	if len(p) > 1 && strings.HasSuffix(p, "/") {
		return p[:len(p)-1]
	}
	return p
}

func oneSlash(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

func beforeSemicolon(p string) string {
	before, _, _ := strings.Cut(p[1:], ";")
	return p[:1] + before
}

// byteDecoded decodes every valid escape but those of the bytes in keep.
func byteDecoded(p, keep string) string {
	var out []byte
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			if b, err := url.PathUnescape(p[i : i+3]); err == nil && !strings.Contains(keep, b) || err == nil && keep == "" {
				out = append(out, b...)
				i += 2
				continue
			}
		}
		out = append(out, p[i])
	}
	return string(out)
}

// uriDecoded is JavaScript's decodeURI after "%25" was doubled. Where it would throw,
// the path is left as it is where lenient says so (Hono decodes the runs that it can,
// which are those that matter), and else nothing is executed.
func uriDecoded(p string, lenient bool) string {
	const reserved = ";/?:@&=+$,#"
	var out []byte
	for i := 0; i < len(p); {
		if p[i] != '%' {
			out = append(out, p[i])
			i++
			continue
		}
		end := i
		for end+2 < len(p) && p[end] == '%' && isHex(p[end+1]) && isHex(p[end+2]) {
			end += 3
		}
		run := p[i:end]
		decoded := byteDecoded(run, "")
		switch {
		case run == "", !utf8.ValidString(decoded):
			if !lenient {
				return ""
			}
			out = append(out, p[i:max(end, i+1)]...)
			end = max(end, i+1)
		default:
			for j := 0; j < len(run); {
				r, size := utf8.DecodeRuneInString(byteDecoded(run[j:], ""))
				if r == '%' || size == 1 && strings.ContainsRune(reserved, r) {
					out = append(out, run[j:j+3]...)
				} else {
					out = utf8.AppendRune(out, r)
				}
				j += 3 * size
			}
		}
		i = end
	}
	return string(out)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// pathOf is the target without its query.
func pathOf(sent string) string {
	p, _, _ := strings.Cut(sent, "?")
	return p
}

// TestTheModelsRunWhatTheOracleRuns: none of the oracle's routers runs a route that its
// model here does not. The models may run more: they do not refuse all that a real
// server refuses.
func TestTheModelsRunWhatTheOracleRuns(t *testing.T) {
	m := newModels(t)
	g := spelltest.NewGenerator(m.corpus, 11)
	var sent []string
	for _, tg := range m.corpus.Targets {
		if u, err := spelltest.Parse(tg.Method, tg.Raw(t)); err == nil {
			sent = append(sent, spelltest.SentBytes(tg.Method, u))
		}
	}
	for len(sent) < 20_000 {
		if u, err := spelltest.Parse("POST", g.Target()); err == nil {
			sent = append(sent, u.RequestURI())
		}
	}
	v := spelltest.Ask(t, m.corpus, sent)
	all, runs, more := m.all(), 0, 0
	for i, s := range sent {
		if s == "" || s[0] != '/' {
			continue
		}
		for k, name := range v.Models {
			model := all[name]
			if model == nil {
				t.Fatalf("there is no model of %q here", name)
			}
			got, want := model(pathOf(s)), v.Runs[i][k]
			if want != "" {
				runs++
			} else if got != "" {
				more++
			}
			if want != "" && got != want {
				t.Errorf("%s runs %q for %q, the model here %q", name, want, s, got)
			}
		}
	}
	t.Logf("%d targets, %d runs; %d more by the models here", len(sent), runs, more)
}

// FuzzCandidates: whatever a router runs for the bytes that are sent is among the
// candidates.
func FuzzCandidates(f *testing.F) {
	m := newModels(f)
	all := m.all()
	for _, tg := range m.corpus.Targets {
		f.Add(tg.Raw(f))
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		sent := u.RequestURI()
		if sent[0] != '/' || len(sent) > 4096 {
			return // the oracle judges other forms
		}
		c := Of(u)
		for name, model := range all {
			if route := model(pathOf(sent)); route != "" && !spelltest.Covers(&c, m.corpus.Base+route) {
				t.Errorf("%s runs %q for %q, sent as %q; candidates %q", name, route, raw, sent, list(u))
			}
		}
	})
}
