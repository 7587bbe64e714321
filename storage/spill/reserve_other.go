//go:build !linux

package spill

// reserve does nothing: only Linux is known to allot blocks without making the file
// longer.
func reserve(file, int64) {}
