package follow

import (
	"context"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// Window is how old an entry may be when it changes: an outcome that comes later than
	// that after its intent is not told, unless a Watcher says so.
	Window = 2 * time.Minute
	// longestGap bounds how far back it is looked when the store did not list, or did not have
	// all that was written, for a while, here or at another node.
	longestGap = time.Hour
	// every is the time between two looks, and pause the least of it however much is written.
	every = time.Second
	pause = 200 * time.Millisecond
	// wholeEvery is the time between two looks at the whole window. The others end at
	// the first page without news: what changes below it waits for a whole one.
	wholeEvery = 5 * time.Second
	// maxPages of storage.MaxLimit entries bound a look: of what is below it is told that it is
	// not told.
	maxPages = 20
	// lookTimeout bounds one page.
	lookTimeout = 2 * time.Second
	// maxBatch and maxBytes bound what is told at once, and backlog how much of it a
	// listener may have waiting before it is given up.
	maxBatch = 2000
	maxBytes = 8 << 20
	backlog  = 8
)

// Follower tells listeners what becomes of a store's entries. Close ends it, before the
// store is closed. It is safe for concurrent use.
type Follower struct {
	lister storage.Lister
	// watcher hears what other processes write; nil if the store does not.
	watcher storage.Watcher
	// reporter knows whether entries wait elsewhere; nil if the store does not say.
	reporter storage.Reporter
	log      *slog.Logger
	wake     chan struct{}
	// listening is whether anybody does: Wake must cost nothing when nobody does.
	listening atomic.Bool
	warning   rate.Sometimes

	// late is of what others have written late, not looked at yet.
	late storage.Late

	// mu protects the fields below.
	mu        sync.Mutex
	closed    bool
	listeners map[*Listener]struct{}
	look      *look // under way while there are listeners; nil without
	looking   sync.WaitGroup
}

// look is the work of one goroutine.
type look struct {
	cancel context.CancelFunc
	ready  chan struct{} // closed after the first look
	seed   maphash.Seed
	// known is what was told of the window's entries, by id.
	known map[string]uint64
	whole time.Time // when the whole window was last looked at
	// well is when a look last began that saw all there was: the store listed, and no entries
	// waited elsewhere to be written. In nanoseconds since 1970, 0 for never.
	well atomic.Int64
}

// Listener hears of entries. Close ends it.
type Listener struct {
	follower *Follower
	news     chan News
}

// News are entries as they are now: new ones, and those that have changed, oldest first. They
// may come again.
type News struct {
	Entries []storage.Entry
	// Missed is a time of which not all is told, because too much was written at once; nil for none.
	Missed *storage.Span
}

// New returns a Follower of a store, nil of one that cannot list.
func New(store storage.Store, log *slog.Logger) *Follower {
	lister, ok := storage.As[storage.Lister](store)
	if !ok {
		return nil
	}
	watcher, _ := storage.As[storage.Watcher](store)
	reporter, _ := storage.As[storage.Reporter](store)
	return &Follower{
		reporter: reporter, lister: lister, watcher: watcher, log: log, wake: make(chan struct{}, 1), listeners: map[*Listener]struct{}{}, warning: rate.Sometimes{Interval: time.Minute},
	}
}

// Wake says that this process has just written.
func (f *Follower) Wake() {
	if f == nil || !f.listening.Load() {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default: // it is awake
	}
}

// hear is told that somebody has written, and of which times late entries are.
func (f *Follower) hear(late storage.Spans) {
	f.late.Add(late...)
	f.Wake()
}

// Listen returns a Listener that hears of everything which is written from now on: what
// is listed after Listen has returned, and what is heard, is all there is. It fails when
// ctx ends first, or the Follower is closed.
func (f *Follower) Listen(ctx context.Context) (*Listener, error) {
	l := &Listener{f, make(chan News, backlog)}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, storage.ErrClosed
	}
	f.listeners[l] = struct{}{}
	if f.look == nil {
		f.start()
	}
	now := f.look
	f.mu.Unlock()
	select {
	case <-now.ready:
		return l, nil
	case <-ctx.Done():
		l.Close()
		return nil, ctx.Err()
	}
}

