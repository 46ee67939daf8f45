package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/virt"
)

// ErrHostNotReady is returned when the host lacks something that meros needs.
var ErrHostNotReady = errors.New("this host is not ready")

// Check is one thing that Doctor looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // without it meros does not work; else it works worse
	Found  string `json:"found"`  // what there is, or why it does not do
	Mend   string `json:"mend,omitempty"`
}

// Doctor looks at a host.
type Doctor struct {
	Runner proc.Runner
	Paths  layout.Paths // the zero value when no root was found
	Dial   func(context.Context) (virt.Daemon, error)
}

// Examine returns what this host has and lacks, in the order in which meros comes
// to need it.
func (d Doctor) Examine(ctx context.Context) []Check {
	checks := []Check{
		d.bootstrap(),
		d.mke2fs(ctx),
		d.program("sfdisk", "partition an image", "install fdisk (Debian, openSUSE: fdisk, util-linux)"),
		d.program("qemu-img", "make qcow2 images", "install qemu-utils (Fedora, Arch: qemu-img)"),
		d.program("qemu-system-"+qemuArch(), "run guests", "install qemu-system-x86 (Fedora: qemu-kvm; Arch: qemu-base)"),
		d.namespaces(ctx),
		d.overlay(),
		d.libvirt(ctx),
		d.dnsmasq(),
		d.dnsmasqDir(),
		d.logs(),
		d.kvmAccess(),
		d.kvmWorks(ctx),
	}
	if d.Paths.Root != "" {
		checks = append(checks, d.space(), d.reach())
	}
	return checks
}

// qemuArch is the host's architecture in QEMU's words.
func qemuArch() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "ppc64le":
		return "ppc64"
	}
	return runtime.GOARCH
}

func (d Doctor) program(name, what, mend string) Check {
	c := Check{Name: name, Needed: true, Mend: mend}
	path, err := proc.Find(name)
	if err != nil {
		c.Found = "not installed: needed to " + what
		return c
	}
	c.OK, c.Found = true, path
	return c
}

func (d Doctor) bootstrap() Check {
	c := d.program("mmdebstrap", "bootstrap Debian", "install mmdebstrap, or debootstrap (twice as slow)")
	if c.OK {
		return c
	}
	if other := d.program("debootstrap", "", ""); other.OK {
		c.Needed, c.Found = false, "not installed: builds use "+other.Found+", which takes twice as long"
	}
	return c
}

// mke2fs needs its option -d to read a whole tree with owners and times right:
// e2fsprogs 1.47 (its release notes).
func (d Doctor) mke2fs(ctx context.Context) Check {
	c := d.program("mke2fs", "make file systems", "install e2fsprogs 1.47 or later")
	if !c.OK {
		return c
	}
	var said strings.Builder
	if err := d.Runner.Run(ctx, proc.Cmd{Argv: []string{c.Found, "-V"}, Stderr: &said}); err != nil {
		return c.fail("%v", err)
	}
	version := "unknown"
	if words := strings.Fields(said.String()); len(words) > 1 {
		version = words[1]
	}
	if !atLeast(version, 1, 47) {
		return c.fail("version %s, needed is 1.47", version)
	}
	c.Found += ", version " + version
	return c
}

func atLeast(version string, major, minor int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	have1, err1 := strconv.Atoi(first)
	have2, err2 := strconv.Atoi(second)
	return err1 == nil && err2 == nil && (have1 > major || have1 == major && have2 >= minor)
}

func (c Check) fail(format string, args ...any) Check {
	c.OK, c.Found = false, fmt.Sprintf(format, args...)
	return c
}

// namespaces are tried, since there are several settings and filters that forbid
// them.
func (d Doctor) namespaces(ctx context.Context) Check {
	c := Check{
		Name: "namespaces", OK: true, Needed: true, Found: "mount, pid and user namespaces can be made",
		Mend: "allow them: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0",
	}
	flags := map[string]uintptr{"user": syscall.CLONE_NEWUSER}
	if os.Geteuid() == 0 {
		flags["mount and pid"] = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
	} else {
		flags["mount and pid"] = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER
	}
	for kind, f := range flags {
		if err := d.Runner.Run(ctx, proc.Cmd{Argv: []string{"true"}, Cloneflags: f}); err != nil {
			// Root builds without user namespaces.
			c.Needed = c.Needed && (kind != "user" || os.Geteuid() != 0)
			return c.fail("no %s namespaces: %v", kind, err)
		}
	}
	return c
}

func (d Doctor) overlay() Check {
	c := Check{Name: "overlayfs", Needed: true, Mend: "modprobe overlay"}
	content, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return c.fail("%v", err)
	}
	if strings.Contains(string(content), "\toverlay\n") {
		c.OK, c.Found = true, "known to the kernel"
		return c
	}
	// A module that is there is loaded at the first mount.
	c.Needed = false
	return c.fail("not loaded yet")
}

