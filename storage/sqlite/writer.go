package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

const (
	// queueLength bounds how many callers may wait in the queue; more wait in
	// submit, until their context ends.
	queueLength = 1024
	// maxBatch bounds the entries of one transaction: performance.md section 2
	// finds no gain beyond 256 to 512.
	maxBatch = 512
	// maxTexts bounds the writer's memory of text codes.
	maxTexts = 4096
	// maxOpen bounds its memory of entries whose outcome is not known yet.
	maxOpen = 4096
	// patience is how long work that can wait waits for a moment in which nobody
	// else wants the writer. Then it takes its turn, or it would never come under
	// a flood.
	patience = time.Second
)

// job is one caller's wish: entries to write, or something else to do in the
// transaction. done receives exactly one value, after which the writer does not look at
// the job any more.
type job struct {
	entries []storage.Entry
	do      func(context.Context, *sql.Tx) error
	// reads says that do changes no entry.
	reads      bool
	durability storage.Durability
	// checkpoint moves the rest of the log into the database, before the
	// transaction.
	checkpoint bool
	// cut does so, too, and cuts the log's file to nothing, unless somebody reads an older state of
	// it. The job is alone; wasCut says whether it could.
	cut, wasCut bool
	// then is called after the commit, before anything else is done.
	then   func()
	queued time.Time // when it came into the writer's queue
	done   chan error
	// answered is true when its caller has received the value of done.
	answered bool
}

// writes are jobs that write entries, to be used again.
var writes = sync.Pool{New: func() any { return &job{done: make(chan error, 1)} }}

// write writes entries, of which it makes a copy: the job may outlive the call.
func (w *writer) write(ctx context.Context, d storage.Durability, entries []storage.Entry) error {
	j := writes.Get().(*job)
	j.entries, j.durability, j.answered = append(j.entries[:0], entries...), d, false
	err := w.submit(ctx, j)
	if j.answered { // otherwise the writer may still have it
		clear(j.entries)
		writes.Put(j)
	}
	return err
}

// writer is the goroutine that owns the write connection.
//
// Callers put jobs into queue; run takes all that have gathered, commits them in
// one transaction, and answers each. So an entry waits for at most the
// transaction that is under way and its own. Jobs in idle can wait: one of them
// is done, in a small transaction of its own, when queue is empty.
type writer struct {
	conn    *sql.Conn
	link    *link
	queue   chan *job
	idle    chan *job
	quit    chan struct{} // closed by close: no more jobs
	stopped chan struct{} // closed by run when the queue is empty and done
	texts   *lru.Cache[text, int64]
	mode    storage.Durability // what PRAGMA synchronous is set to
	growth  growth             // of the log
	// unsynced is true if there may be commits in the log without an fsync.
	unsynced atomic.Bool
	guard    guard
	// changes are those of the transaction under way, which counts hears of when it is
	// committed.
	changes changes
	counts  *counts
	// recounts is how often their table was begun anew, and recounted when that was last tried.
	recounts  atomic.Int64
	recounted time.Time
	// rows are gathered by put, to be inserted together; values are those of a transaction's.
	rows   []row
	values values
	// open are entries whose outcome is not known yet: they will be written again.
	open *lru.Cache[string, place]
	// elsewhere is true if there may be strays that are elsewhere.
	elsewhere bool

	// index finds users, addresses and identifiers.
	index indexer
	log   *slog.Logger
	// linger says when transactions wait to be fuller.
	linger linger

	// version is PRAGMA data_version of the last transaction: it changes when
	// another process has written, which may have deleted texts that are in texts.
	version int64
	// idled is when the last idle job was done.
	idled struct{ from, to time.Time }
	// waited, if not nil, is told how long each queued job waited because of an idle
	// one. Tests set it.
	waited func(time.Duration)
	// busyWait is how many milliseconds a transaction waits for another process's lock.
	busyWait int64
	// used notes the codes that entries are written with while Compact looks for
	// those that none uses; nil at other times.
	used map[int64]struct{}
}

