//go:build kernel

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/internal/kernel"
)

// needKernel skips unless make test-kernel runs the test: it compiles a kernel.
func needKernel(t *testing.T) {
	t.Helper()
	needHost(t)
	if os.Getenv("MEROS_TEST_KERNEL") == "" {
		t.Skip("needs MEROS_TEST_KERNEL, the folder that keeps the kernel, as make test-kernel sets it")
	}
}

// TestKernel compiles the guests' kernel from the distribution's source, unless
// an earlier run has, and boots it without an initrd.
func TestKernel(t *testing.T) {
	needKernel(t)
	root := kernelRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	t.Run("full disk", func(t *testing.T) { testKernelFullDisk(t) })
	started := time.Now()
	if len(names(t, filepath.Join(root, "data/images/bzImage-*"))) == 0 {
		breakOff(t, root)
	}
	mustRun(t, root, "kernel-build", "--source", "distro")
	keepKernel(t, root)
	t.Logf("the kernel took %s", time.Since(started).Round(time.Second))
	if r := mustRun(t, root, "kernel-build", "--source", "distro"); !strings.Contains(r.err, "is up to date") {
		t.Errorf("a second call says:\n%s", r.err)
	}
	release := kernelRelease(t, root)
	t.Run("all fragments", func(t *testing.T) { testAllFragments(t, root) })

	kernelFamily(t, root)
	mustRun(t, root, "build", "mos_kern", "--kernel", "source")
	if _, err := os.Stat(filepath.Join(root, "data/images", kern+".initrd")); !os.IsNotExist(err) {
		t.Errorf("there is an initrd: %v", err)
	}
	mustRun(t, root, "init", "mos_kern")
	t.Run("debian", func(t *testing.T) { testKernelGuest(t, root, release) })
	mustRun(t, root, "shutdown", "mos_kern")
	t.Run("disks and cards", func(t *testing.T) { testOldDevices(t, root) })
	t.Run("panic", func(t *testing.T) { testPanic(t, root) })
	t.Run("alpine", func(t *testing.T) { testAlpineKernel(t, root, release) })
	t.Run("package", func(t *testing.T) { testKernelPackage(t, root) })
}

// kernelRoot is a root whose source, objects and kernels outlive the test.
func kernelRoot(t *testing.T) string {
	t.Helper()
	root, keep := newRoot(t), os.Getenv("MEROS_TEST_KERNEL")
	for name, place := range map[string]string{"build": "data/build/kernel", "ccache": "data/build/cache/ccache"} {
		if err := os.MkdirAll(filepath.Join(keep, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, place)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(keep, name), filepath.Join(root, place)); err != nil {
			t.Fatal(err)
		}
	}
	copyKernels(t, keep, filepath.Join(root, "data/images"))
	return root
}

func keepKernel(t *testing.T, root string) {
	t.Helper()
	copyKernels(t, filepath.Join(root, "data/images"), os.Getenv("MEROS_TEST_KERNEL"))
}

