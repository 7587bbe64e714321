package storage

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
)

func TestEntriesHaveThePluginsJSON(t *testing.T) {
	e := Entry{
		ID: "01a2", Action: "sign-in:email", Status: Failed, Severity: severity.High,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6789012, time.FixedZone("", 3600)),
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"01a2","userId":null,"action":"sign-in:email","status":"failed","severity":"high","ipAddress":null,"userAgent":null,"metadata":{},"createdAt":"2026-01-02T02:04:05.006Z"}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	var back Entry
	if err := json.Unmarshal(b, &back); err != nil || back.Status != Failed || back.UserID != "" {
		t.Errorf("%+v, %v", back, err)
	}
}

// TestNoValueCostsAnEntry: whatever the bytes, a sanitised entry is storable in
// any store and its JSON is valid.
func TestNoValueCostsAnEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hostile := rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "bytes")) })
		e := Entry{
			ID: hostile.Draw(t, "id"), UserID: hostile.Draw(t, "user"), Action: hostile.Draw(t, "action"), Status: Status(hostile.Draw(t, "status")),
			IPAddress: hostile.Draw(t, "ip"), UserAgent: hostile.Draw(t, "agent"), Metadata: json.RawMessage(hostile.Draw(t, "metadata")),
			CreatedAt: time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "time"), 0),
		}
		e.Sanitize()
		for name, f := range map[string]struct {
			value string
			limit int
		}{
			"id": {e.ID, MaxID}, "user": {e.UserID, MaxUserID}, "action": {e.Action, MaxAction}, "ip": {e.IPAddress, MaxIPAddress},
			"agent": {e.UserAgent, MaxUserAgent}, "metadata": {string(e.Metadata), MaxMetadata},
		} {
			if len(f.value) > f.limit || !utf8.ValidString(f.value) || strings.Contains(f.value, "\x00") || strings.Contains(f.value, `\u0000`) && name == "metadata" {
				t.Fatalf("%s: %q", name, f.value)
			}
		}
		if !e.Status.Valid() || e.ID == "" || e.SortKey() < 0 || e.Metadata[0] != '{' {
			t.Fatalf("%+v", e)
		}
		if b, err := json.Marshal(e); err != nil || !json.Valid(b) {
			t.Fatalf("%s, %v", b, err)
		}
	})
}

func TestMetadataKeepsAnEscapedBackslash(t *testing.T) {
	e := Entry{Metadata: json.RawMessage(`{"a":"x\u0000y","b":"x\\u0000y","c":"\\\u0000"}`)}
	e.Sanitize()
	if got, want := string(e.Metadata), `{"a":"x\ufffdy","b":"x\\u0000y","c":"\\\ufffd"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCleanCutsOnARune(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"short", 10, "short"}, {"exactly-10", 10, "exactly-10"}, {"exactly-11x", 10, "exactly…"}, {"éééééé", 10, "ééé…"}, {"a\x00b\xffc", 20, "a\uFFFDb\uFFFDc"},
	} {
		if got := Clean(c.in, c.limit); got != c.want {
			t.Errorf("Clean(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestLongIDsOfUsersStayApart(t *testing.T) {
	long := strings.Repeat("é", 150)
	a, b := CleanUserID(long+"a"), CleanUserID(long+"b")
	if a == b || len(a) > MaxUserID || !utf8.ValidString(a) || CleanUserID(a) != a || !strings.HasPrefix(a, "éé") || !strings.Contains(a, "…#") {
		t.Errorf("%q and %q", a, b)
	}
	if short := strings.Repeat("x", MaxUserID); CleanUserID(short) != short || CleanUserID("a\x00") != "a\uFFFD" {
		t.Error("what fits is changed, or what is no text is not")
	}
}

func TestSortKeysFollowTimeAndThenTheID(t *testing.T) {
	var last int64
	for range 2000 {
		e := Entry{ID: NewID(), CreatedAt: time.Now()}
		e.CreatedAt = e.CreatedAt.Truncate(time.Millisecond)
		if key := e.SortKey(); key>>keyBits < last>>keyBits {
			t.Fatalf("key %d after %d", key, last)
		} else {
			last = key
		}
	}
	at := time.UnixMilli(1700000000123)
	if !KeyTime(TimeKey(at)).Equal(at) {
		t.Error("KeyTime is not the inverse of TimeKey")
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(EncodeCursor(1 << 50))
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := DecodeCursor(s)
		if err == nil && (key < 0 || EncodeCursor(key) != strings.TrimRight(s, "\r\n") && len(s) == 12) {
			t.Errorf("%q gives %d", s, key)
		}
		if err != nil && !errors.Is(err, ErrBadCursor) {
			t.Errorf("%q: %v", s, err)
		}
	})
}

func TestAnIdentifierHashThatTheMetadataDoesNotHaveIsDropped(t *testing.T) {
	for metadata, kept := range map[string]bool{
		`{"identifierHash":"tag"}`: true, `{"identifierHash":"other"}`: false, `{"identifierHash":7}`: false, `{}`: false, `no JSON`: false,
	} {
		e := Entry{IdentifierHash: "tag", Metadata: json.RawMessage(metadata)}
		e.Sanitize()
		if (e.IdentifierHash == "tag") != kept || !kept && e.IdentifierHash != "" {
			t.Errorf("%s: %q", metadata, e.IdentifierHash)
		}
	}
}

// TestAnIDLeadsToTheSortKey of an entry that was created when the id was made for, and of
// no other.
func TestAnIDLeadsToTheSortKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(0, rapid.Int64Range(-1e18, 9e18).Draw(t, "nanoseconds"))
		e := Entry{ID: NewIDAt(at), CreatedAt: at}
		if key, ok := IDKey(e.ID); !ok || key != e.SortKey() {
			t.Fatalf("%s of %v leads to %x, %v; want %x", e.ID, at, key, ok, e.SortKey())
		}
		if u := uuid.MustParse(e.ID); u.Version() != 7 || u.Variant() != uuid.RFC4122 {
			t.Fatalf("%s is no UUIDv7", e.ID)
		}
		later := Entry{ID: NewIDAt(at.Add(time.Microsecond)), CreatedAt: at.Add(time.Microsecond)}
		if at.After(time.Unix(1, 0)) && at.Nanosecond()%1e6 != 0 && later.CreatedAt.Nanosecond()%1e6 != 0 && later.SortKey() <= e.SortKey() {
			t.Fatalf("a microsecond later: %x, then %x", e.SortKey(), later.SortKey())
		}
	})
	for _, id := range []string{"", "x", uuid.NewString(), strings.ToUpper(NewID()), "{" + NewID()[:34] + "}", "urn:uuid:" + NewID()[:27]} {
		if key, ok := IDKey(id); ok {
			t.Errorf("%q leads to %x", id, key)
		}
	}
}
