package storage_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestDeadlinesAreSharedForAMomentOnly: nobody has more time than was asked for, nor less
// than fifteen sixteenths of it, and nothing is left behind.
func TestDeadlinesAreSharedForAMomentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, end := context.WithCancel(context.Background())
		d := storage.NewDeadlines(parent, 1600*time.Millisecond)
		first := d.Context(storage.Commit)
		time.Sleep(99 * time.Millisecond)
		if d.Context(storage.Commit) != first {
			t.Error("within the moment it is another one")
		}
		time.Sleep(time.Millisecond)
		second := d.Context(storage.Commit)
		if second == first {
			t.Error("after the moment it is the same one")
		}
		for range 100 {
			ctx := d.Context(storage.Commit)
			at, ok := ctx.Deadline()
			if left := time.Until(at); !ok || left <= 1500*time.Millisecond || left > 1600*time.Millisecond {
				t.Fatalf("it ends in %v", left)
			}
			if storage.DurabilityOf(ctx) != storage.Commit || !storage.OnlyDeadline(ctx) {
				t.Fatal("it is not what was asked for")
			}
			if other := d.Context(storage.Fsync); storage.DurabilityOf(other) != storage.Fsync || other == ctx {
				t.Fatal("the durabilities are mixed up")
			}
			time.Sleep(37 * time.Millisecond)
		}
		if first.Err() != context.DeadlineExceeded {
			t.Errorf("the first one has not ended: %v", first.Err())
		}
		late := d.Context(storage.Commit)
		end()
		<-late.Done()
		if d.Context(storage.Commit).Err() == nil {
			t.Error("a context outlives the parent")
		}
		derived, cancel := context.WithCancel(late)
		defer cancel()
		if storage.OnlyDeadline(derived) {
			t.Error("what somebody else may end is not told apart")
		}
	})
}
