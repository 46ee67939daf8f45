package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"meros/internal/device"
	"meros/internal/store"
)

// copier lays one folder of the host over a tree. Links of the tree are
// followed as a program in the chroot would see them, so nothing is ever
// written outside of it.
type copier struct {
	root  string // the tree
	from  string // the folder of the host
	owner account
	first map[[2]uint64]string // where a file with several names was laid first
	dirs  []laidDir            // made here: times are set when all is in them
}

type laidDir struct {
	path  string
	mtime unix.Timespec
}

// copyTree lays the content of the folder from over the folder to of the tree.
// Modes, times, links, hard links, holes and extended attributes are kept; a
// folder that the tree already has keeps its own mode.
func copyTree(root, to, from string, owner account) error {
	c := &copier{root: root, from: from, owner: owner, first: map[[2]uint64]string{}}
	err := filepath.WalkDir(from, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return c.lay(path, filepath.Join(to, rel))
	})
	for i := len(c.dirs) - 1; i >= 0 && err == nil; i-- {
		err = setTime(c.dirs[i].path, c.dirs[i].mtime)
	}
	return err
}

func (c *copier) lay(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.dir(to, st)
	}
	// The parent is followed in the tree; what stands at the name itself, a link
	// included, is replaced.
	parent, err := securejoin.SecureJoin(c.root, filepath.Dir(to))
	if err != nil {
		return err
	}
	at := filepath.Join(parent, filepath.Base(to))
	if err := makeRoom(at, to); err != nil {
		return err
	}
	if err := c.make(from, at, st); err != nil {
		return err
	}
	return c.finish(from, at, to, st)
}

// dir makes a folder, or takes the one that the tree has there.
func (c *copier) dir(to string, st unix.Stat_t) error {
	at, err := securejoin.SecureJoin(c.root, to)
	if err != nil {
		return err
	}
	err = os.Mkdir(at, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := os.Stat(at); statErr == nil && info.IsDir() {
			return nil
		}
		return fmt.Errorf("%s is a folder in the recipe and a file in the rootfs", to)
	}
	if err != nil {
		return err
	}
	uid, gid := c.owner.owner(to)
	if err := os.Lchown(at, uid, gid); err != nil {
		return err
	}
	c.dirs = append(c.dirs, laidDir{at, st.Mtim})
	return unix.Chmod(at, st.Mode&0o7777)
}

func makeRoom(at, to string) error {
	info, err := os.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a file in the recipe and a folder in the rootfs", to)
	}
	return os.Remove(at)
}

// make creates at as the same kind of file as from, with its content.
func (c *copier) make(from, at string, st unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, at)
	}
	id := [2]uint64{st.Dev, st.Ino}
	if first, ok := c.first[id]; ok {
		return os.Link(first, at)
	}
	c.first[id] = at
	switch kind {
	case unix.S_IFREG:
		return copyFile(from, at)
	case unix.S_IFCHR, unix.S_IFBLK:
		if err := device.Make(at, st); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		return nil
	}
	if err := unix.Mknod(at, st.Mode, 0); err != nil {
		return &fs.PathError{Op: "mknod", Path: at, Err: err}
	}
	return nil
}

func (c *copier) finish(from, at, to string, st unix.Stat_t) error {
	uid, gid := c.owner.owner(to)
	if err := os.Lchown(at, uid, gid); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return setTime(at, st.Mtim)
	}
	// After the owner: chown(2) clears setuid bits and capabilities.
	if err := unix.Chmod(at, st.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: at, Err: err}
	}
	if err := copyXattrs(from, at); err != nil {
		return err
	}
	return setTime(at, st.Mtim)
}

func setTime(at string, mtime unix.Timespec) error {
	ts := []unix.Timespec{mtime, mtime}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, at, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: at, Err: err}
	}
	return nil
}

// copyFile copies the data of a file and leaves its holes holes.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = copyData(in, out)
	return errors.Join(err, out.Close())
}

func copyData(in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: find data: %w", in.Name(), err)
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("%s: find a hole: %w", in.Name(), err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// copyXattrs copies the extended attributes that the key of the stage counts.
func copyXattrs(from, to string) error {
	attributes, err := store.Attributes(from)
	if err != nil {
		return err
	}
	for _, a := range attributes {
		if err := unix.Lsetxattr(to, a.Name, a.Value, 0); err != nil {
			return fmt.Errorf("%s: extended attribute %s: %w", to, a.Name, err)
		}
	}
	return nil
}
