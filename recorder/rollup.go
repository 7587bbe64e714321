package recorder

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// DefaultRollUpAfter is how many failures of one kind a client has written singly
	// in a minute (threats.md A0.6).
	DefaultRollUpAfter = 20
	// rollUpWindow is the time that one entry stands for.
	rollUpWindow = time.Minute
	// maxRollUps bounds the windows that are open at a time. One takes 100 bytes, one
	// that rolls up at most 4 KiB.
	maxRollUps = 10000
	// sweepPause is the least time between two looks for windows that have ended.
	sweepPause = time.Second
)

// RollUpKind is what a flood is one of. Each has a window of its own, so that junk
// does not take failed sign-ins down with it.
type RollUpKind uint8

// The kinds.
const (
	// RollUpUnknown: paths that no route names.
	RollUpUnknown RollUpKind = iota
	// RollUpCheck: classes session and token.
	RollUpCheck
	// RollUpSignIn: class sign-in.
	RollUpSignIn
)

var rollUpKinds = [...]string{RollUpUnknown: "unknown", RollUpCheck: "check", RollUpSignIn: "sign-in"}

// severity is the least of a roll-up of this kind.
func (k RollUpKind) severity() severity.Level {
	if k == RollUpSignIn {
		return severity.High
	}
	return severity.Medium
}

// rollUpKind says of what kind a failure is. What is privileged or destroys something,
// and all that has an intent, is of none: it is always written singly.
func (x *Exchange) rollUpKind() (RollUpKind, bool) {
	route := x.match.Route
	switch {
	case x.begun() || route.Timing == profile.Before:
		return 0, false
	case !route.Known():
		return RollUpUnknown, true
	case x.class() == "session", x.class() == "token":
		return RollUpCheck, true
	case x.class() == "sign-in":
		return RollUpSignIn, true
	}
	return 0, false
}

// rolledUp says whether a finished entry is only counted, in the roll-up of its
// client.
func (x *Exchange) rolledUp(e *storage.Entry, status int) bool {
	if x.rec.RollUpAfter <= 0 || e.Status != storage.Failed {
		return false
	}
	kind, ok := x.rollUpKind()
	if !ok {
		return false
	}
	key := windowKey{kind: kind, user: e.UserID}
	key.client, key.unparsed = rollUpClient(x.facts.ClientIP)
	if !x.rec.Writer.rollUps.add(key, x.rec.RollUpAfter, rolledEvent{e, x.class(), status, x.rec.Observer}) {
		return false
	}
	x.rec.Writer.Metrics.RolledUp(kind)
	return true
}

// rollUpClient is who counts as one client: an address, or the /64 that one IPv6
// client usually has for itself (RFC 6177).
func rollUpClient(ip string) (netip.Prefix, string) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}, ip
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // cannot fail: bits are the address's own
	return p, ""
}

// windowKey is what a flood is told apart by. The identifier that was typed is not
// in it: who tries many accounts would open a window, and write 20 entries, for each.
// The user is: a roll-up then names the one who is signed in.
type windowKey struct {
	client   netip.Prefix
	unparsed string // the client where it is no address
	kind     RollUpKind
	user     string
}

// rolledEvent is one failure.
type rolledEvent struct {
	entry    *storage.Entry
	class    string
	status   int
	observer Observer
}

// window is one minute of one client's failures.
type window struct {
	began time.Time
	// limit of what is written singly.
	limit int
	// single is how many were written singly.
	single int
	// flooding windows follow on one that was over the limit: nothing is written
	// singly, until a minute is below it.
	flooding bool
	rolled   *rolled // nil until something is rolled up
}

// rollUps holds the open windows of one Writer. It is safe for concurrent use.
type rollUps struct {
	// put leaves an item to the Writer's background; drop counts one that is lost.
	put  func(item) bool
	drop func(item)

	// mu protects the fields below and the windows.
	mu      sync.Mutex
	windows *simplelru.LRU[windowKey, *window]
	// timer ends windows; nil while there are none.
	timer  *time.Timer
	closed bool
}

