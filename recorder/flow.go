package recorder

import (
	"slices"
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
	// maxSteps and flowLife bound the entries that wait for a flow's user.
	maxSteps = 16
	flowLife = 15 * time.Minute
)

// flows remembers which exchanges belong together: the steps of one sign-in, or
// what is done with one token. Values are kept as keyed hashes only. It is safe for
// concurrent use.
type flows struct {
	// mu protects the field below and every flow in it.
	mu     sync.Mutex
	values *lru.Cache[credential, *flow]
}

// flow is one chain of steps.
type flow struct {
	user Session
	// into is the flow that this one was joined to; nil if it was not.
	into *flow
	// waiting are entries of earlier steps that nobody could be named in.
	waiting []storage.Entry
}

func newFlows() (*flows, error) {
	values, err := lru.New[credential, *flow](maxFlowValues)
	return &flows{values: values}, err
}

// userOf is the user whom the flow of one of the values has proved.
func (f *flows) userOf(values []credential) Session {
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
	for known.into != nil {
		known = known.into
	}
	return known
}

// join makes all values known as one flow, with the user if one is proved. It
// returns the entries that have waited for that. Flows of two users stay apart.
func (f *flows) join(values []credential, user Session) []storage.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	joined := &flow{user: user}
	for _, v := range values {
		known := f.get(v)
		if known == nil || known == joined || known.user.UserID != "" && joined.user.UserID != "" && known.user.UserID != joined.user.UserID {
			continue
		}
		if joined.user.UserID == "" {
			joined.user = known.user
		}
		joined.waiting = append(joined.waiting, known.waiting...)
		known.waiting, known.into = nil, joined
	}
	for _, v := range values {
		f.values.Add(v, joined)
	}
	if joined.user.UserID == "" {
		return nil
	}
	found := joined.waiting
	joined.waiting = nil
	return slices.DeleteFunc(found, func(e storage.Entry) bool { return time.Since(e.CreatedAt) > flowLife })
}

// wait keeps an entry until its flow has a user.
func (f *flows) wait(values []credential, e storage.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range values {
		if known := f.get(v); known != nil && len(known.waiting) < maxSteps {
			known.waiting = append(known.waiting, e)
			return
		}
	}
}
