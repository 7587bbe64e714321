package tap

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// File keeps exchanges in a file, one a line. It is safe for concurrent use.
type File struct {
	scrubber *Scrubber
	server   string
	path     string

	// mu protects the fields below.
	mu   sync.Mutex
	file *os.File
	n    int
	err  error // of the first line that could not be written
}

// line is an exchange in the file, see testdata/traffic/README.md.
type line struct {
	Server   string   `json:"server"`
	Flow     string   `json:"flow"`
	Seq      int      `json:"seq"`
	Request  message  `json:"request"`
	Response message  `json:"response"`
	Truth    struct{} `json:"truth"` // to be filled in
}

type message struct {
	Method  string              `json:"method,omitempty"`
	Path    string              `json:"path,omitempty"`
	Status  int                 `json:"status,omitempty"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
	BodyB64 []byte              `json:"body_b64,omitempty"`
}

// Create makes a new file for the exchanges with a server. What is there already is
// not touched.
func Create(path, server string, s *Scrubber) (*File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s is there already: name another file, or remove it first", path)
	}
	if err != nil {
		return nil, err
	}
	return &File{scrubber: s, server: server, path: path, file: file}, nil
}

// Add writes an exchange without its secrets.
func (f *File) Add(x *replay.Exchange) {
	f.scrubber.Scrub(x)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return // it came too late
	}
	f.n++
	x.Seq = f.n
	b, err := f.encode(x)
	if err == nil {
		_, err = f.file.Write(b)
	}
	if f.err == nil {
		f.err = err
	}
}

// encode is an exchange as a line.
func (f *File) encode(x *replay.Exchange) ([]byte, error) {
	l := line{
		Server: f.server, Flow: "recording", Seq: x.Seq,
		Request:  message{Method: x.Request.Method, Path: x.Request.Path, Headers: x.Request.Headers, Body: x.Request.Body},
		Response: message{Status: x.Response.Status, Headers: x.Response.Headers, Body: x.Response.Body},
	}
	l.Request.BodyB64 = fit(l.Request.Headers, l.Request.Body)
	l.Response.BodyB64 = fit(l.Response.Headers, l.Response.Body)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(l)
	return b.Bytes(), err
}

// Len is how many exchanges were written.
func (f *File) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Close ends the file. Before that it takes out of the earlier lines what was known as
// a secret only later.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := errors.Join(f.err, f.file.Close())
	f.file = nil
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	return f.again()
}

// again writes the file once more. The caller holds mu.
func (f *File) again() (err error) {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(filepath.Dir(f.path), ".recording-*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err == nil {
			err = os.Rename(out.Name(), f.path)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, replay.MaxLine)
	for lines.Scan() {
		x := new(replay.Exchange)
		if err := json.Unmarshal(lines.Bytes(), x); err != nil {
			return err
		}
		b := append(bytes.Clone(lines.Bytes()), '\n')
		if f.scrubber.Again(x) {
			if b, err = f.encode(x); err != nil {
				return err
			}
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	return lines.Err()
}
