package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"slices"
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

// holds says whether a route's conditions hold; early ones only if not late.
func (r *Route) holds(x *Exchange, late bool) bool {
	for i := range r.when {
		c := &r.when[i]
		if (late || !c.late) && !c.values.accept(c.source.Value(x)) {
			return false
		}
	}
	return true
}

// sameConditions says whether two routes are for the same requests as far as their
// conditions go.
func (r *Route) sameConditions(other *Route) bool {
	return slices.EqualFunc(r.when, other.when, func(a, b condition) bool {
		return a.source.String() == b.source.String() && slices.Equal(a.values, b.values)
	})
}

// maxParts bounds the parts of a multipart body that are looked at.
const maxParts = 64

// multipartValue is a short field of a multipart form, as far as its beginning was
// seen.
func multipartValue(contentType string, body []byte, name string) string {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return ""
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for range maxParts {
		part, err := parts.NextRawPart()
		if err != nil {
			return ""
		}
		if part.FormName() == name && part.FileName() == "" {
			b, err := io.ReadAll(io.LimitReader(part, maxValue+1))
			if err != nil || len(b) > maxValue {
				return ""
			}
			return string(b)
		}
	}
	return ""
}
