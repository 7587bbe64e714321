package recorder

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestZstandardIsReadAtEveryLevel, as a server writes it that does not know the length yet:
// the window is up to 8 MiB then (RFC 9659), however short the answer.
func TestZstandardIsReadAtEveryLevel(t *testing.T) {
	const text = `{"code":"TWO_FACTOR"}`
	for level := zstd.SpeedFastest; level <= zstd.SpeedBestCompression; level++ {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(level), zstd.WithWindowSize(zstdWindow))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{text[:5], text[5:]} {
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := decoded(b.Bytes(), "zstd"); string(got) != text {
			t.Errorf("%s: %q", level, got)
		}
	}
}