func newRollUps(put func(item) bool, drop func(item)) *rollUps {
	windows, _ := simplelru.NewLRU[windowKey, *window](maxRollUps, nil) // fails for sizes below 1 only
	return &rollUps{put: put, drop: drop, windows: windows}
}

// add counts a failure. It returns false when the failure is to be written singly,
// because it is among the first limit ones of its minute.
func (r *rollUps) add(key windowKey, limit int, event rolledEvent) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	w := r.window(key, limit, time.Now())
	if !w.flooding && w.single < w.limit {
		w.single++
		return false
	}
	if w.rolled == nil {
		w.rolled = newRolled(key, event)
	}
	w.rolled.count(event)
	return true
}

// window is the one that is open at a time. r.mu is held.
func (r *rollUps) window(key windowKey, limit int, now time.Time) *window {
	if w, ok := r.windows.Get(key); ok {
		if now.Sub(w.began) < rollUpWindow {
			return w
		}
		if w = r.end(key, w, now); w != nil {
			return w
		}
	}
	if r.windows.Len() == maxRollUps {
		r.evict()
	}
	w := &window{began: now, limit: limit}
	r.windows.Add(key, w)
	if r.timer == nil {
		r.timer = time.AfterFunc(rollUpWindow, r.sweep)
	}
	return w
}

// end writes a window whose minute is over. It returns the one that takes its place,
// nil if there is none. When the queue is full the window stays open: what is
// counted is not lost to a store that is slow. r.mu is held.
func (r *rollUps) end(key windowKey, w *window, now time.Time) *window {
	if w.rolled == nil {
		r.windows.Remove(key)
		return nil
	}
	if !r.put(w.rolled.item(key)) {
		return w
	}
	if w.rolled.events+uint64(w.single) <= uint64(w.limit) || now.Sub(w.began) >= 2*rollUpWindow {
		r.windows.Remove(key)
		return nil
	}
	next := &window{began: now, limit: w.limit, flooding: true}
	r.windows.Add(key, next)
	return next
}

// evict makes room: the window that was quiet for longest ends early. r.mu is held.
func (r *rollUps) evict() {
	if key, w, ok := r.windows.RemoveOldest(); ok && w.rolled != nil {
		r.putOrDrop(w.rolled.item(key))
	}
}

// unlink ends the windows of a deleted user, and names nobody in what they have
// counted.
func (r *rollUps) unlink(user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range r.windows.Keys() {
		if key.user != user {
			continue
		}
		w, _ := r.windows.Peek(key)
		r.windows.Remove(key)
		if key.user = ""; w.rolled != nil {
			r.putOrDrop(w.rolled.item(key))
		}
	}
}

func (r *rollUps) putOrDrop(i item) {
	if !r.put(i) {
		r.drop(i)
	}
}

// open is how many windows have something to write.
func (r *rollUps) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, w := range r.windows.Values() {
		if w.rolled != nil {
			n++
		}
	}
	return n
}

// sweep ends the windows whose minute is over, and comes again when the next one is.
func (r *rollUps) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	now, wait := time.Now(), rollUpWindow
	for _, key := range r.windows.Keys() {
		w, _ := r.windows.Peek(key)
		if now.Sub(w.began) >= rollUpWindow {
			if w = r.end(key, w, now); w == nil {
				continue
			}
		}
		wait = min(wait, w.began.Add(rollUpWindow).Sub(now))
	}
	if r.timer = nil; r.windows.Len() > 0 {
		r.timer = time.AfterFunc(max(wait, sweepPause), r.sweep)
	}
}

// deliver ends all windows that have counted something.
func (r *rollUps) deliver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, key := range r.windows.Keys() {
		if w, _ := r.windows.Peek(key); w.rolled != nil {
			r.end(key, w, now)
		}
	}
}

// close ends all windows and returns what is left to write. From then on every
// failure is written singly.
func (r *rollUps) close() []item {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	var left []item
	for _, key := range r.windows.Keys() {
		if w, _ := r.windows.Peek(key); w.rolled != nil {
			left = append(left, w.rolled.item(key))
		}
	}
	r.windows.Purge()
	return left
}
