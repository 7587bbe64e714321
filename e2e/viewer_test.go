package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/viewer"
)

// TestTheViewerIsServedByBothSurfaces: the page and its files come through a real Caddy
// that compresses, from the auth server's site and from the operators', with the page's
// own policy, the same for everybody; and looking at the log writes nothing into it. How
// the page works is tested in viewer.
func TestTheViewerIsServedByBothSurfaces(t *testing.T) {
	harness.Use(t)
	dir, own, operators := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	behind := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	harness.Load(t, anyHost(database(dir), "",
		fmt.Sprintf("http://:%d {\n\tbind 127.0.0.1\n\tencode\n\t%s\n\treverse_proxy %s\n}\n", own, singly(), behind),
		operatorSite("127.0.0.1", operators, "encode", "", behind)))
	for _, s := range []struct {
		port int
		base string
	}{{own, "/api/auth/audit-log"}, {operators, "/audit-log"}} {
		for path, want := range map[string]string{"/": "text/html", "/viewer/app.js": "text/javascript", "/viewer/app.css": "text/css", "/viewer/uPlot.iife.min.js": "text/javascript"} {
			res, body := look(t, s.port, s.base+path, "Accept-Encoding: gzip\r\n")
			if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), want) || res.Header.Get("Content-Security-Policy") != viewer.Policy || res.Header.Get("Content-Encoding") != "gzip" || res.Header.Get("ETag") == "" {
				t.Errorf("%s%s: %d %v", s.base, path, res.StatusCode, res.Header)
				continue
			}
			plain, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(plain)
			if _, uncompressed := look(t, s.port, s.base+path, ""); err != nil || !bytes.Equal(text, uncompressed) {
				t.Errorf("%s%s: compressed it is another file (%v)", s.base, path, err)
			}
			if again, _ := look(t, s.port, s.base+path, "Accept-Encoding: gzip\r\nIf-None-Match: "+res.Header.Get("ETag")+"\r\n"); again.StatusCode != http.StatusNotModified {
				t.Errorf("%s%s: who has it gets %d", s.base, path, again.StatusCode)
			}
		}
		if res, _ := look(t, s.port, s.base, ""); res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != "audit-log/" {
			t.Errorf("%s: %d to %s", s.base, res.StatusCode, res.Header.Get("Location"))
		}
		if res, _ := look(t, s.port, s.base+"/viewer/none.js", ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("a file that is not there: %d", res.StatusCode)
		}
	}
	if res, _ := look(t, own, "/api/auth/audit-log/list", ""); res.StatusCode == http.StatusOK {
		t.Error("the page is for everybody, the list is not")
	}
	stop(t)
	for _, e := range entriesIn(t, database(dir), time.Time{}) {
		t.Errorf("looking at the log wrote %s into it", e.Action)
	}
}

// look is one GET with its answer.
func look(t *testing.T, port int, target, header string) (*http.Response, []byte) {
	t.Helper()
	c, err := connect(port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	res, body, err := c.do(raw("GET", target, "visitor", fmt.Sprintf("Host: localhost:%d\r\n%s", port, header), ""))
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}
