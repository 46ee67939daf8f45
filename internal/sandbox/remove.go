package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"meros/internal/proc"
)

const removeStep = "remove"

// Remove removes a tree that steps have made: files of all mapped owners, and
// files that a step made immutable. It works after ctx has ended.
func Remove(ctx context.Context, r proc.Runner, path string) error {
	err := removeTree(path)
	if err == nil || os.Geteuid() == 0 {
		return err
	}
	spec := Spec{Step: removeStep, Args: path, Tree: Tree{Root: filepath.Dir(path)}}
	return Run(context.WithoutCancel(ctx), r, spec, io.Discard)
}

func removeTree(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := allowChanges(path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// allowChanges takes the flags immutable and append-only (chattr(1)) and the
// bits that close a folder to its owner off all below path.
func allowChanges(path string) error {
	return filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if d == nil || !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		if d.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		f, openErr := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if openErr != nil {
			return nil // what matters fails again, with its own error
		}
		defer f.Close()
		flags, getErr := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if getErr == nil && flags&(immutable|appendOnly) != 0 {
			return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^(immutable|appendOnly))
		}
		return nil
	})
}

// Of <linux/fs.h>: FS_IMMUTABLE_FL and FS_APPEND_FL.
const (
	immutable  = 0x10
	appendOnly = 0x20
)
