package exchange

import (
	"net/http"
	"slices"
	"sync"
)

// heldHead is a header as it was at the final status of an answer that is held: what is set
// after that must not go out in the head.
type heldHead struct {
	fields []heldField
	values []string // of all fields
}

// heldField is a field by its name; its values are values[from:to].
type heldField struct {
	name     string
	from, to int
}

// heldHeads are used again: a clone of the header would be half of what holding allocates.
var heldHeads = sync.Pool{New: func() any { return new(heldHead) }}

// holdHead copies a header.
func holdHead(h http.Header) *heldHead {
	held := heldHeads.Get().(*heldHead)
	for name, values := range h {
		from := len(held.values)
		held.values = append(held.values, values...)
		held.fields = append(held.fields, heldField{name, from, len(held.values)})
	}
	return held
}

// maxHeldValues is how many values there stays room for.
const maxHeldValues = 256

// release gives it back; nil is none.
func (held *heldHead) release() {
	if held == nil || cap(held.values) > maxHeldValues || cap(held.fields) > maxHeldValues {
		return
	}
	clear(held.values) // tokens should not linger
	clear(held.fields)
	held.values, held.fields = held.values[:0], held.fields[:0]
	heldHeads.Put(held)
}

// restore puts a header back to what was held, deleted fields included, and returns what was
// set since: trailers. It is nil if there is nothing.
func (held *heldHead) restore(h http.Header) (late http.Header) {
	since := func(name string, values []string) {
		if late == nil {
			late = http.Header{}
		}
		late[name] = values
	}
	for _, f := range held.fields {
		before := held.values[f.from:f.to]
		values, there := h[f.name]
		if there && slices.Equal(values, before) {
			continue
		}
		if there {
			since(f.name, values)
		}
		h[f.name] = slices.Clone(before)
	}
	if len(h) == len(held.fields) {
		return late
	}
	known := make(map[string]bool, len(held.fields))
	for _, f := range held.fields {
		known[f.name] = true
	}
	for name, values := range h {
		if !known[name] {
			since(name, values)
			delete(h, name)
		}
	}
	return late
}
