package recorder

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// maxFlowValues bounds the values by which flows are known.
	maxFlowValues = 20000
	// minFlowValue is the shortest value that joins steps, in bytes: shorter ones
	// could be guessed, or be the same by chance.
	minFlowValue = 8
	// maxSteps and flowLife bound the entries that wait for one flow's user, maxWaiting
	// those that wait for all, and maxWaitingSize how large one may be, in bytes:
	// anybody can begin flows.
	maxSteps       = 16
	flowLife       = 15 * time.Minute
	maxWaiting     = 4096
	maxWaitingSize = 8 << 10
)

// flows remembers which exchanges belong together: the steps of one sign-in, or
// what is done with one token. Values are kept as keyed hashes only. It is safe for
// concurrent use.
type flows struct {
	// mu protects the fields below and every flow in them.
	mu     sync.Mutex
	values *lru.Cache[credential, *flow]
	// waiting are entries of steps that nobody could be named in, by their ids.
	waiting *lru.Cache[string, storage.Entry]
}

// flow is one chain of steps.
type flow struct {
	user Session
	// into is the flow that this one was joined to; nil if it was not. rank is at least
	// as much as the steps of the longest way that ends here.
	into *flow
	rank uint8
	// steps are the ids of entries that wait for the flow's user.
	steps []string
}

func newFlows() (*flows, error) {
	values, err := lru.New[credential, *flow](maxFlowValues)
	if err != nil {
		return nil, err
	}
	waiting, err := lru.New[string, storage.Entry](maxWaiting)
	return &flows{values: values, waiting: waiting}, err
}

// userOf is the user whom the flow of one of the values has proved.
func (f *flows) userOf(values []credential) Session {
	if len(values) == 0 {
		return Session{} // and no lock for what most exchanges are
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range values {
		if known := f.get(v); known != nil && known.user.UserID != "" {
			return known.user
		}
	}
	return Session{}
}

// get finds the flow that a value belongs to now; nil if there is none. f.mu is held.
func (f *flows) get(v credential) *flow {
	known, ok := f.values.Get(v)
	if !ok {
		return nil
	}
	if known.into == nil {
		return known
	}
	for known.into != nil {
		known = known.into
	}
	f.values.Add(v, known) // the way there is not gone twice
	return known
}

// join makes all values known as one flow, with the user if one is proved. It
// returns the entries that have waited for that. Flows of two users stay apart.
func (f *flows) join(values []credential, user Session) []storage.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	var joined *flow
	for _, v := range values {
		known := f.get(v)
		switch {
		case known == nil || known == joined || foreign(known.user, user):
		case joined == nil:
			joined = known // and not a new one: a flow that goes on for ever must not grow
			user = either(user, known.user)
		default:
			user = either(user, known.user)
			joined = merge(joined, known)
		}
	}
	if joined == nil {
		joined = new(flow)
	}
	for _, v := range values {
		f.values.Add(v, joined)
	}
	if joined.user = user; user.UserID == "" {
		return nil
	}
	return f.take(joined)
}

// merge puts one flow into another, the one with the shorter way to it into the other,
// so that no chain of flows gets long (union by rank).
func merge(a, b *flow) *flow {
	if a.rank < b.rank {
		a, b = b, a
	}
	if a.rank == b.rank {
		a.rank++
	}
	a.steps = append(a.steps, b.steps[:min(len(b.steps), maxSteps-len(a.steps))]...)
	b.steps, b.into = nil, a
	return a
}

// foreign says that two flows are of two users.
func foreign(a, b Session) bool {
	return a.UserID != "" && b.UserID != "" && a.UserID != b.UserID
}

func either(a, b Session) Session {
	if a.UserID != "" {
		return a
	}
	return b
}

// take returns the entries that wait for a flow's user and are not too old. f.mu is
// held.
func (f *flows) take(of *flow) []storage.Entry {
	var found []storage.Entry
	for _, id := range of.steps {
		e, ok := f.waiting.Peek(id)
		f.waiting.Remove(id)
		if ok && time.Since(e.CreatedAt) <= flowLife {
			found = append(found, e)
		}
	}
	of.steps = nil
	return found
}

// wait keeps an entry until its flow has a user.
func (f *flows) wait(values []credential, e storage.Entry) {
	if len(e.Metadata) > maxWaitingSize {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range values {
		if known := f.get(v); known != nil && len(known.steps) < maxSteps {
			known.steps = append(known.steps, e.ID)
			f.waiting.Add(e.ID, e)
			return
		}
	}
}
