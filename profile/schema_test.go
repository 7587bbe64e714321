package profile_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(profile.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func TestEveryBuiltinProfileFitsTheSchema(t *testing.T) {
	s := compiledSchema(t)
	files, err := filepath.Glob("builtin/*.json")
	if err != nil || len(files) != len(profile.Names()) {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, b); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if err := validate(t, s, []byte(lined)); err != nil {
		t.Error(err)
	}
}

// TestTheSchemaNamesTheMembersOfTheFormat compares the schema with the structs that
// files are read into.
func TestTheSchemaNamesTheMembersOfTheFormat(t *testing.T) {
	var s struct {
		Properties map[string]described
		Defs       map[string]struct{ Properties map[string]described } `json:"$defs"`
	}
	if err := json.Unmarshal(profile.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		in   map[string]described
		of   reflect.Type
	}{
		{"the profile", s.Properties, reflect.TypeFor[profile.Profile]()},
		{"credentials", s.Defs["credentials"].Properties, reflect.TypeFor[profile.Credentials]()},
		{"session", s.Defs["session"].Properties, reflect.TypeFor[profile.Session]()},
		{"sign", s.Defs["sign"].Properties, reflect.TypeFor[profile.Sign]()},
		{"route", s.Defs["route"].Properties, reflect.TypeFor[profile.Route]()},
		{"rule", s.Defs["rule"].Properties, reflect.TypeFor[profile.Rule]()},
		{"json_condition", s.Defs["json_condition"].Properties, reflect.TypeFor[profile.JSONCondition]()},
	} {
		var want []string
		for i := range c.of.NumField() {
			if name, _, _ := strings.Cut(c.of.Field(i).Tag.Get("json"), ","); name != "" {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		if got := slices.Sorted(maps.Keys(c.in)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, the struct %v", c.name, got, want)
		}
		for name, p := range c.in {
			if p.Description == "" && p.Ref == "" {
				t.Errorf("%s: %s has no description", c.name, name)
			}
		}
	}
}

// described is what the test looks at of a member.
type described struct {
	Description string
	Ref         string `json:"$ref"`
}

// TestTheSchemaRefusesWhatParseRefuses: an editor that knows the schema shows what
// Parse would say. What needs a look at other parts of the file only Parse can see.
func TestTheSchemaRefusesWhatParseRefuses(t *testing.T) {
	s := compiledSchema(t)
	for _, c := range []struct {
		from, to string
		good     bool
	}{
		{`"name": "x"`, `"name": "x", "title": "X", "sources": ["y"], "router": "whatwg", "unknown": "ignore"`, true},
		{`"name": "x"`, `"name": ""`, false},
		{`"name": "x",`, ``, false},
		{`"name": "x"`, `"name": "x", "router": "express"`, false},
		{`"name": "x"`, `"name": "x", "unknown": "drop"`, false},
		{`"base_path": "/a",`, ``, false},
		{`"base_path": "/a"`, `"base_path": "a"`, false},
		{`"base_path": "/a"`, `"base_path": "/a*"`, false},
		{`"default"`, `"defaults"`, false},
		{`{"sets_cookie": "x"}`, `{"method": "GET", "path": "/x"}`, false},
		{`{"sets_cookie": "x"}`, `{"status": "302", "path": "/x", "weak": true}`, true},
		{`"user": "/id"}`, `"user": ["/id", "header:X"], "role": "/role"}`, true},
		{`"user": "/id"}`, `"user": "cookie:x"}`, false},
		{`{"path": "/me", "user": "/id"}`, `[{"path": "/me", "user": "/id"}, {"path": "/:realm/me", "user": "header:X#/sub", "method": "POST"}]`, true},
		{`"path": "/me"`, `"path": "/me", "method": "post"`, false},
		{`{"outcome": "failed"}`, `{"outcome": "none", "status": "302, 4xx"}`, true},
		{`{"outcome": "failed"}`, `{"outcome": "unknown"}`, true},
		{`{"outcome": "failed"}`, `{"outcome": "perhaps"}`, false},
		{`{"outcome": "failed"}`, `{"status": "4xx"}`, false},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "status": "4x"}`, false},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "in": "/url"}`, false},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "in": "/url", "location": "error"}`, true},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "location_path": "login"}`, false},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "json": {"pointer": "/a", "equals": null}}`, true},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "json": {"pointer": "a"}}`, false},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "json": {"pointer": "/a", "equals": 1, "empty": true}}`, false},
		{`{"outcome": "failed"}`, `{"outcome": "failed", "json": {"pointer": "/a", "filled": true, "empty": true}}`, false},
		{`"class": "sign-in"`, `"class": "login"`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "severity": "loud"`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "detached": true, "flow": ["/device_code"]`, true},
		{`"class": "sign-in"`, `"class": "sign-in", "timing": "now"`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "record": "some"`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "unlink": "me"`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "words": ["login"]`, false},
		{`"path": "/login"`, `"words": ["/login", "signin"]`, true},
		{`"path": "/login"`, `"words": ["auth/login/"]`, true},
		{`"path": "/login"`, `"words": ["Log-In"]`, false},
		{`"path": "/login"`, `"words": ["/"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "identifier": ["email", "request:/a/b", "query:x", "sent-header:X", "bearer#/sub"]`, true},
		{`"class": "sign-in"`, `"class": "sign-in", "identifier": ["/email"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "identifier": ["flow"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "actor": ["/id", "flow", "header:Location?code"]`, true},
		{`"class": "sign-in"`, `"class": "sign-in", "actor": ["request:/id"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "user": [["path:realm", "/id_token#/sub"]]`, true},
		{`"class": "sign-in"`, `"class": "sign-in", "user": ["head:X"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "user": ["/x#sub"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "user": ["request:email"]`, false},
		{`"class": "sign-in"`, `"class": "sign-in", "user": [[]]`, false},
		{`{"query:a": "b"}`, `{"request:/a": ["b", "*"], "sent-cookie:x*": ""}`, true},
		{`{"query:a": "b"}`, `{"header:a": "b"}`, false},
		{`{"query:a": "b"}`, `{"query:a": []}`, false},
	} {
		text := []byte(strings.Replace(lined, c.from, c.to, 1))
		_, parsed := profile.Parse(text)
		valid := validate(t, s, text)
		if (parsed == nil) != c.good || (valid == nil) != c.good {
			t.Errorf("%s: good is %v\nParse says %v\nthe schema says %v", c.to, c.good, parsed, valid)
		}
	}
}
