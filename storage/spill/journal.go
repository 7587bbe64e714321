package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// queueLength bounds how many records wait for the journal; more wait in append,
	// until their context ends.
	queueLength = 1024
	// maxAppend bounds the bytes that are written with one fsync.
	maxAppend = 4 << 20
	// reserved is how much room is set aside while there is enough: some 8,000
	// entries.
	reserved = 4 << 20
	// stallAfter is how long the disk may take until nobody waits for it any more.
	stallAfter = 2 * time.Second
	// unsyncedLife is how long a record that asked for no fsync waits for one: a power cut
	// takes no more than that, as with SQLite.
	unsyncedLife = time.Second
)

// errDirect says that the journal is closed because the primary works again.
var errDirect = errors.New("the database takes entries itself")

// journal is the file in which changes wait, in order. One goroutine changes it: it
// takes what callers have queued, writes it, and makes it durable with one fsync for
// all of them, or a second later if none asked for one. Methods are safe for concurrent use.
//
// Every byte before end is of records that were acknowledged, or are damaged. What
// is behind it is not acknowledged, and cut off before anything is appended.
type journal struct {
	path string
	log  *slog.Logger
	// direct says whether the primary works: then nothing may be appended, for
	// later changes do not come after it. Only run asks.
	direct func() bool
	// open opens the file; tests have it fail.
	open func(path string) (file, error)

	ops     chan *op
	quit    chan struct{} // closed by close
	stopped chan struct{} // closed by run when the queue is empty and done
	limit   atomic.Int64
	damaged atomic.Uint64
	busy    atomic.Int64 // since when run is at its operation, Unix nanoseconds; 0: it is at none

	// Only run uses these. dirty is true when there may be something behind end,
	// touched when the file on the disk may have been longer than it is since it was
	// last empty, and suspect when an fsync failed: what was written without one,
	// from synced on, may not be on its way to the disk any more.
	dirty, touched, suspect bool
	synced                  int64

	// mu protects the fields below. Only run changes file and end.
	mu      sync.Mutex
	file    file // nil: it could not be opened yet
	end     int64
	read    int64 // what is before it is in the primary
	waiting int   // the weight of what is behind read
	seen    int64 // damage before it was reported
}

// op is a record to append, or something else to do when those before it are done.
// done receives exactly one value.
type op struct {
	record []byte
	weight int
	fsync  bool
	do     func() error
	done   chan error
}

