package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// hostileHook does what a hook should not, and ends well.
const hostileHook = `#!/bin/sh
set -e
setsid sh -c 'while :; do sleep 4713; done' &
mkdir -p /opt/closed/deep /mnt/over
echo kept >/opt/closed/deep/file
echo kept >/opt/closed/immutable
chmod 0 /opt/closed/deep/file /opt/closed/deep
chattr +i /opt/closed/immutable
mount -t tmpfs none /mnt/over
echo lost >/mnt/over/file
mount --bind /opt /srv
mount --bind /mnt/over /usr/sbin
ln -s / /opt/closed/up
ln -s /proc/1/root/etc /opt/closed/host
`

// testHostileHooks runs hooks that leave as much as they can. root holds a good
// build of mos_demo.
func testHostileHooks(t *testing.T, root string) {
	before := lookAtHost(t)
	const hook = "mos_demo/rootfs/box/hooks/90-hostile"
	defer remove(t, root, hook)
	image := filepath.Join(root, "data/images", box+".qcow2")
	write(t, root, hook, hostileHook, 0o755)
	mustRun(t, root, "build", "mos_demo")
	wantHost(t, before)
	wantNothingHalfMade(t, root)
	checkImage(t, image)
	if out, err := exec.Command("pgrep", "-f", "sleep [4]713").Output(); err == nil {
		t.Errorf("the hook's daemon lives on: %s", out)
	}
	for path, there := range map[string]bool{"/opt/closed/deep/file": true, "/opt/closed/immutable": true, "/mnt/over/file": false, "/usr/sbin/policy-rc.d": false} {
		if got := inImage(t, image, "stat "+path); strings.Contains(got, "Inode:") != there {
			t.Errorf("%s is in the image: %v, want %v\n%s", path, !there, there, got)
		}
	}
	good := identity(t, image)
	write(t, root, hook, "#!/bin/sh\nrm -rf /etc\n", 0o755)
	wantFailure(t, meros(t, root, "build", "mos_demo"), 1, "90-hostile", "/etc/passwd", "hint")
	wantHost(t, before)
	wantNothingHalfMade(t, root)
	if now := identity(t, image); now != good {
		t.Errorf("a hook that removes /etc touched the image: %s, want %s", now, good)
	}
	remove(t, root, hook)
	mustRun(t, root, "build", "mos_demo")
	if r := mustRun(t, root, "cache", "prune"); strings.Contains(r.out, "removed 0 ") {
		t.Errorf("cache prune says %q, want the hostile hook's result removed, closed and immutable as it is", r.out)
	}
}

// inImage asks debugfs about the file system of an image.
func inImage(t *testing.T, image, request string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", image, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer os.Remove(raw)
	out, err := exec.Command("debugfs", "-R", request, raw+"?offset=1048576").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// testFullLater has the disk run full in the last stages, which TestFullDisk does
// not reach. from holds a good build of mos_demo.
func testFullLater(t *testing.T, from string) {
	root := newRoot(t)
	data := filepath.Join(root, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, folder := range []string{"build/cache/layers", "images"} {
		out, err := exec.Command("du", "-sm", filepath.Join(from, "data", folder)).Output()
		if err != nil {
			t.Fatal(err)
		}
		mb, err := strconv.Atoi(strings.Fields(string(out))[0])
		if err != nil {
			t.Fatal(err)
		}
		used += mb
	}
	size := func(spareMB int) string { return fmt.Sprintf("size=%dm", used+spareMB) }
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, size(150)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(data, 0); err != nil {
			t.Errorf("the full disk is still in use: %v", err)
		}
	}()
	for _, argv := range [][]string{
		{"rm", "-rf", filepath.Join(root, "conf")},
		{"cp", "-a", filepath.Join(from, "conf"), root},
		{"mkdir", "-p", filepath.Join(data, "build/cache")},
		{"cp", "-a", filepath.Join(from, "data/build/cache/layers"), filepath.Join(data, "build/cache")},
		{"cp", "-a", filepath.Join(from, "data/images"), filepath.Join(from, "data/ssh_keys"), data},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	image := filepath.Join(data, "images", box+".qcow2")
	good := identity(t, image)
	for _, c := range []struct{ stage, file, content string }{
		{"files", "mos_demo/rootfs/box/includes.chroot/opt/large", strings.Repeat("large", 60<<20)},
		{"hooks", "mos_demo/rootfs/box/hooks/90-large", "#!/bin/sh\nset -e\nhead -c 400M /dev/zero >/opt/large\n"},
		{"pack", "mos_demo/rootfs/box/includes.chroot/opt/small", "small"},
	} {
		write(t, root, c.file, c.content, 0o755)
		r := meros(t, root, "build", "mos_demo")
		wantFailure(t, r, 1, "build "+box, "o space left", "hint")
		wantNothingHalfMade(t, root)
		if now := identity(t, image); now != good {
			t.Errorf("%s: the last good image was touched", c.stage)
		}
		if c.stage != "pack" {
			remove(t, root, c.file)
		}
	}
	if err := syscall.Mount("", data, "", syscall.MS_REMOUNT, size(2000)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, root, "build", "mos_demo")
	checkImage(t, image)
}
