package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/sandbox"
)

// debianBase is what a Debian guest needs beside the bare system: an init that
// hears the power button (logind, which wants dbus) and a way to see its network.
var debianBase = []string{"systemd-sysv", "udev", "dbus", "iproute2"}

// mergedUsr names the suites that have the package usr-is-merged, which spares
// the packages that usrmerge would pull in.
var mergedUsr = map[string]bool{"bookworm": true, "trixie": true, "stable": true, "testing": true, "sid": true, "unstable": true}

// Bootstrap is what the stage of that name reads.
type Bootstrap struct {
	Tool    string // mmdebstrap or debootstrap
	Suite   string
	Arch    string
	Sources []string // lines of sources.list; none: the tool's default mirror
}

// bootstrap makes the bare tree. The lists of packages stay, for the next stage.
func bootstrap(ctx context.Context, r proc.Runner, root string, b Bootstrap) error {
	c := proc.Cmd{Argv: b.argv(root), Stdout: os.Stdout, Stderr: os.Stderr, Env: toolEnv(), Stdin: strings.NewReader(strings.Join(b.Sources, "\n") + "\n")}
	if err := r.Run(ctx, c); err != nil {
		return bootstrapHint(fmt.Errorf("bootstrap %s: %w", b.Suite, lastError(err)), b)
	}
	if err := dropHosts(root); err != nil {
		return err
	}
	if len(b.Sources) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(root, "etc/apt/sources.list"), []byte(strings.Join(b.Sources, "\n")+"\n"), 0o644)
}

// dropHosts removes what the tools leave of the host's own, and the device
// nodes: a guest's kernel brings /dev with it (devtmpfs), and only root can make
// them, which would make its images other than an ordinary user's.
func dropHosts(root string) error {
	paths, err := filepath.Glob(filepath.Join(root, "dev/*"))
	if err != nil {
		return err
	}
	for _, path := range append(paths, filepath.Join(root, "etc/resolv.conf"), filepath.Join(root, "etc/hostname")) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func (b Bootstrap) argv(root string) []string {
	if b.Tool == "debootstrap" {
		return b.debootstrap(root)
	}
	argv := []string{"mmdebstrap", "--variant=minbase", "--mode=root", "--architectures=" + b.Arch, "--skip=check/empty,cleanup/apt,cleanup/reproducible"}
	if mergedUsr[b.Suite] {
		argv = append(argv, "--include=usr-is-merged")
	}
	argv = append(argv, b.Suite, root)
	if len(b.Sources) > 0 {
		argv = append(argv, "-") // sources.list on standard input
	}
	return argv
}

func (b Bootstrap) debootstrap(root string) []string {
	argv := []string{"debootstrap", "--variant=minbase", "--arch=" + b.Arch}
	if _, err := os.Stat(debianKeyring); err == nil {
		argv = append(argv, "--keyring="+debianKeyring)
	}
	argv = append(argv, b.Suite, root)
	if len(b.Sources) > 0 {
		fields := strings.Fields(b.Sources[0])
		argv = append(argv, fields[len(fields)-3])
	}
	return argv
}

func bootstrapHint(err error, b Bootstrap) error {
	text := err.Error()
	switch {
	case errors.Is(err, proc.ErrNotFound):
		return hint.Add(err, "install %s, or run ./dist-conf.sh", b.Tool)
	case strings.Contains(text, "404"), strings.Contains(text, "does not have a Release file"), strings.Contains(text, "No such script"):
		return hint.Add(err, "the mirror has no suite %q: check release= and mirror= in the build XML", b.Suite)
	case strings.Contains(text, "resolve"), strings.Contains(text, "Could not connect"), strings.Contains(text, "retrieving"),
		strings.Contains(text, "Failed to fetch"):
		return hint.Add(err, "the mirror cannot be reached: check the network, or name another with mirror= in the build XML")
	case strings.Contains(text, "NO_PUBKEY"), strings.Contains(text, "not signed"):
		return hint.Add(err, "the archive's signature cannot be checked: install the distribution's keyring package")
	}
	return err
}

// Install is what the stage of that name reads.
type Install struct {
	Packages []string
	Kernel   string // package of the kernel; "": none
	Out      string // folder on the host that the kernel and its initrd are moved to
}

// install adds packages and, with one more, the kernel, which is moved out of
// the tree together with an initrd made for virtual machines.
func install(ctx context.Context, r proc.Runner, root string, a Install) error {
	c, err := enterChroot(ctx, r, root)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx, c), c.leave())
}

func (a Install) run(ctx context.Context, c *chroot) error {
	packages := a.Packages
	if a.Kernel != "" {
		packages = append(append([]string{}, packages...), a.Kernel, "initramfs-tools")
		if err := c.holdInitrd(ctx); err != nil {
			return err
		}
	}
	if !c.hasLists() {
		if err := c.run(ctx, nil, "apt-get", "-q", "update"); err != nil {
			return fmt.Errorf("update the lists of packages: %w", lastError(err))
		}
	}
	argv := append([]string{"apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "install", "--"}, packages...)
	if err := c.run(ctx, nil, argv...); err != nil {
		return installHint(fmt.Errorf("install packages: %w", lastError(err)))
	}
	if a.Kernel != "" {
		if err := c.makeInitrd(ctx, a.Out); err != nil {
			return err
		}
	}
	return c.dropSecretsAndLists()
}

func installHint(err error) error {
	if strings.Contains(err.Error(), "Unable to locate package") {
		return hint.Add(err, "check the names under <packages> in the build XML against the release's packages")
	}
	return err
}

// hasLists reports whether the bootstrap tool left the lists of packages.
func (c *chroot) hasLists() bool {
	lists, _ := filepath.Glob(filepath.Join(c.root, "var/lib/apt/lists/*Release"))
	return len(lists) > 0
}

// dropSecretsAndLists removes what belongs to no cached stage: host keys that a
// package made, and downloads.
func (c *chroot) dropSecretsAndLists() error {
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/log/apt/*", "etc/machine-id", "var/lib/dbus/machine-id"} {
		found, err := filepath.Glob(filepath.Join(c.root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// toolEnv is the environment of bootstrap tools: nothing of the caller's but
// the way to the network.
func toolEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// lastError picks the lines of a tool's output that say why it failed: the
// last of them is often only that it did.
func lastError(err error) error {
	exit, ok := errors.AsType[*proc.ExitError](err)
	if !ok {
		return err
	}
	var told []string
	for line := range strings.Lines(exit.Stderr) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "Err:") || strings.Contains(line, "No space left") {
			told = append(told, line)
		}
	}
	if len(told) == 0 {
		return err
	}
	if len(told) > 4 {
		told = told[:4]
	}
	return fmt.Errorf("%w (%s)", &proc.ExitError{Argv: exit.Argv, Code: exit.Code, Signal: exit.Signal}, strings.Join(told, "; "))
}

// steps by name, for the sandbox.
const (
	stepBootstrap = "bootstrap"
	stepInstall   = "packages"
	stepPopulate  = "files"
	stepHooks     = "hooks"
	stepFinish    = "identity"
)

// Steps are the bodies of the stages of a Plan, by name.
func Steps() map[string]sandbox.Step {
	return map[string]sandbox.Step{
		stepBootstrap: sandbox.Bind(bootstrap),
		stepInstall:   sandbox.Bind(install),
		stepPopulate:  sandbox.Bind(populate),
		stepHooks:     sandbox.Bind(runHooks),

		stepAlpineBootstrap: sandbox.Bind(alpineBootstrap),
		stepAlpineInstall:   sandbox.Bind(alpineInstall),
	}
}
