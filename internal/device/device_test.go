package device_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"meros/internal/device"
	"meros/internal/hint"
)

var (
	null = unix.Stat_t{Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)}
	disk = unix.Stat_t{Mode: unix.S_IFBLK | 0o660, Rdev: unix.Mkdev(259, 1<<19+7)}
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func standIn(t *testing.T, path string, st unix.Stat_t) {
	t.Helper()
	if err := device.StandIn(path, st); err != nil {
		t.Skip(err) // a file system without attributes
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

const hook = `set -e
mkdir -p dir/dir
mv moved dir/dir/moved
cp -a copied dir/copied
cat copied >bare; mv bare dir/bare
ln linked dir/linked
rm removed
ln -sf /etc/passwd now-link
rm now-folder; mkdir now-folder
rm now-file; echo x >now-file
chown 12:34 rights; chmod 4711 rights; touch -d @1000000000 rights
setfacl -m u:7:rw rights 2>/dev/null || true
touch -d @1100000000 . dir
`

// What a hook does to a stand-in with the usual programs is done to the node.
func TestTakeAfterAHook(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	t.Chdir(root)
	for _, name := range []string{"kept", "moved", "copied", "linked", "removed", "now-link", "now-folder", "now-file", "rights", "odd\n\xff"} {
		standIn(t, name, null)
	}
	standIn(t, "disk", disk)
	if out, err := exec.Command("sh", "-c", hook).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := device.Take(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []device.Node{}
	for _, path := range []string{"copied", "dir/bare", "dir/copied", "dir/dir/moved", "dir/linked", "disk", "kept", "linked", "odd\n\xff", "rights"} {
		n := device.Node{Path: path, Major: 1, Minor: 3}
		if path == "disk" {
			n = device.Node{Path: path, Block: true, Major: 259, Minor: 1<<19 + 7}
		}
		want = append(want, n)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Take: want -, got +\n%s", diff)
	}
	for _, n := range got {
		if st := stat(t, n.Path); st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Size != 0 {
			t.Errorf("%q has mode %o and %d bytes, want an empty socket", n.Path, st.Mode, st.Size)
		}
	}
	if st := stat(t, "rights"); st.Mode&0o7777 != 0o4711 && st.Mode&0o7777 != 0o4771 || st.Uid != 12 || st.Gid != 34 || st.Mtim.Sec != 1000000000 {
		t.Errorf("mode, owner or time are lost: %+v", st)
	}
	if a, b := stat(t, "linked"), stat(t, "dir/linked"); a.Ino != b.Ino || a.Nlink != 2 {
		t.Error("two names of one node became two nodes")
	}
	for _, folder := range []string{".", "dir"} {
		if st := stat(t, folder); st.Mtim.Sec != 1100000000 {
			t.Errorf("%s has another time: %v", folder, time.Unix(st.Mtim.Sec, 0))
		}
	}
	if again, err := device.Take(root); len(again) != 0 || err != nil {
		t.Errorf("a second Take = %v, %v", again, err)
	}
}

// A node that something has written to is no longer what the recipe says.
func TestTakeRefusesWhatWasWrittenTo(t *testing.T) {
	for _, text := range []string{"", "x", strings.Repeat("x", 100)} {
		root := t.TempDir()
		path := filepath.Join(root, "null")
		standIn(t, path, null)
		if err := os.WriteFile(path, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		_, err := device.Take(root)
		if err == nil || !strings.Contains(err.Error(), "null") || !strings.Contains(err.Error(), "written to") || len(hint.Of(err)) != 1 {
			t.Errorf("after %q was written: %v, hints %q", text, err, hint.Of(err))
		}
	}
}

// The root of a user namespace lays stand-ins: this test runs in one once more.
func TestMakeInAUserNamespace(t *testing.T) {
	const asked = "MEROS_TEST_NODE"
	if path := os.Getenv(asked); path != "" {
		if err := device.Make(path, disk); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	standIn(t, filepath.Join(dir, "try"), null)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), asked+"="+filepath.Join(dir, "disk"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []device.Node{{Path: "disk", Block: true, Major: 259, Minor: 1<<19 + 7}, {Path: "try", Major: 1, Minor: 3}}
	got, err := device.Take(dir)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Take: %v; want -, got +\n%s", err, diff)
	}
}

func TestMake(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for name, want := range map[string]unix.Stat_t{"null": null, "disk": disk} {
		path := filepath.Join(dir, name)
		if err := device.Make(path, want); err != nil {
			t.Fatal(err)
		}
		// Root may be one that may make no device nodes either.
		if st := stat(t, path); st.Mode&unix.S_IFMT != unix.S_IFREG && st.Rdev != want.Rdev {
			t.Errorf("%s has mode %o and number %x", name, st.Mode, st.Rdev)
		}
	}
	whiteout := filepath.Join(dir, "whiteout")
	err := device.Make(whiteout, unix.Stat_t{Mode: unix.S_IFCHR | 0o600})
	if err == nil || !strings.Contains(err.Error(), "0:0") {
		t.Errorf("the character device 0:0 = %v", err)
	}
	if _, err := os.Lstat(whiteout); err == nil {
		t.Error("the character device 0:0 was made")
	}
}
