package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/ui"
)

const (
	// hookTail is how many of a failing hook's last lines are shown.
	hookTail = 20
	// hookTime is how long one host hook may take. It is meant to set something up
	// on this host, not to wait for a guest.
	hookTime = 2 * time.Minute
)

// keptEnv is what a host hook gets of the caller's environment.
var keptEnv = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TERM", "DISPLAY", "XAUTHORITY",
	"WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SUDO_USER", "SUDO_UID", "SUDO_GID",
}

// runHooks runs a family's host hooks of a phase in order, in the recipe's folder,
// for these targets. It ends with the first that fails.
func (g Guests) runHooks(ctx context.Context, f *family.Family, phase family.HookPhase, targets []*family.Target) error {
	for _, hook := range f.Hooks[phase] {
		g.Step("%s hook %s", phase, filepath.Base(hook))
		log := hookLog{g, f.Name}
		fmt.Fprintf(log, "== %s %s %s\n", time.Now().UTC().Format(time.RFC3339), phase, filepath.Base(hook))
		limit := g.HookTime
		if limit == 0 {
			limit = hookTime
		}
		late := fmt.Errorf("not done within %s: a program it has left behind counts too, unless its output goes elsewhere", limit)
		limited, cancel := context.WithTimeoutCause(ctx, limit, late)
		err := g.Runner.Run(limited, proc.Cmd{
			Argv: []string{hook}, Dir: f.Dir, Env: append(g.hookEnv(f, targets), "MEROS_PHASE="+string(phase)),
			Stdout: io.MultiWriter(log, g.Tool()), Stderr: io.MultiWriter(log, g.Tool()),
		})
		cancel()
		if err != nil {
			return hint.Add(hookError(phase, hook, err), "all it said: meros log %s", hookLogName(f.Name))
		}
	}
	return nil
}

// hookLogName is the log of what a family's host hooks print.
func hookLogName(family string) string { return "hooks-" + family }

// hookLog is a family's log of hooks. It stays small, whatever they print.
type hookLog struct {
	Guests
	family string
}

// Write never fails: what a hook does is worth more than what it says.
func (l hookLog) Write(p []byte) (int, error) {
	if err := l.Paths.AppendLog(hookLogName(l.family), string(p)); err != nil {
		l.Warn("what the hook says is not kept: %v", err)
	}
	return len(p), nil
}

func hookError(phase family.HookPhase, hook string, err error) error {
	what := fmt.Sprintf("%s hook %s", phase, filepath.Base(hook))
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		how, said := fmt.Sprintf("exit status %d", exit.Code), ""
		if exit.Signal != 0 {
			how = "ended by signal " + exit.Signal.String()
		}
		for _, line := range ui.LastLines(exit.Stderr, hookTail) {
			said += "\n  " + line
		}
		return fmt.Errorf("%s: %s%s", what, how, said)
	}
	err = fmt.Errorf("%s: %w", what, err)
	if errors.Is(err, fs.ErrNotExist) {
		return hint.Add(err, "does the program in its first line (#!) exist?")
	}
	return err
}

// hookEnv is what the recipe's words stand for. Those of one target are set when
// there is only one; the lists are always set, parted by blanks.
func (g Guests) hookEnv(f *family.Family, targets []*family.Target) []string {
	var env []string
	for _, name := range keptEnv {
		if value := g.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	var names, networks []string
	for _, t := range targets {
		names = append(names, t.FullID())
	}
	for _, n := range f.Networks {
		networks = append(networks, n.FullID)
	}
	env = append(env,
		"MEROS_FAMILY="+f.Name, "MEROS_ROOT="+g.Paths.Root,
		"MEROS_TARGETS="+strings.Join(names, " "), "MEROS_NETWORKS="+strings.Join(networks, " "))
	if len(targets) == 1 {
		env = append(env, g.targetEnv(targets[0])...)
	}
	if len(networks) == 1 {
		env = append(env, "NETWORK_FULL_ID="+networks[0])
	}
	return env
}

func (g Guests) targetEnv(t *family.Target) []string {
	id := t.FullID()
	env := []string{"TARGET_FULL_ID=" + id, "TARGET_ROOTFS_IMG=" + g.Paths.Image(id)}
	if t.Kernel != family.KernelNone {
		env = append(env, "KERNEL_IMG="+g.Paths.Kernel(id), "INITRD_IMG="+g.Paths.Initrd(id))
	}
	return env
}
