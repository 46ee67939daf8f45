package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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

// partials returns the hidden folders beside dest that pulls have left. The caller
// holds dest's lock.
func partials(dest string) []string {
	parent, name := filepath.Split(dest)
	dirs, _ := filepath.Glob(filepath.Join(globQuote(parent), "."+globQuote(name)+".*.partial"))
	return dirs
}

// globQuote makes a path a pattern for itself.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// staleDir returns the folder beside dest with which a pull that broke off can be
// gone on with, or "". It has to be ours: dest may be where others write too.
func staleDir(dest string) string {
	newest, when := "", time.Time{}
	for _, dir := range partials(dest) {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 || info.ModTime().Before(when) {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
			newest, when = dir, info.ModTime()
		}
	}
	return newest
}

// freshDir makes an empty folder beside dest, for the owner only, and removes
// what calls that broke off have left there, but for stale.
func freshDir(paths layout.Paths, dest, stale string) (string, error) {
	parent, name := filepath.Split(dest)
	if err := paths.MkdirAll(filepath.Clean(parent), 0o700); err != nil {
		return "", err
	}
	for _, dir := range partials(dest) {
		if dir == stale {
			continue
		}
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
