package profile_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// odd is a profile with one of everything.
const odd = `{"name":"odd","base_path":"/","router":"whatwg","unknown":"ignore","secrets":["ssn"],
	"recognize":[{"path":"/a/:b/*","json":{"pointer":"/x","equals":null}},{"html":"X","weak":true},{"path":"/","status":"2xx"}],
	"credentials":{"cookies":["*sid*"],"headers":["Authorization"],"response_body":["/t"]},
	"session":[{"path":"/s/:id","user":["/a","/b"],"forward":["Apikey"]},{"path":"/me","user":"header:X-User"}],
	"outcomes":{"default":[{"status":"4xx,500","outcome":"failed"},{"location":"error","in":"/url","outcome":"failed"},{"location_repeats":"f","outcome":"none"},
		{"sets_cookie":"*sid","outcome":"success"},{"clears_cookie":"*","outcome":"pending"},{"json":{"pointer":"","equals":null},"outcome":"none"},
		{"json":{"pointer":"/a~1b/0","filled":true},"outcome":"unknown"},{"html":"<Form","outcome":"none"},{"outcome":"success"}]},
	"routes":[{"path":"/x/:id/*","method":"POST","class":"admin","timing":"before","unlink":"target","target":["path:id","request:/id"],"when":{"request:/a/b":["1","*"],"query:q":""}},
		{"path":"/x/:id/*","class":"admin","user":["/id_token#/sub","header:Location?code","cookie:*sid","flow"],"flow":["sent-cookie:sid","query:code"],"actor":["flow"]},
		{"words":["/in/$","aaa","aa"],"class":"sign-in","identifier":["name"],"administrator":"/by","detached":true},
		{"path":"/Up","class":"sign-up","severity":"high","record":"checks","user":["bearer#/sub"]}]}`

// FuzzParse: a file is a profile or an error; what is a profile takes whatever request
// and answer comes, and is the same again after it was written and read.
func FuzzParse(f *testing.F) {
	add := func(file string) {
		f.Add([]byte(file), "POST", "/x/1/y?q=&code=aaaaaaaa&f=1", 200, "Location: /?error=x&f=1#a=b", "application/json", []byte(`{"a":{"b":"1"},"id":"u"}`))
		f.Add([]byte(file), "GET", "/a//%2e./In;x/", 302, "Set-Cookie: xsid=1; Max-Age=0", "application/x-www-form-urlencoded", []byte("name=a&name=b&%zz"))
	}
	add(odd)
	for _, name := range []string{"oauth2_proxy", "authjs", "dex"} {
		text, err := profile.Text(name)
		if err != nil {
			f.Fatal(err)
		}
		add(string(text))
	}
	for _, file := range []string{
		`{"name":"x","base_path":"/a","outcomes":{"default":[{"outcome":"success"}]}}`, `{"name":"x","extends":"generic","secrets":["a"],"routes":[{"words":["b"],"class":"mfa"}]}`,
		`{"name":"x","extends":"better_auth","base_path":"/A/b","session":null}`, `{"name":"x","extends":"x"}`, "\ufeff{}", `[]`, `{"routes":[null]}`,
	} {
		add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte, method, raw string, status int, header, media string, body []byte) {
		p, err := profile.Parse(file)
		_, _, checked := profile.Check(file)
		if (err == nil) != (checked == nil) {
			t.Fatalf("Parse says %v, Check %v", err, checked)
		}
		if err != nil {
			if !utf8.ValidString(err.Error()) && utf8.Valid(file) {
				t.Errorf("the error is no text: %q", err)
			}
			return
		}
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		x := exchangeOf(method, u, status, header, media, body)
		use(t, p, u, x)
		sameAgain(t, p, u, x)
	})
}

// exchangeOf is a whole exchange of what the fuzzer gives.
func exchangeOf(method string, u *url.URL, status int, header, media string, body []byte) *profile.Exchange {
	name, value, _ := strings.Cut(header, ":")
	h := http.Header{http.CanonicalHeaderKey(name): {strings.TrimSpace(value)}, "Authorization": {value}, "Cookie": {value + "; sid=" + name}}
	return &profile.Exchange{
		Answer: &profile.Answer{Status: status, Header: h, Body: body, Page: body, Query: u.RawQuery},
		Method: method, Path: u.Path, SentHeader: h, Sent: body, SentType: media, Flow: "flow-user",
	}
}

