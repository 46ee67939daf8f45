package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/tarball"
)

// Unpack is a kernel that is unpacked, not installed, together with its modules: a
// package of the target's own distribution, or a .deb from elsewhere.
type Unpack struct {
	Package string // "": File
	SHA256  string // of the .deb; "": Package is what the archive says it is
	File    string // the .deb on this host, verified; "": Package
	Initrd  string // on this host, verified; "": one is made, where the kernel needs it
}

func (u Unpack) wanted() bool { return u.Package != "" || u.File != "" }

func (u Unpack) String() string {
	if u.Package != "" {
		return "kernel package " + u.Package
	}
	return "kernel of " + filepath.Base(u.File)
}

// unpacked is what came with a kernel.
type unpacked struct {
	version string
	modules bool // there are some
	drivers bool // some of them may be needed to reach the root file system
}

// unpackKernel lays a kernel and its modules into the tree, and runs none of the
// package's scripts. The modules have no list of what needs what yet: depmod.
func (c *chroot) unpackKernel(ctx context.Context, u Unpack) (unpacked, error) {
	// Not /tmp: that is no part of the tree, and nothing can be renamed out of it.
	cache, err := c.mkdir("var/cache")
	if err != nil {
		return unpacked{}, err
	}
	dir, err := os.MkdirTemp(cache, "kernel-")
	if err != nil {
		return unpacked{}, err
	}
	defer os.RemoveAll(dir)
	deb := u.File
	if u.Package != "" {
		if deb, err = c.downloadKernel(ctx, u, dir); err != nil {
			return unpacked{}, err
		}
	}
	f, err := os.Open(deb)
	if err != nil {
		return unpacked{}, err
	}
	defer f.Close()
	into := filepath.Join(dir, "tree")
	if err := os.Mkdir(into, 0o755); err != nil {
		return unpacked{}, err
	}
	dpkg := proc.Cmd{Argv: []string{"chroot", c.root, "dpkg-deb"}, Env: toolEnv(), Dir: "/", Stderr: os.Stderr}
	err = tarball.Kernel(ctx, c.r, dpkg, f, into)
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		exit.Argv = dpkg.Argv[2:] // not chroot
	}
	if err != nil {
		return unpacked{}, err
	}
	return c.takeKernelTree(tree{into})
}

// downloadKernel has apt get the package, which verifies it, into a folder of the
// chroot.
func (c *chroot) downloadKernel(ctx context.Context, u Unpack, dir string) (string, error) {
	inside := "/var/cache/" + filepath.Base(dir)
	if err := c.apt(ctx, "download", "env", "--chdir="+inside, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "--", u.Package); err != nil {
		return "", c.suggest(ctx, err, aptUnknown, "apt-cache", "pkgnames")
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	if len(found) != 1 {
		return "", fmt.Errorf("apt brought %d files, want 1", len(found))
	}
	return found[0], checkSum(found[0], u.SHA256)
}

func checkSum(file, want string) error {
	if want == "" {
		return nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	if got := hex.EncodeToString(sum[:]); got != want {
		return hint.Add(fmt.Errorf("%s is not what it should be: its sha256 is %s, want %s", filepath.Base(file), got, want),
			"the archive has another version of it by now: name that one, or leave sha256 away and trust the archive's signature")
	}
	return nil
}

// kernelVersion is what the name of a kernel may end in: it becomes an argument of
// programs.
var kernelVersion = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~_-]*$`)

// takeKernelTree moves the one kernel of an unpacked package, what is known of its
// configuration, and its modules to where the chroot has them.
func (c *chroot) takeKernelTree(from tree) (u unpacked, err error) {
	found, err := from.glob("boot/vmlinuz-*")
	if err != nil {
		return u, err
	}
	if len(found) != 1 {
		return u, hint.Add(fmt.Errorf("it holds %d kernels, want 1", len(found)),
			"a package such as linux-image-amd64 only names the one that holds it: `apt-cache depends` shows which")
	}
	u.version = strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	if !kernelVersion.MatchString(u.version) {
		return u, fmt.Errorf("its kernel has the version %q, which is none", u.version)
	}
	for _, dir := range []string{"boot", "lib/modules"} {
		if _, err := c.mkdir(dir); err != nil {
			return u, err
		}
	}
	modules := "lib/modules/" + u.version
	for _, m := range [][2]string{
		{"boot/vmlinuz-" + u.version, "boot/vmlinuz-" + u.version},
		{"boot/config-" + u.version, "boot/config-" + u.version},
		{modules, modules},
		{"usr/" + modules, modules},
	} {
		if err := move(from, m[0], c.tree, m[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return u, err
		}
	}
	at, err := c.at(modules)
	if err != nil {
		return u, err
	}
	u.modules = c.has(modules)
	u.drivers, err = hasDrivers(at)
	return u, err
}

// hasDrivers reports whether one of initrdModules is below a folder of modules,
// and so not built into their kernel.
func hasDrivers(dir string) (found bool, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(d.Name(), ".ko")
		if name != d.Name() && slices.Contains(initrdModules, strings.ReplaceAll(name, "-", "_")) {
			found = true
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return found, err
}

// move renames what one tree has to a name in another.
func move(from tree, name string, to tree, newName string) error {
	old, err := from.at(name)
	if err != nil {
		return err
	}
	now, err := to.at(newName)
	if err != nil {
		return err
	}
	return os.Rename(old, now)
}
