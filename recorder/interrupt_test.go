package recorder_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// begin begins an exchange of alice's and returns what ends it with an answer.
func (g *rig) begin(method, path string) (end func(status int, body string)) {
	g.Helper()
	r := httptest.NewRequest(method, "/api/auth"+path, strings.NewReader(`{}`))
	r.Header = cookie("s-alice")
	r.Header.Set("Content-Type", "application/json")
	m, _ := g.rec.Profile.Match(method, r.URL)
	x, err := g.rec.Begin(httptest.NewRecorder(), r, m, recorder.Facts{ClientIP: "192.0.2.7", Asker: g.server})
	must(g, err)
	return func(status int, body string) {
		answers(status, body)(x.Writer(), r)
		must(g, x.End(nil, 0, false))
	}
}

func TestWhatIsUnderWayWhenTheProcessEndsHasAnEntryThatSaysSo(t *testing.T) {
	for _, durability := range []recorder.Durability{recorder.Fsync, recorder.Async} {
		g := newRig(t, func(o *recorder.Options) { o.Durability, o.RollUpAfter = durability, 1 })
		g.begin("POST", "/sign-in/email")(401, `{}`) // the next failure would roll up
		ends := map[string]func(int, string){
			"sign-in:email": g.begin("POST", "/sign-in/email"), "delete-user": g.begin("POST", "/delete-user"), "unheard-of": g.begin("POST", "/unheard-of"),
		}
		read := g.begin("GET", "/get-session")
		for range 2 { // the second time there is nothing to do
			must(t, g.writer.Interrupt())
		}
		ends["sign-in:email"](401, `{}`) // it ends all the same
		read(200, `null`)
		must(t, g.writer.Interrupt())
		must(t, g.writer.Close(t.Context()))
		entries := g.store.Entries()
		if len(entries) != 4 {
			t.Fatalf("%d entries, want 4: %+v", len(entries), entries)
		}
		for _, e := range entries {
			want := storage.Unknown
			if e.Action == "sign-in:email" {
				want = storage.Failed
			}
			var m struct{ Interrupted bool }
			must(t, json.Unmarshal(e.Metadata, &m))
			if e.Status != want || m.Interrupted != (want == storage.Unknown) {
				t.Errorf("%v: %s is %s %s, want %s", durability, e.Action, e.Status, e.Metadata, want)
			}
		}
		ends["delete-user"](200, `{"message":"User deleted"}`)
		ends["unheard-of"](404, `{}`)
	}
}

// TestAQueueOutlastsAStoreThatComesBackAfterTheEnd: a store that has failed for a minute
// is tried a while longer when the Writer is closed.
func TestAQueueOutlastsAStoreThatComesBackAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{flaky: &flaky{Store: memory.New(0), fail: true}}
		w := recorder.NewWriter(store, quiet)
		const queued, batch = 5000, 256
		for range queued {
			e := storage.Entry{Action: "x", Status: storage.Success}
			e.Sanitize()
			w.Enqueue(storage.Fsync, e, nil)
		}
		time.Sleep(time.Minute)
		time.AfterFunc(2*time.Second, func() { store.set(false) })
		must(t, w.Close(t.Context()))
		if n := len(store.Entries()); n != queued || store.writes > queued/batch+1 {
			t.Errorf("%d entries in %d writes, want %d in %d", n, store.writes, queued, queued/batch+1)
		}
	})
}

// counting counts the writes that worked.
type counting struct {
	*flaky
	writes int
}

func (c *counting) Write(ctx context.Context, entries ...storage.Entry) error {
	err := c.flaky.Write(ctx, entries...)
	if err == nil {
		c.writes++
	}
	return err
}
