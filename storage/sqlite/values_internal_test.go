package sqlite

import (
	"database/sql/driver"
	"fmt"
	"runtime"
	"testing"
	"testing/quick"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestValuesAreWhatTheyWereMadeOf: interfaces that point into memory of ours look like any
// others, however often that memory grows and whatever the collector does meanwhile.
func TestValuesAreWhatTheyWereMadeOf(t *testing.T) {
	var v values
	same := func(numbers []int64, texts []string, blobs [][]byte) bool {
		var made, want []driver.Value
		for _, n := range numbers {
			made, want = append(made, v.number(n)), append(want, n)
		}
		for _, s := range texts {
			made, want = append(made, v.text(s)), append(want, s)
		}
		for _, b := range blobs {
			made, want = append(made, v.blob(b)), append(want, append([]byte{}, b...))
		}
		runtime.GC()
		defer v.reset()
		return fmt.Sprintf("%#v", made) == fmt.Sprintf("%#v", want)
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}

// TestAnEmptyBlobIsNotNull: the driver takes a slice of nothing for NULL.
func TestAnEmptyBlobIsNotNull(t *testing.T) {
	var v values
	if b, ok := v.blob([]byte{}).([]byte); !ok || b == nil {
		t.Errorf("%#v", b)
	}
}

func TestValuesAllocateNothing(t *testing.T) {
	var v values
	e := &storage.Entry{ID: storage.NewID(), UserID: "u", Metadata: []byte(`{"method":"POST","class":"sign-in"}`)}
	var sink [6]driver.Value
	class := ""
	n := testing.AllocsPerRun(100, func() {
		v.reset()
		sink = [...]driver.Value{v.id(e.ID), v.textOrNull(e.UserID), v.hashOrNull(e.UserID), v.number(1 << 40), v.metadata(e), v.hashOrNull("")}
		class = classOf(e)
	})
	if n > 0 || sink[1] != "u" || sink[5] != nil || class != "sign-in" {
		t.Errorf("%v allocations, %v, %q", n, sink, class)
	}
}

// TestAClassIsTheSameWithoutACopy: classOf is storage.ClassIn.
func TestAClassIsTheSameWithoutACopy(t *testing.T) {
	for _, m := range []string{"", "{}", `{"class":"a"}`, `{"class":""}`, `{"class":7}`, `{"class":null}`, `{"x":{"class":"b"}}`, `{"class":"a","class":"b"}`,
		`{"cl\u0061ss":"esc"}`, `{"class":"\u00e9\n"}`, `{"class":["a"]}`, `{"class":"` + fmt.Sprintf("%065d", 1) + `"}`, `{"class":"` + fmt.Sprintf("%064d", 1) + `"}`} {
		if e := (&storage.Entry{Metadata: []byte(m)}); classOf(e) != storage.ClassIn(e.Metadata) {
			t.Errorf("%s: %q, want %q", m, classOf(e), storage.ClassIn(e.Metadata))
		}
	}
}
