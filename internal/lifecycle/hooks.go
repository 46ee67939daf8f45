package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/proc"
)

// hookTail is how many of a failing hook's last lines are shown.
const hookTail = 20

// keptEnv is what a host hook gets of the caller's environment.
var keptEnv = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TERM", "DISPLAY", "XAUTHORITY",
	"WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SUDO_USER", "SUDO_UID", "SUDO_GID",
}

// runHooks runs the family's host hooks in name order, in the recipe's folder.
func (r *run) runHooks(ctx context.Context) error {
	for _, hook := range r.family.Hooks {
		r.Step("host hook %s", filepath.Base(hook))
		err := r.Runner.Run(ctx, proc.Cmd{
			Argv: []string{hook}, Dir: r.family.Dir, Env: r.hookEnv(),
			Stdout: r.Tool(), Stderr: r.Tool(),
		})
		if err != nil {
			return hookError(hook, err)
		}
	}
	return nil
}

func hookError(hook string, err error) error {
	name := filepath.Base(hook)
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		said := ""
		for _, line := range lastLines(exit.Stderr, hookTail) {
			said += "\n  " + line
		}
		return fmt.Errorf("host hook %s: exit status %d%s", name, exit.Code, said)
	}
	err = fmt.Errorf("host hook %s: %w", name, err)
	if errors.Is(err, fs.ErrNotExist) {
		return hint.Add(err, "does the program in its first line (#!) exist?")
	}
	return err
}

// hookEnv is what the recipe's words stand for. Those of one target are set when
// there is only one; the lists are always set, parted by blanks.
func (r *run) hookEnv() []string {
	var env []string
	for _, name := range keptEnv {
		if value := r.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	var targets, networks []string
	for _, t := range r.targets {
		targets = append(targets, t.FullID())
	}
	for _, n := range r.family.Networks {
		networks = append(networks, n.FullID)
	}
	env = append(env,
		"MEROS_FAMILY="+r.family.Name, "MEROS_ROOT="+r.Paths.Root,
		"MEROS_TARGETS="+strings.Join(targets, " "), "MEROS_NETWORKS="+strings.Join(networks, " "))
	if len(r.targets) == 1 {
		env = append(env, r.targetEnv(r.targets[0])...)
	}
	if len(networks) == 1 {
		env = append(env, "NETWORK_FULL_ID="+networks[0])
	}
	return env
}

func (r *run) targetEnv(t *family.Target) []string {
	id := t.FullID()
	env := []string{"TARGET_FULL_ID=" + id, "TARGET_ROOTFS_IMG=" + r.Paths.Image(id)}
	if t.Kernel != family.KernelNone {
		env = append(env, "KERNEL_IMG="+r.Paths.Kernel(id), "INITRD_IMG="+r.Paths.Initrd(id))
	}
	return env
}

// lastLines returns the last lines of a text that hold anything.
func lastLines(text string, n int) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n\t "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}
