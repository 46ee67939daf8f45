package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"meros/internal/hint"
	"meros/internal/store"
)

// Take replaces all stand-ins of a tree by sockets that have their owners, modes,
// times, attributes and further names, and returns what these are to become. It
// fails where something has written to a stand-in: what the node would have made of
// that cannot be told.
func Take(root string) ([]Node, error) {
	t := taker{first: map[[2]uint64]string{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		n, found, err := read(path)
		if err != nil || !found {
			return err
		}
		if n.Path, err = filepath.Rel(root, path); err != nil {
			return err
		}
		t.nodes = append(t.nodes, n)
		return t.replace(path)
	})
	return t.nodes, err
}

// read tells whether a file is a stand-in, and what for.
func read(path string) (n Node, found bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return n, false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Size == int64(len(n.text())) {
		text, err := os.ReadFile(path)
		if err != nil {
			return n, false, err
		}
		if n, found = parse(string(text)); found {
			return n, true, nil
		}
	}
	if _, err := unix.Lgetxattr(path, attribute, nil); err != nil {
		return n, false, nil // it has none
	}
	return n, false, hint.Add(fmt.Errorf("%q is a device node of the recipe, and a hook or a package has written to the file that stands in for it", path),
		"only root can use a device node while the image is built: leave it alone in hooks, or build with sudo")
}

type taker struct {
	nodes []Node
	first map[[2]uint64]string // where each stand-in, of one name or more, was replaced first
}

// replace puts a socket in the place of a stand-in. The time of its folder stays.
func (t *taker) replace(path string) error {
	var st, dir unix.Stat_t
	if err := errors.Join(unix.Lstat(path, &st), unix.Lstat(filepath.Dir(path), &dir)); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	attributes, err := store.Attributes(path)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := t.socket(path, st, attributes); err != nil {
		return err
	}
	return setTime(filepath.Dir(path), dir.Mtim)
}

func (t *taker) socket(path string, st unix.Stat_t, attributes []store.Attribute) error {
	id := [2]uint64{st.Dev, st.Ino}
	if first, ok := t.first[id]; ok {
		return os.Link(first, path)
	}
	t.first[id] = path
	if err := unix.Mknod(path, unix.S_IFSOCK|0o600, 0); err != nil {
		return &fs.PathError{Op: "mknod", Path: path, Err: err}
	}
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// After the owner: chown(2) clears setuid bits and capabilities.
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	for _, a := range attributes {
		if strings.HasPrefix(a.Name, "user.") {
			continue // device nodes can have none (xattr(7))
		}
		if err := unix.Lsetxattr(path, a.Name, a.Value, 0); err != nil {
			return fmt.Errorf("%s: extended attribute %s: %w", path, a.Name, err)
		}
	}
	return setTime(path, st.Mtim)
}

func setTime(path string, mtime unix.Timespec) error {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}
