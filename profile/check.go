package profile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// Warning is something in a profile that works, and is probably not meant.
type Warning struct {
	// Line of the file; 0 if it is about what the file does not have.
	Line int `json:"line,omitempty"`
	// Text says what it is, and what to do.
	Text string `json:"text"`
}

// String is the warning as a line.
func (w Warning) String() string {
	if w.Line == 0 {
		return w.Text
	}
	return fmt.Sprintf("line %d: %s", w.Line, w.Text)
}

// File returns the text of a profile: of a builtin one by its name, else of the file
// at that path.
func File(nameOrPath string) ([]byte, error) {
	if !strings.ContainsAny(nameOrPath, "/.\\") {
		return Text(nameOrPath)
	}
	return os.ReadFile(nameOrPath)
}

// Check is Parse that also warns. Warnings are in the order of their lines.
func Check(file []byte) (*Profile, []Warning, error) {
	p, err := Parse(file)
	if err != nil {
		return nil, nil, err
	}
	c := checker{profile: p, file: bytes.TrimPrefix(file, []byte("\ufeff"))}
	c.own = len(gjson.GetBytes(c.file, "routes").Array())
	c.names(gjson.ParseBytes(c.file), reflect.TypeFor[Profile](), "")
	c.missing()
	c.rules()
	c.routes()
	slices.SortStableFunc(c.found, func(a, b Warning) int { return cmp.Compare(a.Line, b.Line) })
	return p, c.found, nil
}

// checker looks for mistakes in a profile that parses.
type checker struct {
	profile *Profile
	file    []byte
	// own is how many of the routes the file has itself: they come first, the others
	// are inherited.
	own   int
	found []Warning
}

// warn notes a warning; steps lead to its place in the file.
func (c *checker) warn(text string, steps ...any) {
	line := 0
	if len(steps) > 0 {
		var place *located
		if errors.As(at(nil, steps...), &place) {
			line = place.line(c.file)
		}
	}
	c.found = append(c.found, Warning{Line: line, Text: text})
}

// names looks for members that are given twice, of which the last counts, and for
// names in another case, which this program reads and others do not.
func (c *checker) names(v gjson.Result, t reflect.Type, name string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[Sessions]() {
		if t = reflect.TypeFor[Session](); v.IsArray() {
			t = reflect.TypeFor[[]Session]()
		}
	}
	if !v.IsObject() && !v.IsArray() || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return
	}
	fields := map[string]reflect.Type{}
	if t.Kind() == reflect.Struct {
		fields = members(t)
	}
	seen := make(map[string]bool)
	v.ForEach(func(key, value gjson.Result) bool {
		if v.IsObject() && seen[key.Str] {
			c.found = append(c.found, Warning{lineAt(c.file, key.Index), fmt.Sprintf("%q is given twice in %s: only the last one counts", key.Str, cmp.Or(name, "the profile"))})
		}
		seen[key.Str] = true
		next, known := fields[key.Str]
		switch {
		case t.Kind() == reflect.Map || t.Kind() == reflect.Slice:
			next = t.Elem()
		case !known:
			c.found = append(c.found, Warning{lineAt(c.file, key.Index), fmt.Sprintf("the format writes %q in lower case", key.Str)})
			return true
		}
		c.names(value, next, cmp.Or(key.Str, name))
		return true
	})
}

// missing looks for what a profile should have.
func (c *checker) missing() {
	p := c.profile
	if len(p.Recognize) == 0 {
		c.warn("it has no recognize: profile auto cannot find this server")
	}
	creds := &p.Credentials
	none := len(creds.Cookies)+len(creds.Headers)+len(creds.ResponseHeaders)+len(creds.ResponseBody) == 0
	switch {
	case none && len(p.Session) == 0:
		c.warn("it has neither session nor credentials: entries have a user only where an answer names one, and nobody is remembered")
	case none:
		c.warn("it has a session but no credentials: whose a session is cannot be remembered, so the server is asked each time")
	}
	if !slices.ContainsFunc(p.Routes, func(r *Route) bool { return r.Class == "sign-in" }) {
		c.warn("it has no route of class sign-in")
	}
}

// rules looks for rules and lists that never decide.
func (c *checker) rules() {
	used := map[string]bool{"default": true}
	for _, r := range c.profile.Routes {
		used[r.Rules] = true
	}
	own := gjson.GetBytes(c.file, "outcomes")
	for _, name := range slices.Sorted(maps.Keys(c.profile.Outcomes)) {
		if _, ok := below(own, name); !ok {
			continue // inherited
		}
		if !used[name] {
			c.warn(fmt.Sprintf("no route uses the outcomes %q", name), "outcomes", name)
		}
		list := c.profile.Outcomes[name]
		for j := range list {
			for i := range j {
				if list[i].covers(&list[j]) {
					c.warn(fmt.Sprintf("rule %d of the outcomes %q never decides: rule %d before it takes every answer that it would take; put the one with more conditions first", j+1, name, i+1), "outcomes", name, j)
					break
				}
			}
		}
	}
}

