package recorder

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestMetadataIsWrittenAsEncodingJSONWouldDoIt: every field, whatever stands in it.
func TestMetadataIsWrittenAsEncodingJSONWouldDoIt(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "plain", `"\`, "<b>&", "\x00\x7f\u2028", "\xff\xfe", "é", "a\tb"}))
	rapid.Check(t, func(t *rapid.T) {
		var m metadata
		v := reflect.ValueOf(&m).Elem()
		for i := range v.NumField() {
			if rapid.Bool().Draw(t, "empty") {
				continue
			}
			switch f := v.Field(i); f.Interface().(type) {
			case string:
				f.SetString(text.Draw(t, "text"))
			case int:
				f.SetInt(int64(rapid.Int().Draw(t, "int")))
			case float64:
				f.SetFloat(float64(rapid.Int64Range(0, 1e15).Draw(t, "microseconds")) / 1000)
			case bool:
				f.SetBool(true)
			case json.RawMessage:
				f.SetBytes([]byte(rapid.SampledFrom([]string{"", `{"a":"b"}`, "[1,2]", "{", `{"a":"<&>"}`, "[\"\u2028\"]", `["…"]`, `"\u2028"`, "null"}).Draw(t, "raw")))
			case *failure:
				f.Set(reflect.ValueOf(&failure{text.Draw(t, "status"), text.Draw(t, "code"), text.Draw(t, "message")}))
			default:
				t.Fatalf("a field of a type that this test does not know: %s", v.Type().Field(i).Name)
			}
		}
		want, wantErr := json.Marshal(m)
		got, err := m.json()
		if (err == nil) != (wantErr == nil) || err == nil && string(got) != string(want) {
			t.Fatalf("%s, %v; encoding/json writes %s, %v", got, err, want, wantErr)
		}
	})
}
