package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// testKilledBuilds kills builds at random moments. Whatever was under way, the
// last good image stays, nothing is left mounted, and the next build works.
func testKilledBuilds(t *testing.T, root string) {
	before := lookAtHost(t)
	image := filepath.Join(root, "data/images", box+".qcow2")
	const hook = "mos_demo/rootfs/box/hooks/90-new"
	defer remove(t, root, hook)
	for i := range 8 {
		good := identity(t, image)
		write(t, root, hook, fmt.Sprintf("#!/bin/sh\necho %d >/opt/round\n", i), 0o755)
		cmd, _, _ := call{root: root, args: []string{"build", "mos_demo"}}.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		delay := time.Duration(rand.IntN(4000)) * time.Millisecond
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("build %d: %v", i, err)
			}
			continue // it was faster
		case <-time.After(delay):
		}
		_ = cmd.Process.Kill()
		<-done
		// The kernel ends the sandbox's processes on its own, in its own time.
		for range 50 {
			if len(lookAtHost(t).processes) == len(before.processes) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		wantHost(t, before)
		if now := identity(t, image); now != good {
			t.Logf("killed after %s, the new image was in place already", delay)
		}
		if r := meros(t, root, "build", "mos_demo", "--plan"); r.code != 0 {
			t.Errorf("after a kill at %s: %s", delay, r.err)
		}
	}
	mustRun(t, root, "build", "mos_demo")
	wantNothingHalfMade(t, root)
}

// testCache builds without a network from what was downloaded, and empties the
// store.
func testCache(t *testing.T, root string) {
	write(t, root, "mos_demo/rootfs/box/includes.chroot/etc/offline", "x", 0o644)
	defer remove(t, root, "mos_demo/rootfs/box/includes.chroot/etc/offline")
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
}
