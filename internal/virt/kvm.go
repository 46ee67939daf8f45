package virt

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The calls of /dev/kvm that are the same everywhere, and the one version of its
// interface that is stable (linux/kvm.h; kernel.org, virt/kvm/api).
const (
	kvmGetVersion = 0xae00
	kvmCreateVM   = 0xae01
	kvmVersion    = 12
)

// openKVM returns the device, open, if it is one of KVM's.
func openKVM(device string) (int, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", device, err)
	}
	if version, err := ioctl(fd, kvmGetVersion, 0); err != nil || version != kvmVersion {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("%s is not KVM's", device)
	}
	return fd, nil
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	result, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return -1, errno
	}
	return int(result), nil
}
