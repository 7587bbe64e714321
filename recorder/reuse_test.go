package recorder_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
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
		if typed := storage.TextIn(e.Metadata, "identifier"); typed != "" && typed[:1] != id[:1] {
			t.Errorf("%s names %s", id, typed)
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
