package recorder

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// writeTimeout bounds how long a request waits for its entry (threats.md
	// E2.3).
	writeTimeout = 3 * time.Second
	// unlinkTimeout is that for the entries of a user whose account was deleted.
	unlinkTimeout = time.Second
	// queueCapacity bounds the entries that wait to be written in the background, and
	// reserve those that have a place beside them: the outcomes of intents that are stored.
	// For what fails open, and for users to unlink, there is half of it: nobody who is never
	// refused can take all.
	queueCapacity = 10000
	reserve       = 1000
	// maxBatch and linger: what the background collects before it commits. Nobody waits
	// for it, and an entry costs less in a larger transaction (docs/performance.md): at 15
	// sign-ins a second most of it is waking up for a batch. A crash costs what has come
	// meanwhile, which PostgreSQL's synchronous_commit=off takes for 600 ms. With manyQueued
	// entries it does not linger any longer: the queue must not fill for that.
	maxBatch   = 256
	linger     = 250 * time.Millisecond
	manyQueued = queueCapacity / 5
	// firstBackoff and maxBackoff space the tries on a store that fails.
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// severePatience is how long an entry of severity high or critical waits for a place
	// in the queue (threats.md E6.2).
	severePatience = 250 * time.Millisecond
	// lastTries is for how long a Writer that was closed begins tries on a store that
	// fails; with the last try an exit takes about 5 s at most (threats.md E1.6).
	// lastBackoff is the most between two of them.
	lastTries   = 3 * time.Second
	lastBackoff = 250 * time.Millisecond
)

// Stats counts what became of entries since a Writer was made.
type Stats struct {
	// Written entries, and WriteErrors: writes that failed, tries included.
	Written, WriteErrors uint64
	// Dropped entries: lost because the queue was full or the process ended.
	Dropped uint64
	// Queued entries wait in the background right now.
	Queued int
	// LastWrite is when the store last took entries, and LastWriteTook how long that was;
	// zero if it never did.
	LastWrite     time.Time
	LastWriteTook time.Duration
	// Failing is why the store did not take the last write; nil if it did.
	Failing error
}

// Writer writes entries to one store. It is safe for concurrent use.
type Writer struct {
	// Metrics counts writes, and what the Recorders that use this Writer do. Set it
	// before the first entry; nil counts nothing.
	Metrics *Metrics
	// Written is called after each write that the store took; it must be quick. Set it
	// before the first entry; nil calls nothing.
	Written func()
	// Observer hears of entries that the log has of itself; nil for nobody.
	Observer Observer
	// Unlinked hears of a user whose id is taken out of the entries, so that nothing writes it
	// again; it must be quick. Set it before the first entry; nil calls nothing.
	Unlinked func(userID string)

	store storage.Store
	log   *slog.Logger
	// deadlines are those of writes that somebody waits for.
	deadlines *storage.Deadlines
	queue     chan item
	// taken are the places of the queue that something stands in or is promised to, and owed
	// those of the reserve: who has one need not wait to send. While somebody severe is waiting
	// for one nobody else gets any; room has a value when there may be one.
	taken, owed, waiting atomic.Int64
	room                 chan struct{}
	// works has a value when the store has begun to take entries again.
	works chan struct{}
	// many has a value when there are manyQueued, or were: a linger that is cut short for
	// nothing costs little.
	many chan struct{}
	quit chan struct{}
	done chan struct{}

	// batch is run's, to be used again and again.
	batch []item

	closing sync.Once
	// giveUp is when tries end, and lostBefore how many entries were dropped until then; they
	// are set before quit is closed.
	giveUp     time.Time
	lostBefore uint64

	// rollUps are the events that are counted instead of written.
	rollUps *rollUps
	// forgotten are the users to unlink.
	forgotten forgotten
	// underWay are the exchanges that may need an entry when the process ends.
	underWay underWay
	warning  rate.Sometimes
	full     rate.Sometimes // warns of a full queue

	written, writeErrors atomic.Uint64
	// lastWrite, in nanoseconds since 1970, lastTook, in nanoseconds, and failing are what
	// Stats tells; 0 and nil if there was nothing.
	lastWrite, lastTook atomic.Int64
	failing             atomic.Pointer[error]

	// mu protects the fields below: what the next gap entry must say.
	mu       sync.Mutex
	dropped  uint64
	gapCount uint64
	gapFrom  time.Time
	gapTo    time.Time
}

