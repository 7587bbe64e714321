package sqlite

import "testing"

// TestWaitingForMoreStopsWhereNobodyComes: while waiting brings more callers it goes on; when
// it does not, ever more transactions do not wait, and one tries again.
func TestWaitingForMoreStopsWhereNobodyComes(t *testing.T) {
	var w writer
	for _, callers := range []int{1, lingerUntil, lingerFrom - 1} {
		if w.shared(callers); w.lingers() {
			t.Fatalf("after a transaction of %d the next one waits", callers)
		}
	}
	w.shared(lingerFrom)
	if w.shared(lingerUntil); !w.lingers() {
		t.Fatal("transactions are full, and nobody waits")
	}
	w.lingered(true)
	for _, between := range []int{0, 1, 2, 4, 8, 16, 32, 64, 64, 64} {
		for n := range between {
			if w.lingers() {
				t.Fatalf("after %d of %d transactions one waits", n, between)
			}
		}
		if !w.lingers() {
			t.Fatalf("after %d transactions nobody tries again", between)
		}
		w.lingered(false)
	}
	for !w.lingers() {
	}
	w.lingered(true)
	for range 10 {
		if !w.lingers() {
			t.Fatal("it was worth it, and nobody waits")
		}
		w.lingered(true)
	}
	if w.shared(lingerUntil - 1); w.lingers() {
		t.Fatal("transactions are not full any more, and one waits")
	}
}
