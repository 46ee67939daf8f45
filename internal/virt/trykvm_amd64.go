package virt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of /dev/kvm that a trial needs, and the exits it may end with
// (linux/kvm.h).
const (
	kvmSetMemory  = 0x4020ae46
	kvmSetTSSAddr = 0xae47
	kvmCreateVCPU = 0xae41
	kvmRunSize    = 0xae04
	kvmGetCPUID   = 0xc008ae05
	kvmSetCPUID   = 0x4008ae90
	kvmGetSregs   = 0x8138ae83
	kvmSetSregs   = 0x4138ae84
	kvmSetRegs    = 0x4090ae82
	kvmRun        = 0xae80

	kvmExitIO   = 2
	kvmExitHalt = 5
)

// Offsets into struct kvm_run and struct kvm_sregs.
const (
	runImmediateExit = 1
	runExitReason    = 8
	runIOPort        = 34
	runIOData        = 40
	sregsCSBase      = 0
	sregsCSSelector  = 12
)

// trialTime is how long a trial may take; where KVM works it takes a millisecond.
const trialTime = time.Second

// tryKVM runs trialGuest under KVM. An error says how it went astray; it wraps
// fs.ErrPermission if the caller may not open the device.
func tryKVM(ctx context.Context, device string) error {
	v, err := newTrial(device)
	defer v.close()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	said, err := v.run(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("a trial guest fails under KVM: %w", err)
	case said != guestSays:
		return errors.New("a trial guest goes astray under KVM: it runs none but guests made for it")
	}
	return nil
}

// trial is a virtual machine with one processor, ready to run trialGuest.
type trial struct {
	vm, vcpu int
	memory   []byte // the guest's
	shared   []byte // struct kvm_run
}

func newTrial(device string) (*trial, error) {
	v := &trial{vm: -1, vcpu: -1}
	kvm, err := openKVM(device)
	if err != nil {
		return v, err
	}
	defer unix.Close(kvm)
	if v.vm, err = ioctl(kvm, kvmCreateVM, 0); err != nil {
		return v, fmt.Errorf("%s makes no virtual machine: %w", device, err)
	}
	for _, step := range []func(kvm int) error{v.addMemory, v.addCPU, v.setCPUID, v.setRegisters} {
		if err := step(kvm); err != nil {
			return v, fmt.Errorf("%s: %w", device, err)
		}
	}
	return v, nil
}

func (v *trial) close() {
	for _, m := range [][]byte{v.shared, v.memory} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	for _, fd := range []int{v.vcpu, v.vm} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (v *trial) addMemory(int) (err error) {
	v.memory, err = unix.Mmap(-1, 0, guestMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("memory for a trial guest: %w", err)
	}
	copy(v.memory[guestEntry:], trialGuest)
	region := struct {
		slot, flags        uint32
		guest, size, start uint64
	}{size: guestMemory, start: uint64(uintptr(unsafe.Pointer(&v.memory[0])))}
	// Intel's processors without unrestricted guests want three pages of address
	// space for real mode; the address is the one QEMU gives.
	_, _ = ioctl(v.vm, kvmSetTSSAddr, 0xfffbd000)
	_, err = ioctl(v.vm, kvmSetMemory, uintptr(unsafe.Pointer(&region)))
	return err
}

func (v *trial) addCPU(kvm int) (err error) {
	if v.vcpu, err = ioctl(v.vm, kvmCreateVCPU, 0); err != nil {
		return err
	}
	size, err := ioctl(kvm, kvmRunSize, 0)
	if err != nil {
		return err
	}
	v.shared, err = unix.Mmap(v.vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

// setCPUID lets the guest have all that KVM can give: long mode is one of these.
func (v *trial) setCPUID(kvm int) error {
	const entries, entrySize = 256, 40
	var list struct {
		count, _ uint32
		_        [entries * entrySize]byte
	}
	list.count = entries
	if _, err := ioctl(kvm, kvmGetCPUID, uintptr(unsafe.Pointer(&list))); err != nil {
		return err
	}
	_, err := ioctl(v.vcpu, kvmSetCPUID, uintptr(unsafe.Pointer(&list)))
	return err
}

func (v *trial) setRegisters(int) error {
	var sregs [312]byte
	if _, err := ioctl(v.vcpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return err
	}
	clear(sregs[sregsCSBase : sregsCSBase+8])
	clear(sregs[sregsCSSelector : sregsCSSelector+2])
	if _, err := ioctl(v.vcpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return err
	}
	var regs struct {
		general    [16]uint64
		rip, flags uint64
	}
	regs.rip, regs.flags = guestEntry, 2 // bit 1 of the flags is always set
	_, err := ioctl(v.vcpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs)))
	return err
}

// run lets the guest run until it halts, and returns what it wrote to port 0xe9.
// It ends with ctx, whatever the guest does.
func (v *trial) run(ctx context.Context) (said string, err error) {
	thread, ended := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		said, err = v.steps(ctx)
	}()
	tid := <-thread
	select {
	case <-ended:
		return said, err
	case <-ctx.Done():
	}
	// The processor leaves the guest when its thread gets a signal. SIGURG is one
	// that Go programs take at any time.
	v.shared[runImmediateExit] = 1
	for {
		_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		select {
		case <-ended:
			return said, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (v *trial) steps(ctx context.Context) (string, error) {
	var said []byte
	for {
		_, err := ioctl(v.vcpu, kvmRun, 0)
		switch {
		case ctx.Err() != nil:
			return "", errors.New("it hangs")
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return "", err
		}
		reason := *(*uint32)(unsafe.Pointer(&v.shared[runExitReason]))
		port := *(*uint16)(unsafe.Pointer(&v.shared[runIOPort]))
		if reason != kvmExitIO || port != 0xe9 || len(said) == len(guestSays) {
			if reason != kvmExitHalt {
				said = append(said, '?')
			}
			return string(said), nil
		}
		at := *(*uint64)(unsafe.Pointer(&v.shared[runIOData]))
		said = append(said, v.shared[at])
	}
}
