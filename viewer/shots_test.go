package viewer_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPictures writes pictures of the page in every state, wide, narrow and dark, into the
// folder that VIEWER_SHOTS names: to be looked at, and for the documents. Without it, it
// looks only whether a phone shows all of it.
func TestPictures(t *testing.T) {
	dir, looks := os.Getenv("VIEWER_SHOTS"), map[string]look{"phone": phone}
	if dir != "" {
		looks["wide"], looks["dark"] = wide, look{width: wide.width, height: wide.height, dark: true}
	}
	full := startRealSite(t, filled(t, madeUp(t, 2400, 7)))
	none := startSite(t, filled(t, nil))
	large := startSite(t, &endless{newest: time.Now()})
	newest := full.newest().ID
	slow, locked, asking := startSite(t, filled(t, nil)), startSite(t, filled(t, nil)), startSite(t, filled(t, nil))
	slow.fails("/list", 503, "QUERY_TOO_SLOW", "The search took too long. Narrow it, for example with from and to")
	slow.fails("/histogram", 503, "QUERY_TOO_SLOW", "The search took too long. Narrow it, for example with from and to")
	locked.fails("/list", 401, "UNAUTHORIZED", "Unauthorized")
	locked.fails("/access", 401, "UNAUTHORIZED", "Unauthorized")
	locked.fails("/histogram", 401, "UNAUTHORIZED", "Unauthorized")
	asking.answer("/list", answer{hang: true})
	asking.answer("/histogram", answer{hang: true})
	own := startSite(t, filled(t, madeUp(t, 40, 6)))
	own.answer("/access", answer{status: 200, body: `{"surface":"own","userId":"alice-7be0a1c9","everything":false,"can":{"histogram":true,"tail":true,"export":true}}`})
	for _, shot := range []struct {
		name  string
		site  *site
		query string
		wait  bool // for the entries
		then  string
	}{
		{"full", full, "", true, ""},
		{"filtered", full, "?status=failed&class=sign-in&range=24h", true, ""},
		{"detail", full, "?entry=" + newest, true, ""},
		{"empty", none, "", true, ""},
		{"nomatch", full, "?q=nothing-like-it", true, ""},
		{"account", full, "?q=ada@example.com", true, ""},
		{"slow", slow, "?q=alice", true, ""},
		{"locked", locked, "", true, ""},
		{"loading", asking, "", false, ""},
		{"large", large, "?range=90d", true, ""},
		{"export", full, "?status=failed", true, "#export-button"},
		{"live", full, "?status=failed&range=24h", true, "#live"},
		{"filters", full, "?severity=critical", true, "#more"},
		{"help", full, "", true, "#help-button"},
		{"own", own, "?range=30d", true, ""},
		{"custom", full, "?range=custom&from=" + time.Now().Add(-50*time.Hour).UTC().Format(time.RFC3339) + "&action=sign-out", true, ""},
	} {
		for name, how := range looks {
			b := shot.site.open(t, how, shot.query)
			b.excuse("status of 503", "status of 401")
			if shot.wait {
				b.ready()
			}
			if shot.then != "" {
				js[bool](b, `(document.querySelector(%s).click(), true)`, shot.then)
			}
			if dir != "" {
				time.Sleep(400 * time.Millisecond) // what moves comes to rest
				b.shot(filepath.Join(dir, shot.name+"-"+name+".png"))
			}
			if wide := js[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); wide > 0 {
				t.Errorf("%s, %s: the page is %d pixels too wide", shot.name, name, wide)
			}
		}
	}
}
