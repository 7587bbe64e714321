package main

import (
	"os"
	"testing"
)

// TestAStartThatFailsLeavesNothing: outside its folder nothing can be built.
func TestAStartThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	if f, err := startAll(t.Context(), options{dir: dir}, variants[:1]); err == nil || f != nil {
		t.Fatal(f, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
}