func newWriter(ctx context.Context, db *sql.DB, table string, counts *counts, log *slog.Logger, upgraded bool) (*writer, error) {
	texts, err := lru.New[text, int64](maxTexts)
	if err != nil {
		return nil, err
	}
	pending, err := lru.New[string, place](maxOpen)
	if err != nil {
		return nil, err
	}
	w := &writer{open: pending, queue: make(chan *job, queueLength), idle: make(chan *job), quit: make(chan struct{}), stopped: make(chan struct{}), texts: texts, counts: counts, log: log, growth: newGrowth(), busyWait: busyTimeout.Milliseconds()}
	if w.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	if w.link, err = newLink(w.conn, table); err != nil {
		return nil, errors.Join(err, w.conn.Close())
	}
	w.index.shape, w.index.link, w.index.warning = usualShape, w.link, rate.Sometimes{Interval: time.Hour}
	if upgraded {
		err = w.catchUp(ctx)
	}
	if err == nil {
		err = w.index.load()
	}
	if err != nil {
		return nil, errors.Join(err, w.link.close(), w.conn.Close())
	}
	go w.run()
	return w, nil
}

// submit queues the job and waits for its transaction. When ctx ends first the
// job may still be done: writing is idempotent, so that a retry does no harm.
func (w *writer) submit(ctx context.Context, j *job) error {
	if j.done == nil {
		j.done = make(chan error, 1)
	}
	j.queued = time.Now()
	select {
	case <-w.quit:
		return storage.ErrClosed
	default:
	}
	select {
	case w.queue <- j:
		return w.await(ctx, j)
	case <-w.quit:
		return storage.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log's writer: %w", ctx.Err())
	}
}

// submitIdle is submit for a job that lets all others go first.
func (w *writer) submitIdle(ctx context.Context, j *job) error {
	j.done = make(chan error, 1)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case w.idle <- j:
		return w.await(ctx, j)
	case <-timer.C:
		return w.submit(ctx, j)
	case <-w.quit:
		return storage.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log's writer: %w", ctx.Err())
	}
}

// await waits for the answer to a job that was queued.
func (w *writer) await(ctx context.Context, j *job) error {
	select {
	case err := <-j.done:
		j.answered = true
		return err
	case <-w.stopped:
		// run has ended; it answered every job that it saw, so an answer is
		// either there or the job came too late to be seen.
		select {
		case err := <-j.done:
			return err
		default:
			return storage.ErrClosed
		}
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log's transaction: %w", ctx.Err())
	}
}

// close stops run after the queue is empty, and gives the connection back.
func (w *writer) close() error {
	close(w.quit)
	<-w.stopped
	return errors.Join(w.link.close(), w.conn.Close())
}

func (w *writer) run() {
	defer close(w.stopped)
	for {
		behind := w.tend()
		select {
		case j := <-w.queue: // before idle: a select takes any that is ready
			w.commit(w.gather(j))
			continue
		case <-w.quit:
		default:
			if behind {
				continue
			}
		}
		select {
		case j := <-w.queue:
			w.commit(w.gather(j))
		case j := <-w.idle:
			w.idled.from = time.Now()
			w.commit([]*job{j})
			w.idled.to = time.Now()
		case <-w.quit:
			for {
				select {
				case j := <-w.queue:
					w.commit(w.gather(j))
				default:
					return
				}
			}
		}
	}
}

// gather adds to the first job what else is queued right now. Whoever can run goes first:
// on a busy machine that are callers with more entries, and a transaction costs the same for
// all of them; on an idle one there is nobody, and nobody waits. Under a load that fills
// transactions they wait a little to be fuller (PostgreSQL calls that commit_delay and
// commit_siblings), unless it turns out that all who write are waiting already (linger).
func (w *writer) gather(first *job) []*job {
	runtime.Gosched()
	batch, n := w.take([]*job{first}, len(first.entries))
	if n < maxBatch && w.linger.due() {
		came, half := len(batch), time.Now().Add(lingerFor/2)
		time.Sleep(lingerFor)
		runtime.Gosched()
		batch, _ = w.take(batch, n)
		w.linger.done(came, queuedAfter(half, batch[came:]))
	}
	w.linger.shared(len(batch))
	return batch
}

// queuedAfter counts the jobs that came after a time.
func queuedAfter(t time.Time, jobs []*job) (n int) {
	for _, j := range jobs {
		if j.queued.After(t) {
			n++
		}
	}
	return n
}

// take adds to a batch with n entries what is queued, and counts.
func (w *writer) take(batch []*job, n int) ([]*job, int) {
	for n < maxBatch {
		select {
		case j := <-w.queue:
			batch, n = append(batch, j), n+len(j.entries)+1
		default:
			return batch, n
		}
	}
	return batch, n
}