// item is what waits in the queue: an entry to write, or a user to unlink.
type item struct {
	entry      storage.Entry
	durability storage.Durability
	observer   Observer // hears of the entry; may be nil
	unlink     string
	// events is how many events a roll-up stands for; 0 for an entry of one.
	events uint64
	// gap is true for an entry that says how many are missing: it is none of them.
	gap bool
	// owed is true for what stands at a place of the reserve.
	owed bool
}

// NewWriter starts a Writer on the store. Close ends it; the store stays open.
func NewWriter(store storage.Store, log *slog.Logger) *Writer {
	w := &Writer{
		store: store, log: log, deadlines: storage.NewDeadlines(context.Background(), writeTimeout), queue: make(chan item, queueCapacity+reserve),
		works: make(chan struct{}, 1), room: make(chan struct{}, 1), many: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		warning: rate.Sometimes{Interval: time.Second}, full: rate.Sometimes{Interval: time.Second},
	}
	w.rollUps = newRollUps(w.put, func(i item) { w.drop(i) })
	go w.run()
	return w
}

// Store returns the store beneath.
func (w *Writer) Store() storage.Store { return w.store }

// Write writes the entries and returns when they are as durable as asked, within 3 seconds
// (writeTimeout). That a client leaves does not end it: it must not cost the entry. The error
// is the store's, which may have the entries all the same; writing them again does no harm.
func (w *Writer) Write(d storage.Durability, entries ...storage.Entry) error {
	return w.write(w.deadlines.Context(d), entries)
}

func (w *Writer) write(ctx context.Context, entries []storage.Entry) error {
	began := time.Now()
	defer func() { w.Metrics.WriteDuration(time.Since(began)) }()
	if err := w.store.Write(ctx, entries...); err != nil {
		w.writeErrors.Add(1)
		w.failing.Store(&err)
		w.warn(err)
		return err
	}
	w.written.Add(uint64(len(entries)))
	now := time.Now()
	w.lastWrite.Store(now.UnixNano())
	w.lastTook.Store(int64(now.Sub(began)))
	if w.failing.Load() != nil { // a store of the same would make all processors wait
		w.failing.Store(nil)
		select {
		case w.works <- struct{}{}: // the background need not wait any longer
		default:
		}
	}
	if w.Written != nil {
		w.Written()
	}
	return nil
}

// warn logs a failing store, at most once a second.
func (w *Writer) warn(err error) {
	w.warning.Do(func() {
		w.log.Error("the audit log's store does not take entries", "error", err, "queued", len(w.queue))
	})
}

// Enqueue leaves an entry to the background, which writes entries in order and
// tries again until the store takes them. When the queue is full the entry is
// dropped, logged and counted, and the next entry that is written says how many are
// missing; Enqueue then returns false. One of severity high or critical waits for a
// place before that, for severePatience at most. It is written as durably as d says;
// with Fsync if it is high or critical, if another of its batch needs that, or once the
// Writer was closed. The observer hears of it once it is written; it may be nil.
func (w *Writer) Enqueue(d storage.Durability, e storage.Entry, o Observer) bool {
	i := item{entry: e, durability: d, observer: o}
	if w.offer(i) {
		return true
	}
	w.miss(i)
	return false
}

// miss drops an entry that has no place in the queue.
func (w *Writer) miss(i item) {
	w.drop(i)
	w.full.Do(func() {
		why := "its queue is full"
		if w.closed() {
			why = "it has ended"
		}
		w.log.Error("the audit log loses entries, and counts them: "+why, "dropped", w.Stats().Dropped, "queued", len(w.queue))
	})
}

