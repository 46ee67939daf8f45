package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/proc/proctest"
)

func TestKernelOfAnUnpackedPackage(t *testing.T) {
	for _, merged := range []bool{true, false} {
		c := &chroot{tree: tree{t.TempDir()}}
		from := tree{filepath.Join(c.root, "var/cache/kernel-1/tree")}
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
			mkdir(t, filepath.Dir(filepath.Join(from.root, name)))
			if err := os.WriteFile(filepath.Join(from.root, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		u, err := c.takeKernelTree(from)
		if err != nil || u.version != "6.1.0-9-x" || !u.modules || u.drivers {
			t.Fatalf("takeKernelTree = %+v, %v", u, err)
		}
		for _, file := range []string{filepath.Join(c.root, "boot/vmlinuz-6.1.0-9-x"), filepath.Join(modules, "6.1.0-9-x/a.ko")} {
			if _, err := os.Stat(file); err != nil {
				t.Error(err)
			}
		}
		// A metapackage: there is no kernel left.
		if _, err := c.takeKernelTree(from); err == nil || !strings.Contains(err.Error(), "it holds 0 kernels, want 1") || len(hint.Of(err)) == 0 {
			t.Errorf("takeKernelTree of a package without a kernel = %v, %q", err, hint.Of(err))
		}
	}
}

// An initrd is made where it would hold a driver. Without modules there is none, and
// a name that would be taken for an option is no version.
func TestKernelThatNeedsAnInitrd(t *testing.T) {
	for name, want := range map[string]struct {
		u   unpacked
		err string
	}{
		"lib/modules/6.1/kernel/fs/ext4/ext4.ko":                    {unpacked{"6.1", true, true}, ""},
		"usr/lib/modules/6.1/kernel/drivers/block/virtio-blk.ko.xz": {unpacked{"6.1", true, true}, ""},
		"lib/modules/6.1/kernel/net/ext4x.ko":                       {unpacked{"6.1", true, false}, ""},
		"lib/modules/6.1/ext4":                                      {unpacked{"6.1", true, false}, ""},
		"boot/config-6.1":                                           {unpacked{"6.1", false, false}, ""},
		"boot/vmlinuz-6.2":                                          {err: "it holds 2 kernels"},
	} {
		c, from := &chroot{tree: tree{t.TempDir()}}, t.TempDir()
		lay(t, from, "boot/vmlinuz-6.1", name)
		u, err := c.takeKernelTree(tree{from})
		if want.err == "" && (err != nil || u != want.u) || want.err != "" && (err == nil || !strings.Contains(err.Error(), want.err)) {
			t.Errorf("with %s: takeKernelTree = %+v, %v, want %+v", name, u, err, want)
		}
	}
	from := t.TempDir()
	lay(t, from, "boot/vmlinuz--o evil")
	if _, err := (&chroot{tree: tree{t.TempDir()}}).takeKernelTree(tree{from}); err == nil || !strings.Contains(err.Error(), "which is none") {
		t.Errorf("a kernel of the version -o: %v", err)
	}
}

// What a .deb from elsewhere is told by is its sum, not where it was got from or
// where it is kept.
func TestPlanOfAKernelDeb(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	if err := os.WriteFile(filepath.Join(bin, "mmdebstrap"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	plan := func(url, sum, initrdSum, kept string) Stage {
		t.Helper()
		target := family.Target{
			Family: "f", Name: "t", Distro: "debian", Release: "trixie", Arch: "amd64", Rootfs: true, Kernel: family.KernelPrebuilt,
			Prebuilt: family.Prebuilt{URL: url, SHA256: sum, InitrdSHA256: initrdSum},
		}
		stages, err := Plan(t.Context(), proctest.Script(t, proctest.Call{Line: indexTargets, Err: proc.ErrNotFound}), &target, Options{KernelDeb: kept})
		if err != nil {
			t.Fatal(err)
		}
		return stages[1]
	}
	first := plan("http://a/k.deb", "1", "", "/kept/1-k.deb")
	if got := first.Args("out").(Install).Unpack; got != (Unpack{SHA256: "1", File: "/kept/1-k.deb"}) || !strings.HasSuffix(first.Say, "unpacking the kernel of 1-k.deb") {
		t.Errorf("%s: %+v", first.Say, got)
	}
	if plan("http://b/k.deb", "1", "", "/other/1-k.deb").Key != first.Key {
		t.Error("the same .deb from elsewhere has another key")
	}
	for _, other := range []Stage{plan("http://a/k.deb", "2", "", ""), plan("http://a/k.deb", "1", "3", ""), plan("http://a/vmlinuz", "1", "", "")} {
		if other.Key == first.Key {
			t.Errorf("%s has the key of %s", other.Say, first.Say)
		}
	}
	if got := plan("http://a/vmlinuz", "1", "", "").Args("out").(Install).Unpack; got.wanted() {
		t.Errorf("a kernel that is no .deb is unpacked: %+v", got)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}
