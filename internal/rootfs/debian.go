package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"meros/internal/mirror"
	"meros/internal/proc"
	"meros/internal/sandbox"
	"meros/internal/store"
)

// mergedUsr names the suites that have the package usr-is-merged, which spares
// the packages that usrmerge would pull in.
var mergedUsr = map[string]bool{"bookworm": true, "trixie": true, "stable": true, "testing": true, "sid": true, "unstable": true}

// Bootstrap is what the stage of that name reads.
type Bootstrap struct {
	Tool    string // mmdebstrap or debootstrap
	Distro  string // one of distros
	Suite   string
	Arch    string
	Sources []string // lines of sources.list; none: the tool's default mirror

	Security string // the mirror of the security suite, where Sources are none; "": not known
}

func (b Bootstrap) distro() distro { return distros[b.Distro] }

// derived tells a distribution made of Debian from Debian itself.
func (b Bootstrap) derived() bool { return b.Distro != "debian" }

// bootstrap makes the bare tree. The lists of packages stay, for the next stage.
func bootstrap(ctx context.Context, r proc.Runner, root string, b Bootstrap) error {
	if b.derived() {
		if err := b.distro().checkKeyring(); err != nil {
			return fmt.Errorf("bootstrap %s: %w", b.Suite, err)
		}
	}
	c := proc.Cmd{Argv: b.argv(root), Stdout: os.Stdout, Stderr: os.Stderr, Env: toolEnv(), Stdin: strings.NewReader(mirror.PlainText(strings.Join(b.Sources, "\n") + "\n"))}
	if err := r.Run(ctx, c); err != nil {
		return bootstrapHint(fmt.Errorf("bootstrap %s: %w", b.Suite, lastError(err)), b)
	}
	if err := dropHosts(root); err != nil {
		return err
	}
	if err := b.writeSources(root); err != nil || b.Tool != "debootstrap" {
		return err
	}
	if err := upgradeBase(ctx, r, root); err != nil {
		return bootstrapHint(fmt.Errorf("bootstrap %s: %w", b.Suite, err), b)
	}
	return nil
}

// upgradeBase brings a tree of debootstrap's up to date, which knows one suite only:
// neither updates nor security updates are in it, nor the lists of them.
func upgradeBase(ctx context.Context, r proc.Runner, root string) error {
	c, err := enterApt(ctx, r, root)
	if err != nil {
		return err
	}
	err = c.remove("var/lib/apt/lists/*")
	if err == nil {
		err = c.update(ctx)
	}
	if err == nil {
		err = c.apt(ctx, "upgrade the base", slices.Concat(aptGet, []string{"dist-upgrade"})...)
	}
	return errors.Join(err, c.leave())
}

