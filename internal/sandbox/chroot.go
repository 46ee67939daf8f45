package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
// earlier by the function returned, which also takes away what those programs
// have mounted.
func MountChroot(root string) (unmount func() error, err error) {
	unmount = func() error { return unmountBelow(root) }
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
	}
	if err := fillDev(filepath.Join(root, "dev")); err != nil {
		return nil, errors.Join(err, unmount())
	}
	return unmount, nil
}

// unmountBelow takes away all mounts below root, the last first.
func unmountBelow(root string) error {
	points, err := mountsBelow(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range slices.Backward(points) {
		// One that went with another before is no mount any more.
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// escapes are how mount points with such bytes are written (proc(5), mountinfo).
var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountsBelow lists what is mounted below root, in the order of mounting.
func mountsBelow(root string) ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if at := escapes.Replace(fields[4]); strings.HasPrefix(at, strings.TrimSuffix(root, "/")+"/") {
			points = append(points, at)
		}
	}
	return points, nil
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
