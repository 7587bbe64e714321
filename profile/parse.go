package profile

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

//go:embed builtin/*.json
var builtin embed.FS

// Builtin returns the builtin profile of that name.
func Builtin(name string) (*Profile, error) {
	b, err := builtin.ReadFile("builtin/" + name + ".json")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, fmt.Errorf("unknown profile %q: use one of %s, or the path of a file of your own", name, strings.Join(Names(), ", "))
	}
	if err != nil {
		return nil, err
	}
	return Parse(b)
}

// Names lists the builtin profiles.
func Names() []string {
	files, err := builtin.ReadDir("builtin")
	if err != nil {
		return nil // an embedded folder cannot be missing
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f.Name(), ".json")
	}
	return names
}

// Parse reads a profile and checks all of it. Errors name the line or the route.
func Parse(b []byte) (*Profile, error) {
	p := new(Profile)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("profile, line %d: %w", line(b, d.InputOffset()), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("profile, line %d: something follows the object", line(b, d.InputOffset()))
	}
	if err := p.compile(); err != nil {
		return nil, fmt.Errorf("profile %q: %w", p.Name, err)
	}
	return p, nil
}

func line(b []byte, offset int64) int {
	return 1 + bytes.Count(b[:min(int(offset), len(b))], []byte("\n"))
}

func (p *Profile) compile() error {
	if p.Name == "" {
		return errors.New("it has no name")
	}
	if err := p.setBase(p.BasePath); err != nil {
		return err
	}
	if p.Router != "" && p.Router != "whatwg" {
		return fmt.Errorf("unknown router %q: use whatwg, or leave it out", p.Router)
	}
	if p.Session != nil && (!strings.HasPrefix(p.Session.Path, "/") || p.Session.User == "") {
		return errors.New("session needs a path that starts with / and a pointer to the user")
	}
	if len(p.Outcomes["default"]) == 0 {
		return errors.New(`outcomes needs a list "default"`)
	}
	for name, rules := range p.Outcomes {
		for i := range rules {
			if err := rules[i].compile(); err != nil {
				return fmt.Errorf("outcomes, list %q, rule %d: %w", name, i+1, err)
			}
		}
	}
	p.static, p.params = make(map[string][]*Route), nil
	for i, r := range p.Routes {
		if err := p.addRoute(r); err != nil {
			return fmt.Errorf("route %d (%s %s): %w", i+1, r.Method, r.Path, err)
		}
	}
	p.unknown = &Route{Class: "custom", Record: Always, Timing: After, Anonymous: true, rules: p.Outcomes["default"]}
	p.reads = &Route{Class: "custom", Record: Failures, Timing: After, Anonymous: true, rules: p.Outcomes["default"]}
	return nil
}

// WithBasePath returns a copy of the profile for another base path.
func (p *Profile) WithBasePath(base string) (*Profile, error) {
	c := *p
	if err := c.setBase(base); err != nil {
		return nil, err
	}
	return &c, nil
}

// Customize returns a copy of the profile: change is applied to a copy of each
// route, and the routes of add follow them.
func (p *Profile) Customize(change func(*Route), add ...*Route) (*Profile, error) {
	c, base := *p, p.basePath
	c.Routes = make([]*Route, 0, len(p.Routes)+len(add))
	for _, r := range p.Routes {
		changed := *r
		changed.segs = nil
		change(&changed)
		c.Routes = append(c.Routes, &changed)
	}
	c.Routes = append(c.Routes, add...)
	if err := c.compile(); err != nil {
		return nil, fmt.Errorf("profile %q: %w", p.Name, err)
	}
	return &c, c.setBase(cmp.Or(base, "/"))
}

func (p *Profile) setBase(base string) error {
	if !strings.HasPrefix(base, "/") || strings.ContainsAny(base, "?#%\\;*") || strings.Contains(base, "//") || strings.Contains(base+"/", "/./") || strings.Contains(base+"/", "/../") {
		return fmt.Errorf("bad base path %q: it must be a plain path that starts with /, such as /api/auth", base)
	}
	p.basePath = strings.TrimRight(base, "/")
	p.foldedBase = strings.ToLower(p.basePath)
	return nil
}

// Base is the base path in use, without a trailing slash ("" for the root).
func (p *Profile) Base() string { return p.basePath }

func (p *Profile) addRoute(r *Route) error {
	switch {
	case !strings.HasPrefix(r.Path, "/"):
		return errors.New("the path must start with /")
	case !classes[r.Class]:
		return fmt.Errorf("unknown class %q", r.Class)
	case r.Method != strings.ToUpper(r.Method):
		return errors.New("write the method in upper case")
	}
	if err := r.setDefaults(); err != nil {
		return err
	}
	if r.Rules != "" {
		own, ok := p.Outcomes[r.Rules]
		if !ok {
			return fmt.Errorf("outcomes has no list %q", r.Rules)
		}
		r.rules = slices.Clone(own)
	}
	r.rules = append(r.rules, p.Outcomes["default"]...)
	r.known = true
	r.body = len(r.User) > 0 || r.Administrator != "" || r.Target.Response != "" ||
		slices.ContainsFunc(r.rules, func(rule Rule) bool { return rule.JSON != nil })
	r.request = len(r.Identifier) > 0 || r.Target.Request != ""
	for _, other := range p.static[r.Path] {
		if other.Method == r.Method {
			return errors.New("it is there twice")
		}
	}
	if strings.Contains(r.Path, "/:") {
		r.segs = strings.Split(r.Path[1:], "/")
		p.params = append(p.params, r)
	}
	p.static[r.Path] = append(p.static[r.Path], r)
	if folded := strings.ToLower(r.Path); folded != r.Path && len(r.segs) == 0 {
		p.static[folded] = append(p.static[folded], r) // routers that ignore case
	}
	return nil
}

func (r *Route) setDefaults() error {
	if r.action = r.Action; r.action == "" {
		r.action = strings.ReplaceAll(strings.TrimPrefix(r.Path, "/"), "/", ":")
	}
	if r.Timing == "" {
		r.Timing = After
	}
	if r.Record == "" {
		r.Record = Always
	}
	if r.Timing != After && r.Timing != Before {
		return fmt.Errorf("unknown timing %q: use after or before", r.Timing)
	}
	if r.Unlink != "" && r.Unlink != "actor" && r.Unlink != "target" {
		return fmt.Errorf("unknown unlink %q: use actor or target", r.Unlink)
	}
	if r.Record != Always && r.Record != Failures {
		return fmt.Errorf("unknown record %q: use always or failures", r.Record)
	}
	return nil
}

func (r *Rule) compile() error {
	if !r.Outcome.Valid() || r.Outcome == storage.Unknown {
		return fmt.Errorf("unknown outcome %q: use success, failed or pending", r.Outcome)
	}
	if r.JSON != nil && !strings.HasPrefix(r.JSON.Pointer, "/") {
		return fmt.Errorf("bad JSON pointer %q: it must start with /", r.JSON.Pointer)
	}
	if r.JSON != nil && r.JSON.Equals != nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, r.JSON.Equals); err != nil {
			return err
		}
		r.JSON.Equals = compact.Bytes()
	}
	set, err := parseStatusSet(r.Status)
	r.status = set
	return err
}
