package storage

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// RolledUp is what the action of a roll-up begins with: one entry for many failures of one
// client in one minute, of which metadata.count says how many. Nobody else can write such an
// action: inserts, rules, hooks and paths are refused it, and what is imported gets another.
const RolledUp = "audit-log:rolled-up:"

// MaxEvents is where sums of events end: the highest number that JavaScript reads exactly,
// or the highest that an int has.
const MaxEvents = int(min(int64(math.MaxInt), 1<<53-1))

// EventsIn returns how many events an entry stands for: of a roll-up what its metadata.count
// says, up to MaxEvents, and 1 if that is no positive integer; 1 of any other. Of members
// with one name the first counts.
func EventsIn(action string, m json.RawMessage) int {
	if !strings.HasPrefix(action, RolledUp) {
		return 1
	}
	count := gjson.GetBytes(m, "count")
	if count.Type != gjson.Number || strings.Trim(count.Raw, "0123456789") != "" {
		return 1
	}
	n, err := strconv.ParseUint(count.Raw, 10, 64)
	if err != nil {
		return MaxEvents // digits alone: it is too large
	}
	return max(int(min(n, uint64(MaxEvents))), 1) //nolint:gosec // MaxEvents is an int
}

// AddEvents adds numbers of events, which are not negative, up to MaxEvents.
func AddEvents(a, b int) int {
	if a > MaxEvents-min(b, MaxEvents) {
		return MaxEvents
	}
	return a + b
}
