package bench

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"meros/internal/image"
	"meros/internal/proc"
)

// packages are mos_demo's, as a list for tools that have no recipes.
var packages = []string{
	"usr-is-merged", "systemd-sysv", "udev", "dbus", "iproute2", "openssh-server", "less",
	"linux-image-cloud-amd64", "initramfs-tools",
}

const release = "bookworm"

// bench is one round: a folder of its own, and what its ways share.
type bench struct {
	dir    string // for this round only
	binary string // meros
	mirror string // the host's, as its own apt is set
}

// way is one way to get something done. What a peer cannot do on this host is
// told and not held against the run.
type way struct {
	name string
	peer bool
	cost func(bench) (cost, error)
}

// ways are measured in this order; some build on what those before left.
var ways = []way{
	{"mmdebstrap, directory", false, bareMmdebstrap},
	{"cp -a of it", false, copyTree},
	{"meros packs it", false, pack},
	{"mke2fs -d of it, qemu-img convert", false, packByConverting},
	{"loop device, cp -a of it, qemu-img convert", true, packByMounting},
	{"virt-make-fs of it", true, packByAppliance},
	{"meros, cold", false, merosCold},
	{"meros, nothing changed", false, merosAgain},
	{"meros, one file changed", false, merosFile},
	{"meros, all but downloads", false, merosNoCache},
	{"meros, three targets, cold", false, merosThree},
	{"mkosi", true, mkosi},
	{"debootstrap + libguestfs", true, guestfs},
	{"vmdb2", true, vmdb2},
	{"debos", true, debos},
}

func (x bench) path(elem ...string) string { return filepath.Join(append([]string{x.dir}, elem...)...) }

func bareMmdebstrap(x bench) (cost, error) {
	return measured(x.dir, "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
		"--include="+strings.Join(packages, ","), release, x.path("tree"))
}

// copyTree copies twice: the first copy reads the tree into memory, where a
// build that has just made it finds it.
func copyTree(x bench) (cost, error) {
	if _, err := run(x.dir, "cp", "-a", x.path("tree"), x.path("warm")); err != nil {
		return cost{}, err
	}
	return measured(x.dir, "cp", "-a", x.path("tree"), x.path("copy"))
}

// pack has no command of its own and so is called, not run: only its time is told.
func pack(x bench) (cost, error) {
	started := time.Now()
	o := image.Options{Name: "bench", FreeMB: 200, UUIDs: image.UUIDsOf("bench"), Epoch: 1}
	err := image.Pack(ctx, proc.Host{}, x.path("tree"), x.path("tree.qcow2"), o)
	return cost{wall: time.Since(started)}, err
}

// packByConverting is how a file system becomes a qcow2 image without knowing the
// format: by a raw image that is read and written once more.
func packByConverting(x bench) (cost, error) {
	raw := x.path("converted.raw")
	return inTurn(x.dir, [][]string{
		{"truncate", "--size=1G", raw},
		{"mke2fs", "-q", "-t", "ext4", "-d", x.path("tree"), raw},
		{"qemu-img", "convert", "-O", "qcow2", raw, x.path("converted.qcow2")},
	})
}

// packByMounting is the way of tools that fill a disk as a running system would.
func packByMounting(x bench) (cost, error) {
	raw, at := x.path("mounted.raw"), x.path("mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		return cost{}, err
	}
	filled, err := inTurn(x.dir, [][]string{
		{"truncate", "--size=1G", raw},
		{"mke2fs", "-q", "-t", "ext4", raw},
		{"mount", "-o", "loop", raw, at},
	})
	if err != nil {
		return cost{}, err
	}
	copied, err := measured(x.dir, "cp", "-a", x.path("tree")+"/.", at)
	unmounted, err2 := measured(x.dir, "umount", at)
	if err := errors.Join(err, err2); err != nil {
		return cost{}, err
	}
	converted, err := measured(x.dir, "qemu-img", "convert", "-O", "qcow2", raw, x.path("mounted.qcow2"))
	return filled.and(copied).and(unmounted).and(converted), err
}

func packByAppliance(x bench) (cost, error) {
	return x.virtMakeFS(x.path("tree"), x.path("appliance.qcow2"))
}

func merosCold(x bench) (cost, error) {
	if err := os.CopyFS(x.path("one", "conf"), os.DirFS("../../conf")); err != nil {
		return cost{}, err
	}
	return merosAgain(x)
}

func merosAgain(x bench) (cost, error) {
	return measured(x.dir, x.binary, "--root", x.path("one"), "build", "mos_demo", "box")
}

func merosFile(x bench) (cost, error) {
	motd := x.path("one/conf/target/mos_demo/rootfs/common/includes.chroot/etc/motd")
	if err := os.WriteFile(motd, []byte("changed\n"), 0o644); err != nil {
		return cost{}, err
	}
	return merosAgain(x)
}

