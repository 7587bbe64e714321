package profile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
)

// Values are what a condition accepts. In a file: one text or a list of them. "*" is
// any value that is not empty, "" none.
type Values []string

// UnmarshalJSON implements json.Unmarshaler.
func (v *Values) UnmarshalJSON(b []byte) error {
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*v = Values{one}
		return nil
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil || len(list) == 0 {
		return errors.New("a condition takes a text, or a list of texts")
	}
	*v = list
	return nil
}

func (v Values) accept(s string) bool {
	return slices.Contains(v, s) || s != "" && slices.Contains(v, "*")
}

// condition is one of Route.When.
type condition struct {
	source Source
	values Values
	// late is true when it can only be decided with more than method and target.
	late bool
}

// parseConditions reads Route.When, in a stable order.
func parseConditions(when map[string]Values) ([]condition, error) {
	var out []condition
	for text, values := range when {
		s, err := NewSource(text)
		if err != nil {
			return nil, err
		}
		if !s.OfRequest() {
			return nil, fmt.Errorf("when %q: a condition is on the request, such as query:NAME or request:/NAME", text)
		}
		out = append(out, condition{source: s, values: values, late: !s.has(inQuery) && !s.has(inPath)})
	}
	slices.SortFunc(out, func(a, b condition) int { return bytes.Compare([]byte(a.source.String()), []byte(b.source.String())) })
	return out, nil
}

// holds says whether the condition is true of a request in every way in which servers
// may read it, in none, or in some.
func (c *condition) holds(x *Exchange) verdict {
	r := c.source.places[0].readings(x)
	if len(r.values) == 0 {
		r.values = append(r.values, "")
	}
	accepted := 0
	for _, v := range r.values {
		if c.values.accept(v) {
			accepted++
		}
	}
	switch {
	case r.whole && accepted == len(r.values):
		return yes
	case r.whole && accepted == 0:
		return no
	}
	return nobodyKnows
}

// holds says whether a route's conditions hold; early ones only if not late.
func (r *Route) holds(x *Exchange, late bool) verdict {
	all := yes
	for i := range r.when {
		c := &r.when[i]
		if c.late && !late {
			continue
		}
		switch c.holds(x) {
		case no:
			return no
		case nobodyKnows:
			all = nobodyKnows
		case yes:
		}
	}
	return all
}

// pick returns the first route that fits. Where nobody knows whether one fits, it is
// the one of those that may be it by which least would be missed, and sure is false:
// what a request may be taken for is nothing that its client should choose.
func pick(routes []*Route, fits func(i int, r *Route) verdict) (found *Route, sure bool) {
	sure = true
	for i, r := range routes {
		switch fits(i, r) {
		case no:
		case yes:
			if found == nil || r.outweighs(found) >= 0 {
				found = r
			}
			return found, sure
		case nobodyKnows:
			if sure = false; found == nil || r.outweighs(found) > 0 {
				found = r
			}
		}
	}
	return found, sure
}

// outweighs compares routes by how much they would record, and by how severe it is if it
// succeeds.
func (r *Route) outweighs(other *Route) int {
	return cmp.Or(cmp.Compare(r.weight(), other.weight()), cmp.Compare(r.level(), other.level()))
}

func (r *Route) level() severity.Level {
	if r.Severity != nil {
		return *r.Severity
	}
	return severity.Infer(severity.Event{Action: r.action, Class: r.Class})
}

// weight orders routes by how much of an event they would record.
func (r *Route) weight() int {
	w := 0
	switch r.Record {
	case Never:
	case Failures:
		w = 2
	case Checks:
		w = 4
	case Always:
		w = 6
	}
	if r.Timing == Before {
		w++
	}
	return w
}

// sameConditions says whether two routes are for the same requests as far as their
// conditions go.
func (r *Route) sameConditions(other *Route) bool {
	return slices.EqualFunc(r.when, other.when, func(a, b condition) bool {
		return a.source.String() == b.source.String() && slices.Equal(a.values, b.values)
	})
}
