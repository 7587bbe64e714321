package viewer

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

// Policy is the page's Content-Security-Policy: only its own scripts and styles, only
// its own host, no frames, and no text that becomes markup (Trusted Types).
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; font-src 'none'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

//go:embed static
var static embed.FS

// types of the files, by extension. Not the machine's table: it differs.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// file is one file of the page, ready to be sent.
type file struct {
	plain, zipped []byte
	contentType   string
	etag          string // of plain; zipped has its own
}

// files are those of the page by the path that Serve takes, made at first use.
var files = sync.OnceValue(func() map[string]*file {
	all := map[string]*file{}
	walk := func(name string, d fs.DirEntry, err error) error {
		contentType, known := types[path.Ext(name)]
		if err != nil || d.IsDir() || !known {
			return err
		}
		b, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		at := "/viewer/" + path.Base(name)
		if path.Base(name) == "index.html" {
			at = "/"
		}
		all[at], err = newFile(b, contentType)
		return err
	}
	if err := fs.WalkDir(static, "static", walk); err != nil {
		panic(fmt.Errorf("viewer: a file of the page cannot be read: %w", err)) // it is in the program itself
	}
	return all
})

func newFile(b []byte, contentType string) (*file, error) {
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return &file{b, zipped.Bytes(), contentType, base64.RawURLEncoding.EncodeToString(sum[:12])}, nil
}

// Serve answers for the page: path is "/" for itself or "/viewer/<file>" for what it
// loads, still escaped, as it stands behind the place where the log's API is. It answers
// GET and HEAD (405 to others), 304 to who has the file already, and 404 to any other
// path. It sets all headers that matter, also over those that a caller set before. It is
// safe for concurrent use.
func Serve(w http.ResponseWriter, r *http.Request, path string) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", Policy)
	f := files()[path]
	if f == nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f.serve(w, r)
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("Cache-Control", "no-cache")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Vary", "Accept-Encoding")
	body, tag := f.plain, `"`+f.etag+`"`
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		body, tag = f.zipped, `"`+f.etag+`-gzip"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", tag)
	if matches(r.Header.Get("If-None-Match"), f.etag) {
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // the client may be gone
	}
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3) as far as browsers use it: gzip by
// name, unless its quality is 0.
func acceptsGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		name, quality, _ := strings.Cut(coding, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			value, err := strconv.ParseFloat(strings.TrimPrefix(strings.ReplaceAll(quality, " ", ""), "q="), 64)
			return quality == "" || err == nil && value > 0
		}
	}
	return false
}

// matches reads If-None-Match (RFC 9110, 13.1.2), which compares weakly: whoever has the
// file, compressed or not, has it. Caddy's encode takes "-gzip" off tags that clients send.
func matches(header, etag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		switch strings.TrimPrefix(strings.TrimSpace(candidate), "W/") {
		case "*", `"` + etag + `"`, `"` + etag + `-gzip"`:
			return true
		}
	}
	return false
}
