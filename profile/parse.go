package profile

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

//go:embed builtin/*.json
var builtin embed.FS

// alias are other names that people use for a server.
var alias = map[string]string{"gotrue": "supabase", "nextauth": "authjs", "next_auth": "authjs", "auth_js": "authjs", "betterauth": "better_auth"}

// Builtin returns the builtin profile of that name. "-" counts as "_", and GoTrue and
// NextAuth have their usual names too.
func Builtin(name string) (*Profile, error) {
	name = strings.ReplaceAll(name, "-", "_")
	if other, ok := alias[name]; ok {
		name = other
	}
	b, err := Text(name)
	if err != nil {
		return nil, err
	}
	return Parse(b)
}

// Text is the file of the builtin profile of that name.
func Text(name string) ([]byte, error) {
	b, err := builtin.ReadFile("builtin/" + name + ".json")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, fmt.Errorf("unknown profile %q: use one of %s, or the path of a file of your own", name, strings.Join(Names(), ", "))
	}
	return b, err
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

// Parse reads a profile and checks all of it. Errors name the line.
func Parse(b []byte) (*Profile, error) {
	p := new(Profile)
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // editors write it
	if err := p.decode(b); err != nil {
		return nil, err
	}
	if err := p.inherit(); err != nil {
		return nil, withLine(p.Name, b, err)
	}
	if err := p.compile(); err != nil {
		return nil, withLine(p.Name, b, err)
	}
	return p, nil
}

// inherit fills in what a profile leaves to the one that it extends. Its own routes
// come first, so that they count where both match.
func (p *Profile) inherit() error {
	if p.Extends == "" {
		return nil
	}
	base, err := Builtin(p.Extends)
	if err != nil {
		return at(fmt.Errorf("extends: %w", err), "extends")
	}
	p.Title, p.BasePath = cmp.Or(p.Title, base.Title), cmp.Or(p.BasePath, base.BasePath)
	p.Router, p.Unknown = cmp.Or(p.Router, base.Router), cmp.Or(p.Unknown, base.Unknown)
	p.BaseAnywhere, p.FormJSON = p.BaseAnywhere || base.BaseAnywhere, cmp.Or(p.FormJSON, base.FormJSON)
	if p.Suffixes == nil {
		p.Suffixes = base.Suffixes
	}
	if len(p.Recognize) == 0 {
		p.Recognize = base.Recognize
	}
	p.Secrets = append(slices.Clip(p.Secrets), base.Secrets...)
	if p.Session == nil {
		p.Session = base.Session
	}
	own := &p.Credentials
	p.guessesCookies = own.Cookies == nil && base.GuessesCookies()
	own.Cookieless = own.Cookieless || own.Cookies == nil && base.Credentials.Cookieless
	for _, list := range []struct{ own, base *[]string }{
		{&own.Cookies, &base.Credentials.Cookies}, {&own.Headers, &base.Credentials.Headers},
		{&own.ResponseHeaders, &base.Credentials.ResponseHeaders}, {&own.ResponseBody, &base.Credentials.ResponseBody}, {&own.Query, &base.Credentials.Query},
	} {
		if *list.own == nil {
			*list.own = *list.base
		}
	}
	if p.Outcomes == nil {
		p.Outcomes = make(map[string][]Rule)
	}
	for name, rules := range base.Outcomes {
		if _, own := p.Outcomes[name]; !own {
			p.Outcomes[name] = rules
		}
	}
	p.inheritRoutes(base)
	return nil
}

func (p *Profile) inheritRoutes(base *Profile) {
	own := len(p.Routes)
	for _, r := range base.Routes {
		replaced := slices.ContainsFunc(p.Routes[:own], func(o *Route) bool {
			return o != nil && r.Path != "" && o.Path == r.Path && o.Outside == r.Outside && o.Anywhere == r.Anywhere && o.Method == r.Method && reflect.DeepEqual(o.When, r.When)
		})
		if !replaced {
			c := *r
			c.segs, c.siblings = nil, nil
			p.Routes = append(p.Routes, &c)
		}
	}
}

