package virt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

func TestLetRead(t *testing.T) {
	u := QEMUUser{UID: 4712, Groups: []int{4712}}
	file := filepath.Join(t.TempDir(), "file")
	for _, mode := range []os.FileMode{0o600, 0o644, 0o660} {
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		readable := func() bool {
			info, err := os.Stat(file)
			return err == nil && u.may(file, info, bitRead) && !u.may(file, info, bitsReadWrite)
		}
		before := readable()
		if err := u.LetRead(file); errors.Is(err, unix.EOPNOTSUPP) {
			t.Skipf("no access control lists in %s", t.TempDir())
		} else if err != nil || !readable() {
			t.Errorf("mode %o: LetRead = %v, readable %v", mode, err, readable())
		}
		if err := u.KeepFrom(file); err != nil || readable() != before {
			t.Errorf("mode %o: KeepFrom = %v, readable %v, was %v", mode, err, readable(), before)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != mode || readACL(file) != nil {
			t.Errorf("mode %o: left with %v %v", mode, info.Mode(), readACL(file))
		}
	}
	// What somebody else set stays.
	other := QEMUUser{UID: 4713}
	if err := other.LetRead(file); err != nil {
		t.Fatal(err)
	}
	if err := u.LetRead(file); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("LetRead beside a list = %v", err)
	}
	if err := u.KeepFrom(file); err != nil || readACL(file) == nil {
		t.Errorf("KeepFrom took away another's list: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := u.KeepFrom(link); err == nil {
		t.Error("a symbolic link is followed")
	}
}
