package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// hang is how long a test waits for what must come.
const hang = 30 * time.Second

// event is one server-sent event.
type event struct{ id, name, data string }

// events reads a stream until it ends.
func events(body io.Reader) <-chan event {
	out := make(chan event, 10000)
	go func() {
		defer close(out)
		var e event
		for lines := bufio.NewScanner(body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "":
				if e.name != "" {
					out <- e
				}
				e = event{}
			}
		}
	}()
	return out
}

// next is the next event; none when the stream has ended.
func next(t *testing.T, from <-chan event) event {
	t.Helper()
	select {
	case e := <-from:
		return e
	case <-time.After(hang):
		t.Fatal("no event comes")
		return event{}
	}
}

// tailed opens a tail of the operators' surface.
func tailed(t *testing.T, url string, header ...string) (*http.Response, <-chan event) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res, events(res.Body)
}

// following is an operators' surface with a tail.
func following(t *testing.T, store storage.Store, ending context.Context) (*httptest.Server, *httpapi.Streams) {
	t.Helper()
	streams := httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
	o := httpapi.NewOperator(httpapi.OperatorOptions{Streams: streams})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.Serve(w, r, httpapi.Call{Path: r.URL.EscapedPath(), Store: store, Door: httpapi.Door{Decided: true}, Ending: ending, ClientIP: r.Header.Get("From-IP")})
	}))
	t.Cleanup(func() { streams.Close(); s.CloseClientConnections(); s.Close() })
	return s, streams
}

func TestATailShowsWhatIsWrittenAndWhatChanges(t *testing.T) {
	store := memory.New(0)
	s, streams := following(t, store, t.Context())
	old := entryOf("alice", "old")
	old.CreatedAt = time.Now().Add(-time.Hour)
	must(t, store.Write(t.Context(), old, entryOf("alice", "just now"), entryOf("bob", "just now")))
	res, in := tailed(t, s.URL+"/tail?userId=alice&from=2001-01-01&cursor=AQ")
	if res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store, private" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	if e := next(t, in); e.name != "entry" || !strings.Contains(e.data, `"just now"`) || !strings.Contains(e.data, `"userAgent":"secret-agent"`) {
		t.Errorf("first %+v", e)
	}
	intent := entryOf("alice", "intent")
	intent.Status = storage.Unknown
	must(t, store.Write(t.Context(), entryOf("bob", "other"), intent))
	streams.Wake()
	if e := next(t, in); !strings.Contains(e.data, intent.ID) || !strings.Contains(e.data, `"unknown"`) {
		t.Errorf("then %+v", e)
	}
	intent.Status = storage.Failed
	must(t, store.Write(t.Context(), intent))
	e := next(t, in)
	if !strings.Contains(e.data, intent.ID) || !strings.Contains(e.data, `"failed"`) {
		t.Errorf("then %+v", e)
	}
	_, again := tailed(t, s.URL+"/tail?userId=alice", "Last-Event-ID", e.id)
	if a, b := next(t, again), next(t, again); !strings.Contains(a.data, "just now") || !strings.Contains(b.data, intent.ID) {
		t.Errorf("continued with %+v, %+v", a, b)
	}
	if res, _ := tailed(t, s.URL+"/tail", "Last-Event-ID", "x"); res.StatusCode != 400 {
		t.Errorf("%d", res.StatusCode)
	}
}

// TestATailSaysWhatDoesNotFitAnyMore: who looks for what never ended must not be left with what did.
func TestATailSaysWhatDoesNotFitAnyMore(t *testing.T) {
	store := memory.New(0)
	s, streams := following(t, store, t.Context())
	intent, other := entryOf("alice", "intent"), entryOf("alice", "other")
	intent.Status = storage.Unknown
	must(t, store.Write(t.Context(), intent))
	_, in := tailed(t, s.URL+"/tail?status=unknown")
	if e := next(t, in); e.name != "entry" || !strings.Contains(e.data, intent.ID) {
		t.Fatalf("first %+v", e)
	}
	intent.Status = storage.Success
	last := entryOf("alice", "last")
	last.Status = storage.Unknown
	must(t, store.Write(t.Context(), other, intent))
	streams.Wake()
	if e := next(t, in); e.name != "left" || e.data != `{"id":"`+intent.ID+`"}` || e.id == "" {
		t.Errorf("then %+v", e)
	}
	must(t, store.Write(t.Context(), intent, last)) // once is enough
	streams.Wake()
	if e := next(t, in); e.name != "entry" || !strings.Contains(e.data, last.ID) {
		t.Errorf("then %+v", e)
	}
}

