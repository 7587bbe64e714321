package sqlite

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// reading is one who reads days: what is known, then the table, then learn.
type reading struct {
	scope    scope
	from, to int64
	spans    [][2]int64
	stamp    int
	into     map[hourGroup]int
	found    map[hourGroup]int
}

// TestDaysAreWhatTheTableHas: whoever reads, changes and learns in whatever order, what is known is
// what the table has.
func TestDaysAreWhatTheTableHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, table, now := &counts{}, map[hourGroup]int{}, []*reading(nil)
		day := rapid.Int64Range(0, 12)
		anything := scope{status: -1, severity: -1}
		begin := func(t *rapid.T) *reading {
			r := &reading{scope: anything, from: day.Draw(t, "from"), into: map[hourGroup]int{}, found: map[hourGroup]int{}}
			r.to = r.from + rapid.Int64Range(1, 6).Draw(t, "days")
			r.spans, r.stamp, _ = c.knownDays(&r.scope, c.epoch, r.from, r.to, r.into)
			for at, n := range table {
				for _, span := range r.spans {
					if d := at.hour / dayHours; d >= span[0] && d < span[1] {
						r.found[hourGroup{d, at.group}] += n
					}
				}
			}
			return r
		}
		end := func(r *reading) {
			if len(r.spans) > 0 {
				c.days.learn(r.stamp, r.spans, r.found)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				at := hourGroup{day.Draw(t, "day")*dayHours + rapid.Int64Range(0, 23).Draw(t, "hour"), group{kind: rapid.Int64Range(1, 3).Draw(t, "kind")}}
				bump(table, at, rapid.IntRange(-1, 3).Draw(t, "n"))
				c.days.forget(at.hour)
			},
			"begin to read": func(t *rapid.T) { now = append(now, begin(t)) },
			"end to read": func(*rapid.T) {
				if len(now) > 0 {
					end(now[0])
					now = now[1:]
				}
			},
			"distrust": func(*rapid.T) { c.distrust() },
			"read": func(t *rapid.T) {
				r, want := begin(t), map[hourGroup]int{}
				for at, n := range table {
					if d := at.hour / dayHours; d >= r.from && d < r.to {
						bump(want, hourGroup{d * dayHours, at.group}, n)
					}
				}
				for at, n := range r.found {
					if at.hour >= r.from && at.hour < r.to {
						r.into[hourGroup{at.hour * dayHours, at.group}] = n
					}
				}
				maps.DeleteFunc(r.into, func(_ hourGroup, n int) bool { return n == 0 })
				if !maps.Equal(r.into, want) {
					t.Fatalf("days %d to %d: %v, want %v", r.from, r.to, r.into, want)
				}
				end(r)
			},
		})
	})
}

// TestTooManyDaysAreNotRemembered: hours are added up instead, until counting begins anew.
func TestTooManyDaysAreNotRemembered(t *testing.T) {
	c, found, anything := &counts{}, map[hourGroup]int{}, scope{status: -1, severity: -1}
	for kind := range int64(maxDays + 1) {
		found[hourGroup{kind % 100, group{kind: kind}}] = 1
	}
	spans, stamp, ok := c.knownDays(&anything, c.epoch, 0, 100, map[hourGroup]int{})
	c.days.learn(stamp, spans, found)
	if _, _, still := c.knownDays(&anything, c.epoch, 0, 3, map[hourGroup]int{}); !ok || still || c.days.rows > 0 {
		t.Errorf("%d groups are remembered; before %v, after %v", c.days.rows, ok, still)
	}
	before := c.epoch
	c.distrust()
	c.reset(0)
	if _, _, ok := c.knownDays(&anything, before, 0, 3, map[hourGroup]int{}); ok {
		t.Error("who began before the table was made anew learns from the new one")
	}
	if _, _, again := c.knownDays(&anything, c.epoch, 0, 3, map[hourGroup]int{}); !again {
		t.Error("nothing is remembered any more")
	}
}
