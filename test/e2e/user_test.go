package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// builder is an account that these tests make and remove again.
const builder = "meros-e2e"

// newUser makes an ordinary account with subordinate ids, as useradd gives them.
func newUser(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	for _, program := range []string{"useradd", "userdel", "newuidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	_ = exec.Command("userdel", builder).Run()
	if out, err := exec.Command("useradd", "--no-create-home", builder).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("userdel", builder).Run() })
	u, err := user.Lookup(builder)
	if err != nil {
		t.Fatal(err)
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func give(t *testing.T, root string, to *syscall.Credential) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(to.Uid), int(to.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOrdinaryUserBuildsTheSame builds without any of root's rights, in another
// place and at another time, and compares the image with root's: with the same keys
// and SOURCE_DATE_EPOCH it is the same to the last byte.
func TestOrdinaryUserBuildsTheSame(t *testing.T) {
	needHost(t)
	attr := newUser(t)
	before := lookAtHost(t)
	var trees [2][]string
	var images [2]string
	keys := ""
	for i, attr := range []*syscall.SysProcAttr{nil, attr} {
		root := newRoot(t)
		addTraces(t, root)
		// A capability, a setuid bit and an owner that a hook makes.
		write(t, root, "mos_demo/rootfs/box/hooks/50-rights", "#!/bin/sh\nset -e\ncp /bin/true /opt/cap\nsetcap cap_net_raw+ep /opt/cap\n"+
			"cp /bin/true /opt/suid\nchown nobody:tty /opt/suid\nchmod 6755 /opt/suid\n", 0o755)
		addDevices(t, root)
		replaceIn(t, root, "mos_demo/build/box.xml", "<packages>less<", "<packages>libcap2-bin procps<")
		if attr != nil {
			if err := os.CopyFS(filepath.Join(root, "data/ssh_keys"), os.DirFS(keys)); err != nil {
				t.Fatal(err)
			}
			give(t, root, attr.Credential)
			// Another owner takes a file its setuid bit (chown(2)).
			if err := os.Chmod(filepath.Join(root, "conf/target/mos_demo/rootfs/common/includes.chroot/opt/trace/setuid"), 0o755|os.ModeSetuid); err != nil {
				t.Fatal(err)
			}
		}
		env := []string{"HOME=/nonexistent", "SOURCE_DATE_EPOCH=1700000000"}
		if attr != nil {
			env = append(env, "PATH=/usr/local/bin:/usr/bin:/bin") // as an ordinary user's is
		}
		r := call{root: root, args: []string{"build", "mos_demo"}, attr: attr, env: env}.run(t)
		if r.code != 0 {
			t.Fatalf("build: %s", r.err)
		}
		wantNothingHalfMade(t, root)
		r = call{root: root, args: []string{"cache"}, attr: attr, env: env}.run(t)
		var stages, mib int
		if _, err := fmt.Sscanf(r.out, "%d stage results, %d MiB", &stages, &mib); err != nil || r.code != 0 || stages < 4 || mib < 200 {
			t.Errorf("cache: %d stages, %d MiB (%v): %s%s", stages, mib, err, r.out, r.err)
		}
		// mmdebstrap's word for downloads by root, where apt's own account does not reach the tree.
		if log, err := os.ReadFile(filepath.Join(root, "data/log/build-mos_demo-box.log")); err != nil || strings.Contains(string(log), "unsandboxed") {
			t.Errorf("apt downloaded as root (%v):\n%s", err, log)
		}
		keys = filepath.Join(root, "data/ssh_keys")
		images[i] = filepath.Join(root, "data/images/mos_demo-box.qcow2")
		trees[i] = listImage(t, images[i])
	}
	if out, err := exec.Command("cmp", images[0], images[1]).CombinedOutput(); err != nil {
		t.Errorf("root's image and the user's are not the same: %v: %s", err, out)
	}
	for _, line := range trees[0] {
		if !slices.Contains(trees[1], line) {
			t.Errorf("root's image has, the user's has not: %s", line)
		}
	}
	for _, line := range trees[1] {
		if !slices.Contains(trees[0], line) {
			t.Errorf("the user's image has, root's has not: %s", line)
		}
	}
	wantHost(t, before)
}

// addDevices lays device nodes in the recipe, and a hook that does with them what hooks
// do with files.
func addDevices(t *testing.T, root string) {
	t.Helper()
	write(t, root, "mos_demo/rootfs/box/hooks/60-devices", "#!/bin/sh\nset -e\ncd /opt/trace\nmv moved /srv/null\ncp -a dev/null copied\n"+
		"ln dev/disk linked\nrm removed\nln -sf /dev/null now-link\nchown nobody:tty dev/full\nchmod 0620 dev/full\n", 0o755)
	dir := filepath.Join(root, "conf/target/mos_demo/rootfs/box/includes.chroot/opt/trace")
	if err := os.Mkdir(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	character, block := uint32(syscall.S_IFCHR|0o666), uint32(syscall.S_IFBLK|0o660)
	for name, node := range map[string]struct {
		mode         uint32
		major, minor uint32
	}{
		"dev/null": {character, 1, 3}, "dev/full": {character, 1, 7}, "dev/disk": {block, 259, 1000}, "pair": {block, 259, 1},
		"moved": {character, 1, 3}, "removed": {character, 1, 3}, "now-link": {block, 8, 0}, "odd\n\xff": {block, 8, 1},
	} {
		// mknod(2) obeys umask(2).
		path := filepath.Join(dir, name)
		if err := errors.Join(unix.Mknod(path, node.mode, int(unix.Mkdev(node.major, node.minor))), unix.Chmod(path, node.mode&0o7777)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "pair"), filepath.Join(dir, "dev/pair-too")); err != nil {
		t.Fatal(err)
	}
}

// TestNoSubordinateIDs has a user build who was given none.
func TestNoSubordinateIDs(t *testing.T) {
	needHost(t)
	root := newRoot(t)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	give(t, root, nobody.Credential)
	r := call{root: root, args: []string{"build", "mos_demo"}, attr: nobody}.run(t)
	wantFailure(t, r, 4, "/etc/subuid", "usermod --add-subuids", "nobody")
}

// listImage lists kind, mode, owner and size of all files in an image, and the
// capabilities of one.
func listImage(t *testing.T, image string) []string {
	t.Helper()
	dir := t.TempDir()
	raw, tree := filepath.Join(dir, "raw"), filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	at := raw + "?offset=1048576"
	var out []byte
	for _, argv := range [][]string{
		{"qemu-img", "convert", "-O", "raw", image, raw},
		{"debugfs", "-R", "rdump / " + tree, at},
		{"debugfs", "-R", "ea_list /opt/cap", at},
		{"debugfs", "-R", "stat /opt/suid", at},
		{"debugfs", "-R", "stat /srv/null", at},
		{"debugfs", "-R", "stat /opt/trace/dev/pair-too", at},
		{"sh", "-c", "cd " + tree + " && find . -printf '%p %y %m %U:%G %s %l\n'"},
	} {
		part, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", argv[0], err)
		}
		out = append(out, part...)
	}
	// Of debugfs's words on a file, times and places are each image's own.
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(l string) bool { return !strings.HasPrefix(l, "./") })
	slices.Sort(lines)
	for _, want := range []string{"security.capability", "Mode:  06755", "User: 65534   Group:     5", "Type: character special", "number: 01:03", "Type: block special", "Links: 2"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("what the recipe or a hook gave is lost: %s", want)
		}
	}
	// Keys and what is made of them differ from root to root, in size too.
	return slices.DeleteFunc(lines, func(l string) bool {
		return strings.Contains(l, "/var/log/") || strings.Contains(l, "/var/cache/ldconfig/") || strings.Contains(l, "./etc/subuid") || strings.Contains(l, "./etc/subgid")
	})
}