// start begins to look; f.mu is held.
func (f *Follower) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f.look = &look{cancel: cancel, ready: make(chan struct{}), seed: maphash.MakeSeed(), known: map[string]uint64{}}
	f.listening.Store(true)
	now := f.look
	f.looking.Go(func() { f.run(ctx, now) })
	if f.watcher != nil {
		f.looking.Go(func() { f.watcher.Watch(ctx, f.hear) })
	}
}

// end ends looking; f.mu is held.
func (f *Follower) end() {
	if f.look != nil {
		f.look.cancel()
		f.look = nil
		f.listening.Store(false)
	}
}

// News is what there is to hear. The channel is closed when the listener was too slow, or the
// Follower is closed. Nobody may change what comes out of it.
func (l *Listener) News() <-chan News { return l.news }

// Close ends the listener. It may be called again.
func (l *Listener) Close() {
	l.follower.mu.Lock()
	defer l.follower.mu.Unlock()
	l.follower.drop(l)
}

// drop ends a listener; f.mu is held.
func (f *Follower) drop(l *Listener) {
	if _, there := f.listeners[l]; !there {
		return
	}
	delete(f.listeners, l)
	close(l.news)
	if len(f.listeners) == 0 {
		f.end()
	}
}

// Close ends all listeners, and returns when nothing uses the store any more.
func (f *Follower) Close() {
	if f == nil {
		return
	}
	f.mu.Lock()
	f.closed = true
	for l := range f.listeners {
		f.drop(l)
	}
	f.mu.Unlock()
	f.looking.Wait()
}

// run looks until nobody listens.
func (f *Follower) run(ctx context.Context, now *look) {
	f.newsOf(ctx, now, func(News) {}) // what is there already is no news
	f.late.Take()
	close(now.ready)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.wake:
		}
		f.newsOf(ctx, now, f.tell)
		f.lateNews(ctx, now, f.tell)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// newsOf looks at the log, and tells what it did not know.
func (f *Follower) newsOf(ctx context.Context, now *look, tell func(News)) {
	began := time.Now()
	whole, first := began.Sub(now.whole) >= wholeEvery, now.whole.IsZero()
	seen := map[string]uint64{}
	var news batch
	well, from := f.well(now), began
	if last := now.well.Load(); last != 0 {
		from = time.Unix(0, last)
	}
	q := storage.Query{From: later(from, began.Add(-longestGap)).Add(-Window), Limit: storage.MaxLimit, NoTotal: true}
	var below time.Time // what was written before it is not told; zero if all is
	fresh := 0          // entries that were not known in any version
	for pages := 1; ; pages++ {
		page, err := f.page(ctx, q)
		if err != nil {
			if ctx.Err() == nil {
				f.warning.Do(func() { f.log.Warn("the audit log cannot be followed: the store does not list", "error", err) })
			}
			whole, well = false, false
			break
		}
		before, freshBefore := news.count, fresh
		for i := range page.Entries {
			e := &page.Entries[i]
			digest := now.digest(e)
			known, there := now.known[e.ID]
			if !there {
				fresh++
			}
			if seen[e.ID] = digest; known != digest {
				now.known[e.ID] = digest
				news.add(e, tell)
			}
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" || !whole && news.count == before {
			break
		}
		if pages == maxPages {
			if fresh > freshBefore && !first { // else what is below was told before, or is no news
				below = oldest(page.Entries)
			}
			break
		}
	}
	news.flush(tell)
	f.miss(q.From, below, tell)
	if whole {
		now.known, now.whole = seen, began
		if well {
			now.well.Store(began.UnixNano())
		}
	}
}

// oldest is when the last entry of a page was made; zero of none.
func oldest(page []storage.Entry) time.Time {
	if len(page) == 0 {
		return time.Time{}
	}
	return page[len(page)-1].CreatedAt
}

