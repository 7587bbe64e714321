package retention_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
)

// writeOnly is a store that can do nothing else.
type writeOnly struct{}

func (writeOnly) Write(context.Context, ...storage.Entry) error { return nil }

// failing is a memory store whose Prune fails while err is set, and which counts
// how often it was compacted.
type failing struct {
	*memory.Store
	mu        sync.Mutex
	err       error
	compacted int
}

func (f *failing) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return 0, f.err
	}
	return f.Store.Prune(ctx, before, limit)
}

func (f *failing) Compact(context.Context) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compacted++
	return 0, nil
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// put writes an entry of that age.
func put(t *testing.T, s storage.Store, ages ...time.Duration) {
	t.Helper()
	for _, age := range ages {
		e := storage.Entry{Action: "sign-out", CreatedAt: time.Now().Add(-age)}
		e.Sanitize()
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

const day = 24 * time.Hour

// start returns a Runner that ends with the test.
func start(t *testing.T, s storage.Store, now func() time.Time) *retention.Runner {
	t.Helper()
	r := retention.New(t.Context(), retention.Options{Store: s, Logger: slog.New(slog.DiscardHandler), Now: now})
	t.Cleanup(r.Close)
	return r
}

func keep(t *testing.T, r *retention.Runner, d time.Duration) {
	t.Helper()
	if err := r.Keep(d); err != nil {
		t.Fatal(err)
	}
}

func TestTheScheduleIsSoonAfterTheStartAndThenHourly(t *testing.T) {
	for _, c := range []struct{ keep, interval time.Duration }{
		{90 * day, time.Hour}, {time.Hour, 6 * time.Minute}, {5 * time.Hour, 30 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := memory.New(0)
			put(t, s, c.keep+time.Minute, c.keep+time.Second, c.keep-10*time.Minute, 0)
			r := start(t, s, nil)
			time.Sleep(time.Hour)
			if st := r.Status(); len(s.Entries()) != 4 || !st.LastRun.IsZero() || !st.NextRun.IsZero() {
				t.Fatalf("without a setting it ran: %+v", st)
			}
			began := time.Now()
			s = memory.New(0)
			put(t, s, c.keep+time.Minute, c.keep+time.Second, c.keep-10*time.Minute, 0)
			r = start(t, s, nil)
			keep(t, r, c.keep)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			st := r.Status()
			if st.LastDeleted != 2 || st.Deleted != 2 || len(s.Entries()) != 2 || st.Err != nil {
				t.Fatalf("first run: %+v, %d entries left", st, len(s.Entries()))
			}
			if after := st.LastRun.Sub(began); after < 2*time.Second || after > 10*time.Second {
				t.Errorf("the first run was after %v", after)
			}
			if got := st.NextRun.Sub(st.LastRun); got < c.interval || got > c.interval+time.Second {
				t.Errorf("the next run is after %v, want %v", got, c.interval)
			}
			time.Sleep(c.interval)
			synctest.Wait()
			if again := r.Status().LastRun.Sub(st.LastRun); again < c.interval || again > c.interval+time.Second {
				t.Errorf("the second run came %v after the first", again)
			}
		})
	}
}

func TestANewSettingTakesEffectWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		put(t, s, 40*day, 20*day, 0)
		r := start(t, s, nil)
		for _, step := range []struct {
			keep time.Duration
			left int
		}{{90 * day, 3}, {30 * day, 2}, {0, 2}, {10 * day, 1}} {
			keep(t, r, step.keep)
			time.Sleep(11 * time.Second)
			synctest.Wait()
			if left := len(s.Entries()); left != step.left {
				t.Errorf("retention %v leaves %d entries, want %d", step.keep, left, step.left)
			}
		}
		keep(t, r, 0)
		if next := r.Status().NextRun; !next.IsZero() {
			t.Errorf("without retention the next run is %v", next)
		}
	})
}

// endless is a store of which there is always more to delete.
type endless struct {
	*memory.Store
	deleted atomic.Int64
}

func (e *endless) Prune(_ context.Context, _ time.Time, limit int) (int, error) {
	e.deleted.Add(int64(limit))
	return limit, nil
}

// TestANewSettingEndsTheRunUnderWay: what was a mistake deletes no more.
func TestANewSettingEndsTheRunUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, next := range []time.Duration{300 * day, 0} {
			s := &endless{Store: memory.New(0)}
			r := retention.New(t.Context(), retention.Options{Store: s, Logger: slog.New(slog.DiscardHandler)})
			keep(t, r, 30*day)
			time.Sleep(11 * time.Second)
			if s.deleted.Load() == 0 {
				t.Fatal("it has not begun")
			}
			keep(t, r, next)
			synctest.Wait()
			before := s.deleted.Load()
			time.Sleep(time.Second)
			if after := s.deleted.Load(); after != before {
				t.Errorf("%d were deleted after a reload with %s", after-before, next)
			}
			r.Close()
		}
	})
}

func TestAFailureIsVisibleAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &failing{Store: memory.New(0)}
		put(t, s, 20*day, 0)
		s.fail(errors.New("disk is full"))
		r := start(t, s, nil)
		keep(t, r, 10*day)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := r.Status(); st.Err == nil || !strings.Contains(st.Err.Error(), "disk is full") || st.LastRun.IsZero() {
			t.Errorf("status %+v", st)
		}
		s.fail(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := r.Status(); st.Err != nil || st.LastDeleted != 1 {
			t.Errorf("an hour later: %+v", st)
		}
	})
}

func TestTheStoreIsCompactedAfterARunThatDeletedAtMostDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &failing{Store: memory.New(0)}
		put(t, s, 0)
		r := start(t, s, nil)
		keep(t, r, 10*day)
		compacted := func(after time.Duration) int {
			time.Sleep(after)
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.compacted
		}
		if n := compacted(time.Minute); n != 0 {
			t.Errorf("compacted %d times although nothing was deleted", n)
		}
		for range 50 { // hourly runs, each with something to delete
			put(t, s, 11*day, 0)
			compacted(time.Hour)
		}
		if n := compacted(0); n < 2 || n > 3 {
			t.Errorf("compacted %d times in 50 hours, want daily", n)
		}
	})
}

func TestAWrongClockDeletesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		// ages of the entries, as they are when the store is opened
		ages []time.Duration
		// starts are how often the log has started with that clock already
		starts int
		// jump of the clock before the first run, and later between two runs
		jump, later time.Duration
		want        string
	}{
		{name: "behind the newest entry", ages: []time.Duration{20 * day, 0}, jump: -2 * day, want: "and the newest entry, 0"},
		{name: "ahead at the start", ages: []time.Duration{20 * day, 0}, jump: 365 * day, want: "even the newest entry, of"},
		{name: "ahead at the start, by less than what is kept", ages: []time.Duration{5 * day, 0}, jump: 8 * day, want: "even the newest entry, of"},
		{name: "ahead at the start, for the third time", ages: []time.Duration{20 * day, 0}, starts: 2, jump: 365 * day, want: "even the newest entry, of"},
		{name: "ahead at the start, for the hundredth time", ages: []time.Duration{20 * day, 0}, starts: 99, jump: 365 * day, want: "even the newest entry, of"},
		{name: "ahead at the start, beside an entry of the far future", ages: []time.Duration{20 * day, 0, -100000 * day}, jump: 365 * day, want: "and the newest entry, 0"},
		{name: "an entry of the future", ages: []time.Duration{20 * day, 0, -100 * day}, want: "and the newest entry, 0"},
		{name: "jumps ahead later", ages: []time.Duration{5 * day, 0}, later: 365 * day, want: "it moved by"},
		{name: "jumps back later", ages: []time.Duration{5 * day, 4 * day}, later: -2 * day, want: "it moved by"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := memory.New(0)
				put(t, s, c.ages...)
				for range c.starts {
					e := storage.Entry{Action: "audit-log:started", Status: storage.Success, CreatedAt: time.Now().Add(c.jump)}
					e.Sanitize()
					if err := s.Write(t.Context(), e); err != nil {
						t.Fatal(err)
					}
				}
				var mu sync.Mutex
				jump := c.jump
				r := start(t, s, func() time.Time {
					mu.Lock()
					defer mu.Unlock()
					return time.Now().Add(jump)
				})
				keep(t, r, 10*day)
				time.Sleep(time.Minute)
				mu.Lock()
				jump += c.later
				mu.Unlock()
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if st := r.Status(); !errors.Is(st.Err, retention.ErrClock) || !strings.Contains(st.Err.Error(), c.want) {
					t.Errorf("the run says %v, want %q", st.Err, c.want)
				}
				if left := len(s.Entries()); left != len(c.ages)+c.starts {
					t.Errorf("%d entries left of %d", left, len(c.ages)+c.starts)
				}
			})
		})
	}
}

// clocked is a store with a clock of its own.
type clocked struct{ *memory.Store }

func (clocked) Time(context.Context) (time.Time, error) { return time.Now(), nil }

// TestTheStoresOwnClockIsAsked for as long as this machine's is wrong, which notices nothing
// else of it: its own entries are as wrong.
func TestTheStoresOwnClockIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clocked{memory.New(0)}
		put(t, s, 20*day, 0)
		off := 5 * day
		r := start(t, s, func() time.Time { return time.Now().Add(off) })
		keep(t, r, 22*day)
		time.Sleep(40 * time.Hour)
		synctest.Wait()
		if err := r.Status().Err; !errors.Is(err, retention.ErrClock) || !strings.Contains(err.Error(), "the database server's") || len(s.Entries()) != 2 {
			t.Errorf("%d entries are left, the run says %v", len(s.Entries()), err)
		}
	})
}

