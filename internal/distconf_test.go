package internal_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// distHost is a host made of shims: asked for a package, its package manager
// says whether there is one; told to change anything, a shim notes the call.
type distHost struct {
	release   string // the content of os-release
	machine   string // what uname -m prints, x86_64 if empty
	uid       int
	installed bool // every package is there
}

// distCheck runs dist-conf.sh on h and returns what it printed, its exit status
// and the calls that would have changed the host.
func distCheck(t *testing.T, h distHost, args ...string) (out string, status int, changes string) {
	t.Helper()
	dir := t.TempDir()
	bin, calls := filepath.Join(dir, "bin"), filepath.Join(dir, "calls")
	shim := func(name, body string) { writeFile(t, filepath.Join(bin, name), "#!/bin/sh\n"+body+"\n", 0o755) }
	ask, change := "exit 1", fmt.Sprintf(`echo "${0##*/} $*" >>%q`, calls)
	if h.installed {
		ask = "echo installed"
	}
	if h.machine == "" {
		h.machine = "x86_64"
	}
	shim("dpkg-query", ask)
	shim("rpm", ask)
	shim("pacman", `[ "$1" = -T ] || `+change+"\n"+ask)
	shim("apk", `[ "$1" = info ] || `+change+"\n"+ask)
	shim("virsh", ask)
	shim("systemctl", `case $1 in cat | is-enabled) ;; *) `+change+" ;; esac")
	shim("rc-update", `case $1 in show) echo " libvirtd | default" ;; *) `+change+" ;; esac")
	shim("uname", "echo "+h.machine)
	shim("id", fmt.Sprintf(`case $1 in -u) echo %d ;; *) echo root ;; esac`, h.uid))
	for _, name := range strings.Fields("apt-get dnf zypper mkdir chgrp chmod chown cp mv rc-service virtlogd libvirtd usermod addgroup adduser modprobe") {
		shim(name, change)
	}
	release := filepath.Join(dir, "os-release")
	writeFile(t, release, h.release, 0o644)

	const script = "../dist-conf.sh"
	if _, err := os.Stat(script); err != nil { // seen by go test's cache, unlike what sh reads
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{script}, args...)...)
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin", "MEROS_OS_RELEASE=" + release}
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	noted, _ := os.ReadFile(calls)
	return string(b), cmd.ProcessState.ExitCode(), string(noted)
}

func writeFile(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestDistConfCheckNamesPackages(t *testing.T) {
	const (
		apt    = "apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -y --no-install-recommends install mmdebstrap "
		debian = "mmdebstrap debootstrap debian-archive-keyring uidmap e2fsprogs fdisk qemu-utils qemu-system-x86 seabios ipxe-qemu libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base iproute2 iptables nftables"
		modern = "libvirt-daemon-driver-qemu libvirt-daemon-driver-network libvirt-daemon-driver-storage-core libvirt-client nftables dnsmasq"
	)
	tests := []struct {
		name, release, machine string
		args                   []string
		install                string // how the line that says how to install begins
		packages               string
		absent                 string // a package that must not be asked for
	}{
		{name: "debian", release: "ID=debian\n", install: apt, packages: debian, absent: "xpra"},
		{name: "debian arm", release: "ID=debian\n", machine: "aarch64", install: apt, packages: "qemu-system-arm", absent: "qemu-system-x86"},
		{name: "debian with xpra", release: "ID=debian\n", args: []string{"--with-xpra"}, install: apt, packages: "xpra python3-pil python3-gi-cairo"},
		{name: "debian for tests", release: "ID=debian\n", args: []string{"--for-tests"}, install: apt, packages: "xdotool x11-utils"},
		{name: "debian for benchmarks", release: "ID=debian\n", args: []string{"--for-bench"}, install: apt, packages: "mkosi vmdb2 debos libguestfs-tools"},
		{name: "debian with kernel", release: "ID=debian\n", args: []string{"--with-kernel-build"}, install: apt, packages: "build-essential flex libelf-dev linux-source"},
		{name: "ubuntu", release: "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", install: apt, packages: debian},
		{name: "mint", release: "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", install: apt, packages: debian},
		{name: "fedora", release: "ID=fedora\n", install: "dnf -y --setopt=install_weak_deps=False install ", packages: "qemu-system-x86-core debian-keyring shadow-utils " + modern, absent: "mmdebstrap"},
		{name: "rocky", release: "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", install: "dnf ", packages: modern},
		{name: "arch", release: "ID=arch\n", install: "pacman -S --needed --noconfirm ", packages: "debootstrap qemu-system-x86 libvirt debian-archive-keyring iptables", absent: "mmdebstrap"},
		{name: "manjaro", release: "ID=manjaro\nID_LIKE=arch\n", install: "pacman ", packages: "qemu-system-x86"},
		{name: "alpine", release: "ID=alpine\n", install: "apk add ", packages: "debootstrap qemu-system-x86_64 libvirt-daemon libvirt-qemu libvirt-client sfdisk shadow-uidmap", absent: "mmdebstrap"},
		{name: "tumbleweed", release: "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", install: "zypper --non-interactive install --no-recommends ", packages: "qemu-x86 qemu-seabios /usr/bin/qemu-img " + modern, absent: "mmdebstrap"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, status, changes := distCheck(t, distHost{release: tt.release, machine: tt.machine}, append(tt.args, "--check")...)
			if status != 1 {
				t.Errorf("exit status = %d, want 1", status)
			}
			if changes != "" {
				t.Errorf("--check called: %s", changes)
			}
			if !strings.Contains(out, "dist-conf: to install: "+tt.install) {
				t.Errorf("no line says how to install with %q", tt.install)
			}
			for _, name := range strings.Fields(tt.packages) {
				if !strings.Contains(out, "dist-conf: missing: package "+name+" (to ") {
					t.Errorf("package %s is not listed", name)
				}
			}
			if tt.absent != "" && strings.Contains(out, "package "+tt.absent+" ") {
				t.Errorf("package %s is listed", tt.absent)
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

func TestDistConf(t *testing.T) {
	const debian = "ID=debian\n"
	tests := []struct {
		name   string
		host   distHost
		args   string
		status int
		want   string
		absent string
	}{
		{name: "packages are there", host: distHost{release: debian, installed: true}, args: "--check", status: -1, absent: "missing: package"},
		{name: "not root", host: distHost{release: debian, uid: 1000}, status: 1, want: "needs root"},
		{name: "unknown distribution", host: distHost{release: "ID=plan9\n"}, status: 1, want: "mke2fs"},
		{name: "unknown distribution checked", host: distHost{release: "ID=plan9\n"}, args: "--check", status: 1, want: "unknown distribution"},
		{name: "help", host: distHost{release: debian}, args: "--help", status: 0, want: "--with-xpra"},
		{name: "wrong call", host: distHost{release: debian}, args: "--chekc", status: 2, want: "Usage:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, status, changes := distCheck(t, tt.host, strings.Fields(tt.args)...)
			if tt.status >= 0 && status != tt.status {
				t.Errorf("exit status = %d, want %d", status, tt.status)
			}
			if !strings.Contains(out, tt.want) || tt.absent != "" && strings.Contains(out, tt.absent) {
				t.Errorf("output with %q and without %q wanted, got:\n%s", tt.want, tt.absent, out)
			}
			if changes != "" {
				t.Errorf("called: %s", changes)
			}
		})
	}
}
