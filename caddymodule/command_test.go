package caddymodule

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func TestTimesOfFlags(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"7d": "2026-02-22T12:00:00Z", "24h": "2026-02-28T12:00:00Z", "90m": "2026-03-01T10:30:00Z", "0s": "2026-03-01T12:00:00Z",
		"2026": "2026-01-01T00:00:00Z", "2026-02": "2026-02-01T00:00:00Z", "2026-02-03": "2026-02-03T00:00:00Z", "2026-02-03 04:05": "2026-02-03T04:05:00Z",
		"2026-02-03T04:05:06": "2026-02-03T04:05:06Z", "2026-02-03T04:05:06.789+02:00": "2026-02-03T02:05:06Z", "2026-02-03T04:05Z": "2026-02-03T04:05:00Z",
	} {
		if got, err := parseTime(text, now); err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s is %s, want %s: %v", text, got, want, err)
		}
	}
	for _, text := range []string{"", "-7d", "yesterday", "2026-13-01", "7", "1e9"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}

// TestWhatToNamesCountsToItsEnd: entries have milliseconds.
func TestWhatToNamesCountsToItsEnd(t *testing.T) {
	for text, want := range map[string]string{
		"2026": "2026-12-31T23:59:59.999Z", "2026-02": "2026-02-28T23:59:59.999Z", "2026-02-03": "2026-02-03T23:59:59.999Z",
		"2026-02-03T04:05": "2026-02-03T04:05:59.999Z", "2026-02-03 04:05": "2026-02-03T04:05:59.999Z", "2026-02-03T04:05+02:00": "2026-02-03T02:05:59.999Z",
		"2026-02-03T04:05:06Z": "2026-02-03T04:05:06.999Z", "2026-02-03T04:05:06": "2026-02-03T04:05:06.999Z", "2026-02-03 04:05:06": "2026-02-03T04:05:06.999Z", "2026-02-03T04:05:06+02:00": "2026-02-03T02:05:06.999Z",
		"2026-02-03T04:05:06.000Z": "2026-02-03T04:05:06.000Z", "2026-02-03T04:05:06,5Z": "2026-02-03T04:05:06.500Z", "1h": "2026-03-01T11:00:00.000Z",
	} {
		at, err := parseTime(text, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		if got := endOf(text, at).UTC().Format(storage.TimeLayout); err != nil || got != want {
			t.Errorf("%s ends %s, want %s: %v", text, got, want, err)
		}
	}
}

// TestANumberIsNoTime: seconds read as milliseconds would be January 1970, and select everything.
func TestANumberIsNoTime(t *testing.T) {
	for text, meant := range map[string]string{"1796147725": "2026-12-01T17:55:25Z", "1796147725000": "2026-12-01T17:55:25Z"} {
		if _, err := parseTime(text, time.Now()); err == nil || !strings.Contains(err.Error(), meant) {
			t.Errorf("%s: %v, want %s in the error", text, err, meant)
		}
	}
}

// TestStatisticsShowFewBars whatever the range is.
func TestStatisticsShowFewBars(t *testing.T) {
	to := time.Date(2026, 3, 1, 12, 34, 56, 0, time.UTC)
	for _, length := range []time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour, defaultRange, 31 * 24 * time.Hour, 366 * 24 * time.Hour, 25 * 366 * 24 * time.Hour} {
		q := url.Values{"from": {to.Add(-length).Format(storage.TimeLayout)}, "to": {to.Format(storage.TimeLayout)}}
		step, err := rangeOf(q, time.Now())
		if n := to.UnixMilli()/step.Milliseconds() - to.Add(-length).UnixMilli()/step.Milliseconds() + 1; err != nil || n > maxBars+1 {
			t.Errorf("%s has %d bars of %s: %v", length, n, step, err)
		}
	}
}

// says answers a client's questions by path.
type says map[string]string

func (s says) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(s[r.URL.Path]))}, nil
}

// TestStatisticsOfAFlood count events beside entries, and draw events: the entries grow fewer
// while a flood grows. A server of an earlier version says nothing of them.
func TestStatisticsOfAFlood(t *testing.T) {
	const tally, histogram = `{"groups":[{"action":"audit-log:rolled-up:sign-in","class":"sign-in","status":"failed","severity":"high","count":1,"events":480},
		{"action":"sign-in:email","class":"sign-in","status":"failed","severity":"medium","count":20,"events":20},
		{"action":"sign-out","class":"session","status":"success","severity":"low","count":40,"events":40}]}`,
		`{"from":"2026-03-01T00:00:00.000Z","to":"2026-03-01T02:00:00.000Z","step":3600000,"buckets":[
		{"at":"2026-03-01T00:00:00.000Z","success":40,"failed":0,"pending":0,"unknown":0,"events":{"success":40,"failed":0,"pending":0,"unknown":0}},
		{"at":"2026-03-01T01:00:00.000Z","success":0,"failed":21,"pending":0,"unknown":0,"events":{"success":0,"failed":500,"pending":0,"unknown":0}}]}`
	stats := func(tally, histogram string) (*statistics, string) {
		client := &logclient.Client{Transport: says{"/tally": tally, "/histogram": histogram}, Base: "http://log"}
		st, err := count(t.Context(), client, url.Values{}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		st.print(&screen{w: &b, width: 80})
		return st, b.String()
	}
	st, text := stats(tally, histogram)
	for _, want := range []string{
		"61 entries, 540 events from 2026-03-01 00:00:00 to", "failed               21        500\n", "success              40         40\n", "high                  1        480\n",
		"ACTION                         ENTRIES     EVENTS    SUCCESS     FAILED\naudit-log:rolled-up:sign-in          1        480          0          1\nsign-out ",
		"TIME (UTC), EACH 1H, EVENTS\n", "2026-03-01 00:00   40  ####\n", "2026-03-01 01:00  500  " + strings.Repeat("x", 57) + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not in it: %q\n%s", want, text)
		}
	}
	if b, err := json.Marshal(st); err != nil || !strings.Contains(string(b), `"total":61,"events":540,"byStatus":{"failed":21,"success":40},"eventsByStatus":{"failed":500,"success":40}`) ||
		!strings.Contains(string(b), `"audit-log:rolled-up:sign-in":{"count":1,"events":480,"success":0,"failed":1}`) || !strings.Contains(string(b), `"failed":21,"pending":0,"unknown":0,"events":{"success":0,"failed":500,`) {
		t.Errorf("%v %s", err, b)
	}
	old := regexp.MustCompile(`,"events":(\d+|\{[^}]*\})`)
	if _, text := stats(old.ReplaceAllString(tally, ""), old.ReplaceAllString(histogram, "")); !strings.HasPrefix(text, "61 entries from ") || strings.Contains(strings.ToLower(text), "event") ||
		!strings.Contains(text, "2026-03-01 01:00  21  xx") {
		t.Errorf("of an earlier version:\n%s", text)
	}
}

