package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-audit-log/caddy-audit-log/caddymodule"
)

// TestCaddyfiles adapts every file of testdata/adapt: a Caddyfile, a line of
// dashes, then the JSON that it must give, or the text of the error.
func TestCaddyfiles(t *testing.T) {
	files, err := filepath.Glob("../testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, want, ok := strings.Cut(string(b), "\n----------\n")
			if !ok {
				t.Fatal("no line of dashes")
			}
			adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
			got, _, err := adapter.Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
			compare(t, got, err, strings.TrimSpace(want))
		})
	}
}

func compare(t *testing.T, got []byte, err error, want string) {
	t.Helper()
	if !strings.HasPrefix(want, "{") {
		if err == nil || err.Error() != want {
			t.Errorf("error\n%v\nwant\n%s", err, want)
		}
		return
	}
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
	var a, b bytes.Buffer
	if err := json.Indent(&a, got, "", "\t"); err != nil {
		t.Fatal(err)
	}
	if err := json.Indent(&b, []byte(want), "", "\t"); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Errorf("got\n%s\nwant\n%s", a.String(), b.String())
	}
}
