package caddymodule

import (
	"syscall"
	"testing"
)

// TestANetworksFileSystemIsTold from one of this machine.
func TestANetworksFileSystemIsTold(t *testing.T) {
	folder := t.TempDir()
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		t.Fatal(err)
	}
	own := uint32(s.Type) //nolint:gosec // a magic number has 32 bits
	if known, there := networks[own]; there {
		t.Skipf("the tests' folder is on %s itself", known)
	}
	if got := networkOf(folder); got != "" {
		t.Errorf("%s is told to be on %s", folder, got)
	}
	networks[own] = "a network"
	defer delete(networks, own)
	if got := networkOf(folder); got != "a network" {
		t.Errorf("it is told to be on %q", got)
	}
	if got := networkOf(folder + "/none"); got != "" {
		t.Errorf("what is not there is told to be on %q", got)
	}
}