// TestATailSaysWhatWasListedBeforeIt: the intent is older than what a tail begins with.
func TestATailSaysWhatWasListedBeforeIt(t *testing.T) {
	for name, from := range map[string]string{"new": "", "continued": storage.EncodeCursor(storage.TimeKey(time.Now()))} {
		t.Run(name, func(t *testing.T) {
			store := memory.New(0)
			s, streams := following(t, store, t.Context())
			intents := make([]storage.Entry, 257) // one more than are remembered
			for i := range intents {
				intents[i] = entryOf("alice", "intent")
				intents[i].Status, intents[i].CreatedAt = storage.Unknown, time.Now().Add(-time.Minute+time.Duration(i)*time.Millisecond)
			}
			foreign := entryOf("bob", "intent")
			foreign.Status, foreign.CreatedAt = storage.Unknown, time.Now().Add(-time.Minute)
			must(t, store.Write(t.Context(), append(intents, foreign)...))
			_, in := tailed(t, s.URL+"/tail?status=unknown&userId=alice", "Last-Event-ID", from)
			if from != "" {
				for range intents {
					next(t, in)
				}
			}
			first, last := intents[1], intents[256]
			first.Status, last.Status, foreign.Status = storage.Failed, storage.Success, storage.Success
			must(t, store.Write(t.Context(), foreign, first, last))
			streams.Wake()
			for _, want := range []string{first.ID, last.ID} {
				if e := next(t, in); e.name != "left" || e.data != `{"id":"`+want+`"}` {
					t.Errorf("%+v, want that %s has left", e, want)
				}
			}
		})
	}
}

// TestATailSaysOfWhichTimeItDoesNotTellAll: more than 5,000 entries came while a client was away.
func TestATailSaysOfWhichTimeItDoesNotTellAll(t *testing.T) {
	store := memory.New(0)
	s, _ := following(t, store, t.Context())
	began := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	var all []storage.Entry
	for i := range 5200 {
		e := entryOf("alice", "n")
		e.CreatedAt = began.Add(time.Duration(i) * time.Millisecond)
		all = append(all, e)
	}
	must(t, store.Write(t.Context(), all...))
	_, in := tailed(t, s.URL+"/tail", "Last-Event-ID", storage.EncodeCursor(storage.TimeKey(began)))
	first := all[200].CreatedAt.UTC().Format(storage.TimeLayout)
	if e := next(t, in); e.name != "missed" || !strings.HasSuffix(e.data, `","to":"`+first+`"}`) || e.id != "" {
		t.Errorf("first %+v, want missed up to %s", e, first)
	}
	if e := next(t, in); e.name != "entry" || !strings.Contains(e.data, all[200].ID) {
		t.Errorf("then %+v", e)
	}
	_, in = tailed(t, s.URL+"/tail", "Last-Event-ID", storage.EncodeCursor(storage.TimeKey(all[5000].CreatedAt.Add(2*time.Minute))))
	if e := next(t, in); e.name != "entry" {
		t.Errorf("who was not away for long: %+v", e)
	}
}

// TestATailSaysWhenTooMuchIsWrittenAtOnce, not only after its client was away.
func TestATailSaysWhenTooMuchIsWrittenAtOnce(t *testing.T) {
	store := memory.New(20_000)
	s, streams := following(t, store, t.Context())
	_, in := tailed(t, s.URL+"/tail?action=rare")
	all := make([]storage.Entry, 10_500)
	for i := range all {
		all[i] = entryOf("alice", "frequent")
	}
	must(t, store.Write(t.Context(), append(all, entryOf("alice", "rare"))...))
	streams.Wake()
	names := ""
	for range 2 {
		names += next(t, in).name + " "
	}
	if names != "entry missed " {
		t.Error(names)
	}
}

func TestATailEndsWithItsServer(t *testing.T) {
	ending, end := context.WithCancel(t.Context())
	s, _ := following(t, memory.New(0), ending)
	_, in := tailed(t, s.URL+"/tail")
	time.AfterFunc(10*time.Millisecond, end)
	if e := next(t, in); e.name != "end" || !strings.Contains(e.data, `"SHUTDOWN"`) {
		t.Errorf("%+v", e)
	}
	if e, ok := <-in; ok {
		t.Errorf("after the end %+v", e)
	}
}

func TestSoManyTailsAndNoMore(t *testing.T) {
	s, _ := following(t, memory.New(0), t.Context())
	for i := range 21 {
		res, _ := tailed(t, s.URL+"/tail", "From-IP", "192.0.2.1")
		if (res.StatusCode == 200) != (i < 20) || i == 20 && res.StatusCode != 429 {
			t.Errorf("tail %d: %d", i, res.StatusCode)
		}
	}
	if res, _ := tailed(t, s.URL+"/tail", "From-IP", "192.0.2.2"); res.StatusCode != 200 {
		t.Errorf("another client: %d", res.StatusCode)
	}
}

// changing is an auth server that changes its mind.
type changing struct{ now atomic.Pointer[identity] }

