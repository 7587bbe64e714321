package recorder

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

var errNoJSON = errors.New("a request's body was redacted to what is no JSON")

// metadata is what the recorder writes (DESIGN section 4), in this order.
type metadata struct {
	RequestID      string          `json:"requestId,omitempty"`
	Method         string          `json:"method"`
	StatusCode     int             `json:"statusCode,omitempty"`
	UpstreamStatus int             `json:"upstreamStatus,omitempty"` // the auth server's own, where the client was shown another
	DurationMs     float64         `json:"durationMs,omitempty"`
	Class          string          `json:"class"`
	Error          *failure        `json:"error,omitempty"`
	Identifier     string          `json:"identifier,omitempty"`
	IdentifierHash string          `json:"identifierHash,omitempty"`
	TargetUserID   string          `json:"targetUserId,omitempty"`
	ImpersonatedBy string          `json:"impersonatedBy,omitempty"`
	RequestBody    json.RawMessage `json:"requestBody,omitempty"`
	Path           string          `json:"path,omitempty"`
	Identity       string          `json:"identity,omitempty"`         // "unavailable": the auth server could not be asked
	SessionHash    string          `json:"sessionHash,omitempty"`      // keyed hash of the session's token, to join entries by: then, and where it is captured
	ProbableUser   string          `json:"probableUserHash,omitempty"` // keyed hash of whom the session was seen to be, then: nobody has verified it
	BodyUnparsed   string          `json:"bodyUnparsed,omitempty"`     // why target or identifier could not be read
	Aborted        bool            `json:"aborted,omitempty"`
	Withheld       bool            `json:"withheld,omitempty"`    // the client got 503 instead of the answer
	Interrupted    bool            `json:"interrupted,omitempty"` // the process ended before the answer
	Source         string          `json:"source"`
}

// failure is metadata.error: the status by name as the plugin writes it, and the
// server's own code and message.
type failure struct {
	Status  string `json:"status,omitempty"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

// usualMetadata is for how many bytes there is room at first.
const usualMetadata = 208

// json writes it as json.Marshal does, which costs four times as much and is the same for
// every entry. RequestBody must be compact; an error says that it is no JSON.
func (m *metadata) json() (json.RawMessage, error) {
	b := append(make([]byte, 0, usualMetadata+len(m.RequestBody)), '{')
	b = appendText(b, "requestId", m.RequestID)
	b = appendAlways(b, "method", m.Method)
	b = appendNumber(b, "statusCode", m.StatusCode)
	b = appendNumber(b, "upstreamStatus", m.UpstreamStatus)
	if m.DurationMs != 0 {
		b = strconv.AppendFloat(appendName(b, "durationMs"), m.DurationMs, 'f', -1, 64)
	}
	b = appendAlways(b, "class", m.Class)
	if m.Error != nil {
		b = m.Error.appendTo(appendName(b, "error"))
	}
	b = appendText(b, "identifier", m.Identifier)
	b = appendText(b, "identifierHash", m.IdentifierHash)
	b = appendText(b, "targetUserId", m.TargetUserID)
	b = appendText(b, "impersonatedBy", m.ImpersonatedBy)
	if len(m.RequestBody) > 0 {
		if !profile.Readable(m.RequestBody) {
			return nil, errNoJSON
		}
		b = appendBody(appendName(b, "requestBody"), m.RequestBody)
	}
	b = appendText(b, "path", m.Path)
	b = appendText(b, "identity", m.Identity)
	b = appendText(b, "sessionHash", m.SessionHash)
	b = appendText(b, "probableUserHash", m.ProbableUser)
	b = appendText(b, "bodyUnparsed", m.BodyUnparsed)
	b = appendTrue(b, "aborted", m.Aborted)
	b = appendTrue(b, "withheld", m.Withheld)
	b = appendTrue(b, "interrupted", m.Interrupted)
	b = appendAlways(b, "source", m.Source)
	return append(b, '}'), nil
}

// appendBody appends a value that is valid and compact, and escapes what encoding/json
// escapes: hooks find what they have not changed by its bytes.
func appendBody(b []byte, body json.RawMessage) []byte {
	for _, c := range escapedBytes {
		if bytes.Contains(body, c) {
			escaped := bytes.NewBuffer(b)
			json.HTMLEscape(escaped, body)
			return escaped.Bytes()
		}
	}
	return append(b, body...)
}

// escapedBytes are "<", ">", "&", and the beginning of U+2028 and U+2029.
var escapedBytes = [...][]byte{{'<'}, {'>'}, {'&'}, {0xe2, 0x80}}

func (f *failure) appendTo(b []byte) []byte {
	b = append(b, '{')
	b = appendText(b, "status", f.Status)
	b = appendText(b, "code", f.Code)
	b = appendAlways(b, "message", f.Message)
	return append(b, '}')
}

// appendName begins a member; name needs no escaping.
func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(append(append(b, '"'), name...), '"', ':')
}

// appendText appends a member unless its value is empty.
func appendText(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendAlways(b, name, value)
}

func appendAlways(b []byte, name, value string) []byte {
	b = appendName(b, name)
	for i := range len(value) {
		if !plainBytes[value[i]] {
			quoted, err := json.Marshal(value)
			if err != nil {
				quoted = []byte(`""`) // cannot happen: a string
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), value...), '"')
}

// plainBytes stand for themselves in a string as encoding/json writes it.
var plainBytes = func() (is [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		is[c] = !strings.ContainsRune(`"\<>&`, c)
	}
	return is
}()

func appendNumber(b []byte, name string, n int) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(appendName(b, name), int64(n), 10)
}

func appendTrue(b []byte, name string, is bool) []byte {
	if !is {
		return b
	}
	return append(appendName(b, name), "true"...)
}