func merosNoCache(x bench) (cost, error) {
	return measured(x.dir, x.binary, "--root", x.path("one"), "build", "--no-cache", "mos_demo", "box")
}

// merosThree builds mos_demo's target and two more, each with a package that
// the others lack: only the bootstrap is the same for all.
func merosThree(x bench) (cost, error) {
	if err := os.CopyFS(x.path("three", "conf"), os.DirFS("../../conf")); err != nil {
		return cost{}, err
	}
	for name, extra := range map[string]string{"second": "nano", "third": "file"} {
		if err := copyTarget(x.path("three/conf/target/mos_demo"), name, extra); err != nil {
			return cost{}, err
		}
	}
	return measured(x.dir, x.binary, "--root", x.path("three"), "build", "mos_demo", "box", "second", "third")
}

// copyTarget gives the family another target, like box but for its name, its
// address and one package more.
func copyTarget(family, name, extra string) error {
	changes := strings.NewReplacer(`id="box"`, fmt.Sprintf("id=%q", name), `hostname="box"`, fmt.Sprintf("hostname=%q", name),
		"10.60.7.2", fmt.Sprintf("10.60.7.%d", 10+len(name)), "<packages>", "<packages>"+extra+" ")
	for _, folder := range []string{"build", "libvirt"} {
		data, err := os.ReadFile(filepath.Join(family, folder, "box.xml"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(family, folder, name+".xml"), []byte(changes.Replace(string(data))), 0o644); err != nil {
			return err
		}
	}
	return os.CopyFS(filepath.Join(family, "rootfs", name), os.DirFS(filepath.Join(family, "rootfs", "box")))
}

func mkosi(x bench) (cost, error) {
	return measured(x.dir, "mkosi", "--force", "--distribution=debian", "--release="+release, "--mirror="+x.mirror,
		"--nspawn-keep-unit=yes", // nspawn else asks systemd for a scope, also where none runs
		"--format=gpt_ext4", "--output="+x.path("mkosi.raw"), "--package="+strings.Join(packages, ","), "build")
}

func guestfs(x bench) (cost, error) {
	tree := x.path("debootstrap")
	first, err := measured(x.dir, "debootstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), release, tree, x.mirror)
	if err != nil {
		return cost{}, err
	}
	second, err := x.virtMakeFS(tree, x.path("guestfs.qcow2"))
	return first.and(second), err
}

// virtMakeFS boots its appliance with the kernel of the tree that mmdebstrap made:
// the host's own may not be readable, or not be there.
func (x bench) virtMakeFS(tree, out string) (cost, error) {
	kernels, err := filepath.Glob(x.path("tree/boot/vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		return cost{}, fmt.Errorf("no kernel in %s: %w", x.path("tree"), err)
	}
	// supermin lists the host's modules, whichever it is told to take.
	if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
		return cost{}, err
	}
	modules := x.path("tree/lib/modules", strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"))
	env := []string{
		"env", "SUPERMIN_KERNEL=" + kernels[0], "SUPERMIN_MODULES=" + modules,
		"LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg", "LIBGUESTFS_CACHEDIR=" + x.dir, "TMPDIR=" + x.dir,
	}
	return measured(x.dir, append(env, "virt-make-fs", "--type=ext4", "--partition=gpt", "--format=qcow2", "--size=+200M", tree, out)...)
}

//go:embed testdata/vmdb2.yaml
var vmdb2Recipe string

//go:embed testdata/debos.yaml
var debosRecipe string

func vmdb2(x bench) (cost, error) {
	if err := x.recipe("vmdb2.yaml", vmdb2Recipe); err != nil {
		return cost{}, err
	}
	return measured(x.dir, "vmdb2", "--output="+x.path("vmdb2.raw"), x.path("vmdb2.yaml"))
}

func debos(x bench) (cost, error) {
	if err := x.recipe("debos.yaml", debosRecipe); err != nil {
		return cost{}, err
	}
	return measured(x.dir, "debos", "--disable-fakemachine", "--artifactdir="+x.dir, x.path("debos.yaml"))
}

// recipe writes another tool's recipe, with this round's mirror and packages.
func (x bench) recipe(name, text string) error {
	var out bytes.Buffer
	values := struct {
		Mirror, Release string
		Packages        []string
	}{x.mirror, release, packages}
	if err := template.Must(template.New(name).Parse(text)).Execute(&out, values); err != nil {
		return err
	}
	return os.WriteFile(x.path(name), out.Bytes(), 0o644)
}

// hostMirror is where the host's own apt takes the release's main archive from.
func hostMirror() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: "+release, "Created-By: Packages").Output()
	first, _, _ := strings.Cut(string(out), "\n")
	if err == nil && first == "" {
		err = fmt.Errorf("no mirror of %s in the host's apt sources", release)
	}
	return strings.TrimSuffix(first, "/"), err
}
