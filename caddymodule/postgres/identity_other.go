//go:build !unix

package postgres

import "io/fs"

// fileID tells a file from others that have or had its path: here it cannot.
func fileID(fs.FileInfo) string { return "" }
