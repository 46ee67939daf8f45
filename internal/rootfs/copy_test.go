package rootfs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// lay makes files below dir: a name ending in / is a folder, "a -> b" a
// link, else a file that holds its own name.
func lay(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		link, to, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(to, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

// dress gives the files below from odd owners, modes and times, and adds more
// kinds of files.
func dress(t *testing.T, from string, old time.Time) {
	t.Helper()
	for name, mode := range map[string]os.FileMode{"etc/old": 0o4711 | os.ModeSetuid, "etc/new": 0o750, "etc/new/deep": 0o600} {
		path := filepath.Join(from, name)
		if err := os.Chown(path, 1234, 1234); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(from, "etc/new/deep"), filepath.Join(from, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(from, "fifo"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(from, "socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(from, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(from, "device"), filepath.Join(from, "etc/device-too")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(from, "etc/old"), "security.capability", netRaw, 0); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(from, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if _, err := sparse.WriteAt([]byte("end"), 4<<30); err != nil {
		t.Fatal(err)
	}
}

// netRaw is what setcap(8) writes for cap_net_raw=ep: revision 2, effective; permitted
// is capability 13 (<linux/capability.h>).
var netRaw = []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func TestCopyTreeKeepsModesTimesLinksAttributesAndHoles(t *testing.T) {
	needRoot(t)
	from, root := t.TempDir(), t.TempDir()
	lay(t, root, "tmp/", "etc/old", "home/user/")
	if err := os.Chmod(filepath.Join(root, "tmp"), os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	odd := "odd\nname\xff"
	lay(t, from, "tmp/x", "etc/old", "etc/new/deep", "home/user/.profile", "l -> /etc/passwd", "dangling -> nowhere", odd)
	old := time.Unix(1000000000, 5)
	dress(t, from, old)

	if err := copyTree(root, "/", from, account{uid: 1000, gid: 1001, home: "/home/user"}); err != nil {
		t.Fatal(err)
	}

	if st := stat(t, filepath.Join(root, "tmp")); st.Mode&0o7777 != 0o1777 {
		t.Errorf("/tmp has mode %o, want its own 1777", st.Mode&0o7777)
	}
	for name, mode := range map[string]uint32{"etc/old": 0o4711, "etc/new": 0o750, "etc/new/deep": 0o600} {
		st := stat(t, filepath.Join(root, name))
		if st.Mode&0o7777 != mode || st.Uid != 0 || st.Gid != 0 || st.Mtim.Sec != old.Unix() {
			t.Errorf("%s: mode %o owner %d:%d time %d, want %o 0:0 %d", name, st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Sec, mode, old.Unix())
		}
	}
	if st := stat(t, filepath.Join(root, "home/user/.profile")); st.Uid != 1000 || st.Gid != 1001 {
		t.Errorf("a file in the user's home belongs to %d:%d, want 1000:1001", st.Uid, st.Gid)
	}
	for link, want := range map[string]string{"l": "/etc/passwd", "dangling": "nowhere"} {
		if got, err := os.Readlink(filepath.Join(root, link)); got != want || err != nil {
			t.Errorf("link %s = %q, %v, want %q", link, got, err, want)
		}
	}
	if a, b := stat(t, filepath.Join(root, "hard")), stat(t, filepath.Join(root, "etc/new/deep")); a.Ino != b.Ino {
		t.Error("two names of one file became two files")
	}
	if st := stat(t, filepath.Join(root, "fifo")); st.Mode != unix.S_IFIFO|0o640 {
		t.Errorf("fifo has mode %o, want %o", st.Mode, unix.S_IFIFO|0o640)
	}
	if st := stat(t, filepath.Join(root, "socket")); st.Mode != unix.S_IFSOCK|0o600 {
		t.Errorf("socket has mode %o", st.Mode)
	}
	if st := stat(t, filepath.Join(root, "device")); st.Mode != unix.S_IFCHR|0o600 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device has mode %o and number %x", st.Mode, st.Rdev)
	}
	if a, b := stat(t, filepath.Join(root, "device")), stat(t, filepath.Join(root, "etc/device-too")); a.Ino != b.Ino {
		t.Error("two names of one device node became two nodes")
	}
	got := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(root, "etc/old"), "security.capability", got); err != nil || !bytes.Equal(got[:n], netRaw) {
		t.Errorf("capabilities = %x, %v, want %x", got[:max(n, 0)], err, netRaw)
	}
	if st := stat(t, filepath.Join(root, "sparse")); st.Size != 4<<30+3 || st.Blocks > 64 {
		t.Errorf("sparse file: %d bytes in %d blocks, want its holes kept", st.Size, st.Blocks)
	}
	stat(t, filepath.Join(root, odd))
}

// Nothing on the host may be written through a link of the tree.
func TestCopyTreeStaysInTheTree(t *testing.T) {
	needRoot(t)
	host := t.TempDir()
	for _, link := range []string{"etc -> " + host, "etc -> ../../../../../../.." + host} {
		root, from := t.TempDir(), t.TempDir()
		lay(t, root, link, "usr/bin/", "bin -> usr/bin", "opt/file -> "+filepath.Join(host, "victim"))
		lay(t, from, "etc/evil", "bin/tool", "opt/file")
		if err := copyTree(root, "/", from, account{}); err != nil {
			// An absolute link into a folder that the tree lacks may fail, but not escape.
			t.Logf("copyTree: %v", err)
		}
		if left, _ := os.ReadDir(host); len(left) != 0 {
			t.Errorf("%q: %s was written outside of the tree", link, left[0].Name())
		}
	}
	root, from := t.TempDir(), t.TempDir()
	lay(t, root, "usr/bin/", "bin -> usr/bin", "opt/file -> "+filepath.Join(host, "victim"))
	lay(t, from, "bin/tool", "opt/file")
	if err := copyTree(root, "/", from, account{}); err != nil {
		t.Fatal(err)
	}
	stat(t, filepath.Join(root, "usr/bin/tool"))
	if st := stat(t, filepath.Join(root, "opt/file")); st.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Error("a file of the recipe did not replace the link that stood there")
	}
}

func TestCopyTreeNamesClashes(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct{ have, lay, want string }{
		{"etc/x/", "etc/x", "a file in the recipe and a folder in the rootfs"},
		{"etc/x", "etc/x/y", "a folder in the recipe and a file in the rootfs"},
	} {
		root, from := t.TempDir(), t.TempDir()
		lay(t, root, tt.have)
		lay(t, from, tt.lay)
		if err := copyTree(root, "/", from, account{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s over %s: %v, want %q", tt.lay, tt.have, err, tt.want)
		}
	}
}
