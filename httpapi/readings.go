package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	readAction = "audit-log:read"
	// readingWindow is the time for which one reader has one entry: a page that is looked at asks
	// again and again.
	readingWindow = 10 * time.Minute
	// tryAgain is when an entry that found no place is tried again.
	tryAgain = time.Minute
	// maxReaders bounds those who have one at a time; whoever comes beyond has one for each request.
	maxReaders = 1000
	// maxReadOf bounds whose entries such an entry names.
	maxReadOf = 20
)

// Readings leaves an entry in the log of whoever asks for the entries of others: at once for the
// first request of a reader, and for the first that asks for those of all or exports; and again,
// with counts, when ten minutes are over. It is off until Enable. A nil one notes nothing. It is
// safe for concurrent use.
type Readings struct {
	writer *recorder.Writer
	on     atomic.Bool

	// mu protects the fields below.
	mu     sync.Mutex
	open   map[reader]*reading
	closed bool
}

// NewReadings returns Readings that write with a Writer, and end before it: Close.
func NewReadings(writer *recorder.Writer) *Readings {
	return &Readings{writer: writer, open: map[reader]*reading{}}
}

// Unlink takes a deleted user's id out of what is not written yet.
func (r *Readings) Unlink(userID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for who, w := range r.open {
		if who.user == userID {
			w.entry.UserID = ""
		}
	}
}

// Enable says whether readers are noted.
func (r *Readings) Enable(on bool) { r.on.Store(on) }

// reader is who reads.
type reader struct {
	// user is the auth server's name of an administrator; operator is whom Caddy has let in by
	// name. Both are "" for operators without one.
	user, operator, ip string
}

// reading is what one reader has read in a window.
type reading struct {
	entry     storage.Entry
	from, to  time.Time
	count     int
	endpoints map[string]int
	everybody int      // requests for the entries of all
	of        []string // tags of users and of identifiers
	moreOf    bool
	written   bool // the first state was
	timer     *time.Timer
}

// readMetadata is the metadata of its entry.
type readMetadata struct {
	Count     int            `json:"count"`
	From      string         `json:"from"`
	To        string         `json:"to"`
	Endpoints map[string]int `json:"endpoints"`
	// Everybody is how many of them asked for the entries of all; Of are keyed hashes of the users
	// and identifiers that the others named.
	Everybody int      `json:"everybody,omitempty"`
	Of        []string `json:"of,omitempty"`
	MoreOf    bool     `json:"moreOf,omitempty"`
	Operator  string   `json:"operator,omitempty"`
	Class     string   `json:"class"`
	Source    string   `json:"source"`
}

// note hears of a request that may be answered. of is the tag of whose entries are asked for, ""
// for everybody's.
func (r *Readings) note(who reader, endpoint, of string) {
	if r == nil || !r.on.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	w := r.open[who]
	first := w == nil
	if first {
		w = &reading{from: now, endpoints: map[string]int{}}
		w.entry = storage.Entry{UserID: who.user, IPAddress: who.ip, Action: readAction, Status: storage.Success, CreatedAt: now}
	}
	w.count++
	w.to = now
	w.endpoints[endpoint]++
	worse := endpoint == "export" && w.endpoints[endpoint] == 1
	switch {
	case of == "":
		w.everybody++
		worse = worse || w.everybody == 1
	case slices.Contains(w.of, of):
	case len(w.of) == maxReadOf:
		w.moreOf = true
	default:
		w.of = append(w.of, of)
	}
	if !first {
		if worse { // no copy of the log shall have the harmless part alone
			w.written = r.write(who, w, r.writer.Observer)
		}
		return
	}
	if r.closed || len(r.open) >= maxReaders {
		r.writer.Enqueue(storage.Commit, w.state(who), r.writer.Observer) // or it is missing, and counted
		return
	}
	w.written = r.write(who, w, r.writer.Observer)
	r.open[who] = w
	w.timer = time.AfterFunc(readingWindow, func() {
		ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
		defer cancel()
		r.end(ctx, who, w)
	})
}

