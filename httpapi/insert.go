package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// bodyRoom is how much longer than its metadata a body may be: white space, and
// the rest of the entry.
const bodyRoom = 448 << 10

// readBody reads a JSON body and answers for one that is none.
func (q *request) readBody() ([]byte, bool) {
	maxBody := int64(q.MaxMetadataBytes + bodyRoom)
	b, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		q.fail(http.StatusRequestEntityTooLarge, "PAYLOAD_TOO_LARGE", fmt.Sprintf("The body is longer than %d bytes", maxBody))
		return nil, false
	case err != nil:
		q.fail(http.StatusBadRequest, "BAD_REQUEST", "The body could not be read")
		return nil, false
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(b)) > 0 && !json.Valid(b) {
		q.fail(http.StatusBadRequest, "BAD_REQUEST", "Invalid JSON in request body")
		return nil, false
	}
	return b, true
}

// insert stores an entry that a user makes. Who, when and from where is decided
// here; only action, status, severity and metadata are the caller's.
func (q *request) insert() {
	body, ok := q.readBody()
	if !ok {
		return
	}
	v := gjson.ParseBytes(body)
	if !v.IsObject() {
		q.invalid("[body] Invalid input: expected object, received " + typeName(v))
		return
	}
	e, problems := q.parseInsert(v)
	if len(problems) > 0 {
		q.invalid(problems...)
		return
	}
	metadata := last(v, "metadata")
	if !q.checkMetadata(metadata) {
		return
	}
	e.Metadata = q.metadata(metadata.Raw)
	e.Sanitize()
	err := q.Writer.Write(storage.Fsync, e)
	q.Writer.Tell(q.Observer, err, &e)
	if err != nil {
		q.storeFailed(err, "Failed to insert audit log entry")
		return
	}
	q.answer(http.StatusOK, struct {
		Success bool `json:"success"`
	}{true})
}

func (q *request) parseInsert(v gjson.Result) (storage.Entry, []string) {
	e := storage.Entry{UserID: q.session.UserID, Status: storage.Success}
	if !q.WithoutAddress {
		e.IPAddress = q.ClientIP
	}
	if !q.WithoutAgent {
		e.UserAgent = q.Redactor.Text(storage.Clean(q.r.Header.Get("User-Agent"), storage.MaxUserAgent))
	}
	var problems []string
	e.Action, problems = q.parseAction(last(v, "action"), problems)
	if s := last(v, "status"); s.Exists() {
		if e.Status = storage.Status(s.Str); s.Type != gjson.String || e.Status != storage.Success && e.Status != storage.Failed {
			problems = append(problems, `[body.status] Invalid option: expected one of "success"|"failed"`)
		}
	}
	e.Severity = severity.Infer(severity.Event{Action: e.Action, Class: "custom", Failed: e.Status == storage.Failed})
	if s := last(v, "severity"); s.Exists() {
		level, err := severity.Parse(s.Str)
		if err != nil || s.Type != gjson.String {
			problems = append(problems, `[body.severity] Invalid option: expected one of "low"|"medium"|"high"|"critical"`)
		}
		e.Severity = level
	}
	if m := last(v, "metadata"); m.Exists() && !m.IsObject() {
		problems = append(problems, "[body.metadata] Invalid input: expected record, received "+typeName(m))
	}
	return e, problems
}

// parseAction refuses the names of captured actions, in any of their spellings:
// otherwise anybody who is signed in could forge "admin:ban-user".
func (q *request) parseAction(v gjson.Result, problems []string) (string, []string) {
	switch {
	case v.Type != gjson.String:
		return "", append(problems, "[body.action] Invalid input: expected string, received "+typeName(v))
	case v.Str == "":
		return "", append(problems, "[body.action] Too small: expected string to have >=1 characters")
	case len(v.Str) > storage.MaxAction:
		return "", append(problems, fmt.Sprintf("[body.action] Too big: expected string to have <=%d bytes", storage.MaxAction))
	case q.Profile.IsAction(v.Str), storage.IsOwnAction(v.Str):
		return "", append(problems, "[body.action] Reserved: this name is for captured requests; choose another, such as custom:"+v.Str)
	}
	return v.Str, problems
}

func (q *request) checkMetadata(m gjson.Result) bool {
	switch {
	case depth(m.Raw) > q.MaxMetadataDepth:
		q.fail(http.StatusBadRequest, "VALIDATION_ERROR", fmt.Sprintf("Metadata exceeds maximum depth of %d", q.MaxMetadataDepth))
	case compactSize(m.Raw, q.MaxMetadataBytes) > q.MaxMetadataBytes:
		q.fail(http.StatusBadRequest, "VALIDATION_ERROR", fmt.Sprintf("Metadata exceeds maximum size of %d bytes", q.MaxMetadataBytes))
	default:
		return true
	}
	return false
}

// metadata is what was inserted, redacted, and marked as inserted, with the administrator who acts
// as the user, if one does. It has no class of captured entries: whoever lists those shall not find
// what anybody who is signed in has made.
func (q *request) metadata(raw string) json.RawMessage {
	mark := `"source":"api"`
	if by := q.session.ImpersonatedBy; by != "" {
		if quoted, err := json.Marshal(by); err == nil { // it cannot fail: a string
			mark += `,"impersonatedBy":` + string(quoted)
		}
	}
	if raw == "" {
		return json.RawMessage("{" + mark + "}")
	}
	redacted, err := q.Redactor.JSON([]byte(raw))
	if err != nil || len(redacted) < 2 || redacted[0] != '{' {
		return json.RawMessage(fmt.Sprintf(`{%s,"metadataDropped":{"bytes":%d}}`, mark, len(raw)))
	}
	out := []byte("{" + mark)
	gjson.ParseBytes(redacted).ForEach(func(key, value gjson.Result) bool {
		posing := key.Str == "class" && value.Str != "custom" && profile.IsClass(value.Str)
		if key.Str != "source" && key.Str != "impersonatedBy" && !posing { // ours are the only ones, whichever a reader takes
			out = append(append(append(append(out, ','), key.Raw...), ':'), value.Raw...)
		}
		return true
	})
	return append(out, '}')
}

// last returns the last member of that name, as JavaScript does.
func last(v gjson.Result, name string) gjson.Result {
	var found gjson.Result
	v.ForEach(func(key, value gjson.Result) bool {
		if key.Str == name {
			found = value
		}
		return true
	})
	return found
}

// typeName is the word of the plugin's validator for what was received.
func typeName(v gjson.Result) string {
	switch {
	case !v.Exists():
		return "undefined"
	case v.IsArray():
		return "array"
	case v.IsObject():
		return "object"
	case v.Type == gjson.Null:
		return "null"
	case v.Type == gjson.Number:
		return "number"
	case v.Type == gjson.String:
		return "string"
	}
	return "boolean"
}

// depth counts how deep values are nested in objects and arrays, without
// recursion. As in the plugin an empty object or array is no level of its own.
func depth(raw string) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			if rest := strings.TrimLeft(raw[i+1:], " \t\r\n"); rest != "" && rest[0] != '}' && rest[0] != ']' {
				deepest = max(deepest, now)
			}
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// compactSize is the size without white space, which counts only near the limit.
func compactSize(raw string, limit int) int {
	if len(raw) <= limit {
		return len(raw)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(raw)); err != nil {
		return len(raw)
	}
	return b.Len()
}
