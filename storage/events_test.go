package storage_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestEventsOfAnEntry: nothing that stands in a database makes a count of 0, a negative one
// or one that overflows, and only roll-ups count as more than one.
func TestEventsOfAnEntry(t *testing.T) {
	const rolledUp = storage.RolledUp + "sign-in"
	for _, c := range []struct {
		action, metadata string
		want             int
	}{
		{rolledUp, `{"count":480}`, 480},
		{rolledUp, `{"kind":"sign-in", "count" : 480 }`, 480},
		{rolledUp, `{"count":1}`, 1},
		{rolledUp, `{"count":9007199254740991}`, storage.MaxEvents},
		{rolledUp, `{"count":9007199254740992}`, storage.MaxEvents},
		{rolledUp, `{"count":18446744073709551616}`, storage.MaxEvents},
		{rolledUp, `{"count":7,"count":9}`, 7},
		{rolledUp, `{"count":0}`, 1}, {rolledUp, `{"count":-480}`, 1}, {rolledUp, `{"count":4.5}`, 1}, {rolledUp, `{"count":1e3}`, 1},
		{rolledUp, `{"count":"480"}`, 1}, {rolledUp, `{"count":null}`, 1}, {rolledUp, `{"count":[480]}`, 1}, {rolledUp, `{"in":{"count":480}}`, 1},
		{rolledUp, `{}`, 1}, {rolledUp, ``, 1}, {rolledUp, `no JSON`, 1},
		{"audit-log:dropped", `{"count":480}`, 1}, {"audit-log:rolled-up", `{"count":480}`, 1}, {"AUDIT-LOG:ROLLED-UP:sign-in", `{"count":480}`, 1},
		{"custom:audit-log:rolled-up:sign-in", `{"count":480}`, 1}, {"", `{"count":480}`, 1},
	} {
		if got := storage.EventsIn(c.action, json.RawMessage(c.metadata)); got != c.want {
			t.Errorf("%s %s: %d events, want %d", c.action, c.metadata, got, c.want)
		}
	}
	for _, c := range [][3]int{{0, 0, 0}, {1, 2, 3}, {storage.MaxEvents, 1, storage.MaxEvents}, {1, storage.MaxEvents, storage.MaxEvents},
		{storage.MaxEvents - 1, 1, storage.MaxEvents}, {storage.MaxEvents, storage.MaxEvents, storage.MaxEvents}, {math.MaxInt, math.MaxInt, storage.MaxEvents}} {
		if got := storage.AddEvents(c[0], c[1]); got != c[2] {
			t.Errorf("%d and %d are %d, want %d", c[0], c[1], got, c[2])
		}
	}
}
