package viewer_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/viewer"
)

// served is what Serve answers for a path.
func served(t *testing.T, method, path string, header map[string]string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1/x/audit-log"+path, nil)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	viewer.Serve(w, r, path)
	return w.Result()
}

func bodyOf(t *testing.T, res *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestServe(t *testing.T) {
	for _, row := range []struct {
		name, method, path string
		status             int
		contentType        string
	}{
		{"the page", "GET", "/", 200, "text/html; charset=utf-8"},
		{"a module", "GET", "/viewer/app.js", 200, "text/javascript; charset=utf-8"},
		{"the style", "GET", "/viewer/app.css", 200, "text/css; charset=utf-8"},
		{"the icon", "GET", "/viewer/icon.svg", 200, "image/svg+xml"},
		{"the vendored chart", "GET", "/viewer/uPlot.iife.min.js", 200, "text/javascript; charset=utf-8"},
		{"HEAD", "HEAD", "/", 200, "text/html; charset=utf-8"},
		{"a licence is no asset", "GET", "/viewer/uPlot.LICENSE", 404, "text/plain; charset=utf-8"},
		{"the page's file by name", "GET", "/viewer/index.html", 404, "text/plain; charset=utf-8"},
		{"the folder", "GET", "/viewer/", 404, "text/plain; charset=utf-8"},
		{"out of the folder", "GET", "/viewer/../viewer.go", 404, "text/plain; charset=utf-8"},
		{"an escaped name", "GET", "/viewer/%61pp.js", 404, "text/plain; charset=utf-8"},
		{"nothing", "GET", "", 404, "text/plain; charset=utf-8"},
		{"another method", "POST", "/", 405, "text/plain; charset=utf-8"},
	} {
		t.Run(row.name, func(t *testing.T) {
			res := served(t, row.method, row.path, nil)
			body := bodyOf(t, res)
			if got := res.Header.Get("Content-Type"); res.StatusCode != row.status || got != row.contentType {
				t.Errorf("%d %s, want %d %s", res.StatusCode, got, row.status, row.contentType)
			}
			if row.method == "HEAD" && (len(body) > 0 || res.Header.Get("Content-Length") == "0") {
				t.Errorf("%d bytes of %s", len(body), res.Header.Get("Content-Length"))
			}
			if res.Header.Get("Content-Security-Policy") != viewer.Policy || res.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("the headers are %v", res.Header)
			}
		})
	}
}

func TestWhoHasAFileIsNotSentItAgain(t *testing.T) {
	for _, encoding := range []string{"", "gzip, br", "br;q=1, gzip;q=0.5", "gzip;q=0", "identity"} {
		first := served(t, "GET", "/", map[string]string{"Accept-Encoding": encoding})
		tag := first.Header.Get("ETag")
		body := bodyOf(t, first)
		zipped := first.Header.Get("Content-Encoding") == "gzip"
		if want := strings.Contains(encoding, "gzip") && !strings.Contains(encoding, "q=0") || strings.Contains(encoding, "0.5"); zipped != want {
			t.Errorf("%q: gzip is %t, want %t", encoding, zipped, want)
		}
		if zipped {
			r, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			body, _ = io.ReadAll(r)
		}
		if want, _ := os.ReadFile("static/index.html"); !bytes.Equal(body, want) {
			t.Errorf("%q: it is not the page", encoding)
		}
		for _, known := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
			if again := served(t, "GET", "/", map[string]string{"Accept-Encoding": encoding, "If-None-Match": known}); again.StatusCode != http.StatusNotModified || len(bodyOf(t, again)) > 0 || again.Header.Get("ETag") != tag {
				t.Errorf("%q, If-None-Match %s: %d", encoding, known, again.StatusCode)
			}
		}
		if other := served(t, "GET", "/", map[string]string{"If-None-Match": `"other"`}); other.StatusCode != http.StatusOK {
			t.Errorf("another tag: %d", other.StatusCode)
		}
	}
}

// TestThePageIsItsOwn: it names nothing of another host and no absolute path, and has
// neither script nor style in it, so that it works under any path and any policy.
func TestThePageIsItsOwn(t *testing.T) {
	page, err := os.ReadFile("static/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(string(page), -1) {
		if !regexp.MustCompile(`^(#|viewer/[\w.]+$|list$|export\?format=)`).MatchString(m[1]) {
			t.Errorf("the page names %s", m[1])
			continue
		}
		if strings.HasPrefix(m[1], "viewer/") && served(t, "GET", "/"+m[1], nil).StatusCode != http.StatusOK {
			t.Errorf("%s is not there", m[1])
		}
	}
	for _, inline := range []string{`<script>`, `<style`, ` style=`, ` onclick`, ` onload`, `javascript:`} {
		if bytes.Contains(page, []byte(inline)) {
			t.Errorf("the page has %s", inline)
		}
	}
	err = fs.WalkDir(os.DirFS("static"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path, "vendor/") {
			return err
		}
		text, err := os.ReadFile(filepath.Join("static", path))
		if m := regexp.MustCompile(`(innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://[^w])`).Find(text); m != nil {
			t.Errorf("%s has %s", path, m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheVendoredChartIsThePackages compares with the npm package, where it is installed.
func TestTheVendoredChartIsThePackages(t *testing.T) {
	for ours, theirs := range map[string]string{"uPlot.iife.min.js": "dist/uPlot.iife.min.js", "uPlot.min.css": "dist/uPlot.min.css", "uPlot.LICENSE": "LICENSE"} {
		got, err := os.ReadFile(filepath.Join("static/vendor", ours))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(npm(t), "uplot", theirs))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not that of the package", ours)
		}
	}
}

// npm is the folder of the npm packages that the tests use.
func npm(t *testing.T) string {
	t.Helper()
	const dir = "testdata/node_modules"
	if _, err := os.Stat(filepath.Join(dir, "axe-core", "axe.min.js")); err != nil {
		t.Fatalf("the tests' npm packages are missing: run make %s/.installed (or npm ci --ignore-scripts in viewer/testdata): %v", "viewer/"+dir, err)
	}
	return dir
}
