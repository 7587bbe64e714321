//go:build linux || darwin

package caddymodule

import "syscall"

// diskOf asks the system for the space that is left for files in a folder; nil if it does
// not say. Free is what is left for those who are not root.
func diskOf(folder string) *diskSpace {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return nil
	}
	block := uint64(s.Bsize)
	//nolint:unconvert // the types are others on other systems
	return &diskSpace{Folder: folder, Free: uint64(s.Bavail) * block, Total: uint64(s.Blocks) * block}
}
