package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const alp = "mos_alp-node"

const alpineBuild = `<target>
  <build id="node" distro="alpine" release="3.20" kernel="distro" init="busybox" mirror="MIRROR" />
  <details username="user" />
  <size free_space_mb="50" />
  <network network_addr="10.60.8.1" ip_addr="10.60.8.2" />
  <ssh port="2022" />
  <packages>hello</packages>
</target>
`

// testAlpine builds an Alpine target from the real minirootfs and a signed
// repository, and boots it. root holds a build of mos_demo, whose kernel stands
// in for Alpine's.
func testAlpine(t *testing.T, root string) {
	repo := newAPKRepo(t)
	repo.add(t, "main", "hello", stage(t, map[string][]byte{"usr/bin/hello": []byte("#!/bin/sh\necho hello from a package\n")}))
	repo.add(t, "main", "openssh-server", stage(t, map[string][]byte{"usr/sbin/sshd": guestd(t)}))
	repo.add(t, "main", "openssh-sftp-server", stage(t, map[string][]byte{"usr/lib/ssh/sftp-server": []byte("#!/bin/sh\nexit 1\n")}))
	repo.add(t, "main", "linux-virt", virtKernel(t, root))
	repo.index(t, "main")
	repo.index(t, "community")
	mirror := httptest.NewServer(http.FileServer(http.Dir(repo.dir)))
	defer mirror.Close()
	alpineFamily(t, root, repo, mirror.URL)

	t.Run("a key that is not the recipe's", func(t *testing.T) {
		remove(t, root, "mos_alp/rootfs/node/includes.chroot/etc/apk/keys")
		wantFailure(t, meros(t, root, "build", "mos_alp"), 1, "install packages", "UNTRUSTED", "/etc/apk/keys")
		wantNothingHalfMade(t, root)
		write(t, root, "mos_alp/rootfs/node/includes.chroot/etc/apk/keys/"+keyName, repo.publicKey(t), 0o644)
	})
	t.Run("a package that does not exist", func(t *testing.T) {
		replaceIn(t, root, "mos_alp/build/node.xml", ">hello<", ">helo<")
		wantFailure(t, meros(t, root, "build", "mos_alp"), 1, "helo (no such package)", "<packages>")
		replaceIn(t, root, "mos_alp/build/node.xml", ">helo<", ">hello<")
	})
	t.Run("a mirror that is a folder", func(t *testing.T) {
		replaceIn(t, root, "mos_alp/build/node.xml", mirror.URL, "file://"+repo.dir)
		mustRun(t, root, "build", "mos_alp")
		replaceIn(t, root, "mos_alp/build/node.xml", "file://"+repo.dir, mirror.URL)
	})
	mustRun(t, root, "build", "mos_alp")
	defer meros(t, root, "shutdown", "--force", "mos_alp")
	mustRun(t, root, "init", "mos_alp")
	for line, want := range map[string]string{
		"hello": "hello from a package",
		". /etc/os-release; echo $ID $VERSION_ID": "alpine 3.20.3",
		"id -un; pwd":                         "user\n/home/user",
		"hostname":                            "node",
		"cat /etc/apk/repositories | head -1": mirror.URL + "/v3.20/main",
		"cat /proc/1/comm":                    "init",
	} {
		got := strings.TrimSpace(mustRun(t, root, "exec", alp, "--", "sh", "-c", line).out)
		if got != want {
			t.Errorf("%s\n  prints %q\n    want %q", line, got, want)
		}
	}
	mustRun(t, root, "shutdown", "mos_alp")
	t.Run("the optional target of mos_demo", func(t *testing.T) { testOptionalBuilt(t, root, repo) })
}

// alpineFamily writes the recipe of mos_alp, with a domain like mos_demo's.
func alpineFamily(t *testing.T, root string, repo *apkRepo, mirror string) {
	t.Helper()
	write(t, root, "mos_alp/build/node.xml", strings.ReplaceAll(alpineBuild, "MIRROR", mirror), 0o644)
	for from, to := range map[string]string{"box.xml": "node.xml", "lan.xml": "lan.xml"} {
		content, err := os.ReadFile(filepath.Join(root, "conf/target/mos_demo/libvirt", from))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("mos_demo_lan", "mos_alp_lan", "10.60.7.", "10.60.8.").Replace(string(content))
		write(t, root, "mos_alp/libvirt/"+to, text, 0o644)
	}
	files := "mos_alp/rootfs/node/includes.chroot/etc/"
	write(t, root, files+"apk/keys/"+keyName, repo.publicKey(t), 0o644)
	write(t, root, files+"network/interfaces", "auto eth0\niface eth0 inet static\n\taddress 10.60.8.2\n\tnetmask 255.255.255.0\n", 0o644)
}

// guestd is the static sshd of a test's guest.
func guestd(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sshd")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", file, "meros/test/e2e/guestd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// virtKernel lays out a package with the kernel, initrd and network driver of
// mos_demo's box under the names of Alpine's linux-virt.
func virtKernel(t *testing.T, root string) string {
	t.Helper()
	files := map[string][]byte{}
	take := func(name, from string) {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = content
	}
	take("boot/vmlinuz-virt", filepath.Join(root, "data/images", box+".vmlinuz"))
	take("boot/initramfs-virt", filepath.Join(root, "data/images", box+".initrd"))
	modules := names(t, filepath.Join(root, "data/build/cache/layers/*/fs/usr/lib/modules/*"))
	if len(modules) == 0 {
		modules = names(t, filepath.Join(root, "data/build/cache/layers/*/fs/lib/modules/*"))
	}
	if len(modules) == 0 {
		t.Fatal("no layer has kernel modules")
	}
	to := "lib/modules/" + filepath.Base(modules[0]) + "/"
	for _, name := range []string{"modules.dep", "modules.alias", "modules.builtin", "kernel/drivers/net/virtio_net.ko", "kernel/drivers/net/net_failover.ko", "kernel/net/core/failover.ko", "kernel/drivers/acpi/button.ko", "kernel/drivers/input/evdev.ko"} {
		take(to+name, filepath.Join(modules[0], name))
	}
	return stage(t, files)
}
