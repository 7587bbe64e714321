package logclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
)

// serve returns a client of a handler.
func serve(t *testing.T, h http.HandlerFunc) *logclient.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &logclient.Client{Transport: s.Client().Transport, Base: s.URL + "/log", Common: url.Values{"store": {"a b"}}, Header: http.Header{"X-Test": {"yes"}}}
}

func TestAListIsAskedFor(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/log/list" || r.URL.Query().Get("store") != "a b" || r.URL.Query().Get("limit") != "2" || r.Header.Get("X-Test") != "yes" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		_, _ = io.WriteString(w, `{"entries":[{"id":"1","userId":null,"action":"x","more":true}],"total":7,"totalIsCapped":true,"nextCursor":"n"}`)
	})
	page, err := c.List(t.Context(), url.Values{"limit": {"2"}})
	if err != nil || len(page.Entries) != 1 || page.Total != 7 || !page.TotalIsCapped || page.NextCursor != "n" || page.Entries[0].UserID != nil ||
		string(page.Entries[0].Raw) != `{"id":"1","userId":null,"action":"x","more":true}` {
		t.Errorf("%+v: %v", page, err)
	}
}

// TestErrorsSayWhatTheyWereTold in each form that a surface or Caddy has.
func TestErrorsSayWhatTheyWereTold(t *testing.T) {
	for _, c := range []struct {
		status     int
		body, want string
		notFound   bool
	}{
		{404, `{"message":"Audit log entry not found","code":"NOT_FOUND"}`, "Audit log entry not found (NOT_FOUND)", true},
		{404, `{"error":"no such store"}`, "no such store", false},
		{404, "404 page not found\n", "HTTP 404 404 page not found", false},
		{500, "", "HTTP 500", false},
		{204, "", "HTTP 204", false},
	} {
		client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		_, err := client.Get(t.Context(), "a/b")
		if err == nil || err.Error() != c.want || logclient.NotFound(err) != c.notFound {
			t.Errorf("%d %q: %v, want %s", c.status, c.body, err, c.want)
		}
	}
}

// events writes a stream.
func events(w http.ResponseWriter, lines ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, strings.Join(lines, "\n")+"\n")
	w.(http.Flusher).Flush()
}

// TestFollowGoesOnWhereItWas: over connections that end, break and are refused for a while,
// with the id of the last event; comments and unknown events do nothing.
func TestFollowGoesOnWhereItWas(t *testing.T) {
	var calls atomic.Int32
	last := make([]string, 5)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if int(n) <= len(last) {
			last[n-1] = r.Header.Get("Last-Event-ID")
		}
		switch n {
		case 1:
			events(w, ": hello", "retry: 1", "id: c0", "", "id: c1", "event: entry", `data: {"id":"1"}`, "", "event: other", "data: x", "", "id: c2", "event: entry", `data: {"id"`, `data: :"2"}`, "")
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			events(w, "id: c3", "event: entry", `data: {"id":"3"}`, "", `event: end`, `data: {"code":"SHUTDOWN","message":"bye"}`, "")
		case 4:
			events(w, "id: c3b", "", "id: c4", "event: entry", `data: {"id":"never finished"}`)
			panic(http.ErrAbortHandler)
		default:
			events(w, "id: c4", "event: entry", `data: {"id":"4"}`, "")
			<-r.Context().Done()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var ids []string
	opens, losses := 0, 0
	err := c.Follow(ctx, nil, logclient.Stream{
		Open: func(context.Context) error { opens++; return nil },
		Entry: func(e logclient.Entry) error {
			if ids = append(ids, e.ID); e.ID == "4" {
				cancel()
			}
			return nil
		},
		Lost: func(error) { losses++ },
	})
	if err != nil || !slices.Equal(ids, []string{"1", "2", "3", "4"}) || opens != 4 || losses != 4 {
		t.Errorf("%q, %d times opened, %d times lost: %v", ids, opens, losses, err)
	}
	if want := []string{"", "c2", "c2", "c3", "c3b"}; !slices.Equal(last, want) {
		t.Errorf("it went on after %q, want %q", last, want)
	}
}

func TestFollowEndsForGood(t *testing.T) {
	own := errors.New("own")
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"when nobody is let in":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "HTTP 403"},
		"when the first try fails": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "HTTP 502"},
		"when it is said to": {func(w http.ResponseWriter, _ *http.Request) {
			events(w, "event: end", `data: {"code":"UNAUTHORIZED","message":"gone"}`, "")
		}, "gone (UNAUTHORIZED)"},
		"when the caller wants no more": {func(w http.ResponseWriter, _ *http.Request) { events(w, "event: entry", `data: {"id":"1"}`, "") }, "own"},
	} {
		err := serve(t, c.serve).Follow(t.Context(), nil, logclient.Stream{Entry: func(logclient.Entry) error { return own }})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// TestAnExportThatBreaksOffIsAnError: it must never look complete.
func TestAnExportThatBreaksOffIsAnError(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "{}")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	body, err := c.Export(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if b, err := io.ReadAll(body); err == nil || string(b) != "{}\n" {
		t.Errorf("%q: %v", b, err)
	}
}