// openJournal opens the file, or makes it. What it finds waits to be read. A disk
// that fails is no error: the next append tries again.
func openJournal(path string, limit int64, o Options, direct func() bool) (*journal, error) {
	j := &journal{
		path: path, log: o.Logger, direct: direct, open: o.open,
		ops: make(chan *op, queueLength), quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	j.limit.Store(limit)
	if err := j.attachIfNeeded(); err != nil {
		f := storage.FaultOf(path, err)
		if f.Reason != storage.DiskFull && f.Reason != storage.IOError {
			return nil, fmt.Errorf("audit log journal %s: %w", path, err)
		}
		j.log.Error("the audit log's journal cannot be opened now, the next entry that needs it tries again", "journal", path, "error", f)
	}
	go j.run()
	return j, nil
}

// attachIfNeeded opens the file if it is there or will be needed.
func (j *journal) attachIfNeeded() error {
	if _, err := os.Lstat(j.path); j.file != nil || j.limit.Load() == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return j.attach()
}

// attach opens the file and looks what is in it. One that is no use is set aside.
func (j *journal) attach() error {
	f, err := j.open(j.path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	end, waiting, err := measure(f, info.Size())
	if err == nil && end == 0 {
		err = checkBeginning(f, info.Size())
	}
	if err != nil {
		if err = errors.Join(j.setAside(f, err), f.Close()); err != nil {
			return err
		}
		return j.attach()
	}
	if torn := info.Size() - end; torn > 0 {
		if wholeLength(f, end, info.Size()) {
			j.log.Error("the audit log's journal ends with a damaged record, which is cut off: after a power cut nobody was told that it is written; otherwise the disk has lost entries that somebody was told of", "journal", j.path, "bytes", torn, "at", end)
		} else {
			j.log.Warn("the audit log's journal ended within a record, which nobody was told is written: it is cut off", "journal", j.path, "bytes", torn, "at", end)
		}
	}
	j.dirty, j.touched, j.suspect, j.synced = end < info.Size(), info.Size() > 0, false, end
	j.mu.Lock()
	j.file, j.end, j.read, j.waiting, j.seen = f, end, 0, waiting, 0
	j.mu.Unlock()
	if info.Size() == 0 {
		j.reserve(f)
	}
	return nil
}

// checkBeginning says why a file without a sound record is not what a crash has left
// of a first one: a part of it, or zeros where its bytes never came.
func checkBeginning(f io.ReaderAt, size int64) error {
	if size == 0 {
		return nil
	}
	first := make([]byte, 1)
	if err := readAt(f, first, 0); err != nil {
		return err
	}
	if first[0] != marker[0] && first[0] != 0 {
		return errors.New("it is no journal")
	}
	return nil
}

// measure returns where the last sound record of a file ends, and the weight of all.
func measure(f io.ReaderAt, size int64) (end int64, waiting int, err error) {
	for {
		r, err := find(f, end, size)
		if errors.Is(err, io.EOF) {
			return end, waiting, nil
		}
		if err != nil {
			return 0, 0, err
		}
		end, waiting = r.next, waiting+r.weight
	}
}

// Waiting is how many entries wait in the journal at a path, 0 if there is none. The journal may
// be in use.
func Waiting(path string) (n int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	_, n, err = measure(f, info.Size())
	return n, err
}

// setAside gives a file that is no use another name, so that somebody can look after
// it.
func (j *journal) setAside(f file, cause error) error {
	name := fmt.Sprintf("%s.unreadable-%d", j.path, time.Now().UnixNano())
	err := isAt(f, j.path)
	if err == nil {
		err = os.Rename(j.path, name)
	}
	if err != nil {
		return fmt.Errorf("%w; it cannot be set aside: %w", cause, err)
	}
	j.damaged.Add(1)
	j.log.Error("the audit log's journal cannot be read and was set aside: when the disk works again, stop Caddy, move it back and start Caddy. What is in it is written once more then: an entry that has got its outcome since is as it was, and a user who was deleted since has a name again",
		"journal", j.path, "kept", name, "error", cause)
	return nil
}

func (j *journal) reserve(f file) {
	if limit := j.limit.Load(); limit > 0 {
		reserve(f, min(limit, reserved))
	}
}

// append appends a record and returns when it is durable, or in the system's hands
// if fsync is false. When ctx ends first it may still be appended.
func (j *journal) append(ctx context.Context, record []byte, weight int, fsync bool) error {
	if since := j.busy.Load(); since != 0 && time.Since(time.Unix(0, since)) > stallAfter {
		return storage.NewFault(storage.Slow, j.path, errors.New("the journal's disk does not answer"))
	}
	return j.submit(ctx, &op{record: record, weight: weight, fsync: fsync})
}

// do has run call f between two appends, and returns when it has.
func (j *journal) do(f func() error) error { return j.submit(context.Background(), &op{do: f}) }

func (j *journal) submit(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	select {
	case j.ops <- o:
	case <-j.quit:
		return storage.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log's journal: %w", ctx.Err())
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the disk of the audit log's journal: %w", ctx.Err())
	case <-j.stopped: // it has answered, or came too late to be seen
		select {
		case err := <-o.done:
			return err
		default:
			return storage.ErrClosed
		}
	}
}

func (j *journal) run() {
	defer close(j.stopped)
	var late <-chan time.Time // nil while all is synced
	for {
		switch {
		case j.file == nil || j.synced == j.end:
			late = nil
		case late == nil:
			late = time.After(unsyncedLife)
		}
		select {
		case o := <-j.ops:
			j.serve(o)
		case <-late:
			late = nil
			j.settle()
		case <-j.quit:
			for {
				select {
				case o := <-j.ops:
					j.serve(o)
				default:
					j.finish()
					return
				}
			}
		}
	}
}

// serve does an operation, and those that can be done with it.
func (j *journal) serve(o *op) {
	j.busy.Store(time.Now().UnixNano())
	defer j.busy.Store(0)
	batch, size := []*op(nil), 0
	for o != nil && o.do == nil {
		batch, size = append(batch, o), size+len(o.record)
		o = nil
		if size < maxAppend {
			select {
			case o = <-j.ops:
			default:
			}
		}
	}
	if len(batch) > 0 {
		j.commit(batch)
	}
	if o != nil {
		j.busy.Store(time.Now().UnixNano())
		o.done <- o.do()
	}
}

// settle makes durable what was written without an fsync. If that fails it is tried again.
func (j *journal) settle() {
	j.busy.Store(time.Now().UnixNano())
	defer j.busy.Store(0)
	err := j.ready()
	if err == nil {
		err = j.sync()
	}
	if err == nil {
		j.synced = j.end
		return
	}
	j.dirty = true
	j.log.Error("the audit log's journal is not on the disk yet: see to the disk; it is tried again", "journal", j.path, "error", err)
}

// commit answers every record of the batch. If they cannot be written together, each
// is tried alone: a short one may find room.
func (j *journal) commit(batch []*op) {
	if j.direct() {
		answer(batch, errDirect)
		return
	}
	if err := j.ready(); err != nil {
		answer(batch, err)
		return
	}
	if batch = j.fitting(batch); len(batch) == 0 {
		return
	}
	err := j.put(batch)
	if err == nil || len(batch) == 1 {
		answer(batch, err)
		return
	}
	for i := range batch {
		if err = j.ready(); err == nil {
			err = j.put(batch[i : i+1])
		}
		batch[i].done <- err
	}
}

func answer(batch []*op, err error) {
	for _, o := range batch {
		o.done <- err
	}
}

// ready makes the file ready to be appended to.
func (j *journal) ready() error {
	if j.file == nil {
		if err := j.attach(); err != nil {
			return storage.FaultOf(j.path, err)
		}
	}
	if !j.dirty {
		return nil
	}
	if err := errors.Join(j.rewrite(), j.file.Truncate(j.end)); err != nil {
		return storage.FaultOf(j.path, err)
	}
	j.dirty = false
	return nil
}

// rewrite writes what an fsync that failed has left in doubt once more, so that the
// next one is about it. Records that asked for no fsync are among it; all others
// were not acknowledged, and are behind end.
func (j *journal) rewrite() error {
	if !j.suspect {
		return nil
	}
	if _, err := io.Copy(io.NewOffsetWriter(j.file, j.synced), io.NewSectionReader(j.file, j.synced, j.end-j.synced)); err != nil {
		return err
	}
	j.suspect = false
	return nil
}

// fitting answers those that the limit leaves no room for and returns the others.
func (j *journal) fitting(batch []*op) []*op {
	kept, end, limit := batch[:0], j.end, j.limit.Load()
	for _, o := range batch {
		if end+int64(len(o.record)) > limit {
			o.done <- j.full(limit)
			continue
		}
		kept, end = append(kept, o), end+int64(len(o.record))
	}
	return kept
}

func (j *journal) full(limit int64) error {
	f := storage.NewFault(storage.LimitReached, j.path, fmt.Errorf("%s has its %d bytes", j.path, limit))
	f.Remedy = "see to the database; spill sets the limit"
	return f
}

// put writes the batch behind end. Nothing of it is acknowledged unless all of it is
// in the file that the path names.
func (j *journal) put(batch []*op) error {
	var buf []byte
	weight, fsync := 0, false
	for _, o := range batch {
		buf, weight, fsync = append(buf, o.record...), weight+o.weight, fsync || o.fsync
	}
	end := j.end + int64(len(buf))
	if err := j.write(buf, fsync); err != nil {
		j.dirty = true
		return storage.FaultOf(j.path, err)
	}
	if fsync {
		j.synced = end
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end, j.waiting = end, j.waiting+weight
	return nil
}

func (j *journal) write(buf []byte, fsync bool) error {
	j.touched = true
	if _, err := j.file.WriteAt(buf, j.end); err != nil {
		return err
	}
	if fsync {
		if err := j.sync(); err != nil {
			return err
		}
	}
	return j.stay(j.end + int64(len(buf)))
}

func (j *journal) sync() error {
	err := j.file.Sync()
	if err != nil {
		j.suspect = true // the next one would succeed for nothing (threats.md E2.2)
	}
	return err
}

// stay makes sure that the first bytes of the file are under the journal's name: a
// file that was removed is written again.
func (j *journal) stay(size int64) error {
	err := isAt(j.file, j.path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.log.Error("the audit log's journal was removed, and is written again", "journal", j.path)
	f, err := createFile(j.path)
	if err != nil {
		return err
	}
	if err := copyFile(f, j.file, size); err != nil {
		return errors.Join(err, f.Close(), os.Remove(j.path))
	}
	_ = j.file.Close() // it has no name any more
	j.mu.Lock()
	defer j.mu.Unlock()
	j.file = f
	return nil
}

func copyFile(to, from file, size int64) error {
	if _, err := io.Copy(io.NewOffsetWriter(to, 0), io.NewSectionReader(from, 0, size)); err != nil {
		return err
	}
	return to.Sync()
}

// verify makes sure that what waits is still under the journal's name.
func (j *journal) verify() error {
	return j.do(func() error {
		if j.file == nil || j.end == 0 {
			return nil
		}
		return j.stay(j.end)
	})
}

// empty removes what was read, durably: records that came back after a power cut
// would undo later changes. Only what do calls may call it.
func (j *journal) empty() error {
	if j.file == nil || !j.touched {
		return nil
	}
	if err := j.file.Truncate(0); err != nil {
		return storage.FaultOf(j.path, err)
	}
	j.forget(j.file)
	j.touched = true
	if err := j.file.Sync(); err != nil {
		return storage.FaultOf(j.path, err)
	}
	j.touched = false
	j.reserve(j.file)
	return nil
}

// forget begins anew with a file that is empty, or with none.
func (j *journal) forget(f file) {
	j.dirty, j.touched, j.suspect, j.synced = false, false, false, 0
	j.mu.Lock()
	defer j.mu.Unlock()
	j.file, j.end, j.read, j.waiting, j.seen = f, 0, 0, 0, 0
}

// drop sets the file aside, with all that waits. Only what do calls may call it.
func (j *journal) drop(cause error) error {
	if j.file == nil {
		return nil
	}
	if err := j.setAside(j.file, cause); err != nil {
		return err
	}
	_ = j.file.Close() // its records are on their way to the disk
	j.forget(nil)
	return nil
}

// next returns the first record from an offset on. When there is none it returns
// io.EOF, and the offset behind the damage at the end.
func (j *journal) next(from int64) (found, error) {
	j.mu.Lock()
	f, end := j.file, j.end
	j.mu.Unlock()
	if f == nil || from >= end {
		return found{next: from}, io.EOF
	}
	r, err := find(f, from, end)
	switch {
	case errors.Is(err, io.EOF):
		j.report(from, end)
		r.next = end
	case err == nil && r.skipped > 0:
		j.report(from, from+r.skipped)
	}
	return r, err
}

// report counts and logs damage, once.
func (j *journal) report(from, to int64) {
	j.mu.Lock()
	known := to <= j.seen
	j.seen = max(j.seen, to)
	j.mu.Unlock()
	if known {
		return
	}
	j.damaged.Add(1)
	j.log.Error("a part of the audit log's journal is damaged and was skipped: at least one entry is lost", "journal", j.path, "at", from, "bytes", to-from)
}

// position is up to where records were read.
func (j *journal) position() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.read
}

// advance notes that everything up to next is in the primary.
func (j *journal) advance(next int64, weight int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.read, j.waiting = next, max(0, j.waiting-weight)
}

// left is the weight and the bytes of what waits.
func (j *journal) left() (waiting int, bytes int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.waiting, j.end - j.read
}

// finish closes the file at the end, and removes it if nothing is in it.
func (j *journal) finish() {
	if j.file == nil {
		return
	}
	if j.synced != j.end {
		j.settle()
	}
	if j.end == 0 && !j.dirty && isAt(j.file, j.path) == nil {
		_ = os.Remove(j.path) // an empty file does no harm
	}
	if err := j.file.Close(); err != nil {
		j.log.Error("closing the audit log's journal", "journal", j.path, "error", err)
	}
}

// close ends the journal when what is queued is done. A disk that does not answer is
// left alone.
func (j *journal) close(wait time.Duration) error {
	close(j.quit)
	select {
	case <-j.stopped:
		return nil
	case <-time.After(wait):
		return fmt.Errorf("the disk of the audit log's journal %s does not answer", j.path)
	}
}
