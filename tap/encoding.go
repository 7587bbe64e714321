package tap

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decode undoes a content encoding, up to limit bytes; false if it cannot.
func decode(encoding string, raw []byte, limit int64) ([]byte, bool) {
	var r io.Reader
	switch strings.ToLower(encoding) {
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, false
		}
		r = z
	case "deflate":
		z, err := zlib.NewReader(bytes.NewReader(raw))
		if r = z; err != nil {
			r = flate.NewReader(bytes.NewReader(raw)) // some servers send it bare
		}
	case "br":
		r = brotli.NewReader(bytes.NewReader(raw))
	case "zstd":
		z, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, false
		}
		defer z.Close()
		r = z
	default:
		return nil, false
	}
	out, err := io.ReadAll(io.LimitReader(r, limit+1))
	return out, err == nil && int64(len(out)) <= limit
}

// encode does the encodings that decode undoes.
func encode(encoding string, plain []byte) ([]byte, bool) {
	b := new(bytes.Buffer)
	var w io.WriteCloser
	switch strings.ToLower(encoding) {
	case "gzip", "x-gzip":
		w = gzip.NewWriter(b)
	case "deflate":
		w, _ = flate.NewWriter(b, flate.DefaultCompression) // the level is known
	case "br":
		w = brotli.NewWriter(b)
	case "zstd":
		z, err := zstd.NewWriter(b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, false
		}
		w = z
	default:
		return nil, false
	}
	_, err := w.Write(plain)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, false
	}
	return b.Bytes(), true
}
