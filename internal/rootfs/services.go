package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// runlevels are the OpenRC services of a guest, as Alpine's own installer
// enables them, with sshd and what hears the power button. Those that the tree
// does not have are left out.
var runlevels = map[string][]string{
	"sysinit":  {"devfs", "dmesg", "mdev", "hwdrivers"},
	"boot":     {"modules", "sysctl", "hostname", "bootmisc", "syslog", "networking", "seedrng"},
	"default":  {"acpid", "sshd"},
	"shutdown": {"mount-ro", "killprocs", "savecache"},
}

func (t tree) enableServices() error {
	for level, services := range runlevels {
		dir, err := t.mkdir("etc/runlevels/" + level)
		if err != nil {
			return err
		}
		for _, service := range services {
			if !t.has("etc/init.d/" + service) {
				continue
			}
			err := os.Symlink("/etc/init.d/"+service, filepath.Join(dir, service))
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// serialGetty is a line of inittab(5) for the console that libvirt shows.
const serialGetty = "ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n"

func (t tree) addConsole() error {
	return t.rewrite("etc/inittab", func(old string) string {
		if strings.Contains(old, "\nttyS0:") {
			return old
		}
		return old + serialGetty
	})
}

// busyboxInittab starts a guest with busybox's init alone: mounts and network by
// busyboxStart, then sshd and a console for as long as it runs.
const busyboxInittab = `# Written by meros at build time: the recipe has no /etc/inittab.
::sysinit:/etc/init.d/rcS
::respawn:/usr/sbin/sshd -D -e
` + serialGetty + `::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
`

const busyboxStart = `#!/bin/sh
# Written by meros at build time: the recipe has no /etc/init.d/rcS.
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mountpoint -q /dev || mount -t devtmpfs -o nosuid devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /run
mkdir -p /run/sshd
mount -o remount,rw /
hostname -F /etc/hostname
for m in virtio_net virtio_rng e1000 button evdev; do modprobe -q "$m"; done
acpid 2>/dev/null
ip link set lo up
[ -e /etc/network/interfaces ] && ifup -a
`

// powerButton is what busybox's acpid does when the button is pressed, as "meros
// shutdown" does.
const (
	powerButtonFile = "etc/acpi/PWRF/00000080"
	powerButton     = "#!/bin/sh\npoweroff\n"
)

// replaceAlpineInittab replaces the inittab of the minirootfs, which starts an
// OpenRC that is not there; one of the recipe stays.
func replaceAlpineInittab(old string) bool {
	return strings.Contains(old, "/sbin/openrc sysinit")
}
