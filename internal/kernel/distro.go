package kernel

import (
	"context"
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

var sourcePackage = regexp.MustCompile(`(?m)^\s*Depends: (linux-source-[0-9][0-9.]*)$`)

func (b Builder) aptSource(ctx context.Context) (Tree, error) {
	if err := b.mayFetch("linux-source", "the package "); err != nil {
		return Tree{}, err
	}
	var out strings.Builder
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: []string{"apt-cache", "depends", "--important", "linux-source"}, Env: english(), Stdout: &out}); err != nil {
		return Tree{}, hint.Add(fmt.Errorf("ask apt for the kernel's source: %w", err), "apt-get update")
	}
	found := sourcePackage.FindStringSubmatch(out.String())
	if found == nil {
		return Tree{}, hint.Add(errors.New("apt knows no package linux-source"), "apt-get update, or give --source a folder or a tarball")
	}
	dir, err := b.emptyDir(b.dir("download", "apt"))
	if err != nil {
		return Tree{}, err
	}
	defer os.RemoveAll(dir)
	b.Step("downloading %s with apt", found[1])
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: []string{"apt-get", "-q", "download", found[1]}, Dir: dir, Env: english(), Stdout: b.Tool()}); err != nil {
		return Tree{}, wordy(fmt.Errorf("download %s: %w", found[1], err))
	}
	packages, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	if len(packages) != 1 {
		return Tree{}, fmt.Errorf("apt brought %d packages for %s, want 1", len(packages), found[1])
	}
	if err := b.Runner.Run(ctx, proc.Cmd{Argv: []string{"dpkg-deb", "--extract", packages[0], dir}, Env: english()}); err != nil {
		return Tree{}, wordy(fmt.Errorf("unpack %s: %w", filepath.Base(packages[0]), err))
	}
	tarballs, _ := filepath.Glob(filepath.Join(dir, sourceTarballs))
	if len(tarballs) != 1 {
		return Tree{}, fmt.Errorf("%s has %d source tarballs, want 1", filepath.Base(packages[0]), len(tarballs))
	}
	return b.tarball(ctx, tarballs[0], "", filepath.Base(packages[0]))
}