// compile checks a profile that is complete, and prepares it for matching.
func (p *Profile) compile() error {
	if p.Name == "" {
		return at(errors.New("it has no name"), "name")
	}
	if err := p.setBase(p.BasePath); err != nil {
		return at(err, "base_path")
	}
	if p.Router != "" && p.Router != "whatwg" {
		return at(fmt.Errorf("unknown router %q: use whatwg, or leave it out", p.Router), "router")
	}
	if p.Credentials.Cookieless && len(p.Credentials.Cookies) > 0 {
		return at(errors.New("credentials says that the server looks at no cookie, and names some: leave out cookies, or cookieless"), "credentials")
	}
	if p.Unknown != "" && p.Unknown != "record" && p.Unknown != "ignore" {
		return at(fmt.Errorf("unknown word %q for unknown: use record or ignore", p.Unknown), "unknown")
	}
	for i := range p.Session {
		if err := p.Session[i].compile(); err != nil {
			return at(fmt.Errorf("session: %w", err), "session", i)
		}
	}
	for i := range p.Recognize {
		if err := p.Recognize[i].compile(); err != nil {
			return at(fmt.Errorf("recognize, sign %d: %w", i+1, err), "recognize", i)
		}
	}
	if err := p.compileOutcomes(); err != nil {
		return err
	}
	return p.compileRoutes()
}

func (p *Profile) compileOutcomes() error {
	if len(p.Outcomes["default"]) == 0 {
		return at(errors.New(`outcomes needs a list "default"`), "outcomes")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Outcomes)) {
		rules := p.Outcomes[name]
		for i := range rules {
			if err := rules[i].compile(); err != nil {
				return at(fmt.Errorf("outcomes, list %q, rule %d: %w", name, i+1, err), "outcomes", name, i)
			}
		}
	}
	return nil
}

func (p *Profile) compileRoutes() error {
	p.table, p.outer, p.anywhere = table{static: make(map[string][]*Route)}, table{static: make(map[string][]*Route)}, nil
	p.actions = make(map[string]bool)
	for i, r := range p.Routes {
		if r == nil {
			return at(fmt.Errorf("route %d is null", i+1), "routes", i)
		}
		if err := p.addRoute(r); err != nil {
			return at(fmt.Errorf("route %d (%s %s%s): %w", i+1, r.Method, r.Path, strings.Join(r.Words, " "), err), "routes", i)
		}
		p.actions[r.action] = true
	}
	if err := checkWords(p.Routes); err != nil {
		return at(err, "routes")
	}
	if p.words = newWords(p.Routes); p.words != nil {
		together(p.words.routes)
	}
	for _, t := range []*table{&p.table, &p.outer} {
		for _, group := range t.static {
			together(group)
		}
	}
	p.unknown = &Route{Class: "custom", Record: Always, Timing: After, Anonymous: true, rules: p.Outcomes["default"]}
	p.reads = &Route{Class: "custom", Record: Failures, Timing: After, Anonymous: true, rules: p.Outcomes["default"]}
	p.unknown.needs()
	p.reads.needs()
	return nil
}

// checkWords bounds what newWords is to hold.
func checkWords(routes []*Route) error {
	n, size := 0, 0
	for _, r := range routes {
		n += min(1, len(r.Words))
		for _, word := range r.Words {
			size += len(word)
		}
	}
	switch {
	case n > maxWordRoutes:
		return fmt.Errorf("%d routes have words, %d may: give some of them paths", n, maxWordRoutes)
	case size > maxWordBytes:
		return fmt.Errorf("the words of all routes have %d bytes, %d may: leave some out", size, maxWordBytes)
	}
	return nil
}

// together notes that routes may be told apart only when bodies are known: until
// then each needs what any of them needs. A route that is the only one of its method is
// known at once.
func together(group []*Route) {
	alone := func(r *Route) bool {
		return len(r.when) == 0 && !slices.ContainsFunc(group, func(o *Route) bool { return o != r && (o.takes(r.Method) || r.takes(o.Method)) })
	}
	var rivals []*Route
	for _, r := range group {
		if len(r.Words) > 0 || !alone(r) {
			rivals = append(rivals, r)
		}
	}
	if group = rivals; len(group) < 2 {
		return
	}
	var body, html, request, headers, addresses bool
	for _, r := range group {
		body, html, request, headers = body || r.body, html || r.html, request || r.request, headers || r.headers
		addresses = addresses || r.addresses
	}
	for _, r := range group {
		r.body, r.html, r.request, r.headers, r.addresses = body, html, request, headers, addresses
		r.siblings = group
	}
}

func (s *Session) compile() error {
	if s == nil {
		return errors.New("it is null")
	}
	if !strings.HasPrefix(s.Path, "/") || s.User.IsZero() {
		return errors.New("it needs a path that starts with / and a pointer to the user")
	}
	for i := range s.User.places {
		if p := &s.User.places[i]; p.kind != inAnswer && p.kind != inHeader {
			return fmt.Errorf("user %q is no pointer into the answer", p.text)
		}
	}
	if s.Method != strings.ToUpper(s.Method) {
		return errors.New("write the method in upper case")
	}
	if err := s.Complete.compile(); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	return nil
}

// Sessions are the session endpoints of a profile; in a file also a single one.
type Sessions []*Session

