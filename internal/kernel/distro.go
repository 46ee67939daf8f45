package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// Where distributions' source packages put the kernel: Debian and Ubuntu a
// tarball, openSUSE a folder.
const (
	sourceTarballs = "/usr/src/linux-source-*.tar.*"
	sourceNested   = "/usr/src/linux-source-*/linux-source-*.tar.*"
	sourceFolder   = "/usr/src/linux"
)

// distro gets the source that the host's distribution packages: an installed one,
// else by apt, which verifies what it downloads and installs nothing.
func (b Builder) distro(ctx context.Context) (Tree, error) {
	if file := installedTarball(); file != "" {
		return b.tarball(ctx, file, "", file)
	}
	if checkTree(sourceFolder) == nil {
		return folder(sourceFolder)
	}
	if !installed("apt-get") || !installed("dpkg-deb") {
		return Tree{}, hint.Add(errors.New("this host has no kernel source of its distribution"),
			"install its package (linux-source, kernel-source, …), or give --source a folder or a tarball")
	}
	return b.aptSource(ctx)
}

// hasDistroSource reports whether distro is likely to find one.
func hasDistroSource() bool {
	return installedTarball() != "" || checkTree(sourceFolder) == nil || installed("apt-get")
}

// installedTarball is the newest one by name.
func installedTarball() string {
	var newest string
	for _, pattern := range []string{sourceTarballs, sourceNested} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if newest == "" || versionLess(filepath.Base(newest), filepath.Base(f)) {
				newest = f
			}
		}
	}
	return newest
}

var digits = regexp.MustCompile(`[0-9]+`)

// versionLess compares the numbers in two names.
func versionLess(a, b string) bool {
	x, y := digits.FindAllString(a, -1), digits.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		if len(x[i]) != len(y[i]) {
			return len(x[i]) < len(y[i])
		}
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return len(x) < len(y)
}

// sourcePackage is what apt's last source came in.
type sourcePackage struct {
	Package string `json:"package"` // and its version
	Sum     string `json:"sha256"`  // of the source in it
}

func (b Builder) lastPackageFile() string { return b.dir("src", "apt.json") }

// lastPackage is zero where nothing of apt's was unpacked yet.
func (b Builder) lastPackage() (p sourcePackage) {
	content, err := os.ReadFile(b.lastPackageFile())
	if err != nil || json.Unmarshal(content, &p) != nil {
		return sourcePackage{}
	}
	return p
}

// aptSource gets the source that apt knows. What was unpacked of it before is
// taken; offline, what was unpacked last.
func (b Builder) aptSource(ctx context.Context) (Tree, error) {
	last := b.lastPackage()
	there, ok := b.unpacked(last.Package, last.Sum)
	if ok && b.Offline {
		return there, nil
	}
	name, err := b.askApt(ctx, sourceName, "depends", "--important", "linux-source")
	if err != nil {
		return Tree{}, err
	}
	version, err := b.askApt(ctx, sourceVersion, "show", "--no-all-versions", name)
	if err != nil {
		return Tree{}, err
	}
	now := name + " " + version
	if ok && last.Package == now {
		return there, nil
	}
	if err := b.mayFetch(now, "the package "); err != nil {
		return Tree{}, err
	}
	t, err := b.aptDownload(ctx, name, now)
	if err != nil {
		return t, err
	}
	content, err := json.Marshal(sourcePackage{now, t.sum()})
	return t, errors.Join(err, b.Paths.WriteFile(b.lastPackageFile(), content, 0o644))
}

var (
	sourceName    = regexp.MustCompile(`(?m)^\s*Depends: (linux-source-[0-9][0-9.]*)$`)
	sourceVersion = regexp.MustCompile(`(?m)^Version: (\S+)$`)
)

// askApt finds a word in what apt-cache says.
func (b Builder) askApt(ctx context.Context, form *regexp.Regexp, args ...string) (string, error) {
	var out strings.Builder
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: append([]string{"apt-cache"}, args...), Env: english(), Stdout: &out}); err != nil {
		return "", hint.Add(fmt.Errorf("ask apt for the kernel's source: %w", err), "apt-get update")
	}
	found := form.FindStringSubmatch(out.String())
	if found == nil {
		return "", hint.Add(errors.New("apt knows no package linux-source"), "apt-get update, or give --source a folder or a tarball")
	}
	return found[1], nil
}

// aptDownload gets the package of that name and unpacks its source.
func (b Builder) aptDownload(ctx context.Context, name, versioned string) (Tree, error) {
	if err := b.room(treeBytes, "unpack the kernel's source"); err != nil {
		return Tree{}, err
	}
	dir, err := b.emptyDir(b.dir("download", "apt"))
	if err != nil {
		return Tree{}, err
	}
	defer os.RemoveAll(dir)
	b.Step("downloading %s with apt", versioned)
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: []string{"apt-get", "-q", "download", name}, Dir: dir, Env: english(), Stdout: b.Tool()}); err != nil {
		return Tree{}, wordy(fmt.Errorf("download %s: %w", name, err))
	}
	packages, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	if len(packages) != 1 {
		return Tree{}, fmt.Errorf("apt brought %d packages for %s, want 1", len(packages), name)
	}
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: []string{"dpkg-deb", "--extract", packages[0], dir}, Env: english()}); err != nil {
		return Tree{}, wordy(fmt.Errorf("unpack %s: %w", filepath.Base(packages[0]), err))
	}
	tarballs, _ := filepath.Glob(filepath.Join(dir, sourceTarballs))
	if len(tarballs) != 1 {
		return Tree{}, fmt.Errorf("%s has %d source tarballs, want 1", filepath.Base(packages[0]), len(tarballs))
	}
	return b.tarball(ctx, tarballs[0], "", versioned)
}