// use asks a profile everything that a recorder asks.
func use(t *testing.T, p *profile.Profile, u *url.URL, x *profile.Exchange) {
	t.Helper()
	if found, ok := profile.NewRecognizer([]*profile.Profile{p}).Recognize(x, profile.Nothing); ok && found.Why == "" {
		t.Error("recognised, and nobody knows why")
	}
	p.IsAction(u.Path)
	for _, s := range p.Session {
		s.Target(p.Base(), func(name string) string { return u.Path })
		s.Sample("a/b")
		s.User.Value(x)
	}
	m, ok := p.Match(x.Method, u)
	if !ok {
		return
	}
	y := *x
	y.Path, y.Route = m.Path, m.Route
	m = p.Refine(m, &y)
	y.Route = m.Route
	outcome := m.Route.Outcome(&y)
	if outcome != profile.None && !outcome.Valid() {
		t.Errorf("outcome %q", outcome)
	}
	for _, sources := range [][]profile.Source{m.Route.User, m.Route.Actor, m.Route.Target, m.Route.Identifier, m.Route.Flow, {m.Route.Administrator}} {
		shown, sure := profile.First(sources, &y), profile.FirstSure(sources, &y)
		if len(shown) > 64<<10 || len(sure) > 64<<10 {
			t.Errorf("a value of %d bytes", max(len(shown), len(sure)))
		}
		for _, s := range sources {
			if one := s.Sure(&y); one != "" && s.OfRequest() && len(y.Sent) == 0 && one != s.Value(&y) {
				t.Errorf("%s is surely %q, and shown as %q", s, one, s.Value(&y))
			}
		}
	}
}

// sameAgain writes the profile and reads it.
func sameAgain(t *testing.T, p *profile.Profile, u *url.URL, x *profile.Exchange) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := profile.Parse(text)
	if err != nil {
		t.Fatalf("what was written is no profile any more: %v\n%s", err, text)
	}
	m, mine := p.Match(x.Method, u)
	n, also := again.Match(x.Method, u)
	if mine != also || mine && (m.Route.ActionName() != n.Route.ActionName() || m.Route.Record != n.Route.Record || m.Path != n.Path || m.Ambiguous != n.Ambiguous) {
		t.Errorf("%s %s was %v %+v and is %v %+v", x.Method, u, mine, m, also, n)
	}
	if p.Extends == "" {
		if twice, _ := json.Marshal(again); !bytes.Equal(text, twice) {
			t.Errorf("it changes each time:\n%s\n%s", text, twice)
		}
	}
}

// FuzzLookup: a pointer into a document finds what encoding/json has there, and nothing
// in what is no document.
func FuzzLookup(f *testing.F) {
	for _, s := range [][2]string{
		{`{"a":{"b":[1,{"c":null}]}}`, "/a/b/1/c"}, {`{"email":"x","email":"y"}`, "/email"}, {`{"a/b":{"~":"\u00e9"}}`, "/a~1b/~0"}, {"\ufeff[1]", "/0"},
		{`{"":{"":true}}`, "//"}, {`[0]`, "/00"}, {`{"\ud800":1e400}`, "/\ufffd"}, {`"\ud83d\ude00"`, ""}, {"{\"a\":\"\xff\"}", "/a"}, {`{"a":1}{"a":2}`, "/a"}, {`{"a":"b\u0000"}`, "/a"},
		{` { "a" : [ "]}\\" , {} ] , "\u0062\"" :-1.5e3 ,"c":{"d":"\\\\"}}`, "/c/d"}, {`{"":{"":{"b":1}}}`, "///b"}, {`{"a":{"":1}}`, "/a/"}, {`{"a\"":"\\\"","b":true}`, "/b"},
	} {
		f.Add([]byte(s[0]), s[1])
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		got := profile.Lookup(body, pointer)
		plain := bytes.TrimPrefix(body, []byte("\ufeff"))
		valid := json.Valid(plain)
		if readable := profile.Readable(body); readable && !valid || valid && !readable && len(body) < 200 {
			t.Fatalf("%q: readable %v, encoding/json says %v", body, readable, valid)
		}
		if !valid {
			if got.Exists() {
				t.Fatalf("%q has %q at %q", body, got.Raw, pointer)
			}
			return
		}
		if !utf8.Valid(body) || !profile.Readable(body) {
			return // invalid UTF-8 is U+FFFD to encoding/json and itself to others
		}
		want, found := walk(plain, pointer)
		if found != got.Exists() {
			t.Fatalf("%s at %q: found %v, encoding/json %v", body, pointer, got.Exists(), found)
		}
		if s, ok := want.(string); ok && found && got.String() != s && !strings.Contains(string(body), `\u`) {
			t.Errorf("%s at %q: %q, encoding/json %q", body, pointer, got.String(), s)
		}
	})
}

