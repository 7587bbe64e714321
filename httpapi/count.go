package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// countTimeout bounds one histogram or tally.
	countTimeout = 5 * time.Second
	// maxSteps bounds a histogram, and maxGroups a tally.
	maxSteps  = 2000
	maxGroups = 1000
)

// accessAnswer says what this surface shows to the caller.
type accessAnswer struct {
	Surface string `json:"surface"`
	// UserID is whose session it is; null for operators.
	UserID *string `json:"userId"`
	// Everything is true for who may read everybody's entries.
	Everything bool    `json:"everything"`
	Can        canDoes `json:"can"`
}

// canDoes are the abilities of the store.
type canDoes struct {
	Histogram bool `json:"histogram"`
	Tail      bool `json:"tail"`
	Export    bool `json:"export"`
}

// access answers what a viewer has to know before it asks for anything.
func (q *request) access() {
	_, lists := storage.As[storage.Lister](q.Store)
	_, counts := storage.As[storage.Aggregator](q.Store)
	out := accessAnswer{Surface: "own", Everything: q.everything(), Can: canDoes{Histogram: counts, Tail: lists && q.Streams != nil, Export: lists}}
	if q.operator {
		out.Surface = "operator"
	} else {
		out.UserID = &q.session.UserID
	}
	q.answer(http.StatusOK, out)
}

// histogramAnswer is the answer of histogram.
type histogramAnswer struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Step in milliseconds.
	Step    int      `json:"step"`
	Buckets []bucket `json:"buckets"`
}

// bucket is one step that has entries, and how many events they stand for.
type bucket struct {
	At string `json:"at"`
	byStatus
	Events byStatus `json:"events"`
}

// byStatus are numbers of each status.
type byStatus struct {
	Success int `json:"success"`
	Failed  int `json:"failed"`
	Pending int `json:"pending"`
	Unknown int `json:"unknown"`
}

func byStatusOf(n *[storage.StatusCodes]int) byStatus {
	return byStatus{n[storage.Success.Code()], n[storage.Failed.Code()], n[storage.Pending.Code()], n[storage.Unknown.Code()]}
}

// atLeast are the events that stand in a store's answer: one for each entry where the store knows
// nothing of roll-ups.
func atLeast(events, counts [storage.StatusCodes]int) *[storage.StatusCodes]int {
	for i, n := range counts {
		events[i] = max(events[i], n)
	}
	return &events
}

// counting is who counts, and what the caller may have counted. It answers itself if that
// is nothing.
func (q *request) counting() (storage.Aggregator, storage.Query, bool) {
	counter, ok := storage.As[storage.Aggregator](q.Store)
	if !ok {
		q.lacks("count")
		return nil, storage.Query{}, false
	}
	wanted, ok := q.wanted()
	return counter, wanted, ok
}

func (q *request) histogram() {
	counter, wanted, ok := q.counting()
	if !ok {
		return
	}
	step, problems := parseSteps(q.r.URL.Query(), &wanted)
	if len(problems) > 0 {
		q.invalid(problems...)
		return
	}
	found, err := timed(q.ctx, countTimeout, func(ctx context.Context) ([]storage.Bucket, error) {
		return counter.Histogram(ctx, wanted, time.Duration(step)*time.Millisecond)
	})
	if err != nil {
		q.storeFailed(err, "Failed to count audit log entries")
		return
	}
	out := histogramAnswer{From: isoTime(wanted.From), To: isoTime(wanted.To), Step: step, Buckets: make([]bucket, len(found))}
	for i, b := range found {
		out.Buckets[i] = bucket{isoTime(b.At), byStatusOf(&b.Counts), byStatusOf(atLeast(b.Events, b.Counts))}
	}
	q.answer(http.StatusOK, out)
}

// parseSteps reads the step of a histogram, in milliseconds, and completes its time.
func parseSteps(values map[string][]string, wanted *storage.Query) (step int, list []string) {
	const longest = int(366 * 24 * time.Hour / time.Millisecond)
	p := problems{values: values}
	step = p.number("step", 1, longest, 0)
	if len(values["step"]) == 0 {
		p.add("query.step", "Invalid input: expected number, received undefined")
	}
	if wanted.From.IsZero() {
		p.add("query.from", "Invalid input: expected date, received undefined")
	}
	if wanted.To.IsZero() {
		wanted.To = time.Now().UTC().Truncate(time.Millisecond)
	}
	if len(p.list) > 0 {
		return 0, p.list
	}
	ms := int64(step)
	if n := wanted.To.UnixMilli()/ms - wanted.From.UnixMilli()/ms + 1; n > maxSteps {
		p.add("query.step", fmt.Sprintf("Too small: from and to are %d steps apart, expected <=%d", n, maxSteps))
	}
	return step, p.list
}

func isoTime(t time.Time) string { return t.UTC().Format(storage.TimeLayout) }

// tallyAnswer is the answer of tally.
type tallyAnswer struct {
	Groups []group `json:"groups"`
	// GroupsAreCapped is true when there are more than are shown.
	GroupsAreCapped bool `json:"groupsAreCapped,omitempty"`
}

// group is what some entries have in common.
type group struct {
	Action   string         `json:"action"`
	Class    string         `json:"class"`
	Status   storage.Status `json:"status"`
	Severity string         `json:"severity"`
	Count    int            `json:"count"`
	// Events are how many the entries stand for.
	Events int `json:"events"`
}

func (q *request) tally() {
	counter, wanted, ok := q.counting()
	if !ok {
		return
	}
	found, err := timed(q.ctx, countTimeout, func(ctx context.Context) ([]storage.Tally, error) { return counter.Tally(ctx, wanted) })
	if err != nil {
		q.storeFailed(err, "Failed to count audit log entries")
		return
	}
	out := tallyAnswer{Groups: make([]group, min(len(found), maxGroups)), GroupsAreCapped: len(found) > maxGroups}
	for i := range out.Groups {
		t := &found[i]
		out.Groups[i] = group{t.Action, t.Class, t.Status, t.Severity.String(), t.Count, max(t.Events, t.Count)}
	}
	q.answer(http.StatusOK, out)
}
