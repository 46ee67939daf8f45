package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// kern is the guest that the kernel tests boot: mos_demo under another name, so
// that both may run side by side.
const kern = "mos_kern-box"

// TestKernelDeb builds mos_kern on a kernel that comes as a .deb from no suite, and
// boots it: with its modules and an initrd made for it.
func TestKernelDeb(t *testing.T) {
	needHost(t)
	root := newRoot(t)
	t.Cleanup(func() { meros(t, root, "shutdown", "--force") })
	kernelFamily(t, root)
	version := debianKernel(t)
	deb := downloadDeb(t, "linux-image-"+version)
	wantDeb(t, root, deb)
	mustRun(t, root, "build", "mos_kern")
	if r := mustRun(t, root, "info", kern); !strings.Contains(r.out, version) || !strings.Contains(r.out, "file://"+deb+" (sha256 ") {
		t.Errorf("info says:\n%s", r.out)
	}
	if r := mustRun(t, root, "build", "mos_kern"); !strings.Contains(r.err, kern+" is up to date") {
		t.Errorf("a second build says:\n%s", r.err)
	}
	mustRun(t, root, "init", "mos_kern")
	for line, want := range map[string]string{
		"uname -r": version,
		"dpkg-query -W 'linux-image*' 2>/dev/null | wc -l":    "0",
		"ls /boot/vmlinuz* /boot/initrd* 2>/dev/null | wc -l": "0",
		"ls /lib/modules":                             version,
		"grep -c ^virtio_net /proc/modules":           "1",
		"/usr/sbin/modinfo -F filename dummy | wc -l": "1",
	} {
		if got := inGuest(t, root, kern, line); got != want {
			t.Errorf("%s\n  prints %q\n    want %q", line, got, want)
		}
	}
	mustRun(t, root, "shutdown", "mos_kern")
	t.Run("all built in", func(t *testing.T) { testBareDeb(t, root) })
}

// testBareDeb builds on a .deb without modules, which needs no initrd.
func testBareDeb(t *testing.T, root string) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"DEBIAN/control":   "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n",
		"boot/vmlinuz-9-x": "a kernel",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), "bare.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantDeb(t, root, deb)
	mustRun(t, root, "build", "mos_kern")
	kernel, err := os.ReadFile(filepath.Join(root, "data/images", kern+".vmlinuz"))
	if string(kernel) != "a kernel" {
		t.Errorf("the kernel is %.20q, %v", kernel, err)
	}
	if _, err := os.Stat(filepath.Join(root, "data/images", kern+".initrd")); !os.IsNotExist(err) {
		t.Errorf("there is an initrd: %v", err)
	}
	if r := mustRun(t, root, "build", "mos_kern"); !strings.Contains(r.err, kern+" is up to date") {
		t.Errorf("a second build says:\n%s", r.err)
	}
}

var kernelElement = regexp.MustCompile(`<kernel [^>]*>`)

// wantDeb has the recipe of mos_kern name a .deb.
func wantDeb(t *testing.T, root, deb string) {
	t.Helper()
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	element := `<kernel url="file://` + deb + `" sha256="` + hex.EncodeToString(sum[:]) + `" />`
	file := filepath.Join(root, "conf/target/mos_kern/build/box.xml")
	recipe, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := kernelElement.ReplaceAllString(string(recipe), "")
	text = strings.NewReplacer(`kernel="distro" rootfs`, `kernel="prebuilt" rootfs`, "</target>", element+"</target>").Replace(text)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var kernelPackage = regexp.MustCompile(`(?m)^\s*Depends: linux-image-(\S+)$`)

// debianKernel is the version of Debian's kernel for virtual machines.
func debianKernel(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("apt-cache", "depends", "--important", "linux-image-cloud-amd64").Output()
	found := kernelPackage.FindSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("apt-cache names no kernel: %v\n%s", err, out)
	}
	return string(found[1])
}

// downloadDeb has the host's apt get a package, and returns its file.
func downloadDeb(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("download %s: %v\n%s", name, err, out)
	}
	found := names(t, filepath.Join(dir, "*.deb"))
	if len(found) != 1 {
		t.Fatalf("apt brought %q", found)
	}
	return found[0]
}

// kernelFamily makes mos_kern of mos_demo, with an address of its own.
func kernelFamily(t *testing.T, root string) {
	t.Helper()
	from := filepath.Join(root, "conf/target/mos_demo")
	if err := os.CopyFS(filepath.Join(root, "conf/target/mos_kern"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"build/alpine.xml", "libvirt/alpine.xml", "rootfs/alpine"} {
		if err := os.RemoveAll(filepath.Join(root, "conf/target/mos_kern", file)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"build/box.xml", "libvirt/lan.xml", "rootfs/box/includes.chroot/etc/systemd/network/10-lan.network"} {
		replaceIn(t, root, "mos_kern/"+file, "10.60.7.", "10.63.7.")
	}
	replaceIn(t, root, "mos_kern/libvirt/lan.xml", "mos_demo_lan", "mos_kern_lan")
	replaceIn(t, root, "mos_kern/build/box.xml", "<packages>less", "<packages>less nftables wireguard-tools")
}

// inGuest runs a line of shell as root of the guest, as far as it lets us.
func inGuest(t *testing.T, root, id, line string) string {
	t.Helper()
	return strings.TrimSpace(meros(t, root, "exec", id, "--", "sh", "-c", "exec 2>&1; "+line).out)
}
