package kernel_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/ui"
)

// fakeKernel is as much of a bzImage as is looked at.
func fakeKernel(version string) string {
	image := make([]byte, 0x400)
	copy(image[0x202:], "HdrS")
	image[0x20e], image[0x20f] = 0x00, 0x01 // the text is at 0x100 + 0x200
	copy(image[0x300:], version+" (meros@meros) #1\x00")
	return string(image)
}

func (b *bench) wantPrebuilt(url, sum string, alone bool, words ...string) {
	b.t.Helper()
	_, _, err := b.builder().Prebuilt(b.t.Context(), url, sum, "x86_64", alone)
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error()+strings.Join(hint.Of(err), "\n"), w) {
			b.t.Errorf("Prebuilt = %v, want %q", err, w)
		}
	}
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(content)
	return hex.EncodeToString(h[:])
}

func TestPrebuiltFile(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "vmlinuz")
	b.write(file, fakeKernel("6.6.1-x"))
	sum := sumOf(t, file)
	got, version, err := b.builder().Prebuilt(t.Context(), "file://"+file, sum, "x86_64", true)
	if err != nil || version != "6.6.1-x" || sumOf(t, got) != sum {
		t.Fatalf("Prebuilt = %s, %s, %v", got, version, err)
	}
	os.Remove(file)
	if again, _, err := b.builder().Prebuilt(t.Context(), "file://"+file, sum, "x86_64", true); err != nil || again != got {
		t.Errorf("a kernel that is kept was fetched again: %v", err)
	}
	b.write(file, "no kernel")
	b.wantPrebuilt("file://"+file, strings.Repeat("0", 64), true, "is not what it should be")
	b.wantPrebuilt("file://"+file, sumOf(t, file), true, "is no kernel that QEMU boots")
	b.wantPrebuilt("file://"+file, "", true, "is no sha256")
}

func TestPrebuiltIsOfTheTargetsArchitecture(t *testing.T) {
	b := newBench(t)
	zip := func(content string) string {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		w.Close()
		return packed.String()
	}
	x86, arm64 := fakeKernel("6.6.1-x"), strings.Repeat("\x00", 0x38)+"ARM\x64"
	for _, c := range []struct {
		name, image, arch string
		want              string // "": nothing is wrong
	}{
		{"bzImage", x86, "x86_64", ""},
		{"bzImage of 32 bits", x86, "i386", ""},
		{"Image", arm64, "arm64", ""},
		{"Image.gz", zip(arm64), "arm64", ""},
		{"bzImage for arm64", x86, "arm64", "is a kernel for x86, and the target is of arm64"},
		{"Image for x86", arm64, "x86_64", "is a kernel for arm64, and the target is of x86_64"},
		{"Image.gz for x86", zip(arm64), "x86_64", "is a kernel for arm64, and the target is of x86_64"},
		{"Image for another", arm64, "riscv64", "is a kernel for arm64, and the target is of riscv64"},
		{"packed source", zip("linux-6.1/Makefile"), "arm64", "is no kernel that QEMU boots"},
		{"packed source for x86", zip(strings.Repeat("\x00", 0x400)), "x86_64", "is no kernel that QEMU boots"},
		{"packed bzImage", zip(x86), "x86_64", "is no kernel that QEMU boots"},
	} {
		file := filepath.Join(t.TempDir(), "kernel")
		b.write(file, c.image)
		_, _, err := b.builder().Prebuilt(t.Context(), "file://"+file, sumOf(t, file), c.arch, true)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Prebuilt = %v, want %q", c.name, err, c.want)
		}
	}
}

func TestPrebuiltPackage(t *testing.T) {
	b := newBench(t)
	dpkg, err := exec.LookPath("/usr/bin/dpkg-deb")
	if err != nil {
		t.Skip("this host has no dpkg-deb")
	}
	if err := os.Symlink(dpkg, filepath.Join(b.bin, "dpkg-deb")); err != nil {
		t.Fatal(err)
	}
	pack := func(builtin string) (url, sum string) {
		dir := t.TempDir()
		b.write(filepath.Join(dir, "DEBIAN/control"), "Package: linux-image-6.6.1-x\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: x\n")
		b.write(filepath.Join(dir, "DEBIAN/postinst"), "#!/bin/sh\ntouch /nonesuch/ran\n")
		if err := os.Chmod(filepath.Join(dir, "DEBIAN/postinst"), 0o755); err != nil {
			t.Fatal(err)
		}
		b.write(filepath.Join(dir, "boot/vmlinuz-6.6.1-x"), fakeKernel("6.6.1-x"))
		b.write(filepath.Join(dir, "lib/modules/6.6.1-x/modules.builtin"), builtin)
		file := filepath.Join(t.TempDir(), "k.deb")
		cmd := exec.Command(dpkg, "--root-owner-group", "--build", dir, file)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return "file://" + file, sumOf(t, file)
	}
	for _, tool := range []string{"tar", "xz", "gzip", "zstd"} {
		if path, err := exec.LookPath("/usr/bin/" + tool); err == nil {
			os.Remove(filepath.Join(b.bin, tool))
			_ = os.Symlink(path, filepath.Join(b.bin, tool))
		}
	}
	url, sum := pack("kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\n")
	file, version, err := b.builder().Prebuilt(t.Context(), url, sum, "x86_64", true)
	if err != nil || version != "6.6.1-x" || filepath.Base(file) != "vmlinuz-6.6.1-x" {
		t.Errorf("Prebuilt = %s, %s, %v", file, version, err)
	}
	url, sum = pack("kernel/fs/ext4/ext4.ko\n")
	b.wantPrebuilt(url, sum, true, "in modules", `kernel="distro"`, "initrd_sha256=")
	if strings.Contains(b.err.String(), "in modules") {
		t.Errorf("there is a warning beside the error, or of a kernel that needs none:\n%s", &b.err)
	}
	if _, _, err := b.builder().Prebuilt(t.Context(), url, sum, "x86_64", false); err != nil || !strings.Contains(b.err.String(), "k.deb: its kernel keeps drivers in modules") {
		t.Errorf("with an initrd: %v\n%s", err, &b.err)
	}
	// Two builds at once unpack it once.
	if err := os.Remove(filepath.Join(b.bin, "dpkg-deb")); err != nil {
		t.Fatal(err)
	}
	b.shim("dpkg-deb", "#!/bin/sh\necho ran >>"+b.root+"/unpacked\nsleep 0.2\nexec "+dpkg+" \"$@\"\n")
	url, sum = pack("kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\nanother\n")
	both := make(chan error, 2)
	for range 2 {
		builder := b.builder()
		builder.Streams = &ui.Streams{Err: io.Discard}
		go func() {
			_, _, err := builder.Prebuilt(t.Context(), url, sum, "x86_64", true)
			both <- err
		}()
	}
	if err := errors.Join(<-both, <-both); err != nil {
		t.Errorf("two at once: %v", err)
	}
	if ran, err := os.ReadFile(filepath.Join(b.root, "unpacked")); err != nil || string(ran) != "ran\n" {
		t.Errorf("unpacked as %q, %v, want once", ran, err)
	}
}
