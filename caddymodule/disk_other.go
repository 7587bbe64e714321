//go:build !linux && !darwin

package caddymodule

// diskOf knows nothing on this system.
func diskOf(string) *diskSpace { return nil }
