package recorder

import (
	"fmt"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func newTestFlows(t *testing.T) *flows {
	t.Helper()
	f, err := newFlows()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// value is the nth value of a name.
func value(name string, n int) credential {
	var c credential
	copy(c[:], fmt.Sprintf("%s %d", name, n))
	return c
}

// way is how many flows lie between a value and the one that it belongs to.
func (f *flows) way(v credential) int {
	known, _ := f.values.Peek(v)
	n := 0
	for known != nil && known.into != nil {
		known, n = known.into, n+1
	}
	return n
}

// TestAFlowThatNeverEndsDoesNotGrow: whoever has one value can go on with it for ever,
// and put flows together in any order.
func TestAFlowThatNeverEndsDoesNotGrow(t *testing.T) {
	f := newTestFlows(t)
	alice := Session{UserID: "alice"}
	first := value("first", 0)
	f.join([]credential{first}, alice)
	for n := range 5000 {
		f.join([]credential{value("refresh", n)}, Session{})
		f.join([]credential{value("refresh", n), value("refresh", max(0, n-1)), first}, Session{})
		if way := f.way(first); way > 4 {
			t.Fatalf("after %d steps there are %d flows on the way", n, way)
		}
	}
	if got := f.userOf([]credential{value("refresh", 4999)}); got.UserID != "alice" {
		t.Errorf("the flow is %q's", got.UserID)
	}
}

// TestWhatWaitsIsBounded: anybody can begin flows that nobody ends.
func TestWhatWaitsIsBounded(t *testing.T) {
	f := newTestFlows(t)
	for n := range 2 * maxWaiting {
		v := []credential{value("state", n)}
		f.join(v, Session{})
		e := storage.Entry{Action: "step"}
		e.Sanitize()
		f.wait(v, e)
	}
	if n := f.waiting.Len(); n != maxWaiting {
		t.Errorf("%d entries wait, want %d", n, maxWaiting)
	}
	one := []credential{value("one", 0)}
	f.join(one, Session{})
	for range 2 * maxSteps {
		e := storage.Entry{Action: "step"}
		e.Sanitize()
		f.wait(one, e)
	}
	if got := f.join(one, Session{UserID: "alice"}); len(got) != maxSteps {
		t.Errorf("%d steps get their user, want %d", len(got), maxSteps)
	}
	if got := f.join(one, Session{UserID: "alice"}); len(got) != 0 {
		t.Errorf("%d steps get it again", len(got))
	}
}

// TestFlowsOfTwoUsersStayApart: the value goes on with the one who has it now, and what
// each has done stays as it is.
func TestFlowsOfTwoUsersStayApart(t *testing.T) {
	f := newTestFlows(t)
	shared := value("cookie", 0)
	f.join([]credential{shared, value("code", 1)}, Session{UserID: "alice"})
	f.join([]credential{shared, value("code", 2)}, Session{UserID: "bob"})
	for v, want := range map[credential]string{shared: "bob", value("code", 1): "alice", value("code", 2): "bob"} {
		if got := f.userOf([]credential{v}); got.UserID != want {
			t.Errorf("%s is %q's, want %s", v, got.UserID, want)
		}
	}
}
