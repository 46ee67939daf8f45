package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/tarball"
)

// Prebuilt gets a kernel that somebody else has built: the file at url, or the
// one kernel inside of it when it is a .deb for a target that has no use for the
// modules: see family.KernelDeb. Both are kept by their sum. arch is the target's
// architecture in the kernel's words; alone: the target has no initrd. It returns
// the kernel's file and, where the file tells it, its version.
func (b Builder) Prebuilt(ctx context.Context, url, sum, arch string, alone bool) (file, version string, err error) {
	if file, err = b.Download(ctx, url, sum); err != nil {
		return "", "", err
	}
	if strings.HasSuffix(url, ".deb") {
		if file, err = b.fromPackage(ctx, file, url, sum, alone); err != nil {
			return "", "", fmt.Errorf("%s: %w", url, err)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	return file, versionOf(content), checkImage(url, arch, content)
}

func (b Builder) fromPackage(ctx context.Context, deb, url, sum string, alone bool) (string, error) {
	unlock, err := b.lockFile(ctx, url, sum)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := b.dir("prebuilt", sum[:16])
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		part, err := b.emptyDir(dir + ".partial")
		if err != nil {
			return "", err
		}
		if err := b.unpackDeb(ctx, deb, part); err != nil {
			return "", errors.Join(wordy(err), os.RemoveAll(part))
		}
		if err := errors.Join(b.giveTree(part), os.Rename(part, dir)); err != nil {
			return "", err
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", hint.Add(fmt.Errorf("the package holds %d kernels, want 1", len(found)), "a package such as linux-image-amd64 only names the one that holds it")
	}
	switch needs := needsModules(dir); {
	case needs && alone:
		return "", hint.Add(errors.New("its kernel keeps the drivers of disks or file systems in modules, which it would need an initrd for, and only the kernel is taken out of the .deb"),
			"a rootfs of Debian's kind that meros builds gets the modules and an initrd too; for Alpine, kernel=\"distro\" does so with its own; or name an initrd with initrd= and initrd_sha256=")
	case needs:
		b.Warn("%s: its kernel keeps drivers in modules, and only the kernel is taken out of the .deb: what the guest needs has to be in the image or the initrd already", filepath.Base(deb))
	}
	return found[0], nil
}

func (b Builder) unpackDeb(ctx context.Context, deb, dir string) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	return tarball.Kernel(ctx, b.Runner, proc.Cmd{Argv: []string{"dpkg-deb"}, Env: english()}, f, dir)
}

// needsModules reports whether a package's kernel cannot mount an ext4 root on a
// virtio disk by itself.
func needsModules(dir string) bool {
	lists, _ := filepath.Glob(filepath.Join(dir, "lib/modules/*/modules.builtin"))
	more, _ := filepath.Glob(filepath.Join(dir, "usr/lib/modules/*/modules.builtin"))
	for _, list := range append(lists, more...) {
		content, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, module := range []string{"/ext4.ko", "/virtio_blk.ko", "/virtio_pci.ko"} {
			if !bytes.Contains(content, []byte(module)) {
				return true
			}
		}
	}
	return false
}

// Where an x86 kernel says what it is (Documentation/x86/boot.rst), and an arm64
// one (Documentation/arm64/booting.rst).
const (
	x86MagicAt    = 0x202
	x86VersionAt  = 0x20e // offset of the text, less 0x200
	arm64MagicAt  = 0x38
	arm64Magic    = "ARM\x64"
	maxVersionLen = 200
)

// checkImage reports what is no kernel, or one of another machine than arch is.
func checkImage(url, arch string, image []byte) error {
	want := arch
	if arch == "x86_64" || arch == "i386" {
		want = "x86"
	}
	switch got := machineOf(image); got {
	case want:
		return nil
	case "":
		return hint.Add(fmt.Errorf("%s is no kernel that QEMU boots", url), "it takes bzImage or vmlinuz of x86, Image of arm64, which may be packed by gzip")
	default:
		return hint.Add(fmt.Errorf("%s is a kernel for %s, and the target is of %s", url, got, arch), "name one for %s, or set arch= in the build XML", arch)
	}
}

// machineOf is what an image says it boots on, "" if it says nothing. QEMU unpacks
// those of arm64.
func machineOf(image []byte) string {
	switch {
	case hasAt(image, x86MagicAt, "HdrS"):
		return "x86"
	case hasAt(image, arm64MagicAt, arm64Magic), hasAt(unzippedHead(image), arm64MagicAt, arm64Magic):
		return "arm64"
	}
	return ""
}

func hasAt(image []byte, i int, magic string) bool {
	return len(image) >= i+len(magic) && string(image[i:i+len(magic)]) == magic
}

// unzippedHead is as much of what gzip has packed as a kernel is known by.
func unzippedHead(packed []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil
	}
	head := make([]byte, arm64MagicAt+len(arm64Magic))
	n, _ := io.ReadFull(r, head)
	return head[:n]
}

// versionOf reads the version that an x86 kernel carries, "" if there is none.
func versionOf(image []byte) string {
	if len(image) < x86VersionAt+2 || string(image[x86MagicAt:x86MagicAt+4]) != "HdrS" {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(image[x86VersionAt:])) + 0x200
	if at >= len(image) {
		return ""
	}
	text, _, _ := bytes.Cut(image[at:min(len(image), at+maxVersionLen)], []byte{0})
	version, _, _ := strings.Cut(string(text), " ")
	if !tagForm.MatchString(version) {
		return ""
	}
	return version
}