func copyKernels(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range names(t, filepath.Join(from, "bzImage-*")) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// testKernelFullDisk has no room for the source.
func testKernelFullDisk(t *testing.T) {
	root := newRoot(t)
	place := filepath.Join(root, "data/build/kernel")
	if err := os.MkdirAll(place, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", place, "tmpfs", 0, "size=600m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(place, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	r := meros(t, root, "kernel-build", "--source", "distro")
	wantFailure(t, r, 1, "no room to unpack the kernel's source", "MiB free", "hint: make room")
	if left := names(t, filepath.Join(place, "src/*")); len(left) != 0 {
		t.Errorf("left half-made: %v", left)
	}
}

// breakOff presses Ctrl-C when some files are compiled; the next call has to go on
// from there. What is being compiled at that moment make removes.
func breakOff(t *testing.T, root string) {
	t.Helper()
	compiled := filepath.Join(root, "data/build/kernel/obj/*/*/*.o")
	seen := 0
	r := call{root: root, args: []string{"kernel-build", "--source", "distro"}}.interruptWithin(t, 10*time.Minute, func(string) bool {
		seen = len(names(t, compiled))
		return seen > 4*runtime.NumCPU()
	})
	wantFailure(t, r, 130)
	if left := len(names(t, compiled)); left < seen-runtime.NumCPU() {
		t.Errorf("of %d files that were compiled before Ctrl-C %d are left", seen, left)
	}
	if _, err := os.Stat(filepath.Join(root, "data/images/bzImage")); !os.IsNotExist(err) {
		t.Errorf("a build that was broken off left a kernel: %v", err)
	}
}

// testAllFragments configures the source for both architectures with every
// fragment there is: what they ask for has to be in the result. Configuring for
// another architecture needs no compiler of its own.
func testAllFragments(t *testing.T, root string) {
	sources := names(t, filepath.Join(root, "data/build/kernel/src/*/Makefile"))
	if len(sources) == 0 {
		t.Fatal("no source was left below data/build/kernel/src")
	}
	conf, err := kernel.ReadConf(filepath.Join(root, "conf/kernel/kernel.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"x86_64", "arm64"} {
		asks, err := kernel.Asks(filepath.Join(root, "conf/kernel"), arch, append(slices.Clone(conf.Fragments), "desktop", "apparmor"))
		if err != nil {
			t.Fatal(err)
		}
		obj := t.TempDir()
		seed := filepath.Join(obj, "seed")
		if err := os.WriteFile(seed, []byte(kernel.Seed(asks)), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("make", "-s", "-C", filepath.Dir(sources[0]), "O="+obj, "ARCH="+arch, "CC=gcc", "allnoconfig")
		cmd.Env = append(os.Environ(), "KCONFIG_ALLCONFIG="+seed)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", arch, err, out)
		}
		config, err := os.ReadFile(filepath.Join(obj, ".config"))
		if err != nil {
			t.Fatal(err)
		}
		if err := kernel.Unmet(asks, string(config)); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
}

// kernelRelease checks what kernel-build has placed and returns its release.
func kernelRelease(t *testing.T, root string) string {
	t.Helper()
	file := filepath.Join(root, "data/images/bzImage")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 8<<20 {
		t.Errorf("the kernel has %d bytes, want at most 8 MiB", info.Size())
	}
	target, err := os.Readlink(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "data/images", target+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var record struct{ Release string }
	if err := json.Unmarshal(content, &record); err != nil || target != "bzImage-"+record.Release {
		t.Fatalf("bzImage points to %s of release %q, %v", target, record.Release, err)
	}
	return record.Release
}

// testOldDevices boots from the disks and cards that older recipes name.
func testOldDevices(t *testing.T, root string) {
	const file = "mos_kern/libvirt/box.xml"
	dev := `dev="vda" bus="virtio"`
	replaceIn(t, root, file, "<cmdline>root=/dev/vda1 rw", "<cmdline>rw")
	for _, now := range []string{`dev="sda" bus="sata"`, `dev="sda" bus="scsi"`, `dev="vda" bus="virtio"`} {
		t.Run(now, func(t *testing.T) {
			replaceIn(t, root, file, dev, now)
			dev = now
			if strings.Contains(now, "scsi") {
				const controller = `<controller type="scsi" model="virtio-scsi" />`
				replaceIn(t, root, file, "<devices>", "<devices>"+controller)
				defer replaceIn(t, root, file, "<devices>"+controller, "<devices>")
			}
			if strings.Contains(now, "sata") {
				replaceIn(t, root, file, `<model type="virtio" />`, `<model type="e1000" />`)
				defer replaceIn(t, root, file, `<model type="e1000" />`, `<model type="virtio" />`)
			}
			mustRun(t, root, "init", "mos_kern")
			mustRun(t, root, "shutdown", "mos_kern")
		})
	}
	t.Run("ide", func(t *testing.T) {
		replaceIn(t, root, file, dev, `dev="hda" bus="ide"`)
		replaceIn(t, root, file, `machine="q35"`, `machine="pc"`)
		defer replaceIn(t, root, file, `dev="hda" bus="ide"`, dev)
		defer replaceIn(t, root, file, `machine="pc"`, `machine="q35"`)
		mustRun(t, root, "init", "mos_kern")
		mustRun(t, root, "shutdown", "mos_kern")
	})
}

// testPanic boots with a root that is not there.
func testPanic(t *testing.T, root string) {
	const file = "mos_kern/libvirt/box.xml"
	replaceIn(t, root, file, "<cmdline>rw", "<cmdline>root=/dev/vdz9 rw")
	started := time.Now()
	r := meros(t, root, "init", "mos_kern")
	wantFailure(t, r, 1, "Kernel panic - not syncing: VFS: Unable to mount root fs", "the last lines of its console", "hint: root=")
	if took := time.Since(started); took > 90*time.Second {
		t.Errorf("init waited %s on a kernel that had panicked", took)
	}
}

// testAlpineKernel boots an Alpine target on the same kernel.
func testAlpineKernel(t *testing.T, root, release string) {
	repo := newAPKRepo(t)
	repo.add(t, "main", "hello", stage(t, map[string][]byte{"usr/bin/hello": []byte("#!/bin/sh\necho hello\n")}))
	repo.add(t, "main", "openssh-server", stage(t, map[string][]byte{"usr/sbin/sshd": guestd(t)}))
	repo.add(t, "main", "openssh-sftp-server", stage(t, map[string][]byte{"usr/lib/ssh/sftp-server": []byte("#!/bin/sh\nexit 1\n")}))
	repo.index(t, "main")
	repo.index(t, "community")
	mirror := httptest.NewServer(http.FileServer(http.Dir(repo.dir)))
	defer mirror.Close()
	alpineFamily(t, root, repo, mirror.URL)
	mustRun(t, root, "build", "mos_alp", "--kernel", "source")
	mustRun(t, root, "init", "mos_alp")
	if got := inGuest(t, root, alp, "uname -r; cat /proc/modules"); !strings.HasPrefix(got, release+"\n") || !strings.Contains(got, "/proc/modules") {
		t.Errorf("Alpine runs on %q, want %s without modules", got, release)
	}
	mustRun(t, root, "shutdown", "mos_alp")
}

// testKernelPackage boots a kernel of the suite that was unpacked, not installed.
func testKernelPackage(t *testing.T, root string) {
	version := debianKernel(t)
	const file = "mos_kern/build/box.xml"
	element := func(more string) string { return `<kernel package="linux-image-` + version + `"` + more + " />" }
	wrong := element(` sha256="` + strings.Repeat("0", 64) + `"`)
	replaceIn(t, root, file, `kernel="distro"`, `kernel="prebuilt"`)
	replaceIn(t, root, file, "</target>", wrong+"</target>")
	replaceIn(t, root, "mos_kern/libvirt/box.xml", "<cmdline>root=/dev/vdz9 rw", "<cmdline>root=/dev/vda1 rw")
	wantFailure(t, meros(t, root, "build", "mos_kern"), 1, "linux-image-"+version, "is not what it should be", "hint: the archive has another version")
	replaceIn(t, root, file, wrong, element(""))
	mustRun(t, root, "build", "mos_kern")
	if r := mustRun(t, root, "info", kern); !strings.Contains(r.out, version) || !strings.Contains(r.out, "package linux-image-"+version+" of debian, unpacked") {
		t.Errorf("info says:\n%s", r.out)
	}
	mustRun(t, root, "init", "mos_kern")
	for line, want := range map[string]string{
		"uname -r": version,
		"dpkg-query -W 'linux-image*' 2>/dev/null | wc -l":    "0",
		"ls /boot/vmlinuz* /boot/initrd* 2>/dev/null | wc -l": "0",
		"ls /lib/modules":                   version,
		"grep -c ^virtio_net /proc/modules": "1",
	} {
		if got := inGuest(t, root, kern, line); got != want {
			t.Errorf("%s\n  prints %q\n    want %q", line, got, want)
		}
	}
	mustRun(t, root, "shutdown", "mos_kern")
}
