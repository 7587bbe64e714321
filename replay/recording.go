package replay

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// File is one recording: the exchanges of one client session or of one topic, in
// the order in which they happened.
type File struct {
	// Name without folder and extension.
	Name string
	// Exchanges as recorded, none left out.
	Exchanges []*Exchange
}

// Exchange is one line of a recording.
type Exchange struct {
	Server   string        `json:"server"`
	Flow     string        `json:"flow"`
	Seq      int           `json:"seq"`
	Request  Request       `json:"request"`
	Response Response      `json:"response"`
	Truth    Truth         `json:"truth"`
	Plugin   []PluginEntry `json:"plugin_entries"`
}

// Request as the client sent it.
type Request struct {
	Method string `json:"method"`
	// Path is the raw request target with its query.
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
	// BodyB64 is the body where it is no text; empty otherwise.
	BodyB64 []byte `json:"body_b64"`
}

// Response as the auth server gave it.
type Response struct {
	Status  int                 `json:"status"`
	Headers map[string][]string `json:"headers"`
	// Body is the decoded text.
	Body string `json:"body"`
	// BodyB64 is what was on the wire where that differs from Body.
	BodyB64 []byte `json:"body_b64"`
}

// Truth is what really happened. Recordings of Better Auth have the session
// fields, all others have Event; what a recording does not say is empty.
type Truth struct {
	// Event is "none" for an exchange that is not worth an entry.
	Event   string `json:"event"`
	Outcome string `json:"outcome"`
	// User whom the exchange proves to be acting; "" if nobody is proved.
	User   string `json:"user"`
	Target string `json:"target"`
	// Also are further events in the same exchange.
	Also []string `json:"also"`
	// Indistinguishable: the server hides the outcome from everybody.
	Indistinguishable bool `json:"indistinguishable"`

	// What the auth server's database said of the request's credential before the
	// request, and whether the credential still worked afterwards.
	RequestSessionUserID         string `json:"requestSessionUserId"`
	RequestSessionRole           string `json:"requestSessionRole"`
	RequestSessionImpersonatedBy string `json:"requestSessionImpersonatedBy"`
	RequestSessionStillValid     *bool  `json:"requestSessionStillValidAfter"`
	// What it said of the session that the answer set.
	ResponseSessionUserID string `json:"responseSessionUserId"`
}

// PluginEntry is what the plugin wrote for the exchange, right or wrong.
type PluginEntry struct {
	UserID string `json:"userId"`
	Action string `json:"action"`
	Status string `json:"status"`
}

// ID names the exchange within its recording.
func (x *Exchange) ID() string { return fmt.Sprintf("%s#%d", x.Flow, x.Seq) }

// Wire is the body as it was sent.
func (r *Request) Wire() []byte { return wire(r.Body, r.BodyB64) }

// Wire is the body as it was sent.
func (r *Response) Wire() []byte { return wire(r.Body, r.BodyB64) }

func wire(text string, raw []byte) []byte {
	if len(raw) > 0 {
		return raw
	}
	return []byte(text)
}

// Labelled says whether the recording says what really happened.
func (x *Exchange) Labelled() bool { return x.Truth.Event != "" || x.Truth.Outcome != "" }

// Wanted says whether the exchange is worth an entry.
func (x *Exchange) Wanted() bool {
	if x.Truth.Event != "" {
		return x.Truth.Event != "none"
	}
	return x.Truth.Outcome != "read"
}

// Place says who answers a request.
type Place uint8

// The places.
const (
	// Inside: the auth server answers, under the audit log's eyes.
	Inside Place = iota
	// Outside of the base path: nothing is recorded.
	Outside
	// OwnAPI: the audit log's own endpoints, which never reach the auth server.
	OwnAPI
)

// Place of the exchange under a profile's base path, read in the plainest way.
func (x *Exchange) Place(p *profile.Profile) Place {
	path, _, _ := strings.Cut(x.Request.Path, "?")
	rest, ok := strings.CutPrefix(path, p.Base())
	switch {
	case !ok || rest != "" && rest[0] != '/':
		return Outside
	case rest == "/audit-log" || strings.HasPrefix(rest, "/audit-log/"):
		return OwnAPI
	}
	return Inside
}

// MaxLine is how long an exchange in a recording may be, in bytes.
const MaxLine = 1 << 30

// Read reads one recording, or all *.jsonl files in a folder and below.
func Read(path string) ([]*File, error) {
	var files []*File
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".jsonl" {
			return err
		}
		f, err := readFile(name)
		files = append(files, f)
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s holds no .jsonl recording", path)
	}
	return files, err
}

func readFile(name string) (*File, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	f := &File{Name: strings.TrimSuffix(filepath.Base(name), ".jsonl")}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, MaxLine)
	n := 1
	for ; lines.Scan(); n++ {
		x := new(Exchange)
		if err := json.Unmarshal(lines.Bytes(), x); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, n, err)
		}
		f.Exchanges = append(f.Exchanges, x)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s, line %d: %w", name, n, err)
	}
	return f, nil
}
