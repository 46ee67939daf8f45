package virt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFindQEMUUser(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "qemu.conf")
	if err := os.WriteFile(conf, []byte("# user = \"nobody\"\nuser = \"+0\"\ngroup = \"+7\" # ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := findQEMUUser(conf)
	if err != nil || got.UID != 0 || len(got.Groups) == 0 || got.Groups[0] != 7 {
		t.Errorf("findQEMUUser = %+v, %v, want user 0, group 7", got, err)
	}
}

func TestCanReach(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for at := closed; strings.HasPrefix(at, filepath.Dir(dir)); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	u := QEMUUser{Name: "tester", UID: 1 << 20}
	file := filepath.Join(closed, "data", "image")
	if err := u.CanReach(file); err != nil {
		t.Errorf("CanReach = %v, want nil", err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	err := u.CanReach(file)
	if e, ok := errors.AsType[*ClosedFolderError](err); !ok || filepath.Base(e.Dir) != "closed" || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("CanReach = %v, want %s named", err, closed)
	}
	u.Groups = []int{os.Getgid()}
	if err := os.Chmod(closed, 0o710); err != nil {
		t.Fatal(err)
	}
	if err := u.CanReach(file); err != nil {
		t.Errorf("CanReach through the group = %v", err)
	}
}

func TestFoldersOf(t *testing.T) {
	if got := foldersOf("/a/b/c"); !slices.Equal(got, []string{"/", "/a", "/a/b"}) {
		t.Errorf("foldersOf = %q", got)
	}
}

func TestAllowedByACL(t *testing.T) {
	u := QEMUUser{UID: 5, Groups: []int{50}}
	base := []aclEntry{{aclUserObj, 7, 0}, {aclGrpObj, 0, 0}, {aclOther, 0, 0}}
	for _, c := range []struct {
		name string
		more []aclEntry
		want bool
	}{
		{"nothing", nil, false},
		{"user", []aclEntry{{aclUser, 1, 5}, {aclMask, 7, 0}}, true},
		{"user, masked", []aclEntry{{aclUser, 1, 5}, {aclMask, 6, 0}}, false},
		{"group", []aclEntry{{aclGroup, 5, 50}, {aclMask, 7, 0}}, true},
		{"another", []aclEntry{{aclUser, 7, 6}, {aclGroup, 7, 51}, {aclMask, 7, 0}}, false},
	} {
		if got := u.allowed(append(slices.Clone(base), c.more...), 0, 0, bitSearch); got != c.want {
			t.Errorf("%s: allowed = %v, want %v", c.name, got, c.want)
		}
	}
	if u.allowed([]aclEntry{{aclGrpObj, 0, 0}, {aclOther, 7, 0}}, 0, 50, bitSearch) {
		t.Error("a member of the group got the others' bits")
	}
}
