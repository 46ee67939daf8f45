package rootfs

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"meros/internal/family"
	"meros/internal/hint"
)

// distro is what Debian and those made of it differ in.
type distro struct {
	keyring        string // the archive's keys, at the same path on a host and in a chroot
	keyringPackage string
	stable         string   // suite of a recipe that names none; "": there is no word for it
	components     string   // of the archive, parted by blanks
	rolling        []string // suites with neither an updates nor a security suite
	apart          bool     // the security suite is in an archive of its own
	base           []string // packages that a guest needs beside the bare system
	kernel         func(arch string) string
}

// debianKeyring is where the package debian-archive-keyring puts the keys.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debianBase is what a guest with systemd needs beside the bare system: an init
// that hears the power button (logind, which wants dbus) and a way to see its
// network.
var debianBase = []string{"systemd-sysv", "udev", "dbus", "iproute2"}

// distros by the recipe's word. The keyrings' places are those of the named
// packages; components are what the distributions' own sources.list start with.
var distros = map[string]distro{
	"debian": {
		keyring: debianKeyring, keyringPackage: "debian-archive-keyring", stable: "stable", components: "main",
		rolling: []string{"sid", "unstable", "experimental"}, apart: true, base: debianBase, kernel: debianKernel,
	},
	"ubuntu": {
		keyring: "/usr/share/keyrings/ubuntu-archive-keyring.gpg", keyringPackage: "ubuntu-keyring", components: "main universe",
		base: debianBase, kernel: func(string) string { return "linux-image-virtual" },
	},
	// Devuan has no systemd; acpid hears the power button.
	"devuan": {
		keyring: "/usr/share/keyrings/devuan-archive-keyring.gpg", keyringPackage: "devuan-keyring", stable: "stable", components: "main",
		rolling: []string{"ceres", "unstable", "experimental"}, kernel: debianKernel,
		base: []string{"sysvinit-core", "eudev", "acpid", "acpi-support-base", "iproute2"},
	},
	"kali": {
		keyring: "/usr/share/keyrings/kali-archive-keyring.gpg", keyringPackage: "kali-archive-keyring", stable: "kali-rolling", components: "main",
		rolling: []string{"kali-rolling", "kali-last-snapshot", "kali-experimental", "kali-bleeding-edge"}, base: debianBase, kernel: debianKernel,
	},
}

// debianKernel is the package of the kernel without drivers for real hardware,
// where the architecture has one.
func debianKernel(arch string) string {
	switch arch {
	case "amd64", "arm64":
		return "linux-image-cloud-" + arch
	case "i386":
		return "linux-image-686-pae"
	case "armhf":
		return "linux-image-armmp"
	}
	return "linux-image-" + arch
}

// suite is the target's release, the stable one where the recipe names none.
func (d distro) suite(t *family.Target) (string, error) {
	if t.Release != "" {
		return t.Release, nil
	}
	if d.stable == "" {
		return "", hint.Add(fmt.Errorf("%s has no suite that is always the stable one", t.Distro), "name one with release=\"…\" in %s", t.BuildFile)
	}
	return d.stable, nil
}

func (d distro) isRolling(suite string) bool { return slices.Contains(d.rolling, suite) }

// errNoKeyring is wrapped when the keys of a distribution are not on this host.
var errNoKeyring = errors.New("its archive's signatures cannot be checked")

// checkKeyring makes sure that the host has the keys of a derivative. Debian's
// own the bootstrap tools look for themselves: not every host has them there.
func (d distro) checkKeyring() error {
	if _, err := os.Stat(d.keyring); err != nil {
		return hint.Add(fmt.Errorf("%w: %w", errNoKeyring, err),
			"install the distribution's package %s, or put its keys there from a source that you trust", d.keyringPackage)
	}
	return nil
}