// TestTheLogSaysWhatWasDeleted: by the schedule in an entry a day, by hand in one each time.
func TestTheLogSaysWhatWasDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		r := retention.New(t.Context(), retention.Options{Store: s, Logger: slog.New(slog.DiscardHandler), Tell: func(e storage.Entry) {
			if err := s.Write(t.Context(), e); err != nil {
				t.Error(err)
			}
		}})
		t.Cleanup(r.Close)
		put(t, s, 11*day, 11*day, 10*day-90*time.Minute, 0)
		keep(t, r, 10*day)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		told := func() (all []retention.Deletion) {
			for _, e := range s.Entries() {
				if e.Action != storage.ActionPruned {
					continue
				}
				var d retention.Deletion
				if err := json.Unmarshal(e.Metadata, &d); err != nil || e.Severity != map[retention.By]severity.Level{retention.BySchedule: severity.Low, retention.ByHand: severity.High}[d.By] {
					t.Errorf("%+v, %v", e, err)
				}
				all = append(all, d)
			}
			return all
		}
		if all := told(); len(all) != 1 || all[0].By != retention.BySchedule || all[0].Deleted != 3 || all[0].Runs != 2 || all[0].Keep != "240h0m0s" || all[0].Error != "" {
			t.Fatalf("%+v", all)
		}
		before := time.Now().Add(-time.Hour)
		if n, err := r.Prune(t.Context(), before); n != 2 || err != nil {
			t.Fatal(n, err) // the entry of now, and that of the schedule
		}
		if _, err := r.Prune(t.Context(), before); err != nil {
			t.Fatal(err) // of nothing there is nothing to say
		}
		if all := told(); len(all) != 1 || all[0].By != retention.ByHand || all[0].Deleted != 2 || !all[0].Before.Equal(before.Truncate(time.Millisecond)) || all[0].Node == "" {
			t.Fatalf("%+v", all)
		}
		put(t, s, 11*day)
		time.Sleep(25 * time.Hour)
		put(t, s, 11*day)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if all := told(); len(all) != 3 || all[0].Deleted+all[1].Deleted+all[2].Deleted != 2+4+1 {
			t.Fatalf("%+v", all)
		}
	})
}

// TestALogThatNobodyWritesToEnds: the entries that tell of deletions go in the end, and nothing is told
// of that.
func TestALogThatNobodyWritesToEnds(t *testing.T) {
	for _, kept := range []time.Duration{time.Hour, 12 * time.Hour, 10 * day} {
		synctest.Test(t, func(t *testing.T) {
			s := memory.New(0)
			told := 0
			r := retention.New(t.Context(), retention.Options{Store: s, Logger: slog.New(slog.DiscardHandler), Tell: func(e storage.Entry) {
				told++
				if err := s.Write(t.Context(), e); err != nil {
					t.Error(err)
				}
			}})
			t.Cleanup(r.Close)
			put(t, s, kept+time.Hour, kept/4*3, 0)
			keep(t, r, kept)
			time.Sleep(10 * kept)
			synctest.Wait()
			if left := s.Entries(); len(left) != 0 || told < 2 || told > 4 {
				t.Errorf("of what is kept for %v there are %d entries left, and %d were told: %+v", kept, len(left), told, left)
			}
		})
	}
}

// TestAnEntryOfTheFutureIsNoReasonForEver: it was written when a clock was ahead, and stays.
func TestAnEntryOfTheFutureIsNoReasonForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		put(t, s, 20*day, 0, -1000*day)
		r := start(t, s, nil)
		keep(t, r, 10*day)
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if err := r.Status().Err; len(s.Entries()) != 3 || !errors.Is(err, retention.ErrClock) {
			t.Errorf("after 23 hours %d entries are left, %v", len(s.Entries()), err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if err := r.Status().Err; len(s.Entries()) != 2 || err != nil {
			t.Errorf("after 25 hours %d entries are left, %v", len(s.Entries()), err)
		}
	})
}

func TestAnOldLogGoesADayLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		put(t, s, 400*day, 300*day)
		r := start(t, s, nil)
		keep(t, r, 90*day)
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if left := len(s.Entries()); left != 2 {
			t.Errorf("after 23 hours %d entries are left", left)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if left := len(s.Entries()); left != 0 || r.Status().Err != nil {
			t.Errorf("after 25 hours %d entries are left, %v", left, r.Status().Err)
		}
	})
}

func TestAStoreThatCannotDeleteIsAnError(t *testing.T) {
	r := start(t, writeOnly{}, nil)
	if err := r.Keep(0); err != nil {
		t.Error(err)
	}
	if err := r.Keep(day); !errors.Is(err, retention.ErrCannotDelete) {
		t.Errorf("Keep says %v", err)
	}
	if _, err := r.Prune(t.Context(), time.Now()); !errors.Is(err, retention.ErrCannotDelete) {
		t.Errorf("Prune says %v", err)
	}
}

func TestPruneByHandEndsWithItsCallerOrTheRunner(t *testing.T) {
	s := memory.New(20000)
	for range 10000 {
		put(t, s, 20*day)
	}
	r := start(t, s, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	n, err := r.Prune(ctx, time.Now())
	if !errors.Is(err, context.DeadlineExceeded) || n == 0 || n == 10000 || int(r.Status().Deleted) != n {
		t.Errorf("%d deleted, %v, status %+v", n, err, r.Status())
	}
	time.AfterFunc(20*time.Millisecond, r.Stop)
	if _, err := r.Prune(t.Context(), time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the Runner: %v", err)
	}
}
