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
	at, err := c.at("usr/sbin/update-initramfs")
	if err != nil {
		return err
	}
	return os.Symlink("/bin/true", at)
}

// makeInitrd gives update-initramfs back, makes one small initrd, and moves it to
// out.
func (c *chroot) makeInitrd(ctx context.Context, out string) error {
	if err := c.remove("usr/sbin/update-initramfs"); err != nil {
		return err
	}
	if err := c.run(ctx, nil, "dpkg-divert", "--quiet", "--local", "--rename", "--remove", "/usr/sbin/update-initramfs"); err != nil {
		return fmt.Errorf("give update-initramfs back: %w", err)
	}
	if err := c.add("etc/initramfs-tools/conf.d/meros", "# Only what a virtual machine's disk needs: see modules.\nMODULES=list\n", 0o644, replaceAlways); err != nil {
		return err
	}
	if err := c.add("etc/initramfs-tools/modules", strings.Join(initrdModules, "\n")+"\n", 0o644, replaceAlways); err != nil {
		return err
	}
	version, err := c.kernelVersion()
	if err != nil {
		return err
	}
	if err := c.run(ctx, nil, "mkinitramfs", "-o", "/boot/initrd.img-"+version, version); err != nil {
		return fmt.Errorf("make the initrd of %s: %w", version, err)
	}
	return c.moveOut("boot/initrd.img-"+version, filepath.Join(out, InitrdFile))
}

// takeKernel moves the kernel to out, and notes its version there.
func (c *chroot) takeKernel(out string) error {
	version, err := c.kernelVersion()
	if err != nil {
		return err
	}
	if err := c.moveOut("boot/vmlinuz-"+version, filepath.Join(out, KernelFile)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, VersionFile), []byte(version+"\n"), 0o644)
}

func (c *chroot) kernelVersion() (string, error) {
	found, err := c.glob("boot/vmlinuz-*")
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the kernel's package brought %d kernels, want 1", len(found))
	}
	return strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-"), nil
}
