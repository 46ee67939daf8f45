package image_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meros/internal/device"
	"meros/internal/image"
	"meros/internal/proc"
)

// nodes are device nodes with numbers in both of ext4's forms, with odd names, in
// folders small, large and torn, and one with two names.
var nodes = map[string]unix.Stat_t{
	"null":                     {Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)},
	"dev/sda":                  {Mode: unix.S_IFBLK | 0o660, Rdev: unix.Mkdev(8, 0)},
	"dev/edge":                 {Mode: unix.S_IFBLK | 0o4755, Rdev: unix.Mkdev(255, 255)},
	"dev/minor":                {Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(5, 256)},
	"dev/major":                {Mode: unix.S_IFBLK | 0o600, Rdev: unix.Mkdev(256, 0)},
	"dev/most":                 {Mode: unix.S_IFCHR, Rdev: unix.Mkdev(4095, 1<<20-1)},
	"dev/nothing":              {Mode: unix.S_IFBLK | 0o1000, Rdev: 0},
	"dir-3/odd\n\xff name":     {Mode: unix.S_IFCHR | 0o644, Rdev: unix.Mkdev(10, 200)},
	"large/node-in-the-middle": {Mode: unix.S_IFBLK | 0o644, Rdev: unix.Mkdev(259, 1<<19)},
}

// withNodes makes a tree with the nodes, by mknod or by stand-ins that are then taken.
func withNodes(t *testing.T, standIns bool) (root string, taken []device.Node) {
	t.Helper()
	mtime := time.Unix(1_600_000_000, 123456789)
	root = scattered(t, mtime)
	large := filepath.Join(root, "large")
	for i := range 4000 { // those with content come between the folder's blocks
		path := filepath.Join(large, fmt.Sprintf("%s-%d", strings.Repeat("n", 100), i))
		write(t, path, strings.Repeat("x", i%2))
	}
	for name, st := range nodes {
		path := filepath.Join(root, name)
		makeNode(t, path, st, standIns)
		if err := unix.Lchown(path, 7, 8); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
			t.Fatal(err)
		}
	}
	acl, err := exec.Command("setfacl", "-m", "u:7:r", filepath.Join(root, "dev/sda")).CombinedOutput()
	if err != nil {
		t.Logf("without an access list: %v %s", err, acl)
	}
	if err := os.Link(filepath.Join(root, "dev/sda"), filepath.Join(root, "dir-3/sda-too")); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{}, unix.NsecToTimespec(mtime.UnixNano())}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
	if standIns {
		if taken, err = device.Take(root); err != nil || len(taken) != len(nodes)+1 {
			t.Fatalf("Take = %d nodes, %v, want %d", len(taken), err, len(nodes)+1)
		}
	}
	return root, taken
}

func makeNode(t *testing.T, path string, st unix.Stat_t, standIn bool) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	err := unix.Mknod(path, st.Mode, int(st.Rdev))
	if standIn {
		_ = os.Remove(path)
		err = device.StandIn(path, st)
	}
	if err != nil {
		t.Skip(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A device node whose place a stand-in took is in the image as one that root made, to
// the last byte.
func TestDevicesAreAsRootMakesThem(t *testing.T) {
	needTools(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	o := image.Options{Name: "t", FreeMB: 300, UUIDs: image.UUIDsOf("t"), Epoch: 1_577_836_800}
	root, _ := withNodes(t, false)
	want := pack(t, root, o)
	root, o.Devices = withNodes(t, true)
	got := pack(t, root, o)
	if len(got) != len(want) {
		t.Errorf("the image has %d bytes, root's %d", len(got), len(want))
	}
	if !bytes.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("the image is another than root's from byte %d on", i)
			}
		}
	}
}

func TestDeviceThatIsNotThere(t *testing.T) {
	needTools(t)
	root := t.TempDir()
	write(t, filepath.Join(root, "file"), "x")
	for path, want := range map[string]string{"none": "no entry", "file": "want a socket's", "file/below": "want a folder's"} {
		out := filepath.Join(t.TempDir(), "x.qcow2")
		o := image.Options{Name: "t", FreeMB: 10, UUIDs: image.UUIDsOf("t"), Devices: []device.Node{{Path: path}}}
		if err := image.Pack(t.Context(), proc.Host{}, root, out, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if _, err := os.Lstat(out); err == nil {
			t.Errorf("%s: an image was left", path)
		}
	}
}
