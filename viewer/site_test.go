package viewer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/viewer"
)

// base is where the tests have the page: the addresses in it are relative.
const base = "/some/where/audit-log"

// site is the real operator surface over a store, with faults and tails that a test
// controls.
type site struct {
	*httptest.Server
	t     testing.TB
	store storage.Store

	// mu protects the fields below.
	mu sync.Mutex
	// answers stand in for those of the API, by path: a fault, or another surface.
	answers map[string]answer
	tails   map[chan string]bool
	opened  int      // tails in all
	asked   []string // path and query of every request
}

// answer is one that a test makes up.
type answer struct {
	status int
	body   string
	header map[string]string
	hang   bool // until the client leaves
}

func startSite(t testing.TB, store storage.Store) *site {
	t.Helper()
	s := serveSite(t, store, nil)
	s.answer("/access", answer{status: 200, body: `{"surface":"operator","userId":null,"everything":true,"can":{"histogram":true,"tail":true,"export":true}}`})
	return s
}

// startRealSite is a site whose tails are the API's, too.
func startRealSite(t testing.TB, store storage.Store) *site {
	t.Helper()
	streams := httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
	s := serveSite(t, store, streams)
	t.Cleanup(streams.Close)
	return s
}

func serveSite(t testing.TB, store storage.Store, streams *httpapi.Streams) *site {
	t.Helper()
	s := &site{t: t, store: store, answers: map[string]answer{}, tails: map[chan string]bool{}}
	operator := httpapi.NewOperator(httpapi.OperatorOptions{Redactor: redactor(t), Page: viewer.Serve, Streams: streams})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, below := strings.CutPrefix(r.URL.EscapedPath(), base)
		if !below {
			http.NotFound(w, r)
			return
		}
		switch made, ok := s.take(path, r); {
		case ok && made.hang:
			<-r.Context().Done()
		case ok:
			for name, value := range made.header {
				w.Header().Set(name, value)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(made.status)
			_, _ = w.Write([]byte(made.body))
		case path == "/tail" && streams == nil:
			s.tail(w, r)
		default:
			operator.Serve(w, r, httpapi.Call{Path: path, Store: store, Door: httpapi.Door{Decided: true}})
		}
	}))
	t.Cleanup(func() { _ = s.Config.Close() }) // Server.Close would wait for tails
	return s
}

func redactor(t testing.TB) *redact.Redactor {
	t.Helper()
	r, err := redact.New(redact.Options{Key: []byte(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// answer makes up an answer, until forget.
func (s *site) answer(path string, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = a
}

func (s *site) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answers, path)
}

// fails makes up a failure, in the API's form.
func (s *site) fails(path string, status int, code, message string) {
	b, _ := json.Marshal(map[string]string{"code": code, "message": message})
	s.answer(path, answer{status: status, body: string(b)})
}

func (s *site) take(path string, r *http.Request) (answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, path+"?"+r.URL.RawQuery)
	a, ok := s.answers[path]
	return a, ok
}

// askedFor returns the queries of the requests for a path.
func (s *site) askedFor(path string) (queries []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if query, ok := strings.CutPrefix(a, path+"?"); ok {
			queries = append(queries, query)
		}
	}
	return queries
}

// asksAgain waits for one more request for a path than there were.
func (s *site) asksAgain(t *testing.T, path string, were int) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(s.askedFor(path)) == were; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not asked for again", path)
		}
	}
}

// tail is a stream of what say says.
func (s *site) tail(w http.ResponseWriter, r *http.Request) {
	events := make(chan string, 1000)
	s.mu.Lock()
	s.tails[events] = true
	s.opened++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.tails, events)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = w.Write([]byte(": \n\n"))
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case event := <-events:
			if event == "" { // the connection breaks
				return
			}
			_, _ = w.Write([]byte(event))
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// say sends an event to all tails; "" breaks them.
func (s *site) say(event string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for events := range s.tails {
		events <- event
	}
}

// tailed is how many tails are open, and how many there ever were.
func (s *site) tailed() (open, ever int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tails), s.opened
}

