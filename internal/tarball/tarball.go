package tarball

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// What an archive may hold at the most. Alpine's root file system has 520 entries
// and 8 MiB, Debian's largest kernel package 5,000 and 450 MiB.
const (
	maxEntries = 100_000
	maxBytes   = 2 << 30
)

// Keep says whether an entry is unpacked, under that name; it may change
// the header that the file is made of.
type Keep func(name string, h *tar.Header) bool

// Unpack unpacks a tar into the folder root; keep may be nil: all of it. Whatever
// is in the archive, nothing is written outside of root: os.Root follows no link
// out of it. Device nodes are refused; a guest's kernel makes its own.
func Unpack(archive io.Reader, root string, keep Keep) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	u := &unpacker{root: r, tar: tar.NewReader(archive), left: maxBytes, keep: keep}
	for range maxEntries {
		err := u.next()
		if errors.Is(err, io.EOF) {
			return u.setTimes()
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return fmt.Errorf("unpack: more than %d files", maxEntries)
}

type unpacker struct {
	root *os.Root
	tar  *tar.Reader
	left int64 // bytes that may still come
	keep Keep
	dirs []*tar.Header
}

func (u *unpacker) next() error {
	h, err := u.tar.Next()
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if name == "" || name == "." {
		return nil
	}
	if path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") {
		return fmt.Errorf("%q: a name that may lead elsewhere", h.Name)
	}
	if u.keep != nil && !u.keep(name, h) {
		return nil
	}
	if err := u.make(name, h); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

func (u *unpacker) make(name string, h *tar.Header) error {
	mode := fs.FileMode(h.Mode).Perm() | special(h.Mode)
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		u.dirs = append(u.dirs, h)
	case tar.TypeReg:
		if err := u.file(name, h.Size); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		return u.root.Link(strings.TrimPrefix(h.Linkname, "./"), name)
	default:
		return fmt.Errorf("is of kind %q, which nothing here has a need of", h.Typeflag)
	}
	// The owner first: a change of it clears setuid bits (chown(2)).
	if err := u.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := u.root.Chmod(name, mode); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (u *unpacker) file(name string, size int64) error {
	if u.left -= size; size < 0 || u.left < 0 {
		return fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxBytes))
	}
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, u.tar)
	return errors.Join(err, f.Close())
}

// setTimes gives folders their times back, which the files laid into them changed.
func (u *unpacker) setTimes() error {
	for _, h := range u.dirs {
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		if err := u.root.Chtimes(name, time.Time{}, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

func special(mode int64) fs.FileMode {
	var m fs.FileMode
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
