package plugintable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// row is one line of the table as its source gives it, by column: strings, numbers
// (int64, float64, json.Number), times, or what JSON holds.
type row map[string]any

// put sets a column. Names are compared without regard to case and underscores, for
// databases that prefer created_at.
func (r row) put(column string, value any) {
	r[strings.ReplaceAll(strings.ToLower(column), "_", "")] = value
}

// entry makes an entry of the row. A row without id, action or a time that can be true
// cannot be one. What the plugin's users may have written is marked as imported, and cannot
// pose as what this log says of itself, or has observed.
func (r row) entry() (storage.Entry, error) {
	e := storage.Entry{
		ID: r.text("id"), UserID: r.text("userid"), Action: r.text("action"), Status: storage.Status(r.text("status")),
		IPAddress: r.text("ipaddress"), UserAgent: r.text("useragent"), Metadata: metadata(r["metadata"]),
	}
	switch {
	case e.ID == "":
		return e, errors.New("it has no id")
	case len(e.ID) > storage.MaxID:
		return e, fmt.Errorf("its id is longer than %d bytes", storage.MaxID)
	case e.Action == "":
		return e, errors.New("it has no action")
	}
	var err error
	if e.CreatedAt, err = parseTime(r["createdat"]); err == nil {
		err = plausible(e.CreatedAt)
	}
	if err != nil {
		return e, fmt.Errorf("createdAt: %w", err)
	}
	if storage.IsOwnAction(e.Action) {
		e.Action = "imported:" + e.Action
	}
	if e.Severity, err = severity.Parse(r.text("severity")); err != nil {
		e.Severity = severity.Infer(severity.Event{Action: e.Action, Failed: e.Status == storage.Failed})
	}
	e.Sanitize()
	return e, nil
}

// text returns a column as text; "" for NULL. MongoDB's {"$oid": "..."} is its value.
func (r row) text(column string) string {
	v := r[column]
	if column == "id" && v == nil {
		v = r["id$"] // see fromJSON
	}
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	case map[string]any:
		if oid, ok := v["$oid"].(string); ok {
			return oid
		}
	}
	return fmt.Sprint(v)
}

// metadata returns the column as a JSON object that begins with the mark of an import. The plugin
// keeps JSON as text; what is no object is kept in a member "value".
func metadata(v any) json.RawMessage {
	if b, ok := v.([]byte); ok {
		v = string(b)
	}
	if s, ok := v.(string); ok {
		switch s = strings.TrimSpace(s); {
		case s == "":
			v = nil
		case json.Valid([]byte(s)):
			v = json.RawMessage(s)
		}
	}
	out := []byte(`{"source":"import"`)
	switch m, err := encoded(v); {
	case v == nil, err != nil: // numbers that JSON does not know; SQLite and JSON have none
	case m[0] == '{':
		out = appendMembers(out, m)
	default:
		out = append(append(out, `,"value":`...), m...)
	}
	return append(out, '}')
}

// encoded is a value in JSON, as it stands where it is JSON: encoding/json would write six bytes
// for each "<".
func encoded(v any) (json.RawMessage, error) {
	if m, ok := v.(json.RawMessage); ok {
		return m, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// appendMembers adds the members of an object. The plugin writes neither of those that say here
// where an entry comes from and what kind of event it is: who could insert entries has.
func appendMembers(out, object []byte) []byte {
	gjson.ParseBytes(object).ForEach(func(key, value gjson.Result) bool {
		name := key.Raw
		switch key.Str {
		case "source":
			name = `"importedSource"`
		case "class":
			name = `"importedClass"`
		}
		out = append(append(append(append(out, ','), name...), ':'), value.Raw...)
		return true
	})
	return out
}

// The sizes that tell the unit of a number apart: seconds, milliseconds,
// microseconds, nanoseconds of any time between 1973 and 5138.
const (
	leastMillis = 1e11
	leastMicros = 1e14
	leastNanos  = 1e17
)

// ahead is how far another machine's clock may be ahead of this one's.
const ahead = 24 * time.Hour

// plausible refuses the times of nothing, such as 0001-01-01, which .NET and Go write for none, and
// those of the future: such an entry would be the newest for as long.
func plausible(t time.Time) error {
	switch {
	case t.Before(time.Unix(0, 0)):
		return fmt.Errorf("%s is before 1970", t.UTC().Format(time.RFC3339))
	case time.Until(t) > ahead:
		return fmt.Errorf("%s is in the future", t.UTC().Format(time.RFC3339))
	}
	return nil
}

var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07",
	"2006-01-02 15:04:05.999999999 -0700 MST", "2006-01-02 15:04:05.999999999", "2006-01-02",
}

// parseTime reads a time: ISO 8601, with UTC where no zone is named, or a number of
// seconds since 1970, or of thousandths, millionths or billionths of them.
func parseTime(v any) (time.Time, error) {
	switch v := v.(type) {
	case nil:
		return time.Time{}, errors.New("it is missing")
	case time.Time:
		return v, nil
	case int64:
		return unix(float64(v)), nil
	case float64:
		return unix(v), nil
	case json.Number:
		return parseTime(string(v))
	case []byte:
		return parseTime(string(v))
	case map[string]any: // MongoDB's extended JSON
		for _, key := range []string{"$date", "$numberLong"} {
			if inner, ok := v[key]; ok {
				return parseTime(inner)
			}
		}
	case string:
		return parseTimeText(strings.TrimSpace(v))
	}
	return time.Time{}, fmt.Errorf("%v is no time", v)
}

func parseTimeText(s string) (time.Time, error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
		return unix(n), nil
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: it must be ISO 8601, or seconds or milliseconds since 1970", storage.Clean(s, 64))
}

func unix(n float64) time.Time {
	switch size := math.Abs(n); {
	case size < leastMillis:
		return time.UnixMilli(int64(math.Round(n * 1000)))
	case size < leastMicros:
		return time.UnixMilli(int64(n))
	case size < leastNanos:
		return time.UnixMicro(int64(n))
	}
	return time.Unix(0, int64(n)) // beyond what an int64 holds: a time that is refused
}