// Offer is Enqueue for a caller that knows what to do without a place: it returns false and counts
// nothing.
func (w *Writer) Offer(d storage.Durability, e storage.Entry, o Observer) bool {
	return w.offer(item{entry: e, durability: d, observer: o})
}

// offer puts an item into the queue; one that is severe waits a little for its place.
func (w *Writer) offer(i item) bool {
	if i.harden() {
		return w.putSoon(i)
	}
	return w.put(i)
}

// harden makes an entry that is severe as durable as can be, and says whether it is.
func (i *item) harden() bool {
	severe := i.entry.Severity >= severity.High
	if severe {
		i.durability = storage.Fsync
	}
	return severe
}

// next takes an item out of the queue; ok is false when there is none.
func (w *Writer) next() (i item, ok bool) {
	select {
	case i = <-w.queue:
		w.leave(&i)
		return i, true
	default:
		return i, false
	}
}

// Unlink takes a deleted user's id out of the entries: at once, as far as that can be done in
// unlinkTimeout, if a crash must not forget it, and in the background, after the entries that are
// queued. A store that cannot do it is left alone.
func (w *Writer) Unlink(userID string, atOnce bool) {
	userID = storage.CleanUserID(userID) // as entries have it
	u, ok := storage.As[storage.Unlinker](w.store)
	if !ok {
		return
	}
	w.forgotten.add(userID) // first: who looks has written already, and what is written is unlinked below
	if atOnce {
		ctx, cancel := context.WithTimeout(storage.WithDurability(context.Background(), storage.Fsync), unlinkTimeout)
		_, _ = u.Unlink(ctx, userID) // what it could not do is the background's
		cancel()
	}
	w.rollUps.unlink(userID)
	if w.Unlinked != nil {
		w.Unlinked(userID)
	}
	if !w.put(item{unlink: userID}) {
		w.log.Error("a deleted user's entries keep their user id: the audit log's queue is full")
	}
}

// closed says whether Close was called.
func (w *Writer) closed() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

func (w *Writer) drop(i item) {
	at, n := i.entry.CreatedAt, max(1, i.events)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gapCount == 0 {
		w.gapFrom = at
	}
	if !i.gap { // they were counted
		w.dropped += n
	}
	w.gapCount += n
	w.gapTo = at
}

// takeGap returns the entry for what was dropped since the last one, if anything.
func (w *Writer) takeGap() (item, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gapCount == 0 {
		return item{}, false
	}
	metadata, err := json.Marshal(map[string]any{"count": w.gapCount, "from": w.gapFrom.UTC(), "to": w.gapTo.UTC(), "class": "custom", "source": "recorder"})
	if err != nil {
		metadata = nil // cannot happen: numbers and times
	}
	e := storage.Entry{Action: "audit-log:dropped", Status: storage.Failed, Severity: severity.Critical, Metadata: metadata}
	e.Sanitize()
	defer func() { w.gapCount = 0 }()
	return item{entry: e, observer: w.Observer, events: w.gapCount, gap: true}, true
}