func (c *changing) Ask(r *http.Request) (int, []byte, error) { return c.now.Load().Ask(r) }

// TestATailShowsTheOwnEntriesAlone, like list, and ends when its session has.
func TestATailShowsTheOwnEntriesAlone(t *testing.T) {
	store := memory.New(0)
	api := accessAPI(t, store)
	api.Streams = httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
	entries := accessEntries(t, api)
	var auth changing
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		api.Serve(w, r, httpapi.Call{Path: r.URL.EscapedPath(), ClientIP: "192.0.2.1", Asker: &auth, Store: store, Writer: api.writer})
	}))
	t.Cleanup(func() { api.Streams.Close(); s.CloseClientConnections(); s.Close() })
	for name, classes := range readable {
		who := identities[name]
		auth.now.Store(&who)
		query := ""
		if classes == nil {
			query = "?scope=all"
		}
		res, in := tailed(t, s.URL+"/tail"+query, "Cookie", "better-auth.session_token="+name)
		if name == "stranger" {
			if res.StatusCode != 401 {
				t.Errorf("a stranger gets %d", res.StatusCode)
			}
			continue
		}
		want := len(classes)
		if classes == nil {
			want = len(entries)
		}
		for range want {
			e := next(t, in)
			var shown struct{ ID, UserAgent string }
			must(t, json.Unmarshal([]byte(e.data), &shown))
			mine := classes == nil
			for _, class := range classes {
				mine = mine || entries[class].ID == shown.ID
			}
			if !mine || shown.UserAgent != "" {
				t.Errorf("%s is shown %s", name, e.data)
			}
		}
	}
	who := identities["user"]
	auth.now.Store(&who)
	if res, _ := tailed(t, s.URL+"/tail?scope=all", "Cookie", "better-auth.session_token=user"); res.StatusCode != 403 {
		t.Errorf("a user gets %d", res.StatusCode)
	}
	if res, _ := tailed(t, s.URL+"/tail", "Cookie", "better-auth.session_token=user", "Sec-Fetch-Site", "cross-site"); res.StatusCode != 403 {
		t.Errorf("another site gets %d", res.StatusCode)
	}
}

func TestAnEntryCannotMakeEvents(t *testing.T) {
	store := memory.New(0)
	s, _ := following(t, store, t.Context())
	for i, bad := range []string{"a\nevent: end", "\r\rdata: x", "\u2028\u2029", "a\r\n\r\nid: 0"} {
		e := entryOf("alice", fmt.Sprint(i, bad))
		must(t, store.Write(t.Context(), e))
	}
	_, in := tailed(t, s.URL+"/tail")
	for range 4 {
		if e := next(t, in); e.name != "entry" || !json.Valid([]byte(e.data)) {
			t.Errorf("%+v", e)
		}
	}
}

// TestWhoReadsNothingHoldsNothing: the end of a server does not wait for a client that
// has stopped reading an export or a tail.
func TestWhoReadsNothingHoldsNothing(t *testing.T) {
	store := memory.New(0)
	writeLarge(t, store, "large", 3000, 8<<10)
	streams := httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
	o := httpapi.NewOperator(httpapi.OperatorOptions{Streams: streams})
	ending, end := context.WithCancel(t.Context())
	ended := make(chan string, 2)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- r.URL.Path }()
		o.Serve(w, r, httpapi.Call{Path: r.URL.EscapedPath(), Store: store, Door: httpapi.Door{Decided: true}, Ending: ending, Exiting: func() bool { return ending.Err() != nil }})
	}))
	t.Cleanup(func() { streams.Close(); s.CloseClientConnections(); s.Close() })
	for _, target := range []string{"/tail", "/export?format=jsonl"} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
		must(t, err)
		_, err = io.ReadFull(c, make([]byte, 1000)) // it has begun
		must(t, err)
	}
	select {
	case which := <-ended:
		t.Fatalf("%s ended by itself: the test shows nothing", which)
	case <-time.After(200 * time.Millisecond):
	}
	end()
	for range 2 {
		select {
		case <-ended:
		case <-time.After(streamPatience / 2):
			t.Fatal("an answer that nobody reads goes on")
		}
	}
}

// streamPatience is what a client has to read when its server does not end.
const streamPatience = 30 * time.Second

// slowly is a client that takes its time for each piece.
type slowly struct {
	http.ResponseWriter
	each time.Duration
	got  *bytes.Buffer
}

func (w slowly) Write(b []byte) (int, error) {
	time.Sleep(w.each)
	return w.got.Write(b)
}

func (w slowly) Flush() {}