// UnmarshalJSON implements json.Unmarshaler.
func (s *Sessions) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) {
		var list []*Session
		err := d.Decode(&list)
		*s = list
		return err
	}
	one := new(Session)
	err := d.Decode(one)
	*s = Sessions{one}
	return err
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
// route, and the routes of add come before them.
func (p *Profile) Customize(change func(*Route), add ...*Route) (*Profile, error) {
	c, base := *p, p.basePath
	c.Routes = append(make([]*Route, 0, len(p.Routes)+len(add)), add...)
	for _, r := range p.Routes {
		changed := *r
		changed.segs, changed.siblings = nil, nil
		change(&changed)
		c.Routes = append(c.Routes, &changed)
	}
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

// GuessesCookies says whether what the profile takes for a session's cookie is a guess by its
// name: the patterns are those of the profile of no server in particular.
func (p *Profile) GuessesCookies() bool { return p.Name == "generic" || p.guessesCookies }

// Base is the base path in use, without a trailing slash ("" for the root).
func (p *Profile) Base() string { return p.basePath }

func (p *Profile) addRoute(r *Route) error {
	switch {
	case len(r.Words) > 0 && r.Path != "":
		return errors.New("it has a path and words: give one of them")
	case len(r.Words) == 0 && !strings.HasPrefix(r.Path, "/"):
		return errors.New("the path must start with /")
	case !classes[r.Class]:
		return fmt.Errorf("unknown class %q: use one of %s", r.Class, strings.Join(slices.Sorted(maps.Keys(classes)), ", "))
	case r.Method != strings.ToUpper(r.Method):
		return errors.New("write the method in upper case")
	}
	if err := r.setDefaults(); err != nil {
		return err
	}
	if err := r.compile(); err != nil {
		return err
	}
	if r.Rules != "" {
		own, ok := p.Outcomes[r.Rules]
		if !ok {
			return fmt.Errorf("outcomes has no list %q", r.Rules)
		}
		r.rules = append(r.rules, own...)
	}
	r.rules = append(r.rules, p.Outcomes["default"]...)
	r.known, r.formJSON, r.Cookieless = true, p.FormJSON, r.Cookieless || p.Credentials.Cookieless
	r.needs()
	if len(r.Words) > 0 {
		return nil
	}
	return p.place(r)
}

// place makes a route with a path findable.
func (p *Profile) place(r *Route) error {
	t := &p.table
	switch {
	case r.Anywhere:
		if r.Path != "/*" || len(r.when) == 0 || slices.ContainsFunc(r.when, func(c condition) bool { return c.late || !c.source.has(inQuery) }) {
			return errors.New("a route of any path has the path /*, and conditions on the query alone")
		}
		p.anywhere = append(p.anywhere, r)
		return nil
	case r.Outside:
		t = &p.outer
	}
	for _, other := range t.static[r.Path] {
		if other.Method == r.Method && r.sameConditions(other) {
			return errors.New("it is there twice")
		}
	}
	r.rest = strings.HasSuffix(r.Path, "/*")
	if strings.Contains(r.Path, "/:") || r.rest {
		r.segs = strings.Split(strings.TrimSuffix(r.Path, "/*")[min(1, len(strings.TrimSuffix(r.Path, "/*"))):], "/")
		if r.Path == "/*" {
			r.segs = []string{}
		}
		if len(t.static[r.Path]) == 0 {
			t.params = append(t.params, r)
		}
	}
	t.static[r.Path] = append(t.static[r.Path], r)
	if folded := strings.ToLower(r.Path); folded != r.Path && r.segs == nil {
		t.static[folded] = append(t.static[folded], r) // routers that ignore case
	}
	return nil
}

// needs finds out what of an exchange the route looks at.
func (r *Route) needs() {
	ofBody := func(s Source) bool { return s.has(inAnswer) }
	r.body = slices.ContainsFunc(r.User, ofBody) || slices.ContainsFunc(r.Actor, ofBody) || slices.ContainsFunc(r.Target, ofBody) ||
		slices.ContainsFunc(r.Flow, ofBody) || ofBody(r.Administrator) ||
		slices.ContainsFunc(r.rules, func(rule Rule) bool { return rule.JSON != nil || ofBody(rule.In) })
	r.html = slices.ContainsFunc(r.rules, func(rule Rule) bool { return rule.HTML != "" || rule.HTMLRepeats != "" })
	r.addresses = slices.ContainsFunc(r.rules, func(rule Rule) bool { return rule.Location != "" || rule.LocationRepeats != "" })
	ofRequest := func(s Source) bool { return s.has(inRequest) }
	for _, sources := range [][]Source{r.User, r.Identifier, r.Target, r.Flow} {
		r.request = r.request || slices.ContainsFunc(sources, ofRequest)
	}
	for i := range r.when {
		r.request = r.request || ofRequest(r.when[i].source)
		r.headers = r.headers || r.when[i].source.ofHead()
	}
	for _, sources := range [][]Source{r.User, r.Identifier, r.Target, r.Flow, {r.Administrator}} {
		r.headers = r.headers || slices.ContainsFunc(sources, Source.ofHead)
	}
}

func (r *Route) compile() error {
	var err error
	if r.when, err = parseConditions(r.When); err != nil {
		return err
	}
	for _, word := range r.Words {
		for i := range len(word) {
			if c := letter(word[i]); c < 0 || c == end && i < len(word)-1 || word[i] >= 'A' && word[i] <= 'Z' {
				return fmt.Errorf("bad word %q: use lower-case letters, digits, / and, at the end, $", word)
			}
		}
		if strings.Trim(word, "/") == "" {
			return fmt.Errorf("bad word %q", word)
		}
	}
	for _, s := range r.Identifier {
		if !s.OfRequest() {
			return fmt.Errorf("identifier %q is no place of the request", s)
		}
	}
	for _, s := range r.Actor {
		if s.has(inRequest) || s.has(inQuery) || s.has(inPath) || s.has(inSentHeader) || s.has(inSentCookie) || s.has(inBearer) {
			return fmt.Errorf("actor %q is no place of the answer: the server must have said it", s)
		}
	}
	if slices.ContainsFunc(r.User, Source.OfBearer) && r.Anonymous {
		return errors.New("user reads the request's token, but the route is anonymous: nothing shows that the server looked at the token")
	}
	r.rules = nil
	return nil
}

func (r *Route) setDefaults() error {
	if r.action = r.Action; r.action == "" {
		r.action = strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(r.Path, "/"), "/*"), "/", ":")
	}
	if r.action == "" && len(r.Words) == 0 {
		r.action = "base-path"
	}
	if r.Timing == "" {
		r.Timing = After
	}
	if r.Record == "" {
		r.Record = Always
	}
	switch {
	case r.Timing != After && r.Timing != Before:
		return fmt.Errorf("unknown timing %q: use after or before", r.Timing)
	case r.Unlink != "" && r.Unlink != "actor" && r.Unlink != "target":
		return fmt.Errorf("unknown unlink %q: use actor or target", r.Unlink)
	case r.Record != Always && r.Record != Failures && r.Record != Checks && r.Record != Never:
		return fmt.Errorf("unknown record %q: use always, failures, checks or never", r.Record)
	}
	return nil
}