// Stats returns the current counts.
func (w *Writer) Stats() Stats {
	stats := Stats{Written: w.written.Load(), WriteErrors: w.writeErrors.Load(), Queued: len(w.queue), LastWriteTook: time.Duration(w.lastTook.Load())}
	if at := w.lastWrite.Load(); at != 0 {
		stats.LastWrite = time.Unix(0, at)
	}
	if err := w.failing.Load(); err != nil {
		stats.Failing = *err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	stats.Dropped = w.dropped
	return stats
}

// Close writes what is queued, until ctx ends, and stops the background. Entries
// that could not be written since it was called are counted, logged and part of the error.
// It may be called again.
func (w *Writer) Close(ctx context.Context) error {
	w.closing.Do(func() {
		w.giveUp, w.lostBefore = time.Now().Add(lastTries), w.Stats().Dropped
		close(w.quit)
	})
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	if left := uint64(len(w.queue)+w.rollUps.open()) + w.Stats().Dropped - w.lostBefore; left > 0 {
		return fmt.Errorf("%d audit log entries could not be written before the end", left)
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	if !w.workUntilClosed() || !w.deliverLast() {
		w.abandon()
	}
}

// workUntilClosed does what is queued until the Writer is closed and nothing is; false when
// the store still fails then.
func (w *Writer) workUntilClosed() bool {
	for {
		select {
		case i := <-w.queue:
			w.leave(&i)
			if !w.work(i) {
				return false
			}
		case <-w.quit:
			return w.workOff()
		}
	}
}

// workOff does what is queued; false when the store still fails after the Writer was closed.
func (w *Writer) workOff() bool {
	for {
		i, ok := w.next()
		if !ok {
			return true
		}
		if !w.work(i) {
			return false
		}
	}
}

// deliverLast writes what only the end brings out: roll-ups whose minute is not over,
// one whose minute has ended right now, and a gap, if there is one. It is false when the
// store fails.
func (w *Writer) deliverLast() bool {
	left := w.rollUps.close()
	works := w.workOff() // its put had begun when the Writer was closed
	for batch := range slices.Chunk(left, maxBatch) {
		if works {
			works = w.deliver(batch)
			continue
		}
		w.lose(batch, w.Stats().Failing)
	}
	return works && w.deliver(nil)
}

// abandon gives up what is left when the store fails until the end.
func (w *Writer) abandon() {
	why := w.Stats().Failing
	w.lose(w.rollUps.close(), why)
	for {
		i, ok := w.next()
		switch {
		case !ok:
			return
		case i.unlink == "":
			w.lose([]item{i}, why)
		default:
			w.log.Error("a deleted user's entries keep their user id: the store failed until the end", "error", why)
		}
	}
}

// lose counts entries that are lost, and tells who listens.
func (w *Writer) lose(batch []item, why error) {
	for i := range batch {
		w.drop(batch[i])
		w.tellFailure(batch[i].observer, why, &batch[i].entry)
	}
}

// work does what the first item asks for and what comes with it; false when the
// Writer was closed and the store still fails.
func (w *Writer) work(first item) bool {
	batch, unlink := w.gather(first)
	defer clear(batch)
	return w.deliver(batch) && w.unlinkNow(unlink)
}

// gather collects a batch: what has come at the end of the linger, or at once if that is
// enough. It ends at a user to unlink, who comes after the batch.
func (w *Writer) gather(first item) (batch []item, unlink string) {
	if first.unlink != "" {
		return nil, first.unlink
	}
	w.doze()
	w.batch = append(w.batch[:0], first)
	batch = w.batch
	defer func() { w.batch = batch }()
	for len(batch) < maxBatch {
		i, ok := w.next()
		if !ok || i.unlink != "" {
			return batch, i.unlink
		}
		batch = append(batch, i)
	}
	return batch, ""
}

// doze lets a batch come together, without waking up for each entry of it.
func (w *Writer) doze() {
	if len(w.queue) >= maxBatch-1 {
		return
	}
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.many:
	case <-w.quit: // what comes now is of requests that end
	}
}

// deliver writes a batch, however often it takes, and what is to say of a gap; false when
// the Writer was closed and the store still fails.
func (w *Writer) deliver(batch []item) bool {
	if gap, ok := w.takeGap(); ok {
		batch = append(batch, gap)
	}
	return len(batch) == 0 || w.writeAll(batch)
}

// writeAll is deliver without a gap. Entries that the store will never take are lost, and
// no other for them.
func (w *Writer) writeAll(batch []item) bool {
	entries := make([]storage.Entry, len(batch)) // the store may still look at them after an error
	for i := range batch {
		entries[i] = batch[i].entry
	}
	d := slices.MinFunc(batch, func(a, b item) int { return cmp.Compare(a.durability, b.durability) }).durability
	err := w.persist(d, func(ctx context.Context) error { return w.write(ctx, entries) })
	switch rejected := errors.Is(err, storage.ErrRejected); {
	case rejected && len(batch) > 1:
		return w.writeEach(batch)
	case rejected:
		w.lose(batch, err)
		w.log.Error("an audit log entry is lost: the store will never take it", "id", entries[0].ID, "action", entries[0].Action, "error", err)
		return true
	case err != nil:
		w.lose(batch, err)
		w.log.Error("audit log entries are lost: the store failed until the end", "entries", len(batch), "error", err)
		return false
	}
	for i := range batch {
		w.tell(batch[i].observer, &batch[i].entry)
	}
	return true
}

// Tell tells an observer of an entry that somebody else has written, or could not: then err says
// why. It may be nil.
func (w *Writer) Tell(o Observer, err error, e *storage.Entry) {
	if err != nil {
		w.tellFailure(o, err, e)
	} else {
		w.tell(o, e)
	}
}

// tell tells an observer, which may be nil, of an entry that is written. A bug of an observer costs
// nobody an entry, nor Caddy its life.
func (w *Writer) tell(o Observer, e *storage.Entry) {
	if o != nil {
		defer w.recovered(e)
		o.EntryWritten(*e)
	}
}

// tellFailure is tell for an entry that could not be written.
func (w *Writer) tellFailure(o Observer, why error, e *storage.Entry) {
	if o != nil {
		defer w.recovered(e)
		o.WriteFailed(why, []storage.Entry{*e})
	}
}

// recovered is deferred by who tells an observer.
func (w *Writer) recovered(e *storage.Entry) {
	if p := recover(); p != nil {
		w.log.Error("not everybody who listens heard of an entry; this is a bug, please report it", "id", e.ID, "panic", p, "stack", string(debug.Stack()))
	}
}

// writeEach writes the entries of a batch one by one.
func (w *Writer) writeEach(batch []item) bool {
	for i := range batch {
		if !w.writeAll(batch[i : i+1]) {
			w.lose(batch[i+1:], w.Stats().Failing)
			return false
		}
	}
	return true
}

func (w *Writer) unlinkNow(userID string) bool {
	u, ok := storage.As[storage.Unlinker](w.store)
	if userID == "" || !ok {
		return true
	}
	var err error
	for goesOn := true; goesOn; { // a user with many entries may take several calls
		goesOn = false
		err = w.persist(storage.Fsync, func(ctx context.Context) error {
			n, err := u.Unlink(ctx, userID)
			if goesOn = err != nil && n > 0 && !w.tooLate(); goesOn {
				return nil
			}
			return err
		})
	}
	switch rejected := errors.Is(err, storage.ErrRejected); {
	case rejected:
		w.log.Error("a deleted user's entries keep their user id: the store will never take it away", "error", err)
	case err != nil:
		w.log.Error("a deleted user's entries keep their user id: the store failed until the end", "error", err)
		return false
	}
	return true
}

// persist tries until it works or never will (storage.ErrRejected), or until the Writer was
// closed and it has failed for a while since then, however long it had failed before. Tries
// ask for d, and once it was closed for Fsync: whoever ends us may be about to switch the
// machine off.
func (w *Writer) persist(d storage.Durability, try func(context.Context) error) error {
	select {
	case <-w.works: // of before
	default:
	}
	for wait := firstBackoff; ; wait = min(2*wait, maxBackoff) {
		if w.closed() {
			d = storage.Fsync
		}
		tried := time.Now()
		ctx, cancel := context.WithTimeout(storage.WithDurability(context.Background(), d), writeTimeout)
		err := try(ctx)
		took := time.Since(tried)
		cancel()
		if err == nil || errors.Is(err, storage.ErrRejected) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-w.works: // somebody's write was taken: that may not last
			wait = firstBackoff / 2
			w.pause(max(firstBackoff, took) - time.Since(tried.Add(took))) // it may be this batch that the store does not take
		case <-w.quit:
			if w.tooLate() {
				return err
			}
			time.Sleep(min(wait, lastBackoff))
		}
	}
}

// pause waits, or until the Writer is closed.
func (w *Writer) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.quit:
	}
}

// tooLate says whether the caller of Close has waited long enough.
func (w *Writer) tooLate() bool { return w.closed() && time.Now().After(w.giveUp) }
