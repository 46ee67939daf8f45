package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/hint"
)

func TestKernelOfAnUnpackedPackage(t *testing.T) {
	for _, merged := range []bool{true, false} {
		c := &chroot{tree: tree{t.TempDir()}}
		unpacked := tree{filepath.Join(c.root, "var/cache/kernel-1/tree")}
		for _, dir := range []string{"boot", "usr/lib"} {
			mkdir(t, filepath.Join(c.root, dir))
		}
		modules := filepath.Join(c.root, "lib/modules")
		if merged {
			modules = filepath.Join(c.root, "usr/lib/modules")
			if err := os.Symlink("usr/lib", filepath.Join(c.root, "lib")); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"boot/vmlinuz-6.1.0-9-x", "boot/System.map-6.1.0-9-x", "lib/modules/6.1.0-9-x/a.ko"} {
			mkdir(t, filepath.Dir(filepath.Join(unpacked.root, name)))
			if err := os.WriteFile(filepath.Join(unpacked.root, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		version, err := c.takeKernelTree(unpacked)
		if err != nil || version != "6.1.0-9-x" {
			t.Fatalf("takeKernelTree = %q, %v", version, err)
		}
		for _, file := range []string{filepath.Join(c.root, "boot/vmlinuz-6.1.0-9-x"), filepath.Join(modules, "6.1.0-9-x/a.ko")} {
			if _, err := os.Stat(file); err != nil {
				t.Error(err)
			}
		}
		// A metapackage: there is no kernel left.
		if _, err := c.takeKernelTree(unpacked); err == nil || !strings.Contains(err.Error(), "it holds 0 kernels, want 1") || len(hint.Of(err)) == 0 {
			t.Errorf("takeKernelTree of a package without a kernel = %v, %q", err, hint.Of(err))
		}
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}
