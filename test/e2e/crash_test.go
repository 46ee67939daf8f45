package e2e

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// killRounds is how often testKilledBuilds kills a build.
const killRounds = 30

// testKilledBuilds kills builds at random moments, every fifth one from nothing and
// with a power cut. Whatever was under way, the last good image stays, nothing is left
// mounted, and the next build works.
func testKilledBuilds(t *testing.T, root string) {
	before := lookAtHost(t)
	image := filepath.Join(root, "data/images", box+".qcow2")
	const hook = "mos_demo/rootfs/box/hooks/90-new"
	defer remove(t, root, hook)
	for i := range killRounds {
		good := identity(t, image)
		write(t, root, hook, fmt.Sprintf("#!/bin/sh\necho %d >/opt/round\n", i), 0o755)
		args, within := []string{"build", "mos_demo"}, 4*time.Second
		fromNothing := i%5 == 0
		if fromNothing {
			args, within = append(args, "--no-cache"), 24*time.Second
		}
		delay := rand.N(within)
		killAfter(t, call{root: root, args: args}, delay)
		// The kernel ends the sandbox's processes on its own, in its own time.
		for range 50 {
			if len(lookAtHost(t).processes) == len(before.processes) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		wantHost(t, before)
		if fromNothing {
			cutPower(t, root)
		}
		if now := identity(t, image); now != good || fromNothing {
			t.Logf("%v killed after %s; a new image was in place already: %v", args, delay, now != good)
			checkImage(t, image)
		}
		if fromNothing {
			mustRun(t, root, "build", "mos_demo")
			checkImage(t, image)
		} else if r := meros(t, root, "build", "mos_demo", "--plan"); r.code != 0 {
			t.Errorf("after a kill at %s: %s", delay, r.err)
		}
	}
	mustRun(t, root, "build", "mos_demo")
	checkImage(t, image)
	wantNothingHalfMade(t, root)
}

// killAfter kills a call of meros after a time, unless it is done by then.
func killAfter(t *testing.T, c call, delay time.Duration) {
	t.Helper()
	cmd, _, errs := c.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%v: %v: %s", c.args, err, errs)
		}
	case <-time.After(delay):
		_ = cmd.Process.Kill()
		<-done
	}
}

// cutPower does to the store what a power cut may: layers that were never known to
// be on the disk are torn, and the next boot is another.
func cutPower(t *testing.T, root string) {
	t.Helper()
	for _, mark := range names(t, filepath.Join(root, "data/build/cache/layers/*/unsettled")) {
		torn := 0
		err := filepath.WalkDir(filepath.Join(filepath.Dir(mark), "fs"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && torn < 1000 {
				torn++
				return os.Truncate(path, 0)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(mark, []byte("another boot"), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("tore %d files of a layer", torn)
	}
}

// checkImage fails if an image is damaged.
func checkImage(t *testing.T, image string) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	for _, argv := range [][]string{
		{"qemu-img", "check", "-q", image},
		{"qemu-img", "convert", "-O", "raw", image, raw},
		{"e2fsck", "-fn", raw + "?offset=1048576"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", argv, err, out)
		}
	}
	if err := os.Remove(raw); err != nil {
		t.Fatal(err)
	}
}

// testCache builds without a network from what was downloaded, and empties the
// store.
func testCache(t *testing.T, root string) {
	const file = "mos_demo/rootfs/box/includes.chroot/etc/offline"
	write(t, root, file, "x", 0o644)
	r := mustRun(t, root, "build", "mos_demo", "--plan", "--no-cache")
	if want := "mos_demo-box  bootstrap  again: refreshed changed"; !contains(r.out, want) {
		t.Errorf("--plan --no-cache says\n%swant %q", r.out, want)
	}
	r = mustRun(t, root, "build", "mos_demo", "--plan")
	for _, want := range []string{"mos_demo-box  packages   kept", "mos_demo-box  files      again: includes changed: +etc/offline"} {
		if !contains(r.out, want) {
			t.Errorf("--plan says\n%swant %q", r.out, want)
		}
	}
	// Nothing of the stages is left, so all packages have to come from the downloads.
	for _, dir := range names(t, filepath.Join(root, "data/build/cache/layers*")) {
		removeAll(t, dir)
	}
	mustRun(t, root, "build", "mos_demo", "--offline")
	if r := mustRun(t, root, "cache"); !contains(r.out, "4 stage results") {
		t.Errorf("cache says %q, want 4 results", r.out)
	}
	if r := mustRun(t, root, "cache", "prune"); !contains(r.out, "removed 0 ") {
		t.Errorf("cache prune says %q, want nothing removed that is needed", r.out)
	}
	wantNoSecrets(t, root)
	image := filepath.Join(root, "data/images/mos_demo-box.qcow2")
	for _, there := range []bool{true, false} {
		if got := inImage(t, image, "stat /etc/offline"); contains(got, "Inode:") != there {
			t.Errorf("that the image has a file of the recipe is not %v: %s", there, got)
		}
		if there {
			remove(t, root, file)
			mustRun(t, root, "build", "mos_demo")
		}
	}
	if r := mustRun(t, root, "build", "mos_demo", "--refresh"); !contains(r.err, "bootstrapping debian") || !contains(r.err, "installing ") {
		t.Errorf("build --refresh says\n%s", r.err)
	}
	if r := mustRun(t, root, "build", "mos_demo", "--plan"); contains(r.out, "again") {
		t.Errorf("--plan after a refresh says\n%s", r.out)
	}
}

// wantNoSecrets checks that nothing in the cache is one target's own: neither its
// keys nor its machine-id.
func wantNoSecrets(t *testing.T, root string) {
	t.Helper()
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "home/*/.ssh/authorized_keys", "root/.ssh/authorized_keys"} {
		for _, file := range names(t, filepath.Join(root, "data/build/cache/layers*/*/fs", pattern)) {
			if info, err := os.Lstat(file); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				t.Errorf("%s is in the cache", file)
			}
		}
	}
}
