package recorder

import (
	"cmp"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// maxIdentifiers bounds the identifiers that are told apart in a window.
	maxIdentifiers = 128
	// tallied bounds the values that a tally keeps, shown those that metadata shows.
	tallied, shown = 8, 5
)

// identifierSeed makes hashes of identifiers that nobody outside can choose to be
// equal.
var identifierSeed = maphash.MakeSeed()

// rolled is what a window has counted instead of writing it.
type rolled struct {
	events   uint64
	from, to time.Time
	class    string
	ip       string
	severity severity.Level
	observer Observer
	actions  tally[string]
	codes    tally[int]

	// identifiers are hashes of what was typed, more is true when there were still
	// others. The first is kept as the entries show it.
	identifiers           []uint64
	more                  bool
	firstTag, firstMasked string
}

func newRolled(key windowKey, first rolledEvent) *rolled {
	return &rolled{
		from: first.entry.CreatedAt, to: first.entry.CreatedAt, class: first.class, ip: first.entry.IPAddress,
		severity: key.kind.severity(), observer: first.observer,
	}
}

func (r *rolled) count(event rolledEvent) {
	e := event.entry
	r.events++
	if e.CreatedAt.Before(r.from) { // it began earlier and took longer
		r.from = e.CreatedAt
	}
	if e.CreatedAt.After(r.to) {
		r.to = e.CreatedAt
	}
	r.severity = max(r.severity, e.Severity)
	r.actions.count(e.Action)
	r.codes.count(event.status)
	r.identify(e)
}

// identify counts different identifiers, exactly up to maxIdentifiers.
func (r *rolled) identify(e *storage.Entry) {
	if e.IdentifierHash == "" || r.more {
		return
	}
	hash := maphash.String(identifierSeed, e.IdentifierHash)
	switch {
	case slices.Contains(r.identifiers, hash):
		return
	case len(r.identifiers) == maxIdentifiers:
		r.more = true
		return
	case len(r.identifiers) == 0:
		r.firstTag, r.firstMasked = e.IdentifierHash, gjson.GetBytes(e.Metadata, "identifier").Str
	}
	r.identifiers = append(r.identifiers, hash)
}

// rolledMetadata is the metadata of a roll-up.
type rolledMetadata struct {
	// Count is how many events the entry stands for, From and To when the first and the
	// last of them began.
	Count uint64 `json:"count"`
	From  string `json:"from"`
	To    string `json:"to"`
	Kind  string `json:"kind"`
	Class string `json:"class"` // of the first
	// Client is the network of an IPv6 client, of which ipAddress is one address.
	Client      string            `json:"client,omitempty"`
	Actions     []talliedAction   `json:"actions"`
	StatusCodes map[string]uint64 `json:"statusCodes"`
	// Identifiers is how many different ones were typed, at least as many if so marked.
	Identifiers        int    `json:"identifiers,omitempty"`
	IdentifiersAtLeast bool   `json:"identifiersAtLeast,omitempty"`
	Identifier         string `json:"identifier,omitempty"` // if it was one
	IdentifierHash     string `json:"identifierHash,omitempty"`
	Source             string `json:"source"`
}

type talliedAction struct {
	Action string `json:"action"`
	Count  uint64 `json:"count"`
}

// item is the roll-up for the queue.
func (r *rolled) item(key windowKey) item {
	m := r.metadata(key)
	raw, err := json.Marshal(m)
	if err != nil {
		raw = nil // cannot happen: texts and numbers
	}
	e := storage.Entry{
		UserID: key.user, Action: storage.RolledUp + rollUpKinds[key.kind], Status: storage.Failed, Severity: r.severity,
		IPAddress: r.ip, Metadata: raw, IdentifierHash: m.IdentifierHash,
	}
	e.Sanitize()
	return item{entry: e, observer: r.observer, events: r.events}
}

func (r *rolled) metadata(key windowKey) rolledMetadata {
	m := rolledMetadata{
		Count: r.events, From: r.from.UTC().Format(storage.TimeLayout), To: r.to.UTC().Format(storage.TimeLayout),
		Kind: rollUpKinds[key.kind], Class: r.class, StatusCodes: make(map[string]uint64), Actions: []talliedAction{},
		Identifiers: len(r.identifiers), IdentifiersAtLeast: r.more, Source: "proxy",
	}
	if key.client.Addr().Is6() && r.ip != "" {
		m.Client = key.client.String()
	}
	for _, a := range r.actions.top() {
		m.Actions = append(m.Actions, talliedAction{a.value, a.n - a.over})
	}
	for _, c := range r.codes.top() {
		m.StatusCodes[strconv.Itoa(c.value)] = c.n - c.over
	}
	if len(r.identifiers) == 1 {
		m.Identifier, m.IdentifierHash = r.firstMasked, r.firstTag
	}
	return m
}

// tally counts the most frequent of any number of values in little room (Metwally,
// Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data
// Streams, 2005): up to 8 different values exactly; of more, each that is more than an
// eighth of all is among those kept. The zero value is ready.
type tally[V comparable] []slot[V]

// slot is a value that was seen at most n and at least n-over times.
type slot[V comparable] struct {
	value   V
	n, over uint64
}

func (t *tally[V]) count(v V) {
	least := 0
	for i := range *t {
		s := &(*t)[i]
		if s.value == v {
			s.n++
			return
		}
		if s.n < (*t)[least].n {
			least = i
		}
	}
	if len(*t) < tallied {
		*t = append(*t, slot[V]{value: v, n: 1})
		return
	}
	s := &(*t)[least]
	*s = slot[V]{value: v, n: s.n + 1, over: s.n}
}

// top returns the values that are known to be the most frequent, those first.
func (t tally[V]) top() []slot[V] {
	sorted := slices.Clone(t)
	slices.SortStableFunc(sorted, func(a, b slot[V]) int { return cmp.Compare(b.n-b.over, a.n-a.over) })
	return sorted[:min(len(sorted), shown)]
}
