package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// QEMU marks what it does with an image by locking single bytes of it: 100 and
// up for what it uses, 200 and up for what others may not (its file-posix.c).
const (
	qemuLockFirst = 100
	qemuLockBytes = 200
)

// qemuLockWrite is the byte that whoever writes locks (BLK_PERM_WRITE).
const qemuLockWrite = 101

// ErrTaken is wrapped where the caller may not look at an image since it is another
// user's: while a guest runs, libvirt gives its image to the user that QEMU runs as.
var ErrTaken = errors.New("a running guest has it, or libvirt has not given it back")

// InUse reports whether a QEMU has the image at path open. No image is not in use.
func InUse(path string) (bool, error) { return locked(path, qemuLockFirst, qemuLockBytes) }

// IsWritten reports whether a QEMU has the image at path open to write it.
func IsWritten(path string) (bool, error) { return locked(path, qemuLockWrite, 1) }

func locked(path string, first, count int64) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrPermission) && isForeign(path) {
		return false, fmt.Errorf("%s is another user's: %w", path, ErrTaken)
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: first, Len: count}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("%s: ask for locks: %w", path, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// isForeign reports whether a file is another user's than the caller.
func isForeign(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && int(st.Uid) != os.Geteuid()
}