// miss tells of which time not all is told, if there is one.
func (f *Follower) miss(from, to time.Time, tell func(News)) {
	if !to.IsZero() {
		f.warning.Do(func() {
			f.log.Warn("not all entries are told to those who follow: too many were written at once; lists have them")
		})
		tell(News{Missed: &storage.Span{From: from, To: to}})
	}
}

// lateNews tells what others have written so late that it is below the window. What is known of
// those times already comes again, unless it was told in the last seconds.
func (f *Follower) lateNews(ctx context.Context, now *look, tell func(News)) {
	var news batch
	began, pages := time.Now(), maxPages
	spans := f.late.Take()
	for i, late := range spans {
		q := storage.Query{From: later(late.From, began.Add(-longestGap)), To: earlier(late.To, began.Add(-Window)), Limit: storage.MaxLimit, NoTotal: true}
		if q.To.Before(q.From) {
			continue
		}
		for {
			page, err := f.page(ctx, q)
			if err != nil { // newsOf warns, too
				f.late.Add(spans[i:]...)
				news.flush(tell)
				return
			}
			for i := range page.Entries {
				e := &page.Entries[i]
				if digest := now.digest(e); now.known[e.ID] != digest {
					now.known[e.ID] = digest
					news.add(e, tell)
				}
			}
			if q.Cursor = page.NextCursor; q.Cursor == "" {
				break
			}
			if pages--; pages == 0 {
				f.late.Add(spans[i+1:]...)
				news.flush(tell)
				f.miss(q.From, oldest(page.Entries), tell)
				return
			}
		}
	}
	news.flush(tell)
}

// well says whether no entries wait elsewhere to be written. A look that begins while some do
// goes back to when that began.
func (f *Follower) well(now *look) bool {
	if f.reporter == nil {
		return true
	}
	h := f.reporter.Health()
	if h.State == storage.Healthy {
		return true
	}
	if now.well.Load() == 0 && !h.Since.IsZero() {
		now.well.Store(h.Since.UnixNano())
	}
	return false
}

// Told is the time of which everything that was written before was told by now, but for what
// changes or comes late within the Window; zero if nobody knows. It does not move while entries
// wait elsewhere to be written.
func (l *Listener) Told() time.Time {
	l.follower.mu.Lock()
	now := l.follower.look
	l.follower.mu.Unlock()
	if now == nil || len(l.news) > 0 {
		return time.Time{}
	}
	if at := now.well.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (f *Follower) page(ctx context.Context, q storage.Query) (storage.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return f.lister.List(ctx, q)
}

// batch is news that are not told yet, newest first.
type batch struct {
	entries      []storage.Entry
	bytes, count int
}

func (b *batch) add(e *storage.Entry, tell func(News)) {
	b.entries = append(b.entries, *e)
	b.bytes += len(e.Metadata) + storage.MaxUserAgent
	if b.count++; len(b.entries) >= maxBatch || b.bytes >= maxBytes {
		b.flush(tell)
	}
}

func (b *batch) flush(tell func(News)) {
	if len(b.entries) == 0 {
		return
	}
	slices.Reverse(b.entries)
	tell(News{Entries: b.entries})
	b.entries, b.bytes = nil, 0
}

// tell gives news to all listeners; those that have too much waiting are given up.
func (f *Follower) tell(news News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.listeners {
		select {
		case l.news <- news:
		default:
			f.drop(l)
		}
	}
}

// digest tells two states of an entry apart.
func (l *look) digest(e *storage.Entry) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	for _, s := range []string{e.UserID, e.Action, string(e.Status), e.Severity.String(), e.IPAddress, e.UserAgent} {
		_, _ = h.WriteString(s)
		_ = h.WriteByte(0)
	}
	_, _ = h.Write(e.Metadata)
	return h.Sum64() | 1 // never 0, which is what nobody knows
}
