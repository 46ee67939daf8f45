package rootfs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"meros/internal/family"
	"meros/internal/hint"
	"meros/internal/mirror"
	"meros/internal/proc"
	"meros/internal/store"
	"meros/internal/tarball"
)

const (
	stepAlpineBootstrap = "alpine-bootstrap"
	stepAlpineInstall   = "alpine-packages"

	// alpineStable is the branch of the newest release, on every mirror.
	alpineStable = "latest-stable"
	// alpineKernel is the kernel for virtual machines.
	alpineKernel = "linux-virt"
	// maxIndex and maxMinirootfs bound downloads, in bytes: they are some 4 KiB and
	// 4 MiB.
	maxIndex, maxMinirootfs = 1 << 20, 256 << 20
)

// alpineInitrd are the features of mkinitfs(1) that reach a root file system on the
// disks that libvirt offers. Of its own accord it also takes in keyboards, screens,
// memory cards and RAIDs.
const alpineInitrd = "ata base ext4 scsi virtio"

// alpineInitrdConf is where mkinitfs reads them; apk leaves a file of /etc that is
// there before its package be, and lays the package's own beside it.
const alpineInitrdConf = "etc/mkinitfs/mkinitfs.conf"

// alpineBase is what an Alpine guest with OpenRC needs beside the minirootfs;
// acpid hears the power button.
var alpineBase = []string{"alpine-base", "acpid"}

// AlpineBootstrap is what the first stage of an Alpine target reads.
type AlpineBootstrap struct {
	Mirror, Branch, Arch string
	Out                  string // folder for the download
	Signer               string // fingerprint of the key that has to have signed it
}

// AlpineInstall is what the second stage of an Alpine target reads.
type AlpineInstall struct {
	Mirror, Branch string
	Packages       []string
	Kernel         string   // package; "": none
	ApkDirs        []string // folders of the host laid over /etc/apk first
	Out            string
}

func planAlpine(t *family.Target, o Options) (base, install Stage, err error) {
	b, err := alpineSource(t)
	if err != nil {
		return base, install, err
	}
	key := stageKey(stepAlpineBootstrap).Add("mirror", b.Mirror).Add("branch", b.Branch).Add("architecture", b.Arch)
	base = newBase(key, fmt.Sprintf("bootstrapping alpine %s from its minirootfs", b.Branch), b, o)
	base.Step = stepAlpineBootstrap
	base.Args = func(out string) any { b.Out = out; return b }
	install, err = planAlpineInstall(t, b, base.Key)
	return base, install, err
}

// alpineSource says where a target's minirootfs is.
func alpineSource(t *family.Target) (AlpineBootstrap, error) {
	b := AlpineBootstrap{Mirror: strings.TrimSuffix(t.Mirror, "/"), Branch: alpineBranch(t), Arch: alpineArch(t), Signer: alpineSigner}
	var err error
	if b.Mirror == "" {
		if b.Mirror, err = hostAlpineMirror("/etc/apk/repositories"); err != nil {
			err = hint.Add(err, "name one with mirror=\"https://…/alpine\" in %s", t.BuildFile)
		}
	}
	return b, err
}

// releasesFile lists what there is of a branch, with sums.
const releasesFile = "latest-releases.yaml"

// folder is where a mirror has the archives of a branch.
func (b AlpineBootstrap) folder() string {
	return b.Mirror + "/" + b.Branch + "/releases/" + b.Arch + "/"
}

func planAlpineInstall(t *family.Target, b AlpineBootstrap, below store.Key) (Stage, error) {
	a := AlpineInstall{Mirror: b.Mirror, Branch: b.Branch, Packages: slices.Clone(alpineBase)}
	if t.Init == family.InitBusybox {
		a.Packages = nil
	}
	if t.HasSession() {
		a.Packages = append(a.Packages, "openssh-server", "openssh-sftp-server")
	}
	a.Packages = append(a.Packages, t.Packages...)
	if t.Kernel == family.KernelDistro {
		a.Kernel = alpineKernel
	}
	for _, dir := range t.Includes {
		apk := filepath.Join(dir, "etc/apk")
		if _, err := os.Stat(apk); err == nil {
			a.ApkDirs = append(a.ApkDirs, apk)
		}
	}
	s, err := newRecipeStage(stepInstall, fmt.Sprintf("installing %d packages", len(a.Packages)), nil, func() (*store.KeyBuilder, error) {
		key := stageKey(stepAlpineInstall).Add(Below, string(below)).Add("packages", a.Packages...).Add("kernel", a.Kernel)
		if a.Kernel != "" {
			key.Add("features of the initrd", alpineInitrd)
		}
		for _, dir := range a.ApkDirs {
			if err := key.AddTree("/etc/apk", dir); err != nil {
				return nil, err
			}
		}
		return key, nil
	})
	s.Step = stepAlpineInstall
	s.Args = func(out string) any { a.Out = out; return a }
	return s, err
}

