package recorder_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

const deleted = `{"success":true,"message":"User deleted"}`

// fill leaves the queue full of what nobody waits for, and the background asleep for seconds. The
// store fails.
func (g *rig) fill() {
	g.store.set(true)
	filler := storage.Entry{Action: "x"}
	filler.Sanitize()
	more := func() {
		for g.writer.Offer(storage.Commit, filler, nil) {
			time.Sleep(time.Microsecond)
		}
	}
	more()
	time.Sleep(time.Minute) // the background has its batch, and tries seldom
	more()
}

// outcomes counts the entries of an action by how they ended.
func (g *rig) outcomes(action string) map[storage.Status]int {
	all := map[storage.Status]int{}
	for _, e := range g.store.Entries() {
		if e.Action == action {
			all[e.Status]++
		}
	}
	return all
}

// interrupted counts the entries that say that they were.
func (g *rig) interrupted() (n int) {
	for _, e := range g.store.Entries() {
		if strings.Contains(string(e.Metadata), `"interrupted":true`) {
			n++
		}
	}
	return n
}

// TestTheOutcomeOfAStoredIntentIsNeverDropped: the store works for a moment, in which an intent is
// written, and fails when the answer comes, which the client gets. The queue is full of what was
// refused meanwhile. In gate 11 that has cost two outcomes of ten thousand requests.
func TestTheOutcomeOfAStoredIntentIsNeverDropped(t *testing.T) {
	for _, d := range []recorder.Durability{recorder.Fsync, recorder.Async} {
		synctest.Test(t, func(t *testing.T) {
			g, store := newPickyRig(t, func(o *recorder.Options) { o.Durability = d })
			if d == recorder.Fsync {
				g.fill()
			}
			g.store.set(false)
			end := g.begin("POST", "/delete-user")
			if d == recorder.Async { // whose intent needs a place itself
				g.fill()
			}
			g.store.set(true)
			end(200, deleted)
			g.store.set(false)
			store.all.Store(true)
			must(t, g.writer.Close(t.Context()))
			if got := g.outcomes("delete-user"); got[storage.Success] != 1 || len(got) != 1 {
				t.Errorf("%v: the log has %v", d, got)
			}
		})
	}
}

// on has the rig's Writer write to another store.
func on(store storage.Store) func(*recorder.Options) {
	return func(o *recorder.Options) {
		_ = o.Writer.Close(context.Background()) // nothing is in it
		o.Writer = recorder.NewWriter(store, quiet)
	}
}

// picky takes all but fillers until it is let go.
type picky struct {
	*flaky
	all atomic.Bool
}

// newPickyRig is a rig whose store is picky.
func newPickyRig(t *testing.T, change func(*recorder.Options)) (*rig, *picky) {
	store := &picky{flaky: &flaky{Store: memory.New(100_000)}}
	g := newRig(t, func(o *recorder.Options) {
		if on(store)(o); change != nil {
			change(o)
		}
	})
	g.store = store.flaky
	return g, store
}

func (p *picky) Write(ctx context.Context, entries ...storage.Entry) error {
	if !p.all.Load() && entries[0].Action == "x" {
		return errors.New("not this one")
	}
	return p.flaky.Write(ctx, entries...)
}

// TestWhatDestroysIsRefusedWhenItsOutcomeWouldHaveNoPlace: while the queue is full as many outcomes
// are owed as there are places for.
func TestWhatDestroysIsRefusedWhenItsOutcomeWouldHaveNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newPickyRig(t, nil)
		g.fill()
		g.store.set(false)
		var ends []func(int, string)
		for range recorder.Reserve {
			ends = append(ends, g.begin("POST", "/delete-user"))
		}
		if answer := g.do("POST", "/delete-user", `{}`, cookie("s-alice"), answers(200, deleted)); answer.Code != http.StatusServiceUnavailable {
			t.Errorf("one more was answered %d", answer.Code)
		}
		g.begin("POST", "/sign-out")(200, `{"success":true}`) // it fails open, and is written at once
		g.store.set(true)
		for _, end := range ends {
			end(200, deleted)
		}
		g.store.set(false)
		store.all.Store(true)
		must(t, g.writer.Close(t.Context()))
		if got := g.outcomes("delete-user"); got[storage.Success] != recorder.Reserve || got[storage.Unknown] > 0 {
			t.Errorf("of %d that were acknowledged the log has %v", recorder.Reserve, got)
		}
		if got := g.outcomes("sign-out"); got[storage.Success] != 1 {
			t.Errorf("the log has %v of the sign-out", got)
		}
	})
}

