package storage_test

import (
	"errors"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func TestAFaultSaysNoReasonThatSaysNothing(t *testing.T) {
	err := errors.New("it failed")
	for want, f := range map[string]storage.Fault{
		"disk full: it failed: free space": {Reason: storage.DiskFull, Err: err, Remedy: "free space"},
		"it failed: look":                  {Reason: storage.Unspecified, Err: err, Remedy: "look"},
		"it failed":                        {Reason: storage.Unspecified, Err: err},
	} {
		if got := f.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
