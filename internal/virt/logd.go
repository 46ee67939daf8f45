package virt

import (
	"errors"
	"fmt"
)

// virtlogdConf is where an administrator sets what libvirt's log daemon keeps.
const virtlogdConf = "/etc/libvirt/virtlogd.conf"

// ErrUnbounded is wrapped where a guest's log may grow without end.
var ErrUnbounded = errors.New("nothing bounds what a guest's log takes of the disk")

// LogsBounded returns nil where libvirt's log daemon takes what guests print,
// with a bound on it (qemu.conf: stdio_handler; virtlogd.conf: max_size). A
// setting that cannot be read is taken to be the default, which is that.
func LogsBounded() error { return logsBounded(qemuConf, virtlogdConf) }

func logsBounded(qemu, virtlogd string) error {
	if readQEMUConf(qemu)["stdio_handler"] == "file" {
		return fmt.Errorf(`%w: stdio_handler is "file" in %s`, ErrUnbounded, qemu)
	}
	if readQEMUConf(virtlogd)["max_size"] == "0" {
		return fmt.Errorf("%w: max_size is 0 in %s", ErrUnbounded, virtlogd)
	}
	return nil
}
