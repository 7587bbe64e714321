package recorder_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// answer is an Asker that always says the same, and keeps the last question.
type answer struct {
	status int
	body   string
	err    error
	asked  *http.Request
}

func (a *answer) Ask(r *http.Request) (int, []byte, error) {
	a.asked = r
	return a.status, []byte(a.body), a.err
}

func TestAProbeAsksWithoutCredentials(t *testing.T) {
	for _, c := range []struct {
		name, profile string
		answer        answer
		user          string
		err           error
	}{
		{"nobody", "better_auth", answer{status: 200, body: "null"}, "", nil},
		{"a refusal is nobody too", "kratos", answer{status: 401, body: "{}"}, "", nil},
		{"somebody", "better_auth", answer{status: 200, body: `{"session":{"userId":"u"},"user":{"id":"u"}}`}, "u", nil},
		{"not there", "better_auth", answer{status: 404}, "", recorder.ErrLookup},
		{"a page", "better_auth", answer{status: 200, body: "<html>"}, "", recorder.ErrLookup},
		{"no connection", "better_auth", answer{err: errors.New("refused")}, "", recorder.ErrLookup},
		{"no endpoint", "zitadel", answer{status: 200}, "", recorder.ErrNoEndpoint},
	} {
		p, err := profile.Builtin(c.profile)
		must(t, err)
		session, err := recorder.Probe(t.Context(), p, &c.answer)
		if session.UserID != c.user || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v", c.name, session, err)
		}
		if r := c.answer.asked; r != nil && (r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "") {
			t.Errorf("%s: it sent %v", c.name, r.Header)
		}
	}
}

// slow is a memory store that takes its time.
type slow struct{ *memory.Store }

func (s slow) Write(ctx context.Context, entries ...storage.Entry) error {
	time.Sleep(100 * time.Millisecond)
	return s.Store.Write(ctx, entries...)
}

func TestStatsTellOfTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := recorder.NewWriter(slow{memory.New(0)}, quiet)
		if s := w.Stats(); !s.LastWrite.IsZero() {
			t.Errorf("%+v", s)
		}
		must(t, w.Write(storage.Fsync, storage.Entry{Action: "x"}))
		if s := w.Stats(); !s.LastWrite.Equal(time.Now()) || s.LastWriteTook != 100*time.Millisecond {
			t.Errorf("%+v", s)
		}
		must(t, w.Close(t.Context()))
	})
}
