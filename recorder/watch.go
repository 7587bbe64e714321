package recorder

import (
	"net/http"
	"sync"
	"sync/atomic"
)

// Watch is told when what Authorize has said of a request's credentials may have
// changed, by an exchange that passed here: for answers that last. Close ends it. It is
// safe for concurrent use.
type Watch struct {
	all     *watches
	key     credential
	user    string
	doubted atomic.Bool
}

// watches are all of one Sessions.
type watches struct {
	// open is how many there are: without any, exchanges do nothing.
	open atomic.Int32

	// mu protects the fields below.
	mu    sync.Mutex
	keys  map[credential]map[*Watch]struct{}
	users map[string]map[*Watch]struct{}
}

// Watch watches the credentials of a request that Authorize has said to be the user's.
// Ask Authorize once more after it: it knows what came between.
func (s *Sessions) Watch(h http.Header, user string) *Watch {
	c := s.credentialsOf(h, nil)
	w := &Watch{all: &s.watches, key: s.wholeKey(&c), user: user}
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.open.Add(1)
	w.all.keys = added(w.all.keys, w.key, w)
	w.all.users = added(w.all.users, w.user, w)
	return w
}

// Doubted says whether Authorize has to be asked again, once for each time.
func (w *Watch) Doubted() bool { return w.doubted.Swap(false) }

// Close ends the watch. It is called once.
func (w *Watch) Close() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.open.Add(-1)
	removed(w.all.keys, w.key, w)
	removed(w.all.users, w.user, w)
}

func added[K comparable](in map[K]map[*Watch]struct{}, key K, w *Watch) map[K]map[*Watch]struct{} {
	if in == nil {
		in = map[K]map[*Watch]struct{}{}
	}
	if in[key] == nil {
		in[key] = map[*Watch]struct{}{}
	}
	in[key][w] = struct{}{}
	return in
}

func removed[K comparable](in map[K]map[*Watch]struct{}, key K, w *Watch) {
	delete(in[key], w)
	if len(in[key]) == 0 {
		delete(in, key)
	}
}

// doubtKey tells the watches of a request's credentials.
func (a *watches) doubtKey(key credential) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for w := range a.keys[key] {
		w.doubted.Store(true)
	}
}

// doubtUser tells the watches of a user.
func (a *watches) doubtUser(user string) {
	if a.open.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for w := range a.users[user] {
		w.doubted.Store(true)
	}
}
