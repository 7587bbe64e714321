package profile

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// located is an error with the place in a profile's file that it is about.
type located struct {
	// path leads there: names of members and numbers of elements, from the top.
	path []string
	err  error
}

// at says where in the file an error belongs. Steps are names and numbers.
func at(err error, steps ...any) error {
	path := make([]string, len(steps))
	for i, step := range steps {
		path[i] = fmt.Sprint(step)
	}
	return &located{path: path, err: err}
}

func (l *located) Error() string { return l.err.Error() }
func (l *located) Unwrap() error { return l.err }

// line is the line of the error's place in the file. What the file does not have,
// because it inherits it or leaves it out, counts as standing where the next larger
// part of it begins.
func (l *located) line(file []byte) int {
	where, start := gjson.ParseBytes(file), 0
	for _, step := range l.path {
		next, ok := below(where, step)
		if !ok {
			break
		}
		where, start = next, next.Index
	}
	return lineAt(file, start)
}

// below goes one step down in a document.
func below(v gjson.Result, step string) (found gjson.Result, ok bool) {
	n := 0
	v.ForEach(func(key, value gjson.Result) bool {
		if v.IsArray() && strconv.Itoa(n) == step || v.IsObject() && key.Str == step {
			found, ok = value, true // of members with one name the last counts
		}
		n++
		return true
	})
	return found, ok
}

// lineAt is the line of an offset, the first is 1.
func lineAt(file []byte, offset int) int {
	return 1 + bytes.Count(file[:max(0, min(offset, len(file)))], []byte("\n"))
}

// withLine names the profile, and the line if the error knows its place.
func withLine(name string, file []byte, err error) error {
	where := "profile"
	if name != "" {
		where += fmt.Sprintf(" %q", name)
	}
	if l, ok := errors.AsType[*located](err); ok {
		return fmt.Errorf("%s, line %d: %w", where, l.line(file), err)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// decode reads the file's JSON, and says of what does not fit the format where it
// stands and what would fit.
func (p *Profile) decode(file []byte) error {
	var whole json.RawMessage
	if err := json.Unmarshal(file, &whole); err != nil {
		return fmt.Errorf("profile, line %d: %w", syntaxLine(file, err), err)
	}
	d := json.NewDecoder(bytes.NewReader(file))
	d.DisallowUnknownFields()
	err := d.Decode(p)
	if err == nil {
		return nil
	}
	if m := findMisfit(gjson.ParseBytes(file), reflect.TypeFor[Profile](), ""); m != nil {
		return fmt.Errorf("profile, line %d: %w", lineAt(file, m.offset), m)
	}
	return fmt.Errorf("profile: %w", err)
}

// syntaxLine is the line of an error of the JSON itself.
func syntaxLine(file []byte, err error) int {
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return lineAt(file, int(s.Offset)-1) // Offset is behind the byte that is wrong
	}
	return lineAt(file, len(file))
}

// misfit is a value that the format does not know.
type misfit struct {
	offset  int
	pointer string
	problem string
}

func (m *misfit) Error() string {
	if m.pointer == "" {
		return m.problem
	}
	return m.problem + " (at " + m.pointer + ")"
}

// findMisfit finds the innermost value that a type does not take; nil if it takes
// all.
func findMisfit(v gjson.Result, t reflect.Type, pointer string) *misfit {
	wrong := func(problem string) *misfit { return &misfit{offset: v.Index, pointer: pointer, problem: problem} }
	if t == reflect.TypeFor[Sessions]() {
		if t = reflect.TypeFor[Session](); v.IsArray() {
			t = reflect.TypeFor[[]Session]()
		}
	}
	if v.Type == gjson.Null { // encoding/json takes it for nothing given
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reads := reflect.PointerTo(t); reads.Implements(reflect.TypeFor[json.Unmarshaler]()) || reads.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		if err := json.Unmarshal([]byte(v.Raw), reflect.New(t).Interface()); err != nil {
			return wrong(err.Error())
		}
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		return misfitInStruct(v, t, pointer, wrong)
	case reflect.Map, reflect.Slice:
		return misfitInList(v, t, pointer, wrong)
	case reflect.Bool:
		if v.Type != gjson.True && v.Type != gjson.False {
			return wrong("it must be true or false")
		}
	default:
		if v.Type != gjson.String {
			return wrong("it must be a text in quotes")
		}
	}
	return nil
}

func misfitInStruct(v gjson.Result, t reflect.Type, pointer string, wrong func(string) *misfit) (found *misfit) {
	if !v.IsObject() {
		return wrong("it must be an object: {...}")
	}
	fields := members(t)
	v.ForEach(func(key, value gjson.Result) bool {
		for name, field := range fields {
			if strings.EqualFold(name, key.Str) {
				found = findMisfit(value, field, pointer+"/"+key.Str)
				return found == nil
			}
		}
		names := make([]string, 0, len(fields))
		for name := range fields {
			names = append(names, name)
		}
		slices.Sort(names)
		found = &misfit{offset: key.Index, pointer: pointer, problem: fmt.Sprintf("unknown field %q: use %s", key.Str, strings.Join(names, ", "))}
		return false
	})
	return found
}

func misfitInList(v gjson.Result, t reflect.Type, pointer string, wrong func(string) *misfit) (found *misfit) {
	switch {
	case t.Kind() == reflect.Map && !v.IsObject():
		return wrong("it must be an object: {...}")
	case t.Kind() == reflect.Slice && !v.IsArray():
		return wrong("it must be a list: [...]")
	}
	n := -1
	v.ForEach(func(key, value gjson.Result) bool {
		n++
		step := strconv.Itoa(n)
		if v.IsObject() {
			step = key.Str
		}
		found = findMisfit(value, t.Elem(), pointer+"/"+step)
		return found == nil
	})
	return found
}

// members are the names in the file of a struct's fields, and their types.
func members(t reflect.Type) map[string]reflect.Type {
	out := make(map[string]reflect.Type)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out[name] = t.Field(i).Type
		}
	}
	return out
}
