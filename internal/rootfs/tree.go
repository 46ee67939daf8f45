package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// tree is a rootfs, or a part of one, as meros itself reads and changes it, with
// the host's own files in view. Links are followed as a program in the chroot
// would see them, at the moment of use: nothing outside of root is ever read,
// written or removed. Names have no leading slash, or one.
type tree struct{ root string }

// at is where a name of the tree is. Links on the way are followed; what the
// name itself stands for, be it a link, is not.
func (t tree) at(name string) (string, error) {
	dir, err := securejoin.SecureJoin(t.root, filepath.Dir(name))
	return filepath.Join(dir, filepath.Base(name)), err
}

// stat follows a name to its end and tells of what is there.
func (t tree) stat(name string) (at string, info fs.FileInfo, err error) {
	if at, err = securejoin.SecureJoin(t.root, name); err != nil {
		return at, nil, err
	}
	info, err = os.Lstat(at)
	return at, info, err
}

func (t tree) has(name string) bool {
	_, _, err := t.stat(name)
	return err == nil
}

// regular is stat for what is to be read or written: a device, or a pipe that
// nobody fills, would have a build wait for ever.
func (t tree) regular(name string) (string, error) {
	at, info, err := t.stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s of the rootfs is no regular file", filepath.Join("/", name))
	}
	return at, err
}

func (t tree) read(name string) ([]byte, error) {
	at, err := t.regular(name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(at)
}

// rewrite changes the content of a file, and nothing else of it.
func (t tree) rewrite(name string, change func(old string) string) error {
	at, err := t.regular(name)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(at)
	if err != nil {
		return err
	}
	now := change(string(old))
	if now == string(old) {
		return nil
	}
	return os.WriteFile(at, []byte(now), 0) // it exists: its own mode stays
}

// mkdir makes a folder and those above it, and returns where it is.
func (t tree) mkdir(name string) (string, error) {
	at, err := securejoin.SecureJoin(t.root, name)
	if err != nil {
		return at, err
	}
	return at, os.MkdirAll(at, 0o755)
}

// glob lists the names that match a pattern, whose last element alone may have
// wildcards (path.Match).
func (t tree) glob(pattern string) ([]string, error) {
	dir, last := path.Split(pattern)
	at, err := securejoin.SecureJoin(t.root, dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(at)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if ok, _ := path.Match(last, e.Name()); ok {
			names = append(names, dir+e.Name())
		}
	}
	return names, err
}

// remove removes what matches the patterns, with all below it; links, not what
// they lead to.
func (t tree) remove(patterns ...string) error {
	for _, pattern := range patterns {
		names, err := t.glob(pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			at, err := t.at(name)
			if err != nil {
				return err
			}
			if err := os.RemoveAll(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveOut moves a file of the tree to a path of the host.
func (t tree) moveOut(name, to string) error {
	content, err := t.read(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		return err
	}
	at, err := t.at(name)
	if err != nil {
		return err
	}
	return os.Remove(at)
}

// replace says whether a file that the tree already has gives way.
type replace func(old string) bool

func replaceAlways(string) bool  { return true }
func replaceMissing(string) bool { return false }

// add makes a file, with the folders above it. A link that stands at the name
// counts as what it leads to, as an empty file where that is nowhere, and gives
// way itself.
func (t tree) add(name, content string, mode fs.FileMode, r replace) error {
	if _, err := t.mkdir(filepath.Dir(name)); err != nil {
		return err
	}
	at, err := t.at(name)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(at); err == nil {
		old, err := t.read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !r(string(old)) {
			return nil
		}
		if err := os.Remove(at); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(at, mode)
}
