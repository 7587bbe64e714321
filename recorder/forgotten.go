package recorder

import (
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxForgotten bounds the users who are remembered as forgotten: as many as may be deleted while one
// request is under way.
const maxForgotten = 1000

// forgotten are the users whose ids were taken out of the entries, and when: what was under way then
// may bring one back. It is safe for concurrent use.
type forgotten struct {
	last  atomic.Pointer[time.Time] // nil: never
	once  sync.Once
	users *lru.Cache[string, time.Time]
}

func (f *forgotten) add(user string) {
	f.once.Do(func() { f.users, _ = lru.New[string, time.Time](maxForgotten) }) // the size is no error
	now := time.Now()
	f.users.Add(user, now)
	f.last.Store(&now)
}

// since says whether a user was forgotten after a moment. It costs almost nothing where nobody was.
func (f *forgotten) since(user string, moment time.Time) bool {
	last := f.last.Load()
	if last == nil || last.Before(moment) || user == "" {
		return false
	}
	at, ok := f.users.Get(user)
	return ok && !at.Before(moment)
}