func (r *Rule) compile() error {
	if r.Outcome != None && !r.Outcome.Valid() {
		return fmt.Errorf("unknown outcome %q: use success, failed, pending, unknown or none", r.Outcome)
	}
	if !r.In.IsZero() && r.Location == "" && r.LocationPath == "" && r.LocationRepeats == "" {
		return errors.New("in says where a URL is, and goes with location, location_path or location_repeats")
	}
	if r.LocationPath != "" && !strings.HasPrefix(r.LocationPath, "/") {
		return fmt.Errorf("bad location_path %q: it starts with /", r.LocationPath)
	}
	r.html = []byte(strings.ToLower(r.HTML))
	if err := r.JSON.compile(); err != nil {
		return err
	}
	set, err := parseStatusSet(r.Status)
	r.status = set
	return err
}

func (c *JSONCondition) compile() error {
	switch {
	case c == nil:
		return nil
	case c.Pointer != "" && !strings.HasPrefix(c.Pointer, "/"):
		return fmt.Errorf("bad JSON pointer %q: it must start with /", c.Pointer)
	case c.Equals != nil && (c.Filled || c.Empty), c.Filled && c.Empty:
		return errors.New("a JSON condition takes one of equals, filled and empty")
	case c.Equals == nil:
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, c.Equals); err != nil {
		return err
	}
	c.Equals = compact.Bytes()
	return nil
}

func (s *Sign) compile() error {
	s.rule = Rule{Status: s.Status, SetsCookie: s.SetsCookie, Header: s.Header, JSON: s.JSON, HTML: s.HTML, Outcome: storage.Success}
	if s.SetsCookie == "" && s.Header == "" && s.JSON == nil && s.HTML == "" && (s.Status == "" || s.Path == "") {
		return errors.New("it needs something that the server does: sets_cookie, header, json, html, or a status for a path")
	}
	if s.Path != "" && !strings.HasPrefix(s.Path, "/") {
		return errors.New("the path must start with /")
	}
	s.segs = strings.Split(strings.TrimPrefix(s.Path, "/"), "/")
	return s.rule.compile()
}
