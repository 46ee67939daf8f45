package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// devices are what programs in a chroot may expect below /dev without asking
// (Filesystem Hierarchy Standard 3.0, 6.1.3; Linux's devices.txt).
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
	"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}

// MountChroot lays /proc, /sys, /dev with devpts, and an empty /run and /tmp
// over root, so that programs run in it. The mounts end with the sandbox, or
// earlier by the function returned.
func MountChroot(root string) (unmount func() error, err error) {
	var done []string
	unmount = func() error {
		var errs []error
		for i := len(done) - 1; i >= 0; i-- {
			if err := unix.Unmount(done[i], unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", done[i], err))
			}
		}
		return errors.Join(errs...)
	}
	mounts := []struct {
		at, kind, options string
		flags             uintptr
	}{
		{"proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY},
		{"dev", "tmpfs", "mode=755,size=1m", unix.MS_NOSUID},
		{"run", "tmpfs", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	}
	for _, m := range mounts {
		at, err := mountPoint(root, m.at)
		if err == nil {
			err = unix.Mount(m.kind, at, m.kind, m.flags, m.options)
		}
		if m.kind == "sysfs" && errors.Is(err, unix.EPERM) {
			// A user namespace without a network namespace of its own has no sysfs of
			// its own either.
			err = unix.Mount("/sys", at, "", unix.MS_BIND|unix.MS_REC, "")
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("mount %s in the chroot: %w", m.at, err), unmount())
		}
		done = append(done, at)
	}
	if err := fillDev(filepath.Join(root, "dev")); err != nil {
		return nil, errors.Join(err, unmount())
	}
	return unmount, nil
}

// mountPoint is a folder of the chroot that is no link: a link would lead the
// mount elsewhere.
func mountPoint(root, name string) (string, error) {
	at := filepath.Join(root, name)
	info, err := os.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return at, os.Mkdir(at, 0o755)
	}
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("/%s is no folder", name)
	}
	return at, err
}

func fillDev(dev string) error {
	for _, name := range devices {
		at := filepath.Join(dev, name)
		if err := os.WriteFile(at, nil, 0o666); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
		if err := unix.Mount("/dev/"+name, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("chroot: bind /dev/%s: %w", name, err)
		}
	}
	for name, to := range deviceLinks {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	}
	for name, options := range map[string]string{"pts": "newinstance,ptmxmode=0666,mode=620,gid=5", "shm": "mode=1777"} {
		kind := map[string]string{"pts": "devpts", "shm": "tmpfs"}[name]
		at := filepath.Join(dev, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
		if err := unix.Mount(kind, at, kind, unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("chroot: mount /dev/%s: %w", name, err)
		}
	}
	return nil
}
