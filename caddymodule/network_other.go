//go:build !linux

package caddymodule

// networkOf knows nothing on this system.
func networkOf(string) string { return "" }