// covers says for certain that whatever a later rule takes, this one takes before.
func (r *Rule) covers(later *Rule) bool {
	a, b := *r, *later
	for _, rule := range []*Rule{&a, &b} {
		rule.Outcome, rule.Status, rule.status, rule.html = "", "", statusSet{}, nil
	}
	return r.status.covers(&later.status) && (reflect.DeepEqual(a, Rule{}) || reflect.DeepEqual(a, b))
}

func (s *statusSet) covers(other *statusSet) bool {
	if s.any || other.any {
		return s.any
	}
	for class, has := range other.classes {
		if has && !s.classes[class] {
			return false
		}
	}
	return !slices.ContainsFunc(other.codes, func(code int) bool { return !s.has(code) })
}

// routes looks for routes that never count, and for destructive ones whose entry is
// written afterwards only.
func (c *checker) routes() {
	for j, later := range c.profile.Routes[:c.own] {
		if i := c.shadow(j); i >= 0 {
			why := ""
			if i > j && len(later.Words) == 0 {
				why = fmt.Sprintf(" (routes with one path are looked at together, here in the place of route %d)", c.first(c.profile.Routes[i].Path)+1)
			}
			c.warn(fmt.Sprintf("route %d (%s) never counts: route %d (%s) takes every request that it would take%s; put the narrower one first", j+1, later.say(), i+1, c.profile.Routes[i].say(), why), "routes", j)
		}
		if later.endsSomething() {
			c.warn(fmt.Sprintf(`route %d (%s) sounds destructive and has no "timing": "before": if Caddy dies in between nothing of it is recorded, and who did it may not be known any more`, j+1, later.say()), "routes", j)
		}
	}
}

func (r *Route) say() string {
	return strings.TrimSpace(r.Method + " " + r.Path + strings.Join(r.Words, " "))
}

// endsSomething says whether the words of a route tell that something is gone
// afterwards of which its entry should be written before.
func (r *Route) endsSomething() bool {
	if r.Timing == Before || r.Record != Always || !hasDestructive(pathWords(r.Path)) {
		return false
	}
	switch r.Class {
	case "sign-out", "session", "account", "admin":
		return true
	}
	return false
}

// shadow is the number of a route that is looked at before route j and takes all of
// its requests; -1 if there is none.
func (c *checker) shadow(j int) int {
	later := c.profile.Routes[j]
	for i, r := range c.profile.Routes {
		if i != j && (r.Method == "" || r.Method == later.Method) && r.holdsFor(later) && c.before(i, j) {
			return i
		}
	}
	return -1
}

// holdsFor says whether the conditions of r hold whenever those of later do.
func (r *Route) holdsFor(later *Route) bool {
	for text, values := range r.When {
		theirs, ok := later.When[text]
		if !ok || slices.ContainsFunc(theirs, func(v string) bool { return !values.accept(v) }) {
			return false
		}
	}
	return true
}

// before says whether Match looks at route i before route j for every path of j.
func (c *checker) before(i, j int) bool {
	a, b := c.profile.Routes[i], c.profile.Routes[j]
	switch {
	case len(a.Words) > 0 && len(b.Words) > 0:
		return i < j && !slices.ContainsFunc(b.Words, func(word string) bool {
			return !slices.ContainsFunc(a.Words, func(w string) bool { return strings.Contains(word, w) })
		})
	case len(a.Words) > 0:
		return false // words are looked for last
	case len(b.Words) > 0:
		return a.Path == "/*" && a.When == nil
	case a.Path == b.Path:
		return i < j
	case a.segs == nil || b.segs == nil:
		return false // a path without parameters is found first
	}
	return c.first(a.Path) < c.first(b.Path) && a.takesPathsOf(b)
}

// first is the number of the first route with a template: its group is looked at in
// that place.
func (c *checker) first(path string) int {
	return slices.IndexFunc(c.profile.Routes, func(r *Route) bool { return r.Path == path })
}

// takesPathsOf says whether every path that fits template b fits this one too.
func (r *Route) takesPathsOf(b *Route) bool {
	switch {
	case len(r.segs) > len(b.segs), !r.rest && (b.rest || len(r.segs) != len(b.segs)):
		return false
	}
	for i, seg := range r.segs {
		if !strings.HasPrefix(seg, ":") && seg != b.segs[i] {
			return false
		}
	}
	return true
}
