//go:build unix

package postgres

import (
	"fmt"
	"io/fs"
	"syscall"
)

// fileID tells a file from others that have or had its path.
func fileID(info fs.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d:%d", s.Dev, s.Ino)
	}
	return ""
}
