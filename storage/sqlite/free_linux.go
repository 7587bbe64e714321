package sqlite

import "syscall"

// freeBytes is how much may be written to the file system of a folder.
func freeBytes(dir string) (free int64, known bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, false
	}
	return int64(fs.Bavail) * int64(fs.Bsize), true //nolint:unconvert // it is an int32 on 32-bit machines
}
