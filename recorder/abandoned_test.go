package recorder_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// toldOf are the users of the entries that an observer hears of.
type toldOf []string

func (h *toldOf) EntryWritten(e storage.Entry)         { *h = append(*h, e.UserID) }
func (*toldOf) WriteFailed(_ error, _ []storage.Entry) {}

func TestWhichIntentsAreToldOfAtAStart(t *testing.T) {
	node := storage.Node()
	opened := time.Now().Truncate(time.Millisecond)
	ago := func(minutes int) time.Time { return opened.Add(-time.Duration(minutes) * time.Minute) }
	own := func(action string, minutes int, node, more string) storage.Entry {
		return storage.Entry{Action: action, Status: storage.Success, CreatedAt: ago(minutes), Metadata: fmt.Appendf(nil, `{"node":%q%s}`, node, more)}
	}
	started := func(minutes int) storage.Entry { return own(storage.ActionStarted, minutes, node, "") }
	intent := storage.Entry{Action: "delete-user", UserID: "alice", Status: storage.Unknown, CreatedAt: ago(30), Metadata: []byte(`{"method":"POST","source":"proxy"}`)}
	answered, interrupted, inserted := intent, intent, intent
	answered.Metadata, interrupted.Metadata, inserted.Metadata = []byte(`{"statusCode":504,"durationMs":3,"source":"proxy"}`), []byte(`{"source":"proxy","interrupted":true}`), []byte(`{"source":"api"}`)
	for _, c := range []struct {
		name    string
		entries []storage.Entry
		only    bool
		want    int
	}{
		{"killed", []storage.Entry{started(60), intent}, false, 1},
		{"no start is known", []storage.Entry{intent}, true, 0},
		{"of before the last start", []storage.Entry{started(60), intent, started(20)}, false, 0},
		{"killed again before it could tell", []storage.Entry{started(35), intent, started(28), started(20), started(11)}, false, 1},
		{"a reload is no start", []storage.Entry{started(60), intent, own(storage.ActionStarted, 10, node, `,"previousConfig":"x"`)}, false, 1},
		{"an orderly end", []storage.Entry{started(60), intent, own(storage.ActionStopped, 25, node, `,"reason":"exit"`)}, false, 0},
		{"an orderly end before", []storage.Entry{own(storage.ActionStopped, 61, node, `,"reason":"exit"`), started(60), intent}, false, 1},
		{"a configuration without an audit log is no end", []storage.Entry{started(60), intent, own(storage.ActionStopped, 25, node, `,"reason":"configuration"`)}, false, 1},
		{"another node's start", []storage.Entry{own(storage.ActionStarted, 60, "another", ""), intent}, false, 0},
		{"the same machine by another name", []storage.Entry{own(storage.ActionStarted, 60, "another", ""), intent}, true, 1},
		{"what has an outcome", []storage.Entry{started(60), answered}, false, 0},
		{"what was interrupted", []storage.Entry{started(60), interrupted}, false, 0},
		{"what was inserted", []storage.Entry{started(60), inserted}, false, 0},
		{"of this process", []storage.Entry{started(60), started(0), own(storage.ActionStarted, -1, node, "")}, false, 0},
	} {
		s := memory.New(0)
		for _, e := range c.entries {
			e.Sanitize()
			if err := s.Write(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		var told toldOf
		w := recorder.NewWriter(s, slog.New(slog.DiscardHandler))
		w.Observer = &told
		n, err := w.TellAbandoned(t.Context(), opened.Add(time.Microsecond), c.only)
		if err != nil || n != c.want || len(told) != c.want {
			t.Errorf("%s: %d, told of %v, %v; want %d", c.name, n, told, err, c.want)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
