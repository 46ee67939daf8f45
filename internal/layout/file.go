package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/renameio/v2"
)

// Owner is who gets the files made under data/. The zero value is the caller.
type Owner struct{ UID, GID int }

// SudoOwner returns the person who called sudo (sudo(8): SUDO_UID, SUDO_GID),
// and the zero Owner for anybody who is not root.
func SudoOwner(euid int, getenv func(string) string) Owner {
	uid, uidErr := strconv.ParseUint(getenv("SUDO_UID"), 10, 31)
	gid, gidErr := strconv.ParseUint(getenv("SUDO_GID"), 10, 31)
	if euid != 0 || uidErr != nil || gidErr != nil {
		return Owner{}
	}
	return Owner{UID: int(uid), GID: int(gid)}
}

// Give makes path, itself and not what a link points to, the owner's.
func (o Owner) Give(path string) error {
	if o == (Owner{}) {
		return nil
	}
	return os.Lchown(path, o.UID, o.GID)
}

// MkdirAll makes a folder below the root and its missing parents, the owner's
// and open to mode.
func (p Paths) MkdirAll(dir string, mode fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := p.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return p.Owner.Give(dir)
}

// WriteFile puts a whole file in place by rename, with its folder, the owner's.
// The content is never readable by more than mode allows.
func (p Paths) WriteFile(path string, content []byte, mode fs.FileMode) error {
	if err := p.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := p.Owner.Give(f.Name()); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// OpenLog makes a fresh log file of that name and returns it open. What several
// processes write to it comes one after the other.
func (p Paths) OpenLog(name string) (*os.File, error) {
	path := p.Log(name)
	if err := p.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	return f, p.Owner.Give(path)
}