// walk is RFC 6901 over encoding/json.
func walk(document []byte, pointer string) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil, false
	}
	if pointer == "" {
		return v, true
	}
	for _, token := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		switch w := v.(type) {
		case map[string]any:
			next, ok := w[token]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			n, ok := index(token)
			if !ok || n >= len(w) {
				return nil, false
			}
			v = w[n]
		default:
			return nil, false
		}
	}
	return v, true
}

// index is an array index of RFC 6901: no sign, no leading zero.
func index(token string) (int, bool) {
	if token == "" || len(token) > 6 || token[0] == '0' && token != "0" {
		return 0, false
	}
	n := 0
	for _, c := range token {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

// FuzzSource: a place is refused or written as it was read, and yields a bounded value
// of whatever exchange, tokens that nobody has signed among them.
func FuzzSource(f *testing.F) {
	token := "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"u","sub":"v","aud":["a"]}`)) + ".x"
	for _, place := range []string{
		"/user/id", "header:location?code", "cookie:*sid", "request:/a/b#/sub", "query:token#/aud/0", "path:id", "sent-header:X-A?b", "sent-cookie:s*", "bearer#/sub", "flow", "email",
		"", "?", "#/", "request:", "nope:x", "/a?b#/c", "bearer?x#", "request:/#", "#", "header:\r\n",
	} {
		f.Add(place, "token="+token+"&a=b", "/x?code=1&code="+token+"#code=2", []byte(`{"user":{"id":"`+token+`"},"a":{"b":"`+token+`"},"A":{"b":"c"}}`), "application/json")
		f.Add(place, "a", token, []byte("a=1&A=2&a="+token), "multipart/form-data; boundary=x")
	}
	f.Fuzz(func(t *testing.T, text, query, header string, body []byte, media string) {
		s, err := profile.NewSource(text)
		if err != nil {
			return
		}
		written, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again profile.Source
		if utf8.ValidString(text) {
			if err := json.Unmarshal(written, &again); err != nil || !reflect.DeepEqual(s, again) {
				t.Fatalf("%q is written as %s and read as %v, %v", text, written, again, err)
			}
		}
		h := http.Header{"Location": {header}, "Set-Cookie": {"sid=" + header}, "Cookie": {"s1=" + header, "s2=a; s1=" + query}, "Authorization": {"Bearer " + header}, "X-A": {header, query}}
		x := &profile.Exchange{Answer: &profile.Answer{Header: h, Body: body, Query: query}, SentHeader: h, Sent: body, SentType: media, Flow: header}
		value, sure := s.Value(x), s.Sure(x)
		if len(value) > 16<<10 || len(sure) > 16<<10 {
			t.Errorf("%q yields %d and %d bytes", text, len(value), len(sure))
		}
		unseen := &profile.Exchange{Answer: x.Answer, SentHeader: h, Sent: body, SentType: media, SentUnseen: true}
		if s.OfRequest() && strings.HasPrefix(text, "request:") && s.Sure(unseen) != "" {
			t.Errorf("%q is sure of a body that was not to be seen", text)
		}
		profile.Claim(header, "/sub")
	})
}
