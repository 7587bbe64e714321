package e2e

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// openTail is a live tail of the log, as a client sees it.
type openTail struct {
	*conn  // nil if it has none of its own
	status int
	events chan tailEvent // closed when the tail has ended
}

// tailEvent is one server-sent event.
type tailEvent struct{ id, name, data string }

// tail opens one, at a target, with lines of the head.
func tail(t *testing.T, port int, target, header string) *openTail {
	t.Helper()
	c, err := connect(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write([]byte(raw("GET", target, "tail", header, ""))); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &openTail{c, res.StatusCode, eventsOf(res.Body)}
}

// eventsOf reads the server-sent events of a body; the channel is closed at its end.
func eventsOf(body io.Reader) chan tailEvent {
	events := make(chan tailEvent, 1000)
	go func() {
		defer close(events)
		var e tailEvent
		for lines := bufio.NewScanner(body); lines.Scan(); {
			switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "":
				if e.name != "" {
					events <- e
				}
				e = tailEvent{}
			}
		}
	}()
	return events
}

// until reads events until one is as wanted, or the tail ends.
func (o *openTail) until(t *testing.T, wanted func(tailEvent) bool) (tailEvent, bool) {
	t.Helper()
	hung := time.After(2 * hang)
	for {
		select {
		case e, ok := <-o.events:
			if !ok {
				return tailEvent{}, false
			}
			if wanted(e) {
				return e, true
			}
		case <-hung:
			t.Error("a tail says nothing and does not end")
			return tailEvent{}, false
		}
	}
}

// isEnd says whether it is the last event, with a code.
func isEnd(code string) func(tailEvent) bool {
	return func(e tailEvent) bool { return e.name == "end" && strings.Contains(e.data, `"`+code+`"`) }
}
