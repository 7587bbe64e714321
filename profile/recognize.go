package profile

import (
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
)

// Recognition is a server that was recognised.
type Recognition struct {
	// Profile is the server's, with the base path that was found.
	Profile *Profile
	// Why says it for the log: the sign that was seen.
	Why string
	// Certainty of the sign.
	Certainty Certainty
}

// Certainty says how much a sign proves. Clients choose what they ask for, and some
// servers answer anything: so a more certain sign always wins over a less certain one
// that came before it.
type Certainty uint8

// The certainties, in rising order.
const (
	// Nothing was seen yet.
	Nothing Certainty = iota
	// Standard: several servers keep to it (OpenID Connect).
	Standard
	// Path: a path of the server's was not refused.
	Path
	// Shape: a path of the server's was answered in the server's form.
	Shape
	// Certain: a name or a text of the server's own. The search ends.
	Certain
)

// certainty of a sign, by what it asks for.
func (s *Sign) certainty() Certainty {
	own := s.SetsCookie != "" || s.Header != "" || s.HTML != "" || s.JSON != nil && len(s.JSON.Equals) > 2 && s.JSON.Equals[0] == '"'
	switch {
	case s.Weak:
		return Standard
	case own:
		return Certain
	case s.JSON != nil:
		return Shape
	}
	return Path
}

// certaintyAt is the certainty of a sign that was seen at a base path: what a file may
// hold is certain only where the server usually is, for files may lie anywhere else.
func (s *Sign) certaintyAt(found *Profile) Certainty {
	c := s.certainty()
	if c == Certain && s.SetsCookie == "" && s.Header == "" && found.basePath != strings.TrimRight(found.BasePath, "/") {
		return Shape
	}
	return c
}

// Recognizer finds out from exchanges which of its profiles describes the server.
// It is immutable, and safe for concurrent use. It sends nothing.
type Recognizer struct{ profiles []*Profile }

// NewRecognizer returns a Recognizer of the profiles that have signs.
func NewRecognizer(profiles []*Profile) *Recognizer {
	r := new(Recognizer)
	for _, p := range profiles {
		if len(p.Recognize) > 0 {
			r.profiles = append(r.profiles, p)
		}
	}
	return r
}

// Builtins are all builtin profiles.
func Builtins() ([]*Profile, error) {
	var all []*Profile
	for _, name := range Names() {
		p, err := Builtin(name)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Recognize looks for the most certain sign in an exchange that is more certain than
// what is known; x.Path is the whole path of the request.
func (r *Recognizer) Recognize(x *Exchange, known Certainty) (Recognition, bool) {
	if x.Answer == nil || x.Status == http.StatusNotFound || x.Status == http.StatusMethodNotAllowed || x.Status >= 500 || x.Status < 200 {
		return Recognition{}, false
	}
	best := Recognition{Certainty: known}
	for _, p := range r.profiles {
		for i := range p.Recognize {
			s := &p.Recognize[i]
			if s.certainty() <= best.Certainty {
				continue
			}
			base, ok := s.holds(x, p)
			if !ok {
				continue
			}
			found, err := p.WithBasePath(base)
			if err != nil {
				continue // none that could be configured
			}
			if c := s.certaintyAt(found); c > best.Certainty {
				best = Recognition{Profile: found, Why: s.describe(x), Certainty: c}
			}
		}
	}
	return best, best.Profile != nil
}

// holds says whether the sign is there, and the base path that it shows.
func (s *Sign) holds(x *Exchange, p *Profile) (base string, ok bool) {
	if s.Method != "" && !strings.EqualFold(s.Method, x.Method) {
		return "", false
	}
	base = p.BasePath
	if s.Path != "" {
		if base, ok = s.prefix(x.Path); !ok {
			return "", false
		}
	}
	return base, s.rule.holds(x) == yes && !s.echoed(x)
}

// echoed says whether the request has what the sign looks for in the answer's body: then
// the server may only have repeated what it was sent.
func (s *Sign) echoed(x *Exchange) bool {
	if len(s.rule.html) > 0 && x.says(string(s.rule.html)) {
		return true
	}
	if s.JSON == nil || s.JSON.Pointer == "" || !Readable(x.Sent) {
		return false
	}
	sent := Lookup(x.Sent, s.JSON.Pointer)
	return sent.Exists() && sent.Raw == x.Lookup(s.JSON.Pointer).Raw
}

// says says whether a text in lower case stands in the request's target or body.
func (x *Exchange) says(text string) bool {
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	if has(x.Path) || has(string(x.Sent)) {
		return true
	}
	body := x.sentBody()
	for _, fields := range []iter.Seq[sentField]{eachField(x.Query), slices.Values(body.fields)} {
		for f := range fields {
			if has(f.name) || has(f.value) {
				return true
			}
		}
	}
	found := false
	eachText(body.json.root(), func(s string) { found = found || has(s) })
	return found
}

// prefix is what stands before the sign's path in a request's path.
func (s *Sign) prefix(path string) (string, bool) {
	segs := strings.Split(strings.TrimPrefix(strings.TrimSuffix(path, "/"), "/"), "/")
	want, rest := s.segs, false
	if want[len(want)-1] == "*" {
		want, rest = want[:len(want)-1], true
	}
	for at := 0; at+len(want) <= len(segs); at++ {
		if !rest {
			at = len(segs) - len(want)
		}
		if fitSegments(want, segs[at:]) {
			return "/" + strings.Join(segs[:at], "/"), true
		}
		if !rest {
			break
		}
	}
	return "", false
}

func fitSegments(want, segs []string) bool {
	for i, w := range want {
		if w != segs[i] && (!strings.HasPrefix(w, ":") || segs[i] == "") {
			return false
		}
	}
	return true
}

// describe says what was seen, in words for a log: nothing that a client could have
// written.
func (s *Sign) describe(x *Exchange) string {
	var parts []string
	if s.Path != "" {
		parts = append(parts, fmt.Sprintf("%d for %s %s", x.Status, x.Method, s.Path))
	}
	if s.SetsCookie != "" {
		parts = append(parts, "a cookie "+s.SetsCookie)
	}
	if s.Header != "" {
		parts = append(parts, "a header "+s.Header)
	}
	if s.JSON != nil {
		parts = append(parts, "JSON with "+s.JSON.Pointer)
	}
	if s.HTML != "" {
		parts = append(parts, fmt.Sprintf("a page with %q", s.HTML))
	}
	return strings.Join(parts, ", ")
}
