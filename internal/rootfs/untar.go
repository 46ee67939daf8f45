package rootfs

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// What an archive of a root file system may hold at the most. Alpine's has 520
// entries and 8 MiB.
const (
	maxTarEntries = 100_000
	maxTarBytes   = 2 << 30
)

// untar unpacks a gzip'd tar into root. Whatever is in the archive, nothing is
// written outside of root: os.Root follows no link out of it. Device nodes are
// refused; a guest's kernel makes its own.
func untar(archive io.Reader, root string) error {
	z, err := gzip.NewReader(archive)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	u := &untarrer{root: r, tar: tar.NewReader(z), left: maxTarBytes}
	for range maxTarEntries {
		err := u.next()
		if errors.Is(err, io.EOF) {
			return u.setTimes()
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return fmt.Errorf("unpack: more than %d files", maxTarEntries)
}

type untarrer struct {
	root *os.Root
	tar  *tar.Reader
	left int64 // bytes that may still come
	dirs []*tar.Header
}

func (u *untarrer) next() error {
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
	if err := u.make(name, h); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

func (u *untarrer) make(name string, h *tar.Header) error {
	mode := fs.FileMode(h.Mode).Perm() | special(h.Mode)
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
		return fmt.Errorf("is of kind %q, which a root file system's archive has no need of", h.Typeflag)
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

func (u *untarrer) file(name string, size int64) error {
	if u.left -= size; size < 0 || u.left < 0 {
		return fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxTarBytes))
	}
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, u.tar)
	return errors.Join(err, f.Close())
}

// setTimes gives folders their times back, which the files laid into them changed.
func (u *untarrer) setTimes() error {
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
