package viewer_test

import (
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// wayed is a page with entries of one moment each, of which the newest is open.
func wayed(t *testing.T, entries ...storage.Entry) *tab {
	t.Helper()
	for i := range entries {
		entries[i].Sanitize()
	}
	s := startSite(t, filled(t, entries))
	b := s.open(t, wide, "?entry="+entries[len(entries)-1].ID)
	b.until("the entry is open", `document.querySelector('#detail').open && document.querySelector('#detail .tree')`)
	return b
}

// goOn follows a way on from the entry.
func (b *tab) goOn(way string) {
	b.t.Helper()
	b.until("the way is there", `[...document.querySelectorAll('#detail .link')].some((n) => n.textContent === %s)`, way)
	js[bool](b, `([...document.querySelectorAll('#detail .link')].find((n) => n.textContent === %s).click(), true)`, way)
	b.until("the sheet is closed", `!document.querySelector('#detail').open`)
	b.ready()
}

// TestWhatARuleMadeOfAnAddressIsLookedForAsText: it is no address that can be asked for.
func TestWhatARuleMadeOfAnAddressIsLookedForAsText(t *testing.T) {
	for shown, filter := range map[string]string{"203.0.113.9": "ip", "2001:db8::1": "ip", "203.0.113.x": "q"} {
		b := wayed(t, storage.Entry{Action: "sign-out", IPAddress: shown, CreatedAt: time.Now().Add(-time.Minute)})
		b.goOn("Everything of this address")
		b.until("it is listed", `document.querySelectorAll('#rows tr[data-id]').length === 1`)
		if got := b.param(filter); got != shown {
			t.Errorf("%s: the filter %s is %q", shown, filter, got)
		}
	}
}
