package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"meros/internal/family"
)

// victim is a folder of the host with all that a build looks for in a tree.
func victim(t *testing.T) string {
	t.Helper()
	host := t.TempDir()
	lay(t, host, "hostname", "hosts", "fstab", "machine-id", "shadow", "inittab", "resolv.conf", "ssh/ssh_host_rsa_key", "ssh_host_rsa_key",
		"ssh/sshd_config.d/", "runlevels/default/", "init.d/sshd", "null", "apt/sources.list", "authorized_keys", ".ssh/authorized_keys",
		"vmlinuz-1", "initramfs-virt", "vmlinuz-virt", "policy-rc.d", "list_Release", "repositories")
	if err := os.WriteFile(filepath.Join(host, "passwd"), []byte("user:x:1000:1000::/home/user:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return host
}

// snapshot is what of a folder must not change.
func snapshot(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := stat(t, path)
		line := fmt.Sprintf("%s %o %d:%d %d %d", path, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Nano())
		if !d.IsDir() {
			content, _ := os.ReadFile(path)
			line += " " + string(content)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// withLink is a tree, one path of which is a link to a place of the host.
func withLink(t *testing.T, link, to string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{
		"etc/shadow", "etc/inittab", "etc/ssh/sshd_config", "etc/init.d/sshd", "etc/resolv.conf", "etc/runlevels/default/", "etc/apt/sources.list",
		"home/user/.ssh/", "dev/", "run/", "boot/vmlinuz-virt", "boot/initramfs-virt", "lib/modules/1/", "usr/sbin/", "var/lib/apt/lists/", "etc/apk/",
	} {
		if name != link && !strings.HasPrefix(name, link+"/") {
			lay(t, root, name)
		}
	}
	if link != "etc" && link != "etc/passwd" {
		if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("user:x:1000:1000::/home/user:/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lay(t, root, link+" -> "+to)
	return root
}

// links are paths of a tree that a hostile archive, package, recipe or hook may
// make links, and the file of the host that each leads to.
var links = map[string]string{
	"etc": "", "etc/inittab": "inittab", "etc/runlevels": "runlevels", "etc/runlevels/default": "runlevels", "etc/ssh": "ssh", "etc/shadow": "shadow",
	"etc/passwd": "passwd", "etc/hosts": "hosts", "etc/fstab": "fstab", "etc/init.d": "init.d", "home/user": "", "home/user/.ssh": ".ssh", "home": "",
	"dev": "", "etc/resolv.conf": "resolv.conf", "usr/sbin": "", "run": "", "boot": "", "boot/vmlinuz-virt": "vmlinuz-virt", "etc/apt": "apt",
	"etc/apt/sources.list": "apt/sources.list", "var/lib/apt/lists": "", "etc/apk": "", "etc/apk/repositories": "not-there", "var": "",
}

// Whatever in a tree is a link, nothing of the host is written or removed
// through it, by any step. That a step fails is no fault here.
func TestNothingOfTheHostIsReachedThroughLinks(t *testing.T) {
	needRoot(t)
	id := Identity{Hostname: "box", User: "user", SSHPort: 22, AuthorizedKey: []byte("key\n"), HostPrivate: []byte("p"), HostPublic: []byte("q"), RootUUID: "u"}
	steps := map[string]func(root string) error{
		"openrc":  func(root string) error { id.Init = family.InitOpenRC; return Finish(t.Context(), nil, root, id) },
		"busybox": func(root string) error { id.Init = family.InitBusybox; return Finish(t.Context(), nil, root, id) },
		"hosts":   dropHosts,
		"user":    func(root string) error { return tree{root}.unlock("user") },
		"sources": func(root string) error {
			return Bootstrap{Tool: "mmdebstrap", Distro: "debian", Sources: []string{"deb http://m.example/ x main"}}.writeSources(root)
		},
		"packages": func(root string) error {
			c := &chroot{tree: tree{root}, unmount: func() error { return nil }}
			c.hasLists()
			_ = c.lendSources()
			_, _ = AlpineInstall{Mirror: "http://m.example", Branch: "v3.20"}.repositories(c)
			_ = c.takeAlpineKernel(t.TempDir())
			_ = c.dropSecretsAndLists()
			return c.leave()
		},
		"lent": func(root string) error {
			c := &chroot{tree: tree{root}, unmount: func() error { return nil }}
			_ = c.lend("etc/resolv.conf", []byte("lent"), 0o644)
			_ = c.lend("usr/sbin/policy-rc.d", []byte("lent"), 0o755)
			return c.leave()
		},
	}
	for link, to := range links {
		for step, run := range steps {
			host := victim(t)
			before := snapshot(t, host)
			for _, up := range []string{"", "../../../../../../../../../.."} {
				root := withLink(t, link, up+filepath.Join(host, to))
				_ = run(root)
				if diff := cmp.Diff(before, snapshot(t, host)); diff != "" {
					t.Errorf("%s with /%s a link to the host (-want +got):\n%s", step, link, diff)
					before = snapshot(t, host)
				}
			}
		}
	}
}

// A hook that makes /etc a link cannot have what was lent taken back from the host.
func TestLentFilesAreTakenBackFromTheTreeAlone(t *testing.T) {
	host := victim(t)
	if err := os.WriteFile(filepath.Join(host, "resolv.conf"), []byte("lent"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, host)
	root := withLink(t, "l", "nowhere")
	c := &chroot{tree: tree{root}, unmount: func() error { return nil }}
	if err := c.lend("etc/resolv.conf", []byte("lent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	lay(t, root, "etc -> "+host)
	if err := c.stillARootfs("hook"); err == nil {
		t.Error("the host's /etc/passwd is taken for the tree's")
	}
	_ = c.leave()
	if diff := cmp.Diff(before, snapshot(t, host)); diff != "" {
		t.Errorf("the host's files changed (-want +got):\n%s", diff)
	}
}

// Links that stay in the tree go on to lead where they say.
func TestLinksWithinTheTreeAreFollowed(t *testing.T) {
	root := t.TempDir()
	lay(t, root, "usr/share/inittab", "etc/inittab -> /usr/share/inittab", "usr/etc/runlevels/", "etc/runlevels -> /usr/etc/runlevels", "etc/init.d/sshd")
	tr := tree{root}
	if err := tr.addConsole(); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "usr/share/inittab")); !strings.HasSuffix(string(got), serialGetty) {
		t.Errorf("inittab = %q, want a console in it", got)
	}
	if err := tr.enableServices(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(root, "usr/etc/runlevels/default/sshd")); err != nil {
		t.Error(err)
	}
}

// What is read must be a file: a pipe that nobody fills would hold the build up.
func TestPipesInPlaceOfFilesAreRefused(t *testing.T) {
	root := t.TempDir()
	lay(t, root, "etc/")
	for _, name := range []string{"etc/hosts", "etc/inittab", "etc/passwd"} {
		if err := unix.Mkfifo(filepath.Join(root, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tr := tree{root}
	_, _, lookup := tr.lookupUser("user")
	for name, err := range map[string]error{"etc/hosts": tr.add("etc/hosts", "x", 0o644, replaceNameless), "etc/inittab": tr.addConsole(), "etc/passwd": lookup} {
		if err == nil || err.Error() != "/"+name+" of the rootfs is no regular file" {
			t.Errorf("%s as a pipe: %v", name, err)
		}
	}
}
