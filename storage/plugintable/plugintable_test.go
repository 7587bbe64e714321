package plugintable_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/plugintable"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// lines reads JSON lines and fails on an error of the whole.
func lines(t *testing.T, text string) []plugintable.Row {
	t.Helper()
	var all []plugintable.Row
	for r, err := range plugintable.JSONLines(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestEveryFormOfTimeIsRead(t *testing.T) {
	const want = "2026-01-02T03:04:05.678Z"
	for form, wanted := range map[string]string{
		`1767323045678`:                             want,
		`"1767323045678"`:                           want,
		`1767323045`:                                "2026-01-02T03:04:05.000Z",
		`1767323045.678`:                            want,
		`1767323045678901`:                          want,
		`1767323045678901234`:                       want,
		`"2026-01-02T03:04:05.678Z"`:                want,
		`"2026-01-02T05:04:05.678+02:00"`:           want,
		`"2026-01-02 03:04:05.678"`:                 want,
		`"2026-01-02 03:04:05.678+00"`:              want,
		`"2026-01-02T03:04:05.678901"`:              want,
		`{"$date":"2026-01-02T03:04:05.678Z"}`:      want,
		`{"$date":{"$numberLong":"1767323045678"}}`: want,
	} {
		rows := lines(t, `{"id":"a","action":"x","createdAt":`+form+`}`)
		if len(rows) != 1 || rows[0].Err != nil {
			t.Errorf("%s: %+v", form, rows)
			continue
		}
		if got := rows[0].Entry.CreatedAt.Format(storage.TimeLayout); got != wanted {
			t.Errorf("%s is %s, want %s", form, got, wanted)
		}
	}
	for _, bad := range []string{`null`, `"yesterday"`, `true`, `"NaN"`, `{"x":1}`, `"0001-01-01T00:00:00Z"`, `-1`, `"2300-01-01"`, `50000000000`, `1e300`} {
		if rows := lines(t, `{"id":"a","action":"x","createdAt":`+bad+`}`); rows[0].Err == nil {
			t.Errorf("%s became %v", bad, rows[0].Entry.CreatedAt)
		}
	}
}

func TestRowsBecomeEntries(t *testing.T) {
	const rest = `,"action":"sign-in:email","status":"failed","createdAt":1767323045678`
	for _, c := range []struct {
		name, line string
		want       func(e storage.Entry) bool
	}{
		{"all columns", `{"id":"a","userId":"u","severity":"critical","ipAddress":"::1","userAgent":"x/1","metadata":"{\"n\":1}"` + rest + `}`, func(e storage.Entry) bool {
			return e.ID == "a" && e.UserID == "u" && e.Severity == severity.Critical && e.IPAddress == "::1" && e.UserAgent == "x/1" && string(e.Metadata) == `{"source":"import","n":1}` && e.Status == storage.Failed
		}},
		{"nulls", `{"id":"a","userId":null,"severity":null,"ipAddress":null,"metadata":null` + rest + `}`, func(e storage.Entry) bool {
			return e.UserID == "" && e.IPAddress == "" && string(e.Metadata) == `{"source":"import"}` && e.Severity == severity.High
		}},
		{"snake case", `{"id":"a","user_id":"u","user_agent":"x","action":"b","created_at":1767323045678}`, func(e storage.Entry) bool { return e.UserID == "u" && e.UserAgent == "x" }},
		{"MongoDB", `{"_id":{"$oid":"65f0"},"action":"b","createdAt":{"$date":"2026-01-02T03:04:05Z"}}`, func(e storage.Entry) bool { return e.ID == "65f0" }},
		{"_id beside id", `{"_id":{"$oid":"65f0"},"id":"a"` + rest + `}`, func(e storage.Entry) bool { return e.ID == "a" }},
		{"numeric id", `{"id":12345678901234567` + rest + `}`, func(e storage.Entry) bool { return e.ID == "12345678901234567" }},
		{"metadata as an object", `{"id":"a","metadata":{"n":1}` + rest + `}`, func(e storage.Entry) bool { return string(e.Metadata) == `{"source":"import","n":1}` }},
		{"metadata as a list", `{"id":"a","metadata":"[1,2]"` + rest + `}`, func(e storage.Entry) bool { return string(e.Metadata) == `{"source":"import","value":[1,2]}` }},
		{"metadata that is no JSON", `{"id":"a","metadata":"oh"` + rest + `}`, func(e storage.Entry) bool { return string(e.Metadata) == `{"source":"import","value":"oh"}` }},
		{"metadata as JSON with signs of HTML", `{"id":"a","metadata":{"n":"<&>"}` + rest + `}`, func(e storage.Entry) bool { return string(e.Metadata) == `{"source":"import","n":"<&>"}` }},
		{"metadata that poses as what is observed", `{"id":"a","metadata":"{\"class\":\"admin\",\"source\":\"recorder\",\"\\u0063lass\":\"x\"}"` + rest + `}`, func(e storage.Entry) bool {
			return string(e.Metadata) == `{"source":"import","importedClass":"admin","importedSource":"recorder","importedClass":"x"}` && storage.ClassIn(e.Metadata) == ""
		}},
		{"an action of the log's own", `{"id":"a","action":"Audit-Log:stopped","createdAt":1}`, func(e storage.Entry) bool { return e.Action == "imported:Audit-Log:stopped" }},
		{"a status of another kind", `{"id":"a","action":"b","status":"maybe","createdAt":1}`, func(e storage.Entry) bool { return e.Status == storage.Unknown }},
		{"NUL and bad UTF-8", `{"id":"a","userId":"u\u0000\ud800"` + rest + `}`, func(e storage.Entry) bool { return e.UserID == "u\uFFFD\uFFFD" }},
	} {
		rows := lines(t, c.line)
		if len(rows) != 1 || rows[0].Err != nil || !c.want(rows[0].Entry) {
			b, _ := json.Marshal(rows[0].Entry)
			t.Errorf("%s: %v, %s", c.name, rows[0].Err, b)
		}
	}
}

func TestBadRowsDoNotCostTheOthers(t *testing.T) {
	text := "\ufeff" + `{"id":"a","action":"x","createdAt":1}

not json
{"action":"x","createdAt":1}
{"id":"b","createdAt":1}
{"id":"` + strings.Repeat("x", 65) + `","action":"x","createdAt":1}
{"id":"c","action":"x","createdAt":"2026-01-02T03:04:05Z"},
{"id":"d","action":"x","createdAt":1}{"id":"e","action":"x","createdAt":1}`
	s := memory.New(0)
	result, err := plugintable.Copy(t.Context(), plugintable.JSONLines(strings.NewReader(text)), s, nil)
	if err != nil || result.Written != 2 || result.Skipped != 5 || len(s.Entries()) != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	for i, want := range []string{"row 3: it is no JSON", "row 4: it has no id", "row 5: it has no action", "row 6: its id is longer", "row 8: something stands behind"} {
		if !strings.HasPrefix(result.Reasons[i], want) {
			t.Errorf("reason %q, want %q", result.Reasons[i], want)
		}
	}
}

// plugin makes a table as the plugin's README has it.
func plugin(t *testing.T, table string, rows int) *sql.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec(`CREATE TABLE "` + table + `" (id TEXT PRIMARY KEY, userId TEXT, action TEXT NOT NULL, status TEXT NOT NULL,
		severity TEXT NOT NULL, ipAddress TEXT, userAgent TEXT, metadata TEXT, createdAt DATE NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if _, err := db.Exec(`INSERT INTO "`+table+`" VALUES (?,?,'sign-in:email','success','medium','203.0.113.7','x/1','{"n":1}',?)`,
			fmt.Sprintf("id-%04d", i), fmt.Sprintf("user-%d", i%3), fmt.Sprintf("2026-01-02T03:%02d:%02d.000Z", i/60%60, i%60)); err != nil {
			t.Fatal(err)
		}
	}
	foreign, err := sqlite.OpenForeign(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = foreign.Close() })
	return foreign
}

func TestCopyingATableTwiceGivesTheSameEntries(t *testing.T) {
	for _, table := range []string{"auditLog", "odd name"} {
		db, s := plugin(t, table, 450), memory.New(0)
		if n, err := plugintable.Count(t.Context(), db, table); err != nil || n != 450 {
			t.Fatalf("%d rows, %v", n, err)
		}
		calls := 0
		for range 2 {
			result, err := plugintable.Copy(t.Context(), plugintable.SQLite(t.Context(), db, table), s, func(plugintable.Result) { calls++ })
			if err != nil || result.Written != 450 || result.Skipped != 0 {
				t.Fatalf("%+v, %v", result, err)
			}
		}
		entries := s.Entries()
		if len(entries) != 450 || calls < 6 {
			t.Fatalf("%d entries, %d calls of progress", len(entries), calls)
		}
		if e := entries[61]; e.ID != "id-0061" || e.UserID != "user-1" || e.CreatedAt.Format(storage.TimeLayout) != "2026-01-02T03:01:01.000Z" {
			t.Errorf("%+v", e)
		}
	}
}

func TestAMissingTableIsNamed(t *testing.T) {
	if _, err := plugintable.Count(t.Context(), plugin(t, "audit_logs", 0), "auditLog"); err == nil || !strings.Contains(err.Error(), `no table "auditLog"`) {
		t.Error(err)
	}
}

func TestCopyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	db := plugin(t, "auditLog", 450)
	result, err := plugintable.Copy(ctx, plugintable.SQLite(t.Context(), db, "auditLog"), memory.New(0), func(plugintable.Result) { cancel() })
	if !errors.Is(err, context.Canceled) || result.Written != 200 {
		t.Errorf("%+v, %v", result, err)
	}
}
