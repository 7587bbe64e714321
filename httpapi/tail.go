package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/follow"
)

const (
	// heartbeat is the time between two signs of life.
	heartbeat = 15 * time.Second
	// checkEvery is the time between two looks whether the tail may go on, and askEvery
	// the longest between two questions to the auth server.
	checkEvery = 500 * time.Millisecond
	askEvery   = 25 * time.Second
	// letInFor is how long a tail lasts of whom Caddy let in by name: only a new request
	// shows whether it still would. Clients reconnect by themselves.
	letInFor = 5 * time.Minute
	// recent is what a new tail begins with, so that nothing is missed between a list
	// and the tail after it.
	recent = 5 * time.Second
	// maxReplay bounds what a tail that continues begins with, in pages of replayPage: one of
	// them is in memory while the client reads it.
	maxReplay, replayPage = 50, 100
	// maxUndecided bounds tail.undecided: of more, the oldest are forgotten.
	maxUndecided = 256
)

// tail is a tail under way.
type tail struct {
	*request
	pace   *pace
	wanted storage.Query
	// watch hears of what may end the session; nil for operators.
	watch *recorder.Watch
	// asked is when the auth server last said who is there.
	asked time.Time
	// checked is when the tail was last looked at whether it may go on.
	checked time.Time
	// undecided are ids of entries that the client has, or may have from a list, and whose
	// outcome is not known yet: it is told when they are not what it asks for any more.
	undecided *lru.Cache[string, struct{}]
	// buf is what is written next.
	buf bytes.Buffer
}

// tail answers with server-sent events (WHATWG HTML, section 9.2): an event "entry" for
// each entry that is written and each that changes, by id; an event "left" for one whose
// outcome does not fit the filters that it has fitted before; an event "missed" for a time of
// which it does not tell all.
func (q *request) tail() {
	lister, ok := storage.As[storage.Lister](q.Store)
	if !ok || q.Streams == nil {
		q.lacks("follow")
		return
	}
	wanted, ok := q.wanted()
	if !ok {
		return
	}
	began := time.Now()
	since, ok := q.since(began)
	if !ok {
		return
	}
	leave, ok := q.enter(&q.Streams.tails)
	if !ok {
		return
	}
	defer leave()
	ctx, cancel := context.WithCancel(q.ctx)
	defer cancel()
	defer context.AfterFunc(q.ending(), cancel)()
	undecided, err := lru.New[string, struct{}](maxUndecided)
	if err != nil {
		q.storeFailed(err, "")
		return
	}
	listener, err := q.Streams.follower.Listen(ctx)
	if err != nil {
		q.storeFailed(&storage.Fault{Reason: storage.Unspecified, Err: err}, "")
		return
	}
	defer listener.Close()
	t := &tail{request: q, pace: newPace(q.w, q.ending(), func() bool { return true }), wanted: wanted, asked: began, undecided: undecided}
	defer t.pace.end()
	if !q.operator {
		t.watch = q.Sessions.Watch(q.r.Header, q.session.UserID)
		defer t.watch.Close()
	}
	t.untimed()
	mayLast(q.w)
	q.w.Header().Set("Content-Type", "text/event-stream")
	q.w.Header().Set("X-Accel-Buffering", "no")
	q.w.WriteHeader(http.StatusOK)
	t.buf.WriteString("retry: 2000\n: the audit log\n\n")
	if q.r.Header.Get("Last-Event-ID") == "" {
		t.mark(listener)
	}
	// The session may have ended before it was watched.
	if (q.operator || t.askAgain(began)) && t.remember(lister, began) && t.send() && t.replay(lister, since) {
		t.follow(listener)
	}
}

// untimed takes out of the query what has no meaning in a tail.
func (t *tail) untimed() {
	t.wanted.From, t.wanted.To, t.wanted.Cursor, t.wanted.Offset = time.Time{}, time.Time{}, "", 0
}

