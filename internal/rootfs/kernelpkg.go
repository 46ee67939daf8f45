package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"meros/internal/hint"
)

// unpackKernel takes a kernel and its modules out of a package of the chroot's own
// distribution, and runs none of the package's scripts. apt verifies what it gets;
// sum, where it is given, is the sha256 that the .deb has to have.
func (c *chroot) unpackKernel(ctx context.Context, name, sum string) error {
	// Not /tmp: that is no part of the tree, and nothing can be renamed out of it.
	cache, err := c.mkdir("var/cache")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cache, "kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	inside := "/var/cache/" + filepath.Base(dir)
	if err := c.apt(ctx, "download", "env", "--chdir="+inside, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "--", name); err != nil {
		return c.suggest(ctx, err, aptUnknown, "apt-cache", "pkgnames")
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	if len(found) != 1 {
		return fmt.Errorf("apt brought %d files, want 1", len(found))
	}
	if err := checkSum(found[0], sum); err != nil {
		return err
	}
	if err := c.run(ctx, nil, "dpkg-deb", "--extract", inside+"/"+filepath.Base(found[0]), inside+"/tree"); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	version, err := c.takeKernelTree(tree{filepath.Join(dir, "tree")})
	if err != nil {
		return err
	}
	return c.run(ctx, nil, "depmod", version)
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

// takeKernelTree moves the one kernel of an unpacked package, what is known of its
// configuration, and its modules to where the chroot has them. It returns the
// kernel's version.
func (c *chroot) takeKernelTree(unpacked tree) (string, error) {
	found, err := unpacked.glob("boot/vmlinuz-*")
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", hint.Add(fmt.Errorf("it holds %d kernels, want 1", len(found)),
			"a package such as linux-image-amd64 only names the one that holds it: `apt-cache depends` shows which")
	}
	version := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	for _, dir := range []string{"boot", "lib/modules"} {
		if _, err := c.mkdir(dir); err != nil {
			return "", err
		}
	}
	for from, to := range map[string]string{
		"boot/vmlinuz-" + version:    "boot/vmlinuz-" + version,
		"boot/config-" + version:     "boot/config-" + version,
		"lib/modules/" + version:     "lib/modules/" + version,
		"usr/lib/modules/" + version: "lib/modules/" + version,
	} {
		if err := move(unpacked, from, c.tree, to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return version, nil
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
