package virt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// Accel is what runs the guests' code: KVM, or TCG, which is QEMU's emulation.
type Accel struct {
	KVM    bool
	Forced bool   // the person chose it
	Why    string // why TCG and what it costs, in one line; "" for KVM
}

func (a Accel) domainType() string {
	if a.KVM {
		return "kvm"
	}
	return "qemu"
}

// tcgCost is the end of every line that says why it is TCG. The factor is what
// booting takes here against hosts with KVM, to one digit.
const tcgCost = "using TCG, guests run some 10 times slower"

// AccelMode is a choice of accelerator.
type AccelMode string

// The choices of --accel and MEROS_ACCEL.
const (
	AccelAuto AccelMode = "auto"
	AccelKVM  AccelMode = "kvm"
	AccelTCG  AccelMode = "tcg"
)

// ParseAccel returns the choice of a flag, else of the environment, else
// AccelAuto.
func ParseAccel(flag string, getenv func(string) string) (AccelMode, error) {
	for _, c := range []struct{ from, value string }{{"--accel", flag}, {"MEROS_ACCEL", getenv("MEROS_ACCEL")}} {
		switch mode := AccelMode(c.value); mode {
		case "":
		case AccelAuto, AccelKVM, AccelTCG:
			return mode, nil
		default:
			return "", fmt.Errorf("%s: %q is no accelerator: want kvm, tcg or auto", c.from, c.value)
		}
	}
	return AccelAuto, nil
}

// ChooseAccel settles the accelerator of this host. With AccelAuto it is KVM only
// where a guest truly runs: it takes some milliseconds to try.
func ChooseAccel(ctx context.Context, mode AccelMode) Accel {
	return hostKVM().choose(ctx, mode)
}

// kvmHost is what can be known of KVM on a host.
type kvmHost struct {
	arch    string // GOARCH
	device  string // the file /dev/kvm
	cpuinfo string // the file /proc/cpuinfo
	qemu    func() (QEMUUser, error)
	try     func(ctx context.Context, device string) error // runs a guest
}

func hostKVM() kvmHost {
	return kvmHost{
		arch: runtime.GOARCH, device: "/dev/kvm", cpuinfo: "/proc/cpuinfo",
		qemu: FindQEMUUser, try: tryKVM,
	}
}

func (h kvmHost) choose(ctx context.Context, mode AccelMode) Accel {
	switch mode {
	case AccelKVM:
		return Accel{KVM: true, Forced: true}
	case AccelTCG:
		return Accel{Forced: true, Why: "TCG was asked for: guests run some 10 times slower"}
	}
	if err := h.works(ctx); err != nil {
		return Accel{Why: err.Error() + ": " + tcgCost}
	}
	return Accel{KVM: true}
}

// KVMWorks returns nil where guests run under KVM, and else the reason.
func KVMWorks(ctx context.Context) error { return hostKVM().works(ctx) }

// works looks at what cannot lie. /dev/kvm, its calls, and libvirt's
// capabilities can: a host that is itself a guest may offer a KVM that only runs
// guests made for it. The processor's flag, and a guest that switches to long
// mode and takes an exception there, tell.
func (h kvmHost) works(ctx context.Context) error {
	if _, err := os.Stat(h.device); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no %s", h.device)
	}
	if h.arch == "amd64" && !hasVirtFlag(h.cpuinfo) {
		return fmt.Errorf("no vmx or svm in %s", h.cpuinfo)
	}
	if user, err := h.qemu(); err == nil {
		if err := user.CanOpen(h.device); err != nil {
			return fmt.Errorf("libvirt's qemu user: %w", err)
		}
	}
	err := h.try(ctx, h.device)
	if errors.Is(err, fs.ErrPermission) {
		return nil // it is libvirt's qemu user who needs it, not the caller
	}
	return err
}

// hasVirtFlag reports whether a processor of /proc/cpuinfo has Intel's or AMD's
// virtualisation.
func hasVirtFlag(cpuinfo string) bool {
	content, err := os.ReadFile(cpuinfo)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			for _, f := range strings.Fields(flags) {
				if f == "vmx" || f == "svm" {
					return true
				}
			}
		}
	}
	return false
}