// TestManyThatDestroyAreUnderWay: as long as the queue is not full, none is refused for their number,
// and places that were promised are given back.
func TestManyThatDestroyAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		g.store.Store = memory.New(100_000)
		for range 2 {
			var ends []func(int, string)
			for range 2 * recorder.Reserve {
				ends = append(ends, g.begin("POST", "/delete-user"))
			}
			for _, end := range ends {
				end(200, deleted)
			}
		}
		time.Sleep(time.Minute) // for who is to be unlinked
		if n := g.writer.Taken(); n != 0 {
			t.Errorf("%d places are taken by nothing", n)
		}
	})
}

// TestTheBackgroundHearsThatTheStoreWorks: it need not sleep on when somebody else's entry was
// taken; a store that comes and goes may be gone again when it awakes.
func TestTheBackgroundHearsThatTheStoreWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil)
		e := storage.Entry{Action: "x"}
		e.Sanitize()
		g.store.set(true)
		g.writer.Enqueue(storage.Commit, e, nil)
		time.Sleep(time.Minute + 200*time.Millisecond)
		g.store.set(false)
		other := storage.Entry{Action: "y"}
		other.Sanitize()
		must(t, g.writer.Write(storage.Fsync, other))
		synctest.Wait()
		if n := len(g.store.Entries()); n != 2 {
			t.Errorf("%d entries in the log at once, want both", n)
		}
	})
}

// careless is an observer with a bug.
type careless struct{}

func (careless) EntryWritten(storage.Entry)         { panic("a bug") }
func (careless) WriteFailed(error, []storage.Entry) { panic("another") }

// TestABugOfAnObserverCostsNoEntry, nor an outcome that is stored, nor the background's life.
func TestABugOfAnObserverCostsNoEntry(t *testing.T) {
	for _, d := range []recorder.Durability{recorder.Fsync, recorder.Async} {
		for _, fail := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, func(o *recorder.Options) { o.Durability, o.Observer = d, careless{} })
				end := g.begin("POST", "/delete-user")
				g.store.set(fail)
				end(200, deleted)
				g.store.set(false)
				must(t, g.writer.Close(context.Background()))
				if got := g.outcomes("delete-user"); got[storage.Success] != 1 || len(got) != 1 {
					t.Errorf("%v, failing %v: the log has %v", d, fail, got)
				}
			})
		}
	}
}

// half stores what it is given, and says that it could not.
type half struct{ *memory.Store }

func (h half) Write(ctx context.Context, entries ...storage.Entry) error {
	return errors.Join(h.Store.Write(ctx, entries...), errors.New("the answer of the commit was lost"))
}

// skipper suppresses what has happened.
type skipper struct{}

func (skipper) BeforeLog(_ context.Context, d *recorder.Draft) error {
	d.Skip = d.Entry.Status != storage.Unknown
	return nil
}

// TestAnIntentThatMayBeStoredGetsItsOutcome: nobody knows whether the intent was stored, so that no
// rule suppresses how it ended.
func TestAnIntentThatMayBeStoredGetsItsOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memory.New(0)
		g := newRig(t, func(o *recorder.Options) {
			o.Hooks = []recorder.Hook{skipper{}}
			on(half{log})(o)
		})
		g.begin("POST", "/sign-out")(200, `{"success":true}`)
		_ = g.writer.Close(t.Context())
		if e := log.Entries(); len(e) != 1 || e[0].Status != storage.Success {
			t.Errorf("the log has %+v", e)
		}
	})
}

// TestAnInterruptedEntryStandsBehindItsIntent: with Async both wait in the queue, which is full.
func TestAnInterruptedEntryStandsBehindItsIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(o *recorder.Options) { o.Durability = recorder.Async })
		g.store.Store = memory.New(100_000)
		g.store.set(true)
		g.begin("POST", "/delete-user")
		g.fill()
		g.store.set(false)
		must(t, g.writer.Interrupt())
		must(t, g.writer.Close(t.Context()))
		if n := g.interrupted(); n != 1 {
			t.Errorf("%d entries say that they were interrupted", n)
		}
	})
}

// TestWhatHasAnotherPlaceTakesNoneOfTheReserve: outcomes wait with everything else as long as there
// is room.
func TestWhatHasAnotherPlaceTakesNoneOfTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newPickyRig(t, nil)
		x := storage.Entry{Action: "x"}
		x.Sanitize()
		g.writer.Enqueue(storage.Commit, x, nil)
		time.Sleep(time.Second) // the background is stuck with it
		for range recorder.Reserve {
			g.store.set(false)
			end := g.begin("POST", "/delete-user")
			g.store.set(true)
			end(200, deleted)
		}
		g.fill()
		g.store.set(false)
		end := g.begin("POST", "/delete-user") // it would be refused
		g.store.set(true)
		end(200, deleted)
		g.store.set(false)
		store.all.Store(true)
		must(t, g.writer.Close(t.Context()))
		if got := g.outcomes("delete-user"); got[storage.Success] != recorder.Reserve+1 || len(got) != 1 {
			t.Errorf("the log has %v", got)
		}
	})
}

