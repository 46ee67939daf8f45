package session

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// lockOf names the lock of a folder that is pulled to.
func lockOf(dest string) string { return fmt.Sprintf("pull-%x", digest(dest)) }

// partialPrefix begins the names of the hidden folders beside dest to which a target's files
// come. They tell the target and dest: what came of one guest is never taken for
// another's, and no neighbour's folder is removed.
func partialPrefix(dest, fullID string) string {
	return fmt.Sprintf(".meros-%x-", digest(filepath.Base(dest)+"\x00"+fullID))
}

func digest(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:8]
}

// globQuote makes a path a pattern for itself.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// leftovers returns the folders that pulls of a target to dest have left, the newest
// last. They have to be ours: dest may be where others write too.
func leftovers(dest, fullID string) []string {
	var dirs []string
	changed := map[string]time.Time{}
	found, _ := filepath.Glob(filepath.Join(globQuote(filepath.Dir(dest)), partialPrefix(dest, fullID)+"*.partial"))
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
			dirs, changed[dir] = append(dirs, dir), info.ModTime()
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return changed[a].Compare(changed[b]) })
	return dirs
}

// freshDir makes an empty folder beside dest, for the owner only. Of what pulls that
// broke off have left there, it returns the newest, with which this one goes on, or "",
// and removes the others. The caller holds dest's lock.
func freshDir(paths layout.Paths, dest, fullID string) (fresh, stale string, err error) {
	parent := filepath.Dir(dest)
	if err := paths.MkdirAll(parent, 0o700); err != nil {
		return "", "", err
	}
	for _, dir := range leftovers(dest, fullID) {
		if stale != "" {
			if err := removeTree(stale); err != nil {
				return "", "", err
			}
		}
		stale = dir
	}
	fresh, err = os.MkdirTemp(parent, partialPrefix(dest, fullID)+"*.partial")
	return fresh, stale, err
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

// swapNames makes two folders change their names. Tests have one that fails.
var swapNames = func(one, other string) error {
	return unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
}

// swap puts fresh in dest's place. What was there is at fresh afterwards, or
// gone.
func swap(fresh, dest string) error {
	err := swapNames(fresh, dest)
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
