package recorder_test

import (
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// TestADeletedUserDoesNotComeBackWithWhatWasUnderWay: requests that were sent on while the user was
// there end after everything of the user was unlinked.
func TestADeletedUserDoesNotComeBackWithWhatWasUnderWay(t *testing.T) {
	for _, durability := range []recorder.Durability{recorder.Fsync, recorder.Async} {
		g := newRig(t, func(o *recorder.Options) { o.Durability, o.RollUpAfter = durability, 1 })
		first, second, other := g.begin("POST", "/delete-user"), g.begin("POST", "/delete-user"), g.begin("POST", "/sign-out")
		flood := g.begin("POST", "/change-password")
		first(200, `{"success":true,"message":"User deleted"}`)
		time.Sleep(700 * time.Millisecond) // the background does its part within a linger
		delete(g.server.sessions, "s-alice")
		second(401, `{"code":"UNAUTHORIZED"}`)
		other(200, `{"success":true}`)
		flood(401, `{}`)
		must(t, g.writer.Close(t.Context()))
		for _, e := range g.store.Entries() {
			if e.UserID != "" {
				t.Errorf("%v: %s %s is %s's again", durability, e.Action, e.Status, e.UserID)
			}
		}
	}
}

// TestOnlyWhoWasUnlinkedIsForgotten: others' entries stay theirs.
func TestOnlyWhoWasUnlinkedIsForgotten(t *testing.T) {
	g := newRig(t, nil)
	end := g.begin("POST", "/change-password")
	g.writer.Unlink("bob", true)
	end(200, `{"status":true}`)
	must(t, g.writer.Close(t.Context()))
	if e, _ := g.one(); e.UserID != "alice" {
		t.Errorf("it is %q's", e.UserID)
	}
}

// TestADeletionUnlinksOnce: its own entry is no reason to do it again.
func TestADeletionUnlinksOnce(t *testing.T) {
	g := newRig(t, nil)
	n := 0
	g.writer.Unlinked = func(string) { n++ }
	g.begin("POST", "/delete-user")(200, `{"success":true,"message":"User deleted"}`)
	must(t, g.writer.Close(t.Context()))
	if e := g.store.Entries()[0]; n != 1 || e.UserID != "" {
		t.Errorf("unlinked %d times, and the entry is %q's", n, e.UserID)
	}
}