// TestWhoIsNeverRefusedCannotTakeTheReserve: any number of sign-outs that do not end leave half of it.
func TestWhoIsNeverRefusedCannotTakeTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newPickyRig(t, nil)
		g.fill()
		g.store.set(false)
		for range 2 * recorder.Reserve {
			g.begin("POST", "/sign-out")
		}
		if answer := g.do("POST", "/delete-user", `{}`, cookie("s-alice"), answers(200, deleted)); answer.Code != http.StatusOK {
			t.Errorf("whoever destroys was answered %d", answer.Code)
		}
		store.all.Store(true)
	})
}

// TestWhatIsInterruptedHasItsOutcomeAllTheSame: with Async both need a place in a full queue, and
// there are not enough for all.
func TestWhatIsInterruptedHasItsOutcomeAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(o *recorder.Options) { o.Durability = recorder.Async })
		g.store.Store = memory.New(100_000)
		g.store.set(true)
		const many = recorder.Reserve * 3 / 4
		var ends []func(int, string)
		for range many {
			ends = append(ends, g.begin("POST", "/delete-user"))
		}
		g.fill()
		must(t, g.writer.Interrupt())
		for _, end := range ends {
			end(200, deleted)
		}
		g.store.set(false)
		must(t, g.writer.Close(t.Context()))
		if got := g.outcomes("delete-user"); got[storage.Success] != many || len(got) != 1 {
			t.Errorf("the log has %v", got)
		}
		if n := g.writer.Taken(); n != 0 {
			t.Errorf("%d places are taken by nothing", n)
		}
	})
}

// TestWhatIsWrittenAfterTheEndIsNotLost: an interrupted entry that finds the queue closed is written
// at once, and not counted as dropped.
func TestWhatIsWrittenAfterTheEndIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(o *recorder.Options) { o.Durability = recorder.Async })
		g.begin("POST", "/sign-in/email")
		must(t, g.writer.Close(t.Context()))
		must(t, g.writer.Interrupt())
		if dropped, n := g.writer.Stats().Dropped, g.interrupted(); dropped != 0 || n != 1 {
			t.Errorf("%d are counted as dropped, %d entries say that they were interrupted", dropped, n)
		}
	})
}

// TestABatchThatTheStoreDoesNotTakeIsTriedSeldom, however often it takes others.
func TestABatchThatTheStoreDoesNotTakeIsTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newPickyRig(t, nil)
		x, y := storage.Entry{Action: "x"}, storage.Entry{Action: "y"}
		x.Sanitize()
		g.writer.Enqueue(storage.Commit, x, nil)
		time.Sleep(time.Minute)
		before := g.writer.Stats().WriteErrors
		for range 1000 {
			y.ID = ""
			y.Sanitize()
			must(t, g.writer.Write(storage.Fsync, y))
			time.Sleep(time.Millisecond)
		}
		if n := g.writer.Stats().WriteErrors - before; n > 25 {
			t.Errorf("%d tries in a second", n)
		}
		store.all.Store(true)
	})
}

// late refuses fillers after a second.
type late struct {
	picky
	spent atomic.Int64 // nanoseconds in refused tries
}

func (l *late) Write(ctx context.Context, entries ...storage.Entry) error {
	if !l.all.Load() && entries[0].Action == "x" {
		time.Sleep(time.Second)
		l.spent.Add(int64(time.Second))
	}
	return l.picky.Write(ctx, entries...)
}

// TestABatchThatFailsSlowlyLeavesTheStoreToOthers: half of the time at least.
func TestABatchThatFailsSlowlyLeavesTheStoreToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &late{picky: picky{flaky: &flaky{Store: memory.New(100_000)}}}
		g := newRig(t, on(store))
		x, y := storage.Entry{Action: "x"}, storage.Entry{Action: "y"}
		x.Sanitize()
		g.writer.Enqueue(storage.Commit, x, nil)
		for range 600 {
			y.ID = ""
			y.Sanitize()
			must(t, g.writer.Write(storage.Fsync, y))
			time.Sleep(100 * time.Millisecond)
		}
		if spent := time.Duration(store.spent.Load()); spent > 32*time.Second {
			t.Errorf("%v of a minute", spent)
		}
		store.all.Store(true)
	})
}

