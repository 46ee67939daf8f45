package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// initrdModules are what the kernel needs to reach its root file system on the
// disks that libvirt offers; a kernel that has one built in skips it.
var initrdModules = []string{"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_rng", "ahci", "ata_piix", "sd_mod", "ext4"}

// holdInitrd keeps packages from making initrds on their own: each would be
// made anew at every package that has a say in it (initramfs-tools(7)).
func (c *chroot) holdInitrd(ctx context.Context) error {
	if err := c.run(ctx, nil, "dpkg-divert", "--quiet", "--local", "--rename", "--divert", "/usr/sbin/update-initramfs.held", "--add", "/usr/sbin/update-initramfs"); err != nil {
		return fmt.Errorf("hold update-initramfs: %w", err)
	}
	return os.Symlink("/bin/true", filepath.Join(c.root, "usr/sbin/update-initramfs"))
}

// makeInitrd gives update-initramfs back, makes one small initrd, and moves it
// and the kernel to out as initrd and vmlinuz.
func (c *chroot) makeInitrd(ctx context.Context, out string) error {
	if err := os.Remove(filepath.Join(c.root, "usr/sbin/update-initramfs")); err != nil {
		return err
	}
	if err := c.run(ctx, nil, "dpkg-divert", "--quiet", "--local", "--rename", "--remove", "/usr/sbin/update-initramfs"); err != nil {
		return fmt.Errorf("give update-initramfs back: %w", err)
	}
	conf := filepath.Join(c.root, "etc/initramfs-tools")
	if err := os.WriteFile(filepath.Join(conf, "conf.d/meros"), []byte("# Only what a virtual machine's disk needs: see modules.\nMODULES=list\n"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(conf, "modules"), []byte(strings.Join(initrdModules, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	version, err := c.kernelVersion()
	if err != nil {
		return err
	}
	if err := c.run(ctx, nil, "mkinitramfs", "-o", "/boot/initrd.img-"+version, version); err != nil {
		return fmt.Errorf("make the initrd of %s: %w", version, err)
	}
	for from, to := range map[string]string{"vmlinuz-": "vmlinuz", "initrd.img-": "initrd"} {
		if err := moveOut(filepath.Join(c.root, "boot", from+version), filepath.Join(out, to)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(out, "version"), []byte(version+"\n"), 0o644)
}

func (c *chroot) kernelVersion() (string, error) {
	found, err := filepath.Glob(filepath.Join(c.root, "boot/vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the kernel's package brought %d kernels, want 1", len(found))
	}
	return strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-"), nil
}

func moveOut(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		return err
	}
	return os.Remove(from)
}
