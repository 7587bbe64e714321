package recorder_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/exchange"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// told is what an exchange was, by its request's id.
type told struct{ action, user, ip, agent, status string }

// TestNothingOfOneExchangeIsInAnother: exchanges are used again once they have ended.
func TestNothingOfOneExchangeIsInAnother(t *testing.T) {
	g := newRig(t, nil)
	var mu sync.Mutex
	want := map[string]told{}
	var all sync.WaitGroup
	const clients, turns = 8, 300
	looked := make(chan struct{})
	for c := range clients {
		all.Go(func() {
			for i := range turns {
				if c == 0 && i == turns/2 {
					close(looked)
				}
				id := fmt.Sprintf("%d-%d", c, i)
				e := told{"sign-in:email", "user-" + id, fmt.Sprintf("198.51.%d.%d", c, i%250), "agent/" + id, "success"}
				method, path, status, body := "POST", "/sign-in/email", 200, fmt.Sprintf(`{"token":"token-of-%[1]s","user":{"id":"user-%[1]s"}}`, id)
				var header http.Header
				switch i % 5 {
				case 1:
					e.user, e.status, status, body = "", "failed", 401, `{"code":"NO"}`
				case 2:
					e.action, path, body = "update-user", "/update-user", `{}`
					owner := fmt.Sprintf("%d-%d", c, i-2)
					e.user, header = "user-"+owner, cookie("cookie-of-"+owner)
				case 3: // no event
					method, path, body = "GET", "/get-session", `{"session":null}`
					header = cookie("cookie-of-" + id)
				case 4:
					e.action, method, path, status, body = "get-session", "GET", "/get-session", 403, `{}`
					e.user, e.status = "", "failed"
				}
				if i%5 != 3 {
					mu.Lock()
					want[id] = e
					mu.Unlock()
				}
				r := httptest.NewRequest(method, "/api/auth"+path, strings.NewReader(fmt.Sprintf(`{"email":"%s@example.com"}`, id)))
				for name, v := range header {
					r.Header[name] = v
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("User-Agent", e.agent)
				m, _ := g.rec.Profile.Match(method, r.URL)
				x, err := g.rec.Begin(httptest.NewRecorder(), r, m, recorder.Facts{ClientIP: e.ip, RequestID: id})
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				var issued []string
				if i%5 == 0 {
					issued = []string{"Set-Cookie", "better-auth.session_token=cookie-of-" + id + "; Path=/"}
				}
				answers(status, body, issued...)(x.Writer(), r)
				if err := x.End(nil, 0, false); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	all.Go(func() { // somebody looks at what is under way
		<-looked
		for range 20 {
			_ = g.writer.UnderWay()
			if err := g.writer.Interrupt(); err != nil {
				t.Errorf("interrupting: %v", err)
			}
		}
	})
	all.Wait()
	for _, e := range g.store.Entries() {
		id := storage.TextIn(e.Metadata, "requestId")
		w, there := want[id]
		if got := (told{e.Action, e.UserID, e.IPAddress, e.UserAgent, string(e.Status)}); !there || got != w {
			t.Errorf("%s is %+v, want %+v", id, got, w)
		}
		tag := ""
		if e.Action == "sign-in:email" && e.Status == storage.Failed {
			tag = g.rec.Redactor.HashTag("identifier", id+"@example.com")
		}
		if e.IdentifierHash != tag {
			t.Errorf("%s: %s has the identifier %q, want %q", id, e.Action, e.IdentifierHash, tag)
		}
		delete(want, id)
	}
	if len(want) > 0 {
		t.Errorf("%d exchanges have no entry, such as %v", len(want), want)
	}
}

// TestWhoWritesAfterTheEndChangesNoOtherEntry: a handler may have left a goroutine behind.
func TestWhoWritesAfterTheEndChangesNoOtherEntry(t *testing.T) {
	for _, durability := range []recorder.Durability{recorder.Fsync, recorder.Async} {
		g := newRig(t, func(o *recorder.Options) { o.Durability = durability })
		var late []http.ResponseWriter
		for i := range 50 {
			g.do("POST", "/sign-in/email", `{}`, nil, func(w http.ResponseWriter, r *http.Request) {
				for _, w := range late {
					w.WriteHeader(500)
					_, _ = w.Write([]byte(`{"code":"LATE"}`))
					_ = http.NewResponseController(w).Flush()
				}
				if late = append(late, w); i%2 == 0 {
					answers(200, signedIn)(w, r)
				}
			})
		}
		must(t, g.writer.Close(t.Context()))
		entries := g.store.Entries()
		if len(entries) != 50 {
			t.Fatalf("%d entries, want 50", len(entries))
		}
		for i, e := range entries {
			if strings.Contains(string(e.Metadata), "LATE") || i%2 == 0 && (e.Status != storage.Success || e.UserID != "alice") {
				t.Fatalf("%v: entry %d is %s %q %s", durability, i, e.Status, e.UserID, e.Metadata)
			}
		}
	}
}

// slowStore tells that a write has begun, and takes a while for it.
type slowStore struct {
	*memory.Store
	begun chan struct{}
}

func (s *slowStore) Write(ctx context.Context, entries ...storage.Entry) error {
	select {
	case s.begun <- struct{}{}:
	case <-time.After(time.Second): // nobody expects it: the test will say why
	}
	time.Sleep(5 * time.Millisecond)
	return s.Store.Write(ctx, entries...)
}

// TestWhoIsStillThereAtTheEndMeetsNobody: somebody whom a handler has left behind waits for an
// exchange that is being completed, and gets it when it is another request's.
func TestWhoIsStillThereAtTheEndMeetsNobody(t *testing.T) {
	store := &slowStore{Store: memory.New(0), begun: make(chan struct{})}
	g := newRig(t, func(o *recorder.Options) { o.Writer = recorder.NewWriter(store, quiet) })
	begin := func() (*recorder.Exchange, *exchange.Observer, *http.Request) {
		r := httptest.NewRequest("POST", "/api/auth/sign-in/email", strings.NewReader(`{}`))
		m, _ := g.rec.Profile.Match("POST", r.URL)
		x, err := g.rec.Begin(httptest.NewRecorder(), r, m, recorder.Facts{ClientIP: "192.0.2.7"})
		must(t, err)
		o, ok := x.Writer().(*exchange.Observer)
		if !ok {
			t.Fatalf("it writes to a %T", x.Writer())
		}
		return x, o, r
	}
	const turns = 40
	for range turns {
		first, o, _ := begin()
		var left sync.WaitGroup
		left.Go(func() {
			<-store.begun
			for range 4 {
				left.Go(func() {
					first.BodyMode(o, 200, http.Header{"Content-Type": {"application/json"}})
					if err := first.Commit(o); err != nil {
						t.Errorf("committing what is over: %v", err)
					}
				})
			}
		})
		must(t, first.End(errors.New("refused"), 401, false))
		second, w, r := begin() // most likely the same one
		left.Wait()
		go func() {
			select {
			case <-store.begun:
			case <-time.After(10 * time.Second):
			}
		}()
		answers(200, signedIn)(w, r)
		must(t, second.End(nil, 0, false))
	}
	outcomes := map[storage.Status]int{}
	for _, e := range store.Entries() {
		outcomes[e.Status]++
	}
	if outcomes[storage.Success] != turns || len(store.Entries()) != 2*turns {
		t.Errorf("%v of %d exchanges of which every second was a success", outcomes, 2*turns)
	}
}