// TestAStepWhoseIntentMayBeStoredIsPending, as one whose intent is stored.
func TestAStepWhoseIntentMayBeStoredIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memory.New(0)
		p, err := profile.Builtin("authentik")
		must(t, err)
		g := newRig(t, func(o *recorder.Options) {
			o.Profile, o.Fail = p, recorder.FailOpen
			on(half{log})(o)
		})
		g.doAt("GET", "/api/v3/flows/executor/default-unenrollment-flow/", "", nil, answers(200, `{"component":"ak-stage-consent"}`))
		_ = g.writer.Close(t.Context())
		if e := log.Entries(); len(e) != 1 || e[0].Status != storage.Pending {
			t.Errorf("the log has %+v", e)
		}
	})
}

// broken is a store with a bug.
type broken struct{ *memory.Store }

func (broken) Write(context.Context, ...storage.Entry) error { panic("a bug of a store") }

// TestAPanicOfAStoreTakesNoPlace: the request fails, and nothing is owed.
func TestAPanicOfAStoreTakesNoPlace(t *testing.T) {
	g := newRig(t, on(broken{memory.New(0)}))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("nothing panicked")
			}
		}()
		g.begin("POST", "/delete-user")
	}()
	if n := g.writer.Taken(); n != 0 {
		t.Errorf("%d places are taken by nothing", n)
	}
}

// TestMoreThanTheReserveAreUnderWay: whoever is let through has a place for its outcome, also beyond
// the reserve, and whatever comes into the queue meanwhile.
func TestMoreThanTheReserveAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newPickyRig(t, nil)
		const many = recorder.Reserve + 100
		var ends []func(int, string)
		for range many {
			ends = append(ends, g.begin("POST", "/delete-user"))
		}
		g.fill()
		for _, end := range ends {
			end(200, deleted)
		}
		g.store.set(false)
		store.all.Store(true)
		must(t, g.writer.Close(t.Context()))
		if got := g.outcomes("delete-user"); got[storage.Success] != many || len(got) != 1 {
			t.Errorf("of %d the log has %v", many, got)
		}
	})
}

// TestWhatCannotBeSkippedIsCleanedAllTheSame: a rule that suppresses what is stored already does
// nothing, and rules that change it do.
func TestWhatCannotBeSkippedIsCleanedAllTheSame(t *testing.T) {
	for _, works := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			skip := hookFunc(func(d *recorder.Draft) error { d.Skip = d.Entry.Status == storage.Success; return nil })
			clean := hookFunc(func(d *recorder.Draft) error { d.Entry.IPAddress = ""; return nil })
			g := newRig(t, func(o *recorder.Options) { o.Hooks = []recorder.Hook{skip, clean} })
			g.store.set(!works)
			g.begin("POST", "/sign-out")(200, `{"success":true}`)
			g.store.set(false)
			must(t, g.writer.Close(t.Context()))
			if e, _ := g.one(); e.IPAddress != "" || e.Status != storage.Success {
				t.Errorf("working %v: %+v", works, e)
			}
		})
	}
}

// TestARefusedRequestIsAskedOfTheHooks, as any other is.
func TestARefusedRequestIsAskedOfTheHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(o *recorder.Options) {
			o.Hooks = []recorder.Hook{hookFunc(func(d *recorder.Draft) error { d.Entry.IPAddress = ""; return nil })}
		})
		g.store.set(true)
		g.do("POST", "/delete-user", `{}`, cookie("s-alice"), answers(200, deleted))
		g.store.set(false)
		must(t, g.writer.Close(t.Context()))
		if e, _ := g.one(); e.IPAddress != "" || e.Status != storage.Failed {
			t.Errorf("%+v", e)
		}
	})
}

// rejecting never takes the first entry.
type rejecting struct {
	*memory.Store
	asked int
}

func (r *rejecting) Write(ctx context.Context, entries ...storage.Entry) error {
	if r.asked++; r.asked == 1 {
		return storage.ErrRejected
	}
	return r.Store.Write(ctx, entries...)
}

// TestAnIntentThatWasRejectedIsNotStored: there is no doubt, and the hook's word counts.
func TestAnIntentThatWasRejectedIsNotStored(t *testing.T) {
	log := &rejecting{Store: memory.New(0)}
	g := newRig(t, func(o *recorder.Options) {
		o.Hooks = []recorder.Hook{skipper{}}
		on(log)(o)
	})
	g.begin("POST", "/sign-out")(200, `{"success":true}`)
	_ = g.writer.Close(t.Context())
	if e := log.Entries(); len(e) != 0 {
		t.Errorf("the log has %+v", e)
	}
}