// commit answers every job of the batch. Entries have a transaction together; a job that
// does something else has one of its own, in its turn.
func (w *writer) commit(batch []*job) {
	w.tellWaits(batch)
	for len(batch) > 0 {
		n := slices.IndexFunc(batch, func(j *job) bool { return j.do != nil || j.cut })
		switch {
		case n < 0:
			n = len(batch)
		case n == 0:
			n = 1
		}
		w.commitTogether(batch[:n])
		batch = batch[n:]
	}
}

// commitTogether answers jobs that share a transaction. If it fails, each gets one of
// its own, so that a bad one cannot take others with it.
func (w *writer) commitTogether(batch []*job) {
	err := w.attempt(batch)
	if err == nil || len(batch) == 1 || w.hopeless(err) {
		for _, j := range batch {
			j.done <- err
		}
		return
	}
	for _, j := range batch {
		j.done <- w.attempt([]*job{j})
	}
}

// tellWaits tells waited how long the jobs of the batch stood behind an idle one.
func (w *writer) tellWaits(batch []*job) {
	if w.waited == nil {
		return
	}
	for _, j := range batch {
		from := w.idled.from
		if j.queued.After(from) {
			from = j.queued
		}
		w.waited(max(w.idled.to.Sub(from), 0))
	}
}

// cutLog moves all of the log into the database and cuts its file to nothing. It waits for no
// reader.
func (w *writer) cutLog() (done bool, err error) {
	ctx := context.Background()
	if _, err := w.conn.ExecContext(ctx, "PRAGMA busy_timeout=0"); err != nil {
		return false, err
	}
	var busy, pages, moved int
	err = w.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved)
	_, failed := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout=%d", w.busyWait))
	return err == nil && busy == 0, errors.Join(err, failed)
}

func (w *writer) transact(batch []*job) error {
	if err := w.setDurability(batch); err != nil {
		return err
	}
	if batch[0].cut {
		var err error
		batch[0].wasCut, err = w.cutLog()
		return err
	}
	if slices.ContainsFunc(batch, func(j *job) bool { return j.checkpoint }) {
		if _, err := w.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)"); err != nil || len(batch) == 1 {
			return err
		}
	}
	var err error
	if do := batch[0].do; do != nil {
		err = w.doOne(do)
	} else {
		err = w.link.transact(func() error { return w.put(batch) })
	}
	if err != nil {
		w.texts.Purge() // codes made in this transaction are gone, and so are entries
		w.open.Purge()
		w.changes.forget()
		w.changes.known = false
		w.index.done(false)
		return err
	}
	w.index.done(true)
	if batch[0].do != nil && !batch[0].reads {
		w.index.recent.forget() // it may have changed or deleted anything
	}
	switch {
	case w.mode == storage.Commit:
		w.unsynced.Store(true)
	case batch[0].do == nil: // what does something else may have written nothing, and then nothing is synced
		w.unsynced.Store(false)
	}
	w.growth.add(sizeOf(batch))
	w.changes.tell(w.counts)
	if then := batch[0].then; then != nil {
		then()
	}
	return nil
}

// sizeOf is how much the jobs write, in entries. Retention and the like change many pages.
func sizeOf(batch []*job) (n int) {
	for _, j := range batch {
		if n += len(j.entries); j.do != nil {
			n += muchGrowth * fewEntries
		}
	}
	return n
}

// doOne runs what is not the writing of entries in a transaction. The minute is a hang
// guard: waiting for a lock takes 5 s at most (busy_timeout).
func (w *writer) doOne(do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	var version int64
	if err = tx.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version); err == nil {
		err = w.notice(version)
	}
	if err == nil {
		err = do(ctx, tx)
	}
	if err == nil {
		err = w.changes.save(w.link)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		_ = tx.Rollback()
	}
	return err
}

// notice hears the version of the database at the start of a transaction. If another
// process has written since the last one, what is remembered of texts, entries and counts
// may not be true any more.
func (w *writer) notice(version int64) error {
	if version != w.version {
		w.version, w.changes.known = version, false
		w.texts.Purge()
		w.open.Purge()
		w.counts.distrust()
	}
	if w.changes.known {
		return nil
	}
	upto, there, err := w.link.upto.number()
	if err == nil {
		_, w.elsewhere, err = w.link.elsewhere.number()
	}
	if err == nil {
		err = w.index.load()
	}
	w.changes.upto, w.changes.known = upto, there && err == nil
	return err
}

