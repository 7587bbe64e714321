package profile_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// lined is a good profile whose lines are known.
const lined = `{
	"name": "x",
	"base_path": "/a",
	"recognize": [
		{"sets_cookie": "x"},
		{"header": "X-Server"}
	],
	"session": {"path": "/me", "user": "/id"},
	"credentials": {"cookies": ["x"]},
	"outcomes": {
		"default": [
			{"status": "2xx", "outcome": "success"},
			{"outcome": "failed"}
		],
		"other": [
			{
				"status": "2xx",
				"outcome": "pending"
			}
		]
	},
	"routes": [
		{"method": "POST", "path": "/login", "class": "sign-in", "outcome": "other"},
		{
			"path": "/logout",
			"class": "sign-out",
			"user": ["/id", "header:X"],
			"severity": "high",
			"when": {"query:a": "b"}
		}
	]
}
`

func TestEveryErrorNamesItsLine(t *testing.T) {
	if _, err := profile.Parse([]byte("\ufeff" + lined)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to string
		line     int
		want     string
	}{
		// The JSON itself.
		{`"name": "x",`, `"name": "x"`, 3, `invalid character '"'`},
		{"\n}\n", "\n", 31, "unexpected end"},
		{"\n}\n", "\n}\n\n{}", 34, "after top-level value"},
		{lined, "", 1, "unexpected end"},
		// What the format does not know.
		{`"status": "2xx", "outcome": "success"`, `"state": "2xx", "outcome": "success"`, 12, `unknown field "state": use clears_cookie, header, html,`},
		{`"class": "sign-out"`, `"clas": "sign-out"`, 26, `unknown field "clas": use action, actor, administrator,`},
		{`"base_path"`, `"basepath"`, 3, `unknown field "basepath"`},
		{`"path": "/me",`, `"path": "/me", "usr": "x",`, 8, `unknown field "usr"`},
		{`["x"]`, `["x", 5]`, 9, "must be a text in quotes (at /credentials/cookies/1)"},
		{`["/id", "header:X"]`, `["/id", "head:X"]`, 27, `bad place "head:X"`},
		{`["/id", "header:X"]`, `"/id"`, 27, "must be a list"},
		{`"severity": "high"`, `"severity": "loud"`, 28, "loud"},
		{`{"query:a": "b"}`, `{"query:a": 5}`, 29, "a condition takes a text"},
		{`"method": "POST"`, `"anonymous": "yes"`, 23, "must be true or false (at /routes/0/anonymous)"},
		{`{"sets_cookie": "x"}`, `"x"`, 5, "must be an object"},
		// What it knows and cannot be.
		{`"name": "x"`, `"name": ""`, 2, "no name"},
		{`"base_path": "/a"`, `"base_path": "a"`, 3, "bad base path"},
		{`"base_path": "/a",`, `"base_path": "/a", "router": "x",`, 3, "unknown router"},
		{`"base_path": "/a",`, `"base_path": "/a", "unknown": "x",`, 3, "unknown word"},
		{`"name": "x",`, `"name": "x", "extends": "nobody",`, 2, `unknown profile "nobody"`},
		{`{"header": "X-Server"}`, `{"method": "GET"}`, 6, "recognize, sign 2"},
		{`"path": "/me"`, `"path": "me"`, 8, "session: it needs a path"},
		{`{"path": "/me", "user": "/id"}`, "[{\"path\": \"/me\", \"user\": \"/id\"},\n{\"path\": \"/me\"}]", 9, "session: it needs a path"},
		{`{"path": "/me", "user": "/id"}`, "[{\"path\": \"/me\", \"user\": \"/id\"},\nnull]", 9, "session: it is null"},
		{`"default": [`, `"defaults": [`, 10, `needs a list "default"`},
		{`"outcome": "pending"`, `"outcome": "maybe"`, 16, `outcomes, list "other", rule 1: unknown outcome "maybe"`},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "status": "6xx"}`, 13, `outcomes, list "default", rule 2: bad status`},
		{`"class": "sign-in"`, `"class": "login"`, 23, `route 1 (POST /login): unknown class "login": use one of account, admin,`},
		{`"path": "/logout"`, `"path": "logout"`, 24, "route 2 ( logout): the path must start with /"},
		{`"path": "/logout"`, `"path": "/login", "method": "POST"`, 24, ""},
		{`"outcome": "other"`, `"outcome": "othr"`, 23, `outcomes has no list "othr"`},
		{`{"query:a": "b"}`, `{"/a": "b"}`, 24, "a condition is on the request"},
		{`"routes": [`, "\"routes\": [\nnull,", 23, "route 1 is null"},
	} {
		text := strings.Replace(lined, c.from, c.to, 1)
		_, err := profile.Parse([]byte(text))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.to, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("line %d: ", c.line)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant line %d, %s", c.to, err, c.line, c.want)
		}
	}
}

// TestAnExtendedCONNECTIsAGET: Caddy asks the server behind with GET, which may delete something.
func TestAnExtendedCONNECTIsAGET(t *testing.T) {
	for _, c := range []struct {
		r    http.Request
		want string
	}{
		{http.Request{Method: "CONNECT", ProtoMajor: 3, Proto: "websocket"}, "GET"},
		{http.Request{Method: "CONNECT", ProtoMajor: 2, Proto: "HTTP/2.0", Header: http.Header{":protocol": {"websocket"}}}, "GET"},
		{http.Request{Method: "CONNECT", ProtoMajor: 2, Proto: "HTTP/2.0", Header: http.Header{}}, "CONNECT"},
		{http.Request{Method: "CONNECT", ProtoMajor: 1, Proto: "HTTP/1.1", Header: http.Header{":protocol": {"websocket"}}}, "CONNECT"},
		{http.Request{Method: "POST", ProtoMajor: 3, Proto: "websocket"}, "POST"},
	} {
		if got := profile.MethodOf(&c.r); got != c.want {
			t.Errorf("%+v is %s, want %s", c.r, got, c.want)
		}
	}
}
