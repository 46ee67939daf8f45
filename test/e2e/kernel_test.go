//go:build kernel

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kern is the guest that the kernel tests boot: mos_demo under another name, so
// that both may run side by side.
const kern = "mos_kern-box"

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
	started := time.Now()
	mustRun(t, root, "kernel-build", "--source", "distro")
	keepKernel(t, root)
	t.Logf("the kernel took %s", time.Since(started).Round(time.Second))
	if r := mustRun(t, root, "kernel-build", "--source", "distro"); !strings.Contains(r.err, "is up to date") {
		t.Errorf("a second call says:\n%s", r.err)
	}
	release := kernelRelease(t, root)

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

// kernelFamily makes mos_kern of mos_demo, with an address of its own.
func kernelFamily(t *testing.T, root string) {
	t.Helper()
	from := filepath.Join(root, "conf/target/mos_demo")
	if err := os.CopyFS(filepath.Join(root, "conf/target/mos_kern"), os.DirFS(from)); err != nil {
		t.Fatal(err)
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

func testKernelGuest(t *testing.T, root, release string) {
	for line, want := range map[string]string{
		"uname -r":                     release,
		"cat /proc/modules 2>&1":       "cat: /proc/modules: No such file or directory",
		"systemctl is-system-running":  "running",
		"cat /sys/kernel/security/lsm": "lockdown,capability,yama,landlock",
		"dmesg":                        "dmesg: read kernel buffer failed: Operation not permitted",
		"ls /dev/mem /proc/kcore 2>&1 | grep -c 'No such'":                             "2",
		"zcat /proc/config.gz | grep -c ^CONFIG_MODULES=":                              "0",
		"unshare -Urn true && echo ok":                                                 "ok",
		"stat -fc %T /sys/fs/cgroup":                                                   "cgroup2fs",
		"grep -cwE '9p|virtiofs|overlay|ext4|squashfs|vfat|iso9660' /proc/filesystems": "7",
		"ls /dev/net/tun /dev/vsock /dev/hwrng | wc -l":                                "3",
	} {
		if got := inGuest(t, root, kern, line); got != want {
			t.Errorf("%s\n  prints %q\n    want %q", line, got, want)
		}
	}
	for _, rules := range gatewayRules {
		// A user namespace has a packet filter of its own, to be played with.
		got := inGuest(t, root, kern, "unshare -Urn /usr/sbin/nft -f - <<'EOF' && echo ok\n"+rules+"\nEOF")
		if got != "ok" {
			t.Errorf("nft says %q to:\n%s", got, rules)
		}
	}
	for _, link := range []string{"wireguard", "bridge", "veth"} {
		if got := inGuest(t, root, kern, "unshare -Urn ip link add x0 type "+link+" && echo ok"); got != "ok" {
			t.Errorf("a link of type %s: %q", link, got)
		}
	}
}

// gatewayRules are what the packet filter of a gateway is made of.
var gatewayRules = []string{
	`table inet f {
	set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
	map m { type inet_service : verdict; elements = { 22 : accept }; }
	chain in {
		type filter hook input priority 0; policy drop;
		ct state established,related accept
		iif lo accept
		tcp dport vmap @m
		ip saddr @s limit rate 3/second log prefix "x " group 1 counter
		fib daddr type local reject
	}
	chain nat {
		type nat hook output priority -100;
		meta skuid 0 accept
		tcp dport 80 redirect to :9040
		udp dport 53 dnat ip to 10.1.2.3:5353
	}
	chain post {
		type nat hook postrouting priority 100;
		oifname "eth0" masquerade
	}
	chain marked {
		type route hook output priority -150;
		ct mark set 1
		meta mark set 2
		quota over 1 mbytes drop
	}
}`,
	`table bridge b {
	chain f {
		type filter hook forward priority 0; policy drop;
		ether type arp accept
		ip saddr 10.0.0.1 tcp dport 9050 accept
		ct state established accept
	}
}`,
	`table netdev n {
	chain c {
		type filter hook ingress device lo priority 0;
		ip protocol icmp drop
	}
}`,
	`table ip t {
	chain p {
		type filter hook prerouting priority -150;
		tcp dport 80 tproxy to :3129
		socket transparent 1 accept
	}
}`,
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