// TestASlowReaderIsAskedToo: what is written after a session has ended is not shown to a client
// that was still reading what came before.
func TestASlowReaderIsAskedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(0)
		writeLarge(t, store, "old", 40, 40<<10)
		api := newAPI(t, store)
		api.Streams = httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
		defer api.Streams.Close()
		var auth changing
		auth.now.Store(&identity{id: "alice"})
		w := slowly{httptest.NewRecorder(), 5 * time.Second, new(bytes.Buffer)}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			api.Serve(w, get("/tail"), httpapi.Call{Path: "/tail", ClientIP: "192.0.2.1", Asker: &auth, Store: store, Writer: api.writer})
		}()
		time.Sleep(10 * time.Second)
		auth.now.Store(&identity{})
		time.Sleep(40 * time.Second)
		must(t, store.Write(t.Context(), entryOf("alice", "later")))
		<-ended
		if text := w.got.String(); !strings.Contains(text, `"old"`) || strings.Contains(text, `"later"`) || !strings.Contains(text, "UNAUTHORIZED") {
			t.Errorf("%d bytes; it shows what came later: %v; it is told: %v", len(text), strings.Contains(text, `"later"`), strings.Contains(text, "UNAUTHORIZED"))
		}
	})
}

// TestAQuietTailSaysWhereToGoOn: a client that has seen no entry yet must not miss what is
// written while its connection is gone.
func TestAQuietTailSaysWhereToGoOn(t *testing.T) {
	store := memory.New(0)
	s, _ := following(t, store, t.Context())
	idOf := func(header ...string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/tail?severity=critical", nil)
		must(t, err)
		if len(header) > 0 {
			r.Header.Set(header[0], header[1])
		}
		res, err := http.DefaultClient.Do(r)
		must(t, err)
		defer func() { _ = res.Body.Close() }()
		b := make([]byte, 1000)
		n, err := res.Body.Read(b)
		must(t, err)
		_, after, _ := strings.Cut(string(b[:n]), "\nid: ")
		id, _, _ := strings.Cut(after, "\n")
		return id
	}
	id := idOf()
	key, err := storage.DecodeCursor(id)
	if at := storage.KeyTime(key); err != nil || time.Since(at) > hang || time.Since(at) < -time.Second {
		t.Errorf("%q: %s, %v", id, at, err)
	}
	if again := idOf("Last-Event-ID", id); again != "" {
		t.Errorf("one that goes on is told %q before it was shown what it has missed", again)
	}
	missed := entryOf("alice", "missed")
	missed.Severity, missed.CreatedAt = severity.Critical, time.Now().Add(-time.Minute)
	must(t, store.Write(t.Context(), missed))
	_, in := tailed(t, s.URL+"/tail?severity=critical", "Last-Event-ID", id)
	if e := next(t, in); !strings.Contains(e.data, missed.ID) {
		t.Errorf("%+v", e)
	}
}

// unread is a client that reads nothing until it is let go, and hears of deadlines.
type unread struct {
	*httptest.ResponseRecorder
	begun     chan<- struct{}
	free      chan struct{}
	deadlines []time.Time
}

func (w *unread) SetWriteDeadline(at time.Time) error {
	w.deadlines = append(w.deadlines, at)
	return nil
}

func (w *unread) Write(b []byte) (int, error) {
	select {
	case w.begun <- struct{}{}:
	case <-w.free:
	}
	<-w.free
	return w.ResponseRecorder.Write(b)
}

// TestALargeListHasItsTime: a client that does not read has 30 s for each part, and few of them
// may be under way for one client.
func TestALargeListHasItsTime(t *testing.T) {
	store := memory.New(0)
	writeLarge(t, store, "large", 30, 60<<10)
	api := newAPI(t, store)
	api.Streams = httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
	defer api.Streams.Close()
	const most = 8
	begun, free := make(chan struct{}), make(chan struct{})
	refused := make(chan int, most+1)
	var all sync.WaitGroup
	clients := make([]*unread, most+1)
	for i := range clients {
		w := &unread{ResponseRecorder: httptest.NewRecorder(), begun: begun, free: free}
		clients[i] = w
		all.Go(func() {
			api.Serve(w, get("/list?limit=500"), httpapi.Call{Path: "/list", ClientIP: "192.0.2.1", Asker: asker{"alice"}, Store: store, Writer: api.writer})
			if w.Code == http.StatusTooManyRequests {
				refused <- 1
			}
		})
	}
	for range clients { // the one that is refused waits as well
		<-begun
	}
	close(free)
	all.Wait()
	if n := len(refused); n != 1 {
		t.Errorf("%d of %d are refused, want 1", n, len(clients))
	}
	for _, w := range clients {
		if w.Code != http.StatusOK {
			continue
		}
		last := len(w.deadlines) - 1
		if last != 2 || time.Until(w.deadlines[0]) > streamPatience || !w.deadlines[last].IsZero() {
			t.Errorf("deadlines %v", w.deadlines)
		}
	}
}
