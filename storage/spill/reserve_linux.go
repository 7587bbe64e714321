package spill

import (
	"os"
	"syscall"
)

// keepSize is FALLOC_FL_KEEP_SIZE of fallocate(2): blocks are allotted, and the file
// stays as long as it was.
const keepSize = 1

// reserve allots blocks to a file that is empty, so that the first records find room
// when the disk is full; not more than a sixteenth of what is free. A file system
// that cannot do it has no reserve.
func reserve(f file, size int64) {
	of, ok := f.(*os.File)
	if !ok {
		return
	}
	var fs syscall.Statfs_t
	if err := syscall.Fstatfs(int(of.Fd()), &fs); err != nil {
		return
	}
	if size = min(size, int64(fs.Bavail)*int64(fs.Bsize)/16); size > 0 { //nolint:unconvert // it is an int32 on 32-bit machines
		_ = syscall.Fallocate(int(of.Fd()), keepSize, 0, size)
	}
}