// writeSources leaves the tree with all suites, where the tool leaves only the
// first: debootstrap does, whose own default mirror is read from what it wrote.
func (b Bootstrap) writeSources(root string) error {
	const file = "etc/apt/sources.list"
	t, lines := tree{root}, b.Sources
	if len(lines) == 0 && b.Tool == "debootstrap" {
		content, err := t.read(file)
		if err != nil {
			return err
		}
		if line := strings.TrimSpace(string(content)); strings.HasPrefix(line, "deb ") {
			lines, _ = b.distro().lines(mirrors{Main: mirrorOf(line), Security: b.Security}, b.Suite)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return t.add(file, strings.Join(lines, "\n")+"\n", 0o644, replaceAlways)
}

// dropHosts removes what the tools leave of the host's own, and the device
// nodes: a guest's kernel brings /dev with it (devtmpfs), and only root can make
// them, which would make its images other than an ordinary user's.
func dropHosts(root string) error {
	return tree{root}.remove("dev/*", "etc/resolv.conf", "etc/hostname")
}

func (b Bootstrap) argv(root string) []string {
	if b.Tool == "debootstrap" {
		return b.debootstrap(root)
	}
	argv := []string{"mmdebstrap", "--variant=minbase", "--mode=root", "--architectures=" + b.Arch, "--skip=check/empty,cleanup/apt,cleanup/reproducible"}
	if b.derived() {
		argv = append(argv, "--include="+b.distro().keyringPackage)
	} else if mergedUsr[b.Suite] {
		argv = append(argv, "--include=usr-is-merged")
	}
	argv = append(argv, b.Suite, root)
	if len(b.Sources) > 0 {
		argv = append(argv, "-") // sources.list on standard input
	}
	return argv
}

func (b Bootstrap) debootstrap(root string) []string {
	// Without a keyring it would only warn, and take what it gets (debootstrap(8)).
	argv := []string{"debootstrap", "--variant=minbase", "--force-check-gpg", "--arch=" + b.Arch}
	if _, err := os.Stat(b.distro().keyring); err == nil || b.derived() {
		argv = append(argv, "--keyring="+b.distro().keyring)
	}
	if b.derived() {
		argv = append(argv, "--include="+b.distro().keyringPackage)
	}
	argv = append(argv, b.Suite, root)
	if len(b.Sources) > 0 {
		argv = append(argv, mirror.Plain(mirrorOf(b.Sources[0])))
	}
	return argv
}

// mirrorOf is the address in a line of sources.list, whose one option is followed
// by it (sources.list(5)).
func mirrorOf(line string) string {
	fields := strings.Fields(line)
	if strings.HasPrefix(fields[1], "[") {
		return fields[2]
	}
	return fields[1]
}

// debootstrapDir is where debootstrap has what it does for each suite.
const debootstrapDir = "/usr/share/debootstrap/"

// addTool adds to a key the tool and the archive's keys, as they are on this host.
func (b Bootstrap) addTool(key *store.KeyBuilder) error {
	tool, err := proc.Find(b.Tool)
	if err != nil {
		return err
	}
	files := []string{tool}
	if b.Tool == "debootstrap" {
		files = append(files, debootstrapDir+"functions", debootstrapDir+"scripts/"+b.Suite)
	}
	for _, file := range files {
		if err := addIfThere(key, "tool", file); err != nil {
			return err
		}
	}
	return addIfThere(key, "keys of the archive", b.distro().keyring)
}

// addIfThere leaves it to those who need a file to miss it.
func addIfThere(key *store.KeyBuilder, label, file string) error {
	err := key.AddFile(label, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Install is what the stage of that name reads.
type Install struct {
	Packages []string
	Kernel   string // package of the kernel; "": none
	Unpack   Unpack // or a kernel that is not installed
	Out      string // folder on the host that the kernel and its initrd are moved to
}

// install adds packages and, with one more, the kernel, which is moved out of
// the tree together with an initrd made for virtual machines.
func install(ctx context.Context, r proc.Runner, root string, a Install) error {
	c, err := enterApt(ctx, r, root)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx, c), c.leave())
}

func (a Install) run(ctx context.Context, c *chroot) error {
	if !c.hasLists() {
		if err := c.update(ctx); err != nil {
			return err
		}
	}
	var u unpacked
	if a.Unpack.wanted() {
		var err error
		if u, err = c.unpackKernel(ctx, a.Unpack); err != nil {
			return fmt.Errorf("%s: %w", a.Unpack, err)
		}
	}
	packages := slices.Clone(a.Packages)
	if a.Kernel != "" {
		packages = append(packages, a.Kernel)
	}
	makes := a.Kernel != "" || u.drivers && a.Unpack.Initrd == ""
	switch {
	case makes:
		packages = append(packages, "initramfs-tools")
		if err := c.holdInitrd(ctx); err != nil {
			return err
		}
	case u.modules:
		packages = append(packages, "kmod")
	}
	if err := c.apt(ctx, "install packages", slices.Concat(aptGet, []string{"install", "--"}, packages)...); err != nil {
		return c.suggest(ctx, err, aptUnknown, "apt-cache", "pkgnames")
	}
	if u.modules {
		if err := c.run(ctx, nil, "depmod", u.version); err != nil {
			return fmt.Errorf("%s: list what its modules need: %w", a.Unpack, err)
		}
	}
	if err := a.takeOut(ctx, c, makes); err != nil {
		return err
	}
	return c.dropSecretsAndLists()
}

// takeOut moves the kernel, if there is one, out of the tree, with the initrd that
// is made for it or that the recipe names.
func (a Install) takeOut(ctx context.Context, c *chroot, makes bool) error {
	if a.Kernel == "" && !a.Unpack.wanted() {
		return nil
	}
	if makes {
		if err := c.makeInitrd(ctx, a.Out); err != nil {
			return err
		}
	}
	if a.Unpack.Initrd != "" {
		content, err := os.ReadFile(a.Unpack.Initrd)
		if err == nil {
			err = os.WriteFile(filepath.Join(a.Out, InitrdFile), content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return c.takeKernel(a.Out)
}

// dropSecretsAndLists removes what belongs to no cached stage: host keys that a
// package made, downloads, and what only tells of the making: logs, caches made
// of times, copies of lists as they were before.
func (c *chroot) dropSecretsAndLists() error {
	return c.remove(
		"etc/ssh/ssh_host_*", "var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/log/apt/*", "etc/machine-id", "var/lib/dbus/machine-id",
		"var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log", "var/log/fontconfig.log", "var/cache/ldconfig/aux-cache",
		"var/cache/debconf/*-old", "var/lib/dpkg/*-old", "var/lib/apt/extended_states-old",
	)
}

// toolEnv is the environment of bootstrap tools: nothing of the caller's but
// the way to the network.
func toolEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	env = append(env, callers("http_proxy", "https_proxy", "TMPDIR")...)
	if mirror.Used(os.Getenv) {
		// The proxy of the build heeds no_proxy itself. Tools that did would go past it,
		// and past what is kept.
		return env
	}
	return append(env, callers("no_proxy")...)
}

// callers are those of the named variables that the caller of meros has set.
func callers(names ...string) []string {
	var env []string
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
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
