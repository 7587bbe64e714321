package logclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxAnswer bounds an answer that is read whole: 500 entries of 64 KiB fit.
	maxAnswer = 64 << 20
	// maxError bounds what is read of an error.
	maxError = 64 << 10
)

// Client asks one operator surface. It is safe for concurrent use once it is filled in.
type Client struct {
	// Transport reaches it.
	Transport http.RoundTripper
	// Base is the URL that the endpoints are below, such as
	// "http://localhost:2019/audit-log/entries". Required.
	Base string
	// Header goes with every request; may be nil.
	Header http.Header
	// Common are parameters of every request, such as the store; may be nil.
	Common url.Values
}

// Entry is one entry of the log, as the surface shows it.
type Entry struct {
	ID        string          `json:"id"`
	UserID    *string         `json:"userId"`
	Action    string          `json:"action"`
	Status    string          `json:"status"`
	Severity  string          `json:"severity"`
	IPAddress *string         `json:"ipAddress"`
	UserAgent *string         `json:"userAgent"`
	Metadata  json.RawMessage `json:"metadata"`
	CreatedAt string          `json:"createdAt"`
	// Raw is the JSON that it was read from.
	Raw json.RawMessage `json:"-"`
}

// UnmarshalJSON implements json.Unmarshaler, and keeps the text in Raw.
func (e *Entry) UnmarshalJSON(b []byte) error {
	type plain Entry
	if err := json.Unmarshal(b, (*plain)(e)); err != nil {
		return err
	}
	e.Raw = bytes.Clone(b)
	return nil
}

// Page is one answer of List.
type Page struct {
	Entries       []Entry `json:"entries"`
	Total         int     `json:"total"`
	TotalIsCapped bool    `json:"totalIsCapped"`
	NextCursor    string  `json:"nextCursor"`
}

// Bucket is one step of a Histogram: how many entries it has, and how many events they stand
// for, of which there are as many or, after a flood, more.
type Bucket struct {
	At string `json:"at"`
	ByStatus
	Events ByStatus `json:"events"`
}

// ByStatus are numbers of each status.
type ByStatus struct {
	Success int `json:"success"`
	Failed  int `json:"failed"`
	Pending int `json:"pending"`
	Unknown int `json:"unknown"`
}

// Histogram counts entries over time; Step is in milliseconds.
type Histogram struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Step    int64    `json:"step"`
	Buckets []Bucket `json:"buckets"`
}

// Group is one group of a tally.
type Group struct {
	Action   string `json:"action"`
	Class    string `json:"class"`
	Status   string `json:"status"`
	Severity string `json:"severity"`
	// Count of entries, and how many events they stand for.
	Count  int `json:"count"`
	Events int `json:"events"`
}

// Error is an answer that is no success.
type Error struct {
	// Status is the HTTP status; 0 if the surface said it at the end of a stream.
	Status int
	// Code is the surface's own, such as NOT_FOUND; empty if it gave none.
	Code    string
	Message string
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.Message == "":
		return fmt.Sprintf("HTTP %d", e.Status)
	case e.Code == "":
		return e.Message
	}
	return e.Message + " (" + e.Code + ")"
}

// NotFound says whether an error is that of an entry that is not there.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == "NOT_FOUND"
}

// List returns a page of entries, newest first. query are the parameters of the endpoint.
func (c *Client) List(ctx context.Context, query url.Values) (Page, error) {
	var page Page
	err := c.read(ctx, "/list", query, &page)
	return page, err
}

// Get returns one entry. Every byte of the id is escaped, so that one such as "tail" names
// no other endpoint.
func (c *Client) Get(ctx context.Context, id string) (Entry, error) {
	path := []byte("/")
	for _, b := range []byte(id) {
		path = fmt.Appendf(path, "%%%02X", b)
	}
	var e Entry
	err := c.read(ctx, string(path), nil, &e)
	return e, err
}

// Histogram counts entries over time.
func (c *Client) Histogram(ctx context.Context, query url.Values) (Histogram, error) {
	var h Histogram
	err := c.read(ctx, "/histogram", query, &h)
	for i := range h.Buckets {
		b := &h.Buckets[i] // an earlier version says nothing of events
		b.Events = ByStatus{max(b.Events.Success, b.Success), max(b.Events.Failed, b.Failed), max(b.Events.Pending, b.Pending), max(b.Events.Unknown, b.Unknown)}
	}
	return h, err
}

// Tally counts entries by what they are. capped is true when there are more groups.
func (c *Client) Tally(ctx context.Context, query url.Values) (groups []Group, capped bool, err error) {
	var answer struct {
		Groups          []Group
		GroupsAreCapped bool
	}
	err = c.read(ctx, "/tally", query, &answer)
	for i := range answer.Groups {
		g := &answer.Groups[i]
		g.Events = max(g.Events, g.Count) // as above
	}
	return answer.Groups, answer.GroupsAreCapped, err
}

// Export opens an export; the caller reads and closes it. A read that ends with another
// error than io.EOF means that entries are missing.
func (c *Client) Export(ctx context.Context, query url.Values) (io.ReadCloser, error) {
	resp, err := c.get(ctx, "/export", query, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// read decodes an answer.
func (c *Client) read(ctx context.Context, path string, query url.Values, into any) error {
	resp, err := c.get(ctx, path, query, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// get asks an endpoint; an answer that is no success is an *Error. The caller closes the
// body.
func (c *Client) get(ctx context.Context, path string, query url.Values, header http.Header) (*http.Response, error) {
	all := url.Values{}
	for _, values := range []url.Values{c.Common, query} {
		for name, v := range values {
			all[name] = v
		}
	}
	target := c.Base + path
	if len(all) > 0 {
		target += "?" + all.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{c.Header, header} {
		for name, v := range h {
			r.Header[name] = v
		}
	}
	resp, err := c.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, failure(resp)
}

// failure reads what an answer says is wrong: as the surface says it, or Caddy's admin
// endpoint, or in plain text.
func failure(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return &Error{Status: resp.StatusCode, Message: fmt.Sprintf("HTTP %d, whose text cannot be read: %v", resp.StatusCode, err)}
	}
	var said struct{ Message, Code, Error string }
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(b, &said) == nil {
		e.Message, e.Code = said.Message, said.Code
		if e.Message == "" {
			e.Message = said.Error
		}
	}
	if e.Message == "" {
		e.Message = strings.TrimSpace(fmt.Sprintf("HTTP %d %s", resp.StatusCode, bytes.TrimSpace(b[:min(len(b), 500)])))
	}
	return e
}
