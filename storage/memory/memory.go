// Package memory is a store in the process's own memory: for tests, and for
// trying the module out. Everything is gone when the process ends.
package memory

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// DefaultCapacity is how many entries a Store keeps before it drops the oldest,
// the same number as the plugin's MemoryStorage.
const DefaultCapacity = 10000

// Store keeps entries in memory. Use New. It is safe for concurrent use.
type Store struct {
	capacity int

	// mu protects the fields below.
	mu     sync.RWMutex
	rows   []row // ascending by key
	keys   map[string]int64
	closed bool
}

type row struct {
	key   int64
	entry storage.Entry
}

var (
	_ storage.Store    = (*Store)(nil)
	_ storage.Lister   = (*Store)(nil)
	_ storage.Getter   = (*Store)(nil)
	_ storage.Pruner   = (*Store)(nil)
	_ storage.Unlinker = (*Store)(nil)
	_ storage.Closer   = (*Store)(nil)

	_ storage.Aggregator = (*Store)(nil)
)

// New returns an empty store that keeps up to capacity entries; 0 means
// DefaultCapacity.
func New(capacity int) *Store {
	if capacity <= 0 {
		capacity = DefaultCapacity
	}
	return &Store{capacity: capacity, keys: make(map[string]int64)}
}

// Entries returns a copy of all entries, oldest first: what a test asserts on.
func (s *Store) Entries() []storage.Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]storage.Entry, len(s.rows))
	for i := range s.rows {
		out[i] = s.rows[i].entry
	}
	return out
}

// Write implements storage.Store.
func (s *Store) Write(ctx context.Context, entries ...storage.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return storage.ErrClosed
	}
	for _, e := range entries {
		s.put(e)
	}
	if over := len(s.rows) - s.capacity; over > 0 {
		s.drop(over)
	}
	return nil
}

// put stores one entry at its place; s.mu is held.
func (s *Store) put(e storage.Entry) {
	e.Metadata = slices.Clone(e.Metadata)
	if key, ok := s.keys[e.ID]; ok {
		old := &s.rows[s.search(key)].entry
		e.CreatedAt = old.CreatedAt
		*old = e
		return
	}
	key := e.SortKey()
	i := s.search(key)
	for i < len(s.rows) && s.rows[i].key == key {
		key++
		i++
	}
	s.rows = slices.Insert(s.rows, i, row{key, e})
	s.keys[e.ID] = key
}

// search returns the index of the first row whose key is not below key.
func (s *Store) search(key int64) int {
	return sort.Search(len(s.rows), func(i int) bool { return s.rows[i].key >= key })
}

// drop forgets the n oldest rows; s.mu is held.
func (s *Store) drop(n int) {
	for i := range s.rows[:n] {
		delete(s.keys, s.rows[i].entry.ID)
	}
	s.rows = slices.Delete(s.rows, 0, n)
}

// List implements storage.Lister.
func (s *Store) List(_ context.Context, q storage.Query) (storage.Page, error) {
	after := int64(-1)
	if q.Cursor != "" {
		key, err := storage.DecodeCursor(q.Cursor)
		if err != nil {
			return storage.Page{}, err
		}
		after, q.Offset = key, 0
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.page(&q, after), nil
}

func (s *Store) page(q *storage.Query, after int64) storage.Page {
	page := storage.Page{Entries: []storage.Entry{}}
	limit, skip, last := q.PageLimit(), q.Offset, int64(0)
	for i := len(s.rows) - 1; i >= 0; i-- {
		r := &s.rows[i]
		if !q.Matches(&r.entry) {
			continue
		}
		page.Total++
		switch {
		case after >= 0 && r.key >= after:
		case skip > 0:
			skip--
		case len(page.Entries) < limit:
			page.Entries = append(page.Entries, r.entry)
			last = r.key
		case page.NextCursor == "":
			page.NextCursor = storage.EncodeCursor(last)
		}
	}
	if page.Total > storage.MaxTotal {
		page.Total, page.TotalIsCapped = storage.MaxTotal, true
	}
	return page
}

// Histogram implements storage.Aggregator.
func (s *Store) Histogram(_ context.Context, q storage.Query, step time.Duration) ([]storage.Bucket, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ms := step.Milliseconds()
	var buckets []storage.Bucket
	for i := range s.rows {
		e := &s.rows[i].entry
		if !q.Matches(e) {
			continue
		}
		at := e.CreatedAt.UnixMilli()
		begin := time.UnixMilli(at - at%ms).UTC()
		if n := len(buckets); n == 0 || !buckets[n-1].At.Equal(begin) {
			buckets = append(buckets, storage.Bucket{At: begin})
		}
		b, code := &buckets[len(buckets)-1], e.Status.Code()
		b.Counts[code]++
		b.Events[code] = storage.AddEvents(b.Events[code], storage.EventsIn(e.Action, e.Metadata))
	}
	return buckets, nil
}

// Tally implements storage.Aggregator.
func (s *Store) Tally(_ context.Context, q storage.Query) ([]storage.Tally, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	groups := map[storage.Tally]*storage.Tally{}
	for i := range s.rows {
		e := &s.rows[i].entry
		if !q.Matches(e) {
			continue
		}
		of := storage.Tally{Action: e.Action, Class: storage.ClassIn(e.Metadata), Status: e.Status, Severity: e.Severity}
		group := groups[of]
		if group == nil {
			group = &of
			groups[of] = group
		}
		group.Count++
		group.Events = storage.AddEvents(group.Events, storage.EventsIn(e.Action, e.Metadata))
	}
	tallies := make([]storage.Tally, 0, len(groups))
	for _, group := range groups {
		tallies = append(tallies, *group)
	}
	slices.SortFunc(tallies, storage.CompareTallies)
	return tallies, nil
}

// Get implements storage.Getter.
func (s *Store) Get(_ context.Context, id string) (storage.Entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	key, ok := s.keys[id]
	if !ok {
		return storage.Entry{}, storage.ErrNotFound
	}
	return s.rows[s.search(key)].entry, nil
}

// Prune implements storage.Pruner.
func (s *Store) Prune(_ context.Context, before time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(s.search(storage.TimeKey(before)), limit)
	s.drop(n)
	return n, nil
}

// Unlink implements storage.Unlinker.
func (s *Store) Unlink(_ context.Context, userID string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for i := range s.rows {
		if userID != "" && s.rows[i].entry.UserID == userID {
			s.rows[i].entry.UserID = ""
			n++
		}
	}
	return n, nil
}

// Close implements storage.Closer: later writes fail with storage.ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
