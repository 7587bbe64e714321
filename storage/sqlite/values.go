package sqlite

import (
	"database/sql/driver"
	"strings"
	"unsafe"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// values make arguments of statements. To make a driver.Value of a number or a text allocates, and
// each entry has eight: here the values point into memory that is used again. They are valid until
// reset.
type values struct {
	numbers []int64
	texts   []string
	blobs   [][]byte
	bytes   []byte // of blobs
}

// reset makes the values that there are invalid, and forgets them: they are of people.
func (v *values) reset() {
	clear(v.texts)
	clear(v.numbers)
	clear(v.bytes)
	v.numbers, v.texts, v.blobs, v.bytes = v.numbers[:0], v.texts[:0], v.blobs[:0], v.bytes[:0]
}

func (v *values) number(n int64) driver.Value {
	v.numbers = append(v.numbers, n)
	return pointing(&v.numbers[len(v.numbers)-1])
}

func (v *values) text(s string) driver.Value {
	v.texts = append(v.texts, s)
	return pointing(&v.texts[len(v.texts)-1])
}

// blob makes a value of a copy of b.
func (v *values) blob(b []byte) driver.Value {
	if v.bytes == nil {
		v.bytes = make([]byte, 0, maxTogether*len(uuid.UUID{})) // a slice of nothing would be NULL
	}
	from := len(v.bytes)
	v.bytes = append(v.bytes, b...)
	v.blobs = append(v.blobs, v.bytes[from:len(v.bytes):len(v.bytes)])
	return pointing(&v.blobs[len(v.blobs)-1])
}

// pointing is the value of *p, which must not change as long as it is used: an interface is the
// type and a pointer to what it has, unless that is a pointer itself. values_internal_test.go says
// whether the compiler still does it like that.
func pointing[T int64 | string | []byte](p *T) driver.Value {
	var none T
	var v driver.Value = none
	(*[2]unsafe.Pointer)(unsafe.Pointer(&v))[1] = unsafe.Pointer(p) //nolint:gosec // as above
	return v
}

// id stores a UUID, as it is usually written, in 16 bytes and any other id as text.
func (v *values) id(id string) driver.Value {
	if u, ok := uuidOf(id); ok {
		return v.blob(u[:])
	}
	return v.text(id)
}

// idValue is an id as it is stored.
func idValue(id string) driver.Value {
	if u, ok := uuidOf(id); ok {
		return u[:]
	}
	return id
}

func uuidOf(id string) (uuid.UUID, bool) {
	if len(id) != 36 || strings.ContainsAny(id, "ABCDEF") {
		return uuid.UUID{}, false
	}
	u, err := uuid.Parse(id)
	return u, err == nil
}

func (v *values) hashOrNull(s string) driver.Value {
	if s == "" {
		return nil
	}
	return v.number(storage.TextHash(s))
}

func (v *values) textOrNull(s string) driver.Value {
	if s == "" {
		return nil
	}
	return v.text(s)
}

func (v *values) metadata(e *storage.Entry) driver.Value {
	if len(e.Metadata) == 0 || string(e.Metadata) == "{}" {
		return nil
	}
	return v.text(textOf(e.Metadata))
}

// classOf is storage.ClassIn without a copy: it refers to the metadata.
func classOf(e *storage.Entry) string {
	class := gjson.Get(textOf(e.Metadata), "class")
	if class.Type != gjson.String || len(class.Str) > storage.MaxClass {
		return ""
	}
	return class.Str
}

// textOf is the text that bytes are, which must not change as long as it is used.
func textOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) } //nolint:gosec // as said
