package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"meros/internal/proc"
	"meros/internal/sandbox"
)

// chroot is a tree made ready for programs to run in: mounts, name servers, and
// a policy that starts no daemon.
type chroot struct {
	tree
	r       proc.Runner
	unmount func() error
	lent    []*lentFile
}

// denyDaemons tells invoke-rc.d(8) that no action is allowed (status 101), so
// that a package's postinst starts nothing on the host.
const denyDaemons = "#!/bin/sh\nexit 101\n"

func enterChroot(_ context.Context, r proc.Runner, root string) (*chroot, error) {
	unmount, err := sandbox.MountChroot(root)
	if err != nil {
		return nil, err
	}
	c := &chroot{tree: tree{root}, r: r, unmount: unmount}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, c.leave())
	}
	if err := c.lend("etc/resolv.conf", resolv, 0o644); err != nil {
		return nil, errors.Join(err, c.leave())
	}
	if err := c.lend("usr/sbin/policy-rc.d", []byte(denyDaemons), 0o755); err != nil {
		return nil, errors.Join(err, c.leave())
	}
	return c, nil
}

// run runs a program of the chroot. out, where given, gets its output too.
func (c *chroot) run(ctx context.Context, out io.Writer, argv ...string) error {
	return c.runEnv(ctx, out, nil, argv...)
}

func (c *chroot) runEnv(ctx context.Context, out io.Writer, env []string, argv ...string) error {
	var stdout, stderr io.Writer = os.Stdout, os.Stderr
	if out != nil {
		stdout, stderr = io.MultiWriter(stdout, out), io.MultiWriter(stderr, out)
	}
	err := c.r.Run(ctx, proc.Cmd{
		Argv:   append([]string{"chroot", c.root}, argv...),
		Env:    append(toolEnv(), env...),
		Dir:    "/",
		Stdout: stdout,
		Stderr: stderr,
	})
	if errors.Is(err, proc.ErrLeftBehind) {
		fmt.Printf("== %s left a process behind, which ends with the stage\n", argv[0])
		return nil
	}
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		exit.Argv = argv
	}
	return err
}

// leave takes away what enterChroot laid.
func (c *chroot) leave() error {
	// The mounts first: one of a hook's may lie over what was lent.
	errs := []error{c.unmount()}
	for _, l := range slices.Backward(c.lent) {
		errs = append(errs, c.takeBack(l))
	}
	return errors.Join(errs...)
}

// lentFile is a file put into the tree for the time of a stage. The tree's own
// is set aside in memory and comes back, unless the stage itself replaced what
// was lent: then that is what the recipe wants.
type lentFile struct {
	name    string
	content string
	mode    fs.FileMode
	aside   bool // the tree has one of its own
}

func (c *chroot) lend(name string, content []byte, mode fs.FileMode) error {
	if !c.has(filepath.Dir(name)) {
		return nil // a tree without the folder has no use for the file
	}
	l := &lentFile{name: name, content: string(content), mode: mode}
	at, err := c.at(name)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(at); err == nil {
		l.aside = true
		if err := os.Rename(at, at+asideSuffix); err != nil {
			return fmt.Errorf("set %s aside: %w", name, err)
		}
	}
	c.lent = append(c.lent, l)
	if err := os.WriteFile(at, content, mode); err != nil {
		return fmt.Errorf("lend %s: %w", name, err)
	}
	return os.Chmod(at, mode)
}

const asideSuffix = ".meros-aside"

// takeBack finds the file anew: a hook may have made its folder a link since.
func (c *chroot) takeBack(l *lentFile) error {
	at, err := c.at(l.name)
	if err != nil {
		return err
	}
	if !l.untouched(at) {
		if !l.aside {
			return nil
		}
		return os.Remove(at + asideSuffix)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !l.aside {
		return nil
	}
	return os.Rename(at+asideSuffix, at)
}

// untouched reports whether the lent file is as it was lent, or gone.
func (l *lentFile) untouched(at string) bool {
	info, err := os.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	now, err := os.ReadFile(at)
	return err == nil && string(now) == l.content
}
