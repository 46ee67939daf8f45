package virt

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// QEMUUser is the user that libvirt runs QEMU as.
type QEMUUser struct {
	Name   string
	UID    int
	Groups []int // the primary one first
}

// qemuConf is where an administrator sets the user (qemu.conf: user, group).
const qemuConf = "/etc/libvirt/qemu.conf"

// qemuUsers are what distributions build libvirt with: Debian and its kin, then
// Fedora, openSUSE, Alpine, then Arch.
var qemuUsers = []string{"libvirt-qemu", "qemu", "nobody"}

// FindQEMUUser returns the user of libvirt's configuration, else the one that
// this distribution builds libvirt with.
func FindQEMUUser() (QEMUUser, error) { return findQEMUUser(qemuConf) }

func findQEMUUser(conf string) (QEMUUser, error) {
	set := readQEMUConf(conf)
	names := qemuUsers
	if set["user"] != "" {
		names = []string{strings.TrimPrefix(set["user"], "+")}
	}
	for _, name := range names {
		if u, err := lookupUser(name); err == nil {
			return makeQEMUUser(u, set["group"])
		}
	}
	return QEMUUser{}, fmt.Errorf("libvirt's qemu user is not known here: none of %s", strings.Join(names, ", "))
}

func lookupUser(name string) (*user.User, error) {
	if u, err := user.Lookup(name); err == nil {
		return u, nil
	}
	return user.LookupId(name)
}

func makeQEMUUser(u *user.User, group string) (QEMUUser, error) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return QEMUUser{}, err
	}
	q := QEMUUser{Name: u.Username, UID: uid}
	ids, err := u.GroupIds()
	if err != nil {
		ids = []string{u.Gid}
	}
	if group = strings.TrimPrefix(group, "+"); group != "" {
		if g, err := user.LookupGroup(group); err == nil {
			group = g.Gid
		}
		ids = append([]string{group}, ids...)
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			q.Groups = append(q.Groups, gid)
		}
	}
	return q, nil
}

// readQEMUConf returns the settings of a file of lines like user = "qemu".
func readQEMUConf(file string) map[string]string {
	set := map[string]string{}
	f, err := os.Open(file)
	if err != nil {
		return set // not readable, or no such file: the defaults hold
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if key, value, ok := strings.Cut(line, "="); ok {
			set[strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return set
}

// The permission bits that are asked for, as in mode 0007.
const (
	bitsReadWrite = 6
	bitRead       = 4
	bitSearch     = 1
)

// CanOpen returns nil if the user may read and write a file by its mode.
func (q QEMUUser) CanOpen(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !q.may(file, info, bitsReadWrite) {
		return fmt.Errorf("%s may not open %s (mode %v)", q.Name, file, info.Mode().Perm())
	}
	return nil
}

// CanReach returns nil if the user may enter every folder on the way to a file,
// and else names the first that is closed. libvirt opens the file itself up.
func (q QEMUUser) CanReach(file string) error {
	if real, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil {
		file = filepath.Join(real, "x")
	}
	for _, dir := range foldersOf(file) {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !q.may(dir, info, bitSearch) {
			return &ClosedFolderError{User: q.Name, Dir: dir}
		}
	}
	return nil
}

// ClosedFolderError says which folder libvirt's qemu user may not enter.
type ClosedFolderError struct{ User, Dir string }

func (e *ClosedFolderError) Error() string {
	return fmt.Sprintf("libvirt's qemu user %s may not enter %s", e.User, e.Dir)
}

// Unwrap makes it a matter of permission.
func (e *ClosedFolderError) Unwrap() error { return fs.ErrPermission }

// foldersOf returns the folders above a file, the outermost first.
func foldersOf(file string) []string {
	var dirs []string
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == filepath.Dir(dir) {
			slices.Reverse(dirs)
			return dirs
		}
	}
}