// add stores an entry and sends it to the tails.
func (s *site) add(e storage.Entry) {
	s.t.Helper()
	if err := s.store.Write(context.Background(), e); err != nil {
		s.t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"id": e.ID, "userId": e.UserID, "action": e.Action, "status": e.Status, "severity": e.Severity, "ipAddress": e.IPAddress, "metadata": e.Metadata, "createdAt": e.CreatedAt.Format(storage.TimeLayout)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.say(fmt.Sprintf("id: %s\nevent: entry\ndata: %s\n\n", e.ID, b))
}

// kinds of entries as an auth server makes them.
var kinds = []struct {
	action, class, method, path string
	failure                     string // its code, when it fails
	weight                      int
}{
	{"sign-in:email", "sign-in", "POST", "/sign-in/email", "INVALID_EMAIL_OR_PASSWORD", 40},
	{"sign-out", "sign-out", "POST", "/sign-out", "", 16},
	{"callback::id", "sign-in", "GET", "/callback/google", "access_denied", 12},
	{"two-factor:verify-totp", "mfa", "POST", "/two-factor/verify-totp", "INVALID_CODE", 9},
	{"sign-up:email", "sign-up", "POST", "/sign-up/email", "USER_ALREADY_EXISTS", 6},
	{"change-password", "credential", "POST", "/change-password", "INVALID_PASSWORD", 4},
	{"request-password-reset", "credential", "POST", "/request-password-reset", "", 5},
	{"reset-password::token", "credential", "GET", "/reset-password/:token", "INVALID_TOKEN", 3},
	{"update-user", "account", "POST", "/update-user", "", 4},
	{"revoke-session", "session", "POST", "/revoke-session", "", 3},
	{"organization:invite-member", "organization", "POST", "/organization/invite-member", "", 3},
	{"admin:set-role", "admin", "POST", "/admin/set-role", "FORBIDDEN", 1},
	{"admin:ban-user", "admin", "POST", "/admin/ban-user", "FORBIDDEN", 1},
	{"delete-user", "account", "POST", "/delete-user", "", 1},
}

var people = []string{"alice", "ben", "chiara", "dmitri", "emeka", "fatima", "gustav", "hana", "ines", "jun"}

// madeUp returns n plausible entries of the days before now, the same ones for the same n.
func madeUp(t testing.TB, n, days int) []storage.Entry {
	t.Helper()
	random := rand.New(rand.NewPCG(1, uint64(n)))
	now := time.Now().UTC().Truncate(time.Millisecond)
	tagger := redactor(t)
	out := make([]storage.Entry, n)
	for i := range out {
		back := time.Duration(float64(days*24)*float64(time.Hour)*random.Float64() + float64(20*time.Second))
		at := now.Add(-back)
		if at.Hour() < 6 && random.IntN(4) > 0 { // nights are quiet
			at = at.Add(-10 * time.Hour)
		}
		out[i] = plausible(random, tagger, at)
	}
	return out
}

func plausible(random *rand.Rand, tagger *redact.Redactor, at time.Time) storage.Entry {
	pick, kind := random.IntN(108), kinds[random.IntN(len(kinds))]
	for pick -= kind.weight; pick >= 0 && random.IntN(40) >= kind.weight; pick -= kind.weight {
		kind = kinds[random.IntN(len(kinds))]
	}
	name := people[random.IntN(len(people))]
	id := fmt.Sprintf("%s-%08x", name, 0x5eed1e55*uint32(name[0]))
	e := storage.Entry{ID: idAt(at, random), UserID: id, Action: kind.action, Status: storage.Success, IPAddress: fmt.Sprintf("203.0.113.%d", 4+random.IntN(30)), CreatedAt: at,
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"}
	m := map[string]any{"requestId": fmt.Sprintf("%016x", random.Uint64()), "method": kind.method, "statusCode": 200, "durationMs": float64(random.IntN(90000)) / 1000, "class": kind.class, "source": "proxy"}
	switch roll := random.IntN(100); {
	case kind.failure != "" && roll < 22:
		e.Status, m["statusCode"] = storage.Failed, 401
		m["error"] = map[string]any{"status": "UNAUTHORIZED", "code": kind.failure, "message": "That did not work: " + strings.ToLower(strings.ReplaceAll(kind.failure, "_", " "))}
	case kind.class == "sign-in" && roll < 30:
		e.Status = storage.Pending
	case roll > 97:
		e.Status = storage.Unknown
		delete(m, "statusCode")
	}
	if e.Status == storage.Failed && kind.class == "sign-in" {
		e.UserID = ""
		m["identifier"] = name[:1] + "***@example.com"
		e.IdentifierHash = tagger.HashTag("identifier", name+"@example.com")
		m["identifierHash"] = e.IdentifierHash
		if random.IntN(3) == 0 {
			e.IPAddress = "198.51.100.23"
		}
	}
	if e.UserID != "" {
		m["sessionHash"] = tagger.HashTag("session", "of "+name)
	}
	if kind.class == "admin" {
		m["targetUserId"] = "ben-" + "0badcafe"
	}
	e.Severity = severity.Infer(severity.Event{Action: e.Action, Class: kind.class, Failed: e.Status == storage.Failed})
	e.Metadata, _ = json.Marshal(m)
	e.Sanitize()
	return e
}

// idAt is a UUIDv7 of that time.
func idAt(at time.Time, random *rand.Rand) string {
	var u uuid.UUID
	ms := uint64(at.UnixMilli())
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	for i := 6; i < 16; i++ {
		u[i] = byte(random.IntN(256))
	}
	u[6], u[8] = u[6]&0x0f|0x70, u[8]&0x3f|0x80
	return u.String()
}

// filled is a memory store with entries.
func filled(t testing.TB, entries []storage.Entry) *memory.Store {
	t.Helper()
	store := memory.New(len(entries) + 1000)
	if err := store.Write(context.Background(), entries...); err != nil {
		t.Fatal(err)
	}
	return store
}

// endless is a store of ten million entries that are computed: one every 800 ms.
type endless struct{ newest time.Time }

const (
	endlessSize = 10_000_000
	endlessStep = 777600 * time.Microsecond // 90 days
)

func (s *endless) Write(context.Context, ...storage.Entry) error { return nil }

// nth is the entry that is n before the newest.
func (s *endless) nth(n int) storage.Entry {
	at := s.newest.Add(-time.Duration(n) * endlessStep).Truncate(time.Millisecond)
	random := rand.New(rand.NewPCG(7, uint64(n)))
	e := plausible(random, nil10M, at)
	e.ID = fmt.Sprintf("00000000-0000-7000-8000-%012d", n)
	return e
}

var nil10M = func() *redact.Redactor {
	r, err := redact.New(redact.Options{Key: []byte(strings.Repeat("k", 32))})
	if err != nil {
		panic(err)
	}
	return r
}()

func (s *endless) Get(_ context.Context, id string) (storage.Entry, error) {
	var n int
	if _, err := fmt.Sscanf(id, "00000000-0000-7000-8000-%d", &n); err != nil || n >= endlessSize {
		return storage.Entry{}, storage.ErrNotFound
	}
	return s.nth(n), nil
}

func (s *endless) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	if q.Text != "" { // as a text does in so many
		<-ctx.Done()
		return storage.Page{}, ctx.Err()
	}
	first := 0
	if q.Cursor != "" {
		if _, err := fmt.Sscanf(q.Cursor, "at-%d", &first); err != nil {
			return storage.Page{}, storage.ErrBadCursor
		}
	}
	page := storage.Page{Total: storage.MaxTotal, TotalIsCapped: true}
	for n := first; n < endlessSize && len(page.Entries) < q.PageLimit(); n++ {
		if e := s.nth(n); q.Matches(&e) {
			page.Entries = append(page.Entries, e)
		}
		page.NextCursor = fmt.Sprintf("at-%d", n+1)
	}
	return page, nil
}

func (s *endless) Histogram(_ context.Context, q storage.Query, step time.Duration) (out []storage.Bucket, err error) {
	for at := q.From.Truncate(step); at.Before(q.To); at = at.Add(step) {
		n := int(step / endlessStep)
		wave := 0.55 + 0.45*float64(at.Hour()%24)/24
		b := storage.Bucket{At: at}
		b.Counts[storage.Success.Code()], b.Counts[storage.Failed.Code()] = int(float64(n)*wave), n/7
		b.Counts[storage.Pending.Code()], b.Counts[storage.Unknown.Code()] = n/20, n/90
		out = append(out, b)
	}
	return out, nil
}

func (s *endless) Tally(context.Context, storage.Query) ([]storage.Tally, error) {
	return []storage.Tally{{Action: "sign-in:email", Class: "sign-in", Status: storage.Success, Count: endlessSize}}, nil
}

// newest is the newest entry of a memory store.
func (s *site) newest() storage.Entry {
	s.t.Helper()
	entries := s.store.(*memory.Store).Entries()
	if len(entries) == 0 {
		s.t.Fatal("the store is empty")
	}
	return entries[len(entries)-1]
}