func TestStepsHaveNames(t *testing.T) {
	names := make([]string, len(steps))
	for i, step := range steps {
		names[i] = stepName(step)
	}
	if got := strings.Join(names, ", "); got != "1s, 10s, 1m, 5m, 15m, 1h, 3h, 6h, 12h, day, 7 days, 30 days, 365 days" {
		t.Error(got)
	}
}

// TestTablesFit every width that their first columns fit.
func TestTablesFit(t *testing.T) {
	long := strings.Repeat("x", 500)
	entries := []logclient.Entry{{ID: "id", Status: "success", Severity: "critical", Action: long, UserID: &long, IPAddress: &long, CreatedAt: "2026-02-03T04:05:06.789Z"}}
	for width := 1; width < 600; width++ {
		l := (&screen{width: width}).layoutFor(entries, false)
		if width >= 42 && l.total() > width || len(l.columns) < 3 {
			t.Errorf("%d columns of text: %d, in %d", width, l.total(), len(l.columns))
		}
	}
	if l := (&screen{width: 40}).layoutFor(entries, true); l.total() < 1500 || len(l.columns) != len(columns) {
		t.Errorf("a wide table has %d", l.total())
	}
	if l := (&screen{}).layoutFor(entries, false); l.total() < 1500 {
		t.Errorf("a table in a file has %d", l.total())
	}
}

// TestRecordsEndWhereTheyEnd: in a CSV file a line break within quotes ends nothing.
func TestRecordsEndWhereTheyEnd(t *testing.T) {
	const at = "2026-02-03T04:05:06.789Z"
	rows := []string{"\"id\",\"createdAt\",\"userAgent\"\r\n"}
	for i := range 20 {
		rows = append(rows, fmt.Sprintf("\"%d\",\"%s\",\"a\r\n\"\"b\"\",\n\"\"\r\n%s\"\r\n", i, at, strings.Repeat("long\r\n", 100*i)))
	}
	whole := strings.Join(rows, "")
	in := bufio.NewReaderSize(strings.NewReader(whole), 64)
	for i, want := range rows {
		got, err := record(in, formatCSV)
		if err != nil || string(got) != want {
			t.Fatalf("record %d is %.80q, want %.80q: %v", i, got, want, err)
		}
	}
	if _, err := record(in, formatCSV); err != io.EOF {
		t.Error(err)
	}
	for cut := range len(whole) {
		s, err := survey(bufio.NewReaderSize(strings.NewReader(whole[:cut]), 64), formatCSV)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		has := 0
		for end := len(rows[0]); has+1 < len(rows) && end+len(rows[has+1]) <= cut; has++ {
			end += len(rows[has+1])
		}
		if len(s.has) != has || has > 0 && int(s.size) != len(strings.Join(rows[:has+1], "")) {
			t.Fatalf("cut at %d: %d entries in %d bytes, want %d", cut, len(s.has), s.size, has)
		}
		if cut > 5000 {
			break
		}
	}
	if _, err := record(bufio.NewReader(strings.NewReader(strings.Repeat("x", maxRecord+1))), formatJSONL); err == nil || err == io.ErrUnexpectedEOF {
		t.Errorf("a record without an end: %v", err)
	}
}

// TestWhatLooksLikeAnAccount, as entries mask it.
func TestWhatLooksLikeAnAccount(t *testing.T) {
	for text, want := range map[string]bool{
		"ada@example.com": true, "Ada.L+x@EXAMPLE.COM": true, "ada@localhost": true, "+49 (151) 123-45678": true, "+4915112345678": true,
		"": false, "ada": false, "@example.com": false, "a***@example.com": false, "+49***78": false, "sign-in:email": false, "203.0.113.9": false, "20261201": false, "ada@exa": false,
	} {
		if isAccount(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

// TestWhatIsWrongIsSaidByFlags that there are: stats has none for the step.
func TestWhatIsWrongIsSaidByFlags(t *testing.T) {
	for said, want := range map[string]string{
		"[query.step] Too small: from and to are 8030 steps apart, expected <=2000": "--from and --to are too far apart to be counted over time: give less than 2,000 years",
		"[query.ip] Invalid address: give one":                                      "--ip: Invalid address: give one",
	} {
		if got := ofFlags(&logclient.Error{Status: 400, Code: "VALIDATION_ERROR", Message: said}).Error(); got != want {
			t.Errorf("%s is %q, want %q", said, got, want)
		}
	}
}
