//go:build kernel

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"meros/internal/virt"
)

// way is one way to boot: an image with a kernel, and a change of the libvirt
// document.
type way struct {
	kind   string   // the kernel and what is first in its guest
	factor string   // the one thing that differs from the kind; "": nothing does
	kernel string   // source or distro
	image  string   // what is built, one of images
	edits  []string // "old=>new", in box.xml
	accel  string   // of init; "": the one that this host's guests get
}

func (w way) name() string {
	if w.factor == "" {
		return w.kind
	}
	return w.kind + ", " + w.factor
}

// kinds are held against each other; the first is what all are held against. All
// boot the same root file system.
var kinds = []way{
	{kind: "distribution's kernel and initrd, default units", kernel: "distro", edits: []string{defaultUnits}},
	{kind: "meros's kernel, default units", kernel: "source", edits: []string{defaultUnits}},
	{kind: "meros's kernel, early-init", kernel: "source"},
}

// defaultUnits boots mos_demo's image as if early-init were not in it.
const defaultUnits = "rw console=>rw init=/sbin/init.distrib console"

// factors are tried on each of kinds, one at a time.
var factors = []way{
	{},
	{factor: "accelerator KVM", accel: string(virt.AccelKVM)},
	{factor: "accelerator TCG", accel: string(virt.AccelTCG)},
	{factor: "CPU qemu64", edits: []string{`<cpu mode="maximum" />=><cpu mode="custom"><model>qemu64</model></cpu>`}},
	{factor: "machine pc", edits: []string{`machine="q35"=>machine="pc"`}},
	{factor: "1 processor", edits: []string{"<vcpu>2</vcpu>=><vcpu>1</vcpu>"}},
	{factor: "no unit masked", image: unmasked},
	{factor: "12 more units masked", edits: []string{cmdline("systemd.mask=" + strings.Join(harmless, " systemd.mask="))}},
	{factor: "console quiet", edits: []string{"loglevel=6<=>quiet<"}},
	{factor: "console on the screen", edits: []string{"console=ttyS0=>console=tty0"}},
	{factor: "mitigations=off", edits: []string{cmdline("mitigations=off")}},
	{factor: "init_on_alloc=0", edits: []string{cmdline("init_on_alloc=0")}},
}

// cmdline adds words to the kernel's command line.
func cmdline(words string) string { return "loglevel=6<=>loglevel=6 " + words + "<" }

// harmless are units that a guest such as mos_demo's can do without.
var harmless = []string{
	"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
	"sys-fs-fuse-connections.mount", "kmod-static-nodes.service", "systemd-random-seed.service", "systemd-update-utmp.service",
	"systemd-pstore.service", "systemd-journal-flush.service", "systemd-tmpfiles-clean.timer",
}

// unmasked is the image without the hook of mos_demo that masks units.
const unmasked = "unmasked"

// images are what is built: changes of the recipe, by name.
var images = map[string][]string{
	"":       nil,
	unmasked: {"\nsystemctl mask =>\n: systemctl mask "},
}

// allWays are those that only, a regular expression on their names, matches.
func allWays(only string) []way {
	var ways []way
	for _, kind := range kinds {
		for _, w := range factors {
			w.kind, w.kernel, w.edits = kind.kind, kind.kernel, slices.Concat(kind.edits, w.edits)
			ways = append(ways, w)
		}
	}
	wanted := regexp.MustCompile(only)
	return slices.DeleteFunc(ways, func(w way) bool { return !wanted.MatchString(w.name()) })
}

// usable leaves out the accelerator that guests get anyway, and tells why the other,
// where it is KVM, cannot be used.
func usable(t *testing.T, ways []way) (left []way, noKVM error) {
	t.Helper()
	noKVM = virt.KVMWorks(t.Context())
	usual := virt.AccelKVM
	if noKVM != nil {
		usual = virt.AccelTCG
	}
	return slices.DeleteFunc(ways, func(w way) bool { return w.accel == string(usual) }), noKVM
}

// edited makes a way's edits and returns what undoes them.
func edited(t *testing.T, root, name string, edits []string) (undo func()) {
	t.Helper()
	path := filepath.Join(root, "conf/target", name)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range edits {
		old, now, _ := strings.Cut(edit, "=>")
		replaceIn(t, root, name, old, now)
	}
	return func() {
		if err := os.WriteFile(path, before, 0o644); err != nil {
			t.Error(err)
		}
	}
}

// TestWays finds an edit that box.xml, as it is shipped, has no place for.
func TestWays(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "conf"), os.DirFS("../../conf")); err != nil {
		t.Fatal(err)
	}
	const document, hook = "mos_demo/libvirt/box.xml", "mos_demo/rootfs/common/hooks/10-trim.sh"
	seen := map[string]bool{}
	for _, w := range allWays("") {
		undo := edited(t, root, document, w.edits)
		content, err := os.ReadFile(filepath.Join(root, "conf/target", document))
		if err != nil || seen[string(content)+w.kernel+w.image+w.accel] {
			t.Errorf("%s boots as another way does, %v", w.name(), err)
		}
		seen[string(content)+w.kernel+w.image+w.accel] = true
		undo()
	}
	for _, edits := range images {
		edited(t, root, hook, edits)()
	}
}
