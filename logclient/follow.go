package logclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// silence is how long a stream may say nothing, not even the comment that is due
	// every 15 seconds, before it counts as lost.
	silence = 50 * time.Second
	// firstWait and lastWait are how long Follow waits before it connects again: longer
	// each time, shorter again after something was heard.
	firstWait = 200 * time.Millisecond
	lastWait  = 5 * time.Second
	// maxLine bounds a line of a stream.
	maxLine = 8 << 20
)

// Stream is what to do with what Follow hears. Its functions are called one at a time.
type Stream struct {
	// Open is called when a connection stands, each time; may be nil. An error ends Follow.
	Open func(context.Context) error
	// Entry is called for each entry. Entries are upserts by id: an intent comes before
	// its outcome, and after a connection was lost some come again. An error ends Follow.
	Entry func(Entry) error
	// Missed is called when not all of a time is told, because more was written while the
	// connection was lost than is told again; may be nil. The log has it.
	Missed func(from, to string)
	// Lost is called when a connection was lost and will be tried again; may be nil.
	Lost func(error)
}

// event is one server-sent event.
type event struct{ id, name, data string }

// errEnded says that the surface ended the stream, and that another try may do.
var errEnded = errors.New("the stream has ended")

// Follow calls s.Entry for every entry that is written, until ctx ends; then it returns
// nil. It connects again when a connection is lost, but returns the error of the first
// one that cannot be made, and of any that is refused for good.
func (c *Client) Follow(ctx context.Context, query url.Values, s Stream) error {
	last, wait, before := "", firstWait, false
	for {
		heard, err := c.stream(ctx, query, &last, s)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the caller wants no more
		case final(err) || !heard && !before:
			return err
		}
		if before = true; heard {
			wait = firstWait
		}
		if s.Lost != nil {
			s.Lost(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// callerError is an error of a function of a Stream.
type callerError struct{ error }

// Unwrap gives it back.
func (e callerError) Unwrap() error { return e.error }

// final says whether another try makes no sense.
func final(err error) bool {
	var own callerError
	var e *Error
	if errors.As(err, &own) {
		return true
	}
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusNotImplemented:
		return true
	case 0:
		return e.Code == "UNAUTHORIZED" || e.Code == "FORBIDDEN"
	}
	return false
}

// stream is one connection. heard says whether it stood; last is the id of the last
// event.
func (c *Client) stream(ctx context.Context, query url.Values, last *string, s Stream) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{"Accept": {"text/event-stream"}}
	if *last != "" {
		header.Set("Last-Event-ID", *last)
	}
	guard := time.AfterFunc(silence, func() { cancel(fmt.Errorf("nothing was heard for %s", silence)) })
	defer guard.Stop()
	resp, err := c.get(ctx, "/tail", query, header)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if s.Open != nil {
		if err := s.Open(ctx); err != nil {
			return true, callerError{err}
		}
	}
	err = events(resp.Body, func() { guard.Reset(silence) }, func(e event) error { return s.take(e, last) })
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return true, err
}

// take is what one event does. One without data says only how far the stream is.
func (s *Stream) take(e event, last *string) error {
	if e.data == "" && e.id != "" {
		*last = e.id
		return nil
	}
	switch e.name {
	case "entry":
		var entry Entry
		if err := json.Unmarshal([]byte(e.data), &entry); err != nil {
			return fmt.Errorf("reading an entry of the stream: %w", err)
		}
		if e.id != "" {
			*last = e.id
		}
		if err := s.Entry(entry); err != nil {
			return callerError{err}
		}
	case "missed":
		var of struct{ From, To string }
		if err := json.Unmarshal([]byte(e.data), &of); err != nil {
			return fmt.Errorf("reading what the stream has missed: %w", err)
		}
		if s.Missed != nil {
			s.Missed(of.From, of.To)
		}
	case "end":
		var said struct{ Code, Message string }
		if err := json.Unmarshal([]byte(e.data), &said); err != nil {
			return errEnded
		}
		return &Error{Code: said.Code, Message: said.Message}
	}
	return nil
}

// events reads server-sent events (HTML standard, section 9.2) until the stream ends.
func events(r io.Reader, alive func(), do func(event) error) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	var e event
	var data []string
	for in.Scan() {
		alive()
		line := in.Text()
		if line == "" {
			if e.data = strings.Join(data, "\n"); data != nil || e.id != "" {
				if err := do(e); err != nil {
					return err
				}
			}
			e, data = event{}, nil
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			data = append(data, value)
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	return errEnded
}