func alpineBranch(t *family.Target) string {
	switch {
	case t.Release == "":
		return alpineStable
	case regexp.MustCompile(`^[0-9]+\.[0-9]+$`).MatchString(t.Release):
		return "v" + t.Release
	}
	return t.Release
}

// alpineArch is the recipe's architecture, else the host's in Alpine's words.
func alpineArch(t *family.Target) string {
	arch := t.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	for words, alpine := range map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "x86", "i386": "x86"} {
		if arch == words {
			return alpine
		}
	}
	return arch
}

// hostAlpineMirror is the mirror that an Alpine host takes its own packages from:
// the first address in the file, without branch and repository.
func hostAlpineMirror(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err == nil {
		for line := range strings.Lines(string(content)) {
			fields := strings.Split(strings.TrimSpace(line), "/")
			if n := len(fields); n > 3 && strings.HasPrefix(line, "http") {
				return strings.Join(fields[:n-2], "/"), nil
			}
		}
	}
	return "", fmt.Errorf("%w: none of Alpine is known", ErrMirror)
}

// minirootfs is an entry of a mirror's latest-releases.yaml.
type minirootfs struct {
	Flavor string `yaml:"flavor"`
	File   string `yaml:"file"`
	SHA256 string `yaml:"sha256"`
}

var (
	minirootfsName = regexp.MustCompile(`^alpine-minirootfs-[0-9a-z._]+-[0-9a-z_]+\.tar\.gz$`)
	sha256Form     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// parseReleases finds the minirootfs in a mirror's latest-releases.yaml.
func parseReleases(index []byte) (minirootfs, error) {
	var entries []minirootfs
	if err := yaml.Unmarshal(index, &entries); err != nil {
		return minirootfs{}, fmt.Errorf("%w: latest-releases.yaml: %w", ErrMirror, err)
	}
	for _, e := range entries {
		if e.Flavor != "alpine-minirootfs" {
			continue
		}
		if !minirootfsName.MatchString(e.File) || !sha256Form.MatchString(e.SHA256) {
			return minirootfs{}, fmt.Errorf("%w: latest-releases.yaml: minirootfs with the file %q and sha256 %q", ErrMirror, e.File, e.SHA256)
		}
		return e, nil
	}
	return minirootfs{}, fmt.Errorf("%w: latest-releases.yaml names no minirootfs", ErrMirror)
}

// alpineBootstrap unpacks the branch's minirootfs, verified, into root.
func alpineBootstrap(ctx context.Context, r proc.Runner, root string, b AlpineBootstrap) error {
	folder := b.folder()
	var index bytes.Buffer
	if err := get(ctx, folder+releasesFile, &index, maxIndex); err != nil {
		return fmt.Errorf("bootstrap alpine %s: %w", b.Branch, err)
	}
	found, err := parseReleases(index.Bytes())
	if err != nil {
		return fmt.Errorf("bootstrap alpine %s: %w", b.Branch, err)
	}
	fmt.Printf("minirootfs: %s sha256 %s\n", found.File, found.SHA256)
	archive := filepath.Join(b.Out, "minirootfs.tar.gz")
	if err := getVerified(ctx, folder+found.File, archive, found.SHA256, maxMinirootfs); err != nil {
		return fmt.Errorf("bootstrap alpine %s: %w", b.Branch, err)
	}
	signed := signature{file: archive, address: folder + found.File + ".asc", signer: b.Signer}
	if err := signed.check(ctx, r); err != nil {
		return fmt.Errorf("bootstrap alpine %s: %w", b.Branch, errors.Join(err, os.Remove(archive)))
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := untar(f, root); err != nil {
		return fmt.Errorf("bootstrap alpine %s: %s: %w", b.Branch, found.File, err)
	}
	return errors.Join(dropHosts(root), os.Remove(archive))
}

// untar unpacks a gzip'd tar into root.
func untar(archive io.Reader, root string) error {
	z, err := gzip.NewReader(archive)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return tarball.Unpack(z, root, nil)
}

// insideMirror is where a mirror that is a folder of the host is seen in a chroot.
const insideMirror = "/run/meros-mirror"

// alpineInstall adds packages with the tree's own apk, which verifies the
// signatures of the repositories with the keys in /etc/apk/keys.
func alpineInstall(ctx context.Context, r proc.Runner, root string, a AlpineInstall) error {
	for _, dir := range a.ApkDirs {
		if err := copyTree(root, "/etc/apk", dir, account{}); err != nil {
			return fmt.Errorf("lay %s over /etc/apk: %w", dir, err)
		}
	}
	c, err := enterChroot(ctx, r, root)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx, c), c.leave())
}