func (d Doctor) libvirt(ctx context.Context) Check {
	c := Check{Name: "libvirt", Needed: true, Mend: "`systemctl start libvirtd`, or `./dist-conf.sh` where there is no systemd; be in the group libvirt"}
	daemon, err := d.Dial(ctx)
	if err != nil {
		return c.fail("%v", err)
	}
	defer daemon.Close()
	caps, err := daemon.Capabilities(ctx, virt.Accel{})
	if err != nil {
		return c.fail("%v", err)
	}
	c.OK, c.Found = true, fmt.Sprintf("answers, runs %s guests", caps.Arch)
	return c
}

func (d Doctor) dnsmasq() Check {
	return d.program("dnsmasq", "start libvirt's networks", "install dnsmasq-base (Fedora, Arch: dnsmasq)")
}

func (d Doctor) dnsmasqDir() Check {
	const dir = "/var/lib/libvirt/dnsmasq"
	c := Check{Name: "libvirt's network folder", Needed: true, Mend: "mkdir -p " + dir + ", or `./dist-conf.sh`"}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		c.OK, c.Found = true, dir+" cannot be seen by you"
	case err != nil || !info.IsDir():
		return c.fail("%s is missing: no network starts", dir)
	default:
		c.OK, c.Found = true, dir
	}
	return c
}

// logs finds settings by which a guest could fill the disk with what it prints.
func (d Doctor) logs() Check {
	c := Check{Name: "console logs", Mend: `set stdio_handler = "logd" in qemu.conf and max_size in virtlogd.conf, then restart libvirt`}
	if err := virt.LogsBounded(); err != nil {
		return c.fail("not kept: %v", err)
	}
	c.OK, c.Found = true, "bounded by libvirt's log daemon"
	return c
}

// kvmAccess finds the group of /dev/kvm that makes libvirt probe QEMU anew at
// every start of a domain: 76 s instead of 0.6.
func (d Doctor) kvmAccess() Check {
	const device = "/dev/kvm"
	c := Check{Name: device, Needed: true, Mend: "chgrp kvm /dev/kvm; chmod 660 /dev/kvm, or `./dist-conf.sh`"}
	user, err := virt.FindQEMUUser()
	if err != nil {
		c.Mend = "install libvirt's daemon for QEMU (Debian: libvirt-daemon-system)"
		return c.fail("%v", err)
	}
	switch err := user.CanOpen(device); {
	case errors.Is(err, fs.ErrNotExist):
		c.OK, c.Found, c.Mend = true, "not there: guests are emulated", ""
	case err != nil:
		return c.fail("%v: each guest takes 76 s more to start", err)
	default:
		c.OK, c.Found = true, user.Name+" may open it"
	}
	return c
}

func (d Doctor) kvmWorks(ctx context.Context) Check {
	c := Check{Name: "KVM", Mend: "switch virtualisation on in the firmware, or nested virtualisation in the host's host; meros works without"}
	if err := virt.KVMWorks(ctx); err != nil {
		return c.fail("%v: guests are emulated (TCG), some 10 times slower", err)
	}
	c.OK, c.Found = true, "runs a trial guest"
	return c
}

// neededMiB is what a build of mos_demo takes at its height: its layers, and the
// raw and the qcow2 form of its image, 489 MB each, with as much again to spare.
const neededMiB = 3 << 10

func (d Doctor) space() Check {
	dir := existing(d.Paths.Data())
	c := Check{Name: "disk space", Needed: true, Mend: "free some, or keep the root elsewhere (--root)"}
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return c.fail("%s: %v", dir, err)
	}
	free := stat.Bavail * uint64(stat.Bsize) >> 20
	if free < neededMiB {
		return c.fail("%d MiB free in %s, a small target takes %d", free, dir, neededMiB)
	}
	c.OK, c.Found = true, fmt.Sprintf("%d MiB free in %s", free, dir)
	return c
}

func (d Doctor) reach() Check {
	c := Check{Name: "way to the images", Needed: true}
	user, err := virt.FindQEMUUser()
	if err != nil {
		return c.fail("%v", err)
	}
	err = user.CanReach(filepath.Join(d.Paths.Images(), "image"))
	if closed, ok := errors.AsType[*virt.ClosedFolderError](err); ok {
		c.Mend = "chmod o+x " + closed.Dir + ", or keep the root elsewhere (--root)"
	}
	if err != nil {
		return c.fail("%v", err)
	}
	c.OK, c.Found = true, user.Name+" may go to "+d.Paths.Images()
	return c
}

// existing returns dir, or the nearest folder above it that is there.
func existing(dir string) string {
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

// Verdict returns ErrHostNotReady if a check that is needed failed.
func Verdict(checks []Check) error {
	var lacking []string
	for _, c := range checks {
		if c.Needed && !c.OK {
			lacking = append(lacking, c.Name)
		}
	}
	if lacking == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrHostNotReady, strings.Join(lacking, ", "))
}
