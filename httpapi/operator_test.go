package httpapi_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// operator serves the operators' surface over a store.
func operator(t *testing.T, store storage.Store) *httptest.Server {
	t.Helper()
	redactor, err := redact.New(redact.Options{Key: make([]byte, 32)})
	must(t, err)
	server := httptest.NewServer(httpapi.NewOperator(httpapi.OperatorOptions{Redactor: redactor}).Handler(store))
	t.Cleanup(server.Close)
	return server
}

// fetch is the status and the body of a GET.
func fetch(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(body)
}

// many writes n entries, a minute apart, of three users, and returns their ids, newest
// first.
func many(t *testing.T, store storage.Store, n int) (ids []string) {
	t.Helper()
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		e := storage.Entry{
			UserID: fmt.Sprintf("user-%d", i%3), Action: []string{"sign-in:email", "sign-out"}[i%2], Status: []storage.Status{storage.Success, storage.Failed}[i%2],
			Severity: severity.Medium, IPAddress: fmt.Sprintf("192.0.2.%d", i%5), UserAgent: "agent", CreatedAt: begin.Add(time.Duration(i) * time.Minute),
			Metadata: fmt.Appendf(nil, `{"class":%q,"n":%d}`, []string{"sign-in", "sign-out"}[i%2], i),
		}
		e.Sanitize()
		must(t, store.Write(t.Context(), e))
		ids = append(ids, e.ID)
	}
	slices.Reverse(ids)
	return ids
}

