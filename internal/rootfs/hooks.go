package rootfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// Hooks is what the stage of that name reads.
type Hooks struct {
	Files []string // of the host, in the order of running
	Env   []string // NAME=VALUE, beside the plain environment of every tool
}

// runHooks runs the recipe's hooks in the chroot, one after the other, and
// stops at the first that fails.
func runHooks(ctx context.Context, r proc.Runner, root string, a Hooks) error {
	if len(a.Files) == 0 {
		return nil
	}
	c, err := enterChroot(ctx, r, root)
	if err != nil {
		return err
	}
	for _, file := range a.Files {
		if err := c.hook(ctx, file, a); err != nil {
			return errors.Join(err, c.leave())
		}
	}
	return c.leave()
}

// hook runs one hook from the chroot's /run, which is not part of the tree.
func (c *chroot) hook(ctx context.Context, file string, a Hooks) error {
	if err := c.checkInterpreter(file); err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	name := filepath.Base(file)
	inside := "/run/meros-hooks/" + name
	if err := c.add(inside, string(content), 0o755, replaceAlways); err != nil {
		return err
	}
	fmt.Printf("== hook %s\n", file)
	// What a hook fetches by https goes past the proxy of the build.
	if err := c.runEnv(ctx, nil, append(callers("no_proxy"), a.Env...), inside); err != nil {
		return hookError(name, err)
	}
	return c.stillARootfs(name)
}

// stillARootfs makes sure that a hook has left what all that follows needs.
func (c *chroot) stillARootfs(hook string) error {
	if _, err := c.regular("etc/passwd"); err != nil {
		return hint.Add(fmt.Errorf("hook %s: it has removed /etc/passwd, without which there is no system", hook), "look for a path in the hook that is empty or goes up")
	}
	return nil
}

func hookError(name string, err error) error {
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		return fmt.Errorf("hook %s: exit status %d", name, exit.Code)
	}
	return fmt.Errorf("hook %s: %w", name, err)
}

// checkInterpreter makes sure that the program named after #! is in the tree:
// the kernel's own error for a missing one reads as if the hook were missing.
func (c *chroot) checkInterpreter(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	rest, script := strings.CutPrefix(line, "#!")
	fields := strings.Fields(rest)
	if !script || len(fields) == 0 {
		return nil
	}
	if _, info, err := c.stat(fields[0]); err != nil || info.Mode()&0o111 == 0 {
		return hint.Add(fmt.Errorf("hook %s: its interpreter %s is not in the rootfs", filepath.Base(file), fields[0]),
			"add the interpreter's package under <packages> in the build XML, or write the hook for /bin/sh")
	}
	return nil
}
