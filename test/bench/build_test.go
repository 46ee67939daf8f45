package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meros/internal/image"
	"meros/internal/proc"
)

// rounds is how often each way is measured; medians are told.
const rounds = 3

// packages are mos_demo's, as one list for a bare bootstrap tool.
const packages = "usr-is-merged,systemd-sysv,udev,dbus,iproute2,openssh-server,less,linux-image-cloud-amd64,initramfs-tools"

func BenchmarkBuild(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	for b.Loop() {
		times := map[string][]time.Duration{}
		for range rounds {
			round(b, times)
		}
		tell(b, times)
	}
}

// round measures every way once, one after the other.
func round(b *testing.B, times map[string][]time.Duration) {
	b.Helper()
	dir, err := os.MkdirTemp("", "meros-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	took := func(name string, f func() error) {
		started := time.Now()
		if err := f(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		times[name] = append(times[name], time.Since(started))
	}
	tree := filepath.Join(dir, "tree")
	took("bare mmdebstrap", func() error {
		return run(dir, "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include="+packages, "bookworm", tree)
	})
	// The first copy reads the tree into memory, as building it just had.
	if err := run(dir, "cp", "-a", tree, tree+"-warm"); err != nil {
		b.Fatal(err)
	}
	took("cp -a", func() error { return run(dir, "cp", "-a", tree, tree+"-copy") })
	took("pack", func() error {
		o := image.Options{Name: "bench", FreeMB: 200, UUIDs: image.UUIDsOf("bench"), Epoch: 1}
		return image.Pack(b.Context(), proc.Host{}, tree, filepath.Join(dir, "x.qcow2"), o)
	})
	if err := os.CopyFS(filepath.Join(dir, "conf"), os.DirFS("../../conf")); err != nil {
		b.Fatal(err)
	}
	binary, err := filepath.Abs("../../bin/meros")
	if err != nil {
		b.Fatal(err)
	}
	build := func() error { return run(dir, binary, "--root", dir, "build", "mos_demo") }
	took("cold", build)
	took("nothing changed", build)
	motd := filepath.Join(dir, "conf/target/mos_demo/rootfs/common/includes.chroot/etc/motd")
	if err := os.WriteFile(motd, []byte("changed\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	took("one file changed", build)
	took("--help", func() error { return run(dir, binary, "--help") })
}

func run(dir string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// tell reports medians in seconds, and the ratios that are promised.
func tell(b *testing.B, times map[string][]time.Duration) {
	b.Helper()
	median := map[string]float64{}
	for name, all := range times {
		slices.Sort(all)
		median[name] = all[len(all)/2].Seconds()
		b.ReportMetric(median[name], strings.ReplaceAll(name, " ", "-")+"-s")
	}
	for name, ratio := range map[string]float64{
		"cold/(mmdebstrap+pack)": median["cold"] / (median["bare mmdebstrap"] + median["pack"]),
		"pack/cp":                median["pack"] / median["cp -a"],
		"one-file/cold":          median["one file changed"] / median["cold"],
	} {
		b.ReportMetric(ratio, name)
	}
}