func TestOperatorsReadEverything(t *testing.T) {
	store := memory.New(0)
	ids := many(t, store, 10)
	s := operator(t, store)
	for query, want := range map[string]int{
		"": 10, "?scope=own": 10, "?userId=user-1": 3, "?userId=": 0, "?class=sign-in": 5, "?class=sign-in&ip=192.0.2.0": 1, "?ip=192.0.2.1": 2, "?q=AGENT": 10, "?identifier=a@example.com": 0,
	} {
		var page struct {
			Entries []struct{ ID, UserAgent string }
			Total   int
		}
		status, body := fetch(t, s.URL+"/list"+query)
		must(t, json.Unmarshal([]byte(body), &page))
		if status != 200 || page.Total != want || want > 0 && page.Entries[0].UserAgent != "agent" {
			t.Errorf("list%s: %d %s, want %d entries", query, status, body, want)
		}
	}
	if status, body := fetch(t, s.URL+"/"+ids[0]); status != 200 || !strings.Contains(body, `"userAgent":"agent"`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := fetch(t, s.URL+"/access"); status != 200 || !strings.Contains(body, `"surface":"operator","userId":null,"everything":true`) {
		t.Errorf("%d %s", status, body)
	}
}

// TestAnAttemptIsFoundByWhatWasTyped, whosever it was, and only by operators and
// administrators.
func TestAnAttemptIsFoundByWhatWasTyped(t *testing.T) {
	api := accessAPI(t, memory.New(0))
	entries := accessEntries(t, api)
	tag := api.Redactor.HashTag("identifier", "bob@example.com")
	for _, query := range []string{"?identifier=+BOB@Example.com", "?identifierHash=" + tag} {
		for name, want := range map[string]int{"role": 200, "id": 200, "user": 403, "impersonating": 403, "stranger": 401} {
			got := api.as(t, name, "/list"+query)
			if found := strings.Contains(got.Body.String(), entries["failed at bob's"].ID); got.Code != want || found != (want == 200) || strings.Contains(got.Body.String(), entries["failed at root's"].ID) {
				t.Errorf("%s list%s: %d %s", name, query, got.Code, got.Body)
			}
		}
	}
	for _, query := range []string{"?identifier=a&identifierHash=b", "?identifier=a&userId=bob"} {
		if got := api.as(t, "role", "/list"+query); got.Code != 400 {
			t.Errorf("%s: %d %s", query, got.Code, got.Body)
		}
	}
}

func TestEntriesAreCounted(t *testing.T) {
	store := memory.New(0)
	many(t, store, 120)
	s := operator(t, store)
	status, body := fetch(t, s.URL+"/histogram?from=2026-03-01T00:00:00Z&to=2026-03-01T04:00:00Z&step=3600000&userId=user-0")
	want := `{"from":"2026-03-01T00:00:00.000Z","to":"2026-03-01T04:00:00.000Z","step":3600000,"buckets":[` +
		`{"at":"2026-03-01T00:00:00.000Z","success":10,"failed":10,"pending":0,"unknown":0,"events":{"success":10,"failed":10,"pending":0,"unknown":0}},` +
		`{"at":"2026-03-01T01:00:00.000Z","success":10,"failed":10,"pending":0,"unknown":0,"events":{"success":10,"failed":10,"pending":0,"unknown":0}}]}`
	if status != 200 || body != want {
		t.Errorf("%d %s\nwant %s", status, body, want)
	}
	if status, body := fetch(t, s.URL+"/tally?class=sign-in"); status != 200 || body != `{"groups":[{"action":"sign-in:email","class":"sign-in","status":"success","severity":"medium","count":60,"events":60}]}` {
		t.Errorf("%d %s", status, body)
	}
	for _, query := range []string{"", "from=2026-03-01", "step=60000", "from=2026-03-01&step=0", "from=2026-03-01&step=x", "from=2026-03-01&to=2026-03-02&step=1000", "from=2026-03-01&step=9e99"} {
		if status, body := fetch(t, s.URL+"/histogram?"+query); status != 400 || !strings.Contains(body, "VALIDATION_ERROR") {
			t.Errorf("histogram?%s: %d %s", query, status, body)
		}
	}
}

// TestAFloodIsCounted as the events that it was, not only as the entries that it left.
func TestAFloodIsCounted(t *testing.T) {
	store := memory.New(0)
	for i := range 21 {
		e := storage.Entry{Action: "sign-in:email", Status: storage.Failed, Severity: severity.High, Metadata: []byte(`{"class":"sign-in"}`), CreatedAt: time.Date(2026, 3, 1, 0, 0, i, 0, time.UTC)}
		if i == 20 {
			e.Action, e.Metadata = storage.RolledUp+"sign-in", []byte(`{"count":480,"class":"sign-in"}`)
		}
		e.Sanitize()
		if err := store.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	ofFlood := []string{
		`{"groups":[{"action":"audit-log:rolled-up:sign-in","class":"sign-in","status":"failed","severity":"high","count":1,"events":480},` +
			`{"action":"sign-in:email","class":"sign-in","status":"failed","severity":"high","count":20,"events":20}]}`,
		`"buckets":[{"at":"2026-03-01T00:00:00.000Z","success":0,"failed":21,"pending":0,"unknown":0,"events":{"success":0,"failed":500,"pending":0,"unknown":0}}]}`,
	}
	for name, c := range map[string]struct {
		store storage.Store
		want  []string
	}{
		"events":    {store, ofFlood},
		"no events": {withoutEvents{store}, []string{`"count":1,"events":1}`, `"failed":21,"pending":0,"unknown":0,"events":{"success":0,"failed":21,`}},
	} {
		s := operator(t, c.store)
		for i, path := range []string{"/tally", "/histogram?from=2026-03-01&to=2026-03-02&step=3600000"} {
			if status, body := fetch(t, s.URL+path); status != 200 || !strings.Contains(body, c.want[i]) {
				t.Errorf("a store that tells of %s, %s: %d %s, want %s", name, path, status, body, c.want[i])
			}
		}
	}
}

// withoutEvents is a store of before there were any.
type withoutEvents struct{ *memory.Store }

func (s withoutEvents) Histogram(ctx context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	list, err := s.Store.Histogram(ctx, q, step)
	for i := range list {
		list[i].Events = [storage.StatusCodes]int{}
	}
	return list, err
}

func (s withoutEvents) Tally(ctx context.Context, q storage.Query) ([]storage.Tally, error) {
	list, err := s.Store.Tally(ctx, q)
	for i := range list {
		list[i].Events = 0
	}
	return list, err
}

func TestAnExportIsWhatTheListPagesAre(t *testing.T) {
	store := memory.New(0)
	ids := many(t, store, 1203)
	s := operator(t, store)
	_, body := fetch(t, s.URL+"/export?format=jsonl")
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	var listed []json.RawMessage
	for cursor := ""; ; {
		var page struct {
			Entries    []json.RawMessage
			NextCursor string
		}
		_, body := fetch(t, s.URL+"/list?limit=400&cursor="+cursor)
		must(t, json.Unmarshal([]byte(body), &page))
		listed = append(listed, page.Entries...)
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(lines) != len(ids) || len(listed) != len(ids) {
		t.Fatalf("%d lines, %d listed, of %d", len(lines), len(listed), len(ids))
	}
	for i := range lines {
		if lines[i] != string(listed[i]) {
			t.Fatalf("line %d is %s, listed %s", i, lines[i], listed[i])
		}
	}
	_, body = fetch(t, s.URL+"/export?format=csv&userId=user-1")
	records, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	must(t, err)
	if len(records) != 402 || strings.Join(records[0], " ") != "id createdAt userId action class status severity ipAddress userAgent metadata" {
		t.Errorf("%d records, the first %q", len(records), records[0])
	}
	if strings.Count(body, "\r\n") != len(records) || strings.Count(body, "\n") != len(records) {
		t.Error("not all lines end in CRLF")
	}
	_, body = fetch(t, s.URL+"/export?format=parquet")
	rows, err := parquet.Read[struct {
		ID        string  `parquet:"id"`
		UserID    *string `parquet:"userId"`
		UserAgent *string `parquet:"userAgent"`
		Metadata  string  `parquet:"metadata"`
		CreatedAt int64   `parquet:"createdAt"`
	}](strings.NewReader(body), int64(len(body)))
	must(t, err)
	for i, id := range ids {
		if len(rows) != len(ids) || rows[i].ID != id || rows[i].UserID == nil || *rows[i].UserAgent != "agent" || !json.Valid([]byte(rows[i].Metadata)) || time.UnixMilli(rows[i].CreatedAt).Year() != 2026 {
			t.Fatalf("%d rows, %+v", len(rows), rows[i])
		}
	}
	for _, query := range []string{"", "format=xml", "format=csv&format=csv", "format=csv&limit=x", "format=csv&cursor=x"} {
		if status, body := fetch(t, s.URL+"/export?"+query); status != 400 {
			t.Errorf("export?%s: %d %s", query, status, body)
		}
	}
}

// TestRowGroupsAreBounded: a Parquet file is written in parts, whatever is in it.
func TestRowGroupsAreBounded(t *testing.T) {
	store := memory.New(0)
	for range 3000 {
		e := entryOf("alice", "large")
		e.Metadata = fmt.Appendf(nil, `{"p":%q}`, strings.Repeat("x", 8<<10))
		must(t, store.Write(t.Context(), e))
	}
	_, body := fetch(t, operator(t, store).URL+"/export?format=parquet")
	f, err := parquet.OpenFile(strings.NewReader(body), int64(len(body)))
	must(t, err)
	if groups := len(f.RowGroups()); f.NumRows() != 3000 || groups != 2 {
		t.Errorf("%d rows in %d groups", f.NumRows(), groups)
	}
}

// breaks is a store that fails after some pages.
type breaks struct {
	*memory.Store
	pages int
}

// List implements storage.Lister.
func (b *breaks) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	if b.pages--; b.pages < 0 {
		return storage.Page{}, errors.New("disk on fire")
	}
	return b.Store.List(ctx, q)
}

func TestAnExportThatBreaksOffDoesNotLookComplete(t *testing.T) {
	store := memory.New(0)
	many(t, store, 1203)
	s := operator(t, &breaks{store, 2})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/export?format=jsonl", nil)
	must(t, err)
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	n := 0
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		n++
	}
	if res.StatusCode != 200 || lines.Err() == nil || n > 1001 {
		t.Errorf("%d, %d lines, then %v", res.StatusCode, n, lines.Err())
	}
}

func TestOtherSitesGetNothingFromTheOperatorsSurface(t *testing.T) {
	store := memory.New(0)
	many(t, store, 1)
	redactor, err := redact.New(redact.Options{Key: make([]byte, 32)})
	must(t, err)
	page := func(w http.ResponseWriter, _ *http.Request, path string) { _, _ = io.WriteString(w, "page "+path) }
	s := httptest.NewServer(httpapi.NewOperator(httpapi.OperatorOptions{Redactor: redactor, Page: page}).Handler(store))
	defer s.Close()
	for _, c := range []struct {
		method, path, site, mode, dest string
		want                           int
	}{
		{"GET", "/list", "", "", "", 200}, {"GET", "/list", "none", "navigate", "document", 200}, {"GET", "/list", "same-origin", "cors", "empty", 200},
		{"GET", "/list", "cross-site", "no-cors", "image", 403}, {"GET", "/list", "cross-site", "navigate", "document", 403}, {"GET", "/list", "same-site", "cors", "empty", 403},
		{"GET", "/", "cross-site", "navigate", "document", 200}, {"GET", "/", "cross-site", "navigate", "iframe", 403}, {"GET", "/viewer/app.js", "cross-site", "no-cors", "script", 403},
		{"GET", "/viewer/app.js", "same-origin", "cors", "script", 200}, {"HEAD", "/list", "", "", "", 200}, {"HEAD", "/export", "", "", "", 405}, {"POST", "/list", "", "", "", 405},
		{"POST", "/insert", "", "", "", 405}, {"OPTIONS", "/list", "", "", "", 405}, {"GET", "/insert/x", "", "", "", 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, s.URL+c.path, nil)
		must(t, err)
		r.Header.Set("Origin", "https://evil.example")
		for name, v := range map[string]string{"Sec-Fetch-Site": c.site, "Sec-Fetch-Mode": c.mode, "Sec-Fetch-Dest": c.dest} {
			if v != "" {
				r.Header.Set(name, v)
			}
		}
		res, err := http.DefaultClient.Do(r)
		must(t, err)
		_ = res.Body.Close()
		if res.StatusCode != c.want || res.Header.Get("Access-Control-Allow-Origin") != "" || res.Header.Get("Cache-Control") != "no-store, private" {
			t.Errorf("%+v: %d %v", c, res.StatusCode, res.Header)
		}
	}
}

// TestAnAddressIsFoundInAnySpelling, and what is none is refused in words instead of finding nothing.
func TestAnAddressIsFoundInAnySpelling(t *testing.T) {
	store := memory.New(0)
	for _, ip := range []string{"127.0.0.1", "2001:0db8:0000:0000:0000:0000:0000:0001", "::ffff:192.0.2.7", "a rule's"} { // as an import brings them
		e := storage.Entry{Action: "sign-out", IPAddress: ip}
		e.Sanitize()
		must(t, store.Write(t.Context(), e))
	}
	s := operator(t, store)
	for ip, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "\t127.0.0.1\t": "127.0.0.1", "::ffff:127.0.0.1": "127.0.0.1", "::ffff:7f00:1": "127.0.0.1", "::ffff:127.0.0.1%eth0": "127.0.0.1",
		"2001:DB8:0::1": "2001:db8::1", "2001:db8::1": "2001:db8::1", "192.0.2.7": "192.0.2.7",
	} {
		status, body := fetch(t, s.URL+"/list?ip="+url.QueryEscape(ip))
		if status != 200 || !strings.Contains(body, `"ipAddress":"`+want+`"`) || !strings.Contains(body, `"total":1`) {
			t.Errorf("%s: %d %s, want the one of %s", ip, status, body, want)
		}
	}
	for ip, want := range map[string]string{
		"127.0.0.0/8": "is a network", "2001:db8::/32": "is a network", "127.0.0": "give one such as", "localhost": "give one such as", "127.0.0.1:80": "give one such as", "[::1]": "give one such as",
	} {
		if status, body := fetch(t, s.URL+"/list?ip="+url.QueryEscape(ip)); status != 400 || !strings.Contains(body, "[query.ip] Invalid address: ") || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", ip, status, body)
		}
	}
	if status, body := fetch(t, s.URL+"/list?ip="); status != 200 || !strings.Contains(body, `"total":4`) {
		t.Errorf("an empty filter: %d %s", status, body)
	}
}

// TestSecondsAreNoMilliseconds: as such they would be January 1970, and select everything.
func TestSecondsAreNoMilliseconds(t *testing.T) {
	store := memory.New(0)
	many(t, store, 1)
	s := operator(t, store)
	for at, want := range map[string]string{"1796147725": "1796147725000", "179614772": "179614772000", "99999999999": "99999999999000"} {
		for _, name := range []string{"from", "to"} {
			if status, body := fetch(t, s.URL+"/list?"+name+"="+at); status != 400 || !strings.Contains(body, "[query."+name+"] Invalid date: "+at+" looks like seconds") || !strings.Contains(body, "such as "+want) {
				t.Errorf("%s=%s: %d %s", name, at, status, body)
			}
		}
	}
	for query, want := range map[string]string{"from=1700000000000": `"total":1`, "from=1796147725000": `"total":0`, "to=100000000000": `"total":0`} {
		if status, body := fetch(t, s.URL+"/list?"+query); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
}