// since is from when on a tail begins: from what its client has seen, less the time in
// which that may have changed.
func (q *request) since(now time.Time) (time.Time, bool) {
	last := q.r.Header.Get("Last-Event-ID")
	if last == "" {
		return now.Add(-recent), true
	}
	key, err := storage.DecodeCursor(last)
	if err != nil {
		q.invalid("[header.Last-Event-ID] " + err.Error())
		return time.Time{}, false
	}
	return storage.KeyTime(key).Add(-follow.Window), true
}

// remember takes up what is undecided already, before the client is told that the tail is open:
// the list that it reads then may show it.
func (t *tail) remember(lister storage.Lister, now time.Time) bool {
	query := t.wanted
	if query.Status != "" && query.Status != storage.Unknown {
		return true
	}
	query.Status, query.From, query.Limit, query.NoTotal = storage.Unknown, now.Add(-follow.Window), maxUndecided, true
	page, ok := t.list(lister, query)
	for i := range slices.Backward(page.Entries) { // the newest are forgotten last
		t.undecided.Add(page.Entries[i].ID, struct{}{})
	}
	return ok
}

// list is a page of what a tail begins with.
func (t *tail) list(lister storage.Lister, query storage.Query) (storage.Page, bool) {
	page, err := t.listPage(lister, query, listTimeout)
	if err != nil {
		t.Logger.Warn("a tail of the audit log could not begin", "error", err)
	}
	return page, err == nil
}

// replay writes what there is since then, oldest first.
func (t *tail) replay(lister storage.Lister, since time.Time) bool {
	query := t.wanted
	query.From, query.Limit, query.NoTotal = since, replayPage, true
	list := func() (storage.Page, bool) { return t.list(lister, query) }
	var begins []string // of the pages, from the newest
	page, ok := list()
	for ok && page.NextCursor != "" && len(begins)+1 < maxReplay {
		begins = append(begins, query.Cursor)
		query.Cursor = page.NextCursor
		page, ok = list()
	}
	if ok && page.NextCursor != "" && len(page.Entries) > 0 {
		t.missed(since, page.Entries[len(page.Entries)-1].CreatedAt)
	}
	for ok {
		slices.Reverse(page.Entries)
		if !t.entries(page.Entries) {
			return false
		}
		if len(begins) == 0 {
			return true
		}
		query.Cursor, begins = begins[len(begins)-1], begins[:len(begins)-1]
		page, ok = list()
	}
	return false
}

// follow writes what is heard, until it may not or cannot go on. Without an event "end"
// clients come back by themselves.
func (t *tail) follow(listener *follow.Listener) {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	alive := time.NewTicker(heartbeat)
	defer alive.Stop()
	for goOn := true; goOn; {
		select {
		case <-t.ctx.Done():
			return
		case <-t.ending().Done():
			t.bye()
			return
		case news, ok := <-listener.News():
			goOn = ok && t.news(news)
		case <-alive.C:
			t.buf.WriteString(": \n\n")
			t.mark(listener)
			goOn = t.send()
		case <-check.C:
			goOn = t.check()
		}
	}
}

// mark tells the client how far it is, with an id and nothing else: one that has seen no entry
// yet must know too from where to go on. While entries wait to be written it stays where it is.
func (t *tail) mark(listener *follow.Listener) {
	if at := listener.Told(); !at.IsZero() {
		t.buf.WriteString("id: " + storage.EncodeCursor(storage.TimeKey(at)) + "\n\n")
	}
}

// bye says that the server ends, or its configuration. Clients come back to the next.
func (t *tail) bye() { t.end("SHUTDOWN", "The server ends or was configured anew") }

// may is check before something is shown, unless the last one was a moment ago. A client may
// take long to read what came before.
func (t *tail) may() bool { return time.Since(t.checked) < checkEvery || t.check() }