func (a AlpineInstall) run(ctx context.Context, c *chroot) error {
	repositories, err := a.repositories(c)
	if err != nil {
		return err
	}
	if a.Kernel != "" {
		// The kernel's package has its initrd made at once, by a trigger.
		if err := c.add(alpineInitrdConf, "# Only what a virtual machine's disk needs.\nfeatures=\""+alpineInitrd+"\"\n", 0o644, replaceAlways); err != nil {
			return err
		}
	}
	argv := []string{"apk", "add", "--no-cache", "--no-progress", "--repositories-file", repositories, "--"}
	argv = append(argv, a.Packages...)
	if a.Kernel != "" {
		argv = append(argv, a.Kernel)
	}
	if len(argv) > 7 {
		if err := c.run(ctx, nil, argv...); err != nil {
			err = apkHint(fmt.Errorf("install packages: %w", apkError(err)))
			return c.suggest(ctx, err, apkUnknown, "apk", "search", "--quiet", "--no-cache", "--repositories-file", repositories)
		}
	}
	if a.Kernel != "" {
		return errors.Join(c.remove(alpineInitrdConf+".apk-new"), c.takeAlpineKernel(a.Out))
	}
	return nil
}

// apkRepositories is where apk finds its repositories (apk-repositories(5)).
const apkRepositories = "/etc/apk/repositories"

// repositories writes /etc/apk/repositories, unless the recipe brings one, and
// returns the file, as seen in the chroot, that apk is to read: one that names
// what the build's own proxy and a folder of the host are seen as.
func (a AlpineInstall) repositories(c *chroot) (string, error) {
	own := slices.ContainsFunc(a.ApkDirs, func(dir string) bool {
		_, err := os.Lstat(filepath.Join(dir, "repositories"))
		return err == nil
	})
	branch, err := a.branch(c.tree)
	if err != nil {
		return "", err
	}
	content := []byte(a.Mirror + "/" + branch + "/main\n" + a.Mirror + "/" + branch + "/community\n")
	if own {
		content, err = c.read(apkRepositories)
	} else {
		err = c.add(apkRepositories, string(content), 0o644, replaceAlways)
	}
	if err != nil {
		return "", err
	}
	seenAs := mirror.PlainText(string(content))
	if folder, isFile := strings.CutPrefix(a.Mirror, "file://"); isFile && !own {
		if err := c.showFolder(folder); err != nil {
			return "", err
		}
		seenAs = strings.ReplaceAll(seenAs, a.Mirror, insideMirror)
	}
	if seenAs == string(content) {
		return apkRepositories, nil
	}
	const seen = "/run/meros-repositories"
	return seen, c.add(seen, seenAs, 0o644, replaceAlways)
}

// alpineRelease begins /etc/alpine-release.
var alpineRelease = regexp.MustCompile(`^[0-9]+\.[0-9]+`)

// branch is the one whose packages belong to the tree: latest-stable is that of the
// minirootfs only until the next release.
func (a AlpineInstall) branch(t tree) (string, error) {
	if a.Branch != alpineStable {
		return a.Branch, nil
	}
	content, err := t.read("etc/alpine-release")
	if err != nil {
		return "", err
	}
	release := alpineRelease.Find(content)
	if release == nil {
		return "", fmt.Errorf("/etc/alpine-release: %q is no release", content)
	}
	return "v" + string(release), nil
}

// showFolder lets programs in the chroot see a mirror that is a folder of the host.
func (c *chroot) showFolder(folder string) error {
	at, err := c.mkdir(insideMirror)
	if err != nil {
		return err
	}
	if err := unix.Mount(folder, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show the mirror %s to apk: %w", folder, err)
	}
	return nil
}

// takeAlpineKernel moves the kernel and its initrd out of the tree.
func (c *chroot) takeAlpineKernel(out string) error {
	modules, err := c.glob("lib/modules/*")
	if err != nil {
		return err
	}
	if len(modules) != 1 {
		return fmt.Errorf("%s brought modules of %d kernels, want 1", alpineKernel, len(modules))
	}
	for from, to := range map[string]string{"vmlinuz-virt": KernelFile, "initramfs-virt": InitrdFile} {
		if err := c.moveOut("boot/"+from, filepath.Join(out, to)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(out, VersionFile), []byte(filepath.Base(modules[0])+"\n"), 0o644)
}
