package follow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/follow"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

func entry(action string, status storage.Status) storage.Entry {
	e := storage.Entry{Action: action, Status: status}
	e.Sanitize()
	return e
}

func write(t *testing.T, s storage.Store, entries ...storage.Entry) {
	t.Helper()
	if err := s.Write(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T, f *follow.Follower) *follow.Listener {
	t.Helper()
	l, err := f.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// heard is what a listener hears within a while of the test's clock.
func heard(l *follow.Listener, within time.Duration) (actions []string) {
	end := time.After(within)
	for {
		select {
		case news, ok := <-l.News():
			if !ok {
				return append(actions, "closed")
			}
			if news.Missed != nil {
				actions = append(actions, "missed")
			}
			for _, e := range news.Entries {
				actions = append(actions, e.Action+" "+string(e.Status))
			}
		case <-end:
			return actions
		}
	}
}

func TestWhatIsWrittenIsHeardOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		write(t, s, entry("before", storage.Success))
		l := listen(t, f)
		intent := entry("intent", storage.Unknown)
		write(t, s, intent, entry("next", storage.Failed))
		if got := fmt.Sprint(heard(l, 10*time.Second)); got != "[intent unknown next failed]" && got != "[next failed intent unknown]" {
			t.Errorf("heard %s", got)
		}
		intent.Status = storage.Success
		write(t, s, intent)
		if got := fmt.Sprint(heard(l, 10*time.Second)); got != "[intent success]" {
			t.Errorf("heard %s", got)
		}
		write(t, s, intent)
		if got := heard(l, 10*time.Second); len(got) != 0 {
			t.Errorf("heard %s again", got)
		}
	})
}

// TestALateOutcomeBelowManyEntriesIsHeard with the next look at the whole window.
func TestALateOutcomeBelowManyEntriesIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		intent := entry("intent", storage.Unknown)
		write(t, s, intent)
		for range 1500 {
			write(t, s, entry("noise", storage.Success))
		}
		l := listen(t, f)
		intent.Status = storage.Failed
		write(t, s, intent)
		if got := fmt.Sprint(heard(l, 6*time.Second)); got != "[intent failed]" {
			t.Errorf("heard %s", got)
		}
	})
}

// TestOfABurstNotAllIsTold, and it is told that it is not; the time of which all was told goes on.
func TestOfABurstNotAllIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(50000)
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		l := listen(t, f)
		heard(l, 10*time.Second)
		began := time.Now()
		burst := make([]storage.Entry, 10_500)
		for i := range burst {
			time.Sleep(time.Microsecond) // an order of their own
			burst[i] = entry("burst", storage.Success)
		}
		write(t, s, burst...)
		told, missed := 0, (*storage.Span)(nil)
		for end := time.After(6 * time.Second); end != nil; {
			select {
			case news := <-l.News():
				told += len(news.Entries)
				if news.Missed != nil {
					missed = news.Missed
				}
			case <-end:
				end = nil
			}
		}
		if told < 10_000 || told == len(burst) || missed == nil || missed.From.After(began) || missed.To.Before(began) || missed.To.After(burst[len(burst)-told].CreatedAt) {
			t.Errorf("told %d, missed %v, the oldest that was told is of %v", told, missed, burst[len(burst)-told].CreatedAt)
		}
		for range 120 { // as many as fill more than a look, again and again
			write(t, s, entry("later", storage.Success))
			if got := fmt.Sprint(heard(l, 5*time.Second)); got != "[later success]" {
				t.Fatalf("heard %s", got)
			}
		}
		if told := l.Told(); time.Since(told) > 15*time.Second {
			t.Errorf("all was told up to %v ago", time.Since(told))
		}
	})
}

func TestWakeIsQuickerThanTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		f.Wake() // nobody listens
		l := listen(t, f)
		write(t, s, entry("now", storage.Success))
		f.Wake()
		if got := heard(l, 10*time.Millisecond); len(got) != 1 {
			t.Errorf("heard %s", got)
		}
	})
}

func TestWhoDoesNotListenIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(0)
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		slow, quick := listen(t, f), listen(t, f)
		n := 0
		for i := range 12 {
			write(t, s, entry(fmt.Sprint(i), storage.Success))
			n += len(heard(quick, 2*time.Second))
		}
		if got := heard(slow, time.Second); n != 12 || len(got) == 0 || got[len(got)-1] != "closed" {
			t.Errorf("the quick one heard %d, the slow one %s", n, got)
		}
		slow.Close() // again
		f.Close()
		if _, err := f.Listen(t.Context()); err == nil {
			t.Error("a closed Follower is listened to")
		}
	})
}

// fragile lists only while it is well, and says how it is.
type fragile struct {
	*memory.Store
	away, degraded atomic.Bool
}

func (f *fragile) List(ctx context.Context, q storage.Query) (storage.Page, error) {
	if f.away.Load() {
		return storage.Page{}, errors.New("away")
	}
	return f.Store.List(ctx, q)
}

func (f *fragile) Health() storage.Health {
	if f.degraded.Load() {
		return storage.Health{State: storage.Degraded}
	}
	return storage.Health{State: storage.Healthy}
}

// TestWhatWasWrittenMeanwhileIsHeard: the store did not list for longer than the window, or
// entries waited in a journal for so long.
func TestWhatWasWrittenMeanwhileIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fragile{Store: memory.New(0)}
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		l := listen(t, f)
		s.away.Store(true)
		write(t, s, entry("elsewhere", storage.Success))
		time.Sleep(10 * time.Minute)
		s.away.Store(false)
		if got := fmt.Sprint(heard(l, 10*time.Second)); got != "[elsewhere success]" {
			t.Errorf("after an outage: %s", got)
		}
		s.degraded.Store(true)
		waiting := entry("waiting", storage.Success)
		time.Sleep(10 * time.Minute)
		write(t, s, waiting)
		s.degraded.Store(false)
		if got := fmt.Sprint(heard(l, 10*time.Second)); got != "[waiting success]" {
			t.Errorf("from a journal: %s", got)
		}
		if got := heard(l, 10*time.Minute); len(got) != 0 {
			t.Errorf("heard %s again", got)
		}
	})
}

// shared is a store that other processes write to.
type shared struct {
	*memory.Store
	woken chan storage.Spans
}

func (s *shared) Watch(ctx context.Context, woken func(storage.Spans)) {
	for {
		select {
		case <-ctx.Done():
			return
		case late := <-s.woken:
			woken(late)
		}
	}
}

// TestWhatAnotherNodeWritesLateIsHeard: what waited in its journal for longer than the window, as
// far back as an hour, each once.
func TestWhatAnotherNodeWritesLateIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{memory.New(0), make(chan storage.Spans)}
		f := follow.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		before := entry("told before", storage.Success)
		write(t, s, before)
		l := listen(t, f)
		var late []storage.Entry
		for _, ago := range []time.Duration{2 * time.Hour, 50 * time.Minute, 10 * time.Minute} {
			e := entry(ago.String(), storage.Success)
			e.CreatedAt = e.CreatedAt.Add(-ago)
			late = append(late, e)
		}
		write(t, s, late...)
		at := func(e storage.Entry) storage.Span { return storage.Span{From: e.CreatedAt, To: e.CreatedAt} }
		between := entry("between, told long ago", storage.Success)
		between.CreatedAt = between.CreatedAt.Add(-30 * time.Minute)
		write(t, s, between)
		s.woken <- storage.Spans{at(late[1]), at(late[2])}
		s.woken <- storage.Spans{at(late[0])} // longer ago than an hour
		if got := fmt.Sprint(heard(l, 3*time.Second)); got != "[10m0s success 50m0s success]" && got != "[50m0s success 10m0s success]" {
			t.Errorf("heard %s", got)
		}
		s.woken <- storage.Spans{at(before)} // within the window
		s.woken <- nil
		if got := heard(l, time.Minute); len(got) != 0 {
			t.Errorf("heard %s again", got)
		}
	})
}