// check says whether the tail may go on.
func (t *tail) check() bool {
	t.checked = time.Now()
	switch now := t.checked; {
	case t.exiting():
		t.bye()
		return false
	case t.operator:
		byName := !t.Door.Decided && !t.Door.Certificate && (t.Door.User != "" || t.Door.Forwarded != "")
		return !byName || now.Sub(t.asked) < letInFor
	case now.Sub(t.asked) < askEvery && !t.watch.Doubted():
		return true
	default:
		return t.askAgain(now)
	}
}

// askAgain asks the auth server who is there, and decides anew what the tail shows.
func (t *tail) askAgain(now time.Time) bool {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	stop := context.AfterFunc(t.ending(), cancel) // the server may end meanwhile
	defer stop()
	session, err := t.Sessions.Authorize(ctx, t.r.Header, t.Asker)
	if err != nil {
		return false // who comes back is told why
	}
	if session.UserID == "" || session.UserID != t.session.UserID {
		t.end("UNAUTHORIZED", "Unauthorized")
		return false
	}
	t.session, t.asked = session, now
	wanted, problems := t.parse()
	if len(problems) > 0 || !t.narrow(&wanted) {
		t.end("FORBIDDEN", "Cannot query other users' audit logs")
		return false
	}
	t.wanted = wanted.Query
	t.untimed()
	return true
}

// news writes what was heard.
func (t *tail) news(news follow.News) bool {
	if !t.entries(news.Entries) {
		return false
	}
	if news.Missed != nil {
		t.missed(news.Missed.From, news.Missed.To)
	}
	return t.send()
}

// entries writes those that are wanted, as long as the tail may go on.
func (t *tail) entries(list []storage.Entry) bool {
	if !t.may() {
		return false
	}
	for i := range list {
		t.entry(&list[i])
		if t.buf.Len() > 64<<10 && (!t.send() || !t.may()) {
			return false
		}
	}
	return t.send()
}

// entry adds one to what is written next, if it is wanted, or was.
func (t *tail) entry(e *storage.Entry) {
	var shown any
	event, wanted := "entry", t.wanted.Matches(e)
	switch known := t.undecided.Remove(e.ID); {
	case wanted:
		if shown = t.shown(e); e.Status == storage.Unknown {
			t.undecided.Add(e.ID, struct{}{})
		}
	case known:
		event, shown = "left", leaving{e.ID}
	default:
		return
	}
	b, err := json.Marshal(shown)
	if err != nil {
		t.Logger.Error("an audit log entry could not be shown", "error", err)
		return
	}
	t.buf.WriteString("id: " + storage.EncodeCursor(e.SortKey()) + "\nevent: " + event + "\ndata: ")
	t.buf.Write(escaped(b)) // one line: JSON has no line breaks of its own
	t.buf.WriteString("\n\n")
}

// missed says that of a time not all is told: more was written than maxReplay pages, or at once than is looked at.
func (t *tail) missed(from, to time.Time) {
	t.say("missed", untold{from.UTC().Format(storage.TimeLayout), to.UTC().Format(storage.TimeLayout)})
}

// say adds an event of two texts, which is no place to go on from.
func (t *tail) say(event string, texts any) {
	b, err := json.Marshal(texts)
	if err != nil {
		return // cannot happen: texts
	}
	t.buf.WriteString("event: " + event + "\ndata: ")
	t.buf.Write(b)
	t.buf.WriteString("\n\n")
}

// untold is a time of which not all is told.
type untold struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// leaving is an entry that is not what a tail shows any more.
type leaving struct {
	ID string `json:"id"`
}

// end writes the last event: the client shall not come back.
func (t *tail) end(code, message string) {
	t.say("end", failure{message, code})
	t.send()
}

// send writes what is in the buffer; false when nobody reads.
func (t *tail) send() bool {
	if t.buf.Len() == 0 {
		return true
	}
	t.pace.next()
	_, err := t.w.Write(t.buf.Bytes())
	t.buf.Reset()
	if t.buf.Cap() > 1<<20 {
		t.buf = bytes.Buffer{}
	}
	return err == nil && t.pace.control.Flush() == nil
}