// end writes what has come since the first request. If there is no place for it, or the store does
// not say whether the user is still there, it stays open; at the end the counts are lost then.
func (r *Readings) end(ctx context.Context, who reader, w *reading) {
	unlinked, err := r.unlinked(ctx, who, w)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[who] != w {
		return
	}
	if unlinked {
		w.entry.UserID = ""
	}
	done := err == nil
	switch {
	case !w.written:
		done = r.write(who, w, r.writer.Observer)
	case done && w.count > 1:
		done = r.write(who, w, nil) // it is no second event
	}
	if !done && !r.closed {
		w.timer.Reset(tryAgain)
		return
	}
	delete(r.open, who)
	w.timer.Stop()
}

// unlinked says whether the entry that is stored has lost its user, as another node may have had it.
func (r *Readings) unlinked(ctx context.Context, who reader, w *reading) (bool, error) {
	getter, ok := storage.As[storage.Getter](r.writer.Store())
	if !ok || who.user == "" {
		return false, nil
	}
	r.mu.Lock()
	id := w.entry.ID
	r.mu.Unlock()
	stored, err := getter.Get(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil && stored.UserID == "", err
}

// write leaves the entry to the Writer's background, where it takes the place of the one before;
// false if there is no place for it.
func (r *Readings) write(who reader, w *reading, told recorder.Observer) bool {
	return r.writer.Offer(storage.Commit, w.state(who), told)
}

// state is the entry as it is now.
func (w *reading) state(who reader) storage.Entry {
	metadata, err := json.Marshal(readMetadata{
		Count: w.count, From: w.from.UTC().Format(storage.TimeLayout), To: w.to.UTC().Format(storage.TimeLayout), Endpoints: w.endpoints,
		Everybody: w.everybody, Of: w.of, MoreOf: w.moreOf, Operator: storage.Clean(who.operator, storage.MaxUserID), Class: "custom", Source: "api",
	})
	if err != nil {
		metadata = nil // cannot happen: texts and numbers
	}
	w.entry.Metadata, w.entry.Severity = metadata, severity.Low
	if w.endpoints["export"] > 0 {
		w.entry.Severity = severity.Medium
	}
	w.entry.Sanitize()
	return w.entry
}

// Close writes what is open. What is noted later has an entry for each request.
func (r *Readings) Close() {
	r.mu.Lock()
	r.closed = true
	left := maps.Clone(r.open)
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	for who, w := range left {
		r.end(ctx, who, w)
	}
}

// noteQuery notes who asks for the entries of others with a query.
func (q *request) noteQuery(wanted *listQuery) {
	if !wanted.foreign {
		return
	}
	of := ""
	switch {
	case wanted.identifierHash != "":
		if of = wanted.identifierHash; !isTag(of) {
			of = "other" // what the reader has made up
		}
	case wanted.hasUserID:
		of = q.userTag(wanted.userID)
	}
	endpoint := strings.TrimPrefix(q.Path, "/")
	if endpoint == "list-audit-logs" {
		endpoint = "list"
	}
	q.Readings.note(q.reader(), endpoint, of)
}

// noteEntry notes who has got a single entry that is not the reader's own.
func (q *request) noteEntry(e *storage.Entry) {
	own := q.own()
	if q.operator || !own.Matches(e) {
		q.Readings.note(q.reader(), "get", q.userTag(e.UserID))
	}
}

func (q *request) reader() reader {
	if q.operator {
		operator := q.Door.User
		if operator == "" {
			operator = q.Door.Forwarded
		}
		return reader{operator: operator, ip: q.ClientIP}
	}
	return reader{user: q.session.UserID, ip: q.ClientIP}
}

// userTag is the keyed hash of a user's id: an id in another entry's metadata would outlive its user.
func (q *request) userTag(id string) string {
	switch {
	case id == "":
		return "nobody" // entries without a user
	case q.Redactor == nil:
		return "other"
	}
	return q.Redactor.HashTag("userId", id)
}

// isTag says whether it looks like what a Redactor makes.
func isTag(s string) bool {
	return strings.HasPrefix(s, "hmac-sha256:") && len(s) <= 64 && storage.Clean(s, len(s)) == s && !strings.Contains(s, "@")
}
