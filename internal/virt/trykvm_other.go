//go:build !amd64

package virt

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// tryKVM makes a virtual machine. Whether it would run a stock kernel is not
// tried on this architecture.
func tryKVM(_ context.Context, device string) error {
	kvm, err := openKVM(device)
	if err != nil {
		return err
	}
	defer unix.Close(kvm)
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("%s makes no virtual machine: %w", device, err)
	}
	return unix.Close(vm)
}