// tend makes a segment when there are enough entries for one, and goes on merging; it says
// whether there are enough for another one. It costs some milliseconds for some hundreds of
// entries, and no fsync of its own: what a power cut takes back is done again.
func (w *writer) tend() bool {
	if w.index.due() == 0 || w.guard.err() != nil || time.Since(w.index.failed) < tendAgain {
		return false
	}
	_, err := w.tendOnce(0)
	if errors.Is(err, postings.ErrDamaged) && !w.index.lately() {
		err = w.rebuild(err)
	}
	if err == nil {
		return w.index.due() > 0
	}
	w.guard.distrust(err)
	w.index.failed = time.Now()
	if !busy(err) {
		w.index.warning.Do(func() {
			w.log.Warn("the audit log's index of users and addresses could not be kept up: what it lacks is looked for among the youngest entries, which takes longer. It is tried again",
				"in", tendAgain, "error", err)
		})
	}
	return false
}

// tendAgain is how long tend waits after a failure, and rebuildAgain after the index was begun
// anew.
const (
	tendAgain    = 10 * time.Second
	rebuildAgain = time.Minute
)

// tendOnce is a step of tend, for as many entries as are due, or as are wanted. It says how
// many it has indexed.
func (w *writer) tendOnce(want int) (n int, err error) {
	if err := w.setDurability(nil); err != nil {
		return 0, err
	}
	err = w.link.transact(func() error {
		version, _, err := w.link.version.number()
		if err == nil {
			err = w.notice(version)
		}
		if want = cmp.Or(want, w.index.due()); err == nil && want > 0 {
			n, err = w.index.grow(want)
		}
		if err == nil {
			err = w.index.work(n)
		}
		return err
	})
	if err != nil {
		w.changes.known = false
		return 0, err
	}
	w.unsynced.Store(true)
	w.growth.add(n)
	return n, nil
}

// catchUp indexes the entries of a database that an earlier version made.
func (w *writer) catchUp(ctx context.Context) error {
	for told, n := time.Now(), 0; ; {
		done, err := w.tendOnce(catchUpMost)
		if err = cmp.Or(err, ctx.Err()); err != nil || done < catchUpMost {
			return err
		}
		if n += done; time.Since(told) > 5*time.Second {
			told = time.Now()
			w.log.Info("users and addresses of an earlier version's entries are indexed", "entries so far", n)
		}
	}
}

// watchTexts begins to note which texts are used, and returns the version of the
// database from which on it does.
func (w *writer) watchTexts(ctx context.Context) (int64, error) {
	var version int64
	err := w.submitIdle(ctx, &job{durability: storage.Commit, reads: true, do: func(context.Context, *sql.Tx) error {
		w.used, version = make(map[int64]struct{}), w.version
		return nil
	}})
	return version, err
}

// unwatchTexts ends what watchTexts began. It fails only when the writer ends.
func (w *writer) unwatchTexts() {
	_ = w.submitIdle(context.Background(), &job{durability: storage.Commit, reads: true, do: func(context.Context, *sql.Tx) error {
		w.used = nil
		return nil
	}})
}

// idleCodes returns those of the codes that were not used since version, and
// forgets all that it remembers, for they are about to be deleted. It is called in
// a job. Another process may have used any: then there are none.
func (w *writer) idleCodes(version int64, codes []int64) []any {
	if version != w.version || w.used == nil {
		return nil
	}
	w.texts.Purge()
	var idle []any
	for _, code := range codes {
		if _, used := w.used[code]; !used {
			idle = append(idle, code)
		}
	}
	return idle
}

// setDurability makes the next commit as durable as the most demanding job
// wants: one fsync if any of them asked for it.
func (w *writer) setDurability(batch []*job) error {
	want := storage.Commit
	for _, j := range batch {
		want = min(want, j.durability)
	}
	if want == w.mode {
		return nil
	}
	level := "FULL"
	if want == storage.Commit {
		level = "NORMAL"
	}
	if _, err := w.conn.ExecContext(context.Background(), "PRAGMA synchronous="+level); err != nil {
		return err
	}
	w.mode = want
	return nil
}
