package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meros/internal/family"
	"meros/internal/layout"
	"meros/internal/proc"
	"meros/internal/rootfs"
)

// TestShippedPackages has the archive of each shipped Debian target's release resolve
// the packages that the target is built with. Tests build these families with shorter
// lists, in which a name that the archive does not have would never be seen.
func TestShippedPackages(t *testing.T) {
	if os.Getenv("MEROS_E2E") == "" {
		t.Skip("needs MEROS_E2E=1, as make test sets it")
	}
	paths := layout.Paths{Root: "../.."}
	names, err := family.List(paths)
	if err != nil || len(names) == 0 {
		t.Fatalf("the families that ship: %q, %v", names, err)
	}
	archives := archives{t.TempDir(), map[string]string{}}
	for _, name := range names {
		f, err := family.Load(paths, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range f.Targets {
			if target.Rootfs && target.Distro == "debian" {
				t.Run(target.FullID(), func(t *testing.T) { resolves(t, target, archives) })
			}
		}
	}
}

// archives are folders in which apt knows an archive and no package is installed.
type archives struct {
	dir       string
	bySources map[string]string
}

func resolves(t *testing.T, target *family.Target, known archives) {
	stages, err := rootfs.Plan(t.Context(), proc.Host{}, target, rootfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	base, install := stages[0].Args("").(rootfs.Bootstrap), stages[1].Args("").(rootfs.Install)
	if len(base.Sources) == 0 {
		t.Skip("this host's apt names no mirror of Debian")
	}
	sources := strings.Join(base.Sources, "\n") + "\n"
	dir := known.bySources[sources]
	if dir == "" {
		dir = filepath.Join(known.dir, fmt.Sprint(len(known.bySources)))
		lists(t, dir, sources, base.Arch)
		known.bySources[sources] = dir
	}
	packages := install.Packages
	for _, kernel := range []string{install.Kernel, install.Unpack.Package} {
		if kernel != "" {
			packages = append(packages, kernel, "initramfs-tools")
		}
	}
	out, err := apt(t, dir, append([]string{"-s", "--no-install-recommends", "install", "--"}, packages...)...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", packages, err, out)
	}
	for _, name := range packages {
		if !strings.Contains(out, "\nInst "+name+" ") {
			t.Errorf("%s would not be installed", name)
		}
	}
}

// lists fetches the lists of an archive into a folder.
func lists(t *testing.T, dir, sources, arch string) {
	for _, name := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"sources.list": sources, "status": "",
		"apt.conf": fmt.Sprintf(`Dir::Etc::sourcelist %q; Dir::Etc::sourceparts "-"; Dir::State::lists %q; Dir::State::status %q; Dir::Cache %q;
APT::Architecture %q; Acquire::Languages "none"; APT::Update::Error-Mode "any"; Dir::Log "/dev/null";
`, filepath.Join(dir, "sources.list"), filepath.Join(dir, "lists"), filepath.Join(dir, "status"), filepath.Join(dir, "cache"), arch),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := apt(t, dir, "update"); err != nil {
		t.Skipf("no mirror: apt-get update: %v\n%s", err, out)
	}
}

func apt(t *testing.T, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "apt-get", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
