package retention

import (
	"encoding/json"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// By is who had entries deleted.
type By string

const (
	// BySchedule is the retention that is configured.
	BySchedule By = "retention"
	// ByHand is caddy audit-log prune, through a running Caddy or on the file.
	ByHand By = "hand"
)

// Deletion is what an entry says of entries that were deleted: that a part of the log is gone, and
// why, must stand in the log (PCI DSS 4.0, 10.2.1.6; NIST SP 800-53, AU-9 and AU-12).
type Deletion struct {
	By By `json:"by"`
	// Before is up to when, Deleted how many.
	Before  time.Time `json:"before"`
	Deleted int       `json:"deleted"`
	// Runs of the schedule that the entry is of, and what it keeps.
	Runs int    `json:"runs,omitempty"`
	Keep string `json:"keep,omitempty"`
	// Account of the operating system that deleted in the file, if it was one of a Caddy that
	// does not run or of another process.
	Account string `json:"account,omitempty"`
	// Error is why not all was deleted.
	Error string `json:"error,omitempty"`
	// Node, Class and Source are Entry's to set: the machine's name, "custom", and who says it.
	Node   string `json:"node,omitempty"`
	Class  string `json:"class"`
	Source string `json:"source"`
}

// Entry is the entry of a deletion, of now. By hand it is severe.
func (d Deletion) Entry(source string) storage.Entry {
	d.Node, d.Class, d.Source = storage.Node(), "custom", source
	e := storage.Entry{Action: storage.ActionPruned, Status: storage.Success, Severity: severity.Low}
	if d.By == ByHand {
		e.Severity = severity.High
	}
	if d.Error != "" {
		e.Status = storage.Failed
	}
	e.Metadata, _ = json.Marshal(d) // texts, numbers and times
	e.Sanitize()
	return e
}

// oneEntryFor is for how long the runs of the schedule share one entry; half of what is kept, if that
// is less.
const oneEntryFor = 24 * time.Hour

// day is the entry that the runs of so long share, and what it says. Only the goroutine of loop
// uses it.
type day struct {
	entry storage.Entry
	began time.Time
	all   Deletion
}

// tellRun tells of a run of the schedule that has deleted something, in one entry for a day. own of
// the deleted are such entries: of these alone nothing is told, or a log that nobody writes to would
// keep deleting and writing them.
func (r *Runner) tellRun(n, own int, before time.Time, keep time.Duration, err error) {
	if n <= own || r.Tell == nil {
		return
	}
	d := &r.told
	if d.began.IsZero() || time.Since(d.began) >= min(oneEntryFor, keep/2) {
		*d = day{began: time.Now(), all: Deletion{By: BySchedule}}
	}
	d.all.Deleted, d.all.Runs, d.all.Before, d.all.Keep, d.all.Error = d.all.Deleted+n, d.all.Runs+1, stored(before), keep.String(), textOf(err)
	e := d.all.Entry("recorder")
	if d.entry.ID != "" { // what is there is replaced
		e.ID, e.CreatedAt = d.entry.ID, d.entry.CreatedAt
	}
	d.entry = e
	r.Tell(e)
}

// tellHand tells of a deletion by hand.
func (r *Runner) tellHand(n int, before time.Time, err error) {
	if n > 0 && r.Tell != nil {
		r.Tell(Deletion{By: ByHand, Before: stored(before), Deleted: n, Error: textOf(err)}.Entry("recorder"))
	}
}

// stored is a time as entries have it.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return storage.Clean(err.Error(), 500)
}
