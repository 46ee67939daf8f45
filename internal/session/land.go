package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"meros/internal/layout"
)

// localFault is an error of the host, which is never taken for a guest's answer.
type localFault struct{ error }

func (f localFault) Unwrap() error { return f.error }

func local(err error) error {
	if err == nil {
		return nil
	}
	return localFault{err}
}

// freshDir makes an empty folder beside dest, for the owner only, and removes
// what calls that were killed have left there. The caller holds dest's lock.
func freshDir(paths layout.Paths, dest string) (string, error) {
	parent, name := filepath.Split(dest)
	if err := paths.MkdirAll(filepath.Clean(parent), 0o700); err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(parent, "."+name+".*.partial"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		if err := removeTree(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(parent, "."+name+".*.partial")
}

// removeTree removes a folder and all in it, folders without permissions too.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// swap puts fresh in dest's place. What was there is at fresh afterwards, or
// gone.
func swap(fresh, dest string) error {
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dest, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		err = os.Rename(fresh, dest)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // a file system that cannot exchange
		if err = removeTree(dest); err == nil {
			err = os.Rename(fresh, dest)
		}
	}
	if err != nil {
		return localFault{fmt.Errorf("put %s in place: %w", dest, err)}
	}
	return nil
}
