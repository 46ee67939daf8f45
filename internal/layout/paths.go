package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Paths spells the places below a root. The zero Owner leaves owners alone.
type Paths struct {
	Root  string // absolute; holds conf/ and data/
	Owner Owner
}

func (p Paths) join(elem ...string) string {
	return filepath.Join(append([]string{p.Root}, elem...)...)
}

// Families is the folder of all families' recipes.
func (p Paths) Families() string { return p.join("conf", "target") }

// Family is the folder of one family's recipe.
func (p Paths) Family(family string) string { return p.join("conf", "target", family) }

// Data is the folder of all that meros makes.
func (p Paths) Data() string { return p.join("data") }

// Chroot is where a target's rootfs is mounted while it is built.
func (p Paths) Chroot(family, target string) string {
	return p.join("data", "build", "bootstrap", family, target)
}

// Cache is what makes the next build fast.
func (p Paths) Cache() string { return p.join("data", "build", "cache") }

// Images is the folder of disk images and kernels.
func (p Paths) Images() string { return p.join("data", "images") }

// Image is a target's disk image.
func (p Paths) Image(fullID string) string { return p.join("data", "images", fullID+".qcow2") }

// CDROM is what lies in a target's CD-ROM drive, if the person brought that.
func (p Paths) CDROM(fullID string) string { return p.join("data", "images", fullID+".iso") }

// Kernel is the kernel that a target boots.
func (p Paths) Kernel(fullID string) string { return p.join("data", "images", fullID+".vmlinuz") }

// Initrd is the initial ramdisk that goes with Kernel.
func (p Paths) Initrd(fullID string) string { return p.join("data", "images", fullID+".initrd") }

// KernelConf is the folder of kernel.conf and the fragments of the guests' kernel.
func (p Paths) KernelConf() string { return p.join("conf", "kernel") }

// KernelBuild is where kernels are fetched and compiled.
func (p Paths) KernelBuild() string { return p.join("data", "build", "kernel") }

// BuiltKernel is a kernel that meros compiled, by what its architecture calls such
// a file, bzImage or Image, and what it is; its record has .json added, its
// configuration .config.
func (p Paths) BuiltKernel(image, name string) string {
	return p.join("data", "images", image+"-"+name)
}

// CurrentKernel is a link to the BuiltKernel that targets of its architecture get.
func (p Paths) CurrentKernel(image string) string { return p.join("data", "images", image) }

// ImageRecord says what a target's image was made of.
func (p Paths) ImageRecord(fullID string) string { return p.join("data", "images", fullID+".json") }

// Placing is there while a target's image and kernel are put in place: they may not
// belong together. A build takes it away once they do.
func (p Paths) Placing(fullID string) string { return p.ImageRecord(fullID) + ".placing" }

// Mirrors remembers which mirrors the host's apt is set to.
func (p Paths) Mirrors() string { return p.join("data", "build", "cache", "mirrors.json") }

// CompilerCache is what ccache keeps of kernels that were compiled.
func (p Paths) CompilerCache() string { return p.join("data", "build", "cache", "ccache") }

// Downloads is what package managers have downloaded.
func (p Paths) Downloads() string { return p.join("data", "build", "cache", "downloads") }

// Stamps says when the bases of targets were last refreshed.
func (p Paths) Stamps() string { return p.join("data", "state", "refreshed.json") }

// LastPlan says what the last build of a target read, stage by stage.
func (p Paths) LastPlan(fullID string) string {
	return p.join("data", "build", "cache", "plans", fullID+".json")
}

// ClientKey is the private key that opens sessions on a target; its public half
// has .pub added.
func (p Paths) ClientKey(fullID string) string { return p.join("data", "ssh_keys", fullID) }

// HostKey is the private key by which a target's sshd is known; its public half,
// which sessions pin, has .pub added.
func (p Paths) HostKey(fullID string) string { return p.join("data", "ssh_keys", fullID+".host") }

// KnownHosts holds a target's pinned host key in the form that ssh(1) reads.
func (p Paths) KnownHosts(fullID string) string {
	return p.join("data", "ssh_keys", fullID+".known_hosts")
}

// Shared is where a target's files land when they are pulled.
func (p Paths) Shared(fullID string) string { return p.join("data", "mos-shared", fullID) }

// State is the folder of locks and of what runs.
func (p Paths) State() string { return p.join("data", "state") }

// Overlays is the folder of what disposable guests write while they run.
func (p Paths) Overlays() string { return p.join("data", "state", "disposable") }

// Overlay is what one disposable guest writes: an overlay over its Image.
func (p Paths) Overlay(fullID string) string {
	return p.join("data", "state", "disposable", fullID+".qcow2")
}

// Log is a log file: one for each name.
func (p Paths) Log(name string) string { return p.join("data", "log", name+".log") }

// errNoRoot is returned by FindRoot with the ways to name a root.
var errNoRoot = errors.New("no folder with conf/target found: give --root, set MEROS_ROOT, or call from inside one")

// FindRoot returns the absolute folder that holds conf/ and data/: flag, else
// the environment's MEROS_ROOT, else the nearest folder with conf/target from
// dir upwards, else the person's own under XDG_DATA_HOME (XDG Base Directory
// Specification; ~/.local/share by default).
func FindRoot(flag string, getenv func(string) string, dir string) (string, error) {
	for _, named := range []string{flag, getenv("MEROS_ROOT")} {
		if named != "" {
			return namedRoot(named, dir)
		}
	}
	for at := dir; ; at = filepath.Dir(at) {
		if isRoot(at) {
			return at, nil
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	own := UserRoot(getenv)
	if own == "" || !isRoot(own) {
		return "", errNoRoot
	}
	return own, nil
}

// NewRoot returns the folder in which a first family may be laid: the one that
// FindRoot finds, else the one that is named, else the person's own, of which
// nothing need be there yet.
func NewRoot(flag string, getenv func(string) string, dir string) (string, error) {
	for _, named := range []string{flag, getenv("MEROS_ROOT")} {
		if named != "" && !filepath.IsAbs(named) {
			named = filepath.Join(dir, named)
		}
		if named != "" {
			return filepath.Clean(named), nil
		}
	}
	if found, err := FindRoot("", getenv, dir); err == nil {
		return found, nil
	}
	if own := UserRoot(getenv); own != "" {
		return own, nil
	}
	return "", errNoRoot
}

// UserRoot is a person's own root, or "" where there is no home.
func UserRoot(getenv func(string) string) string {
	if data := getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "meros")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "meros")
	}
	return ""
}

func namedRoot(named, dir string) (string, error) {
	if !filepath.IsAbs(named) {
		named = filepath.Join(dir, named)
	}
	if !isRoot(named) {
		return "", fmt.Errorf("%s holds no conf/target", named)
	}
	return filepath.Clean(named), nil
}

func isRoot(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, "conf", "target"))
	return err == nil && info.IsDir()
}
